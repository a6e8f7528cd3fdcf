"""A study file and a preset become the rows of a table, each with its runs.

Everything here is pure Python that runs while Snakemake parses: no torch, no image is read. A
study file is therefore never the input of a training rule; what a training depends on is in its
run's id (settings, seed, data, teacher) and in its code fingerprint (`fadepth.run`).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fadepth.config import (
    Config,
    Source,
    expand,
    find_benchmark,
    load_yaml,
    merge,
    parse_config,
)
from fadepth.data.prepare import (
    benchmark_identity,
    benchmark_place,
    benchmark_root,
    data_identity,
)
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol, protocol_names
from fadepth.run import TRAINED, Baseline, Run, RunKind, slug_of, teacher_slug
from fadepth.study_file import StudyFile, StudyRow, load_study_file

BASELINE_LABELS: dict[Baseline, str] = {
    "constant": "constant depth",
    "row_median": "median depth per row",
    "pixel_median": "median depth per pixel",
}


def _can_be_made(row: StudyRow, side: int) -> bool:
    """Whether images are large enough for a row, and its predictions are there."""
    there = row.predictions is None or Path(expand(row.predictions)).is_file()
    return row.least_side <= side and there


@dataclass(frozen=True)
class TableRow:
    """One row of a study's table: its runs, one for each seed."""

    label: str
    kind: Literal["variant", "teacher", "baseline", "official"]
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
    def left_out(self) -> list[str]:
        """Why rows of the file are not among `rows`, one sentence each."""
        side = min(self.config.data.height, self.config.data.width)
        small = "it needs images of {} pixels or more"
        reasons = {
            row.label: small.format(row.least_side)
            if row.least_side > side
            else f"there is no file {expand(row.predictions or '')}"
            for row in self.file.rows
            if not _can_be_made(row, side)
        }
        return [f"'{label}' is left out: {reason}" for label, reason in reasons.items()]

    @property
    def runs(self) -> Iterator[Run]:
        """All runs of all rows."""
        return (run for row in self.rows for run in row.runs)

    @property
    def networks(self) -> Iterator[Run]:
        """Runs of trained networks: students and teachers."""
        return (run for run in self.runs if run.kind in TRAINED)

    @property
    def students(self) -> Iterator[Run]:
        """Trained students."""
        return (run for run in self.runs if run.kind == "student")

    @property
    def baseline(self) -> TableRow:
        """The row that the others are compared with."""
        name = self.file.baseline
        rows = [row for row in self.rows if row.kind == "variant"]
        if name is None:
            return rows[0]
        return next(row for row in rows if row.label == name)

    def teacher_of(self, run: Run) -> Run | None:
        """The teacher that a student is compared with: its own, else the study's first."""
        if run.teacher:
            return run.teacher
        return next((other for other in self.runs if other.kind == "teacher"), None)


def missing_benchmark(study: Study, base: Path) -> str | None:
    """Why a study cannot be evaluated on the benchmarks that it shows; None where it can.

    Only what tells without opening data: the preset's entry, its list of frames, its folder.
    """
    for name in study.file.all_benchmarks:
        try:
            settings = find_benchmark(study.config, name)
            benchmark_identity(settings, base)
        except FadepthError as error:
            return str(error)
        root = benchmark_root(settings, base)
        if not (settings.synthetic or settings.frames or root.is_dir()):
            return f"{study.file.table} needs the folder {root}, which does not exist"
    return None


def config_with_benchmark(
    studies: Iterable[Study], name: str, place: str, base: Path
) -> Config | None:
    """Settings of the first study with a benchmark of that name there (`benchmark_place`)."""
    for study in studies:
        settings = study.config.benchmarks.get(name)
        if settings and benchmark_place(settings, base) == place:
            return study.config
    return None


class NotInPreset(FadepthError):
    """A study asks for data that the preset does not have."""


# From a file to rows


def variants(file: StudyFile) -> list[dict[str, str]]:
    """Level names of every variant, fewest changes first: the full factorial."""
    names = list(file.factors)
    combinations = itertools.product(*(file.factors[name].levels for name in names))
    rows = [dict(zip(names, levels, strict=True)) for levels in combinations]

    def order(row: dict[str, str]) -> tuple[int, list[int]]:
        changed = [int(row[name] != file.plain[name]) for name in names]
        return sum(changed), [-change for change in changed]

    return sorted(rows, key=order)


@dataclass(frozen=True)
class _Planned:
    """A row before it is resolved."""

    label: str
    network: Literal["student", "teacher"]
    factors: Mapping[str, str]
    settings: Mapping[str, Any]
    predictions: str | None = None


def _planned(file: StudyFile, side: int) -> list[_Planned]:
    """Rows for images whose shorter side is `side`, pixels."""
    if file.design == "explicit":
        return [
            _Planned(row.label, row.network, {}, merge({}, row.settings), row.predictions)
            for row in file.rows
            if _can_be_made(row, side)
        ]
    rows = []
    for levels in variants(file):
        settings: dict[str, Any] = {}
        for name, level in levels.items():
            settings = merge(settings, merge({}, file.factors[name].levels[level]))
        rows.append(_Planned(_label(file, levels), "student", levels, settings))
    return rows


def resolve_study(
    path: Path,
    preset: Mapping[str, Any],
    origin: str,
    base: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Study:
    """Resolve a study file on top of a preset's settings into rows and runs.

    Args:
        path: the study file.
        preset: nested settings of the preset, `overrides` included.
        origin: the preset's name in error messages.
        base: folder that relative data paths start from; the working directory by default.
        overrides: settings of the command line; they also go on top of the preset that
            `datasets` names for the study's data.

    Raises:
        NotInPreset: the preset has no data of the kind that the study asks for.
        FadepthError: names the file, the key, and what was expected.
    """
    file = load_study_file(path)
    preset, origin = _preset_for(file, preset, origin, overrides or {})
    plain = parse_config(dict(preset), origin)
    _refuse_other_protocols(plain, origin)
    try:
        data_hash = data_identity(plain.data, base or Path.cwd())
    except FadepthError as error:
        if file.data is None:
            raise
        raise NotInPreset(str(error)) from None
    size: dict[str, Any] = {}
    if file.resolution == "high":
        height, width = plain.data.high_resolution
        size = {"data": {"height": height, "width": width}}
    config = parse_config(merge(dict(preset), size), origin)
    study = Study(file, config, data_hash)
    study = replace(study, rows=tuple(_Resolver(path, study, plain, preset, size, origin).rows()))
    _check_rows(study, path)
    return study


def _check_rows(study: Study, path: Path) -> None:
    """A table needs rows to compare, each with a label and runs of its own.

    Raises:
        NotInPreset: the preset leaves out all rows, or the baseline.
        FadepthError: two rows share a label or are the same runs.
    """
    variants_ = [row for row in study.rows if row.kind == "variant"]
    named = study.file.baseline
    if not variants_ or (named and named not in [row.label for row in variants_]):
        lost = "; ".join(study.left_out) or "it has no row that is trained"
        raise NotInPreset(f"{path} cannot be compared with anything: {lost}")
    labels = [row.label for row in study.rows]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise FadepthError(f"{path} has two rows called '{twice[0]}': give each its own label")
    owners: dict[str, str] = {}
    for row in variants_:
        other = owners.setdefault(row.runs[0].id, row.label)
        if other != row.label:
            raise FadepthError(
                f"{path}: rows '{other}' and '{row.label}' are the same run, {row.runs[0].id}: "
                "change a setting that has an effect, or leave one out"
            )


def _preset_for(
    file: StudyFile, preset: Mapping[str, Any], origin: str, overrides: Mapping[str, Any]
) -> tuple[Mapping[str, Any], str]:
    """The settings that a study is resolved on: the preset's, or those that its data stand for."""
    if file.data is None:
        return preset, origin
    datasets = parse_config(dict(preset), origin).datasets
    if file.data not in datasets:
        known = ", ".join(datasets) or "none"
        raise NotInPreset(
            f"{origin} has no data set '{file.data}' for {file.table} (there are: {known}): "
            "describe it in 'datasets' of the preset"
        )
    entry = datasets[file.data]
    if entry.preset:
        # What is said of one data set is not said of another.
        common = {k: v for k, v in merge({}, dict(overrides)).items() if k not in _OF_ONE_DATA_SET}
        preset, origin = merge(load_yaml(Path(entry.preset)), common), entry.preset
    return merge(dict(preset), entry.overrides), origin


#: Settings of the command line that do not go on top of another preset file.
_OF_ONE_DATA_SET = ("data", "evaluation", "benchmarks", "odometry", "datasets")


@dataclass(frozen=True)
class _Resolver:
    """Turns planned rows into rows with runs."""

    path: Path
    study: Study
    plain: Config
    preset: Mapping[str, Any]
    size: Mapping[str, Any]
    origin: str

    def rows(self) -> Iterator[TableRow]:
        """Rows of the file, the teachers that APX needs, and the trivial baselines."""
        data = self.study.config.data
        planned = _planned(self.study.file, min(data.height, data.width))
        trained = [row for row in planned if row.predictions is None]
        only_teachers = all(row.network == "teacher" for row in trained)
        shown: set[str] = set()
        needed: dict[str, Run] = {}
        for row in planned:
            resolved = self._resolve(row)
            if row.predictions is not None:
                yield self._official_row(row, row.predictions)
                continue
            if row.network == "teacher":
                yield from self._teacher_row(row, resolved, only_teachers, shown)
                continue
            teacher = self._teacher(resolved) if resolved.loss.apx.enabled else None
            if teacher:
                needed.setdefault(teacher.id, teacher)
            yield TableRow(
                row.label, "variant", row.factors, self._students(row, resolved, teacher)
            )
        yield from _teacher_rows([t for t in needed.values() if t.id not in shown])
        for name in self.study.file.baselines:
            run = self._run("baseline", name, BASELINE_LABELS[name], {}, 0, self.study.config)
            yield TableRow(run.label, "baseline", {}, (run,))

    def _resolve(self, row: _Planned) -> Config:
        settings = merge(merge(dict(self.preset), dict(self.size)), dict(row.settings))
        resolved = parse_config(settings, f"{self.origin} with {self.path}")
        _refuse_other_data(self.study.config, resolved, self.path)
        return resolved

    def _run(
        self,
        kind: RunKind,
        slug: str,
        label: str,
        factors: Mapping[str, str],
        seed: int,
        config: Config,
        teacher: Run | None = None,
    ) -> Run:
        study = self.study
        return Run(
            kind, slug, label, factors, seed, config, study.data_hash, study.file.name, teacher
        )

    def _students(self, row: _Planned, config: Config, teacher: Run | None) -> tuple[Run, ...]:
        slug = slug_of(merge(dict(self.size), dict(row.settings)), self.plain, config)
        return tuple(
            self._run("student", slug, row.label, row.factors, seed, config, teacher)
            for seed in config.seeds
        )

    def _teacher(self, resolved: Config) -> Run:
        # Factors of the student leave the teacher as it is; only teacher.* makes another one.
        config = self.study.config.model_copy(update={"teacher": resolved.teacher})
        return self._teacher_run(config, "", resolved.teacher.seed)

    def _teacher_run(self, config: Config, label: str, seed: int) -> Run:
        slug = teacher_slug(config.teacher)
        name = {"hqdecv2": "HQDecv2", "hqdec": "HQDec"}.get(slug, slug)
        return self._run("teacher", slug, label or f"{name} (teacher)", {}, seed, config)

    def _official_row(self, row: _Planned, predictions: str) -> TableRow:
        """Somebody else's predictions under our evaluator: no training, no seed of ours."""
        study = self.study
        words = re.sub(r"[^a-z0-9]+", "_", row.label.lower()).strip("_")
        slug = f"official_{words or 'network'}"
        run = self._run("official", slug, row.label, {}, 0, study.config)
        run = replace(run, predictions=predictions)
        return TableRow(row.label, "official", {}, (run,))

    def _teacher_row(
        self, row: _Planned, resolved: Config, only_teachers: bool, shown: set[str]
    ) -> Iterator[TableRow]:
        """A teacher competes, with all seeds, where all rows are teachers; else it is beside."""
        seeds = resolved.seeds if only_teachers else (resolved.teacher.seed,)
        # All of the row's settings count: a row about teachers may vary its loss or budget.
        runs = tuple(self._teacher_run(resolved, row.label, seed) for seed in seeds)
        shown.update(run.id for run in runs)
        yield TableRow(row.label, "variant" if only_teachers else "teacher", {}, runs)


def _teacher_rows(teachers: Sequence[Run]) -> Iterator[TableRow]:
    labels = [teacher.label for teacher in teachers]
    for number, teacher in enumerate(teachers, 1):
        twice = labels.count(teacher.label) > 1
        label = f"{teacher.label} {number}" if twice else teacher.label
        yield TableRow(label, "teacher", {}, (teacher,))


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


def _refuse_other_data(preset: Config, resolved: Config, path: Path) -> None:
    """All runs of a study see the same frames; another data set is another preset."""
    for name in ("name", "source", "root", "splits", "synthetic", "ddad"):
        if getattr(preset.data, name) != getattr(resolved.data, name):
            raise FadepthError(
                f"study {path} varies 'data.{name}': a study compares runs on the same frames, so "
                "write a preset for other data instead"
            )


def level_label(factor: str, level: str) -> str:
    """How a reader calls a factor at a level: a switch by its name alone."""
    return factor if level == "on" else f"{factor} {level}"


def _label(file: StudyFile, levels: Mapping[str, str]) -> str:
    # Factors that are not at their plain (first) level.
    parts = [
        level_label(file.factors[name].label, level)
        for name, level in levels.items()
        if level != file.plain[name]
    ]
    # Short, since tables and MLflow's list cut long names.
    return "+ " + " + ".join(parts) if parts else file.base_label


# All studies


def resolve_all(
    folder: Path,
    preset: Mapping[str, Any],
    origin: str,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Study]:
    """Every study of `folder` whose data the preset has, by the name of its table.

    Raises:
        FadepthError: no study is there, or two feed the same table.
    """
    return resolve_and_leave_out(folder, preset, origin, overrides)[0]


def resolve_and_leave_out(
    folder: Path,
    preset: Mapping[str, Any],
    origin: str,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Study], dict[str, str]]:
    """As `resolve_all`; also the tables that the preset has no data for, each with the reason."""
    studies: dict[str, Study] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        table = load_study_file(path).table
        if table in studies or table in left_out:
            raise FadepthError(f"{path}: another study already feeds '{table}'")
        try:
            studies[table] = resolve_study(path, preset, origin, overrides=overrides)
        except NotInPreset as reason:
            left_out[table] = str(reason)
    if not studies:
        raise FadepthError(f"no study file (*.yaml) in {folder}: restore {folder}/components.yaml")
    _refuse_two_evaluations(studies)
    return studies, left_out


def _refuse_two_evaluations(studies: Mapping[str, Study]) -> None:
    """A run has one evaluation: studies that share it have to mean the same one."""
    found: dict[str, tuple[str, object]] = {}
    for table, study in studies.items():
        for run in study.runs:
            meant = (run.config.evaluation, run.config.benchmarks)
            other, before = found.setdefault(run.id, (table, meant))
            if before != meant:
                raise FadepthError(
                    f"{other} and {table} share the run {run.id} but evaluate it differently: give "
                    "'datasets' of the preset data of their own, or the same 'evaluation'"
                )


def unique_runs(studies: Iterable[Study]) -> dict[str, Run]:
    """Runs of all studies by id; of a shared run, what a study with factors calls it."""
    found: dict[str, Run] = {}
    for study in studies:
        for run in study.runs:
            if run.id not in found or (run.factors and not found[run.id].factors):
                found[run.id] = run
    return found
