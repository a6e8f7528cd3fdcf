"""Run folders, and what an experiment is to show of them."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from time import time
from typing import Any

import psutil
import yaml

from fadepth.config import flat
from fadepth.errors import FadepthError
from fadepth.filestate import FileState
from fadepth.fingerprint import code_fingerprint
from fadepth.report.results import METRICS, read_json, row_kind
from fadepth.report.table import scale_warning

#: Enters every digest: raise it when the same folder is to be mirrored differently.
_FORMAT = "1"
#: Enters every state: what a folder becomes in MLflow.
_CODE = ("tracking/folders.py", "tracking/replay.py", "report/results.py", "report/table.py")
_SILENCE_SECONDS = 15 * 60
#: By so much a clock may have been set since.
_CLOCK_SECONDS = 60
#: Longest tag that MLflow keeps whole.
_TAG_LENGTH = 8000
RUN_ID = "fadepth.run_id"
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
class Point:
    """Metrics of one step."""

    step: int
    milliseconds: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Replay:
    """A run folder as MLflow is to show it."""

    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    history: Sequence[Point]
    results: Point
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
        return _sha([_FORMAT, *shown, files, history_sha(self.history), self.final()])


@dataclass(frozen=True)
class RunFolder:
    """A run folder in its experiment; only its manifest has been read.

    A study of thousands of runs holds these, and one `Replay` at a time.
    """

    folder: Path
    manifest: Mapping[str, Any]
    name: str
    order: int
    color: str
    #: The folder that the others are compared with.
    baseline: Path | None
    #: Changes whenever `read` would give something else; known without reading large files.
    state: str
    is_alive: bool

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def panels(self) -> list[Path]:
        """Pictures of test frames."""
        return _panels(self.folder)

    def first_metrics(self) -> list[str]:
        """Names of the metrics of the first step."""
        try:
            with (self.folder / "metrics.jsonl").open(encoding="utf-8") as stream:
                content = json.loads(stream.readline())
        except (FileNotFoundError, json.JSONDecodeError):
            return []
        return [_metric_key(key) for key in content if key not in ("step", "time", "epoch")]

    def read(self) -> Replay:
        """Read everything that is shown.

        Raises:
            FadepthError: a file of it is damaged.
        """
        manifest = self.manifest
        history = _read_history(self.folder / "metrics.jsonl")
        status, ended = self._status(history)
        started = milliseconds(manifest["started"])
        results, protocol = self._results()
        params = {key: str(value) for key, value in manifest["factors"].items()}
        if manifest["seed"] is not None:
            params["seed"] = str(manifest["seed"])
        return Replay(
            run_id=manifest["run_id"],
            name=self.name,
            status=status,
            started=started,
            ended=ended,
            params=params | {"kind": row_kind(manifest["kind"])},
            tags={key: value for key, value in self._tags(protocol).items() if value},
            history=history,
            # Step 0 makes the UI draw bars; a later step would make curves of one point.
            results=Point(0, ended if ended is not None else started, results),
            files=[path for name in _FILES if (path := self.folder / name).exists()],
            panels=self.panels,
        )

    def _results(self) -> tuple[dict[str, float], str]:
        """What was measured at the end, and by which protocol."""
        results: dict[str, float] = {}
        protocol = ""
        if (path := self.folder / "metrics.json").exists():
            evaluation = read_json(path, ("protocol", "metrics"), f"evaluate {self.run_id} again")
            results = {f"test/{name}": evaluation["metrics"][name] for name in METRICS}
            protocol = evaluation["protocol"]
        if (parameters := self.manifest.get("parameters_inference")) is not None:
            results["model/parameters_m"] = parameters / 1e6
        return results, protocol

    def _tags(self, protocol: str) -> dict[str, str]:
        manifest = self.manifest
        return {
            RUN_ID: manifest["run_id"],
            "table": manifest["study"],
            "row": manifest["row"],
            "kind": row_kind(manifest["kind"]),
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
            "mlflow.note.content": self._note(),
            "mlflow.runColor": self.color,
            "order": f"{self.order:03d}",
        }

    def _status(self, history: Sequence[Point]) -> tuple[str, int | None]:
        """MLflow's status and the end time in milliseconds (None while running)."""
        manifest = self.manifest
        last = history[-1].milliseconds if history else milliseconds(manifest["started"])
        ended = last if manifest["ended"] is None else milliseconds(manifest["ended"])
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(manifest["status"])
        if status is not None:
            return status, ended
        return ("RUNNING", None) if self.is_alive else ("KILLED", ended)

    def _note(self) -> str:
        """Markdown shown as the run's description."""
        manifest = self.manifest
        kind = row_kind(manifest["kind"])
        lines = [f"**{manifest['row']}**"]
        if warning := scale_warning(manifest["scale"]):
            lines.append(f"*{warning}*")
        if self.folder == self.baseline:
            lines.append("The baseline: what the other variants are compared with.")
        elif kind == "variant":
            lines += ["Differs from the baseline in:", self._differences()]
        else:
            lines.append(f"A reference row ({kind}), not a variant.")
        if manifest["teacher"]:
            lines.append(f"Teacher: `{manifest['teacher']}`")
        if manifest["command"]:
            lines.append(f"```\n{manifest['command']}\n```")
        return "\n\n".join(lines)[:_TAG_LENGTH]

    def _differences(self) -> str:
        """Settings that differ from the baseline's, a line each."""
        own = _flat_config(self.folder / "config.yaml")
        base = {} if self.baseline is None else _flat_config(self.baseline / "config.yaml")
        changed = [
            f"- `{key}`: {_yaml_word(base.get(key))} → {_yaml_word(own.get(key))}"
            for key in sorted(own.keys() | base.keys())
            if own.get(key) != base.get(key)
        ]
        return "\n".join(changed or ["- the seed alone"])


@dataclass(frozen=True)
class InStudy:
    """What a study says of a run; its manifest speaks for the study that it was trained for.

    Attributes:
        row: what the study calls it.
        factors: levels of the study's own factors.
        is_baseline: whether the others are compared with it.
    """

    row: str
    factors: Mapping[str, str]
    is_baseline: bool = False


def _said(manifest: dict[str, Any], said: str | InStudy | None) -> dict[str, Any]:
    if isinstance(said, InStudy):
        return {**manifest, "row": said.row, "factors": dict(said.factors)}
    return manifest if said is None else {**manifest, "row": said}


def plan(runs: Path, labels: Mapping[str, str | InStudy | None]) -> list[RunFolder]:
    """The folders of an experiment, in the order of its table.

    Args:
        runs: folder of the run folders.
        labels: run id -> what the study says of it, or calls its row; None: what the run's
            manifest says.

    Raises:
        FadepthError: a run folder is missing or half-written.
    """
    manifests, seen = {}, {}
    for run_id, label in labels.items():
        # First, so that what is written meanwhile is seen by the next replay.
        seen[run_id] = _file_states(runs / run_id)
        path = runs / run_id / "manifest.json"
        manifest = read_json(path, _MANIFEST_KEYS, f"start {run_id} again")
        manifests[run_id] = _said(manifest, label)
    names = _names(manifests)
    colors = _colors(manifests)
    named = (i for i, said in labels.items() if isinstance(said, InStudy) and said.is_baseline)
    baseline = next(named, None) or _baseline(manifests)
    folders = []
    for order, (run_id, manifest) in enumerate(manifests.items()):
        is_alive = manifest["status"] == "running" and _is_alive(runs / run_id, manifest)
        own = [manifest["row"], names[run_id], order, colors[manifest["row"]], is_alive]
        own.append(manifest["factors"])
        compared = [] if baseline is None else [baseline, seen[baseline].get("config.yaml")]
        folders.append(
            RunFolder(
                folder=runs / run_id,
                manifest=manifest,
                name=names[run_id],
                order=order,
                color=colors[manifest["row"]],
                baseline=None if baseline is None else runs / baseline,
                state=_sha([_FORMAT, _code(), own, compared, seen[run_id]]),
                is_alive=is_alive,
            )
        )
    return folders


@cache
def _code() -> str:
    """Identity of what turns a folder into what is shown."""
    return code_fingerprint(_CODE)


def _panels(folder: Path) -> list[Path]:
    return sorted((folder / "panels").glob("*.png"))


def _file_states(folder: Path) -> dict[str, str]:
    """The state of each file that is mirrored, by its name."""
    paths = [*(folder / name for name in (*_FILES, "metrics.jsonl")), *_panels(folder)]
    return {path.name: repr(FileState.settled(path)) for path in paths if path.exists()}


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
    others = [row for row, kind in kinds.items() if kind != "variant"]
    return {
        row: palette[index % len(palette)]
        for rows, palette in ((variants, _VARIANT_COLORS), (others, _REFERENCE_COLORS))
        for index, row in enumerate(rows)
    }


def _read_history(path: Path) -> list[Point]:
    """Read metrics.jsonl; of a step logged twice (before and after a resume) the later counts."""
    points: dict[int, Point] = {}
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
            _metric_key(key): float(value)
            for key, value in content.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        points[step] = Point(step, milliseconds(seconds), values)
    return [points[step] for step in sorted(points)]


def _metric_key(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


def _is_alive(folder: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a run said to be running still has its process.

    The process of a manifest of this host is looked for; elsewhere a run is gone that has not
    written for a quarter of an hour.
    """
    pid, host = manifest.get("pid"), manifest.get("host")
    if isinstance(pid, int) and host in (None, os.uname().nodename):
        return _is_process(pid, (folder / "manifest.json").stat().st_mtime)
    names = ("manifest.json", "metrics.jsonl", "progress.json", "train.log")
    written = [path.stat().st_mtime for name in names if (path := folder / name).exists()]
    return time() - max(written, default=0.0) < _SILENCE_SECONDS


def _is_process(pid: int, known_since: float) -> bool:
    """Whether the process lives; a later one, after a reboot perhaps, may have its number."""
    try:
        return psutil.Process(pid).create_time() < known_since + _CLOCK_SECONDS
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def _flat_config(path: Path) -> Mapping[str, Any]:
    return _flattened(path, FileState.of(path)) if path.exists() else {}


@lru_cache(maxsize=64)
def _flattened(path: Path, state: FileState) -> Mapping[str, Any]:
    """Settings by dotted key, without seeds (they distinguish the runs of one row)."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError):
        return {}
    settings = flat(content) if isinstance(content, dict) else {}
    return {key: value for key, value in settings.items() if key not in ("seed", "seeds")}


def _yaml_word(value: Any) -> str:
    words = {"True": "on", "False": "off", "None": "none"}
    return words.get(str(value), str(value))


def milliseconds(seconds: float) -> int:
    """MLflow's unit of time."""
    return round(float(seconds) * 1000)


def _sha(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def history_sha(points: Sequence[Point]) -> str:
    """Identity of a part of a run's history."""
    return _sha([[point.step, point.milliseconds, dict(point.values)] for point in points])


def _hashes(paths: Sequence[Path]) -> list[list[str]]:
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths]
