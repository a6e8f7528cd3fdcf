"""Where every cell of a table comes from: its runs, and what each run was made of."""

from collections.abc import Sequence
from typing import Any

from fadepth.report.results import Results, RowResult, RunResult
from fadepth.report.table import Column, Stamp, TableRow

#: Columns about the difference to the baseline row.
_DIFFERENCE = (
    "difference_95", "difference", "difference_low", "difference_high", "p", "p_holm",
    "noise_floor", "verdict",
)  # fmt: skip

#: Cells of a published row that are no values.
_WORDS = ("row", "kind", "size", "supervision", "source")

#: What a run's manifest says that can change a number, or helps to find it again.
_KEYS = (
    "row", "seed", "commit", "dirty", "config_hash", "data_hash", "code_hash", "teacher", "host",
    "started", "ended", "command",
)  # fmt: skip


def table_provenance(
    results: Results, rows: Sequence[TableRow], columns: Sequence[Column], stamp: Stamp
) -> dict[str, Any]:
    """JSON beside a table: `cells` row -> column -> runs and values; `runs` id -> origin."""
    cells: dict[str, Any] = {}
    for row, shown in zip(results.rows, rows, strict=False):
        cells[row.label] = _cells(results, row, shown)
    for published in rows[len(results.rows) :]:
        # Rows that others print: nothing of ours is behind them.
        values = {k: value for k, value in published.cells.items() if k not in _WORDS}
        source = published.cells["source"]
        cells[str(published.cells["row"])] = {
            key: {"value": value, "source": source} for key, value in values.items()
        }
    return {
        "table": results.study.file.table,
        "stamp": {
            "scale": stamp.scale,
            "seeds": list(stamp.seeds),
            "dataset": stamp.dataset,
            "protocol": stamp.protocol,
            "commit": stamp.commit,
        },
        "headers": {c.markdown: c.key for c in columns if c.markdown and not c.group},
        "cells": cells,
        "runs": {run.run.id: _run(run) for row in results.rows for run in row.runs},
    }


def _cells(results: Results, row: RowResult, shown: TableRow) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for measure in results.measures:
        values = {r.run.id: r.values[measure.key] for r in row.runs if measure.key in r.values}
        missing = row.missing(measure.key)
        if not values and not missing:
            continue
        cell: dict[str, Any] = {
            "value": shown.cells.get(measure.key),
            "std": shown.cells.get(f"{measure.key}_std"),
            "runs": values,
            "from": measure.file,
        }
        found[measure.key] = cell | ({"missing": missing} if missing else {})
    base = results.row(results.study.baseline.label)
    both = [r.run.id for r in (*row.runs, *base.runs)]
    for key in _DIFFERENCE if "difference" in shown.cells else ():
        found[key] = {
            "value": shown.cells.get(key),
            "std": None,
            "runs": dict.fromkeys(both),
            "from": "per image, against the baseline row",
        }
    network = results.costs.get("networks", {}).get(row.runs[0].run.id)
    costs = [key for key in shown.cells if key.endswith(("gmacs", ".latency_ms", ".fps", ".ratio"))]
    for key in ("params_m", *costs):
        if network is not None and key in shown.cells:
            value = shown.cells[key]
            runs = {row.runs[0].run.id: value}
            found[key] = {"value": value, "std": None, "runs": runs, "from": "costs"}
    return found


def _run(result: RunResult) -> dict[str, Any]:
    manifest = result.manifest
    found = {key: manifest.get(key) for key in _KEYS}
    found["seed"] = result.run.seed
    found["device"] = (manifest.get("environment") or {}).get("device")
    found["torch"] = (manifest.get("environment") or {}).get("torch")
    weights = [e["model_sha256"] for e in result.evaluations.values() if e.get("model_sha256")]
    found["model_sha256"] = weights[0] if weights else None
    protocols = {name: e["protocol"] for name, e in result.evaluations.items()}
    found["protocols"] = protocols
    found["status"] = manifest.get("status", "not trained")
    return found
