"""What a table is, before it is CSV, Markdown, LaTeX or HTML.

A table carries the stamp of the runs behind it, so that no format can be written without saying
what the numbers may be used for; and the noise of its trained rows, so that no format can print a
number bold that a repetition would not show again.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

Cell = str | int | float | None
Direction = Literal["lower", "higher", "none"]
Mark = Literal["best", "second"]

#: variant, teacher, baseline: trained or fitted here. reported: numbers that a publication prints.
#: official: published weights under our evaluator.
RowKind = Literal["variant", "teacher", "baseline", "reported", "official"]

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
    for text; in a column with decimals a cell of text ("> 500") is printed as it is and never
    ranked. `spread` names the column printed behind the value as its +- (standard deviation).
    `sort` names the column by whose values a column of text is sorted ("+0.01 [..]" by a number).
    `group` is a heading over neighbouring columns that share it ("dark input"). Only columns with
    a `direction` have a best. HTML takes the header of Markdown.
    """

    key: str
    markdown: str | None = None
    latex: str | None = None
    direction: Direction = "none"
    decimals: int | None = None
    spread: str | None = None
    group: str = ""
    sort: str | None = None


@dataclass(frozen=True)
class TableRow:
    """Cells by column key.

    Attributes:
        cells: values; an absent or None one is printed as missing.
        kind: rows of kind variant compete with each other, and so do reported ones.
        group: rows of a group stand together, parted by a rule from the next; `Table.headings`
            may give it a heading.
        missing: column key -> why the cell is empty or of fewer seeds ("2/3 seeds").
    """

    cells: Mapping[str, Cell]
    kind: RowKind = "variant"
    group: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)


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
class Noise:
    """What repeated trainings of the baseline row say about differences.

    Attributes:
        baseline: index of the row that the others are compared with.
        floors: column key -> row index -> the difference to the baseline's value from which on it
            counts; a row without a floor (one seed) is never marked.
    """

    baseline: int
    floors: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table with its stamp.

    Attributes:
        name: of its files, such as table_ablation.
        title: for people; it names the data where they are not the published ones.
        columns, rows: in the order in which they are printed.
        stamp: where the numbers are from.
        notes: sentences below the table, without a full stop.
        headings: group of rows -> heading above them; a group without one is parted by a rule.
        noise: of the trained rows; None: marks are decided by printed digits alone.
        provenance: JSON, written beside the table where given.
        companions: further tables that belong below this one (ours beside the paper's).
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    stamp: Stamp
    notes: tuple[str, ...] = ()
    headings: Mapping[str, str] = field(default_factory=dict)
    noise: Noise | None = None
    provenance: Mapping[str, Any] | None = field(default=None, compare=False)
    companions: tuple["Table", ...] = ()

    @property
    def warning(self) -> str | None:
        """The sentence that keeps a smoke or quick table from being taken for the paper's."""
        return scale_warning(self.stamp.scale)

    def ranked(self) -> Iterator[Column]:
        """Columns that have a best."""
        return (c for c in self.columns if c.direction != "none" and c.decimals is not None)


def rounded(value: Cell, decimals: int) -> Decimal | None:
    """Round half up as a reader would; None for text, missing and non-finite values.

    `repr` gives the shortest decimal of the float: 0.1125 rounds to 0.113, though its binary
    neighbour may lie below the half.
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP)


def marks(table: Table) -> dict[tuple[int, str], Mark]:
    """Best and second of each column: (row index, column key) -> mark.

    Variants compete with variants, reported rows with reported rows. Ranks are decided on the
    printed digits, so equal prints are marked equally; a column in which all print the same has
    none. Where the table knows its noise, a variant is marked only if it differs from the baseline
    row by more than the floor: the best of several equals is no finding.
    """
    result: dict[tuple[int, str], Mark] = {}
    for column in table.ranked():
        for kind in ("variant", "reported"):
            for index, mark in _ranked(table, column, kind).items():
                if kind == "reported" or beats_noise(table, index, column):
                    result[index, column.key] = mark
    return result


def _ranked(table: Table, column: Column, kind: RowKind) -> dict[int, Mark]:
    assert column.decimals is not None
    values = {
        index: value
        for index, row in enumerate(table.rows)
        if row.kind == kind
        and (value := rounded(row.cells.get(column.key), column.decimals)) is not None
    }
    ranking = sorted(set(values.values()), reverse=column.direction == "higher")
    if len(ranking) < 2:
        return {}
    names: dict[Decimal, Mark] = {ranking[0]: "best", ranking[1]: "second"}
    return {index: names[value] for index, value in values.items() if value in names}


def beats_noise(table: Table, index: int, column: Column) -> bool:
    """Whether a row is better than the baseline row by more than the floor.

    True in a table without `noise`; False for the baseline itself and for rows without a floor.
    """
    difference = _gain(table, index, column)
    if table.noise is None:
        return True
    floor = table.noise.floors.get(column.key, {}).get(index)
    return difference is not None and floor is not None and difference > floor


def within_noise(table: Table) -> set[tuple[int, str]]:
    """Cells of variants that differ from the baseline's by no more than the floor.

    Readers may take them for equal; HTML prints them grey.
    """
    if table.noise is None:
        return set()
    found = set()
    for column in table.ranked():
        for index, floor in table.noise.floors.get(column.key, {}).items():
            difference = _gain(table, index, column)
            if index != table.noise.baseline and difference is not None:
                found |= {(index, column.key)} if abs(difference) <= floor else set()
    return found


def _gain(table: Table, index: int, column: Column) -> float | None:
    """How much better than the baseline row; None where either has no number."""
    if table.noise is None or index == table.noise.baseline:
        return None
    own, base = (table.rows[i].cells.get(column.key) for i in (index, table.noise.baseline))
    if not isinstance(own, (int, float)) or not isinstance(base, (int, float)):
        return None
    return float(own - base if column.direction == "higher" else base - own)
