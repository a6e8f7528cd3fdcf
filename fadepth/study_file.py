"""What a study file may say: factors or rows, data, columns (`ablations/NAME.yaml`)."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from fadepth.config import Config, Settings, load_yaml, names_checked
from fadepth.errors import FadepthError
from fadepth.run import Baseline

#: What a table shows of its rows, beside factors and seeds (`fadepth.report.measures`).
Block = Literal[
    "metrics", "primary", "conditions", "parameters", "training_parameters", "costs", "grid"
]  # fmt: skip


_HAS_PRIMARY = {"metrics", "primary", "conditions"}


def _is_setting(key: str) -> bool:
    value: object = Config()
    for part in key.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


class Factor(Settings):
    """One thing that a study varies: named levels, each a set of overrides; the first is plain."""

    label: str
    levels: dict[str, dict[str, Any]]

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
    def _two_levels(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if len(value) < 2:
            raise ValueError("must name at least two levels, the plain one first")
        return value


class StudyRow(Settings):
    """One row of a study with `design: explicit`."""

    label: str
    network: Literal["student", "teacher"] = "student"
    settings: dict[str, Any] = Field(default={}, description="overrides of the preset")
    predictions: str | None = Field(
        None,
        description="file of saved disparities, for a row of official weights that are not run "
        "here; ${NAME:-default} reads the environment; left out where it does not exist",
    )
    least_side: int = Field(
        0, ge=0, description="shorter side of images, pixels, below which the row is left out"
    )


class StudyFile(Settings):
    """Content of `ablations/NAME.yaml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    table: str = Field(pattern=r"^table_[a-z0-9_]+$")
    design: Literal["factorial", "explicit"] = "factorial"
    base_label: str = Field("SmallDepth", description="label of the row with all factors plain")
    factors: dict[str, Factor] = Field(default={}, description="of a factorial design")
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
    columns: tuple[Block, ...] = ("metrics", "parameters")
    shown: dict[str, str] = Field(default={}, description="column -> setting whose value it shows")
    baselines: tuple[Baseline, ...] = ("constant", "row_median", "pixel_median")
    notes: tuple[str, ...] = Field((), description="sentences below the table")

    @field_validator("factors")
    @classmethod
    def _names_fit_folders(cls, value: dict[str, Factor]) -> dict[str, Factor]:
        return names_checked(value)

    @model_validator(mode="after")
    def _design_has_its_rows(self) -> "StudyFile":
        if self.design == "factorial" and (self.rows or not self.factors):
            raise ValueError("a factorial study has factors, and no rows")
        if self.design == "explicit" and (self.factors or not self.rows):
            raise ValueError("an explicit study has rows, and no factors")
        labels = [row.label for row in self.rows]
        if self.baseline is not None and self.rows and self.baseline not in labels:
            raise ValueError(f"baseline '{self.baseline}' is no row: there are {', '.join(labels)}")
        if self.evaluated_on is None and not self.benchmarks and not _HAS_PRIMARY & {*self.columns}:
            raise ValueError(
                "columns must hold metrics, primary or conditions, by which rows are compared"
            )
        for name, key in self.shown.items():
            if not _is_setting(key):
                raise ValueError(f"shown.{name}: there is no setting '{key}'")
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two rows are called '{twice[0]}': give each its own label")
        return self

    @property
    def all_benchmarks(self) -> tuple[str, ...]:
        """Benchmarks that its table shows in one way or the other."""
        return (*self.benchmarks, *((self.evaluated_on,) if self.evaluated_on else ()))

    @property
    def plain(self) -> dict[str, str]:
        """The plain (first) level of every factor."""
        return {name: next(iter(factor.levels)) for name, factor in self.factors.items()}


def load_study_file(path: Path) -> StudyFile:
    """Read and check `ablations/NAME.yaml`.

    Raises:
        FadepthError: names the file, the key, and what was expected.
    """
    try:
        return StudyFile.model_validate(load_yaml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "design"
        expected = problem["msg"].removeprefix("Value error, ")
        known = ", ".join(StudyFile.model_fields)
        hint = f" (known keys: {known})" if problem["type"] == "extra_forbidden" else ""
        raise FadepthError(f"study {path}, key '{key}': {expected}{hint}") from None
