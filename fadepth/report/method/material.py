"""What the figures show: frames of the rendered street, and networks to run on them.

Trained weights are no part of the repository. Where no run is named, both networks are fitted for
a few seconds to the rendered depth of other frames of the same drive, so that their maps mean
something; that is no training of the method, and every figure says so.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fadepth.data import synthetic
from fadepth.errors import FadepthError
from fadepth.geometry import MAX_DEPTH, MIN_DEPTH, disparity_to_inverse_depth
from fadepth.losses.photometric import Views, upsample
from fadepth.models.hqdec import HQDecV2
from fadepth.models.smalldepth import SmallDepth
from fadepth.training import load_depth_network

SEED = 1
FULL, HALF, QUARTER = (192, 640), (96, 320), (48, 160)
STREET, DRIVE, FRAMES = 0, 6007, 8
SHOWN, SOURCES = 3, (2, 4)
FITTED = (0, 1, 2, 5, 6, 7)  # frames whose depth the networks see; never the one that is shown
STUDENT_SIZES = [HALF] * 50 + [FULL, HALF, QUARTER] * 5
TEACHER_SIZES = [(64, 208)] * 60 + [HALF] * 30
STUDENT_RATE, TEACHER_RATE = 0.01, 0.02  # [derived] whatever gets there in a few steps
TEACHER_WIDTH, TEACHER_DEPTH = 0.25, 0.1


class Rendered(NamedTuple):
    """One frame: image (1, 3, H, W) in [0, 1], log inverse depth (1, 1, H, W), camera to world."""

    image: Tensor
    log_inverse_depth: Tensor
    pose: Tensor

    @property
    def depth(self) -> Tensor:
        """(1, 1, H, W), metres."""
        return torch.exp(-self.log_inverse_depth)


@cache
def _scene() -> synthetic.Scene:
    return synthetic.make_scene(STREET, DRIVE, FRAMES)


@cache
def rendered(frame: int, size: tuple[int, int]) -> Rendered:
    """A frame of the drive at `size` (H, W); the sky is 100 m away."""
    image, depth, _ = synthetic.render_frame(_scene(), frame, *size)
    known = torch.from_numpy(np.clip(depth, MIN_DEPTH, MAX_DEPTH)).float()[None, None]
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = torch.from_numpy(np.asarray(_scene().poses[frame]))
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()[None] / 255
    return Rendered(pixels, -torch.log(known), pose)


def street_views(size: tuple[int, int]) -> Views:
    """The shown frame and its two neighbours, with the true motion between them."""
    target, *sources = (rendered(frame, size) for frame in (SHOWN, *SOURCES))
    poses = [(torch.linalg.inv(s.pose) @ target.pose).float()[None] for s in sources]
    intrinsics = torch.from_numpy(synthetic.intrinsics(*size)).float()[None]
    return Views(target.image, [s.image for s in sources], intrinsics, poses)


def picture_of(image: Tensor) -> NDArray[np.float64]:
    """(1, 3, H, W) in [0, 1] as (H, W, 3)."""
    return np.asarray(image[0].detach().permute(1, 2, 0).double().numpy())


def plane(values: Tensor) -> NDArray[np.float64]:
    """(1, 1, H, W) as (H, W)."""
    return np.asarray(values[0, 0].detach().double().numpy())


def log_inverse(disparity: Tensor) -> Tensor:
    """Log inverse depth of a network's disparity."""
    return torch.log(disparity_to_inverse_depth(disparity))


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode, and how it came to its weights."""

    module: nn.Module
    label: str

    @torch.no_grad()
    def disparity(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) to (1, 1, H, W) in (0, 1)."""
        result: Tensor = self.module(image)
        return result


@dataclass(frozen=True)
class Material:
    """The networks that the figures run.

    Attributes:
        student: a SmallDepth.
        teacher: an HQDecV2 that takes images of any size.
        unfolded: a SmallDepth whose ETM has the branches of `ac` in activation space.
    """

    student: Network
    teacher: Network
    unfolded: Network


def _fit(network: nn.Module, sizes: Sequence[tuple[int, int]], rate: float) -> None:
    """Fit to rendered depth, one step for each of `sizes`: a frame, and another one mirrored."""
    optimizer = torch.optim.Adam(network.parameters(), rate, betas=(0.9, 0.98))
    network.train()
    for step, size in enumerate(sizes):
        one, other = (rendered(FITTED[(step + k) % len(FITTED)], size) for k in (0, 3))
        images = torch.cat([one.image, other.image.flip(-1)])
        truth = torch.cat([one.log_inverse_depth, other.log_inverse_depth.flip(-1)])
        warm, cosine = min(1, (step + 1) / 5), 0.5 * (1 + math.cos(math.pi * step / len(sizes)))
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * cosine
        loss = truth.new_zeros(())
        for disparity in network(images):
            error = log_inverse(upsample(disparity, truth)) - truth
            slopes = (error.diff(dim=axis).abs().mean() for axis in (2, 3))
            loss = loss + error.abs().mean() + 2 * sum(slopes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _own(kind: type[nn.Module], fit: bool) -> Network:
    """A network of our own making, from seed 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        teacher = kind is HQDecV2
        module = HQDecV2(TEACHER_WIDTH, TEACHER_DEPTH) if teacher else SmallDepth("ac")
        if not fit:
            return Network(module.eval(), f"untrained weights, seed {SEED}")
        sizes, rate = (TEACHER_SIZES, TEACHER_RATE) if teacher else (STUDENT_SIZES, STUDENT_RATE)
        _fit(module, sizes, rate)
    label = f"{len(sizes)} steps on rendered depth of other frames, seed {SEED}; not a result"
    return Network(module.eval(), label)


def _of_runs(runs: Path, names: Sequence[str]) -> Iterator[Network]:
    for name in names:
        module, config = load_depth_network(runs / name / "model.pt")
        if isinstance(module, HQDecV2) and module.forms.bound:
            raise FadepthError(
                f"run {name} has {module.forms.bound}, which the figures do not show: name a "
                "teacher with all three switches on"
            )
        yield Network(module, f"run {name}, {config.data.name}")


def prepare(runs: Path, names: Sequence[str] = (), *, fit: bool = True) -> Material:
    """The networks: those of the named runs in `runs`, and our own for what no run gives.

    Args:
        runs: folder of finished runs.
        names: ids of a student's and of a teacher's run, at most one of each.
        fit: whether our own are fitted; without it they keep the weights they start with.

    Raises:
        FadepthError: a run is absent or damaged, two runs are of one kind, or a teacher's form is
            bound to one size of images.
    """
    named: dict[type[nn.Module], Network] = {}
    for network in _of_runs(runs, names):
        kind = type(network.module)
        if kind in named:
            raise FadepthError(
                f"runs {', '.join(names)} hold two networks of the kind {kind.__name__}: name one"
            )
        named[kind] = network
    student = named.get(SmallDepth)
    has_branches = (
        student is not None
        and isinstance(student.module, SmallDepth)
        and (student.module.etm, student.module.etm_space) == ("ac", "activation")
    )
    unfolded = student if student and has_branches else _own(SmallDepth, fit)
    teacher = named.get(HQDecV2) or _own(HQDecV2, fit)
    return Material(student or unfolded, teacher, unfolded)
