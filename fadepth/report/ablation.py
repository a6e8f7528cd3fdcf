"""The ablation table: run folders, grouped into rows, averaged over seeds.

Which runs make a row is the study's decision; what a run was is its own folder's word. Where the
two disagree, or where seeds of a row were not evaluated alike, there is no table.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

from fadepth.errors import FadepthError
from fadepth.report.table import Cell, Column, Direction, Stamp, Table, TableRow

Kind = Literal["variant", "teacher", "baseline"]

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
_HEADERS = {
    "abs_rel": ("Abs Rel ↓", r"Abs Rel $\downarrow$"),
    "sq_rel": ("Sq Rel ↓", r"Sq Rel $\downarrow$"),
    "rmse": ("RMSE ↓", r"RMSE $\downarrow$"),
    "rmse_log": ("RMSE log ↓", r"RMSE log $\downarrow$"),
    "delta_1": ("δ₁ ↑", r"$\delta_1$ $\uparrow$"),
    "delta_2": ("δ₂ ↑", r"$\delta_2$ $\uparrow$"),
    "delta_3": ("δ₃ ↑", r"$\delta_3$ $\uparrow$"),
}
_MANIFEST_KEYS = ("run_id", "kind", "row", "factors", "status", "scale", "dataset")
_METRICS_KEYS = ("protocol", "images", "metrics")


@dataclass(frozen=True)
class Row:
    """One row of the table: `factors` name -> level (on, off); empty for reference rows."""

    label: str
    kind: Kind
    factors: Mapping[str, str]
    run_ids: Sequence[str]


@dataclass(frozen=True)
class RunRecord:
    """A finished, evaluated run: its manifest.json and metrics.json."""

    run_id: str
    manifest: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @property
    def kind(self) -> Kind:
        """Kind of its row: a student is a variant."""
        return row_kind(self.manifest["kind"])

    @property
    def metrics(self) -> dict[str, float]:
        """The seven metrics, in the table's order."""
        return {name: float(self.evaluation["metrics"][name]) for name in METRICS}

    @property
    def seed(self) -> int | None:
        """Training seed; None for what is not trained."""
        return self.manifest.get("seed")

    @property
    def parameters(self) -> int | None:
        """Parameters of the inference network."""
        own = self.manifest.get("parameters_inference")
        return own if own is not None else self.evaluation.get("parameters")


def row_kind(manifest_kind: str) -> Kind:
    """Turn a manifest's kind (student, teacher, baseline) into a row's."""
    return "variant" if manifest_kind == "student" else cast(Kind, manifest_kind)


def read_json(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    """Read a JSON object that must hold `keys`; `remedy` ends the sentence of a failure."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FadepthError(f"{path} does not exist: {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise FadepthError(f"{path} is not complete JSON: {remedy}") from None
    if not isinstance(content, dict):
        raise FadepthError(f"{path} holds no JSON object: {remedy}")
    if missing := [key for key in keys if key not in content]:
        raise FadepthError(f"{path} lacks '{missing[0]}': {remedy}")
    return content


def read_run(runs: Path, run_id: str) -> RunRecord:
    """Read one finished run.

    Raises:
        FadepthError: a file is missing or half-written, the run is not finished, or a metric is
            missing or not a finite number.
    """
    folder = runs / run_id
    manifest = read_json(folder / "manifest.json", _MANIFEST_KEYS, f"train {run_id} again")
    if manifest["status"] != "finished":
        raise FadepthError(
            f"{folder / 'manifest.json'} says '{manifest['status']}', not 'finished': "
            f"let {run_id} end before it enters a table"
        )
    path = folder / "metrics.json"
    evaluation = read_json(path, _METRICS_KEYS, f"evaluate {run_id} again")
    metrics = evaluation["metrics"]
    for name in METRICS:
        value = metrics.get(name) if isinstance(metrics, dict) else None
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise FadepthError(
                f"{path}: metrics.{name} is {value!r}, not a finite number: "
                f"evaluate {run_id} again, or look into its train.log"
            )
    return RunRecord(run_id, manifest, evaluation)


def read_records(runs: Path, run_ids: Sequence[str]) -> list[RunRecord]:
    """Read runs in the order given; every one must be finished (see `read_run`)."""
    return [read_run(runs, run_id) for run_id in run_ids]


def rows_of(records: Sequence[RunRecord]) -> list[Row]:
    """Group runs by the row that their manifests name, in order of first appearance."""
    grouped: dict[tuple[Kind, str], list[RunRecord]] = {}
    for record in records:
        grouped.setdefault((record.kind, record.manifest["row"]), []).append(record)
    return [
        Row(
            label,
            kind,
            group[0].manifest["factors"] if kind == "variant" else {},
            [record.run_id for record in group],
        )
        for (kind, label), group in grouped.items()
    ]


def collect_rows(rows: Sequence[Row], runs: Path) -> pd.DataFrame:
    """One line a row: factors, mean and sample standard deviation over seeds, and what it is of.

    Columns: row, kind, one a factor (on/off, empty for reference rows), seeds (number of runs),
    the seven metrics, `<metric>_std` (ddof = 1, missing with one seed), params_m (inference
    parameters in millions), scale, dataset, protocol, images, run_ids (separated by spaces).

    Raises:
        FadepthError: a run is unfinished or half-written, is not what its row says, or the seeds
            of a row differ in scale, data, protocol, images or parameters.
    """
    records = {
        run_id: read_run(runs, run_id) for row in rows for run_id in dict.fromkeys(row.run_ids)
    }
    return _frame(rows, records)


def ablation_table(
    records: Sequence[RunRecord],
    rows: Sequence[Row] | None = None,
    *,
    name: str = "ablation",
    title: str = "Component ablation",
) -> Table:
    """Build the table of `records`; without `rows` they are grouped as their manifests say."""
    rows = rows_of(records) if rows is None else rows
    by_id = {record.run_id: record for record in records}
    frame = _frame(rows, by_id)
    cells = [
        {str(key): _plain(value) for key, value in line.items()}
        for line in frame.to_dict(orient="records")
    ]
    used = [by_id[run_id] for row in rows for run_id in row.run_ids]
    stamp = make_stamp(used)
    return Table(
        name=name,
        title=title,
        columns=_columns(_factor_names(rows), spread=any(len(row.run_ids) > 1 for row in rows)),
        rows=tuple(
            TableRow(line, kind=row.kind, group="variants" if row.kind == "variant" else "others")
            for row, line in zip(rows, cells, strict=True)
        ),
        stamp=stamp,
        notes=tuple(_notes(rows, by_id)),
        provenance=_provenance(name, rows, by_id, stamp),
    )


def _frame(rows: Sequence[Row], records: Mapping[str, RunRecord]) -> pd.DataFrame:
    factors = _factor_names(rows)
    labels = [row.label for row in rows]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise FadepthError(f"two rows are called '{twice[0]}': give each row its own label")
    lines = [_line(row, [records[i] for i in row.run_ids], factors) for row in rows]
    spread = [f"{metric}_std" for metric in METRICS]
    keys = ["row", "kind", *factors, "seeds", *METRICS, *spread]
    keys += ["params_m", "scale", "dataset", "protocol", "images", "run_ids"]
    # `object` keeps a missing spread apart from a number, and integers integers.
    frame = pd.DataFrame(lines, columns=keys, dtype=object)
    numbers = [*METRICS, *spread, "params_m"]
    return frame.astype({**dict.fromkeys(numbers, float), "seeds": int, "images": int})


def _line(row: Row, records: list[RunRecord], factors: list[str]) -> dict[str, Cell]:
    if not records:
        raise FadepthError(f"row '{row.label}' has no run: give it at least one seed")
    for record in records:
        _check_is_of(row, record)
    values = {name: [record.metrics[name] for record in records] for name in METRICS}
    parameters = _same(row, records, "parameters", [record.parameters for record in records])
    result: dict[str, Cell] = {"row": row.label, "kind": row.kind, "seeds": len(records)}
    result |= {name: row.factors.get(name, "") for name in factors}
    result |= {name: statistics.fmean(values[name]) for name in METRICS}
    if len(records) > 1:
        result |= {f"{name}_std": statistics.stdev(values[name]) for name in METRICS}
    result["params_m"] = None if parameters is None else parameters / 1e6
    for key in ("scale", "dataset"):
        result[key] = _same(row, records, key, [record.manifest[key] for record in records])
    for key in ("protocol", "images"):
        result[key] = _same(row, records, key, [record.evaluation[key] for record in records])
    return result | {"run_ids": " ".join(row.run_ids)}


def _check_is_of(row: Row, record: RunRecord) -> None:
    if record.kind != row.kind:
        raise FadepthError(
            f"row '{row.label}' is of kind '{row.kind}', but run {record.run_id} is of kind "
            f"'{record.kind}': name another run"
        )
    own = record.manifest["factors"]
    for name, level in row.factors.items():
        if own.get(name, level) != level:
            raise FadepthError(
                f"row '{row.label}' says {name} {level}, but run {record.run_id} has {name} "
                f"{own[name]}: name another run"
            )


def _same(row: Row, records: list[RunRecord], what: str, values: list[Any]) -> Any:
    for record, value in zip(records, values, strict=True):
        if value != values[0]:
            raise FadepthError(
                f"row '{row.label}' cannot be averaged: {what} is {values[0]!r} in "
                f"{records[0].run_id} and {value!r} in {record.run_id}; run its seeds alike"
            )
    return values[0]


def _plain(value: Any) -> Cell:
    """Turn a cell of the frame into plain Python: numpy's scalars print their type."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def _factor_names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.factors))


def _columns(factors: list[str], spread: bool) -> tuple[Column, ...]:
    titles = {name: name.upper() if len(name) <= 3 else name.capitalize() for name in factors}
    columns = [Column("row", "Row", "Row"), Column("kind")]
    columns += [Column(name, title, title) for name, title in titles.items()]
    columns.append(Column("seeds", "Seeds", "Seeds", decimals=0))
    columns += [
        Column(
            metric,
            *_HEADERS[metric],
            direction=direction,
            decimals=3,
            spread=f"{metric}_std" if spread else None,
        )
        for metric, direction in METRICS.items()
    ]
    columns += [Column(f"{metric}_std") for metric in METRICS]
    columns.append(Column("params_m", "Params (M)", "Params (M)", decimals=2))
    columns += [Column(key) for key in ("scale", "dataset", "protocol", "images", "run_ids")]
    return tuple(columns)


def make_stamp(records: Sequence[RunRecord]) -> Stamp:
    """Where the numbers of these runs come from, for the foot of a table."""
    commits = [str(record.manifest.get("commit") or "without commit")[:14] for record in records]
    changed = any(record.manifest.get("dirty") for record in records)
    return Stamp(
        scale=_joined([record.manifest["scale"] for record in records]),
        seeds=tuple(
            sorted({r.seed for r in records if r.kind == "variant" and r.seed is not None})
        ),
        dataset=_joined([record.manifest["dataset"] for record in records]),
        protocol=_joined([record.evaluation["protocol"] for record in records]),
        commit=_joined(commits) + (" with uncommitted changes" if changed else ""),
    )


def _joined(values: Sequence[str]) -> str:
    return ", ".join(sorted(set(values)))


def _notes(rows: Sequence[Row], records: Mapping[str, RunRecord]) -> list[str]:
    notes = ["Best of the variants in bold, second underlined, decided on the printed digits"]
    counts = {len(row.run_ids) for row in rows if row.kind == "variant"}
    if 1 in counts:
        notes.append("one seed: differences may be noise")
    if max(counts, default=0) > 1:
        notes.append("mean ± sample standard deviation over seeds")
    if len(counts) > 1:
        notes.append(f"rows have {min(counts)} to {max(counts)} seeds")
    used = [records[run_id] for row in rows for run_id in row.run_ids]
    if used and used[0].evaluation.get("is_published_list") is False:
        images, published = (used[0].evaluation[k] for k in ("images", "images_published"))
        notes.append(f"{images} images, not the {published} of the published list")
    trained = [record for record in used if record.kind == "variant"]
    compared: dict[str, set[str]] = {
        "scales": {str(record.manifest["scale"]) for record in used},
        "data sets": {str(record.manifest["dataset"]) for record in used},
        "frames (data hashes)": {str(record.manifest.get("data_hash")) for record in trained},
        "protocols": {str(record.evaluation["protocol"]) for record in used},
        "numbers of images": {str(record.evaluation["images"]) for record in used},
        "seeds": {
            str(sorted(str(records[i].seed) for i in r.run_ids))
            for r in rows
            if r.kind == "variant"
        }
        if len(counts) == 1
        else set(),
        "teachers": {t for record in trained if (t := record.manifest.get("teacher"))},
    }
    notes += [
        f"rows differ in their {what}: not comparable one to one"
        for what, values in compared.items()
        if len(values) > 1
    ]
    return notes


def _provenance(
    name: str, rows: Sequence[Row], records: Mapping[str, RunRecord], stamp: Stamp
) -> dict[str, Any]:
    """Every cell's runs with their values, and every run's commit, configuration and data."""
    keys = ("commit", "dirty", "config_hash", "data_hash", "code_hash", "seed", "teacher")
    return {
        "table": name,
        "stamp": {
            "scale": stamp.scale,
            "seeds": list(stamp.seeds),
            "dataset": stamp.dataset,
            "protocol": stamp.protocol,
            "commit": stamp.commit,
        },
        "cells": {
            row.label: {
                **{m: {i: records[i].metrics[m] for i in row.run_ids} for m in METRICS},
                "params_m": {i: records[i].parameters for i in row.run_ids},
            }
            for row in rows
        },
        "runs": {
            run_id: {key: records[run_id].manifest.get(key) for key in keys}
            for row in rows
            for run_id in row.run_ids
        },
    }
