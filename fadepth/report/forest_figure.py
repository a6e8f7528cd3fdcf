"""A forest of effects: what each factor of an ablation changes, and how sure that is.

One line per effect: its mean, its 95 % interval, the single seeds below it, and the numbers. All
is [derived]; the paper prints rows of a table and no intervals.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fadepth.errors import FadepthError
from fadepth.report.figure_style import (
    BLUE,
    COLUMN,
    GREY,
    INK,
    LEGEND_LINE,
    NORMAL,
    PALE,
    SMALL,
    TINY,
    VERMILION,
    Sheet,
    apart,
    finite,
    signed,
    text_height,
    text_width,
    wrapped,
    write_figure,
)
from fadepth.report.table import Stamp

LABELS = 1.16  # inches that labels may take
GAP = 0.1  # between labels, axis and numbers
HEADING, AXIS = 0.17, 0.24  # heights of a group's heading, of the axis without its label
SEEDS_BELOW = 0.075  # of the interval
#: An interval may leave the range of means and seeds by so many times that range; then it is cut.
SLACK = 0.75
MARKERS = {
    "filled": "95 % interval leaves out zero",
    "open": "95 % interval holds zero",
    "cross": "no interval",
}


@dataclass(frozen=True)
class EffectLine:
    """One effect.

    Attributes:
        label: the factor, or the factors of an interaction.
        mean: change of the measure.
        low, high: 95 % interval; None where there is none (one seed).
        group: heading above the lines that share it.
        note: small, below the label ("one seed: these trainings only").
        by_seed: the effect in each seed.
    """

    label: str
    mean: float
    low: float | None
    high: float | None
    group: str
    note: str = ""
    by_seed: tuple[float, ...] = ()

    @property
    def marker(self) -> str:
        """Key of `MARKERS`; an interval that ends at zero holds it."""
        if self.low is None or self.high is None:
            return "cross"
        return "open" if self.low <= 0 <= self.high else "filled"

    def numbers(self, decimals: int) -> str:
        """Mean and interval as they are printed."""
        mean = signed(self.mean, decimals)
        if self.low is None or self.high is None:
            return mean
        return f"{mean} [{signed(self.low, decimals)}, {signed(self.high, decimals)}]"


def _ends(line: "EffectLine") -> tuple[float, ...]:
    return tuple(end for end in (line.low, line.high) if end is not None)


def axis_range(lines: Sequence[EffectLine], noise: float | None) -> tuple[float, float]:
    """Ends of the axis: all means, seeds, zero and the noise band; intervals as far as sensible.

    With two seeds, t has one degree of freedom and an interval is 12.7 standard errors to either
    side. It must not squeeze the effects: it reaches at most `SLACK` times the range of the rest
    beyond it. With one seed intervals are all that there is beside the means, and are shown whole.
    """
    if not any(len(line.by_seed) > 1 for line in lines):
        lines = [replace(line, by_seed=_ends(line)) for line in lines]
    core = [0.0, noise or 0.0, -(noise or 0.0)]
    for line in lines:
        core += [line.mean, *line.by_seed]
    low, high = min(core), max(core)
    span = high - low or max([abs(line.low or 0) for line in lines]) or 1.0
    ends = [end for line in lines for end in (line.low, line.high) if end is not None]
    left = min(low, max(min([*ends, low]), low - SLACK * span))
    right = max(high, min(max([*ends, high]), high + SLACK * span))
    pad = 0.06 * (right - left or span)
    return left - pad, right + pad


@dataclass(frozen=True)
class _Row:
    """A line's words and where it stands: y of the interval, and the row's edges, inches."""

    line: EffectLine
    label: str
    note: str
    top: float
    height: float

    @property
    def y(self) -> float:
        return self.top + self.height / 2 - (SEEDS_BELOW / 2 if self.line.by_seed else 0)


def forest(
    lines: Sequence[EffectLine],
    *,
    title: str,
    axis: str,
    noise: float | None,
    stamp: Stamp,
    decimals: int = 3,
) -> Figure:
    """Draw the figure; arguments as `draw_forest`."""
    _check(lines, noise)
    labels = min(LABELS, max(text_width(line.label, NORMAL) for line in lines) + 0.02)
    labels = max(labels, min(LABELS, max(text_width(line.note, TINY) for line in lines) + 0.02))
    headings, rows, height = _layout(lines, labels)
    axis_label = wrapped(axis, 2.1, NORMAL)
    handles = _legend(lines, noise)
    below = AXIS + text_height(axis_label, NORMAL)
    keys = LEGEND_LINE * math.ceil(len(handles) / 2)
    sheet = Sheet(COLUMN, height + below + keys, title=title, stamp=stamp)
    numbers = max(text_width(line.numbers(decimals), SMALL) for line in lines)
    left, right = sheet.left + labels + GAP, sheet.right - numbers - GAP
    axes = sheet.plot(left, sheet.top, right - left, height)
    _frame(axes, axis_range(lines, noise), height, noise)
    axes.set_xticks(*_ticks(axes.get_xlim(), right - left))
    for top, words in headings:
        sheet.block(sheet.left, sheet.top + top + 0.05, words, bold=True)
        if top:
            sheet.rule(sheet.top + top + 0.01)
    for row in rows:
        _write_row(sheet, row, decimals)
        _draw_row(axes, row)
    sheet.block((left + right) / 2, sheet.top + height + 0.16, axis_label, ha="center")
    sheet.legend(sheet.top + height + below, handles, columns=2)
    return sheet.figure


def draw_forest(
    path: Path,
    lines: Sequence[EffectLine],
    *,
    title: str,
    axis: str,
    noise: float | None,
    stamp: Stamp,
    decimals: int = 3,
) -> None:
    """Write the forest of effects as PNG and PDF.

    Args:
        path: of the PNG; the PDF is written beside it.
        lines: in the order in which they are printed; groups in that of their first line.
        title: of the figure.
        axis: what the effects are, and which sign is better.
        noise: half the width of the band around zero in which differences are noise; None: none.
        stamp: where the numbers are from.
        decimals: of the numbers at the right.

    Raises:
        FadepthError: there are no lines, or one has half an interval, or a number is not finite.
    """
    figure = forest(lines, title=title, axis=axis, noise=noise, stamp=stamp, decimals=decimals)
    write_figure(figure, path)


def _check(lines: Sequence[EffectLine], noise: float | None) -> None:
    if not lines:
        raise FadepthError("the forest of effects has no lines: give at least one effect")
    if not finite(noise):
        raise FadepthError(f"the noise floor is {noise}: give a finite number or None")
    for line in lines:
        if not finite(line.mean, line.low, line.high, *line.by_seed):
            raise FadepthError(
                f"effect '{line.label}' has a number that is not finite: leave it out"
            )
        if (line.low is None) != (line.high is None) or (line.low or 0) > (line.high or 0):
            raise FadepthError(
                f"effect '{line.label}' has the interval {line.low} to {line.high}: give both "
                "ends, the lower one first, or None for both"
            )


def _layout(
    lines: Sequence[EffectLine], width: float
) -> tuple[list[tuple[float, str]], list[_Row], float]:
    """Headings and rows from top to bottom, and their height."""
    order = {group: index for index, group in enumerate(dict.fromkeys(e.group for e in lines))}
    headings, rows, top = [], [], 0.0
    for group, members in itertools.groupby(
        sorted(lines, key=lambda line: order[line.group]), key=lambda line: line.group
    ):
        if group:
            headings.append((top, group))
            top += HEADING
        for line in members:
            label = wrapped(line.label, width, NORMAL)
            note = wrapped(line.note, width, TINY)
            words = text_height(label, NORMAL) + (text_height(note, TINY) if line.note else 0)
            rows.append(_Row(line, label, note, top, max(0.24, words + 0.07)))
            top += rows[-1].height
    return headings, rows, top


def _frame(axes: Axes, ends: tuple[float, float], height: float, noise: float | None) -> None:
    """Axis, zero line and noise band; y is inches from the top."""
    axes.set(xlim=ends, ylim=(height, 0), yticks=[])
    axes.spines[["left", "top", "right"]].set_visible(False)
    if noise:
        band = axes.axvspan(-noise, noise, facecolor=PALE, alpha=0.55, linewidth=0, zorder=0)
        band.set_gid("noise")
    axes.axvline(0, color=INK, linewidth=0.7, zorder=1).set_gid("zero")


def _ticks(ends: tuple[float, float], width: float) -> tuple[list[float], list[str]]:
    """As many round numbers as fit on an axis of `width` inches, and how they are printed."""
    low, high = ends
    for count in range(6, 0, -1):
        found = MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(tick) for tick in found if low <= tick <= high]
        labels = [f"{tick:g}".replace("-", "−") for tick in ticks]
        if apart([(tick - low) / (high - low) * width for tick in ticks], labels):
            return ticks, labels
    # Long numbers on a short axis: zero alone, which is what effects are seen against.
    return [0.0], ["0"]


def _write_row(sheet: Sheet, row: _Row, decimals: int) -> None:
    words = text_height(row.label, NORMAL)
    block = words + (text_height(row.note, TINY) if row.note else 0)
    top = sheet.top + row.top + (row.height - block) / 2
    sheet.block(sheet.left, top, row.label)
    if row.note:
        sheet.block(sheet.left, top + words, row.note, size=TINY, colour=GREY)
    numbers = row.line.numbers(decimals)
    sheet.write(
        sheet.right, sheet.top + row.y, numbers, size=SMALL, ha="right", va="center_baseline"
    )


def _draw_row(axes: Axes, row: _Row) -> None:
    """Interval, arrows where it goes on, mean and seeds."""
    line, (left, right) = row.line, axes.get_xlim()
    if line.low is not None and line.high is not None:
        ends = max(line.low, left), min(line.high, right)
        (bar,) = axes.plot(ends, [row.y] * 2, color=BLUE, linewidth=1.1, zorder=2)
        bar.set(gid=f"interval:{line.label}", solid_capstyle="butt")
        for end, cut, arrow in ((ends[0], line.low < left, "<"), (ends[1], line.high > right, ">")):
            (tip,) = axes.plot([end], [row.y], arrow if cut else "|", color=BLUE, clip_on=False)
            tip.set(markersize=3.5, markeredgewidth=0.9, zorder=3)
            tip.set_gid(f"{'arrow' if cut else 'end'}{arrow}:{line.label}")
    (mean,) = axes.plot([line.mean], [row.y], linestyle="none", **_style(line.marker), zorder=4)
    mean.set_gid(f"mean:{line.label}")
    below = [row.y + SEEDS_BELOW] * len(line.by_seed)
    (seeds,) = axes.plot(line.by_seed, below, linestyle="none", zorder=3, **_SEED)
    seeds.set_gid(f"seeds:{line.label}")


_SEED: dict[str, Any] = {"marker": "o", "color": GREY, "markersize": 1.8, "markeredgewidth": 0}


def _style(marker: str) -> dict[str, Any]:
    if marker == "cross":
        return {"marker": "x", "color": VERMILION, "markersize": 4.2, "markeredgewidth": 1.2}
    fill = BLUE if marker == "filled" else "white"
    return {"marker": "o", "color": BLUE, "markerfacecolor": fill, "markersize": 4.5}


def _legend(lines: Sequence[EffectLine], noise: float | None) -> list[Any]:
    """What is in the figure and needs a name."""
    left, right = axis_range(lines, noise)
    handles: list[Any] = [
        Line2D([], [], linestyle="none", label=words, **_style(kind))
        for kind, words in MARKERS.items()
        if any(line.marker == kind for line in lines)
    ]
    if any((line.low or 0) < left or (line.high or 0) > right for line in lines):
        handles.append(
            Line2D([], [], color=BLUE, marker=">", markersize=3.5, linestyle="none",
                   label="interval goes on beyond the axis")
        )  # fmt: skip
    if any(line.by_seed for line in lines):
        handles.append(Line2D([], [], linestyle="none", label="single seeds", **_SEED))
    if noise:
        handles.append(
            Patch(
                facecolor=PALE, alpha=0.55, linewidth=0, label="noise floor of repeated baselines"
            )
        )
    return handles
