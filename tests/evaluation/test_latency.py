"""Networks take turns on the clock; how long they take is no test's business."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from fadepth.evaluation import latency
from fadepth.evaluation.latency import WARM_UP, measure_latencies


class Noted(nn.Module):
    """Writes down that it was called, and with what."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, image: Tensor) -> Tensor:
        assert not self.training
        assert image.shape == (1, 3, 6, 8)
        self.calls.append(self.name)
        return image


def test_every_round_times_each_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a machine that slows down halfway slows them all; warm-up rounds do not count."""
    calls: list[str] = []
    networks = {name: Noted(name, calls) for name in ("a", "b", "c")}
    # A clock of our own: a takes 1, b 2, c 3 seconds in the first round, ten times that afterwards.
    steps = itertools.chain([1, 2, 3] * WARM_UP, [10, 20, 30] * 5)
    now = [0.0]

    def clock() -> float:
        value = now[0]
        now[0] += 0 if ticks.__next__() % 2 else next(steps)
        return value

    ticks = itertools.count()
    monkeypatch.setattr(latency.time, "perf_counter", clock)
    found = measure_latencies(networks, 6, 8, torch.device("cpu"), rounds=5)
    assert calls == ["a", "b", "c"] * (WARM_UP + 5)
    assert [found[name].median for name in networks] == [10_000, 20_000, 30_000]
    assert found["a"].low == found["a"].high == 10_000
