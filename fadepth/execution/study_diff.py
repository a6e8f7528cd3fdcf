"""Two studies side by side: settings, rows, and the results of rows that are in both.

Numbers are compared only where they mean the same: scale, frames and protocol have to be equal. All
differences are B minus A.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import deciding_content, find_protocol
from fadepth.execution.changes import (
    Change,
    Facts,
    config_changes,
    differing,
    run_changes,
    spoken,
)
from fadepth.report.differences import images_of
from fadepth.report.measures import Measure, measures_of
from fadepth.report.results import Results, RowResult, make_stamp, read_results
from fadepth.report.table import Column, Stamp, Table, scale_warning
from fadepth.report.table import TableRow as PrintedRow
from fadepth.stats import Difference, paired_difference
from fadepth.study import Study, TableRow

if TYPE_CHECKING:
    from rich.console import Group

#: What a result says of how it was measured; it has to be the same in both studies.
_MEASURED = ("dataset", "data_hash", "split", "protocol", "protocol_digest")


@dataclass(frozen=True)
class Side:
    """One of the two studies; `name` tells study and preset, as the user does."""

    name: str
    study: Study


@dataclass(frozen=True)
class Compared:
    """One measure of a row in both studies.

    Attributes:
        measure: which.
        a, b: means over the seeds that have it; None: see `missing`.
        difference: B - A over the seeds that both have; of their means where they share none.
        interval: 95 % of it, where both have the same images of the same seeds.
        seeds: that both have.
        missing: why a number is not there, or there is nothing to compare.
    """

    measure: Measure
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    interval: Difference | None = None
    seeds: tuple[int, ...] = ()
    missing: str = ""

    @property
    def verdict(self) -> str:
        """Better or worse in B where the interval leaves out zero; else unclear."""
        if self.missing or self.difference is None:
            return self.missing
        if self.measure.column.direction == "none":
            return ""
        if self.interval is None:
            return "no interval" if self.seeds else "other seeds"
        if self.interval.low <= 0 <= self.interval.high:
            return "unclear"
        lower = self.measure.column.direction == "lower"
        word = "better" if (self.interval.mean < 0) == lower else "worse"
        # Of one training each, an interval speaks of other drives, not of a repetition.
        return f"{word}, one seed" if self.interval.seeds == 1 else word

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        low, high = (self.interval.low, self.interval.high) if self.interval else (None, None)
        return {
            "measure": self.measure.key,
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "low": low,
            "high": high,
            "seeds": list(self.seeds),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class RowPair:
    """A row of both studies.

    Attributes:
        a, b: the row in each.
        same: whether all seeds that both have are the same runs.
        notes: what else differs, in words.
        changes: settings that count and differ.
        compared: measures; none where the runs are the same or must not be compared.
    """

    a: TableRow
    b: TableRow
    same: bool
    notes: Sequence[str] = ()
    changes: Sequence[Change] = ()
    compared: Sequence[Compared] = ()

    @property
    def label(self) -> str:
        """Both labels where they differ."""
        one, other = self.a.label, self.b.label
        return one if one == other else f"{one} | {other}"

    def words(self, known: Sequence[Change] = ()) -> str:
        """What differs but for numbers, in one line; without changes that are told elsewhere."""
        if self.same:
            return "; ".join(["same runs, nothing to compare", *self.notes])
        told = {(change.key, spoken(change.old), spoken(change.new)) for change in known}
        own = [c for c in self.changes if (c.key, spoken(c.old), spoken(c.new)) not in told]
        above = ["settings as above"] if len(own) < len(self.changes) else []
        return "; ".join([*map(str, own), *above, *self.notes])

    @property
    def missing(self) -> str:
        """Why no measure at all can be compared; empty where one can."""
        reasons = {compared.missing for compared in self.compared}
        return reasons.pop() if len(reasons) == 1 else ""


@dataclass(frozen=True)
class StudyDiff:
    """Two studies compared.

    Attributes:
        a, b: the studies.
        settings: of presets and study files that differ, those of runs' identity first.
        only_a, only_b: labels of rows that the other does not have.
        rows: in both.
        refused: why numbers are not compared; empty where they are.
        left_out: why single measures are not.
        stamp: of the runs behind the numbers.
    """

    a: Side
    b: Side
    settings: Sequence[Change]
    only_a: Sequence[str]
    only_b: Sequence[str]
    rows: Sequence[RowPair]
    refused: Sequence[str]
    left_out: Sequence[str]
    stamp: Stamp | None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "a": self.a.name,
            "b": self.b.name,
            "settings": [change.as_json() for change in self.settings],
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "refused": list(self.refused),
            "left_out": list(self.left_out),
            "rows": [
                {
                    "a": pair.a.label,
                    "b": pair.b.label,
                    "same": pair.same,
                    "notes": list(pair.notes),
                    "changes": [change.as_json() for change in pair.changes],
                    "measures": [compared.as_json() for compared in pair.compared],
                }
                for pair in self.rows
            ],
        }


def compare_studies(a: Side, b: Side, runs: Path) -> StudyDiff:
    """Compare two studies; results are those in `runs`.

    Raises:
        FadepthError: an ego mask that a study names cannot be read.
    """
    pairs = list(_pairs(a.study, b.study))
    of_a, of_b = ({id(pair[side]) for pair in pairs} for side in (0, 1))
    measures, left_out = _common_measures(a.study, b.study)
    refused = list(_not_comparable(a.study, b.study))
    rows = [_without_numbers(*pair) for pair in pairs]
    stamp = None
    if not refused:
        try:
            rows, stamp = _with_numbers(a, b, rows, measures, runs)
        except FadepthError as error:
            refused.append(str(error))
    return StudyDiff(
        a,
        b,
        _settings(a.study, b.study),
        [row.label for row in a.study.rows if id(row) not in of_a],
        [row.label for row in b.study.rows if id(row) not in of_b],
        rows,
        refused,
        left_out,
        stamp,
    )


def _settings(a: Study, b: Study) -> list[Change]:
    """Settings of the presets, then what the study files say beside their rows."""
    files = [s.file.model_dump(mode="json", exclude={"rows", "factors"}) for s in (a, b)]
    found = [Change(f"study.{key}", old, new, False) for key, old, new in differing(*files)]
    return config_changes(a.config, b.config) + found


def _pairs(a: Study, b: Study) -> Iterator[tuple[TableRow, TableRow]]:
    """Rows of both: of one label, else of the same factors, else of the same runs."""
    left, right = list(a.rows), list(b.rows)
    found: dict[int, TableRow] = {}
    for alike in (_same_label, _same_factors, _same_runs):
        for row in left:
            match = next((other for other in right if alike(row, other)), None)
            if id(row) not in found and match is not None:
                found[id(row)] = match
                right = [other for other in right if other is not match]
    return ((row, found[id(row)]) for row in left if id(row) in found)


def _same_label(one: TableRow, other: TableRow) -> bool:
    return one.label == other.label


def _same_factors(one: TableRow, other: TableRow) -> bool:
    return bool(one.factors) and one.factors == other.factors


def _same_runs(one: TableRow, other: TableRow) -> bool:
    return [run.id for run in one.runs] == [run.id for run in other.runs]


# What may be compared


def _not_comparable(a: Study, b: Study) -> Iterator[str]:
    """Why numbers of two studies mean different things."""
    one, other = a.config, b.config
    if one.scale != other.scale:
        yield f"A is of scale {one.scale} and B of scale {other.scale}"
    if one.data.name != other.data.name:
        yield f"A is about the data set {one.data.name} and B about {other.data.name}"
    elif a.data_hash != b.data_hash:
        yield f"A and B have other frames of {one.data.name} ({a.data_hash}, {b.data_hash})"
    if a.file.evaluated_on != b.file.evaluated_on:
        places = [study.file.evaluated_on or "the preset's own frames" for study in (a, b)]
        yield f"A is evaluated on {places[0]} and B on {places[1]}"
    elif a.file.evaluated_on is not None:
        yield from _other_benchmark(a, b, a.file.evaluated_on)
        return
    if one.evaluation.split != other.evaluation.split:
        yield (
            f"A is evaluated on the split {one.evaluation.split} and B on {other.evaluation.split}"
        )
    yield from _other_protocol(one.evaluation.protocol, other.evaluation.protocol)


def _other_protocol(one: str, other: str) -> Iterator[str]:
    if deciding_content(find_protocol(one)) != deciding_content(find_protocol(other)):
        yield f"A is evaluated by the protocol {one} and B by {other}"


def _other_benchmark(a: Study, b: Study, name: str) -> Iterator[str]:
    one, other = a.config.benchmarks.get(name), b.config.benchmarks.get(name)
    if one is None or other is None:
        yield f"the preset of {'A' if one is None else 'B'} has no benchmark {name}"
        return
    frames = [s.model_dump(exclude={"root", "title", "protocol"}) for s in (one, other)]
    if frames[0] != frames[1]:
        yield f"the benchmark {name} has other frames in A than in B"
    yield from _other_protocol(one.protocol, other.protocol)


def _common_measures(a: Study, b: Study) -> tuple[list[Measure], list[str]]:
    """Measures of both tables, and why others are left out."""
    left_out, others = [], set()
    for name in {*a.file.benchmarks} & {*b.file.benchmarks}:
        for reason in _other_benchmark(a, b, name):
            left_out.append(f"{name}: {reason}")
            others.add(f"benchmarks/{name}/")
    known = {(m.key, m.file, m.path) for m in measures_of(b)}
    common = [
        m
        for m in measures_of(a)
        if (m.key, m.file, m.path) in known and not m.file.startswith(tuple(others))
    ]
    return common, sorted(left_out)


# Rows


def _without_numbers(a: TableRow, b: TableRow) -> RowPair:
    ids = [{run.seed: run.id for run in row.runs} for row in (a, b)]
    shared = sorted(ids[0].keys() & ids[1].keys())
    only = {side: sorted(ids[own].keys() - shared) for own, side in enumerate("AB")}
    notes = [
        f"seed {', '.join(map(str, seeds))} only in {side}" for side, seeds in only.items() if seeds
    ]
    if shared and all(ids[0][seed] == ids[1][seed] for seed in shared):
        return RowPair(a, b, True, notes)
    if a.kind != b.kind:
        return RowPair(a, b, False, [f"a {a.kind} in A and a {b.kind} in B", *notes])
    one, other = a.runs[0], b.runs[0]
    if one.kind not in ("student", "teacher"):
        return RowPair(a, b, False, ["fitted or read otherwise", *notes])
    changes = run_changes(Facts.of(one), Facts.of(other))
    if one.config.scale != other.config.scale:
        notes.insert(0, "another scale")
    if one.data_hash != other.data_hash:
        notes.insert(0, "other frames")
    if one.teacher and other.teacher:
        between = run_changes(Facts.of(one.teacher), Facts.of(other.teacher))
        if between:
            notes.insert(0, f"its teacher: {'; '.join(map(str, between))}")
    return RowPair(a, b, False, notes, changes)


def _with_numbers(
    a: Side, b: Side, rows: Sequence[RowPair], measures: Sequence[Measure], runs: Path
) -> tuple[list[RowPair], Stamp]:
    """Add results to the rows whose runs differ."""
    wanted = [pair for pair in rows if not pair.same]
    parts = [
        read_results(replace(side.study, rows=tuple(own)), measures, runs, partial=True)
        for side, own in ((a, [p.a for p in wanted]), (b, [p.b for p in wanted]))
    ]
    found = [
        replace(pair, compared=[_compare(one, other, m, runs) for m in _of_kind(pair, measures)])
        for pair, one, other in zip(wanted, parts[0].rows, parts[1].rows, strict=True)
    ]
    both = Results(a.study, measures, [*parts[0].rows, *parts[1].rows])
    numbered = iter(found)
    return [pair if pair.same else next(numbered) for pair in rows], make_stamp(both)


def _of_kind(pair: RowPair, measures: Sequence[Measure]) -> list[Measure]:
    kinds = {run.kind for row in (pair.a, pair.b) for run in row.runs}
    return [measure for measure in measures if kinds <= {*measure.kinds}]


def _compare(a: RowResult, b: RowResult, measure: Measure, runs: Path) -> Compared:
    of_a, of_b = a.values(measure.key), b.values(measure.key)
    if not of_a or not of_b:
        return Compared(measure, _mean(of_a), _mean(of_b), missing=_missing(a, b, measure))
    found = Compared(measure, _mean(of_a), _mean(of_b))
    if reason := _measured_otherwise(a, b, measure):
        return replace(found, missing=reason)
    seeds = tuple(sorted(of_a.keys() & of_b.keys()))
    if not seeds:
        between = float(np.mean(list(of_b.values())) - np.mean(list(of_a.values())))
        return replace(found, difference=between)
    by_seed = [of_b[seed] - of_a[seed] for seed in seeds]
    interval = _interval(a, b, measure, runs)
    mean = interval.mean if interval else float(np.mean(by_seed))
    return replace(found, difference=mean, interval=interval, seeds=seeds)


def _mean(by_seed: Mapping[int, float]) -> float | None:
    return float(np.mean(list(by_seed.values()))) if by_seed else None


def _interval(a: RowResult, b: RowResult, measure: Measure, runs: Path) -> Difference | None:
    try:
        shared = images_of([a, b], measure, runs)
    except FadepthError:
        return None  # the means stand; only the images cannot be read
    if shared is None:
        return None
    _, values, drives = shared
    difference = values[1] - values[0]
    return paired_difference(difference, drives) if np.isfinite(difference).all() else None


def _missing(a: RowResult, b: RowResult, measure: Measure) -> str:
    told = []
    for side, row in (("A", a), ("B", b)):
        if not row.values(measure.key):
            reasons = {r.problems[measure.key] for r in row.runs if measure.key in r.problems}
            told.append(f"{' and '.join(sorted(reasons)) or 'not evaluated'} in {side}")
    return ", ".join(told)


def _measured_otherwise(a: RowResult, b: RowResult, measure: Measure) -> str:
    """What the results themselves say of frames and protocol, where it is not the same."""
    for key in _MEASURED:
        said = [
            sorted(
                {str(e[key]) for r in row.runs if key in (e := r.evaluations.get(measure.file, {}))}
            )
            for row in (a, b)
        ]
        if said[0] and said[1] and said[0] != said[1]:
            one, other = (", ".join(values) for values in said)
            return f"measured otherwise: {key} {one} in A, {other} in B"
    return ""


# Showing


def diff_view(diff: StudyDiff) -> "Group":
    """Everything, for a terminal."""
    from rich.console import Group
    from rich.table import Table as View
    from rich.text import Text

    parts: list[Any] = [Text(f"A: {diff.a.name}\nB: {diff.b.name}")]
    if diff.settings:
        view = View(title=Text("Settings"), title_justify="left")
        for name in ("setting", "A", "B", "makes other runs"):
            view.add_column(name, overflow="fold")
        for change in diff.settings:
            words = [Text(text) for text in (change.key, spoken(change.old), spoken(change.new))]
            view.add_row(*words, "yes" if change.identity else "no")
        parts.append(view)
    else:
        parts.append(Text("Settings: the same"))
    for side, labels in (("A", diff.only_a), ("B", diff.only_b)):
        if labels:
            parts.append(Text(f"Rows only in {side}: {', '.join(labels)}"))
    for pair in diff.rows:
        if not pair.compared or pair.missing:
            told = [pair.words(diff.settings), pair.missing]
            parts.append(Text(f"{pair.label}: {'; '.join(filter(None, told))}"))
    for reason in diff.refused:
        parts.append(Text(f"numbers are not compared: {reason}", style="yellow"))
    for reason in diff.left_out:
        parts.append(Text(f"left out: {reason}", style="yellow"))
    if any(pair.compared and not pair.missing for pair in diff.rows):
        parts.append(_numbers_view(diff))
        if diff.stamp and (warning := scale_warning(diff.stamp.scale)):
            parts.append(Text(warning, style="yellow"))
    return Group(*parts)


def _numbers_view(diff: StudyDiff) -> Any:
    from rich.table import Table as View
    from rich.text import Text

    view = View(title=Text("Results, B - A with its 95 % interval"), title_justify="left")
    for name in ("row", "measure", "A", "B", "B - A", "95 % from", "to", "verdict"):
        numeric = name in ("A", "B", "B - A", "95 % from", "to")
        view.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for pair in diff.rows:
        shown = () if pair.missing else pair.compared
        for number, found in enumerate(shown):
            first = f"{pair.label}\n{pair.words(diff.settings)}" if number == 0 else ""
            end = number == len(shown) - 1
            view.add_row(Text(first), *map(Text, _printed(pair, found)), end_section=end)
    return view


def _printed(pair: RowPair, found: Compared) -> Iterator[str]:
    column = found.measure.column
    digits = (column.decimals or 3) + 1
    yield " · ".join(filter(None, [column.group, column.markdown or column.key]))
    ends = (found.interval.low, found.interval.high) if found.interval else (None, None)
    for value, signed in (
        (found.a, ""),
        (found.b, ""),
        (found.difference, "+"),
        *((e, "+") for e in ends),
    ):
        yield "" if value is None else f"{value:{signed}.{digits}f}"
    seeds = {run.seed for row in (pair.a, pair.b) for run in row.runs}
    few = found.seeds and len(found.seeds) < len(seeds)
    only = f" (seed {', '.join(map(str, found.seeds))})" if few else ""
    yield found.verdict + only


_COLUMNS = (
    Column("row", "Row", "Row"),
    Column("measure", "Measure", "Measure"),
    Column("a", "A", "A", decimals=3),
    Column("b", "B", "B", decimals=3),
    Column("difference", "B - A", "B - A", decimals=4),
    Column("low", "95 % from", "95 % from", decimals=4),
    Column("high", "to", "to", decimals=4),
    Column("verdict", "Verdict", "Verdict"),
    Column("seeds", "Seeds", "Seeds", decimals=0),
    Column("settings", "What differs", "What differs"),
)

_NOTES = (
    "B - A: mean over the seeds that both have",
    "95 %: two-level bootstrap over drives and seeds of the images that both have; verdict "
    "'unclear' where it holds zero; with one seed it speaks of these trainings alone",
)


def diff_table(diff: StudyDiff) -> Table:
    """The numbers as a table.

    Raises:
        FadepthError: there are none to compare.
    """
    if not any(pair.compared for pair in diff.rows) or diff.stamp is None:
        reason = "; ".join(diff.refused) or "no row has other runs in A than in B"
        raise FadepthError(f"there are no numbers to write: {reason}")
    return Table(
        name="study_diff",
        title=f"{diff.a.name} (A) and {diff.b.name} (B)",
        columns=_COLUMNS,
        rows=tuple(
            PrintedRow(_cells(diff, pair, found), group=pair.label)
            for pair in diff.rows
            for found in pair.compared
        ),
        stamp=diff.stamp,
        notes=(*_NOTES, *diff.left_out),
    )


def _cells(diff: StudyDiff, pair: RowPair, found: Compared) -> dict[str, Any]:
    content = found.as_json() | {"row": pair.label, "settings": pair.words(diff.settings)}
    return content | {"measure": next(_printed(pair, found)), "seeds": len(found.seeds)}
