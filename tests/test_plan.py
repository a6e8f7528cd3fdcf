"""`fadepth plan`: Snakemake's own jobs, times worked out by hand, what fits a budget."""

import itertools
import json
import os
import platform
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from project import make_project
from typer.testing import CliRunner

from fadepth.checkpoint import Identity
from fadepth.cli import app
from fadepth.cli.planning import _spans
from fadepth.config import load_yaml, merge
from fadepth.data.kitti import FrameId
from fadepth.errors import FadepthError
from fadepth.execution.plan import progress
from fadepth.execution.plan.calibrate import calibrate
from fadepth.execution.plan.disk import bytes_of, computed_bytes, needed_bytes
from fadepth.execution.plan.jobs import WorkflowJob, count_pending, parse_graph, workflow_jobs
from fadepth.execution.plan.plan import Places, Plan, PlannedRun, Planner, rank
from fadepth.execution.plan.progress import TrainingImages, find_checkpoint, training_images
from fadepth.execution.plan.schedule import (
    Task,
    fitting,
    parse_duration,
    spoken_duration,
    wall_seconds,
)
from fadepth.execution.plan.times import (
    CALIBRATION,
    StepTimes,
    cost_key,
    costs_of,
    seconds_of_rule,
    seconds_per_step,
)
from fadepth.run import Run
from fadepth.study import Study, resolve_and_leave_out, resolve_study
from fadepth.training import Job, Training
from tests.report.fakes import ROOT
from tests.tiny import tiny_config, tiny_manifest

HERE = platform.node()


def study_of(name: str, **overrides: Any) -> Study:
    """A study on the smoke preset, which trains 2 epochs of 3 steps, on one CPU thread."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    preset = merge(load_yaml(ROOT / "config" / "smoke.yaml"), {"training.device": "cpu", **dotted})
    return resolve_study(ROOT / "ablations" / f"{name}.yaml", preset, "tests/test_plan.py")


def row_of(study: Study, label: str) -> tuple[Run, ...]:
    return next(row.runs for row in study.rows if row.label == label)


def graph(study: Study, reused: Sequence[str] = ()) -> list[WorkflowJob]:
    """The jobs of a study's table; runs whose ids are in `reused` are trained and evaluated."""
    jobs: list[WorkflowJob] = []

    def add(rule: str, wildcards: dict[str, str], pending: bool, *needs: int) -> int:
        jobs.append(WorkflowJob(len(jobs), rule, wildcards, pending, needs))
        return len(jobs) - 1

    data = add("prepare_data", {"dataset": "street"}, not reused)
    predictions: dict[str, int] = {}
    evaluations = []
    teachers_first = sorted(study.networks, key=lambda run: run.kind != "teacher")
    for run in teachers_first:
        pending = run.id not in reused
        if run.kind == "teacher":
            trained = add("train_teacher", {"teacher": run.id}, pending, data)
            predictions[run.id] = add("predict_teacher", {}, pending, data, trained)
        else:
            needs = [predictions[run.teacher.id]] if run.teacher else []
            trained = add("train_student", {"student": run.id}, pending, data, *needs)
        evaluations.append(add("evaluate_run", {"network": run.id}, pending, data, trained))
    add("render_table", {"table": study.file.table}, True, *evaluations)
    return jobs


def write_history(
    folder: Path, lines: Sequence[tuple[int, float]], steps: int = 6, **manifest: Any
) -> Path:
    """A training's log with (step, time) of each line, its progress and its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    log = "".join(json.dumps({"step": step, "time": time}) + "\n" for step, time in lines)
    (folder / "metrics.jsonl").write_text(log)
    told = {"step": lines[-1][0], "steps": steps, "epoch": 1, "epochs": 2}
    (folder / "progress.json").write_text(json.dumps({**told, "seconds_per_step": 99.0}))
    content = {
        "run_id": folder.name,
        "kind": "student",
        "status": "finished",
        "host": HERE,
        "environment": {"device": "cpu", "threads": 1},
    }
    (folder / "manifest.json").write_text(json.dumps(content | manifest))
    return folder


def steady(seconds: float, steps: int = 6) -> list[tuple[int, float]]:
    """A log with a line for each step, `seconds` apart."""
    return [(step, 1000.0 + seconds * step) for step in range(1, steps + 1)]


def times_of(study: Study, runs: Path) -> StepTimes:
    return StepTimes(runs, study.runs)


# What Snakemake says


def test_graph_is_read_from_the_dot_language() -> None:
    text = """digraph snakemake_dag {
    graph[bgcolor=white, margin=0];
\t0[label = "all_reports", color = "0.02 0.6 0.85", style="rounded"];
\t1[label = "train_student\\nstudent: etm-s1-0123456789", color = "0.4 0.6 0.85", style="rounded"];
\t2[label = "prepare_data\\ndataset: a-b: c", color = "0.4 0.6 0.85", style="rounded,dashed"];
\t1 -> 0
\t2 -> 1
}"""
    last, training, data = parse_graph(text)
    assert (last.rule, last.wildcards, last.needs, last.training) == ("all_reports", {}, (1,), None)
    assert training.training == "etm-s1-0123456789"
    assert training.pending
    assert training.needs == (2,)
    assert data.wildcards == {"dataset": "a-b: c"}
    assert not data.pending


def test_output_that_is_no_graph_is_an_error_in_one_sentence() -> None:
    with pytest.raises(FadepthError, match=r"no graph .* requirements\.lock"):
        parse_graph("Building DAG of jobs...\n")


@pytest.mark.slow
def test_jobs_are_those_of_a_dry_run(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some runs are there already; the table's other jobs depend on both kinds."""
    project = make_project(tmp_path, repository)
    study = study_of("etm")
    plain, rep, *_ = study.students
    manifest = tmp_path / "data" / plain.data_folder / "manifest.jsonl"
    for path in (manifest, tmp_path / "runs" / plain.id / "model.pt"):
        path.parent.mkdir(parents=True)
        path.touch()
    write_history(tmp_path / "runs" / rep.id, steady(2.0, 4), code_hash=rep.code_hash)
    (tmp_path / "runs" / rep.id / "ckpt").mkdir()
    (tmp_path / "runs" / rep.id / "ckpt" / "last.pt").touch()

    options = ("--configfile", "config/smoke.yaml", "--config", 'training={"device": "cpu"}')
    dry = project.snakemake("reports/table_etm.csv", "-n", *options)
    assert dry.returncode == 0, dry.stdout
    stats = dry.stdout.partition("Job stats:")[2]
    counts = dict(re.findall(r"^(\w+) +(\d+)$", stats.partition("\n\n")[0], re.MULTILINE))
    assert counts.pop("total") == "14"

    monkeypatch.chdir(tmp_path)
    overrides = {"training.device": "cpu"}
    jobs = workflow_jobs(["reports/table_etm.csv"], [Path("config/smoke.yaml")], overrides)
    assert count_pending(jobs) == {rule: int(number) for rule, number in counts.items()}
    assert {job.training for job in jobs if job.training} == {run.id for run in study.networks}
    assert [job.training for job in jobs if job.training and not job.pending] == [plain.id]

    flags = ("--preset", "config/smoke.yaml", "--override", json.dumps(overrides))
    told = project.fadepth("plan", "reports/table_etm.csv", *flags, "--json", "--budget", "9s")
    assert told.returncode == 0, told.stdout
    content = json.loads(told.stdout)
    assert content["jobs"] == count_pending(jobs)
    assert content["trainings"] == {"to_do": 5, "resumable": 1, "running": 0, "reused": 1}
    resumable = next(run for run in content["runs"] if run["id"] == rep.id)
    assert (resumable["step"], resumable["steps"], resumable["seconds"]) == (4, 6, 4.0)
    assert f"runs/{rep.id}/metrics.json" in content["command"]


def test_refusal_of_snakemake_is_passed_on(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path, repository)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FadepthError) as caught:
        workflow_jobs(["reports/table_nothing.csv"], [Path("config/smoke.yaml")], {})
    sentence = str(caught.value)
    assert "no study feeds 'table_nothing': there are table_apx" in sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert ".smk" not in sentence


# How far a training is


def test_images_of_a_street_are_those_of_its_scenes(tmp_path: Path) -> None:
    config = study_of("etm").config  # 2 scenes of 6 frames
    assert training_images(config, tmp_path / "none") == TrainingImages(8, 12)


def test_images_of_kitti_are_counted_from_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two targets in a row share images; those of another side do not."""
    ids = [FrameId("d/e", 5, "l"), FrameId("d/e", 6, "l"), FrameId("d/e", 6, "r")]
    lines = [f"{frame.drive} {frame.number} {frame.side}\n" for frame in ids]
    (tmp_path / "train_files.txt").write_text("".join(lines))
    config = tiny_config(tmp_path, data__splits=str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert training_images(config, tmp_path / "none") == TrainingImages(3, 4 + 3)


def test_images_of_ddad_are_unknown_before_the_data_are_there(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, data__source="ddad")
    path = tmp_path / "manifest.jsonl"
    assert training_images(config, path) is None
    tiny_manifest(tmp_path, frames=6).write(path)
    assert training_images(config, path) == TrainingImages(6, 8)


@pytest.mark.parametrize(
    ("checkpoint_after", "step"),
    [(-10, 6), (10, 7)],
    ids=["progress is newer: the last step with a checkpoint", "checkpoint is newer: that step"],
)
def test_step_of_a_checkpoint(tmp_path: Path, checkpoint_after: int, step: int) -> None:
    """Epochs of 6 steps, a checkpoint every 5 steps; progress says 7."""
    run = next(study_of("etm", training__checkpoint_every=5, training__steps_per_epoch=6).students)
    folder = write_history(tmp_path / run.id, steady(1.0, 7), steps=12, code_hash=run.code_hash)
    checkpoint = folder / "ckpt" / "last.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    told = (folder / "progress.json").stat().st_mtime
    os.utime(checkpoint, (told + checkpoint_after,) * 2)
    found = find_checkpoint(run, folder)
    assert found
    assert (found.state, found.step, found.steps) == ("resumable", step, 12)


def test_checkpoint_of_other_code_is_of_no_use(tmp_path: Path) -> None:
    run = next(study_of("etm").students)
    folder = write_history(tmp_path / run.id, steady(1.0, 4), code_hash="another")
    assert find_checkpoint(run, folder) is None
    (folder / "ckpt").mkdir()
    (folder / "ckpt" / "last.pt").touch()
    found = find_checkpoint(run, folder)
    assert found
    assert found.state == "outdated"


def test_training_that_a_process_is_at_is_running(tmp_path: Path) -> None:
    run = next(study_of("etm").students)
    now: dict[str, Any] = {"status": "running", "code_hash": run.code_hash}
    folder = write_history(tmp_path / run.id, steady(1.0, 5), **now, pid=os.getpid())
    found = find_checkpoint(run, folder)
    assert found
    assert (found.state, found.step) == ("running", 5)
    assert not progress.is_alive({**now, "host": "elsewhere", "pid": os.getpid()})
    assert not progress.is_alive({**now, "host": HERE})


# How long a step takes


def test_pauses_and_restarts_do_not_move_the_pace(tmp_path: Path) -> None:
    """Lines 2 steps and 3 s apart; an hour's pause; a restart that logs step 4 again."""
    lines = [(2, 0.0), (4, 3.0), (6, 3603.0), (4, 4000.0), (6, 4003.0), (8, 4006.0)]
    write_history(tmp_path / "a", lines)
    assert seconds_per_step(tmp_path / "a") == (1.5, 8)


def test_pace_is_that_of_the_progress_where_the_log_is_short(tmp_path: Path) -> None:
    write_history(tmp_path / "a", [(2, 0.0)])
    assert seconds_per_step(tmp_path / "a") == (99.0, 0)
    assert seconds_per_step(tmp_path / "b") is None


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    """The first half of a training was slow, the last lines count; a cut line is left out."""
    lines = [(step, 10.0 * step) for step in range(5000)]
    lines += [(step, 50_000 + 2.0 * (step - 5000)) for step in range(5000, 10_000)]
    folder = write_history(tmp_path / "a", lines)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10000, "ti')
    pace = seconds_per_step(folder)
    assert pace
    assert pace[0] == 2.0
    assert pace[1] < 5000


def test_what_costs_the_same() -> None:
    """Seeds, learning rates and weights cost nothing; sizes, branches and switched-on losses do."""
    study = study_of("components", seeds=[1, 2])

    def key(label: str, number: int = 0, **changes: Any) -> str:
        return cost_key(
            costs_of(row_of(study_of("components", seeds=[1, 2], **changes), label)[number])
        )

    plain = key("SmallDepth")
    assert key("SmallDepth", 1) == plain
    assert key("SmallDepth", training__learning_rate=0.5, training__epochs=9) == plain
    assert key("SmallDepth", teacher__width=0.2, loss__pyramid__levels=1) == plain
    assert key("SmallDepth", student__etm__space="activation") == plain
    assert key("+ ETM", student__etm__space="activation") != key("+ ETM")
    assert key("+ APX", loss__apx__weight=0.3) == key("+ APX")
    # Terms of weight zero are not computed.
    assert key("+ APX", loss__apx__slope_weight=0.0) != key("+ APX")
    others = [key("SmallDepth", training__batch_size=4), key("SmallDepth", data__width=256)]
    others += [key("SmallDepth", loss__base="cbw"), key("SmallDepth", pose__width=0.5)]
    others += [key(row.label) for row in study.rows if row.kind in ("variant", "teacher")]
    assert len({*others, plain}) == 4 + 8 + 1


def test_sources_of_a_time_in_their_order(tmp_path: Path) -> None:
    """What the run itself told, then runs of its cost, a calibration, the nearest, nothing."""
    study = study_of("components", seeds=[1, 2])
    first, second = row_of(study, "+ ETM")
    assert times_of(study, tmp_path).of(first) is None

    other = row_of(study, "SmallDepth")[0]
    write_history(tmp_path / other.id, steady(5.0))
    nearest = times_of(study, tmp_path).of(first)
    assert nearest
    assert (nearest.source, nearest.seconds, nearest.note) == ("nearest", 5.0, "nearest, unscaled")
    assert "student.etm.branches" in nearest.details

    entry = {"costs": costs_of(first), "seconds": 4.0, "device": "cpu", "host": HERE, "threads": 1}
    (tmp_path / CALIBRATION).write_text(json.dumps({"measured": [entry]}))
    calibrated = times_of(study, tmp_path).of(first)
    assert calibrated
    assert (calibrated.source, calibrated.seconds) == ("calibration", 4.0)

    write_history(tmp_path / second.id, steady(3.0))
    same = times_of(study, tmp_path).of(first)
    assert same
    assert (same.source, same.seconds) == ("same", 3.0)

    write_history(tmp_path / first.id, steady(2.0))
    own = times_of(study, tmp_path).of(first)
    assert own
    assert (own.source, own.seconds) == ("own", 2.0)


def test_a_few_steps_of_a_start_count_only_for_want_of_better(tmp_path: Path) -> None:
    """Two lines, two steps apart: less is known from them than from runs of the same cost."""
    study = study_of("components", seeds=[1, 2])
    first, second = row_of(study, "+ ETM")
    write_history(tmp_path / first.id, [(2, 0.0), (4, 40.0)])
    own = times_of(study, tmp_path).of(first)
    assert own
    assert (own.source, own.seconds) == ("own", 20.0)
    write_history(tmp_path / second.id, steady(3.0))
    same = times_of(study, tmp_path).of(first)
    assert same
    assert (same.source, same.seconds) == ("same", 3.0)


def test_nearest_is_scaled_by_pixels_and_batch(tmp_path: Path) -> None:
    """64x208 with 2 images took 4 s; 128x416 with 3 has 6 times the pixels."""
    small = study_of("etm")
    label = "+ ETM rep"
    measured = row_of(small, label)[0]
    write_history(tmp_path / measured.id, steady(4.0))
    large = study_of("etm", data__height=128, data__width=416, training__batch_size=3)
    time = StepTimes(tmp_path, [*small.runs, *large.runs]).of(row_of(large, label)[0])
    assert time
    assert time.source == "nearest"
    assert time.seconds == pytest.approx(24.0)
    assert time.note == "nearest, x6 by pixels"


def test_runs_that_no_study_asks_for_are_found_by_their_settings(tmp_path: Path) -> None:
    from fadepth.execution.train import write_settings

    old = row_of(study_of("etm", seeds=[7]), "+ ETM rep")[0]
    folder = write_history(tmp_path / old.id, steady(3.5))
    write_settings(old, folder)
    study = study_of("etm", seeds=[1])
    time = times_of(study, tmp_path).of(row_of(study, "+ ETM rep")[0])
    assert time
    assert (time.source, time.seconds) == ("same", 3.5)


def test_another_machine_counts_less(tmp_path: Path) -> None:
    study = study_of("etm", seeds=[1, 2, 3])
    first, second, third = row_of(study, "+ ETM rep")
    write_history(tmp_path / second.id, steady(9.0), host="elsewhere")
    time = times_of(study, tmp_path).of(first)
    assert time
    assert (time.seconds, time.note) == (9.0, "same cost on elsewhere")
    write_history(tmp_path / third.id, steady(3.0))
    time = times_of(study, tmp_path).of(first)
    assert time
    assert (time.seconds, time.note) == (3.0, "same cost")


@pytest.mark.parametrize(
    ("here", "setting", "note"),
    [
        ("cpu", "auto", "same cost on NVIDIA A100 of elsewhere"),
        ("cpu", "cpu", None),
        ("NVIDIA A100", "auto", "same cost on elsewhere"),
        ("NVIDIA H100", "auto", "same cost on NVIDIA A100 of elsewhere"),
    ],
)
def test_steps_on_a_gpu_tell_of_gpus_and_of_machines_that_only_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, setting: str, note: str | None
) -> None:
    """A login node has no GPU, but its `auto` will find one where the training runs."""
    monkeypatch.setattr("fadepth.execution.plan.times.this_device", lambda _: here)
    measured = study_of("etm", seeds=[2], training__device="auto")
    study = study_of("etm", seeds=[1], training__device=setting)
    gpu: dict[str, Any] = {"environment": {"device": "NVIDIA A100", "threads": 1}}
    write_history(
        tmp_path / row_of(measured, "+ ETM rep")[0].id, steady(0.1), host="elsewhere", **gpu
    )
    times = StepTimes(tmp_path, [*study.runs, *measured.runs])
    time = times.of(row_of(study, "+ ETM rep")[0])
    assert (time.note if time else None) == note


@pytest.mark.parametrize(("here", "seconds"), [("cpu", 5.0), ("NVIDIA A100", None)])
def test_steps_on_a_cpu_tell_nothing_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, seconds: float | None
) -> None:
    monkeypatch.setattr("fadepth.execution.plan.times.this_device", lambda _: here)
    study = study_of("etm", seeds=[1, 2], training__device="auto")
    first, second = row_of(study, "+ ETM rep")
    for run in (first, second):
        write_history(tmp_path / run.id, steady(5.0))
    time = times_of(study, tmp_path).of(first)
    assert (time.seconds if time else None) == seconds


def test_seconds_of_a_rule_are_those_of_known_runs(tmp_path: Path) -> None:
    folder = tmp_path / "evaluate_benchmark" / "make3d"
    folder.mkdir(parents=True)
    for name, seconds in (("a", 2.0), ("b", 4.0), ("of another preset", 1000.0)):
        (folder / f"{name}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:02\t100\n")
    assert seconds_of_rule(tmp_path, "evaluate_benchmark", {"a", "b"}) == 3.0
    assert seconds_of_rule(tmp_path, "evaluate_run", {"a", "b"}) is None


# Calibration


def tiny_run(folder: Path, **changes: Any) -> Run:
    """A run on the tiny data, whose manifest lies where the workflow has it."""
    config = tiny_config(folder, **changes)
    run = Run("student", "tiny", "tiny", {}, 1, config, "0123456789", "none")
    path = folder / "data" / run.data_folder / "manifest.jsonl"
    if not path.exists():
        tiny_manifest(folder).write(path)
    return run


def test_calibration_times_each_cost_once_and_is_found_again(tmp_path: Path) -> None:
    plain = tiny_run(tmp_path)
    faster = tiny_run(tmp_path, training__learning_rate=0.1)
    apx = tiny_run(tmp_path, loss__apx__enabled=True, data__cache="disk")
    runs, told = tmp_path / "runs", list[str]()
    assert calibrate([plain, faster, apx], runs, tmp_path / "data", told.append) == []
    assert len(told) == 2
    content = json.loads((runs / CALIBRATION).read_text())["measured"]
    assert [entry["costs"] for entry in content] == [costs_of(plain), costs_of(apx)]
    for entry, run in zip(content, (plain, apx), strict=True):
        assert entry["seconds"] > 0
        assert (entry["host"], entry["threads"], entry["device"]) == (HERE, 1, "cpu")
        time = StepTimes(runs, [run]).of(run)
        assert time
        assert (time.source, time.seconds) == ("calibration", entry["seconds"])
    # A second call replaces its own, and leaves others.
    calibrate([plain], runs, tmp_path / "data")
    again = json.loads((runs / CALIBRATION).read_text())["measured"]
    assert [entry["costs"] for entry in again] == [costs_of(apx), costs_of(plain)]
    assert [path.name for path in runs.iterdir()] == [CALIBRATION]


def test_calibration_without_data_says_so(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    run = Run("student", "tiny", "tiny", {}, 1, config, "0123456789", "none")
    (problem,) = calibrate([run], tmp_path / "runs", tmp_path / "data")
    assert f"{tmp_path}/data/tiny-0123456789/manifest.jsonl does not exist" in problem
    assert not (tmp_path / "runs").exists()


# Disk


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_computed_bytes_are_those_of_a_training(tmp_path: Path, kind: Any) -> None:
    """Both networks, in `model.pt` and in the checkpoint, with two moments of each parameter."""
    config = tiny_config(tmp_path, training__epochs=1, student__etm__branches="ac")
    run = Run(kind, "tiny", "tiny", {}, 1, config, "0123456789", "none")
    manifest = tiny_manifest(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    job = Job(run.id, kind, config, 1, Identity("", "", ""), folder, manifest, tmp_path)
    Training(job).run()
    written = sum(p.stat().st_size for p in (folder / "model.pt", folder / "ckpt" / "last.pt"))
    assert computed_bytes(run) == pytest.approx(written, rel=0.1)


def test_bytes_are_those_of_finished_runs_less_what_is_there(tmp_path: Path) -> None:
    study = study_of("etm", seeds=[1, 2, 3])
    first, second, third = row_of(study, "+ ETM rep")
    for run, size in ((second, 300_000), (third, 70_000)):
        folder = write_history(tmp_path / run.id, steady(1.0))
        (folder / "weights.bin").write_bytes(os.urandom(size))
    (tmp_path / second.id / "model.pt").touch()
    images = {first.data_folder: TrainingImages(8, 12)}
    times = times_of(study, tmp_path)
    needed = needed_bytes([first, third], [], images, times, tmp_path / "data")
    whole = bytes_of(tmp_path / second.id)
    assert whole > 300_000
    assert needed.runs == whole + (whole - bytes_of(tmp_path / third.id))
    assert (needed.measured, needed.computed, needed.caches) == (2, 0, 0)


def test_predictions_and_caches_have_the_size_of_their_arrays(tmp_path: Path) -> None:
    study = study_of("components", data__cache="disk")
    (teacher,) = row_of(study, "HQDecv2 (teacher)")
    student = row_of(study, "+ APX")[0]
    images = {teacher.data_folder: TrainingImages(8, 12)}
    times = times_of(study, tmp_path)
    needed = needed_bytes([teacher, student], [teacher], images, times, tmp_path / "data")
    assert needed.predictions == np.zeros((8, 2, 64, 208), np.float16).nbytes
    # All runs of a size share one.
    assert needed.caches == np.zeros((12, 3, 64, 208), np.uint8).nbytes
    assert needed.runs == computed_bytes(teacher) + computed_bytes(student)
    assert needed.total == needed.runs + needed.predictions + needed.caches
    unknown = needed_bytes([student], [teacher], {teacher.data_folder: None}, times, tmp_path)
    assert unknown.unknown == (
        f"the cache of images of {teacher.data_folder}",
        f"predictions of {teacher.id}",
    )


# Wall time


def simulated(tasks: Sequence[Task], slots: int) -> int:
    """Another implementation, for whole seconds: look at every second who may start."""
    left = {task.name: int(task.seconds) for task in tasks}
    waiting, running, ended = [*tasks], list[Task](), {""}
    for now in itertools.count():
        ended |= {task.name for task in running if left[task.name] == 0}
        running = [task for task in running if left[task.name]]
        known = {task.name for task in tasks}
        for task in sorted(waiting, key=lambda task: -task.priority):
            if len(running) < slots and {*task.needs} & known <= ended:
                running.append(task)
                waiting.remove(task)
        if not running and not waiting:
            return now
        for task in running:
            left[task.name] -= 1
    raise AssertionError


def test_wall_time_is_that_of_a_second_implementation() -> None:
    rng = random.Random(0)
    for _ in range(300):
        tasks: list[Task] = []
        for number in range(rng.randint(1, 9)):
            earlier = [task.name for task in tasks]
            needs = tuple(rng.sample(earlier, rng.randint(0, min(2, len(earlier)))))
            tasks.append(
                Task(f"t{number}", rng.randint(1, 6), (*needs, "gone"), rng.choice([0, 0, 10]))
            )
        for slots in (1, 2, 3):
            wall = wall_seconds(tasks, slots)
            assert wall == simulated(tasks, slots)
            assert wall >= sum(task.seconds for task in tasks) / slots


def test_wall_time_by_hand() -> None:
    """Teacher 4 s and plain 3 s start; then two students of the teacher: 2 s each, side by side.

    The second plain one (5 s) takes the slot that is free at 3 s, so that one student waits.
    """
    tasks = [
        Task("plain", 3), Task("more", 5), Task("apx1", 2, ("teacher",)),
        Task("apx2", 2, ("teacher",)), Task("teacher", 4, priority=10),
    ]  # fmt: skip
    assert wall_seconds(tasks, 1) == 16
    assert wall_seconds(tasks, 2) == 8
    assert wall_seconds(tasks, 3) == 6
    assert wall_seconds([], 2) == 0


def test_what_fits_brings_what_it_needs_and_smaller_ones_fill_up() -> None:
    tasks = [
        Task("teacher", 6, priority=10), Task("apx", 3, ("teacher",)), Task("long", 20),
        Task("short", 4), Task("other", 4),
    ]  # fmt: skip
    ranked = ["long", "apx", "short", "other"]
    assert fitting(tasks, ranked, 1, 9) == (["teacher", "apx"], 9)
    assert fitting(tasks, ranked, 1, 8) == (["short", "other"], 8)
    assert fitting(tasks, ranked, 2, 9) == (["teacher", "apx", "short", "other"], 9)
    assert fitting(tasks, ranked, 2, 20)[0][0] == "long"
    assert fitting(tasks, ranked, 2, 1) == ([], 0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6h", 21600), ("90m", 5400), ("2d", 172800), ("1h30m", 5400), ("1.5h", 5400), ("40s", 40)],
)
def test_budgets_are_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "6", "h", "6 h", "30m1h", "1h1h", "6h!", "0h", "-1h", "6w"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(FadepthError, match=r"--budget is .* write a time such as 6h"):
        parse_duration(text)


def test_durations_for_people() -> None:
    spoken = [spoken_duration(s) for s in (0, 0.2, 59, 60, 3599, 3660, 86_400, 200_000)]
    assert spoken == [
        "0 s",
        "1 s",
        "59 s",
        "1 min",
        "1 h 00 min",
        "1 h 01 min",
        "1 d 0 h",
        "2 d 8 h",
    ]


# The order of use


def planned(study: Study, states: dict[str, Any]) -> dict[str, PlannedRun]:
    return {
        run.id: PlannedRun(
            run.id, run.study, run.label, run.seed, run.kind, states.get(run.id, "to do")
        )
        for run in study.networks
    }


def test_one_seed_of_every_row_comes_before_second_seeds() -> None:
    """The baseline leads each round, then what was begun; a finished seed counts as a first one."""
    study = study_of("etm", seeds=[1, 2, 3])
    assert study.baseline.label == study.rows[0].label
    rows = {row.label: [run.id for run in row.runs] for row in study.rows if row.kind == "variant"}
    plain, second, third = list(rows)[:3]
    states = {rows[second][0]: "reused", rows[third][2]: "resumable", rows[plain][1]: "resumable"}
    order = rank([study], planned(study, states))
    seeds = {run_id: (label, n) for label, ids in rows.items() for n, run_id in enumerate(ids, 1)}
    named = [seeds[run_id] for run_id in order]
    first_round = len(rows) - 1  # the second row has one already
    assert named[0] == (plain, 2)
    assert named[1] == (third, 3)
    assert second not in [label for label, _ in named[:first_round]]
    assert named[2:first_round] == [(label, 1) for label in list(rows)[3:]]
    assert named[first_round] == (plain, 1)
    assert named[first_round + 1 : first_round + 3] == [(second, 2), (third, 1)]
    assert rows[second][0] not in order
    assert len(order) == 3 * len(rows) - 1


# The whole plan


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "runs", tmp_path / "data", tmp_path / "logs")


def plan_of(study: Study, places: Places, reused: Sequence[str] = (), **how: Any) -> Plan:
    planner = Planner(graph(study, reused), {study.file.table: study}, places)
    return planner.plan(["reports/x.csv"], {}, **how)


def test_hours_are_steps_times_seconds(places: Places) -> None:
    """8 students and the teacher, 6 steps each.

    SmallDepth's first seed is there (2 s a step); its second is to do, + ETM has done 3 of 6 steps
    (4 s each). All others are the nearest to one of these; the teacher was timed by calibration.
    """
    study = study_of("components", seeds=[1, 2])
    done, other = row_of(study, "SmallDepth")
    begun, fresh = row_of(study, "+ ETM")
    (teacher,) = row_of(study, "HQDecv2 (teacher)")
    write_history(places.runs / done.id, steady(2.0))
    write_history(places.runs / begun.id, steady(4.0, 5), code_hash=begun.code_hash)
    checkpoint = places.runs / begun.id / "ckpt" / "last.pt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    os.utime(checkpoint, (0, 0))  # of the last step with one before 5: 4
    entry = {"costs": costs_of(teacher), "seconds": 10.0}
    entry |= {"device": "cpu", "host": HERE, "threads": 1}
    (places.runs / CALIBRATION).write_text(json.dumps({"measured": [entry]}))

    plan = plan_of(study, places, [done.id], slots=2)
    runs = {run.id: run for run in plan.runs}
    assert runs[done.id].state == "reused"
    assert runs[other.id].seconds == 12.0
    assert runs[begun.id].state == "resumable"
    assert runs[begun.id].epoch == pytest.approx(4 / 3)
    assert runs[begun.id].seconds == 2 * 4.0
    assert runs[fresh.id].seconds == 24.0
    assert runs[teacher.id].seconds == 60.0
    # Rows with pyramid or APX: nearest is SmallDepth (2 s) without ETM, + ETM (4 s) with it.
    near = {r.row: r.seconds for r in plan.runs if r.time and r.time.source == "nearest"}
    assert near == {
        "+ pyramid loss": 12.0, "+ APX": 12.0, "+ pyramid loss + APX": 12.0,
        "+ ETM + pyramid loss": 24.0, "+ ETM + APX": 24.0, "+ ETM + pyramid loss + APX": 24.0,
    }  # fmt: skip
    assert plan.machine_seconds == 12 + 8 + 24 + 60 + 2 * (3 * 12 + 3 * 24)
    assert plan.untimed == ()
    left = [r for r in plan.runs if r.state != "reused"]
    waits = {r.id: (teacher.id,) if "APX" in r.row else () for r in left}
    alone = [Task(r.id, r.seconds or 0, waits[r.id], 10 * (r.id == teacher.id)) for r in left]
    assert plan.wall_seconds == simulated(alone, 2)
    assert plan.not_counted == ("evaluate_run", "predict_teacher", "render_table")
    assert plan.jobs["train_student"] == 15
    assert plan.count("to do") == 15
    json.dumps(plan.as_dict())


def test_students_of_apx_wait_for_the_teacher_whatever_lies_between(places: Places) -> None:
    """Teacher 60 s, then one student 6 s; on many slots the path counts, and nothing else."""
    study = study_of("components")
    (teacher,) = row_of(study, "HQDecv2 (teacher)")
    reused = [run.id for run in study.students if run.label != "+ APX"]
    write_history(places.runs / teacher.id, steady(10.0))
    write_history(places.runs / row_of(study, "SmallDepth")[0].id, steady(1.0))
    assert plan_of(study, places, reused, slots=8).wall_seconds == 66.0
    # Measured predictions lie between them.
    logs = places.logs / "predict_teacher"
    logs.mkdir(parents=True)
    (logs / f"{teacher.id}.tsv").write_text("s\th:m:s\n5.0\t0:00:05\n")
    timed = plan_of(study, places, reused, slots=8)
    assert timed.wall_seconds == 71.0
    assert timed.machine_seconds == 71.0
    assert "predict_teacher" not in timed.not_counted


def test_without_any_measurement_time_is_unknown(places: Places) -> None:
    plan = plan_of(study_of("etm"), places, slots=2, budget=3600.0)
    assert len(plan.untimed) == 7
    assert plan.machine_seconds == plan.wall_seconds == 0
    assert plan.budget
    assert not plan.budget.fits
    assert len(plan.budget.untimed) == 7


def test_budget_by_hand(places: Places) -> None:
    """One slot, 40 s. Students take 6 s, the teacher 20 s; two seeds.

    First seeds without APX: 4 rows, 24 s. An APX student brings the teacher: 26 s more, too long.
    Second seeds: the baseline's and one more, 36 s; another would end at 42 s.
    """
    study = study_of("components", seeds=[1, 2])
    plain = row_of(study, "SmallDepth")
    (teacher,) = row_of(study, "HQDecv2 (teacher)")
    costs = [(teacher, 20 / 6)] + [
        (row.runs[0], 1.0) for row in study.rows if row.kind == "variant"
    ]
    measured = [
        {"costs": costs_of(run), "seconds": s, "device": "cpu", "host": HERE, "threads": 1}
        for run, s in costs
    ]
    places.runs.mkdir()
    (places.runs / CALIBRATION).write_text(json.dumps({"measured": measured}))
    plan = plan_of(study, places, slots=1, budget=40.0)
    assert plan.budget
    rows = ("SmallDepth", "+ ETM", "+ pyramid loss", "+ ETM + pyramid loss")
    first = [row_of(study, label)[0].id for label in rows]
    assert list(plan.budget.fits) == [*first, plain[1].id, row_of(study, "+ ETM")[1].id]
    assert plan.budget.wall_seconds == pytest.approx(36.0)
    assert teacher.id in plan.budget.too_long
    # With 50 s the first seed of + APX fits after the four others, and with it the teacher.
    wider = plan_of(study, places, slots=1, budget=50.0).budget
    assert wider
    assert {*wider.fits} == {*first, row_of(study, "+ APX")[0].id, teacher.id}


def test_timed_evaluations_count_in_the_budget(places: Places) -> None:
    """A training of 6 s fits into 10 s, but not with its evaluation of 5 s."""
    study = study_of("etm")
    run = next(study.students)
    write_history(places.runs / run.id, steady(1.0))
    (places.runs / run.id / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "time": float(s)}) + "\n" for s in range(1, 7))
    )
    reused = [other.id for other in study.students if other.id != run.id]
    assert plan_of(study, places, reused, slots=1, budget=10.0).budget.fits == (run.id,)  # type: ignore[union-attr]
    logs = places.logs / "evaluate_run"
    logs.mkdir(parents=True)
    (logs / f"{reused[0]}.tsv").write_text("s\th:m:s\n5.0\t0:00:05\n")
    timed = plan_of(study, places, reused, slots=1, budget=10.0)
    assert timed.machine_seconds == 11.0
    assert timed.budget
    assert timed.budget.fits == ()
    assert timed.budget.too_long == (run.id,)


def test_rows_are_called_what_the_target_calls_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain student is a row of many tables; a plan of table_etm speaks of that table's."""
    monkeypatch.chdir(tmp_path)
    preset = merge(load_yaml(ROOT / "config" / "smoke.yaml"), {"training.device": "cpu"})
    studies, _ = resolve_and_leave_out(ROOT / "ablations", preset, "smoke")
    etm = studies["table_etm"]
    plan = Planner(graph(etm), studies).plan(["reports/table_etm.csv"], {}, slots=1)
    assert {run.study for run in plan.runs} == {"etm"}
    assert {run.row for run in plan.runs} == {
        row.label for row in etm.rows if row.runs[0].kind == "student"
    }


# The command


def told(
    monkeypatch: pytest.MonkeyPatch,
    jobs: Sequence[WorkflowJob],
    *arguments: str,
    preset: str = "config/smoke.yaml",
    **override: Any,
) -> str:
    """What `fadepth plan` prints where Snakemake has these jobs."""
    monkeypatch.setattr("fadepth.execution.plan.jobs.workflow_jobs", lambda *_: list(jobs))
    settings = json.dumps({"training": {"device": "cpu"}, **override})
    call = ["plan", *arguments, "--preset", preset, "--override", settings]
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a project without runs."""
    make_project(tmp_path, repository)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_people_are_told_rows_hours_and_a_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds of each row; a step takes 300 s for the row that was timed, and for its like."""
    study = study_of("etm", seeds=[1, 2])
    first, second = row_of(study, "+ ETM rep")
    write_history(folder / "runs" / first.id, steady(300.0))
    output = told(
        monkeypatch, graph(study, [first.id]), "reports/table_etm.csv",
        *("--budget", "30m", "--slots", "1"), seeds=[1, 2],
    )  # fmt: skip
    assert "reports/table_etm.csv: 13 of 14 trainings to do, 1 reused." in output
    assert "Beside them: 13 evaluations, 1 table." in output
    line = next(line for line in output.splitlines() if "+ ETM rep" in line)
    assert " ".join(line.split()) == "etm + ETM rep 1 1 6 300 30 min same cost"
    assert "6 h 30 min of work, 6 h 30 min on the clock with 1 at once" in output
    assert "Not counted: start-up, evaluations, tables" in output
    assert "In 30 min with 1 at once: 1 of 13 trainings fit (30 min)." in output
    plain = row_of(study, "SmallDepth")[0].id
    command = output.splitlines()[-1]
    assert command.startswith(f"snakemake --cores 8 runs/{plain}/metrics.json --configfile ")
    assert command.endswith("--resources train_slot=1 gpu=1")
    assert second.id not in command


def test_seeds_in_a_row_are_told_as_a_span() -> None:
    assert _spans([1]) == "1"
    assert _spans([4, 3]) == "3, 4"
    assert _spans([9, 1, 2, 3, 7, 8, 5]) == "1 to 3, 5, 7 to 9"


def test_people_are_told_when_nothing_is_to_be_done(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of("etm")
    jobs = [replace(job, pending=False) for job in graph(study)]
    output = told(monkeypatch, jobs, "reports/table_etm.csv")
    assert output == "reports/table_etm.csv: nothing to be done; all 7 trainings are there.\n"


def test_people_are_warned_of_a_full_disk_and_of_unknown_times(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(folder)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    output = told(monkeypatch, graph(study_of("etm")))
    assert "1.0 MB are free" in output
    assert re.search(r"WARNING: that is [\d.]+ MB more than is free", output)
    assert "no step of that kind has been timed here; `fadepth plan --calibrate`" in output


def test_tables_without_data_are_told_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make3D is nowhere; who asks for one table does not want to hear of another."""
    settings = load_yaml(folder / "config" / "smoke.yaml")
    settings["benchmarks"]["make3d"] = {"source": "make3d", "root": "none", "protocol": "make3d"}
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    jobs = graph(study_of("etm"))
    output = told(monkeypatch, jobs, preset="mine.yaml")
    (line,) = [line for line in output.splitlines() if "is left out" in line]
    reason = f"table_generalisation needs the folder {folder}/none, which does not exist"
    assert line == f"table_generalisation is left out: {reason}"
    output = told(monkeypatch, jobs, "reports/table_etm.csv", preset="mine.yaml")
    assert "is left out" not in output
