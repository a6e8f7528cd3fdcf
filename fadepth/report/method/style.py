"""What the figures share: a page, its boxes, arrows and pictures, and how a page becomes a file.

A page is laid out in pixels of the README's width, 800, from its upper left corner. Colours are
Okabe and Ito's (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from fadepth.files import atomic_path

WIDTH = 800
SMALL, NORMAL, LARGE = 10.5, 11.5, 13.0  # heights of letters, pixels
INK, GREY, PALE = "#222222", "#6b6b6b", "#d0d0d0"
DOTS_PER_INCH = 160  # of PNG files: 1280 pixels wide
LARGEST = 380_000  # bytes of a PNG file with all its colours
POINTS = 0.72  # per pixel of the page, which has 100 to the inch

#: The role of a thing: colour of its outline, and of its ground.
ROLES = {
    "student": ("#0072B2", "#E3F0F8"),
    "teacher": ("#D55E00", "#FBEBDF"),
    "loss": ("#009E73", "#E0F3ED"),
    "pose": ("#A8557F", "#F7EAF1"),
    "data": ("#6b6b6b", "#F4F4F4"),
    "accent": ("#E69F00", "#FDF3DC"),
}
RC: Any = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "svg.fonttype": "path",
    "svg.hashsalt": "fadepth",
    "path.simplify": False,
}

Array = NDArray[Any]
Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        name: of its file, with the ending.
        figure: matplotlib's.
        facts: the numbers printed in it, as they were measured.
    """

    name: str
    figure: Figure
    facts: Mapping[str, Any] = field(default_factory=dict)

    def texts(self) -> list[Text]:
        """All its labels that are seen."""
        found = (t for t in self.figure.findobj(Text) if isinstance(t, Text))
        return [text for text in found if text.get_text() and text.get_visible()]

    def write(self, folder: Path) -> Path:
        """Write it, the same bytes each time: no date, no name of the software."""
        path = folder / self.name
        with matplotlib.rc_context(RC), atomic_path(path) as temporary:
            if path.suffix == ".svg":
                empty = {"Date": None, "Creator": None}
                self.figure.savefig(temporary, format="svg", facecolor="white", metadata=empty)
            else:
                temporary.write_bytes(self._png())
        return path

    def _png(self) -> bytes:
        drawn, packed = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH, facecolor="white")
        image = Image.open(drawn).convert("RGB")
        image.save(packed, format="PNG", optimize=True)
        if packed.tell() <= LARGEST:
            return packed.getvalue()
        # 256 colours take a third of the bytes; the page itself is to stay white.
        reduced = image.quantize(palette=image.quantize(256, kmeans=1))
        palette, indices = np.array(reduced.getpalette()).reshape(-1, 3), np.array(reduced)
        white = int(palette.sum(1).argmax())
        palette[white] = 255
        indices[np.asarray(image).min(2) == 255] = white
        reduced = Image.fromarray(indices, mode="P")
        reduced.putpalette(palette.ravel().tolist())
        packed = io.BytesIO()
        reduced.save(packed, format="PNG", optimize=True)
        return packed.getvalue()


class Page:
    """A white page of 800 x `height` pixels; y grows downwards."""

    def __init__(self, height: float) -> None:
        self.height = height
        with matplotlib.rc_context(RC):
            self.figure = Figure(figsize=(WIDTH / 100, height / 100), facecolor="white")
            self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0), xticks=[], yticks=[])
        self.axes.axis("off")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = NORMAL,
        colour: str = INK,
        ha: str = "center",
        va: str = "center",
        bold: bool = False,
        italic: bool = False,
        ground: bool = False,
    ) -> None:
        """Words at a point; `ground` puts them on white, for labels of lines."""
        self.axes.text(
            x,
            y,
            words,
            fontsize=size * POINTS,
            color=colour,
            ha=ha,
            va=va,
            fontweight="bold" if bold else "normal",
            fontstyle="italic" if italic else "normal",
            linespacing=1.25,
            zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8} if ground else None,
        )

    def note(self, y: float, words: str) -> None:
        """A small grey line at the left edge: what the networks shown are."""
        self.text(15, y, words, size=SMALL, colour=GREY, ha="left")

    def heading(self, x: float, y: float, words: str) -> None:
        """A bold line that begins at x."""
        self.text(x, y, words, size=LARGE, ha="left", bold=True)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str = "",
        *,
        role: str = "data",
        size: float = NORMAL,
        bold: bool = False,
        dashed: bool = False,
    ) -> None:
        """A rounded box with its words in the middle."""
        line, ground = ROLES[role]
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=4",
            facecolor=ground,
            edgecolor=line,
            linewidth=1.0,
            linestyle=(0, (4, 2)) if dashed else "-",
            zorder=3,
        )
        self.axes.add_patch(patch)
        if words:
            self.text(x + width / 2, y + height / 2, words, size=size, bold=bold)

    def arrow(
        self,
        *points: Point,
        colour: str = INK,
        dashed: bool = False,
        head: bool = True,
        thick: float = 1.0,
        above: bool = False,
    ) -> None:
        """A line through the points, with a head at the last; `above` draws it over pictures."""
        style: dict[str, Any] = {
            "color": colour,
            "linewidth": thick,
            "linestyle": (0, (3, 2)) if dashed else "-",
            "zorder": 4 if above else 2,
        }
        if len(points) > 2 or not head:
            line = points if not head else points[:-1]
            self.axes.plot(*zip(*line, strict=True), solid_joinstyle="miter", **style)
        if head:
            patch = FancyArrowPatch(
                path=Outline(np.array(points[-2:])),
                arrowstyle="-|>,head_length=3.2,head_width=1.7",
                mutation_scale=1.4,
                joinstyle="miter",
                capstyle="butt",
                **style,
            )
            self.axes.add_patch(patch)

    def circle(self, x: float, y: float, sign: str = "+", *, colour: str = INK) -> None:
        """A sum, product or other small operation."""
        self.axes.add_patch(
            Circle((x, y), 8, facecolor="white", edgecolor=colour, linewidth=1.0, zorder=4)
        )
        if sign in "+×":
            # Strokes rather than a letter, which no font centres.
            reach = 4.5 if sign == "+" else 3.4
            ends = [((-1, 0), (1, 0)), ((0, -1), (0, 1))]
            if sign == "×":
                ends = [((-1, -1), (1, 1)), ((-1, 1), (1, -1))]
            for (x0, y0), (x1, y1) in ends:
                self.axes.plot(
                    [x + reach * x0, x + reach * x1],
                    [y + reach * y0, y + reach * y1],
                    color=colour,
                    linewidth=1.1,
                    zorder=5,
                )
        else:
            self.text(x, y, sign, size=SMALL)

    def dot(self, x: float, y: float, *, colour: str = GREY) -> None:
        """Where a line branches off."""
        self.axes.add_patch(Circle((x, y), 2.2, facecolor=colour, edgecolor="none", zorder=3))

    def marker(self, x: float, y: float, name: str) -> None:
        """A point of a picture and its letter."""
        ring = Circle((x, y), 4, facecolor="none", edgecolor="white", linewidth=1.6, zorder=5)
        self.axes.add_patch(ring)
        self.text(x + 12, y, name, size=LARGE, colour="white", bold=True)

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        line: str = "none",
        thick: float = 1.0,
        zorder: float = 4,
    ) -> None:
        """A plain rectangle."""
        self.axes.add_patch(
            Rectangle(
                (x, y),
                width,
                height,
                facecolor=fill,
                edgecolor=line,
                linewidth=thick,
                zorder=zorder,
            )
        )

    def picture(
        self,
        x: float,
        y: float,
        width: float,
        pixels: Array,
        *,
        height: float | None = None,
        title: str = "",
        line: str = PALE,
        smooth: bool = True,
    ) -> float:
        """An image (H, W, 3), its title above it; returns its height on the page."""
        tall = height or width * pixels.shape[0] / pixels.shape[1]
        self.axes.imshow(
            pixels,
            extent=(x, x + width, y + tall, y),
            interpolation="antialiased" if smooth else "nearest",
            aspect="auto",
            zorder=3,
        )
        self.axes.set(xlim=(0, WIDTH), ylim=(self.height, 0))
        self.rectangle(x, y, width, tall, line=line, thick=0.6, zorder=3)
        if title:
            self.text(x, y - 6, title, ha="left", va="baseline", size=NORMAL)
        return tall

    def plot(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes for curves, without a frame above and to the right."""
        place = (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        with matplotlib.rc_context(RC):
            axes = self.figure.add_axes(place)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color=GREY, linewidth=0.7)
        axes.tick_params(labelsize=SMALL * POINTS, color=GREY, labelcolor=INK, width=0.7, length=3)
        return axes

    def colour_bar(
        self, x: float, y: float, width: float, colormap: str, low: str, high: str
    ) -> None:
        """A thin scale with its two ends."""
        ramp = matplotlib.colormaps[colormap](np.linspace(0, 1, 128))[None, :, :3]
        self.picture(x, y, width, ramp, height=7)
        self.text(x - 4, y + 4, low, size=SMALL, ha="right", colour=GREY)
        self.text(x + width + 4, y + 4, high, size=SMALL, ha="left", colour=GREY)


def coloured(values: Array, low: float, high: float, colormap: str = "magma") -> Array:
    """(H, W) numbers as an image (H, W, 3) in [0, 1]."""
    scaled = np.clip((np.asarray(values, float) - low) / max(high - low, 1e-12), 0, 1)
    return np.asarray(matplotlib.colormaps[colormap](scaled)[..., :3])


def spread(values: Array, shares: Sequence[float] = (1, 99)) -> tuple[float, float]:
    """Two percentiles of an array."""
    low, high = np.percentile(np.asarray(values, float), shares)
    return float(low), float(high)
