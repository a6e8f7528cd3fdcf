"""The checks of one study, each a generator of what it finds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fadepth.config import flat, merge
from fadepth.errors import FadepthError
from fadepth.lint.findings import Told, a_note, a_warning, an_error, not_resolved
from fadepth.lint.subject import JUDGEMENT, OTHER, Row, RowChange, Subject
from fadepth.study import Draft, RowPlan, missing_benchmark, nothing_to_compare
from fadepth.study_file import repeated, variants

#: What a row is given, beside what it is: frames, their size, steps, learning rate.
_BUDGET = ("data.", "training.")
_TEACHERS_BUDGET = ("teacher.epochs", "teacher.learning_rate")


def findings_of(draft: Draft, base: Path) -> Iterator[Told]:
    """All that one study is told."""
    subject = Subject(draft)
    if draft.absent:
        yield not_resolved(draft.absent)
    elif reason := missing_benchmark(draft.study, base):
        yield a_note("data", "", f"its table cannot be made here: {reason}")
    for reason in draft.study.left_out:
        yield a_note("left_out", "", reason)
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


def _faults(draft: Draft) -> Iterator[Told]:
    """Rows that cannot be resolved; what several have in common is told once."""
    rows: dict[str, list[str]] = {}
    for plan, error in draft.faults:
        for sentence in _problems_of(draft, plan) or [str(error)]:
            rows.setdefault(sentence, []).append(plan.label)
    for sentence, labels in rows.items():
        more = f" (and {len(labels) - 1} more rows)" if len(labels) > 1 else ""
        yield an_error("settings", labels[0], sentence + more)


def _problems_of(draft: Draft, plan: RowPlan) -> list[str]:
    """Each setting of a row that is wrong by itself: an error names only the first."""
    found = []
    for key, value in flat(plan.settings).items():
        try:
            draft.resolver.resolve(replace(plan, settings=merge({}, {key: value})))
        except FadepthError as error:
            if f"'{key}'" in str(error):
                found.append(str(error))
    return found


def _labels(subject: Subject) -> Iterator[Told]:
    told = repeated([row.label for row in subject.file.rows])  # with the file
    for label in repeated([row.label for row in subject.draft.study.rows]):
        if label not in told:
            yield an_error("label", label, "two rows have this label: give each its own")


def _lost_baseline(draft: Draft) -> Iterator[Told]:
    lost = nothing_to_compare(draft.study)
    file, named = draft.study.file, draft.study.file.baseline
    if lost is None or draft.faults or named not in (None, *file.labels):
        return  # what is wrong is told by itself
    what = f"the baseline '{named}' is not there" if named else "there is nothing to compare"
    yield an_error("baseline", named or "", f"{what}: {lost}")


def _factors(subject: Subject) -> Iterator[Told]:
    """Levels that no row has, and settings that two factors fight over."""
    factors = subject.file.factors
    if not factors:
        return
    used = {item for levels in variants(subject.file) for item in levels.items()}
    for name, factor in factors.items():
        for level in factor.levels:
            if (name, level) not in used:
                sentence = f"level '{level}' of '{name}' is in no row of this design"
                yield a_note("level", "", sentence)
    owners: dict[str, list[str]] = {}
    for name, factor in factors.items():
        for key in dict.fromkeys(k for level in factor.levels.values() for k in flat(level)):
            owners.setdefault(key, []).append(name)
    for key, names in owners.items():
        if len(names) > 1:
            both = " and ".join(f"'{name}'" for name in names)
            sentence = f"factors {both} set '{key}', and the last one wins: set it in one of them"
            yield a_warning("overlap", "", sentence)


def _same_runs(subject: Subject) -> Iterator[Told]:
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
                yield an_error("same_run", row.label, f"{sentence}: {advice}")


def _idle_level(
    subject: Subject, step: tuple[str, str, str], pairs: Sequence[tuple[Row, Row]]
) -> Told:
    owner, row = pairs[0]
    name, one, two = step
    levels = subject.file.factors[name].levels
    reasons = [
        f"{key} is {_spoken(row.settings.get(key))} in both"
        if row.settings.get(key) == owner.settings.get(key)
        else f"{key} counts for nothing here"
        for key in dict.fromkeys((*flat(levels[one]), *flat(levels[two])))
    ]
    why = ", ".join(reasons) or "neither sets anything"
    times = f", and so in {len(pairs) - 1} more pairs of rows" if len(pairs) > 1 else ""
    sentence = (
        f"'{name}' at '{two}' is the same run as at '{one}' ('{owner.label}'{times}): "
        f"{why}; set something that has an effect, or leave it out"
    )
    return an_error("no_effect", row.label, sentence)


def _idle_settings(subject: Subject) -> Iterator[Told]:
    """Settings that differ from the preset's and change nothing, wherever they stand."""
    told = {(name, lv) for step in subject.twins for name, *levels in step for lv in levels}
    places: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for number, row in enumerate(subject.rows):
        if not row.plan.factors:
            places["", str(number)] = {key: [row] for key in row.own}
        for level in row.plan.factors.items():
            for key in flat(subject.file.factors[level[0]].levels[level[1]]):
                if level not in told:
                    places.setdefault(level, {}).setdefault(key, []).append(row)
    for uses in places.values():
        idle = {key: rows[0] for key, rows in uses.items() if _is_idle(subject, key, rows)}
        if idle:
            row = next(iter(idle.values()))
            values = ", ".join(f"{key} {_spoken(row.settings.get(key))}" for key in idle)
            yield a_warning(
                "idle",
                row.label,
                f"{values} has no effect: it belongs to something that is switched off, or is no "
                "part of what a run is; leave it out, or switch on what it belongs to",
            )


def _is_idle(subject: Subject, key: str, rows: Sequence[Row]) -> bool:
    spelled_out = rows[0].settings.get(key) == subject.preset.get(key)
    if spelled_out or key.startswith((*JUDGEMENT, *OTHER)):
        return False
    return not any(subject.has_effect(row, key) for row in rows)


def _seeds(subject: Subject) -> Iterator[Told]:
    compared = len(subject.rows) - 1
    seeds = [run.seed for run in subject.baseline.row.runs]
    if compared < 1:
        sentence = (
            f"'{subject.baseline.label}' is the only trained row: nothing is compared with it"
        )
        yield a_warning("baseline", subject.baseline.label, sentence)
        return
    for row in subject.rows:
        own = [run.seed for run in row.row.runs]
        if own != seeds:
            sentence = f"has seeds {own}, and '{subject.baseline.label}' {seeds}: give all the same"
            yield a_warning("seeds", row.label, sentence)
    from fadepth.stats import seeds_needed, smallest_p  # scipy takes its time

    needed = seeds_needed(compared)
    rows = "1 row" if compared == 1 else f"{compared} rows"
    if len(seeds) == 1:
        yield a_warning(
            "seeds",
            "",
            f"one seed ({seeds[0]}): no difference can be told from noise; give 'seeds' of the "
            f"study or the preset more ({needed} for p < 0.05 with {rows} beside the baseline)",
        )
    elif len(seeds) < needed:
        yield a_note(
            "seeds",
            "",
            f"{len(seeds)} seeds cannot reach p < 0.05 for {rows} (smallest possible p "
            f"{smallest_p(len(seeds)):.3g}): {needed} could",
        )


def _budget(change: RowChange, subject: Subject) -> Iterator[Told]:
    teachers = subject.baseline.run.kind == "teacher"
    prefixes = _BUDGET + (_TEACHERS_BUDGET if teachers else ())
    if not (unequal := change.of(prefixes)):
        return
    told = f"{_spoken_change(unequal)} ('{change.other}')"
    if change.is_about(prefixes):
        sentence = f"{change.who} is about the budget: {told}"
        yield a_note("budget", change.row, sentence)
        return
    yield a_warning(
        "budget",
        change.row,
        f"unequal budgets: {change.who} has {told}; give both the same, unless this is what the "
        "study is about",
    )


def _judgement(change: RowChange) -> Iterator[Told]:
    if other := change.of(JUDGEMENT):
        sentence = (
            f"{change.who} is not evaluated as '{change.other}': {_spoken_change(other)}; set it "
            "in the preset, for all rows"
        )
        tell = a_warning if other.keys() <= {"evaluation.panels"} else an_error  # pictures only
        yield tell("evaluation", change.row, sentence)


def _several(change: RowChange, subject: Subject) -> Iterator[Told]:
    """Explicit rows that change several things at once: a table cannot say which one did it."""
    things = [key for key in change.settings if not key.startswith(JUDGEMENT)]
    if {"data.height", "data.width"} <= {*things}:
        things.remove("data.width")  # one size
    if subject.file.design == "explicit" and len(things) > 1:
        sentence = f"differs from '{change.other}' in {len(things)} settings: {', '.join(things)}"
        yield a_note("several", change.row, sentence)


def _teachers(subject: Subject) -> Iterator[Told]:
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
        yield (a_note if alone else a_warning)("teacher", change.row, sentence)


def _without_teacher(change: RowChange) -> frozenset[tuple[str, str]]:
    return frozenset(
        (key, repr(new))
        for key, (_, new) in change.settings.items()
        if not key.startswith("teacher.")
    )


def _spoken_change(settings: Mapping[str, tuple[Any, Any]]) -> str:
    return ", ".join(
        f"{key} {_spoken(new)} instead of {_spoken(old)}" for key, (old, new) in settings.items()
    )


def _spoken(value: object) -> str:
    """As YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)
