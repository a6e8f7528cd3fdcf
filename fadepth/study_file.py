"""What a study file may say (`ablations/NAME.yaml`), and the rows that its design makes of it."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from fadepth.config import Config, Settings, load_yaml, names_checked
from fadepth.errors import FadepthError
from fadepth.paths import study_path_checked, study_settings_checked
from fadepth.run import Baseline

#: What a table shows of its rows, beside factors and seeds (`fadepth.report.measures`).
Block = Literal[
    "metrics", "primary", "conditions", "parameters", "training_parameters", "costs", "grid"
]  # fmt: skip

#: How a study's rows come about: listed one by one, or made of its factors.
Design = Literal["one_at_a_time", "leave_one_out", "cumulative", "factorial", "explicit"]

_HAS_PRIMARY = {"metrics", "primary", "conditions"}

#: Columns that tables have anyway: a factor of that name would be lost behind one of them.
_TAKEN = {
    *("row", "kind", "seed", "seeds", "size", "supervision", "source", "fps"),
    *("scale", "dataset", "protocol", "images", "run_ids", "p", "p_holm", "noise_floor"),
    *("difference", "difference_low", "difference_high", "difference_95", "verdict"),
}

#: How many rows an error lists.
_LISTED = 20

#: Plain levels that say that something is not there.
_ABSENT = ("off", "none", "no")


def _is_setting(key: str) -> bool:
    if re.fullmatch(r"student\.arguments\.\w+", key):
        return True  # an own network's: rows have it or not
    value: object = Config()
    for part in key.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


class Factor(Settings):
    """One thing that a study varies: named levels, each a set of overrides; the first is plain."""

    label: str = Field(description="what rows call it, such as ETM")
    levels: dict[str, dict[str, Any]] = Field(
        description="name -> overrides of the preset, with dotted keys; the plain level first"
    )

    @field_validator("levels", mode="before")
    @classmethod
    def _level_names_are_text(cls, value: object) -> object:
        if isinstance(value, dict) and any(isinstance(name, bool) for name in value):
            raise ValueError("put level names in quotes: YAML reads a bare on or off as a boolean")
        return value

    @field_validator("levels")
    @classmethod
    def _names_fit_folders(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return names_checked(value)

    @field_validator("levels")
    @classmethod
    def _paths_stay_below(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: study_settings_checked(settings) for name, settings in value.items()}

    @field_validator("levels")
    @classmethod
    def _two_levels(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if len(value) < 2:
            raise ValueError("must name at least two levels, the plain one first")
        return value


class StudyRow(Settings):
    """One row of a study with `design: explicit`."""

    label: str = Field(description="what the table calls the row")
    network: Literal["student", "teacher"] = Field("student", description="what is trained")
    settings: dict[str, Any] = Field(default={}, description="overrides of the preset")
    predictions: str | None = Field(
        None,
        description="file of saved disparities, for a row of official weights that are not run "
        "here; ${NAME:-default} reads the environment; left out where it does not exist",
    )
    least_side: int = Field(
        0, ge=0, description="shorter side of images, pixels, below which the row is left out"
    )

    @field_validator("settings")
    @classmethod
    def _paths_stay_below(cls, value: dict[str, Any]) -> dict[str, Any]:
        return study_settings_checked(value)

    @field_validator("predictions")
    @classmethod
    def _path_stays_below(cls, value: str | None) -> str | None:
        return None if value is None else study_path_checked(value)


class StudyFile(Settings):
    """Content of `ablations/NAME.yaml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="of the study, as commands take it")
    title: str = Field(description="heading of the table")
    table: str = Field(
        pattern=r"^table_[a-z0-9_]+$", description="the table it feeds, reports/TABLE.csv"
    )
    design: Design = Field(
        "factorial", description="how rows come about: listed, or made of the factors"
    )
    base_label: str = Field("SmallDepth", description="label of the row with all factors plain")
    factors: dict[str, Factor] = Field(
        default={},
        description="of every design but explicit, in order; levels: the plain one first",
    )
    full_label: str | None = Field(
        None,
        description="label of the row with all factors at their last level, from which "
        "leave_one_out takes one after the other; none: base_label + all",
    )
    seeds: tuple[int, ...] | None = Field(
        None, description="in place of the preset's; those of the command line go before"
    )
    rows: tuple[StudyRow, ...] = Field((), description="of an explicit design, in order")
    baseline: str | None = Field(
        None, description="row that the others are compared with; none: the first"
    )
    data: str | None = Field(
        None, description="a key of the preset's `datasets`; none: the preset's own data"
    )
    resolution: Literal["base", "high"] = Field(
        "base", description="high: the preset's data.high_resolution"
    )
    evaluated_on: str | None = Field(
        None, description="a benchmark of the preset, in place of its evaluation"
    )
    benchmarks: tuple[str, ...] = Field((), description="benchmarks whose metrics are columns")
    columns: tuple[Block, ...] = Field(
        ("metrics", "parameters"), description="blocks of columns, in order"
    )
    shown: dict[str, str] = Field(default={}, description="column -> setting whose value it shows")
    baselines: tuple[Baseline, ...] = Field(
        ("constant", "row_median", "pixel_median"),
        description="rows of predictors that do not look at the image",
    )
    notes: tuple[str, ...] = Field((), description="sentences below the table")

    @field_validator("factors", "shown")
    @classmethod
    def _names_fit_columns(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_TAKEN & value.keys()):
            raise ValueError(f"'{taken[0]}' is a column of every table: choose another name")
        return value

    @field_validator("factors")
    @classmethod
    def _names_fit_folders(cls, value: dict[str, Factor]) -> dict[str, Factor]:
        return names_checked(value)

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or len({*value}) < len(value) or min(value) < 0):
            raise ValueError("must be distinct, non-negative integers such as [1, 2, 3]")
        return value

    @model_validator(mode="after")
    def _design_has_its_rows(self) -> "StudyFile":
        if self.design == "explicit" and (self.factors or not self.rows):
            raise ValueError("an explicit study has rows, and no factors")
        if self.design != "explicit" and (self.rows or not self.factors):
            raise ValueError(f"a {self.design} study has factors, and no rows")
        return self

    def contradictions(self) -> Iterator[str]:
        """What a study cannot mean though each of its keys is well-formed, one sentence each."""
        if self.baseline is not None and self.baseline not in (labels := self.labels):
            there = ", ".join(labels[:_LISTED]) + (", ..." if len(labels) > _LISTED else "")
            yield f"baseline '{self.baseline}' is no row: there are {there}"
        if self.evaluated_on is None and not self.benchmarks and not _HAS_PRIMARY & {*self.columns}:
            yield "columns must hold metrics, primary or conditions, by which rows are compared"
        for name, key in self.shown.items():
            if not _is_setting(key):
                yield f"shown.{name}: there is no setting '{key}'"
        for label in repeated([row.label for row in self.rows]):
            yield f"two rows are called '{label}': give each its own label"

    @property
    def all_benchmarks(self) -> tuple[str, ...]:
        """Benchmarks that its table shows in one way or the other."""
        return (*self.benchmarks, *((self.evaluated_on,) if self.evaluated_on else ()))

    @property
    def labels(self) -> list[str]:
        """Labels of all its rows, those included that a preset leaves out."""
        if self.design == "explicit":
            return [row.label for row in self.rows]
        return [variant_label(self, levels) for levels in variants(self)]

    @property
    def plain(self) -> dict[str, str]:
        """The plain (first) level of every factor."""
        return {name: next(iter(factor.levels)) for name, factor in self.factors.items()}

    @property
    def full(self) -> dict[str, str]:
        """The last level of every factor."""
        return {name: next(reversed(factor.levels)) for name, factor in self.factors.items()}

    @property
    def is_factorial(self) -> bool:
        """Whether all combinations of its factors are rows: what interactions need."""
        return self.design == "factorial"


def repeated(labels: list[str]) -> list[str]:
    """Those that occur more than once, in alphabetical order."""
    return sorted(label for label, count in Counter(labels).items() if count > 1)


def read_study_file(path: Path) -> tuple[StudyFile | None, list[str]]:
    """A study file's content, and a sentence for each thing that is wrong in it.

    Returns:
        the content, None where keys or values are wrong; the sentences, none where all is well.

    Raises:
        FadepthError: the file is absent or no YAML.
    """
    try:
        file = StudyFile.model_validate(load_yaml(path))
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "design"
            expected = problem["msg"].removeprefix("Value error, ")
            known = ", ".join(StudyFile.model_fields)
            hint = f" (known keys: {known})" if problem["type"] == "extra_forbidden" else ""
            problems.append(f"study {path}, key '{key}': {expected}{hint}")
        return None, problems
    return file, [f"study {path}, key 'design': {text}" for text in file.contradictions()]


def load_study_file(path: Path) -> StudyFile:
    """Read and check `ablations/NAME.yaml`.

    Raises:
        FadepthError: names the file, the key, and what was expected.
    """
    file, problems = read_study_file(path)
    if file is None or problems:
        raise FadepthError(problems[0])
    return file


# Designs: rows as levels of factors


def variants(file: StudyFile) -> list[dict[str, str]]:
    """Level of every factor, row by row, for the designs that are made of factors."""
    if file.design == "one_at_a_time":
        return _one_at_a_time(file)
    if file.design == "leave_one_out":
        return _leave_one_out(file)
    return _cumulative(file) if file.design == "cumulative" else _factorial(file)


def _one_at_a_time(file: StudyFile) -> list[dict[str, str]]:
    """The plain row, then each other level of each factor alone."""
    plain = file.plain
    changes = [(name, lv) for name, factor in file.factors.items() for lv in [*factor.levels][1:]]
    return [plain, *({**plain, name: level} for name, level in changes)]


def _leave_one_out(file: StudyFile) -> list[dict[str, str]]:
    """All factors at their last level, then each other level of each factor in its place."""
    full = file.full
    changes = [(name, lv) for name, factor in file.factors.items() for lv in [*factor.levels][:-1]]
    return [full, *({**full, name: level} for name, level in changes)]


def _cumulative(file: StudyFile) -> list[dict[str, str]]:
    """The plain row, then each row as the one before with one more factor at its last level."""
    rows = [file.plain]
    for name, level in file.full.items():
        rows.append({**rows[-1], name: level})
    return rows


def _factorial(file: StudyFile) -> list[dict[str, str]]:
    """All combinations of levels, fewest changes first."""
    names, plain = list(file.factors), file.plain
    combinations = itertools.product(*(file.factors[name].levels for name in names))
    rows = [dict(zip(names, levels, strict=True)) for levels in combinations]

    def order(row: dict[str, str]) -> tuple[int, list[int]]:
        changed = [int(row[name] != plain[name]) for name in names]
        return sum(changed), [-change for change in changed]

    return sorted(rows, key=order)


def level_label(factor: str, level: str) -> str:
    """How a reader calls a factor at a level: a switch by its name alone."""
    return factor if level == "on" else f"{factor} {level}"


def variant_label(file: StudyFile, levels: Mapping[str, str]) -> str:
    """What a table calls a row: by what it adds to the plain row, or takes from the full one.

    Short, since tables and MLflow's list cut long names.
    """
    if file.design == "leave_one_out":
        return _label_of_one_left_out(file, levels)
    plain = file.plain
    parts = [
        level_label(file.factors[name].label, level)
        for name, level in levels.items()
        if level != plain[name]
    ]
    return "+ " + " + ".join(parts) if parts else file.base_label


def _label_of_one_left_out(file: StudyFile, levels: Mapping[str, str]) -> str:
    full, plain = file.full, file.plain
    changed = [name for name, level in levels.items() if level != full[name]]
    if not changed:
        return file.full_label or f"{file.base_label} + all"
    (name,) = changed
    label, level = file.factors[name].label, levels[name]
    if level == plain[name] and level in _ABSENT:
        return f"w/o {label}"
    return f"with {level_label(label, level)}"
