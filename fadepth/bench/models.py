"""Which networks a benchmark times: ours, the yardstick, trained runs, and anybody's module."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fadepth.data.synthetic import make_scene, render_frame
from fadepth.errors import FadepthError, one_line
from fadepth.models import HQDecV2, SmallDepth, fold
from fadepth.models.monodepth2 import Monodepth2
from fadepth.models.smalldepth import DESIGNS
from fadepth.own_code import import_factory, split_import_path
from fadepth.training import load_depth_network

MODELS = ("smalldepth", "smalldepth-folded", "hqdecv2", "monodepth2")
"""Names of what is here: SmallDepth as it is trained, its form for inference, teacher, yardstick.

The first two take a sparsity: `smalldepth-folded:dense`.
"""

YARDSTICK = "monodepth2"
"""What latencies are ratios of: a ResNet-18 U-Net, as every neighbour has one in its tables."""


IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Candidate:
    """A network to be timed.

    Attributes:
        name: in tables.
        network: in evaluation mode, on the CPU, float32.
        export: whether to time it on what needs an exported file, too.
    """

    name: str
    network: nn.Module
    export: bool = True


class FirstOutput(nn.Module):
    """A network whose output is one tensor: the finest of several, or the first of a dictionary."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        found = self.network(image)
        while not isinstance(found, Tensor):
            found = next(iter(found.values() if isinstance(found, Mapping) else found))
        return found


def own_network(spec: str) -> Candidate:
    """A network of this package with random weights, by a name of `MODELS`.

    Raises:
        FadepthError: there is no such network, or no such sparsity.
    """
    name, _, sparsity = spec.partition(":")
    if name not in MODELS or (sparsity and not name.startswith("smalldepth")):
        raise FadepthError(
            f"--models names '{spec}': use {', '.join(MODELS)}, the first two also with a sparsity "
            f"({', '.join(DESIGNS)}) as in smalldepth-folded:dense"
        )
    torch.manual_seed(0)
    if name == "hqdecv2":
        return Candidate(spec, HQDecV2().eval())
    if name == "monodepth2":
        return Candidate(spec, Monodepth2().eval())
    network = SmallDepth(sparsity=sparsity or "group32").eval()
    return Candidate(spec, fold(network) if name == "smalldepth-folded" else network)


def street_frames(count: int, height: int, width: int) -> Tensor:
    """Frames (count, 3, H, W) in [0, 1] of a drive through the synthetic street."""
    scene = make_scene(seed=0, drive=0, frames=count + 1)  # two at least
    frames = [render_frame(scene, number, height, width)[0] for number in range(count)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous().float() / 255


def images_of(folder: Path, count: int, height: int, width: int) -> Tensor:
    """The first images of a folder, resized to (count, 3, H, W) in [0, 1]; few are repeated.

    Raises:
        FadepthError: there is none, or one cannot be read.
    """
    files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in IMAGES]
    if not files:
        raise FadepthError(f"--images: {folder} holds no {', '.join(IMAGES)} file")
    frames = []
    for number in range(count):
        file = files[number % len(files)]
        try:
            with Image.open(file) as image:
                small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        except OSError as error:
            raise FadepthError(f"--images: {file} cannot be read: {error}") from None
        frames.append(np.asarray(small))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous().float() / 255


def network_of_run(run_id: str, runs: Path) -> Candidate:
    """A trained run's depth network, folded.

    Raises:
        FadepthError: the run has no model, or it is damaged.
    """
    return Candidate(run_id, fold(load_depth_network(runs / run_id / "model.pt")[0]))


def imported_network(spec: str) -> Candidate:
    """Anybody's network: `pkg.mod:factory` or `name=pkg.mod:factory`.

    The factory is called without arguments and returns a module that maps images (B, 3, H, W) in
    [0, 1]. Modules of the working directory can be imported. It is deep-copied: what the factory
    keeps is not touched.

    Raises:
        FadepthError: the spec is not of that form, the import or the call fails, or what comes back
            is no module.
    """
    name, path, attribute = _parsed(spec)
    factory = import_factory(path, attribute, f"--model {spec}", Path.cwd())
    try:
        network = factory()
    except Exception as error:  # anybody's code
        raise FadepthError(f"--model {spec}: {attribute}() failed: {one_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise FadepthError(
            f"--model {spec}: {attribute}() gives {type(network).__name__}, not a torch.nn.Module"
        )
    return Candidate(name, FirstOutput(copy.deepcopy(network).float().cpu()).eval())


def _parsed(spec: str) -> tuple[str, str, str]:
    """Name, module and attribute; the name is the attribute's unless one is given."""
    name, given, rest = spec.rpartition("=")
    parts = split_import_path(rest)
    if parts is None or (given and not name.strip()):
        raise FadepthError(
            f"--model is '{spec}': write package.module:factory, or name=package.module:factory"
        )
    return name.strip() or parts[1], *parts


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates as they are.

    Raises:
        FadepthError: two have the same name.
    """
    names = [candidate.name for candidate in candidates]
    for name in names:
        if names.count(name) > 1:
            raise FadepthError(f"two networks are called '{name}': write name=package.module:...")
    return list(candidates)
