"""How many images a second does an evaluation take in, and what takes its time?

Two ways are measured in turns, on the same images: `evaluate` as the workflow calls it, and images
one by one as published scripts do it (monodepth2 `evaluate_depth.py`): a network at batch 1, its
disparity resized to the whole ground truth, and only then the mask. Files are read by the same
functions (`evaluate` also compares their hashes), and the metrics of both are compared: a ratio of
speeds says nothing where results differ.

Where threads read ahead, parts overlap: the time of each is then taken from turns of their own, in
which nothing reads ahead.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fadepth.bench.machine import machine
from fadepth.bench.spread import Spread
from fadepth.data.convert import QUALITY, SUBSAMPLING
from fadepth.data.manifest import Frame, evenly_spread
from fadepth.data.synthetic import intrinsics, make_scene, render_frame
from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import (
    NetworkPredictor,
    Stage,
    Timer,
    batch_for,
    depth_at,
    evaluate,
    image_function,
    untimed,
)
from fadepth.evaluation.latency import balanced_orders
from fadepth.evaluation.metrics import scaled_metrics
from fadepth.evaluation.protocols import Protocol, find_protocol, load_ground_truth
from fadepth.files import write_atomic
from fadepth.geometry import disparity_to_inverse_depth
from fadepth.models import HQDecV2, SmallDepth, fold

Clock = Callable[[], float]
Metrics = list[dict[str, float]]
Network = Literal["smalldepth", "hqdecv2"]
#: Evaluates frames, and tells a timer where it is.
Evaluator = Callable[[Sequence[Frame], Timer], Metrics]

#: Parts of the time: those of `evaluate`, and what lies between them.
PARTS = (*get_args(Stage), "other")


@dataclass(frozen=True)
class Task:
    """What is evaluated.

    Attributes:
        title: what the frames are, for the reader.
        frames: at least one; all below `root`.
        files: path -> sha256 of images and ground truth, as in a manifest.
        protocol: how depth is compared with ground truth.
        size: (H, W) of the network's input.
    """

    title: str
    frames: Sequence[Frame]
    root: Path
    files: Mapping[str, str]
    protocol: Protocol
    size: tuple[int, int]


@dataclass(frozen=True)
class Way:
    """One way of evaluating.

    Attributes:
        speed: images a second.
        milliseconds: of an image, by part, where nothing overlaps.
        shares: of each part in their sum.
        metrics: mean over the images.
    """

    speed: Spread
    milliseconds: dict[str, float]
    shares: dict[str, float]
    metrics: dict[str, float]

    @property
    def slowest(self) -> str:
        """The part that takes most."""
        return max(self.shares, key=lambda part: self.shares[part])


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured, on what.

    Attributes:
        machine: processor, cores, threads and versions.
        task: network, data, images, protocol, sizes, batch, threads that read ahead, rounds.
        evaluation: `evaluate`.
        one_by_one: images one by one.
        ratio: speed of the first over that of the second, in the same round.
        difference: largest relative difference between their mean metrics.
    """

    machine: dict[str, Any]
    task: dict[str, Any]
    evaluation: Way
    one_by_one: Way
    ratio: Spread
    difference: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_evaluation(
    network: nn.Module,
    name: str,
    task: Task,
    *,
    images: int = 697,
    rounds: int = 7,
    batch: int | None = None,
    workers: int = 0,
    device: torch.device | None = None,
    clock: Clock = time.perf_counter,
) -> EvaluationReport:
    """Measure `evaluate` and images one by one.

    Args:
        network: gives disparity (B, 1, H, W) of images (B, 3, H, W), in evaluation mode; it is
            not changed.
        name: of the network.
        task: its frames come in rotation if there are fewer than `images`, else some are taken,
            spread evenly.
        images: how many are evaluated, KITTI's test list has 697.
        rounds: turns of each way, each with another part of the images.
        batch: images that `evaluate` puts through the network together; None: as in the workflow.
        workers: threads that read ahead of `evaluate`.
        device: where the network runs; None: the CPU.
        clock: seconds.

    Raises:
        FadepthError: there is no frame, or one cannot be evaluated.
    """
    if not task.frames:
        raise FadepthError(f"{task.title} has no frame to evaluate: check the split list")
    device, batch = device or torch.device("cpu"), batch or batch_for(task.size)
    fast = image_function(copy.deepcopy(network), device)
    predictor = NetworkPredictor(fast, task.root, task.size, task.protocol, batch)
    ways = {
        "evaluation": _evaluate(predictor, task, 0),
        "one_by_one": _one_by_one(copy.deepcopy(network), task, device),
    }
    if workers:
        ways["ahead"] = _evaluate(predictor, task, workers)
    chosen = evenly_spread(task.frames, images)
    for evaluator in ways.values():
        evaluator(chosen[:batch], untimed)  # first calls allocate
    turns: dict[str, list[_Turn]] = {way: [] for way in ways}
    orders = balanced_orders(len(ways))
    for number, frames in enumerate(_portions(chosen, images, rounds, batch)):
        for index in orders[number % len(orders)]:
            way = list(ways)[index]
            turns[way].append(_take_turn(ways[way], frames, clock))
    speeds = {way: [turn.images / turn.seconds for turn in found] for way, found in turns.items()}
    speeds["evaluation"] = speeds.pop("ahead", speeds["evaluation"])
    found = {way: _summary(turns[way], speeds[way]) for way in ("evaluation", "one_by_one")}
    pairs = zip(speeds["evaluation"], speeds["one_by_one"], strict=True)
    return EvaluationReport(
        machine=machine() | {"device": _device_name(device)},
        task={
            "network": name,
            "data": task.title,
            "images": images,
            "distinct_images": len({frame.image for frame in chosen}),
            "protocol": task.protocol.name,
            "input": list(task.size),
            "ground_truth": [task.frames[0].height, task.frames[0].width],
            "batch": batch,
            "workers": workers,
            "rounds": len(turns["evaluation"]),
        },
        evaluation=found["evaluation"],
        one_by_one=found["one_by_one"],
        ratio=Spread.of([ours / theirs for ours, theirs in pairs]),
        difference=_difference(found["evaluation"].metrics, found["one_by_one"].metrics),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _portions(
    frames: Sequence[Frame], images: int, rounds: int, batch: int
) -> Iterator[list[Frame]]:
    """The images in about `rounds` equal parts of whole batches; frames come in rotation."""
    size = math.ceil(images / rounds / batch) * batch
    endless = islice(cycle(frames), images)
    while portion := list(islice(endless, size)):
        yield portion


def untrained(name: Network) -> nn.Module:
    """A network with random weights, the same ones every time, as evaluations use it: folded."""
    torch.manual_seed(0)
    network = SmallDepth() if name == "smalldepth" else HQDecV2()
    return fold(network.eval())


# The two ways


def _evaluate(predictor: NetworkPredictor, task: Task, workers: int) -> Evaluator:
    def run(frames: Sequence[Frame], timer: Timer) -> Metrics:
        table, _ = evaluate(
            frames, task.root, predictor, task.protocol, files=task.files,
            workers=workers, timer=timer,
        )  # fmt: skip
        rows = table[list(task.protocol.metrics)].to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in rows]

    return run


def _one_by_one(network: nn.Module, task: Task, device: torch.device) -> Evaluator:
    """As `evaluate` would be without batches, memory formats and picked pixels."""
    network = network.to(device)

    @torch.inference_mode()
    def plain(image: Tensor) -> Tensor:
        return disparity_to_inverse_depth(network(image.to(device)))

    predictor = NetworkPredictor(plain, task.root, task.size, task.protocol, batch=1)

    def run(frames: Sequence[Frame], timer: Timer) -> Metrics:
        rows = []
        for frame in frames:
            with timer("ground_truth"):
                truth = load_ground_truth(frame, task.root, task.protocol)
            with timer("read"):
                image = predictor.image(frame)
            with timer("resize_input"):
                pixels = predictor.pixels(image)
            with timer("network"):
                disparity = predictor.disparities([pixels])[0]
            with timer("resize_output"):
                depth = depth_at(disparity, truth.shape, task.protocol)
            with timer("metrics"):
                rows.append(scaled_metrics(truth, depth, task.protocol)[0])
        return rows

    return run


# The clock


class Stopwatch:
    """Adds up what passes in each part; a `Timer` for one thread."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Count what passes inside to one part."""
        began = self.clock()
        yield
        self.seconds[stage] += self.clock() - began


@dataclass(frozen=True)
class _Turn:
    images: int
    seconds: float
    parts: dict[str, float]
    metrics: Metrics


def _take_turn(evaluator: Evaluator, frames: Sequence[Frame], clock: Clock) -> _Turn:
    stopwatch = Stopwatch(clock)
    began = clock()
    metrics = evaluator(frames, stopwatch)
    seconds = clock() - began
    parts = stopwatch.seconds
    parts["other"] = seconds - sum(parts.values())
    return _Turn(len(frames), seconds, parts, metrics)


def _summary(turns: Sequence[_Turn], speeds: Sequence[float]) -> Way:
    images, seconds = sum(turn.images for turn in turns), sum(turn.seconds for turn in turns)
    spent = {part: sum(turn.parts[part] for turn in turns) for part in PARTS}
    rows = [row for turn in turns for row in turn.metrics]
    return Way(
        Spread.of(speeds),
        {part: 1000 * value / images for part, value in spent.items()},
        {part: value / seconds for part, value in spent.items()},
        {name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
    )


def _difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Largest relative difference; of two zeros none."""
    pairs = [(ours[name], theirs[name]) for name in theirs]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-300) for a, b in pairs)


# Generated frames

#: KITTI's: size of most images, points of a scan, share of the pixels that have one.
SIZE = (375, 1242)
POINTS, SEEN = 120_000, 0.043

_DAY = "2000_01_01"
_DRIVE = f"{_DAY}/{_DAY}_drive_6001_sync"


def generated_task(
    folder: Path,
    count: int = 4,
    input_size: tuple[int, int] = (192, 640),
    native: tuple[int, int] = SIZE,
) -> Task:
    """Frames of a rendered street in KITTI's layout and formats, with scans of its depth.

    Images are JPEGs as `fadepth data prepare` writes them.

    Args:
        folder: where they are written.
        count: how many; rendering one takes two seconds.
        input_size: (H, W) of the network's input.
        native: (h, w) of the images.
    """
    height, width = native
    scene = make_scene(0, 6001, count)
    camera = intrinsics(height, width)
    _write_calibration(folder / _DAY, native, camera)
    frames, files = [], {}
    for number in range(count):
        pixels, depth, _ = render_frame(scene, number, height, width)
        image = f"{_DRIVE}/image_02/data/{number:010d}.jpg"
        scan = f"{_DRIVE}/velodyne_points/data/{number:010d}.bin"
        for name in (image, scan):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / image, quality=QUALITY, subsampling=SUBSAMPLING)
        points = _scan(depth, camera, np.random.default_rng(number))
        (folder / scan).write_bytes(points.tobytes())
        k = (camera[0, 0], camera[1, 1], camera[0, 2], camera[1, 2])
        frames.append(Frame(_DRIVE, number, "l", image, {}, k, height, width, scan, None))
        for name in (image, scan):
            files[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    title = f"generated street (JPEG, scans of {POINTS:,} points)"
    return Task(title, frames, folder, files, find_protocol("kitti_eigen_raw"), input_size)


def _write_calibration(folder: Path, size: tuple[int, int], camera: NDArray[np.float64]) -> None:
    """Of a laser at the camera's place, x forward, y left, z up."""
    height, width = size
    folder.mkdir(parents=True, exist_ok=True)
    projection = " ".join(f"{value:.6e}" for value in np.column_stack([camera, [0, 0, 0]]).ravel())
    write_atomic(
        folder / "calib_cam_to_cam.txt",
        f"S_rect_02: {width} {height}\nP_rect_02: {projection}\nR_rect_00: 1 0 0 0 1 0 0 0 1\n",
    )
    write_atomic(folder / "calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")


def _scan(
    depth: NDArray[np.floating], camera: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A scan (N, 4): points of depth (h, w) that the camera sees, and those around it."""
    row, column = np.nonzero((depth > 2) & (depth < 80))
    picked = rng.choice(len(row), min(int(SEEN * depth.size), len(row)), replace=False)
    row, column = row[picked], column[picked]
    z = depth[row, column].astype(np.float64)
    # `project_velodyne` lowers rounded positions by one.
    right, down = (
        (place + 1 - camera[axis, 2]) / camera[axis, axis] * z
        for axis, place in enumerate((column, row))
    )
    seen = np.column_stack([z, -right, -down])
    around = POINTS - len(seen)
    # Outside of the camera's 41 degrees to either side.
    angle, distance = rng.uniform(np.pi / 4, 7 * np.pi / 4, around), rng.uniform(4, 60, around)
    others = np.column_stack(
        [distance * np.cos(angle), distance * np.sin(angle), rng.uniform(-1.6, 1, around)]
    )
    points = np.column_stack([np.concatenate([seen, others]), np.zeros(POINTS)])
    return rng.permutation(points).astype("<f4")
