"""Training steps in turns: which trainings, and that ratios are those of a clock we set."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fadepth.bench import training as bench
from fadepth.bench.training import REFERENCE, VARIANTS, measure_training
from fadepth.config import Config, parse_config
from fadepth.errors import FadepthError
from fadepth.evaluation.latency import Call, Turn
from fadepth.models.monodepth2 import Monodepth2, Monodepth2Pose
from fadepth.training import Training


def config(height: int = 64, width: int = 64) -> Config:
    content = {
        "scale": "full",
        "data": {"height": height, "width": width},
        "training": {"batch_size": 2},
        "student": {"width": 0.25},
        "loss": {"pyramid": {"levels": 2}},  # the last level has 32 rows at least
    }
    return parse_config(content, "the test")


class Watch:
    """A stopwatch by which the reference takes 6 s and every other call 2 s."""

    def __init__(self) -> None:
        self.slow: Call | None = None
        self.seen: list[Call] = []

    def __call__(self, call: Call) -> Turn:
        call()
        self.slow = self.slow or call  # the first round begins with the first call
        self.seen.append(call)
        seconds = 6.0 if call is self.slow else 2.0
        return Turn(seconds, seconds)


def test_steps_are_compared_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Training] = []
    remember = bench._training

    def building(*arguments: Any) -> Training:
        built.append(remember(*arguments))
        return built[-1]

    monkeypatch.setattr(bench, "_training", building)
    watch = Watch()
    report = measure_training(config(), rounds=2, stopwatch=watch)
    assert list(report.steps) == list(VARIANTS)
    assert len(watch.seen) == 3 * len(VARIANTS)  # one round does not count
    assert report.steps[REFERENCE].images_per_second == pytest.approx(2 / 6)
    for name, speed in report.steps.items():
        assert speed.speed_up.median == pytest.approx(1.0 if name == REFERENCE else 3.0)
    networks = dict(zip(VARIANTS, (training.networks for training in built), strict=True))
    assert isinstance(networks[REFERENCE].depth, Monodepth2)
    assert isinstance(networks[REFERENCE].pose, Monodepth2Pose)
    assert [t.pyramid for t in built] == [("pyramid" in n or n.startswith("all")) for n in VARIANTS]
    assert [t.apx for t in built] == [("APX" in n or n.startswith("all")) for n in VARIANTS]
    everything = report.parts["+ ETM + pyramid loss + APX"]
    assert {"depth network", "pose network", "base loss", "pyramid loss", "APX", "gradients"} <= (
        set(everything)
    )
    assert all(seconds >= 0 for name, seconds in everything.items() if name != "rest")
    assert report.as_dict()["task"]["batch_size"] == 2


def test_steps_really_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a gradient a step would be cheap."""
    built: list[tuple[Training, list[Tensor]]] = []
    build = bench._training

    def building(*arguments: Any) -> Training:
        training = build(*arguments)
        built.append((training, [p.detach().clone() for p in training.networks.parameters()]))
        return training

    monkeypatch.setattr(bench, "_training", building)
    chosen = {REFERENCE: VARIANTS[REFERENCE], "+ APX": VARIANTS["+ APX"]}

    def watch(call: Call) -> Turn:
        call()
        return Turn(1.0, 1.0)

    measure_training(config(), variants=chosen, rounds=1, stopwatch=watch)
    for training, before in built:
        after = list(training.networks.parameters())
        changed = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
        assert sum(changed) > 0.9 * len(changed)


def test_sizes_that_the_reference_does_not_take() -> None:
    with pytest.raises(FadepthError, match="64x208: monodepth2's network needs multiples of 32"):
        measure_training(config(64, 208))
