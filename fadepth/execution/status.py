"""How far every training is: read from the run folders again and again, cheaply.

Nothing here writes, and nothing that lies in a run folder can stop it: a file that is half-written
or damaged counts as not there, and its run is told by what else is.
"""

import os
import platform
import re
import stat as stat_modes
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fadepth.files import json_object
from fadepth.report.measures import files_of
from fadepth.run import TRAINED, Run
from fadepth.study import Study, unique_runs
from fadepth.survival import process_lives

if TYPE_CHECKING:
    from rich.console import Console, Group, RenderableType
    from rich.text import Text

State = Literal["training", "stalled", "failed", "resumable", "waiting", "trained", "done"]

#: In the order in which they are told; the first four want a look.
STATES: tuple[State, ...] = (
    *("training", "stalled", "failed", "resumable", "waiting", "trained", "done"),
)
ACTIVE: tuple[State, ...] = ("training", "stalled", "failed", "resumable")

#: A run that is said to be running and has written nothing for so long is stalled, seconds.
SILENCE = 15 * 60

#: Files that a training writes now and then.
_SIGNS = ("manifest.json", "progress.json", "metrics.jsonl", "train.log", "ckpt/last.pt")

#: Of a training that has finished; its results may still be there, and are then all that counts.
_DELETED = "its model.pt was deleted"

_STYLES: dict[State, str] = {
    "training": "cyan",
    "stalled": "yellow",
    "failed": "red",
    "resumable": "yellow",
    "waiting": "dim",
    "trained": "blue",
    "done": "green",
}


@dataclass(frozen=True)
class Progress:
    """`progress.json`; None where the file does not say.

    Attributes:
        epoch, epochs, step, steps: where the training stands, counted from 1, and how far it goes.
        loss: mean since the last line of the log.
        seconds_per_step, seconds_left: measured by the training; the latter counted on to now.
    """

    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None

    def where(self) -> str:
        """`epoch 3/6`; empty where nothing is known."""
        return f"epoch {self.epoch}/{self.epochs}" if self.epoch and self.epochs else ""

    def words(self) -> str:
        """All of it in one line."""
        parts = [self.where() or "starting"]
        if self.step is not None and self.steps is not None:
            parts.append(f"step {self.step}/{self.steps}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.seconds_per_step is not None:
            parts.append(f"{self.seconds_per_step:.2f} s/step")
        if self.seconds_left is not None:
            parts.append(f"{clock(self.seconds_left)} left")
        return " · ".join(parts)


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        state: done: all that its study shows of it is there; trained: its network is;
            training: by a process that lives; resumable: it stopped and has a checkpoint; failed:
            it stopped by an error; stalled: said to be running, but silent or without process;
            waiting: not started.
        note: why, where there is more to say.
        progress: of a training that has begun and not ended.
    """

    state: State
    note: str = ""
    progress: Progress = Progress()

    def words(self) -> str:
        """The state with what is known of it."""
        told = self.progress.words() if self.state == "training" else self.note
        return f"{self.state}: {told}" if told else self.state


def clock(seconds: float) -> str:
    """`0:03:12`."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


# Reading


@dataclass
class _Files:
    """What files hold, read again only where their time or size has changed.

    Paths are plain strings: with thousands of runs, to join paths costs more than to look.
    """

    kept: dict[str, tuple[tuple[int, int, int], Any]] = field(default_factory=dict)

    def changed(self, path: str) -> float | None:
        """When a file was last written; None where there is no file."""
        status = _stat(path)
        return None if status is None else status.st_mtime

    def read(self, path: str, parse: Callable[[Path], Any]) -> Any:
        """What `parse` makes of the file; None where there is no file."""
        status = _stat(path)
        if status is None:
            self.kept.pop(path, None)
            return None
        now = status.st_mtime_ns, status.st_size, status.st_ino
        before = self.kept.get(path)
        if before is None or before[0] != now:
            self.kept[path] = before = now, parse(Path(path))
        return before[1]


def _stat(path: str) -> os.stat_result | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status if stat_modes.S_ISREG(status.st_mode) else None


def _manifest(path: Path) -> tuple[str, int | None, str | None]:
    """Status, process and machine. Little of it is kept, since there may be thousands."""
    content = json_object(path)
    status, pid, host = (content.get(key) for key in ("status", "pid", "host"))
    return (
        status if isinstance(status, str) else "damaged",
        pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else None,
        host if isinstance(host, str) else None,
    )


def _progress(path: Path) -> Progress:
    content = json_object(path)

    def number(key: str) -> float | None:
        value = content.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return float(value) if abs(value) < 1e15 else None  # false for NaN, too

    def whole(key: str) -> int | None:
        value = number(key)
        return None if value is None else int(value)

    return Progress(
        whole("epoch"),
        whole("epochs"),
        whole("step"),
        whole("steps"),
        number("loss"),
        number("seconds_per_step"),
        number("eta_seconds"),
    )


def last_line(path: Path) -> str:
    """The last line of a log that says something, without its time and level; may be empty."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = re.sub(r"^\S+ \S+ (DEBUG|INFO|WARNING|ERROR|CRITICAL) ", "", lines[-1]) if lines else ""
    # A log may hold anything, and a terminal obeys some of it.
    return "".join(letter for letter in told if letter.isprintable())


# The board


@dataclass(frozen=True)
class BoardRow:
    """A row of a study, with the state of each of its runs in the order of the seeds."""

    label: str
    runs: Sequence[tuple[Run, RunState]]


@dataclass(frozen=True)
class StudyBoard:
    """Rows of a study in the order of its table."""

    table: str
    title: str
    rows: Sequence[BoardRow]


@dataclass(frozen=True)
class Snapshot:
    """All studies at one moment; `runs` has each run once, by id, however many studies share it."""

    studies: Sequence[StudyBoard]
    runs: Mapping[str, tuple[Run, RunState]]

    @property
    def finished(self) -> bool:
        """Whether all that the studies show is there."""
        return all(state.state == "done" for _, state in self.runs.values())

    def counts(self) -> Counter[State]:
        """Number of trainings in each state; a run that studies share counts once."""
        return Counter(state.state for run, state in self.runs.values() if run.kind in TRAINED)

    def summary(self) -> str:
        """`23 of 34 trainings done, 2 training, ETA of those 0:03:12; 20 of 40 runs evaluated`."""
        counts = self.counts()
        parts = [f"{counts['done'] + counts['trained']} of {counts.total()} trainings done"]
        for name in STATES[:5]:
            if counts[name]:
                parts.append(f"{counts[name]} {name}")
            left = [s.progress.seconds_left for _, s in self.runs.values() if s.state == "training"]
            if name == "training" and (known := [value for value in left if value is not None]):
                parts.append(f"ETA of those {clock(max(known))}")
        evaluated = sum(state.state == "done" for _, state in self.runs.values())
        return f"{', '.join(parts)}; {evaluated} of {len(self.runs)} runs evaluated"

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "summary": self.summary(),
            "finished": self.finished,
            "trainings": {name: self.counts()[name] for name in STATES},
            "studies": [
                {
                    "table": study.table,
                    "title": study.title,
                    "rows": [
                        {"row": row.label, "runs": [_run_json(*pair) for pair in row.runs]}
                        for row in study.rows
                    ],
                }
                for study in self.studies
            ],
        }


def _run_json(run: Run, state: RunState) -> dict[str, Any]:
    known = {key: value for key, value in vars(state.progress).items() if value is not None}
    content = {"run": run.id, "kind": run.kind, "seed": run.seed, "state": state.state}
    return content | {"note": state.note, "progress": known}


class Board:
    """Reads the state of all runs of studies; `read` may be called again and again."""

    def __init__(
        self,
        studies: Iterable[Study],
        runs: Path,
        *,
        now: Callable[[], float] = time.time,
        lives: Callable[[int], bool] = process_lives,
    ) -> None:
        self.folder, self.now, self.lives = runs, now, lives
        self.studies = list(studies)
        #: A shared run under one of the names that studies give it.
        self.named = unique_runs(self.studies)
        self.host = platform.node()
        self.files = _Files()
        #: Of each study, the files that its table shows of a run, by the run's kind.
        self.shown = [
            {run.kind: files_of(study, run) for run in reversed(list(study.runs))}
            for study in self.studies
        ]

    def read(self) -> Snapshot:
        """The state of everything now."""
        trained: dict[str, RunState] = {}
        found: dict[str, tuple[Run, RunState]] = {}
        boards = []
        for study, shown in zip(self.studies, self.shown, strict=True):
            rows = []
            for row in study.rows:
                states = []
                for run in row.runs:
                    if run.id not in trained:
                        trained[run.id] = self._training(run)
                    state = self._with_results(run, trained[run.id], shown[run.kind])
                    states.append((run, state))
                    other = found.get(run.id)
                    if other is None or other[1].state == "done":
                        # What one study still lacks of a shared run is lacking.
                        found[run.id] = self.named[run.id], state
                rows.append(BoardRow(row.label, states))
            config = study.config
            title = f"{study.file.title} · {config.scale} · {config.data.name}"
            boards.append(StudyBoard(study.file.table, title, rows))
        return Snapshot(boards, found)

    def _with_results(self, run: Run, state: RunState, shown: Sequence[str]) -> RunState:
        if state.state != "trained" and state.note != _DELETED:
            return state
        folder = f"{self.folder}/{run.id}"
        if all(self.files.changed(f"{folder}/{name}") is not None for name in shown):
            return RunState("done", state.note)
        # What is only evaluated is either that or waits.
        return state if run.kind in TRAINED else RunState("waiting")

    def _training(self, run: Run) -> RunState:
        """State of a training, whatever its results; what is only evaluated counts as trained."""
        if run.kind not in TRAINED:
            return RunState("trained")
        folder = f"{self.folder}/{run.id}"
        manifest = self.files.read(f"{folder}/manifest.json", _manifest)
        model = self.files.changed(f"{folder}/model.pt") is not None
        if manifest is None:
            return RunState("trained", "no manifest.json") if model else RunState("waiting")
        status, pid, host = manifest
        if status == "running":
            return self._running(folder, pid, host)
        if model and status in ("finished", "damaged"):
            return RunState("trained", "" if status == "finished" else "manifest.json is damaged")
        if status == "failed":
            line = self.files.read(f"{folder}/train.log", last_line)
            return RunState("failed", line or "manifest.json says so")
        if status == "finished":
            return RunState("waiting", _DELETED)
        return self._stopped(folder, "interrupted" if status == "interrupted" else "stopped")

    def _running(self, folder: str, pid: int | None, host: str | None) -> RunState:
        """Of a training whose manifest says that it is running."""
        if pid is not None and host in (None, self.host) and not self.lives(pid):
            return self._stopped(folder, "killed")
        signs = [self.files.changed(f"{folder}/{name}") for name in _SIGNS]
        silent = self.now() - max((time for time in signs if time is not None), default=0.0)
        if silent >= SILENCE:
            where = "" if host in (None, self.host) else f", on {host}"
            return RunState("stalled", f"silent for {clock(silent)}{where}")
        path = f"{folder}/progress.json"
        progress = self.files.read(path, _progress) or Progress()
        written = self.files.changed(path)
        if progress.seconds_left is not None and written is not None:
            left = max(0.0, progress.seconds_left - max(0.0, self.now() - written))
            progress = Progress(**{**vars(progress), "seconds_left": left})
        return RunState("training", progress=progress)

    def _stopped(self, folder: str, how: str) -> RunState:
        """Of a training that ended before its time: what the next start finds."""
        progress = self.files.read(f"{folder}/progress.json", _progress) or Progress()
        where = f" in {progress.where()}" if progress.where() else ""
        if self.files.changed(f"{folder}/ckpt/last.pt") is not None:
            return RunState("resumable", f"{how}{where}", progress)
        if how == "killed":
            return RunState("stalled", f"its process is gone{where}, without a checkpoint")
        return RunState("waiting", f"{how}{where}, without a checkpoint")


# Drawing


def board_view(snapshot: Snapshot, height: int | None = None, width: int = 80) -> "Group":
    """All rows of all studies; where these are more than `height` lines, what is active in full."""
    from rich.console import Group

    # To count rows is quick, to render thousands of them is not.
    least = sum(len(study.rows) + 1 for study in snapshot.studies)
    too_long = height is not None and least > height - 1
    parts = [] if too_long else list(_whole(snapshot))
    if height is not None and (too_long or _lines_of(parts, width) > height - 1):
        summary = -(-len(snapshot.summary()) // width)
        parts = list(_short(snapshot, height - 1 - summary))
    return Group(*parts, _text(snapshot.summary(), "bold"))


def _whole(snapshot: Snapshot) -> Iterator["RenderableType"]:
    from rich.table import Table

    for study in snapshot.studies:
        yield _text(f"{study.title} · {study.table}", "bold")
        view = Table.grid("", "row", "seeds", padding=(0, 2, 0, 0))
        for row in study.rows:
            view.add_row("", _text(row.label), _seeds(row))
        yield view


def _lines_of(parts: Sequence["RenderableType"], width: int) -> int:
    from rich.console import Console

    console = Console(width=width)
    return sum(len(console.render_lines(part)) for part in parts)


def _seeds(row: BoardRow) -> "Text":
    """Seeds of equal words share a line."""
    from rich.text import Text

    grouped: dict[str, list[tuple[Run, RunState]]] = {}
    for run, state in sorted(row.runs, key=lambda pair: STATES.index(pair[1].state)):
        grouped.setdefault(state.words(), []).append((run, state))
    lines = []
    for words, pairs in grouped.items():
        seeds = "" if len(row.runs) == 1 else f"{_numbers([run.seed for run, _ in pairs])}  "
        lines.append(Text(seeds) + _text(words, _STYLES[pairs[0][1].state]))
    return Text("\n").join(lines)


def _numbers(seeds: Sequence[int]) -> str:
    """`1-3, 7`."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _short(snapshot: Snapshot, lines: int) -> Iterator["RenderableType"]:
    """A line a study, and one for each run that is active; `lines` at most, the rest counted."""
    every: list[Text] = []
    for study in snapshot.studies:
        counts = Counter(state.state for row in study.rows for _, state in row.runs)
        told = ", ".join(f"{counts[name]} {name}" for name in reversed(STATES) if counts[name])
        every.append(_line(f"{study.table}: {told}", "bold"))
        for row in study.rows:
            for run, state in row.runs:
                if state.state in ACTIVE:
                    words = f"  {row.label}, seed {run.seed}: {state.words()}"
                    every.append(_line(words, _STYLES[state.state]))
    if len(every) > lines > 0:
        yield from every[: lines - 1]
        yield _line(f"… {len(every) - lines + 1} more lines", "dim")
    else:
        yield from every


def _text(words: str, style: str = "") -> "Text":
    # Text, not markup: a label may hold brackets, and a log anything.
    from rich.text import Text

    return Text(words, style=style)


def _line(words: str, style: str) -> "Text":
    """Text that takes one line, whatever the width."""
    text = _text(words, style)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


# Watching


def changes_between(before: Snapshot | None, after: Snapshot) -> list[str]:
    """A line for each run whose state or epoch is another; at first, all that have begun."""
    lines = []
    for run_id, (run, state) in after.runs.items():
        old = before.runs[run_id][1] if before else RunState("waiting")
        same_epoch = state.progress.epoch == old.progress.epoch or state.state != "training"
        if old.state != state.state or not same_epoch:
            lines.append(f"{run.label}, seed {run.seed}: {state.words()} ({run_id})")
    return lines


def watch(
    board: Board,
    console: "Console",
    interval: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show the board until everything is done: drawn on a terminal, elsewhere a line a change."""
    if not console.is_terminal:
        _watch_lines(board, console, interval, sleep)
        return
    from rich.live import Live

    def view(snapshot: Snapshot) -> "Group":
        return board_view(snapshot, console.height, console.width)

    snapshot = board.read()
    with Live(view(snapshot), console=console, auto_refresh=False) as live:
        while not snapshot.finished:
            sleep(interval)
            snapshot = board.read()
            live.update(view(snapshot), refresh=True)


def _watch_lines(
    board: Board, console: "Console", interval: float, sleep: Callable[[float], None]
) -> None:
    def say(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, soft_wrap=True)
        console.file.flush()

    snapshot = board.read()
    for line in [*changes_between(None, snapshot), snapshot.summary()]:
        say(line)
    while not snapshot.finished:
        sleep(interval)
        before, snapshot = snapshot, board.read()
        for line in changes_between(before, snapshot):
            say(line)
        if snapshot.finished:
            say(snapshot.summary())
