"""Mirror run folders into MLflow, any number of times.

Training writes plain files and never meets a tracker, so no tracking failure can cost a run, and
the database can be deleted: replaying `runs/` gives the same comparison again. One replay at a
time writes to a store (a file lock), because several processes that open a fresh SQLite store
together break its schema.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml
from filelock import FileLock

from fadepth.errors import FadepthError
from fadepth.report.results import METRICS, read_json, row_kind
from fadepth.report.table import scale_warning

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run
    from mlflow.tracking import MlflowClient

#: Enters every digest: raise it when the same folder is to be mirrored differently.
_FORMAT = "1"
_BATCH = 1000
_SILENCE_SECONDS = 15 * 60
_RUN_ID = "fadepth.run_id"
_DIGEST = "fadepth.digest"
_HISTORY = "fadepth.history"
_FINAL = "fadepth.final"
_VIEW = "mlflow.sharedViewState."
_HASHES = ("config_hash", "data_hash", "code_hash")
_MANIFEST_KEYS = (
    *("run_id", "kind", "row", "study", "factors", "seed", "scale", "dataset", "status"),
    *("started", "ended", "commit", "dirty", *_HASHES, "command", "teacher"),
)
#: Runs are told apart by colour in every chart; MLflow's own draw may give two runs the same.
#: Variants take Okabe and Ito's palette (safe for colour-blind readers; its yellow darkened for a
#: white page), reference rows a violet and greys.
_VARIANT_COLORS = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#D0C000", "#0072B2", "#D55E00", "#CC79A7"),
)
_REFERENCE_COLORS = ("#7F3C8D", "#666666", "#999999", "#C8C8C8")
_FILES = ("config.yaml", "manifest.json", "metrics.json", "per_image.csv")


@dataclass(frozen=True)
class TrackingSummary:
    """What a replay did, in runs; `updated` grew, `replaced` had changed and was logged anew."""

    experiment_id: str
    created: int = 0
    updated: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0


@dataclass(frozen=True)
class CompareLinks:
    """Addresses in the MLflow UI that show a study."""

    charts: str
    table: str
    compare: str | None


@dataclass(frozen=True)
class _Point:
    step: int
    milliseconds: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class _Replay:
    """A run folder as MLflow is to show it."""

    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    history: Sequence[_Point]
    results: _Point
    files: Sequence[Path]
    panels: Sequence[Path]

    def final(self) -> str:
        """Identity of what is written once, at a run's end; empty before."""
        if not self.panels and not any(key.startswith("test/") for key in self.results.values):
            return ""
        return _sha([self.results.milliseconds, dict(self.results.values), _hashes(self.panels)])

    def digest(self) -> str:
        """Identity of everything that is shown."""
        shown = [self.name, self.status, self.started, self.ended, self.params, self.tags]
        files = _hashes([*self.files, *self.panels])
        return _sha([_FORMAT, *shown, files, _history_sha(self.history), self.final()])


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
        FadepthError: a run folder is missing or half-written, or the store cannot be opened.
    """
    if run_ids is None:
        run_ids = sorted(path.parent.name for path in runs.glob("*/manifest.json"))
    replays = _read_replays(runs, list(dict.fromkeys(run_ids)), labels or {})
    with _locked(store):
        client = open_store(store)
        experiment_id = _experiment(client, store, experiment)
        summary = _replay_all(client, experiment_id, replays, prune)
        _describe(client, experiment_id, experiment, replays)
    return summary


def compare_url(
    base_url: str, experiment_id: str, run_ids: Sequence[str] | None = None
) -> CompareLinks:
    """Address the prepared views of an experiment; `run_ids` are MLflow's, for side by side.

    The views are those that `track` stores as experiment tags; MLflow does not document them
    (read off the UI of 3.17.2). An MLflow without them shows its plain list of runs.
    """
    base = f"{base_url.rstrip('/')}/#"
    page = f"{base}/experiments/{experiment_id}/runs"
    compare = None
    if run_ids:
        ids, experiments = (
            quote(json.dumps(x, separators=(",", ":"))) for x in (list(run_ids), [experiment_id])
        )
        compare = f"{base}/compare-runs?runs={ids}&experiments={experiments}"
    return CompareLinks(
        charts=f"{page}?viewStateShareKey=all&compareRunsMode=CHART",
        table=f"{page}?viewStateShareKey=variants",
        compare=compare,
    )


def run_links(store: str, base_url: str) -> dict[str, str]:
    """Run id -> address of its page in the MLflow UI; of a run in several studies the first."""
    client = open_store(store)
    found: dict[str, str] = {}
    for experiment in client.search_experiments(order_by=["name ASC"]):
        if f"{_VIEW}variants" not in experiment.tags:
            continue
        for run in client.search_runs([experiment.experiment_id], max_results=5000):
            page = f"{base_url.rstrip('/')}/#/experiments/{experiment.experiment_id}/runs"
            if run_id := run.data.tags.get(_RUN_ID):
                found.setdefault(run_id, f"{page}/{run.info.run_id}")
    return dict(sorted(found.items()))


def study_links(store: str, base_url: str) -> dict[str, CompareLinks]:
    """Links of every experiment that `track` has made, by name; variants in the table's order."""
    client = open_store(store)
    result = {}
    for found in client.search_experiments(order_by=["name ASC"]):
        if f"{_VIEW}variants" not in found.tags:
            continue
        logged = [
            run
            for run in client.search_runs([found.experiment_id], max_results=1000)
            if run.data.params.get("kind") == "variant"
        ]
        logged.sort(key=lambda run: int(run.data.tags.get("order", "0")))
        ids = [run.info.run_id for run in logged]
        result[found.name] = compare_url(base_url, found.experiment_id, ids)
    return result


# ---------------------------------------------------------------------------------- the store


def database_file(store: str) -> Path | None:
    """Absolute path of a SQLite store's file; None for any other store."""
    if not store.startswith("sqlite:"):
        return None
    match = re.fullmatch(r"sqlite:///(?P<path>[^?]+)", store)
    if match is None:
        raise FadepthError(f"store '{store}' names no file: write it as sqlite:///mlflow.db")
    return Path(match["path"]).resolve()


def store_uri(store: str) -> str:
    """Return the store with an absolute path, independent of the working directory."""
    path = database_file(store)
    return store if path is None else f"sqlite:///{path}"


@contextlib.contextmanager
def _locked(store: str) -> Iterator[None]:
    path = database_file(store)
    if path is None:
        # A server orders its writers itself.
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not path.exists():
            _create_database(path)
        yield


def _import_mlflow() -> Any:
    # Both are read at import. Without the first every process looks up a telemetry host.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    import mlflow.tracking

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return mlflow


def _create_database(path: Path) -> None:
    """Create and migrate the schema under another name, so that a kill leaves no half database."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    mlflow = _import_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        made = SqlAlchemyStore(f"sqlite:///{unfinished}", (path.parent / "mlartifacts").as_uri())
        made.engine.dispose()
        os.replace(unfinished, path)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise FadepthError(f"{path} cannot be created as MLflow's store: {_line(error)}") from None


def open_store(store: str) -> "MlflowClient":
    """Open an existing store.

    Raises:
        FadepthError: it is not there, or not MLflow's.
    """
    path = database_file(store)
    if path is not None and not path.exists():
        raise FadepthError(f"{path} does not exist: fill it from runs/ with 'fadepth track'")
    mlflow = _import_mlflow()
    try:
        client: MlflowClient = mlflow.tracking.MlflowClient(tracking_uri=store_uri(store))
        client.search_experiments(max_results=1)
    except Exception as error:
        # SQLAlchemy, alembic and HTTP each have their own exceptions for a broken store.
        raise FadepthError(
            f"the MLflow store {store} cannot be opened ({_line(error)}): "
            "if it is broken, delete it and run 'fadepth track' again"
        ) from None
    return client


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _experiment(client: "MlflowClient", store: str, name: str) -> str:
    """Return the id of the experiment, created with artifacts beside the database."""
    path = database_file(store)
    location = None
    if path is not None:
        folder = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
        location = (path.parent / "mlartifacts" / folder).as_uri()
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is not None and location is not None and found.artifact_location != location:
        # MLflow stores absolute paths: in a moved checkout its artifacts would be lost.
        client.rename_experiment(found.experiment_id, f"{name} (of {found.experiment_id}, moved)")
        client.delete_experiment(found.experiment_id)
        found = None
    if found is None:
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


# ------------------------------------------------------------------------- folders to replays


def _read_replays(runs: Path, run_ids: list[str], labels: Mapping[str, str]) -> list[_Replay]:
    manifests = {}
    for run_id in run_ids:
        path = runs / run_id / "manifest.json"
        manifest = read_json(path, _MANIFEST_KEYS, f"start {run_id} again")
        manifests[run_id] = {**manifest, "row": labels.get(run_id, manifest["row"])}
    names = _names(manifests)
    baseline = _baseline(manifests)
    base_config = {} if baseline is None else _flat_config(runs / baseline / "config.yaml")
    colors = _colors(manifests)
    replays = []
    for order, (run_id, manifest) in enumerate(manifests.items()):
        plain = _read_replay(runs / run_id, manifest, names[run_id])
        note = _note(runs / run_id, manifest, base_config, is_baseline=run_id == baseline)
        extra = {"mlflow.note.content": note, "order": f"{order:03d}"}
        extra["mlflow.runColor"] = colors[manifest["row"]]
        replays.append(replace(plain, tags={**plain.tags, **extra}))
    return replays


def _names(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The row's label, with the seed where it has several, and the hash where that is not enough.

    The last happens when a setting was changed and the older runs were kept.
    """
    seeds: dict[str, set[int | None]] = {}
    for manifest in manifests.values():
        seeds.setdefault(manifest["row"], set()).add(manifest["seed"])
    names = {
        run_id: manifest["row"]
        + (f" · seed {manifest['seed']}" if len(seeds[manifest["row"]]) > 1 else "")
        for run_id, manifest in manifests.items()
    }
    count = Counter(names.values())
    return {
        run_id: f"{name} · {run_id.rpartition('-')[2]}" if count[name] > 1 else name
        for run_id, name in names.items()
    }


def _baseline(manifests: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The variant with every factor off, else the first variant."""
    students = {i: m for i, m in manifests.items() if row_kind(m["kind"]) == "variant"}
    plain = (i for i, m in students.items() if set(m["factors"].values()) <= {"off"})
    return next(plain, next(iter(students), None))


def _colors(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """One colour a row, seeds of a row alike."""
    kinds = {manifest["row"]: row_kind(manifest["kind"]) for manifest in manifests.values()}
    variants = [row for row, kind in kinds.items() if kind == "variant"]
    others = [row for row in kinds if row not in variants]
    return {
        row: palette[index % len(palette)]
        for rows, palette in ((variants, _VARIANT_COLORS), (others, _REFERENCE_COLORS))
        for index, row in enumerate(rows)
    }


def _read_replay(folder: Path, manifest: Mapping[str, Any], name: str) -> _Replay:
    kind = row_kind(manifest["kind"])
    history = _read_history(folder / "metrics.jsonl")
    status, ended = _status(folder, manifest, history)
    results = {}
    protocol = ""
    if (folder / "metrics.json").exists():
        keys = ("protocol", "metrics")
        again = f"evaluate {folder.name} again"
        evaluation = read_json(folder / "metrics.json", keys, again)
        results = {f"test/{name}": evaluation["metrics"][name] for name in METRICS}
        protocol = evaluation["protocol"]
    if (parameters := manifest.get("parameters_inference")) is not None:
        results["model/parameters_m"] = parameters / 1e6
    params = {key: str(value) for key, value in manifest["factors"].items()}
    if manifest["seed"] is not None:
        params["seed"] = str(manifest["seed"])
    started = _milliseconds(manifest["started"])
    tags = {
        _RUN_ID: manifest["run_id"],
        "table": manifest["study"],
        "row": manifest["row"],
        "kind": kind,
        "protocol": protocol,
        "dirty": {True: "yes", False: "no", None: ""}[manifest["dirty"]],
        **{
            key: str(manifest[key] or "")
            for key in ("scale", "dataset", "commit", *_HASHES, "teacher")
        },
        # What the UI shows as Source and Version.
        "mlflow.source.name": manifest["command"] or "",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": manifest["commit"] or "",
    }
    return _Replay(
        run_id=manifest["run_id"],
        name=name,
        status=status,
        started=started,
        ended=ended,
        params=params | {"kind": kind},
        tags={key: value for key, value in tags.items() if value},
        history=history,
        # Step 0 makes the UI draw bars; a later step would make curves of one point.
        results=_Point(0, ended if ended is not None else started, results),
        files=[folder / name for name in _FILES if (folder / name).exists()],
        panels=sorted((folder / "panels").glob("*.png")),
    )


def _read_history(path: Path) -> list[_Point]:
    """Read metrics.jsonl; of a step logged twice (before and after a resume) the later counts."""
    points: dict[int, _Point] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            step, seconds = int(content.pop("step")), content.pop("time")
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
            if number == len(lines):
                # A running trainer is in the middle of it, or was killed there.
                break
            raise FadepthError(
                f"{path}, line {number}: expected an object with 'step' and 'time': "
                "remove the line or train again"
            ) from None
        content.pop("epoch", None)
        values = {
            re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII): float(value)
            for key, value in content.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        points[step] = _Point(step, _milliseconds(seconds), values)
    return [points[step] for step in sorted(points)]


def _status(
    folder: Path, manifest: Mapping[str, Any], history: Sequence[_Point]
) -> tuple[str, int | None]:
    """MLflow's status and the end time in milliseconds (None while running)."""
    last = history[-1].milliseconds if history else _milliseconds(manifest["started"])
    ended = last if manifest["ended"] is None else _milliseconds(manifest["ended"])
    status = {"finished": "FINISHED", "failed": "FAILED"}.get(manifest["status"])
    if status is not None:
        return status, ended
    return ("RUNNING", None) if _is_alive(folder, manifest) else ("KILLED", ended)


def _is_alive(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a run said to be running still has its process.

    A manifest with `pid` (and `host`, where runs/ is shared) is asked for; otherwise a run is gone
    that has not written for a quarter of an hour.
    """
    pid, host = manifest.get("pid"), manifest.get("host")
    if isinstance(pid, int) and host in (None, os.uname().nodename):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    names = ("manifest.json", "metrics.jsonl", "progress.json", "train.log")
    written = [path.stat().st_mtime for name in names if (path := folder / name).exists()]
    return time() - max(written, default=0.0) < _SILENCE_SECONDS


def _note(
    folder: Path,
    manifest: Mapping[str, Any],
    base_config: Mapping[str, Any],
    is_baseline: bool,
) -> str:
    """Markdown shown as the run's description."""
    kind = row_kind(manifest["kind"])
    lines = [f"**{manifest['row']}**"]
    if warning := scale_warning(manifest["scale"]):
        lines.append(f"*{warning}*")
    if is_baseline:
        lines.append("The baseline: what the other variants are compared with.")
    elif kind == "variant":
        config = _flat_config(folder / "config.yaml")
        changed = [
            f"- `{key}`: {_yaml_word(base_config.get(key))} → {_yaml_word(config.get(key))}"
            for key in sorted(config.keys() | base_config.keys())
            if config.get(key) != base_config.get(key)
        ]
        lines += ["Differs from the baseline in:", "\n".join(changed or ["- the seed alone"])]
    else:
        lines.append(f"A reference row ({kind}), not a variant.")
    if manifest["teacher"]:
        lines.append(f"Teacher: `{manifest['teacher']}`")
    if manifest["command"]:
        lines.append(f"```\n{manifest['command']}\n```")
    return "\n\n".join(lines)


def _flat_config(path: Path) -> dict[str, Any]:
    """Settings by dotted key, without seeds (they distinguish the runs of one row)."""

    def flatten(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in content.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError):
        return {}
    flat = dict(flatten(content, "")) if isinstance(content, dict) else {}
    return {key: value for key, value in flat.items() if key not in ("seed", "seeds")}


def _yaml_word(value: Any) -> str:
    words = {"True": "on", "False": "off", "None": "none"}
    return words.get(str(value), str(value))


def _milliseconds(seconds: float) -> int:
    return round(float(seconds) * 1000)


# --------------------------------------------------------------------------------- to MLflow


def _replay_all(
    client: "MlflowClient", experiment_id: str, replays: Sequence[_Replay], prune: bool
) -> TrackingSummary:
    logged = _logged_runs(client, experiment_id)
    counts = dict.fromkeys(("created", "updated", "replaced", "unchanged", "removed"), 0)
    for replay in replays:
        olds = logged.pop(replay.run_id, [])
        for extra in olds[1:]:
            client.delete_run(extra.info.run_id)
        counts[_replay_one(client, experiment_id, replay, olds[0] if olds else None)] += 1
    if prune:
        for run in (run for olds in logged.values() for run in olds):
            client.delete_run(run.info.run_id)
            counts["removed"] += 1
    return TrackingSummary(experiment_id, **counts)


def _logged_runs(client: "MlflowClient", experiment_id: str) -> dict[str, list["Run"]]:
    """Active runs of the experiment by fadepth's run id; other people's runs are left alone."""
    result: dict[str, list[Run]] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        for run in page:
            if run_id := run.data.tags.get(_RUN_ID):
                result.setdefault(run_id, []).append(run)
        token = page.token
        if not token:
            return result


def _replay_one(
    client: "MlflowClient", experiment_id: str, replay: _Replay, old: "Run | None"
) -> str:
    digest = replay.digest()
    if old is not None and old.data.tags.get(_DIGEST) == digest:
        return "unchanged"
    known = 0
    done = "created"
    if old is not None:
        grown = _grown_from(replay, old)
        if grown is None:
            client.delete_run(old.info.run_id)
            old, done = None, "replaced"
        else:
            known, done = grown, "updated"
    if old is None:
        made = client.create_run(
            experiment_id,
            start_time=replay.started,
            run_name=replay.name,
            tags={_RUN_ID: replay.run_id},
        )
        run_id, old_final = made.info.run_id, ""
    else:
        run_id, old_final = old.info.run_id, old.data.tags[_FINAL]
        # While the tag is missing the run counts as half-written.
        client.delete_tag(run_id, _DIGEST)
    _log(client, run_id, replay, replay.history[known:], with_results=replay.final() != old_final)
    if old is not None and old.info.run_name != replay.name:
        client.update_run(run_id, name=replay.name)
    if replay.ended is not None:
        client.set_terminated(run_id, replay.status, replay.ended)
    client.set_tag(run_id, _DIGEST, digest)
    return done


def _grown_from(replay: _Replay, old: "Run") -> int | None:
    """Number of steps already logged, if the folder has only grown since; else None."""
    tags = old.data.tags
    if _DIGEST not in tags or old.data.params != replay.params:
        return None
    if old.info.status != "RUNNING" and replay.status == "RUNNING":
        return None
    if tags.get(_FINAL) not in ("", replay.final()):
        return None
    count, _, sha = tags.get(_HISTORY, "").partition(":")
    if not count.isdigit() or _history_sha(replay.history[: int(count)]) != sha:
        return None
    return int(count)


def _log(
    client: "MlflowClient",
    run_id: str,
    replay: _Replay,
    points: Sequence[_Point],
    with_results: bool,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    metrics = [
        # MLflow stores an infinity as the largest float, which would flatten every chart.
        Metric(key, value if math.isfinite(value) else math.nan, point.milliseconds, point.step)
        # Results first: the compare page preselects the metric that was logged first.
        for point in [replay.results, *points]
        for key, value in point.values.items()
    ]
    tags = {
        **replay.tags,
        _HISTORY: f"{len(replay.history)}:{_history_sha(replay.history)}",
        _FINAL: replay.final(),
    }
    client.log_batch(
        run_id,
        params=[Param(key, value) for key, value in replay.params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    for path in replay.files:
        client.log_artifact(run_id, str(path))
    if with_results:
        _log_panels(client, run_id, replay)


def _log_panels(client: "MlflowClient", run_id: str, replay: _Replay) -> None:
    """Panels as files (same names in every run) and as images that the chart view can grid."""
    from PIL import Image

    for path in replay.panels:
        client.log_artifact(run_id, str(path), "panels")
        with Image.open(path) as image:
            # The client takes the present time for 0, as of a folder without times.
            when = max(replay.results.milliseconds, 1)
            picture = image.convert("RGB")
            client.log_image(
                run_id, picture, key=_panel_key(path), timestamp=when, synchronous=True
            )


def _panel_key(path: Path) -> str:
    return "panels/" + re.sub(r"[^\w\-. ]", "_", path.stem, flags=re.ASCII)


def _describe(
    client: "MlflowClient", experiment_id: str, name: str, replays: Sequence[_Replay]
) -> None:
    """The experiment's description and its prepared views."""
    factors = dict.fromkeys(
        key for replay in replays for key in replay.params if key not in ("seed", "kind")
    )
    scales = sorted({replay.tags["scale"] for replay in replays if "scale" in replay.tags})
    # The page shows the first line only until it is unfolded.
    warning = scale_warning(", ".join(scales))
    head = f"**{name}**" + (f" (**{warning}**)" if warning else "")
    lines = [f"{head}: one run a row and seed, replayed from `runs/`."]
    lines.append("Metrics on the test frames are under `test/`, losses under `train/`.")
    client.set_experiment_tag(experiment_id, "mlflow.note.content", "\n\n".join(lines))
    for key, only in (("all", ""), ("variants", "params.kind = 'variant'")):
        state = _view_state(list(factors), only) | _charts(replays)
        client.set_experiment_tag(experiment_id, _VIEW + key, json.dumps(state))


def _view_state(factors: list[str], search: str) -> dict[str, Any]:
    """State of the runs page as MLflow 3.17.2 keeps it; its form is not documented."""
    params = [f"params.`{name}`" for name in (*factors, "seed")]
    metrics = [f"metrics.`test/{name}`" for name in METRICS] + ["metrics.`model/parameters_m`"]
    order = ["attributes.`Run Name`", *params, *metrics, "duration", "runDateAndNestInfo"]
    return {
        "searchFilter": search,
        "orderByKey": "metrics.`test/abs_rel`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [*params, *metrics],
        "columnOrder": order,
        "columnWidths": {
            **dict.fromkeys(params, 75),
            **dict.fromkeys(metrics, 95),
            "attributes.`Run Name`": 190,
        },
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        # The default shows ten runs; a study with its reference rows has more.
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "autoRefreshEnabled": True,
    }


def _charts(replays: Sequence[_Replay]) -> dict[str, Any]:
    """Test metrics first, in the table's order, then the panels; the UI adds the curves."""
    panels = sorted({_panel_key(path) for replay in replays for path in replay.panels})
    curves = {key for replay in replays for point in replay.history[:1] for key in point.values}
    curve_sections = sorted({key.rpartition("/")[0] for key in curves if "/" in key})
    names = ["test", *(["panels"] if panels else []), *curve_sections, "model"]
    common = {"isGenerated": True, "deleted": False}
    sections = [
        {"uuid": name, "name": name, "display": True, "isReordered": False, **common}
        for name in dict.fromkeys(names)
    ]
    for section in sections:
        if section["name"] == "panels":
            # One card a line, high enough for the ten runs that MLflow shows in it.
            section |= {"columns": 1, "cardHeight": 1150}
    bars = [
        {
            "type": "BAR",
            "uuid": f"bar-{name}",
            "metricSectionId": "test",
            "metricKey": f"test/{name}",
            "displayName": f"{name} ({'lower' if better == 'lower' else 'higher'} is better)",
            "runsCountToCompare": 100,
            **common,
        }
        for name, better in METRICS.items()
    ]
    images = [
        {
            "type": "IMAGE",
            "uuid": key,
            "metricSectionId": "panels",
            "imageKeys": [key],
            "step": 0,
            "showRunParams": False,
            "runsCountToCompare": 100,
            **common,
        }
        for key in panels
    ]
    return {
        "compareRunCharts": [*bars, *images],
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }


# ------------------------------------------------------------------------------------ digests


def _sha(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _history_sha(points: Sequence[_Point]) -> str:
    return _sha([[point.step, point.milliseconds, dict(point.values)] for point in points])


def _hashes(paths: Sequence[Path]) -> list[list[str]]:
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths]
