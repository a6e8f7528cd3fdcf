"""What is wrong or doubtful about a study before a night is spent on it: `fadepth lint`.

Resolving refuses a study at the first thing that it cannot mean. This tells all of them, and also
what is possible but doubtful: rows with unequal budgets, other teachers, one seed, settings that
change nothing. Nothing is trained, no image is read, and data need not be there.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from fadepth.config import merge
from fadepth.errors import FadepthError
from fadepth.run import Run
from fadepth.study import (
    Draft,
    NotInPreset,
    RowPlan,
    Study,
    TableRow,
    draft_study,
    missing_benchmark,
    nothing_to_compare,
    two_evaluations,
    usable_preset,
)
from fadepth.study_file import StudyFile, read_study_file, repeated, variants

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

#: What a row is given, beside what it is: frames, their size, steps, learning rate.
_BUDGET = ("data.", "training.")
_TEACHERS_BUDGET = ("teacher.epochs", "teacher.learning_rate")

#: Settings that say how a row is judged, and not what is trained.
_JUDGEMENT = ("evaluation.", "benchmarks.", "odometry.", "scale")

#: Neither what a run is nor how it is judged.
_OTHER = ("seeds", "datasets.")


@dataclass(frozen=True)
class Finding:
    """One thing to mend or to know.

    Attributes:
        level: error: the study cannot be resolved, or its rows cannot be compared; warning: a
            reader would doubt a conclusion; note: worth knowing.
        check: what kind of thing, such as `budget`.
        file: the study file.
        study: its name.
        row: label of the row; empty where it is the whole study.
        sentence: what it is and what to do.
    """

    level: Level
    check: str
    file: str
    study: str
    row: str
    sentence: str


@dataclass(frozen=True)
class _Told:
    """A finding before it is known of which study."""

    level: Level
    check: str
    row: str
    sentence: str


_error = partial(_Told, "error")
_warning = partial(_Told, "warning")
_note = partial(_Told, "note")


def lint_studies(
    paths: Iterable[Path],
    preset: Mapping[str, Any],
    origin: str,
    base: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """All findings about studies on a preset, study by study, errors first.

    Args:
        paths: study files.
        preset, origin, base, overrides: as for `resolve_study`.

    Raises:
        FadepthError: the preset is wrong, or a study file is absent or no YAML.
    """
    usable_preset(preset, origin)
    found: list[Finding] = []
    read: dict[str, StudyFile] = {}
    whole: dict[str, Study] = {}
    for path in paths:
        file, problems = read_study_file(path)
        told = [_error("file", "", problem) for problem in problems]
        if file is not None:
            told += _same_names(path, file, read)
            read[str(path)] = file
            try:
                draft = draft_study(file, path, preset, origin, base, overrides)
            except NotInPreset as reason:
                told.append(_not_resolved(reason))
            except FadepthError as error:
                told.append(_error("file", "", str(error)))
            else:
                told += _about(draft, base or Path.cwd())
                if not (draft.absent or draft.faults):
                    whole[str(path)] = draft.study
        found += _in_order(path, file.name if file else path.stem, told)
    return found + list(_judged_twice(whole))


def _in_order(path: Path, study: str, told: Iterable[_Told]) -> Iterator[Finding]:
    for level in LEVELS:
        for one in told:
            if one.level == level:
                yield Finding(level, one.check, str(path), study, one.row, one.sentence)


def _not_resolved(reason: FadepthError) -> _Told:
    return _note("data", "", f"cannot be run with this preset: {reason}")


# Several studies


def _same_names(path: Path, file: StudyFile, before: Mapping[str, StudyFile]) -> Iterator[_Told]:
    for place, other in before.items():
        if other.table == file.table:
            sentence = f"{place} feeds '{file.table}', too: give each study a table of its own"
            yield _error("table", "", sentence)
        elif other.name == file.name:
            yield _warning(
                "name",
                "",
                f"{place} is called '{file.name}', too, and both would be one MLflow experiment: "
                "give each a name of its own",
            )


def _judged_twice(studies: Mapping[str, Study]) -> Iterator[Finding]:
    told: set[tuple[str, str]] = set()
    for one, other, run_id in two_evaluations(studies):
        if (one, other) not in told:
            told.add((one, other))
            sentence = (
                f"shares the run {run_id} with {one}, which evaluates it differently: give "
                "'datasets' of the preset data of their own, or the same 'evaluation'"
            )
            yield Finding("error", "evaluation", other, studies[other].file.name, "", sentence)


# One study


@dataclass(frozen=True)
class _Row:
    """A trained row that is compared."""

    plan: RowPlan
    row: TableRow

    @property
    def label(self) -> str:
        return self.plan.label

    @property
    def run(self) -> Run:
        """Of the first seed: the others have the same settings."""
        return self.row.runs[0]

    @cached_property
    def own(self) -> dict[str, Any]:
        """What the file says of this row, by dotted key."""
        return _flat(self.plan.settings)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All of its settings, by dotted key."""
        return _flat(self.run.config.model_dump())


@dataclass(frozen=True)
class _Change:
    """Settings with an effect that tell a row, or a level of a factor, from its counterpart.

    Attributes:
        row, other: labels of the two rows.
        settings: key -> (value of the other row, value of the row).
        topic: all settings that the factor's levels are about; empty for explicit rows.
        who: what the row or level is called in a sentence.
    """

    row: str
    other: str
    settings: Mapping[str, tuple[Any, Any]]
    topic: frozenset[str]
    who: str

    def of(self, prefixes: tuple[str, ...]) -> dict[str, tuple[Any, Any]]:
        """Those of some sections."""
        return {k: v for k, v in self.settings.items() if k.startswith(prefixes)}

    def is_about(self, prefixes: tuple[str, ...]) -> bool:
        """Whether the factor declares to vary such settings, and nothing else."""
        return bool(self.topic) and all(key.startswith(prefixes) for key in self.topic)


#: Levels that tell two rows apart: (factor, level of one, level of the other).
_Step = tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class _Subject:
    """A drafted study, and questions about its rows."""

    draft: Draft
    _effects: dict[tuple[int, str], bool] = field(default_factory=dict)

    @property
    def file(self) -> StudyFile:
        return self.draft.study.file

    @cached_property
    def rows(self) -> list[_Row]:
        """Trained rows that are compared with each other, in order."""
        return [_Row(plan, row) for plan, row in self.draft.rows if row.kind == "variant"]

    @cached_property
    def baseline(self) -> _Row:
        """The named baseline; the first row where there is none of that name."""
        named = [row for row in self.rows if row.label == self.file.baseline]
        return (named or self.rows)[0]

    @cached_property
    def preset(self) -> dict[str, Any]:
        """Settings that rows start from, by dotted key."""
        return _flat(self.draft.study.config.model_dump())

    def has_effect(self, row: _Row, key: str) -> bool:
        """Whether a row would be another run without one of its own settings."""
        if key not in row.own or row.settings.get(key) == self.preset.get(key):
            return False
        # By the object, not its label: two rows may have one label.
        known = (id(row), key)
        if known not in self._effects:
            self._effects[known] = self._differs_without(row, key)
        return self._effects[known]

    def _differs_without(self, row: _Row, key: str) -> bool:
        left: dict[str, Any] = {}
        for name, value in row.own.items():
            if name != key:
                left = merge(left, {name: value})
        try:
            other = self.draft.resolver.resolve(replace(row.plan, settings=left))
        except FadepthError:
            return True  # the row cannot do without it
        return other.runs[0].id != row.run.id

    def difference(
        self, row: _Row, other: _Row, pairs: Sequence[tuple[_Row, _Row]]
    ) -> dict[str, tuple[Any, Any]]:
        """What tells two rows apart and has an effect in at least one of `pairs` like them."""
        values = {
            key: (other.settings.get(key), row.settings.get(key))
            for key in dict.fromkeys((*row.own, *other.own))
            if other.settings.get(key) != row.settings.get(key) and not key.startswith(_OTHER)
        }
        return {
            key: value
            for key, value in values.items()
            if key.startswith(_JUDGEMENT)
            or any(self.has_effect(one, key) for pair in pairs for one in pair)
        }

    @cached_property
    def pairs(self) -> dict[tuple[str, str], list[tuple[_Row, _Row]]]:
        """(factor, level) -> pairs of rows that this level and the plain one alone tell apart."""
        plain = self.file.plain
        where = {tuple(row.plan.factors.values()): row for row in self.rows}
        found: dict[tuple[str, str], list[tuple[_Row, _Row]]] = {}
        for row in self.rows:
            for name, level in row.plan.factors.items():
                other = where.get(tuple({**row.plan.factors, name: plain[name]}.values()))
                if level != plain[name] and other is not None:
                    found.setdefault((name, level), []).append((row, other))
        return found

    @cached_property
    def changes(self) -> list[_Change]:
        """Of explicit rows to the baseline; of levels to the plain level of their factor."""
        if self.file.design == "explicit":
            return [self._change_of_row(r) for r in self.rows if r is not self.baseline]
        return [self._change_of_level(*key) for key in self.pairs]

    def _change_of_row(self, row: _Row) -> _Change:
        base = self.baseline
        settings = self.difference(row, base, [(row, base)])
        return _Change(row.label, base.label, settings, frozenset(), "the row")

    def _change_of_level(self, name: str, level: str) -> _Change:
        pairs = self.pairs[name, level]
        row, other = pairs[0]
        settings = self.difference(row, other, pairs)
        topic = frozenset(
            key for of in self.file.factors[name].levels.values() for key in _flat(of)
        )
        return _Change(row.label, other.label, settings, topic, f"level '{level}' of '{name}'")

    @cached_property
    def twins(self) -> dict[_Step, list[tuple[_Row, _Row]]]:
        """Pairs of rows that are the same run, by the levels in which they differ."""
        found: dict[_Step, list[tuple[_Row, _Row]]] = {}
        owners: dict[str, _Row] = {}
        for row in self.rows:
            owner = owners.setdefault(row.run.id, row)
            if owner is not row:
                one, two = owner.plan.factors, row.plan.factors
                step = tuple((name, one[name], two[name]) for name in one if one[name] != two[name])
                found.setdefault(step, []).append((owner, row))
        return found


def _about(draft: Draft, base: Path) -> Iterator[_Told]:
    """All that one study is told."""
    subject = _Subject(draft)
    if draft.absent:
        yield _not_resolved(draft.absent)
    elif reason := missing_benchmark(draft.study, base):
        yield _note("data", "", f"its table cannot be made here: {reason}")
    for reason in draft.study.left_out:
        yield _note("left_out", "", reason)
    yield from _faults(draft)
    yield from _labels(subject)
    yield from _lost_baseline(draft)
    yield from _factors(subject)
    if subject.rows:
        yield from _same_runs(subject)
        yield from _idle_settings(subject)
        yield from _seeds(subject)
        for change in subject.changes:
            yield from _budget(change, subject)
            yield from _judgement(change)
            yield from _several(change, subject)
        yield from _teachers(subject)


def _faults(draft: Draft) -> Iterator[_Told]:
    """Rows that cannot be resolved; what several have in common is told once."""
    rows: dict[str, list[str]] = {}
    for plan, error in draft.faults:
        for sentence in _problems_of(draft, plan) or [str(error)]:
            rows.setdefault(sentence, []).append(plan.label)
    for sentence, labels in rows.items():
        more = f" (and {len(labels) - 1} more rows)" if len(labels) > 1 else ""
        yield _error("settings", labels[0], sentence + more)


def _problems_of(draft: Draft, plan: RowPlan) -> list[str]:
    """Each setting of a row that is wrong by itself: an error names only the first."""
    found = []
    for key, value in _flat(plan.settings).items():
        try:
            draft.resolver.resolve(replace(plan, settings=merge({}, {key: value})))
        except FadepthError as error:
            if f"'{key}'" in str(error):
                found.append(str(error))
    return found


def _labels(subject: _Subject) -> Iterator[_Told]:
    told = repeated([row.label for row in subject.file.rows])  # with the file
    for label in repeated([row.label for row in subject.draft.study.rows]):
        if label not in told:
            yield _error("label", label, "two rows have this label: give each its own")


def _lost_baseline(draft: Draft) -> Iterator[_Told]:
    lost = nothing_to_compare(draft.study)
    file, named = draft.study.file, draft.study.file.baseline
    if lost is None or draft.faults or named not in (None, *file.labels):
        return  # what is wrong is told by itself
    what = f"the baseline '{named}' is not there" if named else "there is nothing to compare"
    yield _error("baseline", named or "", f"{what}: {lost}")


def _factors(subject: _Subject) -> Iterator[_Told]:
    """Levels that no row has, and settings that two factors fight over."""
    factors = subject.file.factors
    if not factors:
        return
    used = {item for levels in variants(subject.file) for item in levels.items()}
    for name, factor in factors.items():
        for level in factor.levels:
            if (name, level) not in used:
                sentence = f"level '{level}' of '{name}' is in no row of this design"
                yield _note("level", "", sentence)
    owners: dict[str, list[str]] = {}
    for name, factor in factors.items():
        for key in dict.fromkeys(k for level in factor.levels.values() for k in _flat(level)):
            owners.setdefault(key, []).append(name)
    for key, names in owners.items():
        if len(names) > 1:
            both = " and ".join(f"'{name}'" for name in names)
            sentence = f"factors {both} set '{key}', and the last one wins: set it in one of them"
            yield _warning("overlap", "", sentence)


def _same_runs(subject: _Subject) -> Iterator[_Told]:
    """Rows that are the same run; of a level that never has an effect, one sentence."""
    for step, pairs in subject.twins.items():
        if len(step) == 1:
            yield _idle_level(subject, step[0], pairs)
        elif len(step) > 1 and all((part,) in subject.twins for part in step):
            continue  # two levels without effect make many such pairs
        else:
            for owner, row in pairs:
                sentence = f"it is the same run as '{owner.label}'"
                advice = "change a setting that has an effect, or leave one out"
                yield _error("same_run", row.label, f"{sentence}: {advice}")


def _idle_level(
    subject: _Subject, step: tuple[str, str, str], pairs: Sequence[tuple[_Row, _Row]]
) -> _Told:
    owner, row = pairs[0]
    name, one, two = step
    levels = subject.file.factors[name].levels
    reasons = [
        f"{key} is {_spoken(row.settings.get(key))} in both"
        if row.settings.get(key) == owner.settings.get(key)
        else f"{key} counts for nothing here"
        for key in dict.fromkeys((*_flat(levels[one]), *_flat(levels[two])))
    ]
    why = ", ".join(reasons) or "neither sets anything"
    times = f", and so in {len(pairs) - 1} more pairs of rows" if len(pairs) > 1 else ""
    sentence = (
        f"'{name}' at '{two}' is the same run as at '{one}' ('{owner.label}'{times}): "
        f"{why}; set something that has an effect, or leave it out"
    )
    return _error("no_effect", row.label, sentence)


def _idle_settings(subject: _Subject) -> Iterator[_Told]:
    """Settings that differ from the preset's and change nothing, wherever they stand."""
    told = {(name, lv) for step in subject.twins for name, *levels in step for lv in levels}
    places: dict[tuple[str, str], dict[str, list[_Row]]] = {}
    for number, row in enumerate(subject.rows):
        if not row.plan.factors:
            places["", str(number)] = {key: [row] for key in row.own}
        for level in row.plan.factors.items():
            for key in _flat(subject.file.factors[level[0]].levels[level[1]]):
                if level not in told:
                    places.setdefault(level, {}).setdefault(key, []).append(row)
    for uses in places.values():
        idle = {key: rows[0] for key, rows in uses.items() if _is_idle(subject, key, rows)}
        if idle:
            row = next(iter(idle.values()))
            values = ", ".join(f"{key} {_spoken(row.settings.get(key))}" for key in idle)
            yield _warning(
                "idle",
                row.label,
                f"{values} has no effect: it belongs to something that is switched off, or is no "
                "part of what a run is; leave it out, or switch on what it belongs to",
            )


def _is_idle(subject: _Subject, key: str, rows: Sequence[_Row]) -> bool:
    spelled_out = rows[0].settings.get(key) == subject.preset.get(key)
    if spelled_out or key.startswith((*_JUDGEMENT, *_OTHER)):
        return False
    return not any(subject.has_effect(row, key) for row in rows)


def _seeds(subject: _Subject) -> Iterator[_Told]:
    compared = len(subject.rows) - 1
    seeds = [run.seed for run in subject.baseline.row.runs]
    if compared < 1:
        sentence = (
            f"'{subject.baseline.label}' is the only trained row: nothing is compared with it"
        )
        yield _warning("baseline", subject.baseline.label, sentence)
        return
    for row in subject.rows:
        own = [run.seed for run in row.row.runs]
        if own != seeds:
            sentence = f"has seeds {own}, and '{subject.baseline.label}' {seeds}: give all the same"
            yield _warning("seeds", row.label, sentence)
    from fadepth.stats import seeds_needed, smallest_p  # scipy takes its time

    needed = seeds_needed(compared)
    rows = "1 row" if compared == 1 else f"{compared} rows"
    if len(seeds) == 1:
        yield _warning(
            "seeds",
            "",
            f"one seed ({seeds[0]}): no difference can be told from noise; give 'seeds' of the "
            f"study or the preset more ({needed} for p < 0.05 with {rows} beside the baseline)",
        )
    elif len(seeds) < needed:
        yield _note(
            "seeds",
            "",
            f"{len(seeds)} seeds cannot reach p < 0.05 for {rows} (smallest possible p "
            f"{smallest_p(len(seeds)):.3g}): {needed} could",
        )


def _budget(change: _Change, subject: _Subject) -> Iterator[_Told]:
    teachers = subject.baseline.run.kind == "teacher"
    prefixes = _BUDGET + (_TEACHERS_BUDGET if teachers else ())
    if not (unequal := change.of(prefixes)):
        return
    told = f"{_spoken_change(unequal)} ('{change.other}')"
    if change.is_about(prefixes):
        sentence = f"{change.who} is about the budget: {told}"
        yield _note("budget", change.row, sentence)
        return
    yield _warning(
        "budget",
        change.row,
        f"unequal budgets: {change.who} has {told}; give both the same, unless this is what the "
        "study is about",
    )


def _judgement(change: _Change) -> Iterator[_Told]:
    if other := change.of(_JUDGEMENT):
        sentence = (
            f"{change.who} is not evaluated as '{change.other}': {_spoken_change(other)}; set it "
            "in the preset, for all rows"
        )
        tell = _warning if other.keys() <= {"evaluation.panels"} else _error  # pictures only
        yield tell("evaluation", change.row, sentence)


def _several(change: _Change, subject: _Subject) -> Iterator[_Told]:
    """Explicit rows that change several things at once: a table cannot say which one did it."""
    things = [key for key in change.settings if not key.startswith(_JUDGEMENT)]
    if {"data.height", "data.width"} <= {*things}:
        things.remove("data.width")  # one size
    if subject.file.design == "explicit" and len(things) > 1:
        sentence = f"differs from '{change.other}' in {len(things)} settings: {', '.join(things)}"
        yield _note("several", change.row, sentence)


def _teachers(subject: _Subject) -> Iterator[_Told]:
    """Students that learn from another teacher than the others.

    That is what a row is about where another one differs from it in nothing else.
    """
    if len({row.run.teacher.id for row in subject.rows if row.run.teacher}) < 2:
        return
    rest = Counter(map(_without_teacher, subject.changes))
    rest[frozenset()] += 1  # the baseline itself
    for change in subject.changes:
        if not (other := change.of(("teacher.",))):
            continue
        alone = change.is_about(("teacher.",)) or rest[_without_teacher(change)] > 1
        advice = "" if alone else "; give both the same, or add a row that differs in nothing else"
        sentence = f"{change.who} has another teacher: {_spoken_change(other)}{advice}"
        yield (_note if alone else _warning)("teacher", change.row, sentence)


def _without_teacher(change: _Change) -> frozenset[tuple[str, str]]:
    return frozenset(
        (key, repr(new))
        for key, (_, new) in change.settings.items()
        if not key.startswith("teacher.")
    )


# Words and settings


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _spoken_change(settings: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(
        f"{key} {_spoken(new)} instead of {_spoken(old)}" for key, (old, new) in settings.items()
    )


def _spoken(value: object) -> str:
    """As YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)
