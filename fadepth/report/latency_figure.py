"""Latencies as ratios to a yardstick: a line for each network and backend, on a log scale.

Ratios are what repeats from run to run; milliseconds stand beside them in small print.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from fadepth.errors import FadepthError
from fadepth.report.figure_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LEGEND_LINE,
    NORMAL,
    PALE,
    SMALL,
    TEXT,
    VERMILION,
    Sheet,
    apart,
    finite,
    text_height,
    text_width,
    wrapped,
    write_figure,
)
from fadepth.report.table import Stamp

LINE, HEADING, AXIS = 0.155, 0.19, 0.24  # heights of a line, a network's name, the axis' numbers
GAP = 0.12  # between labels, axis and numbers
HEADS = ("ratio", "95 % interval", "time")  # of the numbers

#: Marker and colour of each type.
TYPES = {"fp32": ("o", BLUE), "bf16": ("s", VERMILION), "int8": ("D", GREEN)}


@dataclass(frozen=True)
class RatioLine:
    """A network on a backend.

    Attributes:
        model: heading above the lines that share it.
        backend, precision: the line's label; the precision is a key of `TYPES`.
        ratio: time in terms of the yardstick's.
        low, high: its 95 % interval; None where there is none.
        latency_ms: of one batch.
    """

    model: str
    backend: str
    precision: str
    ratio: float
    low: float | None
    high: float | None
    latency_ms: float

    @property
    def label(self) -> str:
        """What is printed before the line."""
        return f"{self.backend}, {self.precision}"

    def numbers(self) -> tuple[str, str, str]:
        """Ratio, interval and time as they are printed."""
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.ratio:.3f}", interval, f"{self.latency_ms:.1f} ms"


class _Machine(Stamp):
    """Foot of a figure behind which there are no runs: the machine and the task."""

    def sentence(self) -> str:
        return self.dataset


def ratio_ticks(low: float, high: float, width: float) -> tuple[list[float], list[str]]:
    """Numbers 1, 2 and 5 times powers of ten, as many as fit on an axis of `width` inches."""
    span = math.log10(high / low)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
        labels = [f"{tick:g}" for tick in ticks]
        if apart([math.log10(tick / low) / span * width for tick in ticks], labels):
            break
    return ticks, labels


def ratios(lines: Sequence[RatioLine], *, title: str, axis: str, foot: str) -> Figure:
    """Draw the figure; arguments as `draw_ratios`."""
    _check(lines)
    places, headings, height = _layout(lines)
    handles = _legend(lines)
    below = AXIS + text_height(axis, NORMAL) + 0.04
    stamp = _Machine("full", (), foot, "", "")
    sheet = Sheet(TEXT, height + below + LEGEND_LINE, title=title, stamp=stamp)
    labels = max(text_width(line.label, NORMAL) for line in lines) + 0.12
    columns = [
        max(text_width(words, SMALL) for words in column)
        for column in zip(HEADS, *(line.numbers() for line in lines), strict=True)
    ]
    numbers = sum(columns) + 2 * GAP
    left, right = sheet.left + labels + GAP, sheet.right - numbers - GAP
    axes = sheet.plot(left, sheet.top, right - left, height)
    _frame(axes, lines, height, right - left)
    for top, model in headings:
        if top:
            sheet.rule(sheet.top + top - 0.015)
        sheet.write(sheet.left, sheet.top + top + 0.13, _cut(model, right - sheet.left), bold=True)
    x = sheet.right
    for words, width in reversed(list(zip(HEADS, columns, strict=True))):
        sheet.write(x, sheet.top + 0.13, words, size=SMALL, colour=GREY, ha="right")
        x -= width + GAP
    for y, line in places:
        sheet.write(sheet.left + 0.1, sheet.top + y, line.label, va="center_baseline")
        x = sheet.right
        for words, width in reversed(list(zip(line.numbers(), columns, strict=True))):
            sheet.write(x, sheet.top + y, words, size=SMALL, ha="right", va="center_baseline")
            x -= width + GAP
        _draw_line(axes, line, y)
    middle = (left + right) / 2
    sheet.write(middle, sheet.top + height + AXIS + 0.06, axis, ha="center")
    sheet.legend(sheet.top + height + below, handles, columns=len(handles))
    return sheet.figure


def _cut(words: str, width: float) -> str:
    first, *more = wrapped(words, width - 0.1, NORMAL, bold=True).split("\n")
    return f"{first}…" if more else first


def draw_ratios(
    path: Path, lines: Sequence[RatioLine], *, title: str, axis: str, foot: str
) -> None:
    """Write the ratios as PNG and PDF.

    Args:
        path: of the PNG; the PDF is written beside it.
        lines: in the order in which they are printed; a network's lines follow each other.
        title: of the figure.
        axis: what the ratios are of.
        foot: machine, threads, versions and rounds.

    Raises:
        FadepthError: there are no lines, or a number is not positive and finite.
    """
    write_figure(ratios(lines, title=title, axis=axis, foot=foot), path)


def _check(lines: Sequence[RatioLine]) -> None:
    if not lines:
        raise FadepthError("the figure of latencies has no lines: give at least one")
    for line in lines:
        numbers = [line.ratio, line.low, line.high, line.latency_ms]
        if not finite(*numbers) or min(number for number in numbers if number is not None) <= 0:
            raise FadepthError(
                f"'{line.model}, {line.label}' has a number that is not positive and finite: leave "
                "it out"
            )


def _layout(
    lines: Sequence[RatioLine],
) -> tuple[list[tuple[float, RatioLine]], list[tuple[float, str]], float]:
    """Lines with the y of their middles, headings with their tops, and the height."""
    places, headings, top = [], [], 0.0
    for model, members in itertools.groupby(lines, key=lambda line: line.model):
        headings.append((top, model))
        top += HEADING
        for line in members:
            places.append((top + LINE / 2, line))
            top += LINE
        top += 0.05
    return places, headings, top


def _frame(axes: Axes, lines: Sequence[RatioLine], height: float, width: float) -> None:
    ends = [end for line in lines for end in (line.ratio, line.low, line.high) if end]
    low, high = min([*ends, 1.0]) / 1.15, max([*ends, 1.0]) * 1.15
    axes.set(xscale="log", xlim=(low, high), ylim=(height, 0), yticks=[])
    ticks, labels = ratio_ticks(low, high, width)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, labels)
    axes.spines[["left", "top", "right"]].set_visible(False)
    for tick in ticks:
        axes.axvline(tick, color=PALE, linewidth=0.4, zorder=0)
    axes.axvline(1, color=INK, linewidth=0.7, zorder=1).set_gid("yardstick")


def _draw_line(axes: Axes, line: RatioLine, y: float) -> None:
    marker, colour = TYPES[line.precision]
    name = f"{line.model}, {line.label}"
    if line.low is not None and line.high is not None:
        (bar,) = axes.plot([line.low, line.high], [y, y], color=colour, linewidth=1.1, zorder=2)
        bar.set(gid=f"interval:{name}", solid_capstyle="butt")
    (dot,) = axes.plot([line.ratio], [y], **_style(marker, colour), zorder=3)
    dot.set_gid(f"ratio:{name}")


def _style(marker: str, colour: str) -> dict[str, Any]:
    return {
        "marker": marker,
        "color": colour,
        "markersize": 3.6,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
        "linestyle": "none",
    }


def _legend(lines: Sequence[RatioLine]) -> list[Any]:
    used = [name for name in TYPES if any(line.precision == name for line in lines)]
    handles: list[Any] = [
        Line2D([], [], **_style(*TYPES[name]), label=f"{name}: median") for name in used
    ]
    if any(line.low is not None for line in lines):
        handles.append(Line2D([], [], color=GREY, linewidth=1.1, label="95 % interval"))
    return handles
