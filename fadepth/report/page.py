"""The page that gathers a study's tables and figures: `reports/index.html`.

One file without a single request to a network: styles, scripts, pictures and the provenance of
every cell lie inside, so that it can be mailed, archived, or opened years later. It tells no time
of its own; the same input gives the same bytes.
"""

import base64
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image, UnidentifiedImageError

from fadepth.errors import FadepthError
from fadepth.files import write_atomic
from fadepth.report.html import ENVIRONMENT, TABLE_CSS, TABLE_JS, html_fragment, read_template
from fadepth.report.table import Column, Table, scale_warning

#: Names of formats as people write them; others are shown as they are.
FORMATS = {
    "csv": "CSV",
    "md": "Markdown",
    "tex": "LaTeX",
    "html": "HTML",
    "pdf": "PDF",
    "provenance": "provenance (JSON)",
}


@dataclass(frozen=True)
class PageFigure:
    """A picture of the page.

    `image` is a PNG and is put into the page; `vector`, its PDF or SVG, is linked.
    """

    name: str
    title: str
    caption: str
    image: Path
    vector: Path | None = None


@dataclass(frozen=True)
class PageTable:
    """A table and its files: format (csv, md, tex, html, provenance) -> link from the page."""

    table: Table
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        title: of the study.
        scale: of its runs (smoke, quick, full); decides about the warning at the top.
        data: a sentence on the data behind the numbers.
        tables, figures: in their order.
        environment: name -> version or property.
        supports, refuses: sentences on what these numbers show and what they do not.
        missing: sentences on what could not be made, and why.
        run_links: run id -> address of its MLflow run; may be empty.
        commit, dirty: of the code that trained; several commits are joined by a comma.
        command: makes the page again.
    """

    title: str
    scale: str
    data: str
    tables: Sequence[PageTable]
    figures: Sequence[PageFigure]
    environment: Mapping[str, str]
    supports: Sequence[str]
    refuses: Sequence[str]
    missing: Sequence[str]
    run_links: Mapping[str, str]
    commit: str
    dirty: bool
    command: str = "snakemake --cores 8 reports/all"


def write_page(page: Page, path: Path) -> None:
    """Write the page; see `render_page` for what it refuses."""
    write_atomic(path, render_page(page, folder=path.parent))


def render_page(page: Page, *, folder: Path = Path("reports")) -> str:
    """Return the page as HTML.

    Args:
        page: what it shows.
        folder: where the page will lie; links to the figures' vector files start there.

    Raises:
        FadepthError: two parts of the page have one name, a picture is no readable PNG, or a link
            is not what it must be (relative for files, http(s) for runs).
    """
    _check_names(page)
    _check_links(page)
    return ENVIRONMENT.get_template("report.html.j2").render(
        page=page,
        warning=scale_warning(page.scale),
        severity=_severity(page.scale),
        tables=[_table(entry) for entry in page.tables],
        figures=[_figure(figure, folder) for figure in page.figures],
        data=[
            (f"provenance-{table.name}", table.name, script_json(table.provenance))
            for table in _all_tables(page)
            if table.provenance is not None
        ],
        labels=script_json(_labels(page)),
        # A commit is put into a command only where it is one.
        checkout=page.commit if re.fullmatch("[0-9a-f]{7,40}", page.commit) else None,
        css=TABLE_CSS + "\n" + read_template("report.css"),
        js=TABLE_JS + "\n" + read_template("report.js"),
    )


def cell_link(table: str, row: str, column: str) -> str:
    """Link that opens the panel of a cell: `#table_ablation/w%2Fo%20ETM/abs_rel`."""
    return "#" + "/".join(quote(part, safe="") for part in (table, row, column))


def script_json(value: Any) -> str:
    r"""JSON to stand in a `<script type="application/json">`.

    Without a `<`, no text of a user can end the element (`</script>`) or open a comment in it
    (`<!--`). JSON has no NaN, and one would make the browser refuse the whole: it becomes text.
    """
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _severity(scale: str) -> str:
    scales = scale.split(", ")
    return next((name for name in ("smoke", "quick") if name in scales), "none")


# ------------------------------------------------------------------------------------- tables


def _family(table: Table) -> Iterator[Table]:
    """A table and what belongs below it, each by itself: cells of each lead to its own runs."""
    yield replace(table, companions=())
    for companion in table.companions:
        yield from _family(companion)


def _all_tables(page: Page) -> Iterator[Table]:
    for entry in page.tables:
        yield from _family(entry.table)


def _table(entry: PageTable) -> dict[str, Any]:
    return {
        "name": entry.table.name,
        "title": entry.table.title,
        "short": entry.table.title.partition(": ")[0],
        "fragments": [
            _fragment(table, level=4 if index else 3)
            for index, table in enumerate(_family(entry.table))
        ],
        # Quoted, no `:` is left that could make a scheme of its beginning.
        "files": [(FORMATS.get(form, form), quote(link)) for form, link in entry.files.items()],
    }


def _fragment(table: Table, level: int) -> str:
    cells = (table.provenance or {}).get("cells", {})

    def link(row: str, column: str) -> str | None:
        return cell_link(table.name, row, column) if column in cells.get(row, {}) else None

    return html_fragment(table, link=link, level=level)


def _labels(page: Page) -> dict[str, Any]:
    """What the panel calls things, and where runs are seen."""
    return {
        "tables": {
            table.name: {
                "title": table.title,
                "columns": {column.key: _header(column) for column in table.columns},
            }
            for table in _all_tables(page)
        },
        "run_links": dict(page.run_links),
    }


def _header(column: Column) -> str:
    header = column.markdown or column.key
    return f"{header} ({column.group})" if column.group else header


# ------------------------------------------------------------------------------------ figures


def _figure(figure: PageFigure, folder: Path) -> dict[str, Any]:
    width, height = _size(figure.image)
    vector = None
    if figure.vector is not None:
        relative = Path(os.path.relpath(figure.vector, folder))
        vector = (figure.vector.suffix.lstrip(".").upper(), quote(relative.as_posix()))
    return {
        "id": f"figure-{figure.name}",
        "title": figure.title,
        "caption": figure.caption,
        "source": "data:image/png;base64," + base64.b64encode(figure.image.read_bytes()).decode(),
        "width": width,
        "height": height,
        "vector": vector,
    }


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        raise FadepthError(
            f"{path} is no readable PNG: make the figure again before the page"
        ) from None


# ------------------------------------------------------------------------------------- checks


def _check_names(page: Page) -> None:
    names = [table.name for table in _all_tables(page)]
    names += [f"figure-{figure.name}" for figure in page.figures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FadepthError(f"two parts of the page are called '{twice[0]}': give each its own name")


def _check_links(page: Page) -> None:
    for run, address in page.run_links.items():
        if urlsplit(address).scheme not in ("http", "https"):
            raise FadepthError(
                f"the link of run {run} is '{address}': expected the http address of its MLflow run"
            )
    for entry in page.tables:
        for form, link in entry.files.items():
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("/"):
                raise FadepthError(
                    f"the {form} file of table '{entry.table.name}' is linked as '{link}': "
                    "expected a path relative to the page"
                )
