"""The effects table: what each factor of a study changes, with its spread over seeds.

An ablation table shows rows; a reader wants differences, and to know which of them a repetition
would show again. Beside accuracy stand the measures that a component was designed for: accuracy
and steadiness on mirrored and relit input (pyramid loss), distance to the teacher (APX).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fadepth.report.ablation import Row, RunRecord, make_stamp, read_json, read_records
from fadepth.report.table import Column, Table, TableRow
from fadepth.stats import Effect, Observation, factor_effect
from fadepth.study import level_label


@dataclass(frozen=True)
class Measure:
    """One measure of a run: where it stands in `robustness.json`, and how a reader calls it."""

    condition: str
    key: str
    label: str


#: All are errors: a negative effect is an improvement.
MEASURES = (
    Measure("clean", "abs_rel", "Abs Rel"),
    Measure("flipped", "abs_rel", "Abs Rel, mirrored input"),
    Measure("dark", "abs_rel", "Abs Rel, dark input"),
    Measure("bright", "abs_rel", "Abs Rel, bright input"),
    Measure("half", "abs_rel", "Abs Rel, half-size input"),
    Measure("flipped", "change", "change under mirroring"),
    Measure("dark", "change", "change in the dark"),
    Measure("bright", "change", "change in bright light"),
    Measure("half", "change", "change at half size"),
    Measure("clean", "teacher_distance", "distance to the teacher"),
)

COLUMNS = (
    Column("row", "Factor", "Factor"),
    Column("measure", "Measure", "Measure"),
    Column("plain", "Without", "Without", decimals=3),
    Column("effect", "Effect", "Effect", decimals=3, spread="effect_std"),
    Column("effect_std"),
    Column("low", "95 % from", r"95\,\% from", decimals=3),
    Column("high", "to", "to", decimals=3),
    Column("alone", "Effect alone", "Effect alone", decimals=3, spread="alone_std"),
    Column("alone_std"),
    Column("verdict", "Verdict", "Verdict"),
    Column("seeds", "Seeds", "Seeds", decimals=0),
)


def effects_table(
    runs: Path,
    rows: Sequence[Row],
    plain: Mapping[str, str],
    *,
    name: str,
    title: str,
    labels: Mapping[str, str],
) -> Table:
    """Build the effects of every factor on every measure that the runs have.

    Args:
        runs: folder of the run folders; each needs `robustness.json`.
        rows: the study's rows; only variants count.
        plain: plain level of each factor.
        name: the table's name.
        title: the study's title.
        labels: of the factors.

    Raises:
        FadepthError: a run is unfinished, or its `robustness.json` is missing or damaged.
    """
    variants = [row for row in rows if row.kind == "variant"]
    records = {row.label: (row, read_records(runs, list(row.run_ids))) for row in variants}
    everything = [record for _, group in records.values() for record in group]
    measured = {record.run_id: _conditions(runs, record.run_id) for record in everything}
    table_rows = []
    for factor, level in _changes(variants, plain):
        label = level_label(labels[factor], level)
        for measure in MEASURES:
            observations = _observations(list(records.values()), measured, measure)
            effect = factor_effect(observations, factor, level, plain)
            if effect is not None:
                base = _plain_mean(observations, factor, plain)
                table_rows.append(_table_row(label, measure, effect, base))
    return Table(
        name=name,
        title=f"{title}: effects",
        columns=COLUMNS,
        rows=tuple(table_rows),
        stamp=make_stamp(everything),
        notes=(
            "Effect: mean over seeds and over all levels of the other factors of (with - without), "
            "± its sample standard deviation over seeds; negative is better, all measures are "
            "errors",
            "Effect alone: the same with all other factors off",
            "95 %: Student's interval of the effect; verdict 'unclear' where it holds zero",
            "Change: mean |log inverse depth - that of the clean image|; distance to the teacher: "
            "the same between student and teacher after aligning medians",
        ),
    )


def _conditions(runs: Path, run_id: str) -> Mapping[str, Mapping[str, float]]:
    path = runs / run_id / "robustness.json"
    content = read_json(path, ("conditions",), f"delete it and run the workflow again for {run_id}")
    conditions: Mapping[str, Mapping[str, float]] = content["conditions"]
    return conditions


def _changes(rows: Sequence[Row], plain: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every (factor, level) that is not plain, in the study's order."""
    found = {
        (factor, row.factors[factor]): None
        for factor in plain
        for row in rows
        if row.factors[factor] != plain[factor]
    }
    return list(found)


def _observations(
    groups: Sequence[tuple[Row, Sequence[RunRecord]]],
    measured: Mapping[str, Mapping[str, Mapping[str, float]]],
    measure: Measure,
) -> list[Observation]:
    result: list[Observation] = []
    for row, records in groups:
        for record in records:
            value = measured[record.run_id].get(measure.condition, {}).get(measure.key)
            if value is not None and math.isfinite(value) and record.seed is not None:
                result.append((row.factors, record.seed, float(value)))
    return result


def _plain_mean(
    observations: Sequence[Observation], factor: str, plain: Mapping[str, str]
) -> float:
    values = [value for levels, _, value in observations if levels[factor] == plain[factor]]
    return math.fsum(values) / len(values)


def _table_row(label: str, measure: Measure, effect: Effect, plain: float) -> TableRow:
    low, high = effect.interval or (None, None)
    return TableRow(
        {
            "row": label,
            "measure": measure.label,
            "plain": plain,
            "effect": effect.mean,
            "effect_std": effect.std,
            "low": low,
            "high": high,
            "alone": effect.alone,
            "alone_std": effect.alone_std,
            "verdict": verdict(effect),
            "seeds": len(effect.by_seed),
        },
        group=label,
    )


def verdict(effect: Effect) -> str:
    """What the seeds support: better or worse where the 95 % interval leaves out zero."""
    if effect.interval is None:
        return "one seed"
    low, high = effect.interval
    if low <= 0 <= high:
        return "unclear"
    return "better" if high < 0 else "worse"
