"""How long a step of a training takes, by what was measured: its own steps, or those of its like.

A step's time depends on what is computed, not on the seed or the learning rate. Trainings with the
same `cost_settings` on the same kind of device cost the same.
"""

import csv
import functools
import json
import math
import platform
import statistics
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml

from fadepth.files import json_object
from fadepth.run import TRAINED, Run

#: Every training of the workflow has one thread (`workflow/rules/train.smk`).
THREADS = 1
#: So many runs of one cost are read: the newest.
_SAMPLE = 3
#: So many folders are looked at that no study asks for, for want of better: the newest.
_FOREIGN = 200
#: Bytes at the end of `metrics.jsonl` that are read: some hundred lines.
_TAIL = 1 << 16

#: Less steps than that, the first of a training among them, do not tell its pace.
_FEW = 4

CALIBRATION = ".calibration.json"

#: Settings that a step's time does not depend on; a new one counts until it is named here.
_FREE = {
    "data": {"name", "root", "splits", "high_resolution", "flip_probability", "synthetic", "ddad"},
    "teacher": {"seed", "epochs", "learning_rate", "encoder_weights"},
    "training": {
        *("epochs", "steps_per_epoch", "learning_rate", "schedule", "beta2", "weight_decay"),
        *("log_every", "checkpoint_every", "device"),
    },
    "pyramid": {"warmup_epochs"},
    "apx": {"alone_epochs"},
}
_SIZE = ("data.height", "data.width", "training.batch_size")

Source = Literal["own", "same", "calibration", "nearest"]


def cost_settings(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a step's time depends on, flat, with dotted keys.

    Args:
        kind: `student` or `teacher`.
        settings: all of a run's settings, nested, as `config.yaml` holds them.
    """
    loss = dict(settings["loss"])
    for name in ("pyramid", "apx"):
        if kind == "teacher" or not loss[name]["enabled"]:
            loss[name] = {"enabled": False}
    if loss["base"] != "cbw":
        loss.pop("cbw", None)
    loss["ego_mask"] = loss.get("ego_mask") is not None
    parts = {name: settings[name] for name in ("data", "pose", "training", kind)}
    found = dict(_flat({**parts, "loss": loss}))
    if kind == "student":
        found = _of_the_network(found)
    return {"kind": kind, **found}


def _of_the_network(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without what counts for another network than this student's."""
    own = found.get("student.network")  # settings of older runs do not have it
    if own is None:
        unused = {"student.network"} | (
            {"student.etm.space"} if found["student.etm.branches"] == "off" else set()
        )
    else:
        unused = {"student.sparsity", "student.width", "student.etm.branches", "student.etm.space"}
    return {key: value for key, value in found.items() if key not in unused}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    free = _FREE.get(prefix.rstrip(".").rpartition(".")[2], set())
    for key, value in settings.items():
        if key in free:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            # A term's weight costs nothing, unless it is zero and the term is left out.
            yield prefix + key, bool(value) if key.endswith("weight") else value


def cost_key(costs: Mapping[str, Any]) -> str:
    """Equal for trainings that cost the same."""
    return json.dumps(costs, sort_keys=True)


@functools.cache
def this_device(setting: str) -> str:
    """Name of the device that a training with that `training.device` gets here."""
    if setting == "cpu" or not list(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


# What was measured


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, measured.

    Attributes:
        seconds: of a step.
        device: `cpu`, or the GPU's name.
        host: machine.
        threads: of the process.
        few: it rests on less than `_FEW` steps.
        calibrated: by `--calibrate`, not in a training.
    """

    seconds: float
    device: str
    host: str
    threads: int
    few: bool = False
    calibrated: bool = False


def seconds_per_step(folder: Path) -> tuple[float, int] | None:
    """Of a run's training: the median over its log's lines, which pauses and restarts do not move.

    Returns:
        Seconds, and how many steps they rest on: none where the log has less than two lines, and
        its progress tells a mean that holds the start; None: nothing is told.
    """
    paces, steps = [], 0
    for (step, time), (next_step, next_time) in pairwise(_last_lines(folder / "metrics.jsonl")):
        if next_step > step and next_time > time:
            paces.append((next_time - time) / (next_step - step))
            steps += next_step - step
    if paces:
        return statistics.median(paces), steps
    told = json_object(folder / "progress.json").get("seconds_per_step")
    return (float(told), 0) if told else None


def _last_lines(path: Path) -> Iterator[tuple[int, float]]:
    """Step and time of the last lines of a `metrics.jsonl`."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read().split(b"\n")[int(size > _TAIL) : -1]
    except OSError:
        return
    for line in lines:
        try:
            content = json.loads(line)
            yield int(content["step"]), float(content["time"])
        except (ValueError, KeyError, TypeError):
            continue


def timing_of(folder: Path, device_setting: str) -> Timing | None:
    """What a run's folder tells of its steps; None: nothing."""
    told = seconds_per_step(folder)
    manifest = json_object(folder / "manifest.json")
    environment = manifest.get("environment", {})
    if told is None or not environment:
        return None
    # A training on the CPU of a machine with a GPU has that GPU in its manifest.
    device = "cpu" if device_setting == "cpu" else environment.get("device", "cpu")
    threads = environment.get("threads", THREADS)
    return Timing(told[0], device, manifest.get("host", ""), threads, few=told[1] < _FEW)


@dataclass(frozen=True)
class StepTime:
    """What a step of a planned training is expected to take.

    Attributes:
        seconds: of a step.
        source: `own`: steps of this very run; `same`: of runs that cost the same; `calibration`;
            `nearest`: of another training of the same kind.
        note: the source in a few words.
        details: in what the nearest differs.
        few: it rests on the first steps of a training alone.
    """

    seconds: float
    source: Source
    note: str
    details: str = ""
    few: bool = False


@dataclass(frozen=True)
class Place:
    """Where a planned training would run, as far as this machine can tell.

    Attributes:
        host: this machine.
        device: that it would get here.
        setting: its `training.device`.
    """

    host: str
    device: str
    setting: str

    def fits(self, timing: Timing) -> bool:
        """Whether a timing tells of such a device; where `auto` finds no GPU, of any.

        Plans are also made where nothing is trained, such as on a cluster's login node.
        """
        anywhere = self.device == "cpu" and self.setting != "cpu"
        return anywhere or (timing.device == "cpu") == (self.device == "cpu")

    def away(self, timing: Timing) -> tuple[bool, bool]:
        """Whether it was taken on another device, and on another machine."""
        return timing.device != self.device, timing.host != self.host

    def words(self, timing: Timing) -> str:
        """The same for people, as the end of a phrase."""
        device, host = self.away(timing)
        names = [timing.device] * device + [timing.host] * host
        return f" on {' of '.join(names)}" if names else ""


@dataclass
class _Measured:
    """All timings of one cost."""

    costs: dict[str, Any]
    timings: list[Timing] = field(default_factory=list)


class StepTimes:
    """Everything that was measured in a folder of runs."""

    def __init__(self, runs: Path, known: Iterable[Run]) -> None:
        self.runs = runs
        self.host = platform.node()
        self.known = {run.id: run for run in known if run.kind in TRAINED}
        self.measured: dict[str, _Measured] = {}
        self._costs = {run.id: costs_of(run) for run in self.known.values()}
        self._found: dict[str, StepTime | None] = {}
        self._looked_at_foreign = False
        self._read_known()
        for entry in json_object(runs / CALIBRATION).get("measured", []):
            told = {key: entry[key] for key in ("seconds", "device", "host", "threads")}
            self._add(entry["costs"], Timing(**told, calibrated=True))

    def of(self, run: Run) -> StepTime | None:
        """The best that is known of a training's steps; None: no step of its kind was timed."""
        setting = run.config.training.device
        place = Place(self.host, this_device(setting), setting)
        own = timing_of(self.runs / run.id, setting)
        if own and not place.fits(own):
            own = None
        if own and not own.few:
            return StepTime(own.seconds, "own", "its own steps")
        costs = self._costs[run.id]
        key = f"{setting} {cost_key(costs)}"
        if key not in self._found:
            self._found[key] = self._of_others(costs, place)
        found = self._found[key]
        if own and (found is None or found.few or found.source == "nearest"):
            return StepTime(own.seconds, "own", "its own few steps", few=True)
        return found

    def newest_like(self, run: Run) -> list[Path]:
        """Folders of finished runs that cost the same, the newest first."""
        return self._folders.get(cost_key(self._costs[run.id]), [])

    def _of_others(self, costs: dict[str, Any], place: Place) -> StepTime | None:
        found = self._same(costs, place)
        if found is None and not self._looked_at_foreign:
            self._read_foreign()
            found = self._same(costs, place)
        return found or self._nearest(costs, place)

    def _add(self, costs: dict[str, Any], timing: Timing | None) -> None:
        if timing:
            self.measured.setdefault(cost_key(costs), _Measured(costs)).timings.append(timing)

    def _read_known(self) -> None:
        by_cost: dict[str, list[tuple[int, Run]]] = {}
        for run in self.known.values():
            try:
                written = (self.runs / run.id / "progress.json").stat().st_mtime_ns
            except OSError:
                continue
            by_cost.setdefault(cost_key(self._costs[run.id]), []).append((written, run))
        self._folders: dict[str, list[Path]] = {}
        for key, found in by_cost.items():
            ordered = [run for _, run in sorted(found, key=lambda pair: -pair[0])]
            for run in ordered[:_SAMPLE]:
                timing = timing_of(self.runs / run.id, run.config.training.device)
                self._add(self._costs[run.id], timing)
            whole = [self.runs / r.id for r in ordered if (self.runs / r.id / "model.pt").exists()]
            self._folders[key] = whole[:_SAMPLE]

    def _read_foreign(self) -> None:
        """Runs of other presets or seeds, by the settings in their folders."""
        self._looked_at_foreign = True
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        paths = [
            path
            for path in self.runs.glob("*/progress.json")
            if path.parent.name not in self.known and (path.parent / "config.yaml").exists()
        ]
        paths.sort(key=lambda path: -path.stat().st_mtime_ns)
        for path in paths[:_FOREIGN]:
            folder = path.parent
            kind = str(json_object(folder / "manifest.json").get("kind"))
            try:
                settings = yaml.load((folder / "config.yaml").read_bytes(), Loader=loader)
                settings = settings["settings"]
                costs = cost_settings(kind, settings)
                self._add(costs, timing_of(folder, settings["training"]["device"]))
            except (yaml.YAMLError, KeyError, TypeError):
                continue  # of another version, or damaged

    def _same(self, costs: dict[str, Any], place: Place) -> StepTime | None:
        measured = self.measured.get(cost_key(costs))
        fitting = [
            t for t in (measured.timings if measured else [])
            if place.fits(t) and t.threads == THREADS
        ]  # fmt: skip
        if not fitting:
            return None
        # Here first; then what trainings told, which saw their neighbours' load.
        rank = {t: (*place.away(t), t.few, t.calibrated) for t in fitting}
        best = min(rank.values())
        chosen = [t for t in fitting if rank[t] == best]
        seconds = statistics.median(t.seconds for t in chosen)
        away = place.words(chosen[0])
        if chosen[0].calibrated:
            return StepTime(seconds, "calibration", f"calibration{away}")
        few = ", few steps" if chosen[0].few else ""
        return StepTime(seconds, "same", f"same cost{away}{few}", few=chosen[0].few)

    def _nearest(self, costs: dict[str, Any], place: Place) -> StepTime | None:
        """Of the same kind, the fewest settings apart; scaled by pixels."""
        best: tuple[tuple[Any, ...], StepTime] | None = None
        for measured in self.measured.values():
            if measured.costs.get("kind") != costs["kind"]:
                continue
            factor = _size(costs) / _size(measured.costs)
            apart = _settings_apart(costs, measured.costs)
            for timing in filter(place.fits, measured.timings):
                threads = timing.threads != THREADS
                rank = (len(apart), *place.away(timing), threads, abs(math.log(factor)))
                if best is None or (*rank, timing.seconds) < best[0]:
                    scaled = "unscaled" if factor == 1 else f"x{factor:.3g} by pixels"
                    details = [f"{timing.threads} threads"] if threads else []
                    details += [f"other {', '.join(apart)}"] if apart else []
                    words = f"nearest, {scaled}{place.words(timing)}", "; ".join(details)
                    found = StepTime(timing.seconds * factor, "nearest", *words)
                    best = (*rank, timing.seconds), found
        return best[1] if best else None


def costs_of(run: Run) -> dict[str, Any]:
    """`cost_settings` of a run."""
    return cost_settings(run.kind, run.config.model_dump(mode="json"))


def _size(costs: Mapping[str, Any]) -> float:
    """Pixels of a batch: a step's time is nearly proportional to them."""
    return math.prod(costs[key] for key in _SIZE)


def _settings_apart(costs: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    keys = {*costs, *others} - {*_SIZE}
    missing = object()
    return sorted(key for key in keys if costs.get(key, missing) != others.get(key, missing))


# Other jobs


def seconds_of_rule(logs: Path, rule: str, known: Container[str]) -> float | None:
    """Median of Snakemake's benchmark files of a rule's jobs for known runs; None: there is none.

    Runs of other presets may be evaluated on a hundred times as many images.
    """
    seconds = []
    for path in sorted((logs / rule).rglob("*.tsv")):
        if path.stem not in known:
            continue
        try:
            with path.open(encoding="utf-8", newline="") as file:
                seconds += [float(line["s"]) for line in csv.DictReader(file, delimiter="\t")]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return statistics.median(seconds) if seconds else None
