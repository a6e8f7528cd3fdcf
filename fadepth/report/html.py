"""Tables as HTML: a section of a page, or a file that stands alone and needs no network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fadepth.report import layout
from fadepth.report.table import Column, Table, TableRow, marks, within_noise

#: (row label, column key) -> where the cell leads to; None for a cell without a link.
Link = Callable[[str, str], str | None]

MISSING = "—"
TEMPLATES = Path(__file__).parent / "templates"
_SWITCH = {"on": "●", "off": "○"}
ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def read_template(name: str) -> str:
    """Text of a file among the templates, such as `table.css`."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


#: What a page that holds `html_fragment`s inlines: once each.
TABLE_CSS = read_template("table.css")
TABLE_JS = read_template("table.js")


@dataclass(frozen=True)
class _Cell:
    """A cell as the template prints it; `sort` is what CSV holds."""

    text: str
    sort: str
    classes: str
    spread: str | None = None
    switch: str | None = None
    title: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class _Header:
    """A cell of the table's head; `key` is empty for a heading over columns."""

    text: str
    key: str = ""
    classes: str = ""
    first: str = "ascending"
    columns: int = 1
    rows: int = 1


@dataclass(frozen=True)
class _Row:
    kind: str
    cells: list[_Cell]


@dataclass(frozen=True)
class _Group:
    heading: str
    rows: list[_Row]


def html_fragment(table: Table, *, link: Link | None = None, level: int = 2) -> str:
    """Write `<section class="fadepth-table" id="{name}">` with the table and its companions.

    Cells carry the value of CSV as `data-sort`. Classes: `best` and `second`; `noise` where
    `within_noise` takes a cell for equal to the baseline's; `missing`; `partial` for a value with
    a reason in `TableRow.missing`; `num`, `text` and `switch`; of rows, their kind.

    Args:
        table: what to print.
        link: where a cell leads to.
        level: of the title's heading; companions are one deeper.
    """
    columns = [column for column in table.columns if column.markdown is not None]
    return ENVIRONMENT.get_template("table.html.j2").render(
        table=table,
        anchor=re.sub(r"[^\w.:-]+", "-", table.name),
        level=level,
        heads=_heads(table, columns),
        width=len(columns),
        groups=_groups(table, columns, link),
        notes=_legend(table, columns) + [layout.sentence(n) for n in layout.notes(table, columns)],
        companions=[
            html_fragment(companion, link=link, level=min(level + 1, 6))
            for companion in table.companions
        ],
    )


def html_document(table: Table) -> str:
    """Write a file of its own: style and script inside, nothing fetched."""
    return ENVIRONMENT.get_template("table_document.html.j2").render(
        title=table.title, css=TABLE_CSS, js=TABLE_JS, body=html_fragment(table, level=1)
    )


def _heads(table: Table, columns: list[Column]) -> list[list[_Header]]:
    """One line of headers, or two where there are headings over columns."""
    named = [
        _Header(
            column.markdown or "",
            column.key,
            _kind(table, column),
            "descending" if column.direction == "higher" else "ascending",
        )
        for column in columns
    ]
    if not any(column.group for column in columns):
        return [named]
    upper: list[_Header] = []
    lower: list[_Header] = []
    for group, width in layout.column_groups(columns):
        members, named = named[:width], named[width:]
        if group:
            upper.append(_Header(group, classes="span", columns=width))
            lower += members
        else:
            upper += [_Header(m.text, m.key, m.classes, m.first, rows=2) for m in members]
    return [upper, lower]


def _kind(table: Table, column: Column) -> str:
    if column.decimals is not None:
        return "num"
    return "switch" if layout.is_switch(table, column) else "text"


def _groups(table: Table, columns: list[Column], link: Link | None) -> list[_Group]:
    marked = marks(table)
    noise = within_noise(table)
    kinds = {column.key: _kind(table, column) for column in columns}

    def cell(index: int, row: TableRow, column: Column) -> _Cell:
        place = (index, column.key)
        classes = [kinds[column.key], marked.get(place, ""), "noise" if place in noise else ""]
        href = link(layout.row_label(row, columns), column.key) if link else None
        return _cell(row, column, [name for name in classes if name], href)

    return [
        _Group(
            group.heading,
            [
                _Row(row.kind, [cell(index, row, column) for column in columns])
                for index, row in group.rows
            ],
        )
        for group in layout.row_groups(table)
    ]


def _cell(row: TableRow, column: Column, classes: list[str], link: str | None) -> _Cell:
    sort = layout.raw(row.cells.get(column.sort or column.key))
    title = row.missing.get(column.key)
    printed, words = layout.number(row, column), layout.text(row, column)
    if printed is None and words is None:
        return _Cell(MISSING, sort, " ".join([*classes, "missing"]), title=title, link=link)
    if title:
        classes = [*classes, "partial"]
    if printed is not None:
        value, spread = printed
        return _Cell(value, sort, " ".join(classes), spread, title=title, link=link)
    if column.decimals is not None:
        classes = [*classes, "text"]
    words = words or ""
    switch = words if words in _SWITCH else None
    return _Cell(
        _SWITCH.get(words, words), sort, " ".join(classes), switch=switch, title=title, link=link
    )


def _legend(table: Table, columns: list[Column]) -> list[str]:
    """What grey and the asterisk mean, where they occur."""
    keys = {column.key for column in columns}
    lines = []
    if table.noise is not None and any(key in keys for _, key in within_noise(table)):
        baseline = layout.row_label(table.rows[table.noise.baseline], columns)
        lines.append(f"Grey and slanted: differs from {baseline} by no more than the noise.")
    if any(
        row.missing.get(column.key) and layout.text(row, column) is not None
        for row in table.rows
        for column in columns
    ):
        lines.append("Asterisk: not of all seeds, or not as planned; a note tells why.")
    return lines
