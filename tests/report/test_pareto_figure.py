"""Accuracy against latency: the front by enumeration, points where they belong, labels apart."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fadepth.errors import FadepthError
from fadepth.report.figure_style import COLUMN, MARKS
from fadepth.report.label_places import Box, placed
from fadepth.report.pareto_figure import (
    KINDS,
    LARGEST,
    SMALLEST,
    ParetoPoint,
    draw_pareto,
    error_ticks,
    latency_ticks,
    marker_area,
    pareto,
    pareto_front,
)
from tests.report.figure_checks import (
    STAMP,
    artist,
    assert_clean,
    assert_same_files,
    boxes,
    drawn,
    words,
)

DEVICE = "cpu, 1 thread, 64x208, batch 1"


def point(label, latency, error, kind="variant", params=1.6, **more):
    fields = {"latency_low": None, "latency_high": None, "abs_rel_std": None} | more
    return ParetoPoint(label, kind, latency, abs_rel=error, params_m=params, **fields)


THREE = (
    point("SmallDepth", 12.3, 0.142, latency_low=11.9, latency_high=13.6, abs_rel_std=0.004),
    point("HQDecv2 (teacher)", 310.0, 0.128, "teacher", 61.2, latency_high=335.0),
    point("mean disparity of the training set", 0.21, 0.31, "baseline", None),
)


def clustered(seed=1, count=9):
    rng = np.random.default_rng(seed)
    parts = ("ETM", "AC", "PL", "APX", "cbw")
    return [
        point(
            f"row {i}: {'+'.join(rng.choice(parts, 3, replace=False))}",
            float(20 + rng.normal(0, 1.2)),
            float(0.14 + rng.normal(0, 0.002)),
            params=1.6 + 0.05 * i,
            latency_low=15.0,
            latency_high=26.0,
            abs_rel_std=0.0015,
        )
        for i in range(count)
    ]


def figure_of(points, stamp=STAMP):
    return pareto(points, title="Accuracy against latency", device=DEVICE, stamp=stamp)


def test_the_front_is_what_enumeration_finds():
    rng = np.random.default_rng(0)
    for _ in range(300):
        # Few values, so that ties and equal points occur.
        values = rng.integers(1, 6, (int(rng.integers(1, 9)), 2))
        points = [point("", float(x), float(y)) for x, y in values]

        def beaten(p, others=points):
            return any(
                q.latency_ms <= p.latency_ms
                and q.abs_rel <= p.abs_rel
                and (q.latency_ms < p.latency_ms or q.abs_rel < p.abs_rel)
                for q in others
            )

        front = pareto_front(points)
        assert sorted(front) == [i for i, p in enumerate(points) if not beaten(p)]
        assert [points[i].latency_ms for i in front] == sorted(points[i].latency_ms for i in front)


@pytest.mark.parametrize("points", [THREE, clustered()], ids=["three", "clustered"])
def test_what_is_drawn_is_what_was_given(points):
    figure = figure_of(points)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for p in points:
        assert drawn(figure, f"point:{p.label}") == [[p.latency_ms], [p.abs_rel]]
        marker = artist(figure, f"point:{p.label}")
        assert marker.get_marker() == MARKS[p.kind][0]
        assert (marker.get_markerfacecolor() == "white") == (p.params_m is None)
        assert left < (p.latency_low or p.latency_ms) and (p.latency_high or p.latency_ms) < right
        assert low < p.abs_rel - (p.abs_rel_std or 0) and p.abs_rel + (p.abs_rel_std or 0) < high
        if p.latency_high:
            ends = [p.latency_low or p.latency_ms, p.latency_high]
            assert drawn(figure, f"latency:{p.label}") == [ends, [p.abs_rel] * 2]
        if p.abs_rel_std:
            ends = [p.abs_rel - p.abs_rel_std, p.abs_rel + p.abs_rel_std]
            assert drawn(figure, f"spread:{p.label}") == [[p.latency_ms] * 2, ends]


def test_the_front_is_stepped_through_its_points_and_beats_what_lies_above():
    points = [*THREE, point("beaten", 50.0, 0.2)]
    figure = figure_of(points)
    x, y = drawn(figure, "front")
    corners = list(zip(x, y, strict=True))
    for (x0, y0), (x1, y1) in itertools.pairwise(corners):
        assert x0 == x1 or y0 == y1
        assert x0 <= x1 and y0 >= y1
    assert {(p.latency_ms, p.abs_rel) for p in THREE} <= set(corners)
    assert (50.0, 0.2) not in corners
    assert (12.3, 0.31) in corners  # what the faster one reaches until the next one is affordable
    assert (x[-1], y[0]) == (figure.axes[0].get_xlim()[1], figure.axes[0].get_ylim()[1])
    assert artist(figure, "front").is_dashed()


def test_markers_grow_with_parameters():
    assert marker_area(None, 60) == SMALLEST and marker_area(60, 60) == LARGEST
    assert marker_area(15, 60) - SMALLEST == pytest.approx((LARGEST - SMALLEST) / 4)
    figure = figure_of([point(k, 10.0 + n, 0.1 + n, k, 60) for n, k in enumerate(KINDS)])
    size = {k: artist(figure, f"point:{k}").get_markersize() for k in KINDS}
    # Of matplotlib's markers, size is the side of a square, the diameter of a circle, and base and
    # height of a triangle.
    assert math.pi * (size["variant"] / 2) ** 2 == pytest.approx(LARGEST)
    assert size["teacher"] ** 2 == pytest.approx(LARGEST)
    assert size["baseline"] ** 2 / 2 == pytest.approx(LARGEST)
    assert len({MARKS[kind][0] for kind in KINDS}) == len(KINDS)
    said = words(figure_of(THREE))
    assert "1.6 M parameters" in said and "61.2 M parameters" in said
    assert "hollow: parameters not counted" in said


CASES = {
    "one": THREE[:1],
    "three": THREE,
    "clustered": clustered(),
    "clustered again": clustered(5),
    "with teacher": [*clustered(3, 8), THREE[1]],
    "same place": [point(f"the same network, call {i}", 20.0, 0.14) for i in range(6)],
}


@pytest.mark.parametrize("scale", ["smoke", "quick", "full"])
@pytest.mark.parametrize("points", CASES.values(), ids=CASES.keys())
def test_every_label_can_be_read(points, scale):
    stamp = dataclasses.replace(STAMP, scale=scale)
    figure = figure_of(points, stamp)
    assert figure.get_size_inches()[0] == COLUMN
    assert_clean(figure)
    said = words(figure)
    assert stamp.sentence() in said and DEVICE in said.replace("\n", " ")
    for p in points:
        assert p.label in said.replace("\n", " ")
    warnings = {"smoke": "smoke: not a result", "quick": "says nothing about the paper's numbers"}
    assert [s for s, text in warnings.items() if text in said] == (
        [] if scale == "full" else [scale]
    )


def test_labels_stay_within_the_axes_and_near_their_points():
    figure = figure_of(clustered())
    axes = figure.axes[0]
    frame = axes.get_window_extent().padded(1)
    at = {label.replace("\n", " "): place for label, *place in boxes(figure)}
    for p in clustered():
        left, bottom, right, top = (figure.dpi * v for v in at[p.label])
        assert frame.x0 <= left and right <= frame.x1 and frame.y0 <= bottom and top <= frame.y1
        x, y = axes.transData.transform((p.latency_ms, p.abs_rel))
        gap = math.hypot(max(left - x, 0, x - right), max(bottom - y, 0, y - top))
        assert gap < 70 * figure.dpi / 72


def test_placed_covers_neither_labels_nor_markers_where_there_is_room():
    rng = np.random.default_rng(4)
    for _ in range(5):
        anchors = [(float(x), float(y)) for x, y in rng.uniform((60, 40), (220, 130), (8, 2))]
        markers = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in anchors]
        found = placed(anchors, [(40.0, 8.0)] * 8, markers, [], (280.0, 170.0))
        assert [b.right - b.left for b in found] == pytest.approx([40] * 8)
        assert [b.top - b.bottom for b in found] == pytest.approx([8] * 8)
        for a, b in itertools.combinations(found, 2):
            assert a.overlap(b) == 0
        for box, marker in itertools.product(found, markers):
            assert box.overlap(marker) == 0
        assert all(box.outside(280, 170) == 0 for box in found)


def test_box_areas_by_counting():
    rng = np.random.default_rng(2)
    x, y = np.meshgrid(np.arange(20) + 0.5, np.arange(20) + 0.5)

    def inside(b):
        return (b.left < x) & (x < b.right) & (b.bottom < y) & (y < b.top)

    for _ in range(100):
        one, two = (
            Box(*(float(v) for v in (a, b, a + w, b + h)))
            for a, b, w, h in rng.integers(0, 10, (2, 4))
        )
        assert one.overlap(two) == (inside(one) & inside(two)).sum()
        assert one.outside(8, 12) == (inside(one) & ~inside(Box(0, 0, 8, 12))).sum()


@pytest.mark.parametrize("ends", [(0.1, 600), (10, 500), (18, 27), (12, 15.5), (900, 2600)])
def test_latency_ticks_are_plain_numbers_that_do_not_touch(ends):
    ticks, labels = latency_ticks(*ends, 3.0)
    assert len(ticks) >= 2
    assert [float(label.replace(" ", "")) for label in labels] == ticks
    assert not any(sign in label for label in labels for sign in "e$^")
    assert all(ends[0] <= tick <= ends[1] for tick in ticks)


def test_error_ticks_print_what_they_are():
    for low, high in ((0.1, 0.35), (0.1234, 0.1299), (0.0, 12.0)):
        ticks, labels = error_ticks(low, high)
        assert [float(label) for label in labels] == pytest.approx(ticks, abs=1e-12)
        assert len({len(label.partition(".")[2]) for label in labels}) == 1 and len(ticks) >= 3


def test_the_same_points_give_the_same_files(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.report.test_pareto_figure import *; "
        "draw_pareto(Path(sys.argv[1]), clustered(), title='P', device=DEVICE, stamp=STAMP)"
    )
    first, second = tmp_path / "a" / "pareto.png", tmp_path / "b" / "pareto.png"
    draw_pareto(first, clustered(), title="P", device=DEVICE, stamp=STAMP)
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(second)], check=True, cwd=root)
    assert_same_files(first, second)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "reported"}, "measured on this device"),
        ({"latency_ms": 0.0}, "not positive and finite"),
        ({"abs_rel": math.nan}, "not positive and finite"),
        ({"latency_low": 12.5}, "outside 12.5 to 13.6"),
    ],
)
def test_points_that_do_not_belong_here_are_refused(change, match):
    with pytest.raises(FadepthError, match=match) as told:
        figure_of([dataclasses.replace(THREE[0], **change)])
    assert "SmallDepth" in str(told.value)


def test_no_points_are_refused():
    with pytest.raises(FadepthError, match="no points"):
        figure_of([])
