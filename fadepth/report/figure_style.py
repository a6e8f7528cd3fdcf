"""What the figures of results share: a sheet with title, warning and stamp, and how it is written.

A sheet is as wide as a column or the text of a paper, so letters are as small there as they are
here. Places are in inches from its upper left corner, y downwards. Colours are Okabe and Ito's
(https://jfly.uni-koeln.de/color/), as in `fadepth.report.method.style`, whose import would load
every network.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from fadepth.errors import FadepthError
from fadepth.files import atomic_path
from fadepth.report.table import RowKind, Stamp, scale_warning

COLUMN, TEXT = 3.5, 7.16  # widths of a two-column page, inches
TINY, SMALL, NORMAL, LARGE = 5.5, 6.0, 6.5, 7.5  # letters, points
LINE = 1.3 / 72  # inches of a line per point of its letters
LEGEND_LINE = 0.125  # inches
MARGIN = 0.06
INK, GREY, PALE = "#222222", "#6b6b6b", "#d0d0d0"
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#A8557F"
#: Marker and colour of a network, by the kind of its row.
MARKS: dict[RowKind, tuple[str, str]] = {
    "variant": ("o", BLUE),
    "teacher": ("s", VERMILION),
    "baseline": ("^", GREEN),
    "official": ("D", PURPLE),
}
WARNING_GROUND = "#FDF3DC"
DPI = 360  # of PNG files
RC: Any = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,  # letters stay letters; type 3, the default, is refused by publishers
    "text.hinting": "none",  # letters are as wide in the PNG as in the PDF, and as measured here
    "axes.linewidth": 0.5,
}


def text_width(words: str, size: float, *, bold: bool = False) -> float:
    """Width of the longest line in inches."""
    font = FontProperties(family=RC["font.family"], size=size, weight="bold" if bold else "normal")
    widths = [
        text_to_path.get_text_width_height_descent(line, font, ismath=False)[0]
        for line in words.split("\n")
    ]
    return float(max(widths)) / 72


def wrapped(words: str, width: float, size: float, *, bold: bool = False) -> str:
    """Break words into lines of at most `width` inches; a word longer than that is cut."""

    def fits(line: str) -> bool:
        return text_width(line, size, bold=bold) <= width

    lines: list[str] = []
    for paragraph in words.split("\n"):
        line = ""
        for word in paragraph.split():
            if not line or not fits(f"{line} {word}"):
                lines += [line] if line else []
                while not fits(word) and len(word) > 1:
                    cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or fits(word[:n]))
                    lines.append(word[:cut])
                    word = word[cut:]
                line = word
            else:
                line = f"{line} {word}"
        lines.append(line)
    return "\n".join(lines)


def text_height(words: str, size: float) -> float:
    """Height of the lines in inches."""
    return (words.count("\n") + 1) * size * LINE


class Sheet:
    """A white page: title and warning above, room for the figure, the stamp below.

    Args:
        width: inches.
        height: of the room between head and foot, inches.
        title: printed bold; wrapped.
        stamp: where the numbers are from. Its scale decides about the warning.

    Attributes:
        figure: matplotlib's.
        top, left, right: of the room, inches.
    """

    def __init__(self, width: float, height: float, *, title: str, stamp: Stamp) -> None:
        self.left, self.right = MARGIN, width - MARGIN
        inner = width - 2 * MARGIN
        title = wrapped(title, inner, LARGE, bold=True)
        sentence = scale_warning(stamp.scale)
        warning = wrapped(sentence, inner - 0.12, NORMAL, bold=True) if sentence else ""
        foot = wrapped(stamp.sentence(), inner, TINY)
        below_title = MARGIN + text_height(title, LARGE)
        self.top = below_title + (text_height(warning, NORMAL) + 0.12 if warning else 0) + 0.05
        self._width = width
        self._height = self.top + height + 0.05 + text_height(foot, TINY) + MARGIN
        with matplotlib.rc_context(RC):
            self.figure = Figure(figsize=(width, self._height), dpi=DPI, facecolor="white")
        self.block(self.left, MARGIN, title, size=LARGE, bold=True)
        if warning:
            self._warn(below_title + 0.04, warning)
        foot_top = self._height - MARGIN - text_height(foot, TINY)
        self.block(self.left, foot_top, foot, size=TINY, colour=GREY)

    def _warn(self, y: float, words: str) -> None:
        """Words in a box across the page."""
        width, height = self.right - self.left, text_height(words, NORMAL) + 0.06
        corner = self.left / self._width, 1 - (y + height) / self._height
        size = width / self._width, height / self._height
        style: dict[str, Any] = {"facecolor": WARNING_GROUND, "edgecolor": INK, "linewidth": 0.5}
        self.figure.add_artist(Rectangle(corner, *size, **style))
        self.block(self.left + 0.05, y + 0.03, words, bold=True)

    def write(
        self,
        x: float,
        y: float,
        line: str,
        *,
        size: float = NORMAL,
        colour: str = INK,
        ha: str = "left",
        va: str = "baseline",
        bold: bool = False,
    ) -> Text:
        """One line at a point; a dollar sign is a dollar sign."""
        with matplotlib.rc_context(RC):
            return self.figure.text(
                x / self._width,
                1 - y / self._height,
                line,
                fontsize=size,
                color=colour,
                ha=ha,
                va=va,
                fontweight="bold" if bold else "normal",
                parse_math=False,
            )

    def block(self, x: float, top: float, words: str, *, size: float = NORMAL, **more: Any) -> None:
        """Lines below each other from `top`, their baselines evenly spaced, as no Text does."""
        for number, line in enumerate(words.split("\n")):
            self.write(x, top + (number + 0.75) * size * LINE, line, size=size, **more)

    def plot(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner is (x, y)."""
        across, down = self._width, self._height
        with matplotlib.rc_context(RC):
            axes = self.figure.add_axes(
                (x / across, 1 - (y + height) / down, width / across, height / down)
            )
        axes.tick_params(labelsize=SMALL, width=0.5, length=2, color=GREY, labelcolor=INK, pad=1.5)
        axes.spines[:].set(color=GREY, linewidth=0.5)
        axes.set_facecolor("none")
        return axes

    def rule(self, y: float) -> None:
        """A thin line across the room."""
        ends = [self.left / self._width, self.right / self._width]
        at = [1 - y / self._height] * 2
        self.figure.add_artist(Line2D(ends, at, color=GREY, linewidth=0.4))

    def legend(
        self, y: float, handles: Sequence[Any], columns: int, line: float = LEGEND_LINE
    ) -> None:
        """A legend over the whole width, its lines of `line` inches, filled column by column."""
        lines = math.ceil(len(handles) / columns)
        place = self.plot(self.left, y, self.right - self.left, lines * line)
        place.set(xticks=[], yticks=[])
        place.axis("off")
        with matplotlib.rc_context(RC):
            legend = place.legend(
                handles=list(handles),
                loc="upper left",
                ncols=columns,
                frameon=False,
                fontsize=SMALL,
                labelcolor=INK,
                borderpad=0,
                borderaxespad=0,
                handlelength=1.6,
                handleheight=0.7,
                handletextpad=0.5,
                columnspacing=1.5,
                labelspacing=line * 72 / SMALL - 1,
            )
        for text in legend.get_texts():
            text.set_parse_math(False)


def write_figure(figure: Figure, path: Path, *, dpi: int = DPI) -> None:
    """Write `path` (.png) and the PDF beside it; the same figure gives the same bytes.

    Raises:
        FadepthError: `path` does not end in .png.
    """
    if path.suffix != ".png":
        raise FadepthError(f"{path} must end in .png: the PDF is written beside it by itself")
    forms: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    for form, metadata in forms.items():
        with matplotlib.rc_context(RC), atomic_path(path.with_suffix(f".{form}")) as temporary:
            figure.savefig(temporary, format=form, dpi=dpi, metadata=metadata, facecolor="white")


def signed(value: float, decimals: int) -> str:
    """A change as people write it: +0.012, −0.003 with a true minus.

    A value that rounds to zero keeps its sign, which says on which side an interval ends.
    """
    sign = "−" if value < 0 else "+" if value > 0 else ""
    return f"{sign}{abs(value):.{decimals}f}"


def apart(places: Sequence[float], labels: Sequence[str], size: float = SMALL) -> bool:
    """Whether labels centred at `places` (inches, ascending) leave a gap between each other."""
    halves = [text_width(label, size) / 2 for label in labels]
    return all(
        right - left >= a + b + 0.06
        for (left, a), (right, b) in itertools.pairwise(zip(places, halves, strict=True))
    )


def finite(*values: float | None) -> bool:
    """Whether no value is NaN or infinite; None is no value."""
    return all(value is None or math.isfinite(value) for value in values)
