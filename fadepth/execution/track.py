"""Mirrors run folders into MLflow."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from fadepth.errors import FadepthError
from fadepth.files import write_atomic
from fadepth.study import Study

log = logging.getLogger(__name__)


def experiment_name(study: str, dataset: str, scale: str) -> str:
    """MLflow experiment of a study: runs of other data or another scale do not compare."""
    return f"{study}-{dataset}-{scale}"


def track_runs(studies: Iterable[Study], runs: Path, store: str) -> None:
    """Mirror run folders into MLflow; without studies, everything below `runs`."""
    from fadepth.tracking import track

    wanted = {
        experiment_name(study.file.name, study.config.data.name, study.config.scale): {
            run.id: row.label
            for row in study.rows
            for run in row.runs
            if (runs / run.id / "manifest.json").exists()
        }
        for study in studies
    }
    for experiment, labels in wanted.items():
        if labels:
            summary = track(runs, list(labels), store=store, experiment=experiment, labels=labels)
            log.info("%s: %s", experiment, summary)
    for experiment, run_ids in ({} if wanted else experiments_on_disk(runs)).items():
        summary = track(runs, run_ids, store=store, experiment=experiment)
        log.info("%s: %s", experiment, summary)


def track_and_link(studies: Iterable[Study], runs: Path, store: str, links: Path) -> None:
    """Rule `link_runs`: mirror, and write run id -> address; what fails is told and no more.

    A report is whole without these addresses, so no failure of a tracker may stop it.
    """
    from fadepth.tracking import run_links
    from fadepth.ui import ADDRESS

    found: dict[str, str] = {}
    try:
        track_runs(studies, runs, store)
        found = run_links(store, ADDRESS)
    except Exception as error:
        log.warning("the report has no links to MLflow: %s", error)
    write_atomic(links, json.dumps(found, indent=1) + "\n")


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
