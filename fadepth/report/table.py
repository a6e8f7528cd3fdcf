"""What a table is, before it is CSV, Markdown or LaTeX.

A table carries the stamp of the runs behind it, so that no format can be written without saying
what the numbers may be used for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

Cell = str | int | float | None
Direction = Literal["lower", "higher", "none"]
Mark = Literal["best", "second"]

_WARNINGS = {
    "smoke": "smoke: not a result",
    "quick": "quick: little data, low resolution; says nothing about the paper's numbers",
}


def scale_warning(scale: str) -> str | None:
    """Say what numbers of `scale` must not be used for; None where they may be (full)."""
    # Runs of several scales in one table ("quick, smoke") are no better than the least of them.
    found = [text for name, text in _WARNINGS.items() if name in scale.split(", ")]
    return found[0] if found else None


@dataclass(frozen=True)
class Column:
    r"""One column: `key` is its CSV header; a format without header leaves the column out.

    `latex` is LaTeX source whose text outside `$...$` is escaped by the writer. `decimals` is None
    for text. `spread` names the column printed behind the value as its +- (standard deviation).
    """

    key: str
    markdown: str | None = None
    latex: str | None = None
    direction: Direction = "none"
    decimals: int | None = None
    spread: str | None = None


@dataclass(frozen=True)
class TableRow:
    """Cells by column key; only rows of kind "variant" compete for best and second."""

    cells: Mapping[str, Cell]
    kind: str = "variant"
    group: str = ""


@dataclass(frozen=True)
class Stamp:
    """Where the numbers come from; several values of one kind are joined by a comma."""

    scale: str
    seeds: tuple[int, ...]
    dataset: str
    protocol: str
    commit: str

    def sentence(self) -> str:
        """All of the stamp in one line."""
        seeds = ", ".join(map(str, self.seeds)) or "none"
        return (
            f"scale {self.scale}; data {self.dataset}; protocol {self.protocol}; "
            f"seeds {seeds}; code {self.commit}"
        )


@dataclass(frozen=True)
class Table:
    """A table with its stamp; `provenance` (JSON) is written beside it where given."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    stamp: Stamp
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def warning(self) -> str | None:
        """The sentence that keeps a smoke or quick table from being taken for the paper's."""
        return scale_warning(self.stamp.scale)


def rounded(value: Cell, decimals: int) -> Decimal | None:
    """Round half up as a reader would; None for text, missing and non-finite values.

    `repr` gives the shortest decimal of the float: 0.1125 rounds to 0.113, though its binary
    neighbour may lie below the half.
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP)


def marks(table: Table) -> dict[tuple[int, str], Mark]:
    """Best and second of each column among the variants: (row index, column key) -> mark.

    Decided on the printed digits, so equal prints are marked equally. A column in which all
    variants print the same has no best.
    """
    result: dict[tuple[int, str], Mark] = {}
    for column in table.columns:
        if column.direction == "none" or column.decimals is None:
            continue
        values = {
            index: value
            for index, row in enumerate(table.rows)
            if row.kind == "variant"
            and (value := rounded(row.cells.get(column.key), column.decimals)) is not None
        }
        ranking = sorted(set(values.values()), reverse=column.direction == "higher")
        if len(ranking) < 2:
            continue
        for index, value in values.items():
            if value == ranking[0]:
                result[index, column.key] = "best"
            elif value == ranking[1]:
                result[index, column.key] = "second"
    return result
