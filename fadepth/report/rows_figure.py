"""Rows of a table as points: every training, its row's mean, and what needs no network.

What a table of means hides is seen at once here: how far trainings of one row lie apart, and
whether a row knows anything that a baseline, which does not look at the image, does not. All is
[derived].
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

from fadepth.errors import FadepthError
from fadepth.report.figure_style import (
    GREEN,
    GREY,
    INK,
    LEGEND_LINE,
    MARKS,
    NORMAL,
    PALE,
    SMALL,
    Sheet,
    apart,
    finite,
    text_height,
    text_width,
    wrapped,
    write_figure,
)
from fadepth.report.table import RowKind, Stamp
from fadepth.stats import sample_std

WIDTH = 5.2  # of the page, inches: between a column and the text of a paper
LABELS = 1.9  # inches that labels may take
LINE, GAP, AXIS = 0.19, 0.1, 0.22  # heights of a row and of the axis' numbers, air, inches

#: Name of each kind that may be drawn; rows of a kind stand together.
KINDS: dict[RowKind, str] = {
    "variant": "student",
    "teacher": "teacher",
    "baseline": "baseline: does not look at the image",
}


@dataclass(frozen=True)
class RowPoints:
    """One row of a table.

    Attributes:
        label: its name.
        kind: a key of `KINDS`.
        values: one number a training, in the order of the seeds; smaller is better.
    """

    label: str
    kind: RowKind
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over trainings."""
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % of the mean over seeds, Student's t; None for one training."""
        spread = sample_std(self.values)
        if spread is None:
            return None
        count = len(self.values)
        half = float(stdtrit(count - 1, 0.975)) * spread / math.sqrt(count)
        return self.mean - half, self.mean + half

    def numbers(self, decimals: int) -> str:
        """Mean and sample standard deviation, as the table prints them."""
        spread = sample_std(self.values)
        more = "" if spread is None else f" ± {spread:.{decimals}f}"
        return f"{self.mean:.{decimals}f}{more}"


def rows_figure(
    rows: Sequence[RowPoints], *, title: str, axis: str, stamp: Stamp, decimals: int = 3
) -> Figure:
    """Draw the figure; arguments as `draw_rows`."""
    _check(rows)
    rows = sorted(rows, key=lambda row: list(KINDS).index(row.kind))
    names = [wrapped(row.label, LABELS, NORMAL) for row in rows]
    heights = [max(LINE, text_height(name, NORMAL) + 0.05) for name in names]
    # Room between kinds.
    tops = [sum(heights[:n]) + GAP * _changes(rows[: n + 1]) for n in range(len(rows))]
    height = tops[-1] + heights[-1]
    handles = _legend(rows)
    below = AXIS + text_height(axis, NORMAL) + 0.04
    keys = LEGEND_LINE * math.ceil(len(handles) / 2)
    sheet = Sheet(WIDTH, height + below + keys, title=title, stamp=stamp)
    left = sheet.left + max(text_width(name, NORMAL) for name in names) + GAP
    right = sheet.right - max(text_width(row.numbers(decimals), SMALL) for row in rows) - GAP
    axes = sheet.plot(left, sheet.top, right - left, height)
    _frame(axes, rows, height, right - left)
    for row, name, top, tall in zip(rows, names, tops, heights, strict=True):
        middle = top + tall / 2
        _draw_row(axes, row, middle)
        y = sheet.top + middle
        sheet.block(sheet.left, y - text_height(name, NORMAL) / 2, name)
        sheet.write(
            sheet.right, y, row.numbers(decimals), size=SMALL, ha="right", va="center_baseline"
        )
    sheet.block((left + right) / 2, sheet.top + height + AXIS - 0.05, axis, ha="center")
    sheet.legend(sheet.top + height + below, handles, columns=2)
    return sheet.figure


def draw_rows(
    path: Path,
    rows: Sequence[RowPoints],
    *,
    title: str,
    axis: str,
    stamp: Stamp,
    decimals: int = 3,
) -> None:
    """Write the rows of a table as PNG and PDF.

    Args:
        path: of the PNG; the PDF is written beside it.
        rows: in the table's order.
        title: of the figure.
        axis: what is measured, and which direction is better.
        stamp: where the numbers are from.
        decimals: of the numbers at the right.

    Raises:
        FadepthError: there are no rows, or one has no number or one that is not finite.
    """
    figure = rows_figure(rows, title=title, axis=axis, stamp=stamp, decimals=decimals)
    write_figure(figure, path)


def _check(rows: Sequence[RowPoints]) -> None:
    if not rows:
        raise FadepthError("the figure of rows has no rows: give at least one")
    for row in rows:
        if not row.values or not finite(*row.values):
            raise FadepthError(f"row '{row.label}' has no finite number: leave it out")


def _changes(rows: Sequence[RowPoints]) -> int:
    return len({row.kind for row in rows}) - 1


def _frame(axes: Axes, rows: Sequence[RowPoints], height: float, width: float) -> None:
    """Axis, and a line through all rows at the best baseline; y is inches from the top."""
    ends = [end for row in rows for end in (*row.values, *(row.interval or ()))]
    low, high = min(ends), max(ends)
    pad = 0.04 * (high - low or abs(high) or 1.0)
    low, high = low - pad, high + pad
    axes.set(xlim=(low, high), ylim=(height, 0), yticks=[])
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.set_xticks(*_ticks(low, high, width))
    axes.grid(axis="x", color=PALE, linewidth=0.4)
    axes.set_axisbelow(True)
    if baselines := [row.mean for row in rows if row.kind == "baseline"]:
        line = axes.axvline(min(baselines), color=GREEN, linewidth=0.8, linestyle=(0, (4, 2)))
        line.set(gid="best baseline", zorder=1)


def _ticks(low: float, high: float, width: float) -> tuple[list[float], list[str]]:
    """As many round numbers as fit on an axis of `width` inches, and how they are printed."""
    for count in range(8, 0, -1):
        found = MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [float(tick) for tick in found if low <= tick <= high]
        decimals = max(len(f"{tick:g}".partition(".")[2]) for tick in ticks)
        labels = [f"{tick:.{decimals}f}".replace("-", "−") for tick in ticks]
        if apart([(tick - low) / (high - low) * width for tick in ticks], labels):
            break
    return ticks, labels


_SEED: dict[str, Any] = {"marker": "|", "color": INK, "markersize": 5, "markeredgewidth": 0.8}


def _style(kind: RowKind) -> dict[str, Any]:
    marker, colour = MARKS[kind]
    return {"marker": marker, "color": colour, "markersize": 4.5, "linestyle": "none"}


def _draw_row(axes: Axes, row: RowPoints, y: float) -> None:
    if row.interval is not None:
        (bar,) = axes.plot(row.interval, [y] * 2, color=MARKS[row.kind][1], linewidth=1.1, zorder=2)
        bar.set(gid=f"interval:{row.label}", solid_capstyle="butt")
        places = [y] * len(row.values)
        (seeds,) = axes.plot(row.values, places, linestyle="none", zorder=4, **_SEED)
        seeds.set_gid(f"seeds:{row.label}")
    (mean,) = axes.plot([row.mean], [y], zorder=3, **_style(row.kind))
    mean.set_gid(f"mean:{row.label}")


def _legend(rows: Sequence[RowPoints]) -> list[Any]:
    """What is in the figure and needs a name."""
    kinds = dict.fromkeys(row.kind for row in rows)
    handles: list[Any] = [Line2D([], [], label=KINDS[kind], **_style(kind)) for kind in kinds]
    if "baseline" in kinds:
        handles.append(
            Line2D([], [], color=GREEN, linewidth=0.8, linestyle=(0, (4, 2)), label="best baseline")
        )
    if any(len(row.values) > 1 for row in rows):
        handles.append(Line2D([], [], linestyle="none", label="single seeds", **_SEED))
        words = "95 % interval of the mean over seeds"
        handles.append(Line2D([], [], color=GREY, linewidth=1.1, label=words))
    return handles
