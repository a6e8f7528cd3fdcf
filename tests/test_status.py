"""The board: what each run folder says, read again and again, and what is shown of it."""

import io
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from project import Project, make_project
from rich.console import Console

from fadepth.execution import status
from fadepth.execution.status import Board, RunState, Snapshot, board_view, watch
from fadepth.report.measures import files_of
from fadepth.run import TRAINED, Run
from fadepth.study import Study
from tests.report import fakes

NOW = 1_800_000_000.0
HERE = platform.node()
PROGRESS = {
    "step": 210,
    "steps": 480,
    "epoch": 3,
    "epochs": 6,
    "loss": 0.12344,
    "seconds_per_step": 0.421,
    "eta_seconds": 192.4,
}
ALIVE, GONE = 11, 12


@cache
def study_of(name: str = "components", seeds: tuple[int, ...] = (1,), scale: str = "full") -> Study:
    return fakes.study_of(name, seeds=list(seeds), scale=scale)


def write(folder: Path, name: str, content: object = "", age: float = 0) -> Path:
    """A file that was written `age` seconds ago."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(path, (NOW - age, NOW - age))
    return path


def manifest(folder: Path, state: str, pid: int = ALIVE, host: str = HERE, age: float = 0) -> None:
    write(folder, "manifest.json", {"status": state, "pid": pid, "host": host}, age)


def train(folder: Path, **changes: Any) -> None:
    """A training in its third epoch."""
    manifest(folder, "running", **changes)
    write(folder, "progress.json", PROGRESS, changes.get("age", 0))


def finish(folder: Path, results: bool = True) -> None:
    manifest(folder, "finished")
    write(folder, "model.pt")
    for name in ("metrics.json", "per_image.csv") if results else ():
        write(folder, name)


def board(runs: Path, *studies: Study) -> Board:
    return Board(studies or [study_of()], runs, now=lambda: NOW, lives=lambda pid: pid == ALIVE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of the first row's run."""
    return tmp_path / next(study_of().runs).id


def state_of(folder: Path) -> RunState:
    return board(folder.parent).read().runs[folder.name][1]


# States


def test_a_run_without_folder_waits(folder: Path) -> None:
    assert state_of(folder) == RunState("waiting")


def test_a_run_is_done_once_its_table_has_all_it_shows(folder: Path) -> None:
    finish(folder, results=False)
    assert state_of(folder).state == "trained"
    write(folder, "metrics.json")
    assert state_of(folder).state == "trained"
    write(folder, "per_image.csv")
    assert state_of(folder).state == "done"


def test_results_on_a_benchmark_count_where_the_table_shows_a_benchmark(tmp_path: Path) -> None:
    """table_generalisation needs Make3D and Cityscapes, table_ablation the own frames."""
    other = study_of("generalisation")
    run = next(run for run in other.students if run.id in {r.id for r in study_of().runs})
    finish(tmp_path / run.id)
    both = board(tmp_path, study_of(), other).read()
    states = {
        study.table: state.state
        for study in both.studies
        for row in study.rows
        for r, state in row.runs
        if r.id == run.id
    }
    assert states == {"table_ablation": "done", "table_generalisation": "trained"}
    assert both.runs[run.id][1].state == "trained"
    for name in files_of(other, run):
        write(tmp_path / run.id, name)
    assert board(tmp_path, study_of(), other).read().runs[run.id][1].state == "done"


def test_a_training_tells_where_it_is(folder: Path) -> None:
    train(folder)
    state = state_of(folder)
    assert state.state == "training"
    assert state.words() == (
        "training: epoch 3/6 · step 210/480 · loss 0.1234 · 0.42 s/step · 0:03:12 left"
    )


def test_what_is_left_is_counted_on_to_now(folder: Path) -> None:
    train(folder, age=60)
    assert state_of(folder).progress.seconds_left == pytest.approx(192.4 - 60)
    train(folder, age=600)
    assert state_of(folder).progress.seconds_left == 0


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (True, RunState("resumable", "killed in epoch 3/6")),
        (False, RunState("stalled", "its process is gone in epoch 3/6, without a checkpoint")),
    ],
)
def test_a_run_whose_process_is_gone_was_killed(
    folder: Path, kept: bool, expected: RunState
) -> None:
    train(folder, pid=GONE)
    if kept:
        write(folder, "ckpt/last.pt")
    state = state_of(folder)
    assert (state.state, state.note) == (expected.state, expected.note)


def test_the_process_of_another_machine_cannot_be_asked_for(folder: Path) -> None:
    train(folder, pid=GONE, host="another")
    assert state_of(folder).state == "training"


@pytest.mark.parametrize("host", [HERE, "another"])
def test_a_training_is_stalled_after_a_quarter_of_an_hour_of_silence(
    folder: Path, host: str
) -> None:
    train(folder, host=host, age=899)
    assert state_of(folder).state == "training"
    train(folder, host=host, age=960)
    state = state_of(folder)
    assert state.state == "stalled"
    assert "0:16:00" in state.note
    assert ("another" in state.note) == (host == "another")
    write(folder, "train.log", "2026-11-24 18:00:00,000 INFO reading images", age=5)
    assert state_of(folder).state == "training", "it writes a log"


def test_an_interrupted_training_goes_on_from_its_checkpoint(folder: Path) -> None:
    train(folder)
    manifest(folder, "interrupted")
    assert state_of(folder).state == "waiting"
    write(folder, "ckpt/last.pt")
    assert state_of(folder).words() == "resumable: interrupted in epoch 3/6"


def test_a_failed_training_tells_the_last_line_of_its_log(folder: Path) -> None:
    manifest(folder, "failed")
    assert state_of(folder).state == "failed"
    log = "2026-11-24 18:00:00,123 INFO step 3\n2026-11-24 18:00:01,123 ERROR the loss is NaN\n\n"
    write(folder, "train.log", log)
    assert state_of(folder).words() == "failed: the loss is NaN"


def test_a_log_cannot_steer_the_terminal(folder: Path) -> None:
    manifest(folder, "failed")
    write(folder, "train.log", "x" * 10_000 + "\n\x1b]0;title\x07\x1b[31mred[/bold]\n")
    assert state_of(folder).note == "]0;title[31mred[/bold]"


def test_results_outlive_their_network(folder: Path) -> None:
    """Whoever deletes model.pt of a finished run keeps its row; without results it waits."""
    finish(folder)
    (folder / "model.pt").unlink()
    assert state_of(folder).state == "done"
    (folder / "metrics.json").unlink()
    assert state_of(folder).words() == "waiting: its model.pt was deleted"


def test_what_is_only_evaluated_waits_or_is_done(tmp_path: Path) -> None:
    run = next(run for run in study_of().runs if run.kind == "baseline")
    assert state_of(tmp_path / run.id).state == "waiting"
    for name in ("metrics.json", "per_image.csv"):
        write(tmp_path / run.id, name)
    assert state_of(tmp_path / run.id).state == "done"


# Damage

DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_text(""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "bytes": lambda path: path.write_bytes(b"\xff\x00\xfe" * 50),
    "list": lambda path: path.write_text("[1, 2]"),
    "other types": lambda path: path.write_text(
        '{"status": 3, "pid": "x", "host": [], "epoch": "a", "epochs": true, "step": NaN, '
        '"steps": 1e999, "loss": {}, "eta_seconds": ' + "9" * 400 + "}"
    ),
    "deep": lambda path: path.write_text("[" * 100_000),
    "folder": lambda path: path.rename(path.with_suffix(".old")).with_suffix(path.suffix).mkdir(),
}


@pytest.mark.parametrize("name", ["manifest.json", "progress.json", "train.log", "metrics.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_stop_nothing(folder: Path, name: str, damage: str) -> None:
    """The other runs are told as before, and so is this one but for what is lost."""
    other = folder.parent / list(study_of().runs)[1].id
    finish(other)
    for state in ("running", "failed", "interrupted", "finished"):
        train(folder)
        manifest(folder, state)
        for extra in ("train.log", "metrics.json", "ckpt/last.pt"):
            write(folder, extra, "{}")
        DAMAGE[damage](folder / name)
        snapshot = board(folder.parent).read()
        assert snapshot.runs[other.name][1].state == "done"
        text = printed(snapshot)
        assert "1 of 9 trainings done" in text
        if (folder / name).is_dir():
            (folder / name).rmdir()


def test_a_training_with_damaged_progress_still_trains(folder: Path) -> None:
    train(folder)
    write(folder, "progress.json", '{"step": 21')
    assert state_of(folder).words() == "training: starting"


def test_a_network_with_a_damaged_manifest_is_told(folder: Path) -> None:
    finish(folder, results=False)
    write(folder, "manifest.json", '{"status": "fin')
    assert state_of(folder).words() == "trained: manifest.json is damaged"


# The board


def test_a_shared_run_is_shown_in_each_study_and_counted_once(tmp_path: Path) -> None:
    """Nine networks of table_ablation, seven of table_etm, two of them the same."""
    components, etm = study_of("components"), study_of("etm")
    shared = {run.id for run in components.runs} & {run.id for run in etm.runs}
    assert len(shared) == 2
    for run_id in shared:
        finish(tmp_path / run_id)
    snapshot = board(tmp_path, components, etm).read()
    shown = [
        run.id
        for study in snapshot.studies
        for row in study.rows
        for run, state in row.runs
        if state.state == "done"
    ]
    assert sorted(shown) == sorted([*shared, *shared])
    # Seventeen with the three baselines of table_ablation.
    assert snapshot.summary() == "2 of 14 trainings done, 12 waiting; 2 of 17 runs evaluated"


def test_the_summary_tells_the_longest_of_what_is_left(tmp_path: Path) -> None:
    first, second, third, *_ = (tmp_path / run.id for run in study_of().runs)
    train(first)
    train(second, age=100)
    finish(third, results=False)
    summary = board(tmp_path).read().summary()
    assert summary.startswith("1 of 9 trainings done, 2 training, ETA of those 0:03:12, 6 waiting")


def test_only_changed_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    parse = status.json_object

    def noted(path: Path) -> Mapping[str, Any]:
        read.append(path.name)
        return parse(path)

    monkeypatch.setattr(status, "json_object", noted)
    networks = [run for run in study_of().runs if run.kind in TRAINED]
    for run in networks:
        train(tmp_path / run.id)
    watched = board(tmp_path)
    watched.read()
    assert len(read) == 2 * len(networks)
    read.clear()
    watched.read()
    assert read == []
    write(tmp_path / networks[0].id, "progress.json", {**PROGRESS, "epoch": 4}, age=-1)
    assert watched.read().runs[networks[0].id][1].progress.epoch == 4
    assert read == ["progress.json"]


def printed(snapshot: Snapshot, height: int | None = None, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(board_view(snapshot, height, width))
    return stream.getvalue()


def test_rows_show_equal_seeds_together(tmp_path: Path) -> None:
    study = study_of(seeds=(1, 2, 3, 5))
    plain = study.rows[0].runs
    for run in plain[:3]:
        finish(tmp_path / run.id)
    train(tmp_path / plain[3].id)
    lines = printed(board(tmp_path, study).read()).splitlines()
    row = next(n for n, line in enumerate(lines) if line.startswith("  SmallDepth"))
    assert "5  training: epoch 3/6" in lines[row]
    assert lines[row + 1].strip() == "1-3  done"
    assert lines[row + 2].split() == ["+", "ETM", "1-3,", "5", "waiting"]


def test_a_small_terminal_shows_what_is_active(tmp_path: Path) -> None:
    study = study_of(seeds=tuple(range(1, 41)))
    students = list(study.students)
    for run in students[:100]:
        finish(tmp_path / run.id)
    for run in students[150:153]:
        train(tmp_path / run.id)
    snapshot = board(tmp_path, study).read()
    for height, width in ((12, 100), (8, 60)):
        lines = printed(snapshot, height, width).splitlines()
        assert len(lines) <= height - 1
        assert sum("training: epoch" in line for line in lines) == 3
        assert "100 done" in lines[0]
    assert len(printed(snapshot, 4).splitlines()) <= 3, "however small"
    whole = printed(snapshot)
    assert all(row.label in whole for row in study.rows)


def test_labels_are_not_taken_for_markup(tmp_path: Path) -> None:
    study = study_of()
    row = study.rows[0]
    named = type(row)("[bold]mine[/nothing]", row.kind, row.factors, row.runs)
    other = type(study)(study.file, study.config, study.data_hash, (named, *study.rows[1:]))
    assert "[bold]mine[/nothing]" in printed(board(tmp_path, other).read())


def test_a_board_of_all_runs_is_json(tmp_path: Path) -> None:
    train(tmp_path / next(study_of().runs).id)
    content = json.loads(json.dumps(board(tmp_path).read().as_json()))
    assert content["trainings"] | {"training": 1, "waiting": 8, "done": 0} == content["trainings"]
    run = content["studies"][0]["rows"][0]["runs"][0]
    assert run["state"] == "training"
    assert run["progress"]["step"] == 210
    assert not content["finished"]


# Watching


def results_of(tmp_path: Path, run: Run) -> None:
    if run.kind in TRAINED:
        finish(tmp_path / run.id)
    else:
        for name in ("metrics.json", "per_image.csv"):
            write(tmp_path / run.id, name)


def watched(tmp_path: Path, *steps: Callable[[], None], terminal: bool = False) -> str:
    """What `watch` prints while the steps happen, one in each pause."""
    left = list(steps)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=200, height=30)
    watch(board(tmp_path, study_of("etm")), console, 2.0, lambda seconds: left.pop(0)())
    assert not left, "it ended before all had happened"
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_ends_when_everything_is_done(tmp_path: Path, terminal: bool) -> None:
    def end() -> None:
        for run in study_of("etm").runs:
            results_of(tmp_path, run)

    text = watched(tmp_path, lambda: None, end, terminal=terminal)
    assert "7 of 7 trainings done; 7 of 7 runs evaluated" in text


def test_without_a_terminal_each_change_is_a_line(tmp_path: Path) -> None:
    runs = list(study_of("etm").runs)
    first = tmp_path / runs[0].id

    def next_step() -> None:
        write(first, "progress.json", {**PROGRESS, "step": 220}, age=-1)

    def next_epoch() -> None:
        write(first, "progress.json", {**PROGRESS, "epoch": 4}, age=-2)

    def end() -> None:
        for run in runs:
            results_of(tmp_path, run)

    text = watched(tmp_path, lambda: train(first), lambda: None, next_step, next_epoch, end)
    lines = [line.split(" ", 1)[1] for line in text.splitlines()]
    name = "SmallDepth, seed 1: training: epoch {}/6 · step 210/480 · loss 0.1234 · 0.42 s/step"
    assert lines[0] == "0 of 7 trainings done, 7 waiting; 0 of 7 runs evaluated"
    assert [line.partition(" · 0:03")[0] for line in lines[1:3]] == [name.format(3), name.format(4)]
    assert lines[3] == f"SmallDepth, seed 1: done ({runs[0].id})"
    assert len(lines) == 3 + len(runs) + 1


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    return make_project(tmp_path_factory.mktemp("status"), repository)


def test_ctrl_c_ends_watching_with_a_sentence(project: Project) -> None:
    command = [sys.executable, "-m", "fadepth", "status", "etm", "--watch", "--interval", "0.1"]
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        env=project.environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background jobs ignore the signal; this one must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert "0 of 7 trainings done" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    said = process.stdout.read()
    assert said == "fadepth: interrupted; what is being trained goes on\n"


def test_status_of_chosen_tables_as_json(project: Project) -> None:
    result = project.fadepth("status", "etm", "table_ablation", "--json")
    assert result.returncode == 0, result.stdout
    assert [s["table"] for s in json.loads(result.stdout)["studies"]] == [
        "table_etm",
        "table_ablation",
    ]


def test_an_unknown_table_is_told_with_the_nearest(project: Project) -> None:
    result = project.fadepth("status", "table_emt")
    assert result.returncode == 2
    assert "no study is called 'table_emt': did you mean table_etm?" in result.stdout


def test_runs_lists_every_id(project: Project) -> None:
    text = project.fadepth("runs", "--preset", "config/smoke.yaml").stdout
    for run in study_of("etm", scale="smoke").runs:
        assert run.id in text
