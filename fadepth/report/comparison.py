"""Our numbers beside those that the paper prints, cell by cell, with a verdict.

It appears by itself once a user who has the paper fills cells of `ablations/paper/`. All rules here
are [derived]: the paper prints one number a cell and says nothing of its noise.

A *verdict* on one cell:

- within noise: |ours - paper| <= t s sqrt(1 + 1/n) + half a unit of the paper's last digit, with
  our mean and standard deviation s of n >= 2 seeds and t = the 97.5 % quantile of Student's
  distribution with n - 1 degrees of freedom. This is the 95 % prediction interval of one more
  training (Hahn and Meeker, "Statistical Intervals", 1991): the paper's number is taken for one
  more of ours, with the same noise, and rounded;
- same direction: outside of that, but the row stands on the same side of the baseline row as in
  the paper, at the paper's digits (or equals it, in both);
- different: neither;
- no verdict: one seed, so that no noise is known, and no baseline to compare a direction with (the
  baseline row itself, or a baseline without a number).

The *score* of a table asks for the order alone: of all pairs of rows for which the paper prints two
different numbers, how many stand in the same order with us.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from scipy.special import stdtrit  # Student's t; scipy.stats takes half a second to import

from fadepth.errors import FadepthError
from fadepth.report.reference import Reference
from fadepth.report.table import Column, Table, TableRow, rounded

Verdict = Literal["within noise", "same direction", "different", "no verdict"]

_NOTES = (
    "Δ = ours - paper; ± is the sample standard deviation of ours over seeds",
    "within noise: the paper's number lies in the 95 % prediction interval of one more training of "
    "ours (Student's t, and half a unit of its last digit)",
    "same direction: outside of it, but on the paper's side of the row '{baseline}'; different: "
    "neither; no verdict: one seed and no baseline to compare with",
    "orderings: pairs of rows that the paper prints with different numbers and that stand in the "
    "same order here",
    "verdicts and score are rules of this project, not of the paper",
)


@dataclass(frozen=True)
class Ours:
    """One of our cells.

    Attributes:
        mean: over seeds.
        std: sample standard deviation over seeds; None with one.
        n: number of seeds.
    """

    mean: float
    std: float | None
    n: int


def noise_interval(ours: Ours) -> float | None:
    """Half width of the 95 % prediction interval of one more training; None with one seed."""
    if ours.std is None or ours.n < 2:
        return None
    return float(stdtrit(ours.n - 1, 0.975)) * ours.std * math.sqrt(1 + 1 / ours.n)


def compare_cell(
    ours: Ours,
    paper: float,
    *,
    baseline_ours: Ours | None,
    baseline_paper: float | None,
    is_baseline: bool,
    decimals: int,
) -> Verdict:
    """Judge one cell; the module tells the rules.

    Args:
        ours: of this row.
        paper: printed in the same cell.
        baseline_ours: of the baseline row; None if it was not run.
        baseline_paper: of the baseline row; None if the paper does not print it.
        is_baseline: whether this is the baseline row, which has no direction.
        decimals: with which the paper prints the column.
    """
    half = noise_interval(ours)
    if half is not None and abs(ours.mean - paper) <= half + 0.5 * 10**-decimals:
        return "within noise"
    if is_baseline or baseline_ours is None or baseline_paper is None:
        return "no verdict" if half is None else "different"
    here = _order(ours.mean, baseline_ours.mean, decimals)
    there = _order(paper, baseline_paper, decimals)
    return "same direction" if here == there else "different"


def reproduction_score(pairs: Iterable[tuple[float, float]], decimals: int) -> tuple[int, int]:
    """Of all pairs of rows that the paper tells apart, how many stand in its order: (held, all).

    Rows that tie in the paper are left out. Rows that tie with us at the paper's digits, but not
    in the paper, do not hold.

    Args:
        pairs: (ours, paper) of every row.
        decimals: with which the paper prints the column.
    """
    orders = [
        (_order(ours_a, ours_b, decimals), _order(paper_a, paper_b, decimals))
        for (ours_a, paper_a), (ours_b, paper_b) in combinations(pairs, 2)
    ]
    told_apart = [here == there for here, there in orders if there != 0]
    return sum(told_apart), len(told_apart)


def _order(a: float, b: float, decimals: int) -> int:
    """Sign of a - b as they are printed."""
    first, second = rounded(a, decimals), rounded(b, decimals)
    assert first is not None, "a mean is finite"
    assert second is not None, "a mean is finite"
    return (first > second) - (first < second)


def comparison_table(
    table: Table,
    references: Sequence[Reference],
    ours: Mapping[str, Mapping[str, Ours]],
    *,
    baseline: str,
    size: str = "",
) -> Table | None:
    """Build the companion table of `table`: one line a row and metric that the paper prints.

    Args:
        table: ours; gives name, title, stamp, and the headers of the metrics.
        references: those that apply (`reference.applicable`), of both kinds; only the paper's
            count.
        ours: row label -> column key -> our cell, in the order of the lines.
        baseline: label of the row that the others are compared with.
        size: of our input, such as 192x640; rows that the paper prints for another one are left
            out. Empty: not asked.

    Returns:
        the table, or None where no printed number meets one of ours, or where any of our numbers
        are not of full scale: smoke and quick never get a verdict.

    Raises:
        FadepthError: the paper has two numbers for one of our cells.
    """
    if table.stamp.scale != "full":
        return None
    printed = _printed([r for r in references if not (size and r.size) or r.size == size])
    headers = {column.key: column for column in table.columns}
    pairs: dict[str, list[tuple[float, float]]] = {}
    rows = []
    for label, key, own in _cells(ours, printed):
        pairs.setdefault(key, []).append((own.mean, printed[label, key].value))
        judged = compare_cell(
            own,
            printed[label, key].value,
            baseline_ours=ours.get(baseline, {}).get(key),
            baseline_paper=printed[baseline, key].value if (baseline, key) in printed else None,
            is_baseline=label == baseline,
            decimals=_decimals(printed, key),
        )
        name = _title(key, headers.get(key))
        rows.append(_row(label, name, own, printed[label, key], judged))
    if not rows:
        return None
    sources = sorted({printed[label, key].source for label, key, _ in _cells(ours, printed)})
    return Table(
        name=f"{table.name}_paper",
        title=f"{table.title}: ours beside the paper's",
        columns=_columns(max(3, *(_decimals(printed, key) for key in pairs))),
        rows=tuple(rows),
        stamp=table.stamp,
        notes=(
            *_score(
                {
                    _title(k, headers.get(k)): reproduction_score(p, _decimals(printed, k))
                    for k, p in pairs.items()
                }
            ),
            *(note.format(baseline=baseline) for note in _NOTES),
            f"the paper's numbers: {'; '.join(sources)}",
        ),
    )


@dataclass(frozen=True)
class _Printed:
    """A number of the paper."""

    value: float
    text: str
    decimals: int
    source: str


def _printed(references: Sequence[Reference]) -> dict[tuple[str, str], _Printed]:
    """Return the paper's numbers by (row, column)."""
    result: dict[tuple[str, str], _Printed] = {}
    for reference in references:
        for key, value in reference.values.items():
            if reference.kind != "paper" or isinstance(value, str):
                continue
            text = reference.texts[key]
            if other := result.get((reference.row, key)):
                raise FadepthError(
                    f"the paper's row '{reference.row}' has two numbers in column '{key}', "
                    f"{other.text} and {text}: of its lines of several sizes or supervisions keep "
                    "the one that our row corresponds to"
                )
            decimals = reference.decimals(key)
            result[reference.row, key] = _Printed(value, text, decimals, reference.source)
    return result


def _cells(
    ours: Mapping[str, Mapping[str, Ours]], printed: Mapping[tuple[str, str], _Printed]
) -> Iterator[tuple[str, str, Ours]]:
    """Our cells (row, column, ours) that the paper prints too."""
    for label, cells in ours.items():
        for key, own in cells.items():
            if (label, key) in printed:
                yield label, key, own


def _decimals(printed: Mapping[tuple[str, str], _Printed], key: str) -> int:
    # The most of the column: a spreadsheet writes the paper's 0.110 as 0.11.
    return max(number.decimals for (_, column), number in printed.items() if column == key)


def _title(key: str, column: Column | None) -> str:
    """Name of a metric in running text: its header without the arrow, behind that of its group."""
    if column is None or column.markdown is None:
        return key
    return f"{column.group}: {column.markdown}".removeprefix(": ").rstrip(" ↓↑")


def _columns(decimals: int) -> tuple[Column, ...]:
    return (
        Column("row", "Row", "Row"),
        Column("metric", "Metric", "Metric"),
        Column("ours", "Ours", "Ours", decimals=decimals, spread="ours_std"),
        Column("ours_std"),
        Column("paper", "Paper", "Paper"),
        Column("difference", "Δ", r"$\Delta$", decimals=decimals),
        Column("verdict", "Verdict", "Verdict"),
        Column("seeds", "Seeds", "Seeds", decimals=0),
    )


def _row(label: str, metric: str, own: Ours, printed: _Printed, verdict: Verdict) -> TableRow:
    return TableRow(
        {
            "row": label,
            "metric": metric,
            "ours": own.mean,
            "ours_std": own.std,
            # As the paper prints it, not as a float would.
            "paper": printed.text,
            "difference": own.mean - printed.value,
            "verdict": verdict,
            "seeds": own.n,
        },
        group=label,
    )


def _score(scores: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the score in words; nothing where the paper tells no two rows apart."""
    scores = {name: (held, every) for name, (held, every) in scores.items() if every}
    if not scores:
        return []
    held, every = (sum(column) for column in zip(*scores.values(), strict=True))
    of_each = ", ".join(f"{name} {h} of {n}" for name, (h, n) in scores.items())
    return [f"{held} of {every} orderings hold" + (f" ({of_each})" if len(scores) > 1 else "")]
