"""`fadepth gc`: what it must keep, case by case, and that it frees what it says."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from project import make_project
from typer.testing import CliRunner

from fadepth.cli import app
from fadepth.config import load_yaml, merge
from fadepth.errors import FadepthError
from fadepth.execution.gc import Asked, Found, asked_for, delete, find_free, no_workflow
from fadepth.execution.plan.disk import bytes_of
from fadepth.run import Run
from fadepth.study import resolve_and_leave_out, resolve_study, unique_runs
from tests.report.fakes import ROOT, write_run

SMOKE = load_yaml(ROOT / "config" / "smoke.yaml")
STUDIES = ROOT / "ablations"


@pytest.fixture
def folder(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without any data set but the street."""
    make_project(tmp_path, repository)
    for name in ("KITTI_SPLITS", "DDAD_SPLITS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FADEPTH_TEST_DATA", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_of(**overrides: Any) -> list[Run]:
    """Runs of table_etm at smoke scale."""
    preset = merge(SMOKE, {key.replace("__", "."): value for key, value in overrides.items()})
    return list(resolve_study(STUDIES / "etm.yaml", preset, "smoke").runs)


def asked_by_smoke() -> Asked:
    return asked_for(STUDIES, [(SMOKE, "smoke", {})])


def free_paths(found: Found) -> list[str]:
    return [str(path) for item in found.free for path in item.paths]


def reasons(found: Found) -> dict[str, str]:
    return {path.name: reason for path, reason in found.kept}


@pytest.fixture
def orphan(folder: Path) -> Run:
    """A finished run with a seed that no preset has."""
    run = runs_of(seeds=[77])[0]
    write_run(run, folder / "runs", 0.1)
    return run


# What is asked for


def test_runs_of_every_preset_are_asked_for(folder: Path) -> None:
    """Also those of teachers and baselines, and those that only an override names."""
    preset = merge(SMOKE, {"seeds": [4]})
    asked = asked_for(STUDIES, [(SMOKE, "smoke", {}), (preset, "smoke", {"seeds": [4]})])
    both = [resolve_and_leave_out(STUDIES, p, "smoke")[0] for p in (SMOKE, preset)]
    assert {*asked.runs} == {run_id for found in both for run_id in unique_runs(found.values())}
    assert {0, 1, 4} <= {run.seed for run in asked.runs.values()}
    assert asked.unknown == {}


def test_a_preset_without_data_keeps_its_scale_and_data_sets(folder: Path) -> None:
    """kitti.yaml has no split lists here; ddad.yaml stands for one of its data sets."""
    kitti = load_yaml(ROOT / "config" / "kitti.yaml")
    asked = asked_for(STUDIES, [(SMOKE, "smoke", {}), (kitti, "config/kitti.yaml", {})])
    assert {*asked.unknown} == {("full", "kitti"), ("full", "ddad")}
    assert "split list" in asked.unknown["full", "kitti"]

    kept = resolve_study(STUDIES / "etm.yaml", merge(SMOKE, {"scale": "full"}), "full")
    first, second, third = list(kept.runs)[:3]
    write_run(first, folder / "runs", 0.1, dataset="kitti")
    write_run(second, folder / "runs", 0.1, dataset="ddad")
    write_run(third, folder / "runs", 0.1)  # of the street, which full scale does not have
    found = find_free(asked, folder / "runs", folder / "data")
    assert free_paths(found) == [str(folder / "runs" / third.id)]
    assert "cannot be told: split list" in reasons(found)[first.id]
    assert second.id in reasons(found)


def test_a_study_that_is_left_out_keeps_its_data_set(folder: Path) -> None:
    """The preset's own studies can be resolved, but its DDAD is in a file without data."""
    preset = {**SMOKE, "datasets": {"kitti": {}, "ddad": {"preset": "config/ddad.yaml"}}}
    asked = asked_for(STUDIES, [(preset, "mine", {})])
    assert asked.runs
    assert {*asked.unknown} == {("full", "ddad"), ("smoke", "ddad")}
    assert "scene list" in asked.unknown["full", "ddad"]


def test_official_rows_without_their_file_keep_such_runs(folder: Path) -> None:
    """The id of such a run is that of its predictions, which are elsewhere today."""
    content = load_yaml(STUDIES / "etm.yaml")
    content["rows"].append({"label": "official", "predictions": "theirs.npy"})
    (folder / "studies").mkdir()
    (folder / "studies" / "etm.yaml").write_text(yaml.safe_dump(content))
    Path("theirs.npy").write_bytes(b"some maps")
    there = asked_for(folder / "studies", [(SMOKE, "smoke", {})])
    (official,) = [run for run in there.runs.values() if run.kind == "official"]
    assert there.unknown == {}
    write_run(official, folder / "runs", 0.1)
    assert find_free(there, folder / "runs", folder / "data").free == []
    Path("theirs.npy").unlink()
    away = asked_for(folder / "studies", [(SMOKE, "smoke", {})])
    orphan = runs_of(seeds=[77])[0]
    write_run(orphan, folder / "runs", 0.1)
    found = find_free(away, folder / "runs", folder / "data")
    assert free_paths(found) == [str(folder / "runs" / orphan.id)]
    assert "there is no file theirs.npy" in reasons(found)[official.id]


def test_a_broken_preset_stops_gc(folder: Path) -> None:
    with pytest.raises(FadepthError, match="unknown key 'sead' in mine"):
        asked_for(STUDIES, [({"sead": 3}, "mine", {})])


# What is free, and what is not


def test_orphans_are_free_and_runs_that_are_asked_for_are_not(folder: Path, orphan: Run) -> None:
    for run in runs_of():
        write_run(run, folder / "runs", 0.1)
    found = find_free(asked_by_smoke(), folder / "runs", folder / "data", checkpoints=True)
    (item,) = found.free
    assert item.paths == (folder / "runs" / orphan.id,)
    assert item.kind == "run"
    assert item.size == bytes_of(folder / "runs" / orphan.id) > 0
    assert item.what == f"etm: {orphan.label}, seed 77; synthetic_street, smoke; finished"
    assert found.kept == []


def test_age_is_that_of_the_last_write(folder: Path, orphan: Run) -> None:
    long_ago = time.time() - 1000
    for path in [folder / "runs" / orphan.id, *(folder / "runs" / orphan.id).iterdir()]:
        os.utime(path, (long_ago, long_ago))
    os.utime(folder / "runs" / orphan.id / "metrics.json", (long_ago, long_ago + 300))
    (item,) = find_free(asked_by_smoke(), folder / "runs", folder / "data").free
    assert item.written == pytest.approx(long_ago + 300, abs=1)


def _no_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def _foreign_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"run_id": "another-s1-0123456789"}')


def _damaged_manifest(path: Path) -> None:
    (path / "manifest.json").write_text('{"run_id": ')


def _other_name(path: Path) -> None:
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**content, "run_id": "my results"}))
    path.rename(path.with_name("my results"))


def _link(path: Path) -> None:
    path.rename(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


@pytest.mark.parametrize(
    "changed", [_no_manifest, _foreign_manifest, _damaged_manifest, _other_name, _link]
)
def test_folders_that_are_not_ours_are_never_free(
    folder: Path, orphan: Run, changed: Callable[[Path], None]
) -> None:
    changed(folder / "runs" / orphan.id)
    assert find_free(asked_by_smoke(), folder / "runs", folder / "data").free == []


def _running(path: Path, **who: Any) -> None:
    content = json.loads((path / "manifest.json").read_text())
    content |= {"status": "running", **who}
    (path / "manifest.json").write_text(json.dumps(content))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_run_with_a_live_process_stays_and_one_with_a_dead_one_goes(
    folder: Path, orphan: Run
) -> None:
    path = folder / "runs" / orphan.id
    _running(path, host=platform.node(), pid=os.getpid())
    found = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    assert found.free == []
    assert reasons(found) == {orphan.id: f"process {os.getpid()} is at it"}
    _running(path, host="another machine", pid=dead_pid())
    found = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    assert reasons(found) == {orphan.id: "its manifest says that it is running on another machine"}
    _running(path, host=platform.node(), pid=dead_pid())
    assert find_free(asked_by_smoke(), folder / "runs", folder / "data").free


def test_a_run_whose_lock_is_held_stays(folder: Path, orphan: Run) -> None:
    with FileLock(folder / "runs" / orphan.id / ".lock"):
        found = find_free(asked_by_smoke(), folder / "runs", folder / "data")
        assert reasons(found) == {orphan.id: "a process holds its lock"}
        assert found.free == []
    assert find_free(asked_by_smoke(), folder / "runs", folder / "data").free


def test_the_teacher_of_a_run_at_work_stays(folder: Path) -> None:
    preset = merge(SMOKE, {"seeds": [77], "teacher": {"seed": 77}})
    study = resolve_study(STUDIES / "components.yaml", preset, "smoke")
    student = next(run for run in study.students if run.teacher)
    assert student.teacher
    for run in (student, student.teacher):
        write_run(run, folder / "runs", 0.1)
    everything = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    assert len(everything.free) == 2
    _running(folder / "runs" / student.id, host=platform.node(), pid=os.getpid())
    found = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    assert found.free == []
    assert reasons(found)[student.teacher.id] == f"the teacher of {student.id}"


def test_checkpoints_of_finished_trainings_are_free_when_asked_for(folder: Path) -> None:
    finished, unfinished, untrained, busy = [run for run in runs_of() if run.kind == "student"][:4]
    for run in (finished, unfinished, untrained, busy):
        write_run(run, folder / "runs", 0.1)
        (folder / "runs" / run.id / "ckpt").mkdir()
        (folder / "runs" / run.id / "ckpt" / "last.pt").write_bytes(os.urandom(50_000))
        if run is not untrained:
            (folder / "runs" / run.id / "model.pt").touch()
    _running(folder / "runs" / unfinished.id, host=platform.node(), pid=dead_pid())
    with FileLock(folder / "runs" / busy.id / ".lock"):
        found = find_free(asked_by_smoke(), folder / "runs", folder / "data", checkpoints=True)
    assert free_paths(found) == [str(folder / "runs" / finished.id / "ckpt")]
    assert found.free[0].kind == "checkpoint"
    assert find_free(asked_by_smoke(), folder / "runs", folder / "data").free == []
    freed, stayed = delete(found.free)
    assert (freed, stayed) == (found.size, [])
    left = sorted(path.name for path in (folder / "runs" / finished.id).iterdir())
    assert "model.pt" in left
    assert "metrics.json" in left
    assert not [name for name in left if "ckpt" in name]


def test_data_that_no_run_has_are_free(folder: Path) -> None:
    """A manifest of other frames, and a cache of a size that no run has; nothing else."""
    asked = asked_by_smoke()
    used = next(iter(asked.runs.values())).data_folder
    for name in (used, "synthetic_street-0123456789"):
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "manifest.jsonl").write_text("{}")
    for name in ("benchmarks", "mine", "kitti_raw-0123456789", "synthetic_street"):
        (folder / "data" / name).mkdir()
    for size in ("64x208", "96x320", "100x100"):
        (folder / "data" / used / f"images-{size}.npy").write_bytes(b"x" * 9000)
        (folder / "data" / used / f"images-{size}.json").write_text("{}")
    found = find_free(asked, folder / "runs", folder / "data")
    assert sorted(free_paths(found)) == sorted(
        str(folder / "data" / path)
        for path in (
            "synthetic_street-0123456789",
            f"{used}/images-100x100.npy",
            f"{used}/images-100x100.json",
        )
    )
    delete(found.free)
    assert find_free(asked, folder / "runs", folder / "data").free == []
    assert (folder / "data" / used / "images-96x320.npy").exists()
    assert (folder / "data" / "kitti_raw-0123456789").is_dir()


def test_data_of_runs_that_stay_also_stay(folder: Path, orphan: Run) -> None:
    name = f"{orphan.config.data.name}-9876543210"
    (folder / "data" / name).mkdir(parents=True)
    (folder / "data" / name / "manifest.jsonl").write_text("{}")
    with FileLock(folder / "runs" / orphan.id / ".lock"):
        assert find_free(asked_by_smoke(), folder / "runs", folder / "data").free == []


# Deleting


def test_deleting_frees_what_was_listed_and_nothing_else(folder: Path, orphan: Run) -> None:
    kept = runs_of()[0]
    write_run(kept, folder / "runs", 0.1)
    (folder / "runs" / ".calibration.json").write_text("{}")
    (folder / "runs" / orphan.id / ".lock").touch()  # nobody holds it
    before = bytes_of(folder / "runs")
    found = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    freed, stayed = delete(found.free)
    assert (freed, stayed) == (found.size, [])
    assert bytes_of(folder / "runs") == before - freed
    assert sorted(p.name for p in (folder / "runs").iterdir()) == [".calibration.json", kept.id]


def test_a_kill_leaves_no_half_run_and_the_next_gc_ends_it(
    folder: Path, orphan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        (path / "manifest.json").unlink()
        raise KeyboardInterrupt

    found = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete(found.free)
    assert [path.name for path in (folder / "runs").iterdir()] == [f".trash-{orphan.id}"]
    again = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    assert [item.kind for item in again.free] == ["trash"]
    delete(again.free)
    assert list((folder / "runs").iterdir()) == []


def test_a_run_that_was_begun_since_it_was_listed_stays(folder: Path, orphan: Run) -> None:
    found = find_free(asked_by_smoke(), folder / "runs", folder / "data")
    path = folder / "runs" / orphan.id
    with FileLock(path / ".lock"):
        assert delete(found.free) == (0, [path])
    assert (path / "metrics.json").exists()
    _running(path, host=platform.node(), pid=os.getpid())
    assert delete(found.free) == (0, [path])
    assert (path / "metrics.json").exists()


def test_no_workflow_may_be_at_work(tmp_path: Path) -> None:
    state = tmp_path / ".snakemake"
    with no_workflow(state):
        pass  # no Snakemake has ever been here
    state.mkdir()
    with (state / "fadepth.alive").open("ab") as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)
        with pytest.raises(FadepthError, match="snakemake is at work"), no_workflow(state):
            pass
    another = (state / "fadepth.alive").open("ab")
    with another, no_workflow(state), pytest.raises(BlockingIOError):
        fcntl.flock(another, fcntl.LOCK_SH | fcntl.LOCK_NB)


# The command


def gc(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["gc", *arguments])


def test_dry_run_lists_and_deletes_nothing(folder: Path, orphan: Run) -> None:
    result = gc("--dry-run")
    assert result.exit_code == 0, result.output
    assert orphan.id in result.output
    assert "nothing was deleted" in result.output
    assert (folder / "runs" / orphan.id / "manifest.json").exists()


def test_without_terminal_it_has_to_be_told_yes(folder: Path, orphan: Run) -> None:
    result = gc()
    assert isinstance(result.exception, FadepthError)
    assert "call it with --yes" in str(result.exception)
    assert (folder / "runs" / orphan.id).exists()
    result = gc("--yes")
    assert result.exit_code == 0, result.output
    assert "Freed" in result.output
    assert not (folder / "runs" / orphan.id).exists()


def test_runs_of_the_given_override_are_kept(folder: Path, orphan: Run) -> None:
    result = gc("--yes", "--preset", "config/smoke.yaml", "--override", '{"seeds": [77]}')
    assert result.exit_code == 0, result.output
    assert "Nothing is free" in result.output
    assert (folder / "runs" / orphan.id).exists()


def test_gc_waits_for_no_workflow(folder: Path, orphan: Run) -> None:
    (folder / ".snakemake").mkdir()
    with (folder / ".snakemake" / "fadepth.alive").open("ab") as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)
        result = gc("--yes")
    assert "snakemake is at work" in str(result.exception)
    assert (folder / "runs" / orphan.id).exists()
