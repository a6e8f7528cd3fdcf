"""Mirrors run folders into MLflow."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from fadepth.errors import FadepthError
from fadepth.study import Study

log = logging.getLogger(__name__)


def experiment_name(study: str, dataset: str, scale: str) -> str:
    """MLflow experiment of a study: runs of other data or another scale do not compare."""
    return f"{study}-{dataset}-{scale}"


def track_runs(studies: Iterable[Study], runs: Path, store: str) -> None:
    """Mirror run folders into MLflow; without studies, everything below `runs`."""
    from fadepth.tracking import track

    wanted = {
        experiment_name(study.file.name, study.config.data.name, study.config.scale): [
            run.id for run in study.runs if (runs / run.id / "manifest.json").exists()
        ]
        for study in studies
    }
    for experiment, run_ids in (wanted or experiments_on_disk(runs)).items():
        if run_ids:
            summary = track(runs, run_ids, store=store, experiment=experiment)
            log.info("%s: %s", experiment, summary)


def experiments_on_disk(runs: Path) -> dict[str, list[str]]:
    """Run ids below `runs`, by the experiment that they belong to."""
    found: dict[str, list[str]] = {}
    for path in sorted(runs.glob("*/manifest.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            name = experiment_name(content["study"], content["dataset"], content["scale"])
        except (json.JSONDecodeError, KeyError):
            raise FadepthError(f"{path} is damaged: delete the folder {path.parent}") from None
        found.setdefault(name, []).append(path.parent.name)
    return found
