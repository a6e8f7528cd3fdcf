"""A drafted study as the checks see it: its rows, and what tells them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fadepth.config import flat, merge
from fadepth.errors import FadepthError
from fadepth.run import Run
from fadepth.study import Draft, RowPlan, TableRow
from fadepth.study_file import StudyFile

#: Settings that say how a row is judged, and not what is trained.
JUDGEMENT = ("evaluation.", "benchmarks.", "odometry.", "scale")

#: Neither what a run is nor how it is judged.
OTHER = ("seeds", "datasets.")


@dataclass(frozen=True)
class Row:
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
        return flat(self.plan.settings)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All of its settings, by dotted key."""
        return flat(self.run.config.model_dump())


@dataclass(frozen=True)
class RowChange:
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
class Subject:
    """A drafted study, and questions about its rows."""

    draft: Draft
    _effects: dict[tuple[int, str], bool] = field(default_factory=dict)

    @property
    def file(self) -> StudyFile:
        return self.draft.study.file

    @cached_property
    def rows(self) -> list[Row]:
        """Trained rows that are compared with each other, in order."""
        return [Row(plan, row) for plan, row in self.draft.rows if row.kind == "variant"]

    @cached_property
    def baseline(self) -> Row:
        """The named baseline; the first row where there is none of that name."""
        named = [row for row in self.rows if row.label == self.file.baseline]
        return (named or self.rows)[0]

    @cached_property
    def preset(self) -> dict[str, Any]:
        """Settings that rows start from, by dotted key."""
        return flat(self.draft.study.config.model_dump())

    def has_effect(self, row: Row, key: str) -> bool:
        """Whether a row would be another run without one of its own settings."""
        if key not in row.own or row.settings.get(key) == self.preset.get(key):
            return False
        # By the object, not its label: two rows may have one label.
        known = (id(row), key)
        if known not in self._effects:
            self._effects[known] = self._differs_without(row, key)
        return self._effects[known]

    def _differs_without(self, row: Row, key: str) -> bool:
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
        self, row: Row, other: Row, pairs: Sequence[tuple[Row, Row]]
    ) -> dict[str, tuple[Any, Any]]:
        """What tells two rows apart and has an effect in at least one of `pairs` like them."""
        values = {
            key: (other.settings.get(key), row.settings.get(key))
            for key in dict.fromkeys((*row.own, *other.own))
            if other.settings.get(key) != row.settings.get(key) and not key.startswith(OTHER)
        }
        return {
            key: value
            for key, value in values.items()
            if key.startswith(JUDGEMENT)
            or any(self.has_effect(one, key) for pair in pairs for one in pair)
        }

    @cached_property
    def pairs(self) -> dict[tuple[str, str], list[tuple[Row, Row]]]:
        """(factor, level) -> pairs of rows that this level and the plain one alone tell apart."""
        plain = self.file.plain
        where = {tuple(row.plan.factors.values()): row for row in self.rows}
        found: dict[tuple[str, str], list[tuple[Row, Row]]] = {}
        for row in self.rows:
            for name, level in row.plan.factors.items():
                other = where.get(tuple({**row.plan.factors, name: plain[name]}.values()))
                if level != plain[name] and other is not None:
                    found.setdefault((name, level), []).append((row, other))
        return found

    @cached_property
    def changes(self) -> list[RowChange]:
        """Of explicit rows to the baseline; of levels to the plain level of their factor."""
        if self.file.design == "explicit":
            return [self._change_of_row(r) for r in self.rows if r is not self.baseline]
        return [self._change_of_level(*key) for key in self.pairs]

    def _change_of_row(self, row: Row) -> RowChange:
        base = self.baseline
        settings = self.difference(row, base, [(row, base)])
        return RowChange(row.label, base.label, settings, frozenset(), "the row")

    def _change_of_level(self, name: str, level: str) -> RowChange:
        pairs = self.pairs[name, level]
        row, other = pairs[0]
        settings = self.difference(row, other, pairs)
        topic = frozenset(key for of in self.file.factors[name].levels.values() for key in flat(of))
        return RowChange(row.label, other.label, settings, topic, f"level '{level}' of '{name}'")

    @cached_property
    def twins(self) -> dict[_Step, list[tuple[Row, Row]]]:
        """Pairs of rows that are the same run, by the levels in which they differ."""
        found: dict[_Step, list[tuple[Row, Row]]] = {}
        owners: dict[str, Row] = {}
        for row in self.rows:
            owner = owners.setdefault(row.run.id, row)
            if owner is not row:
                one, two = owner.plan.factors, row.plan.factors
                step = tuple((name, one[name], two[name]) for name in one if one[name] != two[name])
                found.setdefault(step, []).append((owner, row))
        return found
