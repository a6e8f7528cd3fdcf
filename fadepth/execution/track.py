"""Mirrors run folders into MLflow."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from fadepth.files import write_atomic
from fadepth.study import Study
from fadepth.tracking.folders import InStudy

log = logging.getLogger(__name__)

#: Run id -> what a study says of it; None: what the run's manifest says.
Labels = dict[str, InStudy | None]


def experiment_name(study: str, dataset: str, scale: str) -> str:
    """MLflow experiment of a study: runs of other data or another scale do not compare."""
    return f"{study}-{dataset}-{scale}"


def track_runs(
    studies: Iterable[Study], runs: Path, store: str, *, everything: bool = False
) -> None:
    """Mirror run folders into MLflow.

    Args:
        studies: an experiment each, in the order of its table; what else is on disk of the same
            experiment, such as runs with older settings, comes after them.
        runs: folder of the run folders.
        store: MLflow tracking URI.
        everything: also run folders of which none of the studies knows.

    Raises:
        FadepthError: a run folder is damaged, or the store cannot be opened or written to.
    """
    from fadepth.tracking import track_experiments

    experiments = experiments_of(list(studies), runs, everything)
    if not experiments:
        log.warning("%s/ holds no run that could be mirrored into MLflow", runs)
        return
    total: Counter[str] = Counter()
    for summary in track_experiments(runs, experiments, store=store).values():
        total.update({k: n for k, n in asdict(summary).items() if isinstance(n, int) and n})
    said = ", ".join(f"{count} {what}" for what, count in total.items())
    log.info("MLflow shows runs/ in %d experiments: %s", len(experiments), said)


def track_and_link(studies: Iterable[Study], runs: Path, store: str, links: Path) -> None:
    """Rule `link_runs`: mirror, and write run id -> address; what fails is told and no more.

    A report is whole without these addresses, so no failure of a tracker may stop it.
    """
    from fadepth.tracking import run_links, without_password
    from fadepth.ui import page_address

    found: dict[str, str] = {}
    try:
        track_runs(studies, runs, store)
        found = run_links(store, page_address(store))
    except Exception as error:
        log.warning("the report has no links to MLflow: %s", without_password(str(error)))
    write_atomic(links, json.dumps(found, indent=1) + "\n")


def experiments_of(studies: list[Study], runs: Path, everything: bool) -> dict[str, Labels]:
    """Runs on disk by the experiment that shows them; a shared run is in several."""
    on_disk = _experiments_on_disk(runs)
    found: dict[str, Labels] = {}
    for name, study in _named(studies).items():
        labels: Labels = {
            run.id: InStudy(row.label, row.factors, row is study.baseline)
            for row in study.rows
            for run in row.runs
        }
        found[name] = {run_id: label for run_id, label in labels.items() if run_id in on_disk}
    known = {run_id for labels in found.values() for run_id in labels}
    for run_id, name in on_disk.items():
        if name in found or (everything and run_id not in known):
            found.setdefault(name, {}).setdefault(run_id, None)
    return {name: labels for name, labels in found.items() if labels}


def _named(studies: list[Study]) -> Mapping[str, Study]:
    """Studies by experiment; those of one name are told apart by their tables."""
    keys = [(s.file.name, s.config.data.name, s.config.scale) for s in studies]
    count = Counter(keys)
    return {
        experiment_name(f"{name} ({s.file.table})" if count[key] > 1 else name, dataset, scale): s
        for s, key in zip(studies, keys, strict=True)
        for name, dataset, scale in [key]
    }


def _experiments_on_disk(runs: Path) -> dict[str, str]:
    """Run id -> the experiment of the study that it was trained for; damaged ones are told."""
    found = {}
    for path in sorted(runs.glob("*/manifest.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            name = experiment_name(content["study"], content["dataset"], content["scale"])
        except (ValueError, KeyError, TypeError):
            log.warning("%s is damaged and left out: delete the folder %s", path, path.parent)
        else:
            found[path.parent.name] = name
    return found
