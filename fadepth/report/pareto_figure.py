"""Accuracy against latency: which networks no other one beats in both.

All points are of one run of the measurement on one device; a latency measured elsewhere, or printed
in a publication, says nothing beside them.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from fadepth.errors import FadepthError
from fadepth.report.figure_style import (
    COLUMN,
    GREY,
    INK,
    MARGIN,
    MARKS,
    NORMAL,
    SMALL,
    Sheet,
    apart,
    finite,
    text_height,
    text_width,
    wrapped,
    write_figure,
)
from fadepth.report.label_places import Box, Place, gap, nearest, placed
from fadepth.report.table import RowKind, Stamp

NAME, HEIGHT, AXIS = 0.16, 2.3, 0.24  # of the y axis' name, the plot, the x axis' numbers, inches
KEY_LINE = 0.165  # of the legend, whose markers are large, inches
LABELS = 1.1  # inches that a line of a label may take
FAR = 9  # points from which on a label needs a line to its marker
SMALLEST, LARGEST = 16.0, 100.0  # areas of markers, points^2: no parameters, most parameters

#: Name of each kind that may be drawn.
KINDS: dict[RowKind, str] = {
    "variant": "student",
    "teacher": "teacher",
    "baseline": "baseline",
    "official": "published weights",
}


@dataclass(frozen=True)
class ParetoPoint:
    """One network.

    Attributes:
        label: its name.
        kind: a key of `KINDS`.
        latency_ms: per image.
        latency_low, latency_high: ends of its spread, ms.
        abs_rel: error, smaller is better.
        abs_rel_std: standard deviation over seeds.
        params_m: millions of parameters; None: not known, drawn hollow.
    """

    label: str
    kind: RowKind
    latency_ms: float
    latency_low: float | None
    latency_high: float | None
    abs_rel: float
    abs_rel_std: float | None
    params_m: float | None


def pareto_front(points: Sequence[ParetoPoint]) -> list[int]:
    """Indices of points that no other point beats, by ascending latency.

    A point is beaten by one that is at least as good in both and better in one; of equal points
    none beats the other.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i].latency_ms, points[i].abs_rel))
    front: list[int] = []
    for index in order:
        point = points[index]
        if front:
            last = points[front[-1]]
            equal = (point.latency_ms, point.abs_rel) == (last.latency_ms, last.abs_rel)
            if point.abs_rel >= last.abs_rel and not equal:
                continue
        front.append(index)
    return front


def pareto(points: Sequence[ParetoPoint], *, title: str, device: str, stamp: Stamp) -> Figure:
    """Draw the figure; arguments as `draw_pareto`."""
    _check(points)
    words = wrapped(f"latency, ms, log scale ({device})", COLUMN - 0.7, NORMAL)
    handles = _legend(points)
    notes = wrapped(_notes(points), COLUMN - 2 * MARGIN - 0.02, SMALL)
    below = AXIS + text_height(words, NORMAL)
    keys = KEY_LINE * math.ceil(len(handles) / 3)
    total = NAME + HEIGHT + below + keys + text_height(notes, SMALL)
    sheet = Sheet(COLUMN, total, title=title, stamp=stamp)
    limits = error_range(points)
    ticks, labels = error_ticks(*limits)
    left = sheet.left + max(text_width(label, SMALL) for label in labels) + 0.06
    width, top = sheet.right - left - 0.04, sheet.top + NAME
    axes = sheet.plot(left, top, width, HEIGHT)
    axes.set_ylim(limits)
    axes.set_yticks(ticks, labels)
    _frame(axes, points, width)
    _draw_front(axes, points)
    for point in points:
        _draw_point(axes, point, _most(points))
    _label(axes, points, (width * 72, HEIGHT * 72))
    sheet.block(sheet.left, sheet.top, "Abs Rel (lower is better)")
    sheet.block(left + width / 2, top + HEIGHT + 0.16, words, ha="center")
    sheet.legend(top + HEIGHT + below, handles, columns=3, line=KEY_LINE)
    sheet.block(sheet.left, top + HEIGHT + below + keys, notes, size=SMALL, colour=GREY)
    return sheet.figure


def draw_pareto(
    path: Path, points: Sequence[ParetoPoint], *, title: str, device: str, stamp: Stamp
) -> None:
    """Write accuracy against latency as PNG and PDF.

    Args:
        path: of the PNG; the PDF is written beside it.
        points: of one measurement on one device.
        title: of the figure.
        device: where and how latency was measured ("cpu, 1 thread, 64x208, batch 1").
        stamp: where the numbers are from.

    Raises:
        FadepthError: there are no points, one is only reported, or a number is not sensible.
    """
    write_figure(pareto(points, title=title, device=device, stamp=stamp), path)


def _check(points: Sequence[ParetoPoint]) -> None:
    if not points:
        raise FadepthError("the figure of accuracy and latency has no points: give at least one")
    for p in points:
        if p.kind not in KINDS:
            raise FadepthError(
                f"point '{p.label}' is {p.kind}: give only points measured on this device"
            )
        numbers = (
            p.latency_ms,
            p.latency_low,
            p.latency_high,
            p.abs_rel,
            p.abs_rel_std,
            p.params_m,
        )
        if not finite(*numbers) or min(p.latency_ms, p.latency_low or 1, p.abs_rel) <= 0:
            raise FadepthError(
                f"point '{p.label}' has a latency or error that is not positive and finite: leave "
                "it out"
            )
        low, high = p.latency_low or p.latency_ms, p.latency_high or p.latency_ms
        if not low <= p.latency_ms <= high:
            raise FadepthError(
                f"point '{p.label}' has a latency of {p.latency_ms} ms outside {low} to {high}: "
                "give a low end below and a high end above it"
            )


# Axes


def _frame(axes: Axes, points: Sequence[ParetoPoint], width: float) -> None:
    """Limits and ticks; markers and labels need room on every side."""
    axes.spines[["top", "right"]].set_visible(False)
    ends = [x for p in points for x in (p.latency_ms, p.latency_low, p.latency_high) if x]
    low, high = min(ends), max(ends)
    pad = max((high / low) ** 0.14, 1.15)
    low, high = low / pad, high * pad
    axes.set(xscale="log", xlim=(low, high))
    ticks, labels = latency_ticks(low, high, width)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="both", color="#e8e8e8", linewidth=0.4)
    axes.set_axisbelow(True)


def error_range(points: Sequence[ParetoPoint]) -> tuple[float, float]:
    """Ends of the y axis, with room for labels above and below."""
    errors = [p.abs_rel + sign * (p.abs_rel_std or 0) for p in points for sign in (-1, 1)]
    space = max(0.16 * (max(errors) - min(errors)), 0.03 * max(errors))
    return max(0.0, min(errors) - space), max(errors) + space


def error_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Round numbers on the y axis, and how they are printed: all with the same decimals."""
    found = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = [float(tick) for tick in found if low <= tick <= high]
    step = float(found[1] - found[0])
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return ticks, [f"{tick:.{decimals}f}" for tick in ticks]


def latency_ticks(low: float, high: float, width: float) -> tuple[list[float], list[str]]:
    """Round numbers on a log axis of `width` inches, as many as fit, and how they are printed."""
    steps: tuple[tuple[float, ...], ...] = (
        (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
        (1, 1.5, 2, 3, 4, 5, 7),
        (1, 2, 3, 5),
        (1, 2, 5),
        (1, 3),
        (1,),
    )
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for chosen in steps:
        ticks = [s * 10.0**d for d, s in itertools.product(decades, chosen)]
        ticks = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
        labels = [f"{tick:,.6g}".replace(",", " ") for tick in ticks]
        places = [math.log(tick / low) / math.log(high / low) * width for tick in ticks]
        if apart(places, labels):
            break
    return ticks, labels


# Points


def _most(points: Sequence[ParetoPoint]) -> float:
    """Millions of parameters of the largest network; 0 where none is known."""
    return max(p.params_m or 0 for p in points)


def marker_area(params_m: float | None, most: float) -> float:
    """Area of a marker, points^2: linear in parameters, from `SMALLEST` for none to `LARGEST`."""
    if params_m is None or most <= 0:
        return SMALLEST
    return SMALLEST + (LARGEST - SMALLEST) * params_m / most


def _style(kind: RowKind, params_m: float | None, most: float) -> dict[str, Any]:
    """Of a Line2D's marker. Its size is a side; a circle and a square of one area differ in it."""
    marker, colour = MARKS[kind]
    area = marker_area(params_m, most)
    side = {"o": math.sqrt(4 * area / math.pi), "^": math.sqrt(2 * area)}.get(
        marker, math.sqrt(area)
    )
    return {
        "marker": marker,
        "markersize": side,
        "markeredgecolor": colour if params_m is None else "white",
        "markerfacecolor": "white" if params_m is None else colour,
        "markeredgewidth": 1.0 if params_m is None else 0.5,
        "linestyle": "none",
    }


def _draw_front(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    """Steps along the front, and on to the edges: what lies above and right of it is beaten."""
    corners: list[Place] = []
    height = axes.get_ylim()[1]
    for p in (points[index] for index in pareto_front(points)):
        corners += [(p.latency_ms, height), (p.latency_ms, p.abs_rel)]
        height = p.abs_rel
    corners.append((axes.get_xlim()[1], height))
    (line,) = axes.plot(*zip(*corners, strict=True), **_FRONT)
    line.set_gid("front")


_FRONT: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (4, 2)), "zorder": 1.5}


def _draw_point(axes: Axes, p: ParetoPoint, most: float) -> None:
    bar: dict[str, Any] = {"color": MARKS[p.kind][1], "linewidth": 0.7, "zorder": 2}
    if p.latency_low is not None or p.latency_high is not None:
        ends = [p.latency_low or p.latency_ms, p.latency_high or p.latency_ms]
        axes.plot(ends, [p.abs_rel] * 2, **bar)[0].set_gid(f"latency:{p.label}")
    if p.abs_rel_std:
        ends = [p.abs_rel - p.abs_rel_std, p.abs_rel + p.abs_rel_std]
        axes.plot([p.latency_ms] * 2, ends, **bar)[0].set_gid(f"spread:{p.label}")
    (point,) = axes.plot([p.latency_ms], [p.abs_rel], **_style(p.kind, p.params_m, most), zorder=3)
    point.set_gid(f"point:{p.label}")


def _legend(points: Sequence[ParetoPoint]) -> list[Any]:
    """Kinds, front and sizes that occur."""
    most = _most(points)
    handles = [
        Line2D([], [], label=name, **_style(kind, most / 4 if most else None, most))
        for kind, name in KINDS.items()
        if any(p.kind == kind for p in points)
    ]
    handles.append(Line2D([], [], label="Pareto front", **_FRONT))
    known = [p.params_m for p in points if p.params_m]
    for size in dict.fromkeys((min(known), max(known)) if known else ()):
        style = _style("variant", size, most) | {"markerfacecolor": "#b0b0b0"}
        handles.append(Line2D([], [], label=f"{size:.3g} M parameters", **style))
    return handles


def _notes(points: Sequence[ParetoPoint]) -> str:
    """What the bars are."""
    found = []
    if any(p.latency_low is not None or p.latency_high is not None for p in points):
        found.append("horizontal bars: spread of the timings")
    if any(p.abs_rel_std for p in points):
        found.append("vertical bars: ± one standard deviation over seeds")
    if any(p.params_m is None for p in points):
        found.append("hollow: parameters not counted")
    return "; ".join(found)


# Labels


def _label(axes: Axes, points: Sequence[ParetoPoint], page: Place) -> None:
    """Names beside the points, with a thin line where the name had to go far."""
    x, y = np.array([(p.latency_ms, p.abs_rel) for p in points]).T
    anchors = [(float(a), float(b)) for a, b in _on_page(axes, x, y, page)]
    names = [wrapped(p.label, LABELS, SMALL) for p in points]
    sizes = [(72 * text_width(name, SMALL) + 1, 72 * text_height(name, SMALL)) for name in names]
    boxes = placed(anchors, sizes, _markers(axes, points, page), _bars(axes, page), page)
    for p, name, anchor, box in zip(points, names, anchors, boxes, strict=True):
        text = axes.annotate(
            name,
            ((box.left + box.right) / 2, (box.bottom + box.top) / 2),
            xycoords="axes points",
            ha="center",
            va="center",
            fontsize=SMALL,
            color=INK,
            linespacing=1.1,
            parse_math=False,
            zorder=5,
            path_effects=[withStroke(linewidth=1.4, foreground="white")],
        )
        text.set_gid(f"label:{p.label}")
        if gap(box, anchor) > FAR:
            end = nearest(Box(box.left - 1, box.bottom - 1, box.right + 1, box.top + 1), anchor)
            ends = np.array([anchor, end]) / page
            style: dict[str, Any] = {"color": GREY, "linewidth": 0.4, "zorder": 1.6}
            axes.plot(*ends.T, transform=axes.transAxes, **style)


def _on_page(axes: Axes, x: ArrayLike, y: ArrayLike, page: Place) -> NDArray[np.float64]:
    """(N, 2) points of the page, whatever the figure's resolution."""
    data = np.stack(np.broadcast_arrays(x, y), -1).reshape(-1, 2)
    shares = axes.transLimits.transform(axes.transScale.transform(data))
    return np.asarray(shares * np.array(page))


def _markers(axes: Axes, points: Sequence[ParetoPoint], page: Place) -> list[Box]:
    """Where the points' markers are, with a little air."""
    found = []
    for p in points:
        half = math.sqrt(marker_area(p.params_m, _most(points))) / 2 + 1
        ((x, y),) = _on_page(axes, p.latency_ms, p.abs_rel, page)
        found.append(Box(x - half, y - half, x + half, y + half))
    return found


def _bars(axes: Axes, page: Place) -> list[Box]:
    """Where bars and front are: all lines go straight up or across."""
    found = []
    for line in axes.get_lines():
        places = _on_page(axes, *line.get_data(), page)
        for (x0, y0), (x1, y1) in itertools.pairwise(places):
            found.append(Box(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    return found
