"""What the runs of a study have measured, read from their own files.

Which runs make a row is the study's decision; what a run was is its own folder's word. Where the
two disagree, or where seeds of a row were not evaluated alike, there is no table. What is not there
yet is an error, too, unless a partial table is asked for: then it is told, cell by cell.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fadepth.errors import FadepthError
from fadepth.report.measures import Measure
from fadepth.report.table import Direction, RowKind, Stamp
from fadepth.run import Run
from fadepth.study import Study, TableRow

#: The seven metrics of Eigen et al. (arXiv 1406.2283), errors first.
METRICS: dict[str, Direction] = {
    "abs_rel": "lower",
    "sq_rel": "lower",
    "rmse": "lower",
    "rmse_log": "lower",
    "delta_1": "higher",
    "delta_2": "higher",
    "delta_3": "higher",
}

_MANIFEST_KEYS = ("run_id", "kind", "row", "factors", "status", "scale", "dataset")


@dataclass(frozen=True)
class RunResult:
    """What a run has measured.

    Attributes:
        run: as the study resolves it.
        manifest: content of `manifest.json`; empty where the run was never started.
        evaluations: content of every file that says a protocol, by its name.
        values: measure key -> number.
        problems: measure key -> why there is none, in two or three words.
    """

    run: Run
    manifest: Mapping[str, Any]
    evaluations: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, float]
    problems: Mapping[str, str]

    @property
    def evaluation(self) -> Mapping[str, Any]:
        """That of the first measure; empty where nothing was evaluated."""
        return next(iter(self.evaluations.values()), {})


@dataclass(frozen=True)
class RowResult:
    """A row of the study with the results of its runs, in the order of the seeds."""

    row: TableRow
    runs: Sequence[RunResult]

    @property
    def label(self) -> str:
        """The row's."""
        return self.row.label

    def values(self, key: str) -> dict[int, float]:
        """Seed -> number, of the runs that have one."""
        return {r.run.seed: r.values[key] for r in self.runs if key in r.values}

    def missing(self, key: str) -> str | None:
        """`2/3 seeds: etm-s3-… not trained`; None where all runs have the number or none can."""
        lacking = {r.run.id: r.problems[key] for r in self.runs if key in r.problems}
        if not lacking:
            return None
        told = "; ".join(f"{run} {reason}" for run, reason in lacking.items())
        return f"{len(self.runs) - len(lacking)}/{len(self.runs)} seeds: {told}"


@dataclass(frozen=True)
class Results:
    """Everything that a table shows.

    Attributes:
        study: whose table.
        measures: its columns of numbers.
        rows: in the order of the table.
        costs: content of the costs file; empty where the table shows none.
        partial: whether something may be missing.
    """

    study: Study
    measures: Sequence[Measure]
    rows: Sequence[RowResult]
    costs: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False

    @property
    def runs(self) -> list[RunResult]:
        """Results of all runs of all rows that have any."""
        return [run for row in self.rows for run in row.runs if run.manifest]

    def row(self, label: str) -> RowResult:
        """The row of that label."""
        return next(row for row in self.rows if row.label == label)


def row_kind(manifest_kind: str) -> RowKind:
    """Turn a manifest's kind (student, teacher, baseline) into a row's."""
    return "variant" if manifest_kind == "student" else cast(RowKind, manifest_kind)


def read_json(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    """Read a JSON object that must hold `keys`; `remedy` ends the sentence of a failure."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FadepthError(f"{path} does not exist: {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise FadepthError(f"{path} is not complete JSON: {remedy}") from None
    if not isinstance(content, dict):
        raise FadepthError(f"{path} holds no JSON object: {remedy}")
    if missing := [key for key in keys if key not in content]:
        raise FadepthError(f"{path} lacks '{missing[0]}': {remedy}")
    return content


def read_results(
    study: Study,
    measures: Sequence[Measure],
    runs: Path,
    *,
    costs: Path | None = None,
    partial: bool = False,
) -> Results:
    """Read the results of all runs of a study.

    Args:
        study: says which runs.
        measures: says which numbers.
        runs: folder of the run folders.
        costs: file of the costs, where the table shows them.
        partial: take what is there, and note what is not.

    Raises:
        FadepthError: a file is absent, half-written or of another run than the study says, a run
            is not finished, or a number is not finite; with `partial` only where files disagree.
    """
    read: dict[str, RunResult] = {}
    rows = []
    for row in study.rows:
        for run in row.runs:
            if run.id not in read:
                read[run.id] = _read(run, measures, runs, partial)
        rows.append(RowResult(row, [read[run.id] for run in row.runs]))
    for result in rows:
        _check_alike(result)
    content: Mapping[str, Any] = {}
    if costs and (costs.exists() or not partial):
        content = read_json(costs, ("networks", "devices"), "measure the costs again")
    return Results(study, measures, rows, content, partial)


def _read(run: Run, measures: Sequence[Measure], runs: Path, partial: bool) -> RunResult:
    folder = runs / run.id
    own = [measure for measure in measures if run.kind in measure.kinds]
    try:
        manifest = _manifest(run, folder)
    except FadepthError:
        if not partial:
            raise
        reason = "not finished" if (folder / "manifest.json").exists() else "not trained"
        return RunResult(run, {}, {}, {}, {measure.key: reason for measure in own})
    files: dict[str, Mapping[str, Any] | None] = {"manifest.json": manifest}
    values: dict[str, float] = {}
    problems: dict[str, str] = {}
    for measure in own:
        try:
            if measure.file not in files:
                files[measure.file] = None
                files[measure.file] = _measured(run, folder / measure.file)
            values[measure.key] = _number(files[measure.file], measure, folder / measure.file, run)
        except FadepthError:
            if not partial:
                raise
            problems[measure.key] = "not evaluated"
    evaluations = {
        m.file: content for m in own if (content := files.get(m.file)) and "protocol" in content
    }
    return RunResult(run, manifest, evaluations, values, problems)


def _measured(run: Run, path: Path) -> dict[str, Any]:
    """Content of a file of measurements; of this run, or none."""
    content = read_json(path, (), f"delete it and run the workflow again for {run.id}")
    if content.get("run_id", run.id) != run.id:
        raise FadepthError(
            f"{path} is of run {content['run_id']}: delete it and run the workflow again"
        )
    return content


def _manifest(run: Run, folder: Path) -> dict[str, Any]:
    again = f"run the workflow for {run.id}, or name another preset with --preset"
    manifest = read_json(folder / "manifest.json", _MANIFEST_KEYS, again)
    if manifest["run_id"] != run.id:
        raise FadepthError(
            f"{folder / 'manifest.json'} is of run {manifest['run_id']}: delete the folder and run "
            "the workflow again"
        )
    if manifest["status"] != "finished":
        raise FadepthError(
            f"{folder / 'manifest.json'} says '{manifest['status']}', not 'finished': "
            f"let {run.id} end before it enters a table"
        )
    if manifest["kind"] != run.kind:
        raise FadepthError(
            f"{folder / 'manifest.json'} is of kind '{manifest['kind']}', but the study asks for "
            f"a {run.kind}: delete the folder and run the workflow again"
        )
    return manifest


def _number(content: Mapping[str, Any] | None, measure: Measure, path: Path, run: Run) -> float:
    value: Any = content
    for key in measure.path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FadepthError(
            f"{path}: {'.'.join(measure.path)} is {value!r}, not a finite number: evaluate "
            f"{run.id} again, or look into its train.log"
        )
    return float(value) * measure.scale if measure.scale != 1 else float(value)


def _check_alike(row: RowResult) -> None:
    """Seeds of a row are averaged, so they have to be of the same kind in all else."""
    for what, values in {
        "scale": {r.run.id: r.manifest.get("scale") for r in row.runs if r.manifest},
        "dataset": {r.run.id: r.manifest.get("dataset") for r in row.runs if r.manifest},
        "protocol": {r.run.id: r.evaluation.get("protocol") for r in row.runs if r.evaluation},
        "images": {r.run.id: r.evaluation.get("images") for r in row.runs if r.evaluation},
        "parameters": {
            r.run.id: r.manifest.get("parameters_inference") for r in row.runs if r.manifest
        },
    }.items():
        first = next(iter(values), None)
        for run_id, value in values.items():
            if first is not None and value != values[first]:
                raise FadepthError(
                    f"row '{row.label}' cannot be averaged: {what} is {values[first]!r} in "
                    f"{first} and {value!r} in {run_id}; run its seeds alike"
                )


def make_stamp(results: Results) -> Stamp:
    """Where the numbers of these runs come from, for the foot of a table."""
    runs = results.runs
    commits = [str(r.manifest.get("commit") or "without commit")[:14] for r in runs]
    changed = any(r.manifest.get("dirty") for r in runs)
    trained = [r for row in results.rows if row.row.kind == "variant" for r in row.runs]
    config = results.study.config
    return Stamp(
        scale=_joined([r.manifest["scale"] for r in runs]) or config.scale,
        seeds=tuple(sorted({r.run.seed for r in trained if r.manifest})),
        dataset=_joined([r.manifest["dataset"] for r in runs]) or config.data.name,
        protocol=_joined([e["protocol"] for r in runs for e in r.evaluations.values()])
        or config.evaluation.protocol,
        commit=_joined(commits) + (" with uncommitted changes" if changed else ""),
    )


def _joined(values: Sequence[str]) -> str:
    return ", ".join(sorted(set(values)))
