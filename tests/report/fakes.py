"""Run folders with numbers of our own choosing, for studies of the repository."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fadepth.config import load_yaml, merge
from fadepth.evaluation.robustness import CONDITIONS
from fadepth.report.results import METRICS
from fadepth.run import Run
from fadepth.study import Study, resolve_study

ROOT = Path(__file__).resolve().parents[2]
DRIVES = [f"drive_{n}" for n in range(6)]
FRAMES = 5
PARAMETERS = 2_034_567

#: abs_rel of a run on each image, drive by drive.
Values = Callable[[Run], Any]


def study_of(name: str = "components", **overrides: Any) -> Study:
    """A study on the smoke preset's street at full scale, so that nothing is a warning."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    preset = merge(load_yaml(ROOT / "config" / "smoke.yaml"), {"scale": "full", **dotted})
    return resolve_study(ROOT / "ablations" / f"{name}.yaml", preset, "tests/report/fakes.py")


def images() -> pd.DataFrame:
    """Drive, frame and side of every image."""
    rows = [(drive, f"{frame:010d}", "l") for drive in DRIVES for frame in range(FRAMES)]
    return pd.DataFrame(rows, columns=["drive", "frame", "side"])


def write_runs(study: Study, runs: Path, values: Values) -> None:
    """Every file that a table reads of the study's runs."""
    for run in study.runs:
        write_run(run, runs, values(run))


def write_run(run: Run, runs: Path, abs_rel: Any, **changes: Any) -> None:
    """One run's folder; `changes` go to the manifest or the evaluation that has such a key."""
    folder = runs / run.id
    table = images()
    for index, metric in enumerate(METRICS):
        table[metric] = np.broadcast_to(abs_rel, len(table)) + index
    manifest: dict[str, Any] = {
        "run_id": run.id,
        "kind": run.kind,
        "row": run.label,
        "study": run.study,
        "factors": dict(run.factors),
        "seed": run.seed,
        "scale": run.config.scale,
        "dataset": run.config.data.name,
        "status": "finished",
        "started": 1_700_000_000.0,
        "ended": 1_700_000_100.0,
        "commit": "0123456789abcdef",
        "dirty": False,
        "data_hash": "data",
        "config_hash": run.config_hash,
        "code_hash": "code",
        "teacher": run.teacher.id if run.teacher else None,
        "host": "a host",
        "command": "python -m fadepth train",
        "environment": {"device": "cpu", "torch": "2.13.0"},
        "parameters_inference": PARAMETERS if run.kind == "student" else 0,
        "parameters_training": 2 * PARAMETERS,
    }
    evaluation: dict[str, Any] = {
        "run_id": run.id,
        "protocol": run.config.evaluation.protocol,
        "images": len(table),
        "images_published": None,
        "is_published_list": None,
        "model_sha256": f"weights of {run.id}",
        "metrics": {metric: float(table[metric].mean()) for metric in METRICS},
    }
    for key, value in changes.items():
        (manifest if key in manifest else evaluation)[key] = value
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "per_image.csv", index=False)
    _write(folder / "manifest.json", manifest)
    _write(folder / "metrics.json", evaluation)
    _write_robustness(folder, table)


def _write_robustness(folder: Path, table: pd.DataFrame) -> None:
    """Dark input costs 0.1 more, and moves predictions by 0.2."""
    parts = []
    for name in CONDITIONS:
        part = table.assign(condition=name)
        part["abs_rel"] += 0.1 * (name == "dark")
        part["change"] = 0.2 * (name == "dark")
        parts.append(part)
    whole = pd.concat(parts)
    whole.to_csv(folder / "robustness_per_image.csv", index=False)
    conditions = {
        name: {key: float(part[key].mean()) for key in (*METRICS, "change")}
        for name, part in whole.groupby("condition")
    }
    _write(folder / "robustness.json", {"conditions": conditions})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def write_rows_study(folder: Path, name: str, rows: dict[str, dict[str, Any]]) -> Path:
    """The file of an explicit study with these rows, label -> settings."""
    content = {
        "name": name,
        "title": "Mine",
        "table": f"table_{name}",
        "design": "explicit",
        "baselines": [],
        "rows": [{"label": label, "settings": settings} for label, settings in rows.items()],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
