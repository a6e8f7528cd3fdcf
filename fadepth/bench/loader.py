"""Does loading keep up with training? Images a second of both, on this machine.

An image is one that is decoded (or read from a cache), resized and put into a batch: a sample has
1 + S of them, the target and its sources.

Ways of loading are measured in turns, round after round, so that a machine that slows down
meanwhile slows all of them; a number is the median over the rounds, with the smallest and the
largest. Each turn begins with batches that are not counted, as many as loading processes may have
ready: neither the start of the processes nor what they had prepared in peace is taken for speed.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from fadepth.bench.machine import machine
from fadepth.bench.spread import Spread
from fadepth.checkpoint import Identity
from fadepth.config import Config, merge, parse_config
from fadepth.data.cache import CacheKey, checked_cache
from fadepth.data.dataset import PREFETCH, TrainingBatches, TrainingFrames, load_batches
from fadepth.data.manifest import Manifest, evenly_spread
from fadepth.training import Job, Training

Cache = Literal["off", "memory", "disk"]
Batches = Iterator[dict[str, Tensor]]
Clock = Callable[[], float]
Way = TypeVar("Way")

CACHES: tuple[Cache, ...] = ("off", "memory", "disk")
_SEED = 1


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        rounds: turns of every way.
        seconds: least time of a turn of a loader.
        steps: training steps of a turn.
        frames: at most so many training frames, spread evenly over the list; their images are then
            in the system's page cache, as those of a small data set are.
    """

    rounds: int = 5
    seconds: float = 0.6
    steps: int = 4
    frames: int = 256


@dataclass(frozen=True)
class Loading:
    """A way of loading: its speed alone, and in terms of a training that waits for nothing."""

    cache: Cache
    workers: int
    speed: Spread
    ratio: float


@dataclass(frozen=True)
class Step:
    """Spread of training steps: with a way of loading, or (None) with one batch again and again."""

    cache: Cache | None
    workers: int
    speed: Spread


@dataclass(frozen=True)
class LoaderReport:
    """What was measured, on what.

    Attributes:
        machine: processor, cores, threads and versions.
        task: data set, frames, images of a sample, size, batch and rounds.
        loading: every cache with every number of loading processes.
        training: steps of the student, with loading and without.
    """

    machine: dict[str, Any]
    task: dict[str, Any]
    loading: list[Loading]
    training: list[Step]

    @property
    def repeated(self) -> Spread:
        """Of the training that waits for nothing."""
        return next(step.speed for step in self.training if step.cache is None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_loader(
    config: Config,
    manifest: Manifest,
    root: Path,
    *,
    workers: Sequence[int] = (0, 1, 2),
    budget: Budget = Budget(),
    clock: Clock = time.perf_counter,
) -> LoaderReport:
    """Measure loaders alone, and a training with them; takes a minute or two.

    The cache on disk is one of its own, in the system's folder for temporary files.

    Args:
        config: settings of the preset; the training is its plain student's.
        manifest: frames and hashes.
        root: folder that the images' paths start from.
        workers: numbers of loading processes to try.
        budget: how much is measured.
        clock: seconds.

    Raises:
        FadepthError: an image is absent or damaged, or the disk has no room for the cache.
    """
    few = _some_frames(manifest, budget.frames)
    with tempfile.TemporaryDirectory(prefix="fadepth-bench-") as name:
        folder = Path(name)
        frames = {cache: _frames(config, few, root, cache, folder) for cache in CACHES}
        speeds = _loaders_alone(config, frames, workers, budget, clock)
        training = _training(config, few, root, folder, frames, budget, clock)
    free = next(step.speed.median for step in training if step.cache is None)
    return LoaderReport(
        machine=machine(),
        task={
            **asdict(budget),
            "data": config.data.name,
            "frames": len(few.splits["train"]),
            "images_per_sample": 1 + len(config.data.source_frames),
            "size": [config.data.height, config.data.width],
            "batch_size": config.training.batch_size,
        },
        loading=[
            Loading(cache, count, speed, speed.median / free)
            for (cache, count), speed in speeds.items()
        ],
        training=training,
    )


def _some_frames(manifest: Manifest, count: int) -> Manifest:
    """The manifest with at most `count` training frames, spread evenly."""
    train = manifest.splits["train"]
    splits = {**manifest.splits, "train": evenly_spread(train, count)}
    return Manifest(manifest.dataset, manifest.root, splits, manifest.files)


def _frames(
    config: Config, manifest: Manifest, root: Path, cache: Cache, folder: Path
) -> TrainingFrames:
    settings = config.data.model_copy(update={"cache": cache})
    images = None
    if cache == "disk":
        key = CacheKey.of(manifest, settings)
        images = checked_cache(folder / "manifest.jsonl", key, root, workers=os.cpu_count() or 1)
    return TrainingFrames(manifest.splits["train"], root, settings, _SEED, images)


def _endless(config: Config, frames: TrainingFrames, first: int = 0) -> TrainingBatches:
    """Batches of more epochs than are ever measured, from the epoch `first` on."""
    batch = config.training.batch_size
    per_epoch = max(1, len(frames) // batch)
    return TrainingBatches(len(frames), batch, _SEED, 10**9, per_epoch, first * per_epoch)


def _ready(batches: Batches, workers: int) -> None:
    """Take what the loading processes prepared before anyone counted."""
    for _ in islice(batches, PREFETCH * workers + 1):
        pass


def images_per_second(
    batches: Iterable[dict[str, Tensor]], seconds: float, clock: Clock = time.perf_counter
) -> float:
    """Images of batches, from the first one on and for at least `seconds`, over their time."""
    began, images = clock(), 0
    for batch in batches:
        images += _images(batch)
        spent = clock() - began
        if spent >= seconds:
            return images / spent
    return images / (clock() - began)


def _images(batch: dict[str, Tensor]) -> int:
    samples, sources = batch["sources"].shape[:2]
    return samples * (1 + sources)


def _loaders_alone(
    config: Config,
    frames: dict[Cache, TrainingFrames],
    workers: Sequence[int],
    budget: Budget,
    clock: Clock,
) -> dict[tuple[Cache, int], Spread]:
    rates: dict[tuple[Cache, int], list[float]] = {
        (cache, count): [] for cache in frames for count in workers
    }
    for number in range(budget.rounds):
        for (cache, count), found in _in_turns(rates, number):
            batches = load_batches(frames[cache], _endless(config, frames[cache], number), count)
            _ready(batches, count)
            found.append(images_per_second(batches, budget.seconds, clock))
            del batches  # ends its processes
    return {way: Spread.of(found) for way, found in rates.items()}


def _in_turns(ways: dict[Way, list[float]], number: int) -> list[tuple[Way, list[float]]]:
    """All ways, beginning with another one in every round."""
    items = list(ways.items())
    start = number % len(items)
    return items[start:] + items[:start]


def _training(
    config: Config,
    manifest: Manifest,
    root: Path,
    folder: Path,
    frames: dict[Cache, TrainingFrames],
    budget: Budget,
    clock: Clock,
) -> list[Step]:
    """Steps of the student with each cache and the preset's workers, and with one batch."""
    # APX would need a teacher first; the frames come from outside.
    plain = parse_config(
        merge(config.model_dump(mode="json"), {"loss.apx.enabled": False, "data.cache": "off"}),
        "the preset",
    )
    identity = Identity("bench", "bench", "bench")
    training = Training(Job("bench", "student", plain, _SEED, identity, folder, manifest, root))
    training.networks.train()
    workers = config.training.workers
    repeated = next(load_batches(frames["memory"], _endless(config, frames["memory"])))
    _take_steps(training, iter([repeated] * 2), 2, clock)  # first steps allocate
    rates: dict[Cache | None, list[float]] = {None: [], **{cache: [] for cache in frames}}
    for number in range(budget.rounds):
        for cache, found in _in_turns(rates, number):
            batches: Batches = iter([repeated] * budget.steps)
            if cache is not None:
                keys = _endless(config, frames[cache], number)
                batches = load_batches(frames[cache], keys, workers)
                _ready(batches, workers)
            found.append(_take_steps(training, batches, budget.steps, clock))
            del batches
    return [Step(cache, workers, Spread.of(found)) for cache, found in rates.items()]


def _take_steps(training: Training, batches: Batches, steps: int, clock: Clock) -> float:
    """Images a second of some steps, with what they wait for their batches."""
    began, images = clock(), 0
    for number, batch in enumerate(islice(batches, steps)):
        training.step(batch, number)
        images += _images(batch)
    if training.device.type == "cuda":
        torch.cuda.synchronize()
    return images / (clock() - began)
