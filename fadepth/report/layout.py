"""What the printed formats of a table share: which cells, in which order, with which notes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from fadepth.report.table import Cell, Column, Table, TableRow, rounded


@dataclass(frozen=True)
class RowGroup:
    """Neighbouring rows of one group: `heading` stands above them, if there is one."""

    heading: str
    rows: tuple[tuple[int, TableRow], ...]


def row_groups(table: Table) -> list[RowGroup]:
    """Rows with their index in `table.rows`, parted where the group changes."""
    parts = groupby(enumerate(table.rows), key=lambda item: item[1].group)
    return [RowGroup(table.headings.get(name, ""), tuple(rows)) for name, rows in parts]


def column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Heading and width of each span of neighbouring columns; the heading may be empty."""
    return [(name, len(list(part))) for name, part in groupby(columns, key=lambda c: c.group)]


def raw(value: Cell) -> str:
    """Write a value as in CSV: every digit, nothing where it is missing."""
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def number(row: TableRow, column: Column) -> tuple[str, str | None] | None:
    """Printed value and, where known, its spread; None where the cell holds no finite number."""
    if column.decimals is None:
        return None
    value = rounded(row.cells.get(column.key), column.decimals)
    if value is None:
        return None
    spread = rounded(row.cells.get(column.spread), column.decimals) if column.spread else None
    # abs: what rounds to zero has no sign to show.
    return f"{value or abs(value):f}", None if spread is None else f"{spread:f}"


def text(row: TableRow, column: Column) -> str | None:
    """Text of a cell that `number` does not print; None where the cell is missing."""
    value = row.cells.get(column.key)
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return str(value)


def is_switch(table: Table, column: Column) -> bool:
    """Whether a column of text says nothing but on and off: it is printed as dots, centred."""
    values = {text(row, column) for row in table.rows} - {None}
    return column.decimals is None and bool(values) and values <= {"on", "off"}


def row_label(row: TableRow, columns: Sequence[Column]) -> str:
    """What a row is called: its first printed cell."""
    return raw(row.cells.get(columns[0].key)) if columns else ""


def notes(table: Table, columns: Sequence[Column]) -> list[str]:
    """The table's notes, and why cells are empty or of fewer seeds."""
    return [*table.notes, *_missing(table, columns)]


def origin(table: Table) -> str:
    """The stamp as a note."""
    return f"Made from: {table.stamp.sentence()}"


def sentence(note: str) -> str:
    """Close a note with a full stop."""
    return note if note.endswith((".", "!", "?")) else note + "."


def tables_of(table: Table) -> Iterator[Table]:
    """The table, its companions, theirs, and so on."""
    yield table
    for companion in table.companions:
        yield from tables_of(companion)


def _missing(table: Table, columns: Sequence[Column]) -> list[str]:
    """One note a reason: rows that lack the same cells for the same reason share it."""
    rows: dict[str, list[str]] = {}
    for row in table.rows:
        by_reason: dict[str, list[str]] = {}
        for key, reason in row.missing.items():
            by_reason.setdefault(reason, []).append(key)
        for reason, keys in by_reason.items():
            where = _where(keys, columns)
            if where is not None:
                rows.setdefault(f"{reason}{where}", []).append(row_label(row, columns))
    return [f"{', '.join(dict.fromkeys(labels))}: {what}" for what, labels in rows.items()]


def _where(keys: Sequence[str], columns: Sequence[Column]) -> str | None:
    """Names of the columns in brackets; empty if the reason holds for all that are ranked."""
    concerned = [column for column in columns if column.key in keys]
    if not concerned:
        return None
    ranked = [column for column in columns if column.direction != "none"]
    if ranked and {column.key for column in ranked} <= set(keys):
        return ""
    names: list[str] = []
    for group, _ in column_groups(columns):
        inside = [column for column in columns if column.group == group]
        lacking = [column for column in inside if column.key in keys]
        if group and len(lacking) == len(inside):
            names.append(group)
        else:
            names += [f"{plain_name(c)}{f', {group}' if group else ''}" for c in lacking]
    return f" ({'; '.join(dict.fromkeys(names))})"


def plain_name(column: Column) -> str:
    """A column's header without the arrow that tells its direction."""
    return (column.markdown or column.key).rstrip(" ↓↑")
