"""The loader's benchmark: what it counts, and that every way gets its turn. Nothing on speed."""

import json
import multiprocessing.util
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from fadepth.bench.loader import Budget, images_per_second, measure_loader
from fadepth.bench.spread import Spread
from fadepth.cli import bench
from fadepth.data.dataset import TrainingFrames
from fadepth.errors import FadepthError
from tests.tiny import tiny_config, tiny_manifest

SMALL: dict[str, Any] = {"student__width": 0.25, "pose__width": 0.25}


class Clock:
    """A clock that goes on by one second whenever somebody looks at it."""

    def __init__(self) -> None:
        self.seconds = count()

    def __call__(self) -> float:
        return float(next(self.seconds))


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder of this test; `tmp_path` is too long for the sockets of processes."""
    # Fixed now, since it is chosen once in a process and this test's folder goes.
    multiprocessing.util.get_temp_dir()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)
        monkeypatch.undo()


def test_an_image_is_one_of_a_sample_not_a_sample() -> None:
    batch = {"sources": torch.zeros(4, 2, 3, 8, 8)}
    # 12 images a batch and a second; the third look at the clock is after the second batch.
    assert images_per_second(iter([batch] * 9), 2.0, Clock()) == 24 / 2
    assert images_per_second(iter([batch] * 9), 0.0, Clock()) == 12 / 1


def test_a_speed_is_the_median_with_its_range() -> None:
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_every_way_is_measured_and_compared_with_the_training(
    tmp_path: Path, scratch: Path
) -> None:
    config = tiny_config(tmp_path, loss__apx__enabled=True, data__cache="disk", **SMALL)
    report = measure_loader(
        config, tiny_manifest(tmp_path), tmp_path, workers=(0, 1),
        budget=Budget(rounds=2, seconds=0.0, steps=2, frames=4), clock=Clock(),
    )  # fmt: skip
    ways = [(way.cache, way.workers) for way in report.loading]
    assert ways == [(c, w) for c in ("off", "memory", "disk") for w in (0, 1)]
    # A batch has two samples of three images: one batch in one second, two steps in one second.
    for way in report.loading:
        assert way.speed == Spread(6.0, 6.0, 6.0)
        assert way.ratio == 0.5
    assert {step.cache for step in report.training} == {None, "off", "memory", "disk"}
    assert all(step.speed.median == 12.0 for step in report.training)
    assert (report.task["frames"], report.task["images_per_sample"]) == (4, 3)
    assert list(scratch.glob("fadepth-bench-*")) == []


def test_rounds_take_turns(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways in each round, no two rounds in the same order."""
    seen: list[str] = []
    whole = TrainingFrames.__getitem__

    def noting(self: TrainingFrames, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        if not seen or seen[-1] != self.settings.cache:
            seen.append(self.settings.cache)
        return whole(self, key)

    monkeypatch.setattr(TrainingFrames, "__getitem__", noting)
    measure_loader(
        tiny_config(tmp_path, **SMALL), tiny_manifest(tmp_path), tmp_path, workers=(0,),
        budget=Budget(rounds=3, seconds=0.0, steps=1), clock=Clock(),
    )  # fmt: skip
    loaders = ["off", "memory", "disk", "memory", "disk", "off", "disk", "off", "memory"]
    assert seen[: len(loaders)] == loaders


def test_the_command_prints_and_writes_the_same(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_manifest(tmp_path).write(tmp_path / "manifest.jsonl")
    config = tiny_config(tmp_path, **SMALL)
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["loader", "--preset", "preset.yaml", "--manifest", "manifest.jsonl"]
    arguments += ["--rounds", "1", "--workers", "0", "--json", "speed.json"]
    result = CliRunner().invoke(bench.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "speed.json").read_text())
    assert [(way["cache"], way["workers"]) for way in content["loading"]] == [
        ("off", 0), ("memory", 0), ("disk", 0),
    ]  # fmt: skip
    for way in content["loading"]:
        assert f"{way['speed']['median']:.0f} (" in result.output
    free = next(s["speed"]["median"] for s in content["training"] if s["cache"] is None)
    assert content["loading"][2]["ratio"] == content["loading"][2]["speed"]["median"] / free
    assert torch.__version__ in result.output
    assert content["machine"]["torch_threads"] == 1
    assert content["task"]["frames"] == 6  # all that there are
    assert "tiny: 6 frames" in result.output
    assert list(scratch.glob("fadepth-bench-*")) == []


@pytest.mark.parametrize("text", ["", "0,two", "-1", "1,1"])
def test_numbers_of_workers_are_checked(text: str) -> None:
    with pytest.raises(FadepthError, match="write distinct numbers such as 0,1,2"):
        CliRunner().invoke(bench.app, ["loader", "--workers", text], catch_exceptions=False)
