"""Images a second of training steps: SmallDepth's against those of a monodepth2-style training.

All trainings take the same batch in turns (`fadepth.evaluation.latency`). The reference has
monodepth2's two ResNet-18 networks and its four scales; its loss is this package's own, with all
that makes it fast, so that the ratios speak of networks and losses, not of who wrote the loop.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import fadepth.training as loop
from fadepth.bench.machine import machine
from fadepth.checkpoint import Identity
from fadepth.config import Config, merge, parse_config
from fadepth.data.dataset import collate
from fadepth.data.manifest import Manifest
from fadepth.data.prepare import prepare_data
from fadepth.errors import FadepthError
from fadepth.evaluation.latency import Latency, Ratio, Stopwatch, stopwatch_of, take_turns
from fadepth.models.monodepth2 import Monodepth2, Monodepth2Pose
from fadepth.training import Job, Networks, Training

REFERENCE = "monodepth2 style"

#: Name -> settings that differ from the preset's. The reference has the base loss alone, with its
#: own settings: every scale at full size, one pass of the pose network a pair.
VARIANTS: dict[str, dict[str, Any]] = {
    REFERENCE: {
        "loss": {"base": "md2", "warp_at": "full"},
        "pose": {"downscale": 1, "mirror": False},
    },
    "SmallDepth": {},
    "+ ETM": {"student.etm": {"branches": "ac", "space": "activation"}},
    "+ ETM, summed kernels": {"student.etm": {"branches": "ac", "space": "kernel"}},
    "+ pyramid loss": {"loss.pyramid.enabled": True},
    "+ APX": {"loss.apx.enabled": True},
    "+ ETM + pyramid loss + APX": {
        "student.etm": {"branches": "ac", "space": "activation"},
        "loss": {"pyramid": {"enabled": True}, "apx": {"enabled": True}},
    },
    "all, summed kernels": {
        "student.etm": {"branches": "ac", "space": "kernel"},
        "loss": {"pyramid": {"enabled": True}, "apx": {"enabled": True}},
    },
}

#: Parts of a step as `profile_step` names them, and the functions of the loop that they are.
PARTS = {
    "pose network": "source_poses",
    "base loss": "base_loss",
    "pyramid loss": "pyramid_loss",
    "APX": "apx_loss",
}

_SEED = 1


@dataclass(frozen=True)
class StepSpeed:
    """One training's steps.

    Attributes:
        images_per_second: target images; each comes with its sources.
        step: milliseconds of a step.
        speed_up: images a second in terms of the reference's, same rounds.
    """

    images_per_second: float
    step: Latency
    speed_up: Ratio


@dataclass(frozen=True)
class TrainingReport:
    """What was measured, on what.

    Attributes:
        machine: processor, cores, threads and versions.
        task: size, batch, rounds, settings.
        clean: share of turns in which the process got its cores.
        steps: by variant.
        parts: of a step of "SmallDepth" and of everything on, seconds by part.
    """

    machine: dict[str, Any]
    task: dict[str, Any]
    clean: float
    steps: dict[str, StepSpeed]
    parts: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_training(
    config: Config,
    *,
    variants: Mapping[str, dict[str, Any]] = VARIANTS,
    rounds: int = 6,
    stopwatch: Stopwatch | None = None,
) -> TrainingReport:
    """Time steps of every variant; two minutes at 192x640, batches of 4 and one thread.

    Args:
        config: preset, with the size and batch to measure at.
        variants: by name, one of them `REFERENCE`.
        rounds: turns of every variant.
        stopwatch: the device's own if None.

    Raises:
        FadepthError: monodepth2's network does not take images of that size.
    """
    data = config.data
    if not Monodepth2.takes(data.height, data.width):
        raise FadepthError(
            f"the size is {data.height}x{data.width}: monodepth2's network needs multiples of 32, "
            "from 64 on"
        )
    with tempfile.TemporaryDirectory(prefix="fadepth-bench-") as name:
        trainings = dict(_trainings(config, variants, Path(name)))
        batch = _batch(next(iter(trainings.values())))
        calls = {name: _step_of(training, batch) for name, training in trainings.items()}
        device = next(iter(trainings.values())).device
        turns = take_turns(
            calls, stopwatch or stopwatch_of(device), rounds=rounds, warm_up=1, settle=0,
            threads=torch.get_num_threads(),
        )  # fmt: skip
        profiled = [n for n in ("SmallDepth", "+ ETM + pyramid loss + APX") if n in trainings]
        parts = {str(name): profile_step(trainings[name], batch) for name in profiled}
    steps = {}
    for name in trainings:
        latency = turns.latency(name)
        rate = 1000 * config.training.batch_size / latency.median
        steps[name] = StepSpeed(rate, latency, turns.ratio(REFERENCE, name))
    return TrainingReport(
        machine=machine(),
        task={
            "size": [data.height, data.width],
            "batch_size": config.training.batch_size,
            "sources": len(data.source_frames),
            "rounds": rounds,
            "device": str(device),
            "amp": config.training.amp,
            "warp_at": config.loss.warp_at,
        },
        clean=turns.share,
        steps=steps,
        parts=parts,
    )


def _trainings(
    config: Config, variants: Mapping[str, dict[str, Any]], folder: Path
) -> Iterator[tuple[str, Training]]:
    """A training of every variant, on a few rendered frames."""
    batch = config.training.batch_size
    street = {
        "data": {
            "source": "synthetic",
            "root": str(folder / "street"),
            "cache": "off",
            "synthetic": {
                "scenes": {"train": 1, "val": 1, "test": 1},
                "frames": {"train": batch + 2, "val": 3, "test": 3},
                "height": config.data.height,
                "width": config.data.width,
            },
        },
        "training": {"epochs": 10**6, "steps_per_epoch": 100, "workers": 0},
    }
    plain = parse_config(merge(config.model_dump(mode="json"), street), "the preset")
    manifest = prepare_data(plain.data, folder / "manifest.jsonl", base=folder)
    targets = folder / "targets.npy"
    shape = len(manifest.splits["train"]), 2, config.data.height, config.data.width
    # What a teacher might have said; its speed is not part of a step.
    maps = np.random.default_rng(0).uniform(0.02, 0.12, shape)
    np.save(targets, maps.astype(np.float16))
    for name, changes in variants.items():
        settings = merge(plain.model_dump(mode="json"), changes)
        networks = Networks(Monodepth2(), Monodepth2Pose()) if name == REFERENCE else None
        yield name, _training(parse_config(settings, name), manifest, folder, targets, networks)


def _training(
    config: Config, manifest: Manifest, folder: Path, targets: Path, networks: Networks | None
) -> Training:
    identity = Identity("bench", "bench", "bench")
    root = Path(manifest.root)
    job = Job("bench", "student", config, _SEED, identity, folder, manifest, root, targets)
    training = Training(job, networks)
    training.networks.train()
    return training


def _batch(training: Training) -> dict[str, Tensor]:
    count = training.settings.batch_size
    return collate([training.frames[0, index] for index in range(count)])


def _step_of(training: Training, batch: dict[str, Tensor]) -> Callable[[], object]:
    @torch.inference_mode(mode=False)
    def step() -> object:
        return training.step(dict(batch), 0)

    return step


def profile_step(training: Training, batch: dict[str, Tensor], steps: int = 3) -> dict[str, float]:
    """Processor seconds of the parts of a step, means over some steps.

    Forward passes are told apart; the gradient of all of them is one part, since autograd runs it
    as one. On a GPU, kernels are waited for at the end of each part.
    """
    training.step(dict(batch), 0)
    watch = _Parts(training.device)
    with watch.instead_of(training):
        for _ in range(steps):
            with watch.part("all"):
                training.step(dict(batch), 0)
    found = {name: seconds / steps for name, seconds in watch.seconds.items()}
    whole = found.pop("all")
    return {**found, "rest": whole - sum(found.values())}


class _Parts:
    """Stopwatches around functions of the loop, while it is measured only."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call

    @contextmanager
    def instead_of(self, training: Training) -> Iterator[None]:
        with ExitStack() as stack:
            for name, function in PARTS.items():
                timed = self.timed(name, getattr(loop, function))
                stack.enter_context(patch.object(loop, function, timed))
            main = self.timed("depth network", training._main_pass)
            stack.enter_context(patch.object(training, "_main_pass", main))
            backward = self.timed("gradients", Tensor.backward)
            stack.enter_context(patch.object(Tensor, "backward", backward))
            update = self.timed("update", training.optimizer.step)
            stack.enter_context(patch.object(training.optimizer, "step", update))
            yield
