"""A study file and a preset become runs; a run's name says what it is and holds its identity.

Everything here is pure Python that runs while Snakemake parses: no torch, no image is read. A
study file is therefore never the input of a training rule; what a training depends on is in its
run's id (settings, seed, data, teacher) and in its code fingerprint.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from fadepth.config import (
    Config,
    EvaluationSettings,
    OdometrySettings,
    Settings,
    Source,
    ego_mask_path,
    expand,
    identity_settings,
    load_yaml,
    merge,
    names_checked,
    parse_config,
)
from fadepth.data.kitti import CAMERAS
from fadepth.data.prepare import benchmark_identity, data_identity
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import deciding_content, find_protocol, protocol_names
from fadepth.fingerprint import code_fingerprint, digest

RunKind = Literal["student", "teacher", "baseline"]
Baseline = Literal["constant", "row_median", "pixel_median"]

#: Modules that a training's result depends on, whatever it trains (paths below the package).
TRAINING_CODE = (
    "geometry.py", "training.py", "data/dataset.py", "data/augment.py", "data/kitti.py",
    "data/cache.py",
    "models/posenet.py", "losses/masks.py", "losses/photometric.py", "losses/ssim.py",
)  # fmt: skip
STUDENT_CODE = ("models/smalldepth.py", "models/etm.py")
TEACHER_CODE = ("models/hqdec.py", "models/hqdec_v1.py", "models/efficientnetv2.py")
EVALUATION_CODE = (
    "evaluation/metrics.py", "evaluation/protocols.py", "evaluation/evaluate.py",
    "evaluation/baselines.py", "data/kitti.py", "data/ddad.py", "data/make3d.py",
    "data/cityscapes.py", "geometry.py",
)  # fmt: skip

#: What `odometry/` depends on beside the trained network.
ODOMETRY_CODE = (
    "evaluation/odometry.py", "data/kitti_odometry.py", "data/kitti.py", "models/posenet.py",
    "geometry.py",
)  # fmt: skip

#: What `robustness.json` depends on beside the evaluation.
ROBUSTNESS_CODE = (*EVALUATION_CODE, "evaluation/robustness.py")

BASELINE_LABELS: dict[Baseline, str] = {
    "constant": "constant depth",
    "row_median": "median depth per row",
    "pixel_median": "median depth per pixel",
}


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


class StudyFile(Settings):
    """Content of `ablations/NAME.yaml`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    table: str = Field(pattern=r"^table_[a-z0-9_]+$")
    design: Literal["factorial"] = "factorial"
    base_label: str = Field("SmallDepth", description="label of the row with all factors plain")
    factors: dict[str, Factor]
    baselines: tuple[Baseline, ...] = ("constant", "row_median", "pixel_median")

    @field_validator("factors")
    @classmethod
    def _names_fit_folders(cls, value: dict[str, Factor]) -> dict[str, Factor]:
        return names_checked(value)

    @property
    def plain(self) -> dict[str, str]:
        """The plain (first) level of every factor."""
        return {name: next(iter(factor.levels)) for name, factor in self.factors.items()}


def _ego_mask_digest(config: Config) -> str | list[str]:
    """Digest of the ego mask's bytes: what is drawn on it counts, not where it lies."""
    name = config.loss.ego_mask or ""
    if "{camera}" not in name:
        return _file_digest(ego_mask_path(name, ""))
    cameras = config.data.ddad.cameras if config.data.source == "ddad" else tuple(CAMERAS)
    return [_file_digest(ego_mask_path(name, camera)) for camera in cameras]


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    except OSError:
        raise FadepthError(
            f"ego mask {path} cannot be read: set 'loss.ego_mask' to an image file, black where "
            "the camera sees its own vehicle ('fadepth data ego-mask' estimates one), or to null"
        ) from None


@dataclass(frozen=True)
class Run:
    """One folder below `runs/`: a trained network or a fitted baseline.

    Attributes:
        kind: what it is.
        slug: for people; part of the id.
        label: the row of the table that it belongs to.
        factors: level of each factor; empty for teacher and baselines.
        seed: of everything random in it.
        config: resolved settings.
        data_hash: identity of the data (`data_identity`).
        study: name of the study that it was resolved from.
        teacher: the run whose predictions APX approximates.
    """

    kind: RunKind
    slug: str
    label: str
    factors: Mapping[str, str]
    seed: int
    config: Config
    data_hash: str
    study: str
    teacher: "Run | None" = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The non-default settings that this run's result depends on, and no others."""
        own = {"data", "pose", "loss", "training", self.kind}
        settings = {k: v for k, v in identity_settings(self.config).items() if k in own}
        if self.kind == "baseline":
            size = [self.config.data.height, self.config.data.width]
            # A baseline is fitted to ground truth, and the protocol says to which.
            protocol = self.config.evaluation.protocol
            return {"baseline": self.slug, "size": size, "protocol": protocol}
        loss = dict(settings.pop("loss", {}))
        for name in ("pyramid", "apx"):
            # A switched-off loss has no effect, whatever its weights; the teacher never uses them.
            if self.kind == "teacher" or not getattr(self.config.loss, name).enabled:
                loss.pop(name, None)
        if self.config.loss.base != "cbw":
            loss.pop("cbw", None)
        if loss.get("ego_mask"):
            loss["ego_mask"] = _ego_mask_digest(self.config)
        if loss:
            settings["loss"] = loss
        if self.kind == "student" and self.config.student.etm.branches == "off":
            student = {k: v for k, v in settings.get("student", {}).items() if k != "etm"}
            settings["student"] = student
        if self.kind == "teacher":
            teacher = {k: v for k, v in settings.get("teacher", {}).items() if k != "seed"}
            settings["teacher"] = teacher
        return settings

    @cached_property
    def config_hash(self) -> str:
        """Digest of settings, seed, teacher, data and scale: the hash in the run's id."""
        return digest(
            {
                "kind": self.kind,
                "settings": self.settings,
                "seed": self.seed,
                "teacher": self.teacher.id if self.teacher else None,
                "data": self.data_hash,
                "scale": self.config.scale,
            }
        )

    @cached_property
    def id(self) -> str:
        """`<slug>-s<seed>-<10 hex>`."""
        return f"{self.slug}-s{self.seed}-{self.config_hash}"

    @cached_property
    def code_hash(self) -> str:
        """Fingerprint of the code that trains this run."""
        if self.kind == "baseline":
            return code_fingerprint(EVALUATION_CODE)
        modules = list(TRAINING_CODE)
        modules += STUDENT_CODE if self.kind == "student" else TEACHER_CODE
        if self.config.loss.base == "cbw":
            modules.append("losses/cbw.py")
        if "pyramid" in self.settings.get("loss", {}):
            modules.append("losses/pyramid.py")
        if "apx" in self.settings.get("loss", {}):
            modules += ["losses/apx.py", "targets.py"]
        return code_fingerprint(modules)

    @property
    def identity(self) -> dict[str, Any]:
        """What Snakemake watches: values that change when the run has to be trained again."""
        return {"config": self.config_hash, "code": self.code_hash, "settings": self.settings}

    @property
    def evaluation_identity(self) -> dict[str, Any]:
        """What Snakemake watches for the evaluation of this run."""
        return self._evaluation_identity(EVALUATION_CODE)

    @property
    def robustness_identity(self) -> dict[str, Any]:
        """What Snakemake watches for `robustness.json` of this run."""
        return self._evaluation_identity(ROBUSTNESS_CODE)

    def _evaluation_identity(self, modules: tuple[str, ...]) -> dict[str, Any]:
        settings: EvaluationSettings = self.config.evaluation
        return {
            "evaluation": settings.model_dump(mode="json"),
            "protocol": deciding_content(find_protocol(settings.protocol)),
            "code": code_fingerprint(modules),
        }

    def benchmark_identity(self, name: str, base: Path) -> dict[str, Any]:
        """What Snakemake watches for the evaluation of this run on a benchmark."""
        settings = self.config.benchmarks[name]
        return {
            "benchmark": benchmark_identity(settings, base),
            "protocol": deciding_content(find_protocol(settings.protocol)),
            "code": code_fingerprint(EVALUATION_CODE),
        }


@dataclass(frozen=True)
class TableRow:
    """One row of a study's table: its runs, one for each seed."""

    label: str
    kind: Literal["variant", "teacher", "baseline"]
    factors: Mapping[str, str]
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Study:
    """A resolved study: rows in the order of the table."""

    file: StudyFile
    config: Config
    data_hash: str
    rows: tuple[TableRow, ...] = field(default=())

    @property
    def runs(self) -> Iterator[Run]:
        """All runs of all rows."""
        return (run for row in self.rows for run in row.runs)

    @property
    def students(self) -> Iterator[Run]:
        """Runs of the variants."""
        return (run for run in self.runs if run.kind == "student")

    def teacher_of(self, run: Run) -> Run | None:
        """The teacher that a student is compared with: its own, else the study's first."""
        if run.teacher:
            return run.teacher
        return next((other for other in self.runs if other.kind == "teacher"), None)


def odometry_identity(settings: OdometrySettings, sequence: str, base: Path) -> dict[str, Any]:
    """What Snakemake watches for the evaluation of a run's poses on a sequence.

    Images are not hashed; where they lie is compared.
    """
    roots = [expand(text) for text in (settings.root, settings.raw_root or "")]
    poses = base / roots[0] / "poses" / f"{sequence}.txt"
    return {
        "roots": roots,
        "poses": hashlib.sha256(poses.read_bytes()).hexdigest() if poses.is_file() else None,
        "code": code_fingerprint(ODOMETRY_CODE),
    }


def _refuse_other_protocols(config: Config, origin: str) -> None:
    """A protocol means the ground truth of certain data sets; on others it means nothing."""
    chosen: dict[str, tuple[Source, str]] = {
        "evaluation": (config.data.source, config.evaluation.protocol)
    }
    for name, benchmark in config.benchmarks.items():
        chosen[f"benchmarks.{name}"] = (benchmark.source, benchmark.protocol)
    for key, (source, protocol) in chosen.items():
        if source not in (right := find_protocol(protocol).data):
            raise FadepthError(
                f"'{key}.protocol' in {origin} is {protocol}, which is for {' and '.join(right)}, "
                f"but the data are of {source}: choose one of "
                + ", ".join(n for n in protocol_names() if source in find_protocol(n).data)
            )


def load_study_file(path: Path) -> StudyFile:
    """Read and check `ablations/NAME.yaml`.

    Raises:
        FadepthError: names the file, the key, and what was expected.
    """
    try:
        return StudyFile.model_validate(load_yaml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        expected = problem["msg"].removeprefix("Value error, ")
        known = ", ".join(StudyFile.model_fields)
        hint = f" (known keys: {known})" if problem["type"] == "extra_forbidden" else ""
        raise FadepthError(f"study {path}, key '{key}': {expected}{hint}") from None


def variants(file: StudyFile) -> list[dict[str, str]]:
    """Level names of every variant, fewest changes first: the full factorial."""
    names = list(file.factors)
    combinations = itertools.product(*(file.factors[name].levels for name in names))
    rows = [dict(zip(names, levels, strict=True)) for levels in combinations]

    def order(row: dict[str, str]) -> tuple[int, list[int]]:
        changed = [int(row[name] != file.plain[name]) for name in names]
        return sum(changed), [-change for change in changed]

    return sorted(rows, key=order)


def resolve_study(
    path: Path, preset: Mapping[str, Any], origin: str, base: Path | None = None
) -> Study:
    """Resolve a study file on top of a preset's settings into rows and runs.

    Args:
        path: the study file.
        preset: nested settings of the preset.
        origin: the preset's name in error messages.
        base: folder that relative data paths start from; the working directory by default.
    """
    base = base or Path.cwd()
    file = load_study_file(path)
    config = parse_config(dict(preset), origin)
    _refuse_other_protocols(config, origin)
    data_hash = data_identity(config.data, base)

    def teacher_of(resolved: Config) -> Run:
        # Factors of the student leave the teacher as it is; only teacher.* makes another one.
        own = config.model_copy(update={"teacher": resolved.teacher})
        label = "HQDecv2 (teacher)"
        return Run("teacher", "hqdecv2", label, {}, own.teacher.seed, own, data_hash, file.name)

    rows = []
    teachers: dict[str, Run] = {}
    for levels in variants(file):
        overrides: dict[str, Any] = {}
        for name, level in levels.items():
            overrides = merge(overrides, merge({}, file.factors[name].levels[level]))
        resolved = parse_config(merge(dict(preset), overrides), f"{origin} with {path}")
        _refuse_other_data(config, resolved, path)
        teacher = teacher_of(resolved) if resolved.loss.apx.enabled else None
        if teacher:
            teachers.setdefault(teacher.id, teacher)
        label, slug = _label(file, levels), _slug(file, levels)
        runs = tuple(
            Run("student", slug, label, levels, seed, resolved, data_hash, file.name, teacher)
            for seed in config.seeds
        )
        rows.append(TableRow(label, "variant", levels, runs))
    for number, teacher in enumerate(teachers.values(), 1):
        label = teacher.label if len(teachers) == 1 else f"{teacher.label} {number}"
        rows.append(TableRow(label, "teacher", {}, (teacher,)))
    for name in file.baselines:
        label = BASELINE_LABELS[name]
        run = Run("baseline", name, label, {}, 0, config, data_hash, file.name)
        rows.append(TableRow(label, "baseline", {}, (run,)))
    return Study(file, config, data_hash, tuple(rows))


def _refuse_other_data(preset: Config, resolved: Config, path: Path) -> None:
    """All runs of a study see the same frames; another data set is another preset."""
    for name in ("name", "source", "root", "splits", "synthetic", "ddad"):
        if getattr(preset.data, name) != getattr(resolved.data, name):
            raise FadepthError(
                f"study {path} varies 'data.{name}': a study compares runs on the same frames, so "
                "write a preset for other data instead"
            )


def _changed(file: StudyFile, levels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Factors that are not at their plain (first) level, with their level."""
    return [(name, level) for name, level in levels.items() if level != file.plain[name]]


def level_label(factor: str, level: str) -> str:
    """How a reader calls a factor at a level: a switch by its name alone."""
    return factor if level == "on" else f"{factor} {level}"


def _label(file: StudyFile, levels: Mapping[str, str]) -> str:
    parts = [level_label(file.factors[name].label, level) for name, level in _changed(file, levels)]
    # Short, since tables and MLflow's list cut long names.
    return "+ " + " + ".join(parts) if parts else file.base_label


def _slug(file: StudyFile, levels: Mapping[str, str]) -> str:
    # Sorted, so that a study may list its factors in any order.
    changed = sorted(_changed(file, levels))
    parts = [name if level == "on" else f"{name}_{level}" for name, level in changed]
    return "_".join(parts) or "plain"


def resolve_all(folder: Path, preset: Mapping[str, Any], origin: str) -> dict[str, Study]:
    """Every study of `folder`, by the name of its table.

    Raises:
        FadepthError: no study is there, or two feed the same table.
    """
    studies: dict[str, Study] = {}
    for path in sorted(folder.glob("*.yaml")):
        study = resolve_study(path, preset, origin)
        if study.file.table in studies:
            raise FadepthError(f"{path}: another study already feeds '{study.file.table}'")
        studies[study.file.table] = study
    if not studies:
        raise FadepthError(f"no study file (*.yaml) in {folder}: restore {folder}/components.yaml")
    return studies
