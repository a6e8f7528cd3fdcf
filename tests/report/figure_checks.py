"""How a figure of results looks as a page: its letters, where they are, and its files."""

from itertools import combinations
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from fadepth.report.figure_style import RC
from fadepth.report.table import Stamp

STAMP = Stamp("quick", (0, 1, 2), "synthetic street", "eigen_improved", "abc1234")
TIGHT = 0.004  # inches that two boxes may share: they hold the air around letters


def artist(figure: Figure, gid: str) -> Artist:
    """The only artist of that id."""
    (found,) = figure.findobj(lambda a: a.get_gid() == gid)
    return found


def drawn(figure: Figure, gid: str) -> list[list[float]]:
    """x and y of the line of that id, as drawn."""
    return [[float(value) for value in values] for values in artist(figure, gid).get_data()]  # type: ignore[attr-defined]


def ids(figure: Figure) -> set[str]:
    return {gid for a in figure.findobj() if (gid := a.get_gid()) is not None}


def words(figure: Figure) -> str:
    """All that can be read, one label a line, lines of a block joined."""
    return " ".join(text.get_text() for text in texts(figure))


def texts(figure: Figure) -> list[Text]:
    found = [t for t in figure.findobj(Text) if isinstance(t, Text)]
    return [t for t in found if t.get_text().strip() and t.get_visible()]


def boxes(figure: Figure) -> list[tuple[str, float, float, float, float]]:
    """Words, left, bottom, right, top of every label, inches."""
    found = []
    with matplotlib.rc_context(RC):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for text in texts(figure):
            b = text.get_window_extent(canvas.get_renderer())
            left, bottom, right, top = (float(v) / figure.dpi for v in (b.x0, b.y0, b.x1, b.y1))
            found.append((text.get_text(), left, bottom, right, top))
    return found


def assert_clean(figure: Figure) -> None:
    """No label leaves the page or covers another."""
    width, height = figure.get_size_inches()
    found = boxes(figure)
    assert len(found) > 5
    for label, left, bottom, right, top in found:
        assert left >= 0 and bottom >= 0 and right <= width and top <= height, f"'{label}' is cut"
    for (one, *a), (other, *b) in combinations(found, 2):
        across = min(a[2], b[2]) - max(a[0], b[0])
        up = min(a[3], b[3]) - max(a[1], b[1])
        assert min(across, up) <= TIGHT, f"'{one}' covers '{other}'"


def assert_same_files(first: Path, second: Path) -> None:
    """Two drawings of the same are the same bytes, and nothing else lies beside them."""
    assert {p.name for p in first.parent.iterdir()} == {first.name, first.stem + ".pdf"}
    for suffix in (".png", ".pdf"):
        one = first.with_suffix(suffix).read_bytes()
        assert one == second.with_suffix(suffix).read_bytes(), suffix
        assert b"CreationDate" not in one and b"atplotlib" not in one
    with Image.open(first) as image:
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
