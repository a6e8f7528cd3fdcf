"""Rooflines: traffic and arithmetic counted by hand, and the larger of both for each layer."""

import itertools

import pytest
import torch
from torch import nn

from fadepth.bench.limits import Layer, Peak, layers_of, limit_of, measure_limits, measure_peak
from fadepth.models import SmallDepth, fold


def test_layers_are_counted_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1, groups=2)
    )
    first, last = layers_of(network, 8, 6)
    assert (first.name, last.name) == ("0", "2")
    assert first.macs == 9 * 3 * 8 * 4 * 3
    assert last.macs == 4 * 4 * 4 * 3
    # Image, map and weights with their bias, four bytes each.
    assert first.bytes == 4 * (3 * 8 * 6 + 8 * 4 * 3 + 8 * 3 * 9 + 8)
    assert last.bytes == 4 * (8 * 4 * 3 + 4 * 4 * 3 + 4 * 4 + 4)


def test_smalldepth_has_the_macs_of_its_docstring() -> None:
    layers = layers_of(fold(SmallDepth()), 192, 640)
    assert sum(layer.macs for layer in layers) / 1e9 == pytest.approx(0.682, abs=5e-4)
    assert sum(layer.macs > 0 for layer in layers) == 35


def test_each_layer_waits_for_the_slower_of_both() -> None:
    peak = Peak(macs=1e9, bandwidth=1e8, cached_bandwidth=2e9)
    layers = [Layer("busy", macs=3_000_000, bytes=2_000_000), Layer("wide", 1_000_000, 8_000_000)]
    limit = limit_of(layers, peak, milliseconds=14.0)
    assert limit.arithmetic == pytest.approx(4.0)
    assert limit.traffic == pytest.approx(5.0)
    assert limit.roofline == pytest.approx(3.0 + 4.0)
    assert limit.reached == pytest.approx(0.5)


def test_peaks_are_those_of_the_fastest_repeat() -> None:
    """A clock on which every call takes 2, 1, 2, 1, ... seconds."""
    now = itertools.accumulate(itertools.cycle([2.0, 0.5, 1.0, 0.5]))
    peak = measure_peak(repeats=4, clock=lambda: next(now))
    # Between start and end of a call lie 0.5 s at best; 2048^3 is the most work of one call.
    assert peak.macs == pytest.approx(2048**3 / 0.5)
    assert peak.bandwidth == pytest.approx(8 * 64 * 2**20 / 0.5)
    assert peak.cached_bandwidth == pytest.approx(8 * 128 * 2**10 * 50 / 0.5)


@pytest.mark.slow
def test_no_network_is_faster_than_its_roofline() -> None:
    """Half of it at most for noise: a bound that is undercut clearly is counted wrongly."""
    torch.manual_seed(0)
    report = measure_limits({"net": fold(SmallDepth())}, 192, 640, rounds=6)
    assert 0 < report.limits["net"].reached < 1.5
    assert report.as_dict()["limits"]["net"]["gmacs"] == pytest.approx(0.682, abs=5e-4)
