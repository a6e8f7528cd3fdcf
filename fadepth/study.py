"""A study file and a preset become the rows of a table, each with its runs.

Everything here is pure Python that runs while Snakemake parses: no torch, no image is read. A
study file is therefore never the input of a training rule; what a training depends on is in its
run's id (settings, seed, data, teacher) and in its code fingerprint (`fadepth.run`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from fadepth.config import (
    Config,
    Source,
    TeacherSettings,
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
    missing_truth,
)
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol, protocol_names
from fadepth.run import TRAINED, Baseline, Run, RunKind, slug_of, teacher_slug
from fadepth.study_file import (
    StudyFile,
    StudyRow,
    load_study_file,
    repeated,
    variant_label,
    variants,
)

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

    @cached_property
    def baseline(self) -> TableRow:
        """The row that the others are compared with."""
        name = self.file.baseline
        rows = (row for row in self.rows if row.kind == "variant")
        return next(row for row in rows if name in (None, row.label))

    def teacher_of(self, run: Run) -> Run | None:
        """The teacher that a student is compared with: its own, else the study's first."""
        return run.teacher or self._first_teacher

    @cached_property
    def _first_teacher(self) -> Run | None:
        return next((run for run in self.runs if run.kind == "teacher"), None)


def missing_benchmark(study: Study, base: Path) -> str | None:
    """Why a study cannot be evaluated on the frames that it shows; None where it can.

    Only what tells without opening data: the preset's entry, its list of frames, its folder.
    """
    shown = {"conditions"} if study.file.evaluated_on else {"metrics", "primary", "conditions"}
    if shown & set(study.file.columns) and (reason := missing_truth(study.config.data, base)):
        return f"{study.file.table} cannot be made: {reason}"
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


@dataclass(frozen=True)
class RowPlan:
    """A row as its file describes it, before it is resolved.

    Attributes:
        label: what the table calls it.
        network: what is trained.
        factors: level of each factor; empty for rows of explicit studies.
        settings: nested overrides of the preset.
        predictions: file of saved disparities, for a row that is not trained.
    """

    label: str
    network: Literal["student", "teacher"]
    factors: Mapping[str, str]
    settings: Mapping[str, Any]
    predictions: str | None = None


def _plans(file: StudyFile, side: int) -> list[RowPlan]:
    """Rows for images whose shorter side is `side`, pixels."""
    if file.design == "explicit":
        return [
            RowPlan(row.label, row.network, {}, merge({}, row.settings), row.predictions)
            for row in file.rows
            if _can_be_made(row, side)
        ]
    of_level = {
        (name, level): merge({}, settings)
        for name, factor in file.factors.items()
        for level, settings in factor.levels.items()
    }
    rows = []
    for levels in variants(file):
        settings: dict[str, Any] = {}
        for level in levels.items():
            settings = merge(settings, of_level[level])
        rows.append(RowPlan(variant_label(file, levels), "student", levels, settings))
    return rows


@dataclass(frozen=True)
class Draft:
    """A study as far as it can be resolved, its rows not yet checked.

    Attributes:
        study: with the rows that could be resolved; its `data_hash` is empty without data.
        resolver: resolves rows that are not in the file.
        rows: those of the file, each with what it became.
        faults: rows of the file that could not be resolved, each with the reason.
        absent: why the data have no identity, None where they have one.
    """

    study: Study
    resolver: "Resolver"
    rows: tuple[tuple[RowPlan, TableRow], ...]
    faults: tuple[tuple[RowPlan, FadepthError], ...]
    absent: FadepthError | None


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
            `datasets` names for the study's data, and their seeds before the study's.

    Raises:
        NotInPreset: the preset has no data of the kind that the study asks for.
        FadepthError: names the file, the key, and what was expected.
    """
    return _resolve_file(load_study_file(path), path, preset, origin, base, overrides)


def _resolve_file(
    file: StudyFile,
    path: Path,
    preset: Mapping[str, Any],
    origin: str,
    base: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Study:
    draft = draft_study(file, path, preset, origin, base, overrides)
    if draft.absent:
        raise draft.absent if file.data is None else NotInPreset(str(draft.absent)) from None
    for _, error in draft.faults:
        raise error
    _check_rows(draft.study, path)
    return draft.study


def draft_study(
    file: StudyFile,
    path: Path,
    preset: Mapping[str, Any],
    origin: str,
    base: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Draft:
    """As `resolve_study`, but what is wrong with single rows or absent is kept, and not raised.

    Raises:
        NotInPreset: the preset does not name the data that the study asks for.
        FadepthError: the preset is wrong.
    """
    preset, origin = _preset_for(file, preset, origin, overrides or {})
    if file.seeds and "seeds" not in (overrides or {}):
        preset = merge(dict(preset), {"seeds": list(file.seeds)})
    plain = usable_preset(preset, origin)
    absent: FadepthError | None = None
    try:
        data_hash = data_identity(plain.data, base or Path.cwd())
    except FadepthError as error:
        data_hash, absent = "", error
    size: dict[str, Any] = {}
    if file.resolution == "high":
        height, width = plain.data.high_resolution
        size = {"data": {"height": height, "width": width}}
    preset = merge(dict(preset), size)
    config = parse_config(preset, origin)
    resolver = Resolver(path, Study(file, config, data_hash), plain, preset, size, origin)
    return resolver.draft(absent)


def nothing_to_compare(study: Study) -> str | None:
    """Why a study has no row that others could be compared with; None where it has one."""
    named = study.file.baseline
    labels = [row.label for row in study.rows if row.kind == "variant"]
    if not labels or (named and named not in labels):
        return "; ".join(study.left_out) or "it has no row that is trained"
    return None


def _check_rows(study: Study, path: Path) -> None:
    """A table needs rows to compare, each with a label and runs of its own.

    Raises:
        NotInPreset: the preset leaves out all rows, or the baseline, or has no such benchmark.
        FadepthError: two rows share a label or are the same runs.
    """
    if lost := nothing_to_compare(study):
        raise NotInPreset(f"{path} cannot be compared with anything: {lost}")
    for name in study.file.all_benchmarks:
        try:
            find_benchmark(study.config, name)
        except FadepthError as error:
            raise NotInPreset(f"{study.file.table} cannot be made: {error}") from None
    if twice := repeated([row.label for row in study.rows]):
        raise FadepthError(f"{path} has two rows called '{twice[0]}': give each its own label")
    owners: dict[str, str] = {}
    for row in study.rows:
        if row.kind != "variant":
            continue
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
class Resolver:
    """Turns the rows of a study file into rows with runs.

    Attributes:
        path: of the study file.
        study: without rows.
        plain: the preset's settings.
        preset: the same, nested, at the study's size.
        size: settings of that size; empty for the preset's own.
        origin: the preset's name in error messages.
        teachers: those that rows have needed so far; rows share them.
    """

    path: Path
    study: Study
    plain: Config
    preset: Mapping[str, Any]
    size: Mapping[str, Any]
    origin: str
    teachers: dict[TeacherSettings, Run] = field(default_factory=dict)

    @cached_property
    def plans(self) -> list[RowPlan]:
        """Rows of the file that images are large enough for."""
        data = self.study.config.data
        return _plans(self.study.file, min(data.height, data.width))

    @cached_property
    def _only_teachers(self) -> bool:
        return all(row.network == "teacher" for row in self.plans if row.predictions is None)

    def draft(self, absent: FadepthError | None) -> Draft:
        """Rows of the file, the teachers that APX needs, and the trivial baselines."""
        rows, faults = [], []
        for plan in self.plans:
            try:
                row = self.resolve(plan)
                if row.kind != "official":
                    # Reads an ego mask and an own network, whose absence is this row's fault.
                    _ = row.runs[0].id, row.runs[0].own_code
                rows.append((plan, row))
            except FadepthError as error:
                faults.append((plan, error))
        own = [row for _, row in rows]
        shown = {run.id for row in own for run in row.runs if run.kind == "teacher"}
        needed = {run.teacher.id: run.teacher for row in own for run in row.runs if run.teacher}
        teachers = _teacher_rows([t for t in needed.values() if t.id not in shown])
        study = replace(self.study, rows=(*own, *teachers, *self._baselines()))
        return Draft(study, self, tuple(rows), tuple(faults), absent)

    def resolve(self, plan: RowPlan) -> TableRow:
        """One row with its runs.

        Raises:
            FadepthError: names the file, the key, and what was expected.
        """
        settings = merge(dict(self.preset), dict(plan.settings))
        resolved = parse_config(settings, f"{self.origin} with {self.path}")
        _refuse_other_data(self.study.config, resolved, self.path)
        if plan.predictions is not None:
            return self._official_row(plan, plan.predictions)
        if plan.network == "teacher":
            return self._teacher_row(plan, resolved)
        _refuse_parts_of_smalldepth(resolved)
        teacher = self._teacher(resolved) if resolved.loss.apx.enabled else None
        runs = self._students(plan, resolved, teacher)
        return TableRow(plan.label, "variant", plan.factors, runs)

    def _baselines(self) -> Iterator[TableRow]:
        for name in self.study.file.baselines:
            run = self._run("baseline", name, BASELINE_LABELS[name], {}, 0, self.study.config)
            yield TableRow(run.label, "baseline", {}, (run,))

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

    def _students(self, plan: RowPlan, config: Config, teacher: Run | None) -> tuple[Run, ...]:
        slug = slug_of(merge(dict(self.size), dict(plan.settings)), self.plain, config)
        return tuple(
            self._run("student", slug, plan.label, plan.factors, seed, config, teacher)
            for seed in config.seeds
        )

    def _teacher(self, resolved: Config) -> Run:
        settings = resolved.teacher
        if settings not in self.teachers:
            # Factors of the student leave the teacher as it is; only teacher.* makes another one.
            config = self.study.config.model_copy(update={"teacher": settings})
            self.teachers[settings] = self._teacher_run(config, "", settings.seed)
        return self.teachers[settings]

    def _teacher_run(self, config: Config, label: str, seed: int) -> Run:
        slug = teacher_slug(config.teacher)
        name = {"hqdecv2": "HQDecv2", "hqdec": "HQDec"}.get(slug, slug)
        return self._run("teacher", slug, label or f"{name} (teacher)", {}, seed, config)

    def _official_row(self, plan: RowPlan, predictions: str) -> TableRow:
        """Somebody else's predictions under our evaluator: no training, no seed of ours."""
        study = self.study
        words = re.sub(r"[^a-z0-9]+", "_", plan.label.lower()).strip("_")
        slug = f"official_{words or 'network'}"
        run = self._run("official", slug, plan.label, {}, 0, study.config)
        run = replace(run, predictions=predictions)
        return TableRow(plan.label, "official", {}, (run,))

    def _teacher_row(self, plan: RowPlan, resolved: Config) -> TableRow:
        """A teacher competes, with all seeds, where all rows are teachers; else it is beside."""
        seeds = resolved.seeds if self._only_teachers else (resolved.teacher.seed,)
        # All of the row's settings count: a row about teachers may vary its loss or budget.
        runs = tuple(self._teacher_run(resolved, plan.label, seed) for seed in seeds)
        return TableRow(plan.label, "variant" if self._only_teachers else "teacher", {}, runs)


def _teacher_rows(teachers: Sequence[Run]) -> Iterator[TableRow]:
    labels = Counter(teacher.label for teacher in teachers)
    for number, teacher in enumerate(teachers, 1):
        label = f"{teacher.label} {number}" if labels[teacher.label] > 1 else teacher.label
        yield TableRow(label, "teacher", {}, (teacher,))


def usable_preset(preset: Mapping[str, Any], origin: str) -> Config:
    """Settings of a preset.

    Raises:
        FadepthError: a key or value is wrong, or a protocol is for other data: it means the ground
            truth of certain data sets, and on others it means nothing.
    """
    config = parse_config(dict(preset), origin)
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
    return config


def _refuse_other_data(preset: Config, resolved: Config, path: Path) -> None:
    """All runs of a study see the same frames; another data set is another preset."""
    for name in ("name", "source", "root", "splits", "synthetic", "ddad"):
        if getattr(preset.data, name) != getattr(resolved.data, name):
            raise FadepthError(
                f"study {path} varies 'data.{name}': a study compares runs on the same frames, so "
                "write a preset for other data instead"
            )


def _refuse_parts_of_smalldepth(resolved: Config) -> None:
    """What is built into SmallDepth, or looks into it, cannot be had of somebody's own network."""
    own, student, loss = resolved.student.network, resolved.student, resolved.loss
    wanted = {
        "student.etm.branches": (student.etm.branches, "off", student.etm.branches != "off"),
        "loss.base": (loss.base, "md2", loss.base == "cbw"),
        "loss.pyramid.kind": (
            loss.pyramid.kind,
            "inputs or outputs",
            loss.pyramid.enabled and loss.pyramid.kind == "features",
        ),
    }
    for key, (value, right, is_wrong) in wanted.items():
        if own is not None and is_wrong:
            raise FadepthError(
                f"'{key}' is {value}, which needs layers of SmallDepth, but 'student.network' is "
                f"{own}: set '{key}' to {right} in that row"
            )


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
        file = load_study_file(path)
        table = file.table
        if table in studies or table in left_out:
            raise FadepthError(f"{path}: another study already feeds '{table}'")
        try:
            studies[table] = _resolve_file(file, path, preset, origin, overrides=overrides)
        except NotInPreset as reason:
            left_out[table] = str(reason)
    if not studies:
        raise FadepthError(f"no study file (*.yaml) in {folder}: restore {folder}/components.yaml")
    _refuse_two_evaluations(studies)
    return studies, left_out


def _refuse_two_evaluations(studies: Mapping[str, Study]) -> None:
    for one, other, run_id in two_evaluations(studies):
        raise FadepthError(
            f"{one} and {other} share the run {run_id} but evaluate it differently: give "
            "'datasets' of the preset data of their own, or the same 'evaluation'"
        )


def two_evaluations(studies: Mapping[str, Study]) -> Iterator[tuple[str, str, str]]:
    """Pairs of studies that share a run but evaluate it differently, and that run's id.

    A run has one evaluation, so that both have to mean the same one.
    """
    found: dict[str, tuple[str, object]] = {}
    for table, study in studies.items():
        for run in study.runs:
            meant = (run.config.evaluation, run.config.benchmarks)
            other, before = found.setdefault(run.id, (table, meant))
            if before != meant:
                yield other, table, run.id


def unique_runs(studies: Iterable[Study]) -> dict[str, Run]:
    """Runs of all studies by id; of a shared run, what a study with factors calls it."""
    found: dict[str, Run] = {}
    for study in studies:
        for run in study.runs:
            if run.id not in found or (run.factors and not found[run.id].factors):
                found[run.id] = run
    return found
