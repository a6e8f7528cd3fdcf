"""Run folders into MLflow, any number of times.

A run in MLflow carries the digest of what it shows. The digest is written last, so a run without
one is half-written and is logged anew.
"""

import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fadepth.errors import FadepthError
from fadepth.survival import process_lives
from fadepth.tracking.folders import (
    RUN_ID,
    InStudy,
    Point,
    Replay,
    RunFolder,
    history_sha,
    plan,
)
from fadepth.tracking.store import (
    database_file,
    is_database,
    without_password,
    writing,
)
from fadepth.tracking.views import describe, panel_key, runs_of

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

#: What MLflow takes at once: metrics, parameters and tags together.
_BATCH = 1000
#: Runs from one line in the log to the next.
_TOLD = 100
#: After that long nobody is still writing a run.
_WRITING_SECONDS = 10 * 60
_DIGEST = "fadepth.digest"
_STATE = "fadepth.state"
_HISTORY = "fadepth.history"
_FINAL = "fadepth.final"
_HOST = "fadepth.host"
#: In place of a digest, while a process writes the run.
_WRITING = "writing"


@dataclass(frozen=True)
class TrackingSummary:
    """What a replay did, in runs.

    `updated` grew, `replaced` had changed and was logged anew, `left` is being written by another
    host.
    """

    experiment_id: str
    created: int = 0
    updated: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    left: int = 0


@dataclass(frozen=True)
class _Target:
    """An experiment that is written to."""

    client: "MlflowClient"
    experiment: "Experiment"
    #: Folder of its artifacts, where this process writes them itself.
    artifacts: Path | None
    #: Whether nobody else can be writing to the store.
    alone: bool

    @property
    def id(self) -> str:
        return str(self.experiment.experiment_id)

    def forget(self, run: "Run") -> None:
        """Delete a run, and its files, which MLflow would keep."""
        self.client.delete_run(run.info.run_id)
        if self.artifacts is not None:
            shutil.rmtree(self.artifacts / run.info.run_id, ignore_errors=True)


def track(
    runs: Path,
    run_ids: Sequence[str] | None = None,
    *,
    store: str = "sqlite:///mlflow.db",
    experiment: str,
    labels: Mapping[str, str] | None = None,
    prune: bool = False,
) -> TrackingSummary:
    """Replay run folders into one flat MLflow experiment.

    Unchanged runs are skipped, grown ones are completed, changed ones are logged anew. A manifest
    that says "running" though its process is gone becomes KILLED.

    Args:
        runs: folder of the run folders.
        run_ids: which, in the order of the table; None: every folder that holds a manifest.
        store: `sqlite:///FILE` (relative to the working directory) or any MLflow tracking URI.
        experiment: name of the experiment, usually the study and its scale.
        labels: run id -> what this study calls its row; a shared run's manifest has another's.
        prune: also remove the experiment's runs that are not among `run_ids`.

    Raises:
        FadepthError: a run folder is missing or half-written, or the store cannot be opened or
            written to.
    """
    if run_ids is None:
        run_ids = sorted(path.parent.name for path in runs.glob("*/manifest.json"))
    wanted = {run_id: (labels or {}).get(run_id) for run_id in run_ids}
    return track_experiments(runs, {experiment: wanted}, store=store, prune=prune)[experiment]


def track_experiments(
    runs: Path,
    experiments: Mapping[str, Mapping[str, str | InStudy | None]],
    *,
    store: str,
    prune: bool = False,
) -> dict[str, TrackingSummary]:
    """Replay several experiments at once: name -> what is said of its runs (`plan`).

    Raises:
        FadepthError: as `track`.
    """
    summaries: dict[str, TrackingSummary] = {}
    damaged: list[FadepthError] = []
    with writing(store, runs) as client:
        targets = {name: _target(client, store, runs, name) for name in experiments}
        logged = _logged_runs(client, [target.id for target in targets.values()])
        for name, target in targets.items():
            folders = plan(runs, experiments[name])
            known = logged.get(target.id, {})
            summaries[name] = _replay_all(target, folders, known, prune, damaged)
            describe(client, target.experiment, folders)
    if damaged:
        # All others are shown.
        raise damaged[0]
    return summaries


# ------------------------------------------------------------------------------- experiments


def _target(client: "MlflowClient", store: str, runs: Path, name: str) -> _Target:
    """The experiment of that name, made where it is not there."""
    place = _artifact_folder(store, runs, name)
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found is not None and place is not None:
        found = _with_its_artifacts(client, store, found, place)
    if found is None:
        found = _create_experiment(client, name, place)
    folder = None if place is None else _local_folder(found.artifact_location)
    alone = store.startswith(("sqlite", "postgresql"))
    return _Target(client, found, folder, alone)


def _artifact_folder(store: str, runs: Path, name: str) -> Path | None:
    """Where this process writes artifacts itself; None: the server does."""
    if not is_database(store):
        return None
    path = database_file(store)
    project = runs.resolve().parent if path is None else path.parent
    return project / "mlartifacts" / re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def _local_folder(location: str) -> Path | None:
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _with_its_artifacts(
    client: "MlflowClient", store: str, found: "Experiment", place: Path
) -> "Experiment | None":
    """The experiment; None where its artifacts were lost when the project was moved.

    MLflow stores absolute paths, and offers no way to change them.
    """
    folder = _local_folder(found.artifact_location)
    if folder is None or folder == place:
        return found
    if database_file(store) is None:
        # Several projects may share a database server.
        if folder.exists():
            return found
        host = found.tags.get(_HOST)
        if host != os.uname().nodename:
            raise FadepthError(
                f"experiment '{found.name}' of {without_password(store)} keeps its files in "
                f"{folder} of {host}, which is not here: run 'mlflow server' on that store and "
                "name the server's address as --store"
            )
    for run in runs_of(client, [found.experiment_id]):
        shutil.rmtree(place / run.info.run_id, ignore_errors=True)
    client.rename_experiment(found.experiment_id, f"{found.name} (of {found.experiment_id}, moved)")
    client.delete_experiment(found.experiment_id)
    return None


def _create_experiment(client: "MlflowClient", name: str, place: Path | None) -> "Experiment":
    from mlflow.exceptions import MlflowException

    location = None if place is None else place.as_uri()
    try:
        made = client.create_experiment(name, location, tags={_HOST: os.uname().nodename})
    except MlflowException as error:
        # Another host was faster.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        found: Experiment | None = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found
    return client.get_experiment(made)


# -------------------------------------------------------------------------------------- runs


def _logged_runs(
    client: "MlflowClient", experiment_ids: Sequence[str]
) -> dict[str, dict[str, list["Run"]]]:
    """Active runs by experiment and fadepth's run id; other people's runs are left alone."""
    result: dict[str, dict[str, list[Run]]] = {}
    for run in runs_of(client, experiment_ids):
        if run_id := run.data.tags.get(RUN_ID):
            experiment = result.setdefault(run.info.experiment_id, {})
            experiment.setdefault(run_id, []).append(run)
    return result


def _replay_all(
    target: _Target,
    folders: Sequence[RunFolder],
    logged: dict[str, list["Run"]],
    prune: bool,
    damaged: list[FadepthError],
) -> TrackingSummary:
    counts = dict.fromkeys(("created", "updated", "replaced", "unchanged", "removed", "left"), 0)
    for index, folder in enumerate(folders, start=1):
        olds = logged.pop(folder.run_id, [])
        try:
            counts[_replay_one(target, folder, olds)] += 1
        except FadepthError as error:
            damaged.append(error)
        if index % _TOLD == 0:
            log.info("%s: %d of %d runs", target.experiment.name, index, len(folders))
    if prune:
        for run in (run for olds in logged.values() for run in olds):
            target.forget(run)
            counts["removed"] += 1
    if counts["created"] and not target.alone:
        _remove_doubles(target, [folder.run_id for folder in folders])
    return TrackingSummary(target.id, **counts)


def _remove_doubles(target: _Target, run_ids: Iterable[str]) -> None:
    """Another host may have created the same runs since this one looked for them."""
    logged = _logged_runs(target.client, [target.id]).get(target.id, {})
    for run_id in run_ids:
        for extra in _complete(logged.get(run_id, []))[1:]:
            target.forget(extra)


def _complete(runs: Iterable["Run"]) -> list["Run"]:
    """Those that are wholly written; the first, of all hosts' choice, is to be kept."""
    digests = {run.info.run_id: run.data.tags.get(_DIGEST, "") for run in runs}
    whole = [
        run for run in runs if digests[run.info.run_id].partition(" ")[0] not in ("", _WRITING)
    ]
    return sorted(whole, key=lambda run: run.info.run_id)


def _is_being_written(run: "Run") -> bool:
    """Whether another process, here or on another host, may still be at it."""
    word, *rest = run.data.tags.get(_DIGEST, "").split(" ")
    if word != _WRITING:
        return False
    host, pid, since = rest
    if host == os.uname().nodename:
        return int(pid) != os.getpid() and process_lives(int(pid))
    return time() - int(since) < _WRITING_SECONDS


def _mark_of_writing() -> str:
    return f"{_WRITING} {os.uname().nodename} {os.getpid()} {int(time())}"


def _replay_one(target: _Target, folder: RunFolder, olds: Sequence["Run"]) -> str:
    whole = _complete(olds)
    halves = [run for run in olds if run not in whole]
    if not target.alone and any(_is_being_written(run) for run in halves):
        return "left"
    for extra in [*whole[1:], *halves]:
        target.forget(extra)
    old = whole[0] if whole else None
    if old is not None and old.data.tags.get(_STATE) == folder.state:
        return "unchanged"
    replay = folder.read()
    digest = replay.digest()
    if old is not None and old.data.tags[_DIGEST] == digest:
        # Another copy of the same files.
        target.client.set_tag(old.info.run_id, _STATE, folder.state)
        return "unchanged"
    known = None if old is None else _grown_from(replay, old)
    if old is not None and known is None:
        target.forget(old)
    if old is None or known is None:
        _log_new(target, replay, digest, folder.state)
        return "replaced" if olds else "created"
    _log_more(target, replay, digest, folder.state, old, known)
    return "updated"


def _grown_from(replay: Replay, old: "Run") -> int | None:
    """Number of steps already logged, if the folder has only grown since; else None."""
    tags = old.data.tags
    if old.data.params != replay.params:
        return None
    if old.info.status != "RUNNING" and replay.status == "RUNNING":
        return None
    if tags.get(_FINAL) not in ("", replay.final()):
        return None
    count, _, sha = tags.get(_HISTORY, "").partition(":")
    if not count.isdigit() or history_sha(replay.history[: int(count)]) != sha:
        return None
    return int(count)


def _log_new(target: _Target, replay: Replay, digest: str, state: str) -> None:
    made = target.client.create_run(
        target.id,
        start_time=replay.started,
        run_name=replay.name,
        tags={RUN_ID: replay.run_id, _DIGEST: _mark_of_writing()},
    )
    run_id = made.info.run_id
    _log(target.client, run_id, replay, replay.history, with_results=bool(replay.final()))
    _finish(target.client, run_id, replay, digest, state)


def _log_more(
    target: _Target, replay: Replay, digest: str, state: str, old: "Run", known: int
) -> None:
    run_id = old.info.run_id
    target.client.set_tag(run_id, _DIGEST, _mark_of_writing())
    is_new = replay.final() != old.data.tags[_FINAL]
    _log(target.client, run_id, replay, replay.history[known:], with_results=is_new)
    if old.info.run_name != replay.name:
        target.client.update_run(run_id, name=replay.name)
    _finish(target.client, run_id, replay, digest, state)


def _log(
    client: "MlflowClient",
    run_id: str,
    replay: Replay,
    points: Sequence[Point],
    with_results: bool,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    metrics = [
        # MLflow stores an infinity as the largest float, which would flatten every chart.
        Metric(key, value if math.isfinite(value) else math.nan, point.milliseconds, point.step)
        # Results first: the compare page preselects the metric that was logged first.
        # Once, with the evaluation: a training that was killed after its end has two ends, and its
        # number of parameters would stand there twice.
        for point in [*([replay.results] if with_results else []), *points]
        for key, value in point.values.items()
    ]
    params = [Param(key, value) for key, value in replay.params.items()]
    tags = [RunTag(key, value) for key, value in replay.tags.items()]
    first = _BATCH - len(params) - len(tags)
    client.log_batch(run_id, metrics[:first], params, tags)
    for start in range(first, len(metrics), _BATCH):
        client.log_batch(run_id, metrics[start : start + _BATCH])
    for path in replay.files:
        client.log_artifact(run_id, str(path))
    if with_results:
        _log_panels(client, run_id, replay)


def _log_panels(client: "MlflowClient", run_id: str, replay: Replay) -> None:
    """Panels as files (same names in every run) and as images that the chart view can grid."""
    from PIL import Image

    for path in replay.panels:
        client.log_artifact(run_id, str(path), "panels")
        with Image.open(path) as image:
            # The client takes the present time for 0, as of a folder without times.
            when = max(replay.results.milliseconds, 1)
            picture = image.convert("RGB")
            client.log_image(run_id, picture, key=panel_key(path), timestamp=when, synchronous=True)


def _finish(client: "MlflowClient", run_id: str, replay: Replay, digest: str, state: str) -> None:
    """Set the status, and last what says that all of it is there."""
    from mlflow.entities import RunTag

    if replay.ended is not None:
        client.set_terminated(run_id, replay.status, replay.ended)
    tags = {
        _HISTORY: f"{len(replay.history)}:{history_sha(replay.history)}",
        _FINAL: replay.final(),
        _STATE: state,
        _DIGEST: digest,
    }
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
