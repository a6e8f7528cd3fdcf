"""The effects table: what each factor of a study changes, alone and beside the others.

An ablation table shows rows; a reader wants differences, and to know which of them a repetition
would show again. Beside accuracy stand the measures that a component was designed for: accuracy
and steadiness on mirrored and relit input (pyramid loss), distance to the teacher (APX).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fadepth.errors import FadepthError
from fadepth.report.differences import images_of
from fadepth.report.measures import Measure, PerImage
from fadepth.report.results import Results, make_stamp, read_results
from fadepth.report.study_table import data_sentence
from fadepth.report.table import Column, Table, TableRow
from fadepth.stats import (
    Difference,
    changes_of,
    contrast_coefficients,
    paired_difference,
    sample_std,
)
from fadepth.study import Study
from fadepth.study_file import level_label

if TYPE_CHECKING:
    from fadepth.report.forest_figure import EffectLine


def _measure(condition: str, key: str, label: str) -> Measure:
    # All are errors: a negative effect is an improvement.
    column = Column(f"{condition}.{key}", label, label, "lower", 3)
    per_image = PerImage("robustness_per_image.csv", key, condition)
    path = ("conditions", condition, key)
    return Measure(column, "robustness.json", path, per_image=per_image, kinds=("student",))


MEASURES = (
    _measure("clean", "abs_rel", "Abs Rel"),
    _measure("flipped", "abs_rel", "Abs Rel, mirrored input"),
    _measure("dark", "abs_rel", "Abs Rel, dark input"),
    _measure("bright", "abs_rel", "Abs Rel, bright input"),
    _measure("half", "abs_rel", "Abs Rel, half-size input"),
    _measure("flipped", "change", "change under mirroring"),
    _measure("dark", "change", "change in the dark"),
    _measure("bright", "change", "change in bright light"),
    _measure("half", "change", "change at half size"),
    _measure("clean", "teacher_distance", "distance to the teacher"),
)

COLUMNS = (
    Column("row", "Factor", "Factor"),
    Column("measure", "Measure", "Measure"),
    Column("plain", "Without", "Without", decimals=3),
    Column("effect", "Effect", "Effect", decimals=3, spread="effect_std"),
    Column("effect_std"),
    Column("low", "95 % from", "95 % from", decimals=3),
    Column("high", "to", "to", decimals=3),
    Column("alone", "Effect alone", "Effect alone", decimals=3, spread="alone_std"),
    Column("alone_std"),
    Column("verdict", "Verdict", "Verdict"),
    Column("seeds", "Seeds", "Seeds", decimals=0),
)

#: Group of rows and lines that are no main effects.
INTERACTIONS = "interactions"

NOTES = (
    "Effect: mean over seeds and over all levels of the other factors of (with - without), ± its "
    "sample standard deviation over seeds; negative is better, all measures are errors",
    "A × B: what A changes beside B more than without B",
    "Effect alone: the same with all other factors off",
    "95 %: two-level bootstrap over drives and seeds; with one seed it speaks of these trainings "
    "alone; verdict 'unclear' where it holds zero",
    "Change: mean |log inverse depth - that of the clean image|; distance to the teacher: the same "
    "between student and teacher after aligning medians",
)


@dataclass(frozen=True)
class Effect:
    """Change of a measure when factors go from their plain levels to others.

    Attributes:
        changes: factor -> level; several are an interaction.
        by_seed: mean over images and over the levels of the other factors, seed by seed.
        interval: of their mean.
        alone: seed by seed with all other factors plain; empty for interactions, or if not run.
        plain: mean of the measure over rows in which the first factor is plain.
    """

    changes: Mapping[str, str]
    by_seed: tuple[float, ...]
    interval: Difference | None
    alone: tuple[float, ...]
    plain: float

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.by_seed))

    @property
    def verdict(self) -> str:
        """What the seeds support: better or worse where the 95 % interval leaves out zero."""
        if len(self.by_seed) < 2 or self.interval is None:
            return "one seed"
        if self.interval.low <= 0 <= self.interval.high:
            return "unclear"
        return "better" if self.interval.high < 0 else "worse"


def read_effects(study: Study, runs: Path) -> Results:
    """Robustness of the study's students: what the effects are computed from.

    Measures that none of them has (a distance to a teacher where there is none) are left out.

    Raises:
        FadepthError: a run is unfinished, its `robustness.json` is missing or damaged, or the
            study is no factorial.
    """
    if not study.file.is_factorial:
        raise FadepthError(
            f"{study.file.table} is no factorial, and effects are those of a factorial: set "
            "'design: factorial' in its study, or look at the differences in its table"
        )
    students = tuple(row for row in study.rows if row.kind == "variant")
    only = Study(study.file, study.config, study.data_hash, students)
    tolerant = read_results(only, MEASURES, runs, partial=True)
    had = [m for m in MEASURES if any(m.key in r.values for row in tolerant.rows for r in row.runs)]
    return read_results(only, had or MEASURES[:1], runs)


def effects_of(results: Results, measure: Measure, runs: Path, order: int) -> list[Effect]:
    """Main effects, and interactions of up to `order` factors, that the rows allow."""
    shared = images_of(results.rows, measure, runs)
    if shared is None:
        return []
    _, values, drives = shared
    plain = results.study.file.plain
    levels = [row.row.factors for row in results.rows]
    found = []
    for changes in changes_of(levels, plain, order):
        coefficients = contrast_coefficients(levels, plain, changes)
        if coefficients is None:
            continue
        contrast = np.einsum("r,rsi->si", np.asarray(coefficients), values)
        first = next(iter(changes))
        without = [i for i, row in enumerate(levels) if row[first] == plain[first]]
        found.append(
            Effect(
                changes,
                tuple(contrast.mean(axis=1).tolist()),
                paired_difference(contrast, drives),
                _alone(values, levels, plain, changes),
                float(values[without].mean()),
            )
        )
    return found


def _alone(
    values: NDArray[np.float64],
    levels: Sequence[Mapping[str, str]],
    plain: Mapping[str, str],
    changes: Mapping[str, str],
) -> tuple[float, ...]:
    if len(changes) > 1 or {**plain, **changes} not in levels or plain not in levels:
        return ()
    pair = [levels.index(wanted) for wanted in ({**plain, **changes}, plain)]
    difference = values[pair[0]] - values[pair[1]]
    return tuple(difference.mean(axis=1).tolist())


def effects_table(study: Study, runs: Path) -> Table:
    """Build the effects of every factor on every measure that the runs have.

    Raises:
        FadepthError: a run is unfinished, or its `robustness.json` is missing or damaged.
    """
    results = read_effects(study, runs)
    measured = {
        measure.key: effects_of(results, measure, runs, 3 if measure is MEASURES[0] else 1)
        for measure in results.measures
    }
    # Factor by factor, each with all its measures; then interactions.
    rows = [
        _table_row(study, measure, effect)
        for changes in changes_of([r.row.factors for r in results.rows], study.file.plain, 3)
        for measure in results.measures
        for effect in measured[measure.key]
        if effect.changes == changes
    ]
    return Table(
        name=f"effects_{study.file.name}",
        title=f"{study.file.title}, effects: {data_sentence(study)}",
        columns=COLUMNS,
        rows=tuple(rows),
        stamp=make_stamp(results),
        notes=NOTES,
    )


def effect_label(study: Study, changes: Mapping[str, str]) -> str:
    """How a reader calls an effect: `ETM`, or `ETM × APX`."""
    factors = study.file.factors
    return " × ".join(level_label(factors[name].label, level) for name, level in changes.items())


def _table_row(study: Study, measure: Measure, effect: Effect) -> TableRow:
    label = effect_label(study, effect.changes)
    interval = effect.interval
    return TableRow(
        {
            "row": label,
            "measure": measure.column.markdown,
            "plain": effect.plain if len(effect.changes) == 1 else None,
            "effect": effect.mean,
            "effect_std": sample_std(effect.by_seed),
            "low": interval.low if interval else None,
            "high": interval.high if interval else None,
            "alone": float(np.mean(effect.alone)) if effect.alone else None,
            "alone_std": sample_std(effect.alone),
            "verdict": effect.verdict,
            "seeds": len(effect.by_seed),
        },
        group=label if len(effect.changes) == 1 else INTERACTIONS,
    )


# The forest plot


def effect_lines(study: Study, runs: Path) -> tuple[list["EffectLine"], Results]:
    """Effects on Abs Rel as a forest plot draws them, and the runs behind them."""
    results = read_effects(study, runs)
    return list(_lines(study, effects_of(results, MEASURES[0], runs, 3))), results


def _lines(study: Study, effects: Sequence[Effect]) -> Iterator["EffectLine"]:
    from fadepth.report.forest_figure import EffectLine  # matplotlib: tables need none

    for effect in effects:
        one = len(effect.by_seed) == 1
        yield EffectLine(
            label=effect_label(study, effect.changes),
            mean=effect.mean,
            low=effect.interval.low if effect.interval else None,
            high=effect.interval.high if effect.interval else None,
            group="main effects" if len(effect.changes) == 1 else INTERACTIONS,
            note="one seed: these trainings only" if one else "",
            by_seed=() if one else effect.by_seed,
        )
