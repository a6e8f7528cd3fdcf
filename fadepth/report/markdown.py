"""Tables as GitHub-flavoured Markdown."""

import re

from fadepth.report import layout
from fadepth.report.table import Column, Mark, Table, TableRow, marks

MISSING = "—"
_SWITCH = {"on": "●", "off": "○"}
_STYLE: dict[Mark, str] = {"best": "**{}**", "second": "<ins>{}</ins>"}


def escape_markdown(text: str) -> str:
    """Escape plain text for a cell of a Markdown table."""
    # `&lt;` in a text is five characters, not one.
    return re.sub(r"([\\`*_|<>\[\]~$]|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))


def markdown_text(table: Table, level: int = 3) -> str:
    """Write a GitHub-flavoured table: best bold, second underlined, stamp and notes below.

    GFM has no cells over several columns: a heading over columns is repeated in each header, and a
    heading over rows is a row of its own. Companions follow, one `level` of headings deeper.
    """
    columns = [column for column in table.columns if column.markdown is not None]
    lines = [f"{'#' * level} {escape_markdown(table.title)}", ""]
    if table.warning:
        lines += [f"> **{escape_markdown(table.warning)}**", ""]
    lines.append(_line([_header(column) for column in columns]))
    lines.append(_line([_rule(table, column) for column in columns]))
    marked = marks(table)
    for group in layout.row_groups(table):
        if group.heading:
            lines.append(_line([f"**{escape_markdown(group.heading)}**", *[""] * len(columns[1:])]))
        for index, row in group.rows:
            lines.append(_line([_cell(row, c, marked.get((index, c.key))) for c in columns]))
    lines.append("")
    lines += [_item(note) for note in (*layout.notes(table, columns), layout.origin(table))]
    below = [markdown_text(companion, min(level + 1, 6)) for companion in table.companions]
    return "\n".join(["\n".join(lines) + "\n", *below])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _header(column: Column) -> str:
    name = escape_markdown(column.markdown or "")
    return f"{name} · {escape_markdown(column.group)}" if column.group else name


def _rule(table: Table, column: Column) -> str:
    if column.decimals is not None:
        return "---:"
    return ":---:" if layout.is_switch(table, column) else "---"


def _cell(row: TableRow, column: Column, mark: Mark | None) -> str:
    printed = layout.number(row, column)
    if printed is not None:
        text = " ± ".join(part for part in printed if part is not None)
        return _STYLE[mark].format(text) if mark else text
    words = layout.text(row, column)
    if words is None:
        return MISSING
    return _SWITCH.get(words) or escape_markdown(words)


def _item(note: str) -> str:
    # A note such as "+ ETM: 2/3 seeds" would open a list inside the list.
    return "- " + re.sub(r"^(\d*)([-+#.)])", r"\1\\\2", escape_markdown(note))
