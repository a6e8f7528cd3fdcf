"""The evaluation's benchmark: what it counts, and that both ways do the same. Nothing on speed."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import Tensor, nn
from typer.testing import CliRunner

from fadepth.bench import evaluation as bench
from fadepth.bench.evaluation import (
    PARTS,
    EvaluationReport,
    Stopwatch,
    Task,
    generated_task,
    measure_evaluation,
)
from fadepth.bench.spread import Spread
from fadepth.cli import bench_evaluation
from fadepth.data.kitti import read_image, read_velodyne, velodyne_depth
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError
from fadepth.evaluation import evaluate
from fadepth.evaluation.evaluate import Stage
from fadepth.evaluation.protocols import find_protocol

NATIVE, INPUT = (96, 312), (64, 96)


class Clock:
    """A clock that somebody else moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Network(nn.Module):
    """Disparity from brightness; an image takes `cost` seconds of a clock, a call three more."""

    def __init__(self, clock: Clock, cost: float = 0.0) -> None:
        super().__init__()
        self.clock, self.cost = [clock], cost  # in a list, which a deep copy shares
        self.batches: list[int] = []

    def __deepcopy__(self, memo: object) -> "Network":
        copied = Network(self.clock[0], self.cost)
        copied.batches = self.batches
        return copied

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        self.clock[0].seconds += 3 + self.cost * len(images)
        return images.mean(1, keepdim=True) * 0.5 + 0.1


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return generated_task(tmp_path_factory.mktemp("task"), 3, INPUT, NATIVE)


def measured(task: Task, cost: float = 1.0, **changes: Any) -> EvaluationReport:
    clock = Clock()
    settings: dict[str, Any] = {"images": 12, "rounds": 2, "batch": 4} | changes
    return measure_evaluation(Network(clock, cost), "brightness", task, clock=clock, **settings)


def test_shares_sum_to_one_and_name_what_is_slow(task: Task) -> None:
    """Here nothing but the network takes time: 3 s a call and 1 s an image, in batches of 4."""
    report = measured(task)
    for way in (report.evaluation, report.one_by_one):
        assert set(way.shares) == set(PARTS)
        assert sum(way.shares.values()) == pytest.approx(1)
        assert way.shares["network"] == 1
        assert way.slowest == "network"
    assert report.evaluation.milliseconds["network"] == pytest.approx(7000 / 4)
    assert report.one_by_one.milliseconds["network"] == pytest.approx(4000)
    # 4 images in 7 s, 1 in 4 s.
    assert report.evaluation.speed == Spread(4 / 7, 4 / 7, 4 / 7)
    assert report.one_by_one.speed == Spread(1 / 4, 1 / 4, 1 / 4)
    assert report.ratio.median == pytest.approx(16 / 7)


@pytest.mark.parametrize(
    ("slow", "part"),
    [
        ("pixel_metrics", "metrics"),
        ("depth_at_pixels", "resize_output"),
        ("load_ground_truth", "ground_truth"),
        ("resize_image", "resize_input"),
        ("read_image", "read"),
        ("pd.DataFrame", "other"),
    ],
)
def test_every_slow_part_is_named(
    slow: str, part: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    holder, _, name = slow.rpartition(".")
    module = evaluate.pd if holder.endswith("pd") else evaluate
    whole = getattr(module, name)

    def slowly(*values: object, **named: object) -> object:
        clock.seconds += 100
        return whole(*values, **named)

    monkeypatch.setattr(module, name, slowly)
    report = measure_evaluation(
        Network(clock, 1.0), "brightness", task, images=8, rounds=2, clock=clock
    )
    assert report.evaluation.slowest == part
    assert sum(report.evaluation.shares.values()) == pytest.approx(1)


def test_both_ways_have_the_same_results(task: Task) -> None:
    report = measured(task)
    assert list(report.evaluation.metrics) == list(task.protocol.metrics)
    assert 0.05 < report.evaluation.metrics["abs_rel"] < 5
    assert report.difference < 1e-6


def test_a_difference_of_results_is_told(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in one of the ways: ground truth that is a tenth too large."""
    right = bench.load_ground_truth
    monkeypatch.setattr(bench, "load_ground_truth", lambda *names: right(*names) + 0.5)
    assert measured(task).difference > 1e-3


def test_images_come_in_rotation_in_portions_of_whole_batches(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    portions: list[list[int]] = []
    whole = bench.evaluate

    def noting(frames: Sequence[Frame], *rest: object, **named: object) -> object:
        portions.append([task.frames.index(frame) for frame in frames])
        return whole(frames, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "evaluate", noting)
    report = measured(task, images=13, rounds=2, batch=4)
    warm, *counted = portions
    assert warm == [0, 1, 2]
    assert counted == [[0, 1, 2, 0, 1, 2, 0, 1], [2, 0, 1, 2, 0]]
    assert (report.task["images"], report.task["distinct_images"]) == (13, 3)
    assert report.task["rounds"] == 2


def test_reading_ahead_has_turns_of_its_own(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its speed counts; the parts are of turns in which nothing overlaps."""
    asked: list[int] = []
    whole = bench.evaluate

    def noting(*values: object, workers: int, **named: object) -> object:
        asked.append(workers)
        return whole(*values, workers=workers, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(bench, "evaluate", noting)
    report = measured(task, workers=2)
    assert sorted(asked) == [0, 0, 0, 2, 2, 2]
    assert report.task["workers"] == 2
    assert report.evaluation.shares["network"] == 1


def test_the_network_given_is_not_changed(task: Task) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 1, 3, 1, 1)
    weight, layout = convolution.weight, convolution.weight.stride()
    network = nn.Sequential(convolution, nn.Sigmoid()).eval()
    measure_evaluation(network, "conv", task, images=4, rounds=1)
    assert convolution.weight is weight
    assert weight.stride() == layout


def test_a_stopwatch_adds_up() -> None:
    clock = Clock()
    stopwatch = Stopwatch(clock)
    spent: list[tuple[Stage, float]] = [("read", 1.0), ("network", 5.0), ("read", 2.0)]
    for stage, seconds in spent:
        with stopwatch(stage):
            clock.seconds += seconds
    clock.seconds += 9
    assert {k: v for k, v in stopwatch.seconds.items() if v} == {"read": 3.0, "network": 5.0}


def test_generated_frames_are_like_kittis(task: Task) -> None:
    """Size, files and the share of pixels with a depth; the depth is that of the street."""
    assert task.protocol is find_protocol("kitti_eigen_raw")
    for frame in task.frames:
        assert read_image(task.root / frame.image).size == NATIVE[::-1]
        assert read_velodyne(task.root / str(frame.velodyne)).shape == (120_000, 4)
        depth = velodyne_depth(task.root, frame.id)
        assert 0.035 < (depth > 0).mean() <= 0.043
        assert 2 <= depth[depth > 0].min() < depth.max() <= 80
        assert (depth[:30] > 0).mean() < (depth[50:] > 0).mean()  # the sky is above
        assert {frame.image, frame.velodyne} <= set(task.files)
    # Points are put where they were seen from: all but those that share a pixel come back.
    from fadepth.data.synthetic import make_scene, render_frame

    street = render_frame(make_scene(0, 6001, 3), 0, *NATIVE)[1]
    found = velodyne_depth(task.root, task.frames[0].id)
    np.testing.assert_allclose(found[found > 0], street[found > 0], rtol=1e-5)


def test_no_frames_are_told(task: Task) -> None:
    with pytest.raises(FadepthError, match=r"generated street .* has no frame to evaluate"):
        measured(dataclasses.replace(task, frames=[]))


def test_the_command_prints_and_writes_the_same(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "generated_task", lambda folder: task)
    app = typer.Typer()
    app.command()(bench_evaluation.evaluation)
    result = CliRunner().invoke(
        app, ["--images", "8", "--rounds", "2", "--batch", "2", "--json", "b.json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["task"]["network"] == "smalldepth"
    assert (content["task"]["batch"], content["task"]["rounds"]) == (2, 2)
    assert content["machine"]["torch_threads"] == 1
    assert content["difference"] < 1e-3
    shares = content["evaluation"]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    for text in (torch.__version__, "8 images, 3 of them distinct", "random weights"):
        assert text in result.output
    assert f"{content['ratio']['median']:.2f} (" in result.output
    slowest = max(shares, key=lambda part: shares[part])
    assert f"most time goes to: {bench_evaluation.NAMES[slowest]}" in result.output
    assert set(bench_evaluation.NAMES) == set(PARTS)
