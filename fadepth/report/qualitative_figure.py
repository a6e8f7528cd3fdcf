"""Predictions beside each other: input, ground truth, and depth and error of each method.

A column for each frame, since road images are wide: what differs between two methods then lies one
above the other. Depth and truth of a frame share one range of colours, errors of all frames
another. Both maps grow in luminance, so they can be read in grey; black, which neither has, is no
truth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fadepth.errors import FadepthError
from fadepth.report.figure_style import (
    COLUMN,
    GREY,
    INK,
    MARGIN,
    NORMAL,
    SMALL,
    TEXT,
    Sheet,
    apart,
    finite,
    text_height,
    text_width,
    wrapped,
    write_figure,
)
from fadepth.report.panels import thickened
from fadepth.report.table import Stamp

DPI = 250  # of the PNG, and of the pictures in the PDF
FRAMES, METHODS = 6, 4  # at most
#: Relative errors from this value on share the brightest colour.
ERROR_CEILING = 0.5
SPARSE = 0.2  # share of pixels with truth below which single points are enlarged
TALLEST, PAGE = 1.05, 9.0  # of a picture, of all pictures, inches
WORTH_A_BAND = 1.25  # so much larger pictures have to become for another band
GAP, BAR, NUMBERS = 0.03, 0.055, 0.15  # between pictures, a colour bar, its numbers, inches
LABELS = 0.8  # inches that names of rows may take
ROUND_DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 500)
Map = NDArray[np.floating]


@dataclass(frozen=True)
class QualitativeFrame:
    """One frame.

    Attributes:
        label: what it is.
        image: (H, W, 3) uint8.
        truth: (H, W) depth in metres; 0 or NaN where there is none.
        predictions: method -> (H, W) depth in metres after scaling.
        abs_rel: method -> its error on this frame, as the evaluation has it.
    """

    label: str
    image: NDArray[np.uint8]
    truth: Map
    predictions: Mapping[str, Map]
    abs_rel: Mapping[str, float]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where there is ground truth, (H, W)."""
        return np.isfinite(self.truth) & (self.truth > 0)

    @property
    def aspect(self) -> float:
        """Width by height."""
        return self.image.shape[1] / self.image.shape[0]


def rising(name: str, start: float) -> Colormap:
    """A map of matplotlib from `start` on: its darkest colour is not black, which is no data."""
    whole = matplotlib.colormaps[name]
    colours = whole(np.arange(round(start * whole.N), whole.N))
    return ListedColormap(colours, name=f"{name}_from_{start}").with_extremes(bad="black")


DEPTH_MAP, ERROR_MAP = rising("magma", 0.25), rising("cividis", 0.2)


def inverse_range(frame: QualitativeFrame) -> tuple[float, float]:
    """Ends of the frame's colours, 1 / metres: 1st to 99th percentile of truth and predictions.

    The widest over all of them, so that no method is judged by colours chosen for another.
    """
    maps = [frame.truth[frame.known], *frame.predictions.values()]
    low, high = np.percentile([np.percentile(1 / values, (1, 99)) for values in maps], (0, 100))
    return float(low), max(float(high), 1.001 * float(low))


def relative_error(frame: QualitativeFrame, method: str) -> Map:
    """|prediction - truth| / truth, (H, W), NaN where there is no truth."""
    truth = np.where(frame.known, frame.truth, np.nan)
    return np.asarray(np.abs(frame.predictions[method] - truth) / truth)


def qualitative(frames: Sequence[QualitativeFrame], *, title: str, stamp: Stamp) -> Figure:
    """Draw the figure; arguments as `draw_qualitative`."""
    methods = _check(frames)
    names = ["input", "ground truth", *(n for m in methods for n in (m, "error"))]
    margin = min(LABELS, max(text_width(n, NORMAL) for n in (*names, "depth, m"))) + 0.07
    bands, height = _bands(frames, len(names), TEXT - 2 * MARGIN - margin)
    widths = [sum(f.aspect * height + GAP for f in band) - GAP for band in bands]
    width = max(COLUMN, max(widths) + margin + 2 * MARGIN)
    titles = [_titles(band, height) for band in bands]
    tall = [text_height(max(t, key=lambda w: w.count("\n")), NORMAL) + 0.03 for t in titles]
    block = len(names) * (height + GAP) + 0.04 + BAR + NUMBERS
    notes = wrapped(_notes(frames), width - 2 * MARGIN - 0.02, SMALL)
    key = BAR + NUMBERS + text_height(notes, SMALL)
    total = sum(tall) + len(bands) * (block + 0.06) + key
    sheet = Sheet(width, total, title=title, stamp=stamp)
    top = sheet.top
    for band, words, above in zip(bands, titles, tall, strict=True):
        top += above
        _write_names(sheet, top, names, height, margin)
        left = sheet.left + margin
        for frame, label in zip(band, words, strict=True):
            sheet.block(left, top - text_height(label, NORMAL) - 0.03, label)
            _draw_frame(sheet, left, top, height, frame, methods)
            left += frame.aspect * height + GAP
        top += block + 0.06
    _error_key(sheet, top, margin)
    sheet.block(sheet.left, top + BAR + NUMBERS, notes, size=SMALL, colour=GREY)
    return sheet.figure


def draw_qualitative(
    path: Path, frames: Sequence[QualitativeFrame], *, title: str, stamp: Stamp
) -> None:
    """Write the comparison as PNG and PDF.

    Args:
        path: of the PNG; the PDF is written beside it.
        frames: 1 to 6, each with the same 1 to 4 methods; sizes may differ between frames.
        title: of the figure.
        stamp: where the predictions are from.

    Raises:
        FadepthError: there are too few or too many frames or methods, they do not fit each other, a
            frame has no truth, or a prediction is not positive and finite.
    """
    write_figure(qualitative(frames, title=title, stamp=stamp), path, dpi=DPI)


def _check(frames: Sequence[QualitativeFrame]) -> list[str]:
    """The methods, in the order of the first frame."""
    if not 1 <= len(frames) <= FRAMES:
        raise FadepthError(f"the comparison has {len(frames)} frames: give 1 to {FRAMES}")
    methods = list(frames[0].predictions)
    if not 1 <= len(methods) <= METHODS:
        raise FadepthError(f"the comparison has {len(methods)} methods: give 1 to {METHODS}")
    for frame in frames:
        if set(frame.predictions) != set(methods) or not set(methods) <= set(frame.abs_rel):
            raise FadepthError(
                f"frame '{frame.label}' has not the methods {', '.join(methods)}: give depth and "
                "Abs Rel of each for every frame"
            )
        size = frame.image.shape[:2]
        for name, depth in {"truth": frame.truth, **frame.predictions}.items():
            if depth.shape != size:
                raise FadepthError(
                    f"frame '{frame.label}' has {name} of size {depth.shape} with an image of "
                    f"{size}: resize it to the image"
                )
        if not frame.known.any():
            raise FadepthError(f"frame '{frame.label}' has no ground truth: choose another")
        for method in methods:
            depth = frame.predictions[method]
            if not (np.isfinite(depth) & (depth > 0)).all() or not finite(frame.abs_rel[method]):
                raise FadepthError(
                    f"frame '{frame.label}' has a depth or error of {method} that is not positive "
                    "and finite: evaluate it again"
                )
    return methods


# Layout


def _bands(
    frames: Sequence[QualitativeFrame], rows: int, width: float
) -> tuple[list[Sequence[QualitativeFrame]], float]:
    """Frames side by side in one or several bands, and the height of their pictures, inches.

    All pictures have one height, so frames of different shape line up. Of all numbers of frames a
    band, the one that gives the largest pictures on one page is taken; more bands have to be worth
    it, since the last one may be half empty.
    """
    best: tuple[list[Sequence[QualitativeFrame]], float] = ([], 0.0)
    for columns in range(len(frames), 0, -1):
        bands = [frames[i : i + columns] for i in range(0, len(frames), columns)]
        across = min((width - GAP * (len(b) - 1)) / sum(f.aspect for f in b) for b in bands)
        down = (PAGE / len(bands) - 0.45) / rows - GAP
        height = min(TALLEST, across, down)
        if height > WORTH_A_BAND * best[1]:
            best = bands, height
    return best


def _titles(band: Sequence[QualitativeFrame], height: float) -> list[str]:
    """Labels of frames, in lines no wider than their pictures."""
    return [wrapped(frame.label, frame.aspect * height, NORMAL) for frame in band]


def _write_names(
    sheet: Sheet, top: float, names: Sequence[str], height: float, margin: float
) -> None:
    for number, name in enumerate([*names, "depth, m"]):
        words = wrapped(name, margin - 0.07, NORMAL)
        middle = top + number * (height + GAP) + height / 2
        if number == len(names):
            middle = top + number * (height + GAP) + 0.04 + BAR / 2
        colour = GREY if name in ("error", "depth, m") else INK
        sheet.block(sheet.left, middle - text_height(words, NORMAL) / 2, words, colour=colour)


def _notes(frames: Sequence[QualitativeFrame]) -> str:
    enlarged = any(frame.known.mean() < SPARSE for frame in frames)
    return "; ".join(
        [
            "depth: near is bright, even in 1/depth, one range for truth and methods of a frame",
            "black: no ground truth" + (" (its points enlarged)" if enlarged else ""),
            "in the corner: Abs Rel of the frame",
        ]
    )


# Pictures


def _draw_frame(
    sheet: Sheet,
    left: float,
    top: float,
    height: float,
    frame: QualitativeFrame,
    methods: Sequence[str],
) -> None:
    """One column with its colour bar."""
    width = frame.aspect * height
    low, high = inverse_range(frame)
    depth: dict[str, Any] = {"cmap": DEPTH_MAP, "vmin": low, "vmax": high}
    error: dict[str, Any] = {"cmap": ERROR_MAP, "vmin": 0, "vmax": ERROR_CEILING}
    known = frame.known
    truth = 1 / np.where(known, frame.truth, np.nan)
    cells: list[tuple[str, NDArray[Any], dict[str, Any], str]] = [
        ("input", frame.image, {}, ""),
        ("truth", _visible(truth, known, width), depth, ""),
    ]
    for method in methods:
        wrong = _visible(relative_error(frame, method), known, width)
        remark = _remark(frame.abs_rel[method], width)
        cells += [
            (method, 1 / np.asarray(frame.predictions[method]), depth, ""),
            (f"error of {method}", wrong, error, remark),
        ]
    for name, picture, style, remark in cells:
        axes = sheet.plot(left, top, width, height)
        # A blend of single points with the black around them would change their colour.
        sparse = np.ma.isMaskedArray(picture) and known.mean() < SPARSE
        how = "nearest" if sparse else "antialiased"
        drawn = axes.imshow(picture, aspect="auto", interpolation=how, **style)
        drawn.set_gid(f"{name}:{frame.label}")
        axes.set(xticks=[], yticks=[])
        if remark:
            _corner(axes, remark)
        top += height + GAP
    bar = sheet.plot(left, top + 0.04, width, BAR)
    _ramp(bar, DEPTH_MAP, low, high, *_depth_ticks(low, high, width))


def _visible(values: Map, known: NDArray[np.bool_], width: float) -> Any:
    """Values masked where unknown; single points enlarged to some two pixels of the PNG."""
    if known.mean() < SPARSE:
        shown = values.shape[1] / (width * DPI)  # pixels of the map per pixel of the PNG
        values = thickened(values, known, reach=math.ceil(0.75 * shown))
    return np.ma.masked_invalid(values)


def _remark(abs_rel: float, width: float) -> str:
    """What stands in the corner of an error map of `width` inches."""
    words = f"Abs Rel {abs_rel:.3f}"
    return words if text_width(words, SMALL) + 0.08 <= width else f"{abs_rel:.3f}"


def _corner(axes: Axes, words: str) -> None:
    """White on black, in the lower left corner of a picture."""
    box = {"facecolor": "black", "pad": 1.0, "linewidth": 0}
    axes.annotate(
        words,
        (1.5, 1.5),
        xycoords="axes points",
        fontsize=SMALL,
        color="white",
        va="bottom",
        bbox=box,
    )


def _ramp(
    axes: Axes,
    colours: Colormap,
    low: float,
    high: float,
    ticks: Sequence[float],
    labels: Sequence[str],
) -> None:
    """A horizontal colour bar."""
    ramp = np.linspace(low, high, 256)[None]
    axes.imshow(ramp, cmap=colours, aspect="auto", extent=(low, high, 0, 1), vmin=low, vmax=high)
    axes.set(xlim=(low, high), yticks=[])
    axes.set_xticks(ticks, labels)


def _depth_ticks(low: float, high: float, width: float) -> tuple[list[float], list[str]]:
    """Round depths on a bar of inverse depth: places (1 / metres) and labels (metres)."""
    ticks: list[float] = []
    labels: list[str] = []
    for depth in sorted(ROUND_DEPTHS, reverse=True):
        where, label = 1 / depth, str(depth)
        places = [(tick - low) / (high - low) * width for tick in (*ticks, where)]
        # A number that sticks out over its bar would run into that of the next frame.
        half = text_width(label, SMALL) / 2
        if half <= places[-1] <= width - half and apart(places, [*labels, label]):
            ticks.append(where)
            labels.append(label)
    return ticks, labels


def _error_key(sheet: Sheet, y: float, margin: float) -> None:
    """The colour bar of all errors."""
    sheet.block(sheet.left, y + BAR / 2 - text_height("", NORMAL) / 2, "error", colour=GREY)
    left, width = sheet.left + margin, 1.3
    ticks = [0, 0.1, 0.2, 0.3, 0.4, ERROR_CEILING]
    labels = [*(f"{tick:g}" for tick in ticks[:-1]), f"≥ {ERROR_CEILING:g}"]
    _ramp(sheet.plot(left, y, width, BAR), ERROR_MAP, 0, ERROR_CEILING, ticks, labels)
    words = "|depth − truth| / truth"
    sheet.block(left + width + 0.12, y + BAR / 2 - text_height("", SMALL) / 2, words, size=SMALL)
