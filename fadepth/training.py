"""Training of teacher and students: one loop, one step function, resumable at any moment.

Every random draw (weights, order of frames, augmentation, views of the pyramid loss, tie-breaking
noise) is a function of (seed, step), so a training that was killed ends with the same numbers as
one that was not.
"""

import json
import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fadepth.checkpoint import Identity, Resumed, load_checkpoint, save_checkpoint, to_bytes
from fadepth.config import Config, PoseSettings, TrainingSettings, ego_mask_path
from fadepth.data.augment import mirrored_where
from fadepth.data.cache import ImageCache
from fadepth.data.dataset import TrainingBatches, TrainingFrames, load_batches
from fadepth.data.kitti import read_image
from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.files import write_atomic
from fadepth.geometry import invert_pose, pose_matrix, shrink
from fadepth.losses.apx import apx_loss
from fadepth.losses.cbw import cbw_loss, early_features
from fadepth.losses.photometric import BaseLoss, Views, base_loss
from fadepth.losses.pyramid import Reference, encoder_features, pyramid_loss
from fadepth.models import HQDecV2, SmallDepth
from fadepth.models.etm import kernels_summed_once
from fadepth.models.own import OwnNetwork, build_own_network, require_same_code
from fadepth.models.posenet import PoseNet
from fadepth.optimizer import AdamW
from fadepth.own_code import check_arguments, find_own_code
from fadepth.targets import TeacherTargets

log = logging.getLogger(__name__)

Kind = Literal["student", "teacher"]

#: What `Watch` calls the number that may overflow now and then with fp16.
GRADIENT = "gradient's norm"


class Interrupted(Exception):
    """SIGTERM or SIGINT arrived; the state is on disk."""


@dataclass(frozen=True)
class Job:
    """One training: what to train, on what, and where its files go.

    Attributes:
        run_id: name of the run.
        kind: which network.
        config: the run's resolved settings.
        seed: of weights, order, augmentation and noise together.
        identity: hashes that a checkpoint has to match.
        folder: `runs/<run_id>`.
        manifest: frames and hashes.
        root: folder of the raw data.
        targets: the teacher's predictions (`fadepth.targets`), checked, where APX is on.
        images: the cache of images (`fadepth.data.cache`), checked, with `data.cache: disk`.
    """

    run_id: str
    kind: Kind
    config: Config
    seed: int
    identity: Identity
    folder: Path
    manifest: Manifest
    root: Path
    targets: Path | None = None
    images: ImageCache | None = None


class Networks(nn.Module):
    """Depth and pose network of one training, so that one state dict holds both."""

    def __init__(self, depth: nn.Module, pose: nn.Module) -> None:
        super().__init__()
        self.depth = depth
        self.pose = pose


def seed_of(*parts: int) -> int:
    """A 63-bit seed from several integers; different parts give unrelated streams."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def generator_of(*parts: int) -> torch.Generator:
    """A CPU generator seeded by `seed_of`."""
    return torch.Generator().manual_seed(seed_of(*parts))


def build_depth_network(config: Config, kind: Kind) -> nn.Module:
    """The untrained SmallDepth, HQDecv2 or own network that the settings describe."""
    if kind == "student":
        student = config.student
        if student.network is not None:
            code = find_own_code(student.network)
            check_arguments(code, student.arguments)
            return build_own_network(code, student.arguments)
        return SmallDepth(
            etm=student.etm.branches,
            sparsity=student.sparsity,
            etm_space=student.etm.space,
            width=student.width,
        )
    teacher = config.teacher
    network = HQDecV2(
        width=teacher.width,
        depth=teacher.depth,
        adacoeff=teacher.adacoeff,
        upsampler_v2=teacher.upsampler_v2,
        global_map=teacher.global_map,
        size=(config.data.height, config.data.width),
    )
    if teacher.encoder_weights:
        network.encoder.load_imagenet(Path(teacher.encoder_weights))
    return network


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one; a named device that is absent is an error."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise FadepthError(
            f"training.device is '{name}' but torch sees no GPU: use 'auto' or 'cpu'"
        )
    return device


def demand_determinism(device: torch.device) -> None:
    """Choose deterministic kernels wherever the order of a sum could vary.

    One CPU thread has one order of summation, with any kernel. There the mode only costs: it took
    a fifth of a step on torch 2.13, by slower convolution gradients and NaN in all new memory.
    """
    varies = device.type == "cuda" or torch.get_num_threads() > 1
    if varies != torch.are_deterministic_algorithms_enabled():
        # Not called in vain: it imports torch's compiler, a second of CPU time.
        torch.use_deterministic_algorithms(varies, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def memory_layout(device: torch.device) -> torch.memory_format:
    """channels_last on GPUs, where tensor cores want it; the plain layout on CPUs.

    On a CPU channels_last made a step about a tenth faster, but training with ETM's branches
    corrupted the heap now and then with torch 2.13 (docs/decisions/005).
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def reduced_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Type of the networks' passes (`training.amp`); None: float32 throughout.

    Raises:
        FadepthError: the device does not compute in that type.
    """
    if name == "off":
        return None
    if name == "fp16" and device.type != "cuda":
        raise FadepthError(
            "training.amp is 'fp16' but the training runs on the CPU, which is no faster in half "
            "precision: use 'off' (or 'bf16')"
        )
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and not has_bf16:
        raise FadepthError("training.amp is 'bf16' but this GPU has no bfloat16: use 'fp16'")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}[name]


def reduce_precision(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Make `network` compute in `dtype` where autocast does, and return float32.

    Geometry and losses, which take differences of nearly equal numbers, never see `dtype`.
    """
    forward = network.forward

    def reduced(*inputs: Tensor) -> list[Tensor]:
        with torch.autocast(device.type, dtype):
            outputs = forward(*inputs)
        return [output.float() for output in outputs]

    network.forward = reduced


def learning_rate_factor(progress: float, schedule: str) -> float:
    """Factor on the learning rate after a share `progress` in [0, 1] of all steps.

    step: 0.1 after three quarters (monodepth2: 15 of 20 epochs). cosine: 4 % linear warm-up, then
    down to 1 % [derived].
    """
    if schedule == "step":
        return 1.0 if progress < 0.75 else 0.1
    warmup = 0.04
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def source_poses(
    pose: nn.Module, batch: dict[str, Tensor], offsets: tuple[int, ...], settings: PoseSettings
) -> list[Tensor]:
    """T_target_to_source (B, 4, 4) of every source.

    The pair goes in in temporal order; for an earlier source the predicted motion leads from the
    source to the target and is inverted (monodepth2).
    """
    images = torch.cat([batch["target_input"][:, None], batch["source_inputs"]], 1)
    # Shrunk before they are paired: each image is in several pairs.
    height, width = (side // settings.downscale for side in images.shape[-2:])
    whole = images[..., : height * settings.downscale, : width * settings.downscale]
    target, *sources = (
        shrink(whole.flatten(0, 1), height, width).unflatten(0, images.shape[:2]).unbind(1)
    )
    pairs = torch.cat(
        [
            torch.cat([source, target] if offset < 0 else [target, source], 1)
            for source, offset in zip(sources, offsets, strict=True)
        ]
    )
    axis_angle, translation = mirrored_motion(pose, pairs) if settings.mirror else pose(pairs)
    motions = pose_matrix(axis_angle, translation).split(len(target))
    return [
        invert_pose(motion) if offset < 0 else motion
        for offset, motion in zip(offsets, motions, strict=True)
    ]


def mirrored_motion(pose: nn.Module, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a motion and of that of the mirrored pair, mirrored back [derived].

    A mirrored drive has the opposite yaw, roll and sideways motion. A young pose net that has a
    bias in these (a slow turn that a sideways drift makes up for) pulls one half of every image
    near and pushes the other one far, a minimum that short trainings do not leave; the mean has no
    such bias by construction.
    """
    axis_angle, translation = pose(torch.cat([pairs, pairs.flip(-1)]))
    (angle, angle_mirrored), (shift, shift_mirrored) = axis_angle.chunk(2), translation.chunk(2)
    return (
        (angle + angle_mirrored * angle.new_tensor([1.0, -1.0, -1.0])) / 2,
        (shift + shift_mirrored * shift.new_tensor([-1.0, 1.0, 1.0])) / 2,
    )


def load_world_masks(config: Config, cameras: Sequence[str]) -> Tensor:
    """`loss.ego_mask` of each camera at training size, boolean (C, 1, H, W): false on the vehicle.

    Raises:
        FadepthError: a file is absent or damaged, or leaves nothing to learn from.
    """
    return torch.stack([_load_world_mask(config, camera) for camera in cameras])


def _load_world_mask(config: Config, camera: str) -> Tensor:
    path = ego_mask_path(config.loss.ego_mask or "", camera)
    grey = read_image(path).convert("L")
    # Nearest: a mixture of black and white is neither.
    small = grey.resize((config.data.width, config.data.height), Image.Resampling.NEAREST)
    world = torch.from_numpy(np.asarray(small) > 127)[None]
    if not world.any():
        raise FadepthError(
            f"ego mask {path} is black everywhere: paint white what is not the vehicle"
        )
    return world


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on `device`; frame numbers stay where the teacher's file is read."""
    return {
        key: value if key == "index" else value.to(device, non_blocking=True)
        for key, value in batch.items()
    }


def nan_unless_finite(loss: Tensor, outputs: list[Tensor]) -> Tensor:
    """The loss as it is, or NaN where a network's output is not finite.

    `grid_sample` takes NaN for a coordinate of 0, so a warp hides it. (On the CPU its gradient then
    reads outside the image and the process dies, torch 2.13: such a loss must not go backward.)
    """
    finite = torch.stack([torch.isfinite(output).all() for output in outputs]).all()
    return torch.where(finite, loss, torch.nan)


class Training:
    """State and step of one training; `run` is the loop."""

    def __init__(self, job: Job, networks: Networks | None = None) -> None:
        """Prepare a training; `networks` stand in for those of the settings (a benchmark's do)."""
        self.job, self.config = job, job.config
        self.settings: TrainingSettings = job.config.training
        self.device = choose_device(self.settings.device)
        demand_determinism(self.device)
        torch.manual_seed(seed_of(job.seed, 0))
        networks = networks or Networks(
            build_depth_network(self.config, job.kind),
            PoseNet(self.config.pose.width),
        )
        precision = reduced_precision(self.settings.amp, self.device)
        if precision:
            reduce_precision(networks.depth, self.device, precision)
            reduce_precision(networks.pose, self.device, precision)
        # Half precision has 5 bits of exponent: without a factor, small gradients would be zero.
        scaled = precision == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.layout = memory_layout(self.device)
        self.networks = networks.to(self.device).to(memory_format=self.layout)  # type: ignore[call-overload]
        teacher = self.config.teacher if job.kind == "teacher" else None
        self.epochs = (teacher and teacher.epochs) or self.settings.epochs
        self.rate = (teacher and teacher.learning_rate) or self.settings.learning_rate
        self.optimizer = AdamW(
            self.networks.parameters(),
            lr=self.rate,
            betas=(0.9, self.settings.beta2),
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.frames = TrainingFrames(
            job.manifest.splits["train"], job.root, self.config.data, job.seed, job.images
        )
        full = len(self.frames) // self.settings.batch_size
        self.steps_per_epoch = self.settings.steps_per_epoch or full
        if self.steps_per_epoch < 1:
            raise FadepthError(
                f"training.batch_size is {self.settings.batch_size} but there are only "
                f"{len(self.frames)} training frames: choose a smaller batch"
            )
        self.steps = self.epochs * self.steps_per_epoch
        self.worlds: Tensor | None = None
        if self.config.loss.ego_mask is not None:
            sides = [frame.side for frame in self.frames.frames]
            cameras = sorted(set(sides))
            self.worlds = load_world_masks(self.config, cameras).to(self.device)
            #: Which of them each training frame has.
            self.camera_of = torch.tensor([cameras.index(side) for side in sides])
        self.apx = job.kind == "student" and self.config.loss.apx.enabled
        self.pyramid = job.kind == "student" and self.config.loss.pyramid.enabled
        self.targets: TeacherTargets | None = None
        if self.apx:
            if job.targets is None:
                raise FadepthError(
                    f"run {job.run_id} uses APX but no teacher predictions were given"
                )
            self.targets = TeacherTargets(job.targets, len(self.frames))
        self.watch = Watch(self)

    def batches(self, first_step: int) -> Iterator[dict[str, Tensor]]:
        """Batches from `first_step` on; their frames and augmentation depend on (seed, step)."""
        keys = TrainingBatches(
            len(self.frames), self.settings.batch_size, self.job.seed, self.epochs,
            self.steps_per_epoch, first_step,
        )  # fmt: skip
        pinned = self.device.type == "cuda"
        return load_batches(self.frames, keys, self.settings.workers, pin_memory=pinned)

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """All losses of one batch; `total` carries the gradient."""
        epoch = step / self.steps_per_epoch
        data, loss = self.config.data, self.config.loss
        index, flipped = batch["index"], batch["flipped"].cpu()
        batch = to_device(batch, self.device)
        alone = self.apx and epoch < loss.apx.alone_epochs
        pyramid = self.pyramid and not alone
        disparities, features, phi = self._main_pass(batch, pyramid)
        poses = source_poses(self.networks.pose, batch, data.source_frames, self.config.pose)
        views = Views(
            batch["target"],
            batch["sources"].unbind(1),
            batch["intrinsics"],
            poses,
            self._world(batch),
        )
        # While APX is alone, the photometric loss still teaches the pose net.
        seen = [d.detach() for d in disparities] if alone else disparities
        noise = generator_of(self.job.seed, 1, step)
        if loss.base == "cbw":
            base = cbw_loss(seen, views, loss, noise, [f.detach() for f in phi] if alone else phi)
            # The losses below speak of the targets, which come first.
            disparities = [d[: len(index)] for d in disparities]
            features = [f[: len(index)] for f in features]
        else:
            base = base_loss(seen, views, loss, noise)
        result = {
            "total": base.total,
            "photometric": base.photometric,
            "smoothness": base.smoothness,
            "automask_share": base.automask_share,
        }
        result |= {f"{loss.base}/{name}": part for name, part in base.parts.items()}
        if pyramid:
            reference = Reference(disparities[0], features)
            self._add_pyramid(result, batch, reference, base, views, step)
        if self.targets is not None:
            maps = self.targets.batch(index, flipped)
            self._add_apx(result, disparities, maps, base, views)
        result["total"] = nan_unless_finite(result["total"], [*seen, *poses])
        return result

    def _world(self, batch: dict[str, Tensor]) -> Tensor | None:
        """Where the batch's cameras see the world and not their vehicle, (B, 1, H, W)."""
        if self.worlds is None:
            return None
        cameras = self.camera_of[batch["index"]].to(self.device)
        return mirrored_where(self.worlds[cameras], batch["flipped"])

    def _main_pass(
        self, batch: dict[str, Tensor], pyramid: bool
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Disparities, finest first; features that the pyramid loss compares; those that cbw does.

        They are of the targets; with `loss.base: cbw` of the targets and then of each source.
        The network sees the jittered images (monodepth2), unless the pyramid loss relights views of
        its own: then it sees the clean ones. This pass is what those views are held against, and
        the only one that updates batch norm's running statistics. The pose net keeps its inputs.
        """
        settings, network = self.config.loss.pyramid, self.networks.depth
        clean = pyramid and settings.jitter
        image = batch["target" if clean else "target_input"]
        both_ways = self.config.loss.base == "cbw"
        if both_ways:
            sources = batch["sources" if clean else "source_inputs"]
            image = torch.cat([image, *sources.unbind(1)])
        image = image.contiguous(memory_format=self.layout)
        compared = early_features(network, self.job.kind if both_ways else None)
        by_features = pyramid and settings.kind == "features"
        with encoder_features(network, by_features) as features, compared as phi:
            disparities = [d.contiguous() for d in network(image)]
        return disparities, features, phi

    def _add_pyramid(
        self,
        result: dict[str, Tensor],
        batch: dict[str, Tensor],
        reference: Reference,
        base: BaseLoss,
        views: Views,
        step: int,
    ) -> None:
        loss = self.config.loss
        value, parts = pyramid_loss(
            self.networks.depth,
            batch["target"],
            reference,
            base.visible,
            views,
            loss.pyramid,
            jitter=self.config.data.jitter,
            ssim_weight=loss.ssim_weight,
            warp_at=loss.warp_at,
            automask=loss.automask,
            epoch=step / self.steps_per_epoch,
            generator=generator_of(self.job.seed, 2, step),
        )
        result["total"] = result["total"] + loss.pyramid.weight * value
        result |= {f"pyramid/{name}": part for name, part in parts.items()}

    def _add_apx(
        self,
        result: dict[str, Tensor],
        disparities: list[Tensor],
        maps: tuple[Tensor, Tensor],
        base: BaseLoss,
        views: Views,
    ) -> None:
        loss = self.config.loss
        value, parts = apx_loss(
            disparities,
            maps[0].to(self.device),
            maps[1].to(self.device),
            loss.apx,
            views=views.with_detached_poses(),
            student_error=base.error,
            ssim_weight=loss.ssim_weight,
        )
        result["total"] = result["total"] + loss.apx.weight * value
        result |= {f"apx/{name}": part for name, part in parts.items()}

    def step(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """One update of the weights; returns the losses without gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        # Layers that draw, such as an own network's dropout, share a generator with the loader.
        torch.manual_seed(seed_of(self.job.seed, 3, step))
        with kernels_summed_once():
            losses = self.losses(batch, step)
        self.watch.add("loss", losses["total"].detach(), step, batch["index"])
        self.scaler.scale(losses["total"]).backward()
        self.scaler.unscale_(self.optimizer)
        self.watch.add(GRADIENT, self._clipped_gradient(), step, batch["index"])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: value.detach() for name, value in losses.items()}

    def learning_rate(self, step: int) -> float:
        """Of the update after `step` finished ones.

        `schedule: step` counts whole epochs, as a scheduler does that is stepped after each epoch;
        monodepth2's own loop steps it before, which gives 14 epochs at the full rate, not 15.
        """
        epochwise = self.settings.schedule == "step"
        done = step - step % self.steps_per_epoch if epochwise else step
        return self.rate * learning_rate_factor(done / self.steps, self.settings.schedule)

    def _clipped_gradient(self) -> Tensor:
        """Clip the gradient (`training.clip_gradient`); returns the norm that it had."""
        if self.settings.clip_gradient:
            parameters = self.networks.parameters()
            return nn.utils.clip_grad_norm_(parameters, self.settings.clip_gradient)
        gradients = [p.grad for p in self.networks.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def run(self) -> None:
        """Train to the end, from the checkpoint where there is one, and write `model.pt`."""
        folder = self.job.folder
        checkpoint = folder / "ckpt" / "last.pt"
        resumed = load_checkpoint(
            checkpoint, self.networks, self.optimizer, self.job.identity, self.scaler
        )
        if resumed:
            log.info("resuming at step %d of %d", resumed.step, self.steps)
        recorder = Recorder(self, resumed or Resumed())
        self.networks.train()
        first = resumed.step if resumed else 0
        with interruption() as interrupted:
            # A training that was killed after its last checkpoint has no batch left.
            batches = self.batches(first) if first < self.steps else iter(())
            for step, batch in enumerate(batches, first):
                recorder.add(step, self.step(batch, step))
                done = step + 1
                at_epoch = done % self.steps_per_epoch == 0
                if at_epoch or done % self.settings.checkpoint_every == 0 or interrupted:
                    self._save(checkpoint, recorder.flush(done))
                if interrupted:
                    raise Interrupted(
                        f"stopped at step {done} of {self.steps}; run again to resume"
                    )
        self._save_model()

    def _save(self, checkpoint: Path, state: Resumed) -> None:
        self.watch.check()
        identity = self.job.identity
        save_checkpoint(checkpoint, self.networks, self.optimizer, state, identity, self.scaler)

    def _save_model(self) -> None:
        content = {
            "run_id": self.job.run_id,
            "kind": self.job.kind,
            "config": self.config.model_dump(mode="json"),
            "depth": self.networks.depth.state_dict(),
            "pose": self.networks.pose.state_dict(),
        }
        if isinstance(self.networks.depth, OwnNetwork):
            content["own_code"] = self.networks.depth.code
        write_atomic(self.job.folder / "model.pt", to_bytes(content))


class Watch:
    """Stops a training at the first batch whose loss or gradient is not finite, and names it.

    On the CPU each number is judged before it is used. On a GPU, to read a number is to wait for
    every kernel before it, so losses and norms stay there, with the numbers of their frames here,
    and are read before anything is written down: a line of the log, a checkpoint. What is on disk
    is then always from before the fault, and the batch that is named is the one in which it first
    showed, although some steps may have followed.
    """

    #: With fp16 a gradient that overflows halves the loss's factor, and its update is left out. The
    #: factor starts at 2^16: after so many overflows in a row, its size is not the reason.
    skips = 25

    def __init__(self, training: Training) -> None:
        self.training = training
        self.at_once = training.device.type == "cpu"
        self.pending: list[tuple[str, Tensor, int, list[int]]] = []
        self.skipped = 0

    def add(self, what: str, value: Tensor, step: int, index: Tensor) -> None:
        """Note a number (a scalar without gradient) of a step whose frames are `index` (B,)."""
        self.pending.append((what, value, step, index.tolist()))
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Read what was noted since the last call.

        Raises:
            FadepthError: a loss or gradient is NaN or infinite; names the step and its frames.
        """
        if not self.pending:
            return
        pending, self.pending = self.pending, []
        values = torch.stack([value for _, value, _, _ in pending]).tolist()
        allowed = self.skips if self.training.scaler.is_enabled() else 0
        for (what, _, step, index), value in zip(pending, values, strict=True):
            if what == GRADIENT:
                self.skipped = 0 if math.isfinite(value) else self.skipped + 1
                if self.skipped > allowed:
                    self._stop(what, value, step, index)
            elif not math.isfinite(value):
                self._stop(what, value, step, index)

    def _stop(self, what: str, value: float, step: int, index: list[int]) -> None:
        training = self.training
        frames = "; ".join(str(training.frames.frames[i]) for i in index)
        raise FadepthError(
            f"the {what} of {training.job.run_id} became {value} at step {step + 1} of "
            f"{training.steps}, with the frames {frames}: look at these images, lower "
            "training.learning_rate or set training.clip_gradient; the checkpoint of before is kept"
        )


class Recorder:
    """Progress of a training: `metrics.jsonl`, `progress.json` and lines for the reader."""

    def __init__(self, training: Training, start: Resumed) -> None:
        self.training = training
        self.path = training.job.folder / "metrics.jsonl"
        self.first_step = start.step
        self.began = time.monotonic()
        self.sums: dict[str, Tensor] = dict(start.sums)
        self.count = start.count
        self.path.touch()
        # Lines logged after the checkpoint will be logged again.
        os.truncate(self.path, min(start.log_bytes, self.path.stat().st_size))

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Count one step's losses, and tell where the training stands every `log_every` steps."""
        for name, value in losses.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        done, every = step + 1, self.training.settings.log_every
        if done % every == 0 or done == self.training.steps:
            self._write(done)

    def _write(self, done: int) -> None:
        training = self.training
        training.watch.check()
        means = {name: float(total) / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        rate = training.optimizer.param_groups[0]["lr"]
        line: dict[str, Any] = {
            "step": done,
            "epoch": done / training.steps_per_epoch,
            "time": time.time(),
            "train/learning_rate": rate,
        }
        line |= {f"train/loss/{name}": value for name, value in means.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._tell(done, means["total"])

    def _tell(self, done: int, loss: float) -> None:
        training = self.training
        spent = time.monotonic() - self.began
        per_step = spent / max(1, done - self.first_step)
        eta = per_step * (training.steps - done)
        epoch = math.ceil(done / training.steps_per_epoch)
        progress = {
            "step": done,
            "steps": training.steps,
            "epoch": epoch,
            "epochs": training.epochs,
            "loss": loss,
            "seconds_per_step": per_step,
            "eta_seconds": eta,
        }
        write_atomic(training.job.folder / "progress.json", json.dumps(progress, indent=1) + "\n")
        log.info(
            "epoch %d/%d · step %d/%d · loss %.4f · %.2f s/step · %d:%02d left",
            epoch, training.epochs, done, training.steps, loss, per_step, *divmod(round(eta), 60),
        )  # fmt: skip

    def flush(self, done: int) -> Resumed:
        """The state to put into a checkpoint after `done` steps."""
        return Resumed(done, self.path.stat().st_size, dict(self.sums), self.count)


@contextmanager
def interruption() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list, so that the loop ends between two steps."""
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    old = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _read_model(path: Path) -> tuple[dict[str, Any], Config]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FadepthError(f"{path} does not exist: train the run first") from None
    except Exception as error:
        raise FadepthError(
            f"{path} is not a readable model ({type(error).__name__}): delete it and train again"
        ) from None
    return content, Config.model_validate(content["config"])


def load_depth_network(path: Path) -> tuple[nn.Module, Config]:
    """The trained depth network of a `model.pt`, in evaluation mode, and its settings.

    Raises:
        FadepthError: the file is absent or damaged, or the user's own network has another code now.
    """
    content, config = _read_model(path)
    if content["kind"] == "student" and config.student.network is not None:
        code = find_own_code(config.student.network)
        require_same_code(code, content.get("own_code"), str(path))
    network = build_depth_network(
        config.model_copy(
            update={"teacher": config.teacher.model_copy(update={"encoder_weights": None})}
        ),
        content["kind"],
    )
    network.load_state_dict(content["depth"])
    return network.eval(), config


def load_pose_network(path: Path) -> tuple[nn.Module, Config]:
    """The trained pose network of a `model.pt`, in evaluation mode, and its settings.

    Raises:
        FadepthError: the file is absent or damaged.
    """
    content, config = _read_model(path)
    network = PoseNet(config.pose.width)
    network.load_state_dict(content["pose"])
    return network.eval(), config
