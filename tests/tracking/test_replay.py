"""Replaying run folders into MLflow: nothing lost, nothing doubled, rebuilt at any time."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fadepth.errors import FadepthError
from fadepth.tracking import (
    TrackingSummary,
    compare_url,
    open_store,
    run_links,
    study_links,
    track,
    views,
)
from fadepth.tracking.folders import RunFolder
from tests.tracking.fakes import (
    METRICS,
    START,
    STEPS,
    change,
    logged,
    without_ids,
    write_run,
    write_study,
)


def test_a_run_is_shown_with_its_times_factors_and_metrics(place):
    runs, store = place
    ids = write_study(runs)
    summary = track(runs, ids, store=store, experiment="ablation (quick)")
    assert summary == TrackingSummary(summary.experiment_id, created=12)
    found = logged(store, summary.experiment_id)
    assert set(found) == set(ids)
    run = found[ids[5]]
    assert run["name"] == "ETM + APX"
    assert run["params"] == {
        "etm": "on",
        "pyramid": "off",
        "apx": "on",
        "seed": "1",
        "kind": "variant",
    }
    assert run["status"] == "FINISHED"
    assert run["times"] == (1000 * (int(START) + 5000), 1000 * (int(START) + 5600))
    lines = [json.loads(x) for x in (runs / ids[5] / "metrics.jsonl").read_text().splitlines()]
    for key in ("train/loss/total", "train/loss/photometric", "val/abs_rel"):
        expected = [(x["step"], round(1000 * x["time"]), x[key]) for x in lines]
        assert run["history"][key] == expected
    metrics = json.loads((runs / ids[5] / "metrics.json").read_text())["metrics"]
    assert {k: h[0][2] for k, h in run["history"].items() if k.startswith("test/")} == {
        f"test/{name}": value for name, value in metrics.items()
    }
    assert run["history"]["model/parameters_m"][0][2] == pytest.approx(2.035)
    assert "model.pt" not in run["artifacts"]
    assert {
        "panels/frame_0.png",
        "panels/frame_1.png",
        "config.yaml",
        "manifest.json",
        "metrics.json",
        "per_image.csv",
    } <= set(run["artifacts"])
    assert {found[i]["params"]["kind"] for i in ids[8:]} == {"teacher", "baseline"}
    assert "seed" not in found[ids[-1]]["params"]


def test_tags_and_notes_say_what_a_run_is(place):
    runs, store = place
    ids = write_study(runs)
    summary = track(runs, ids, store=store, experiment="ablation")
    found = logged(store, summary.experiment_id)
    tags = found[ids[1]]["tags"]
    assert tags["row"] == "APX"
    assert tags["table"] == "ablation"
    assert (tags["scale"], tags["dataset"], tags["dirty"]) == ("quick", "street", "no")
    assert tags["teacher"] == "hqdecv2-000"
    assert found[ids[0]]["tags"]["dirty"] == "yes"
    colors = [found[i]["tags"]["mlflow.runColor"] for i in ids]
    assert len(set(colors)) == 12, "two runs of one colour cannot be told apart in a chart"
    note = tags["mlflow.note.content"]
    assert "`loss.apx.enabled`: off → on" in note
    assert f"fadepth train {ids[1]}" in note
    assert "says nothing about the paper's numbers" in note
    assert "The baseline" in found[ids[0]]["tags"]["mlflow.note.content"]
    experiment = open_store(store).get_experiment(summary.experiment_id)
    assert "says nothing about the paper's numbers" in experiment.tags["mlflow.note.content"]
    view = json.loads(experiment.tags["mlflow.sharedViewState.variants"])
    assert view["searchFilter"] == "params.kind = 'variant'"
    shown = open_store(store).search_runs([summary.experiment_id], view["searchFilter"])
    assert len(shown) == 8
    keys = {key for run in shown for key in (*run.data.params, *run.data.metrics)}
    assert {c.split("`")[1] for c in view["selectedColumns"]} <= keys
    bars = [chart["metricKey"] for chart in view["compareRunCharts"] if chart["type"] == "BAR"]
    assert bars == [f"test/{name}" for name in METRICS]
    sections = [section["name"] for section in view["compareRunSections"]]
    assert sections == ["test", "panels", "train/loss", "val", "model"]


def test_a_second_replay_changes_nothing(place):
    runs, store = place
    ids = write_study(runs)[4:10]
    first = track(runs, ids, store=store, experiment="ablation")
    before = logged(store, first.experiment_id)
    second = track(runs, ids, store=store, experiment="ablation")
    assert second == TrackingSummary(first.experiment_id, unchanged=6)
    assert logged(store, first.experiment_id) == before


def test_the_files_of_unchanged_runs_are_not_read_again(place, monkeypatch):
    runs, store = place
    ids = write_study(runs)[:2]
    first = track(runs, ids, store=store, experiment="ablation")

    def read(folder: RunFolder) -> None:
        raise AssertionError(f"{folder.run_id} was read")

    monkeypatch.setattr(RunFolder, "read", read)
    second = track(runs, ids, store=store, experiment="ablation")
    assert second == TrackingSummary(first.experiment_id, unchanged=2)


def test_a_change_that_keeps_size_and_time_of_a_file_is_seen(place):
    runs, store = place
    ids = write_study(runs)[:2]
    track(runs, ids, store=store, experiment="ablation")
    path = runs / ids[1] / "per_image.csv"
    before = path.stat()
    path.write_text(path.read_text().replace("0.1", "0.2"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    summary = track(runs, ids, store=store, experiment="ablation")
    assert summary == TrackingSummary(summary.experiment_id, updated=1, unchanged=1)
    run_id = logged(store, summary.experiment_id)[ids[1]]["mlflow_id"]
    copy = Path(open_store(store).download_artifacts(run_id, "per_image.csv"))
    assert copy.read_bytes() == path.read_bytes()


def test_a_copy_of_the_project_changes_nothing(place, tmp_path: Path):
    runs, store = place
    ids = write_study(runs)[:3]
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    before = logged(store, experiment_id)
    shutil.copytree(runs, tmp_path / "copy" / "runs")
    # The files are others, their contents the same.
    summary = track(tmp_path / "copy" / "runs", ids, store=store, experiment="ablation")
    assert summary == TrackingSummary(experiment_id, unchanged=3)
    assert without_ids(logged(store, experiment_id)) == without_ids(before)


def test_runs_deleted_in_mlflow_come_back(place):
    runs, store = place
    ids = write_study(runs)[:3]
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    before = logged(store, experiment_id)
    open_store(store).delete_run(before[ids[1]]["mlflow_id"])
    summary = track(runs, ids, store=store, experiment="ablation")
    assert summary == TrackingSummary(experiment_id, created=1, unchanged=2)
    assert without_ids(logged(store, experiment_id)) == without_ids(before)


def test_nothing_is_cut_where_mlflow_answers_in_pages(place, monkeypatch):
    runs, store = place
    ids = [write_run(runs, n, f"row {n}", "student", {}, status="failed") for n in range(5)]
    monkeypatch.setattr(views, "_PAGE", 2)
    for name in ("study_0", "study_1", "study_2"):
        track(runs, ids, store=store, experiment=name)
        summary = track(runs, ids, store=store, experiment=name)
        assert summary == TrackingSummary(summary.experiment_id, unchanged=5)
    assert list(run_links(store, "http://127.0.0.1:1")) == sorted(ids)
    track(runs, ids[:2], store=store, experiment="a_small_one")
    links = study_links(store, "http://127.0.0.1:1")
    # The largest first, and those of one size by name.
    names = [name for name in links if name.startswith(("study", "a_"))]
    assert names == ["study_0", "study_1", "study_2", "a_small_one"]
    assert {"study_0", "study_1", "study_2"} < set(links)
    found = logged(store, summary.experiment_id)
    variants = [found[run_id]["mlflow_id"] for run_id in ids]
    assert links["study_2"] == compare_url("http://127.0.0.1:1", summary.experiment_id, variants)


def test_a_half_logged_run_is_logged_anew_without_doubles(place):
    runs, store = place
    ids = write_study(runs)[:2]
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    before = logged(store, experiment_id)
    # As after a kill during the replay: the digest is written last.
    open_store(store).delete_tag(before[ids[0]]["mlflow_id"], "fadepth.digest")
    summary = track(runs, ids, store=store, experiment="ablation")
    assert summary == TrackingSummary(experiment_id, replaced=1, unchanged=1)
    assert without_ids(logged(store, experiment_id)) == without_ids(before)


def test_a_growing_run_is_completed_in_place(place):
    runs, store = place
    factors = {"etm": "off", "pyramid": "off", "apx": "off"}
    done = write_run(runs, 3, "Base", "student", factors)
    final = runs.parent / "final"
    (runs / done).rename(final)
    whole = (final / "metrics.jsonl").read_text().splitlines(keepends=True)
    run_id = write_run(
        runs, 3, "Base", "student", factors, status="running", ended=None, pid=os.getpid()
    )
    path = runs / run_id / "metrics.jsonl"
    # The trainer is in the middle of a line.
    path.write_text("".join(whole[:10]) + whole[10][:20])
    experiment_id = track(runs, [run_id], store=store, experiment="ablation").experiment_id
    before = logged(store, experiment_id)[run_id]
    assert before["status"] == "RUNNING"
    assert len(before["history"]["train/loss/total"]) == 10
    shutil.rmtree(runs / run_id)
    final.rename(runs / run_id)
    summary = track(runs, [run_id], store=store, experiment="ablation")
    assert summary == TrackingSummary(experiment_id, updated=1)
    after = logged(store, experiment_id)[run_id]
    assert after["mlflow_id"] == before["mlflow_id"]
    assert after["status"] == "FINISHED"
    assert len(after["history"]["train/loss/total"]) == STEPS
    assert {len(h) for k, h in after["history"].items() if k.startswith("test/")} == {1}


def test_a_changed_result_replaces_the_old_one(place):
    runs, store = place
    ids = write_study(runs)[:3]
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    metrics = json.loads((runs / ids[1] / "metrics.json").read_text())["metrics"]
    change(runs / ids[1], "metrics.json", metrics={**metrics, "abs_rel": 0.5})
    summary = track(runs, ids, store=store, experiment="ablation")
    assert summary == TrackingSummary(experiment_id, replaced=1, unchanged=2)
    history = logged(store, experiment_id)[ids[1]]["history"]
    assert [value for _, _, value in history["test/abs_rel"]] == [0.5]


def test_a_step_logged_twice_after_a_resume_counts_once(place):
    runs, store = place
    run_id = write_study(runs)[0]
    path = runs / run_id / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    again = json.loads(lines[20]) | {"time": START + 900, "train/loss/total": 0.125}
    path.write_text("".join(lines[:25]) + json.dumps(again) + "\n")
    experiment_id = track(runs, [run_id], store=store, experiment="ablation").experiment_id
    history = logged(store, experiment_id)[run_id]["history"]["train/loss/total"]
    assert [step for step, _, _ in history] == [10 * s for s in range(25)]
    assert history[20] == (200, round(1000 * (START + 900)), 0.125)


def test_doubles_of_two_hosts_are_removed(place):
    runs, store = place
    ids = write_study(runs)[:2]
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    before = logged(store, experiment_id)
    client = open_store(store)
    kept = client.get_run(before[ids[0]]["mlflow_id"])
    # As two hosts leave them that looked for the run at the same time.
    double = client.create_run(experiment_id, tags=kept.data.tags).info.run_id
    summary = track(runs, ids, store=store, experiment="ablation")
    assert summary.created == 0
    after = logged(store, experiment_id)
    assert after[ids[0]]["mlflow_id"] == min(double, before[ids[0]]["mlflow_id"])
    assert after[ids[1]] == before[ids[1]]


def test_a_training_that_ended_twice_counts_its_parameters_once(place):
    """Killed between its end and Snakemake's note of it, it is run again and ends later."""
    runs, store = place
    run_id = write_run(runs, 0, "A", "student", {"apx": "off"})
    evaluation = runs / run_id / "metrics.json"
    content = evaluation.read_text()
    evaluation.unlink()
    shutil.rmtree(runs / run_id / "panels")
    manifest = runs / run_id / "manifest.json"
    for later in (0, 60, 120):
        ended = json.loads(manifest.read_text()) | {"ended": START + 600 + later}
        manifest.write_text(json.dumps(ended))
        track(runs, store=store, experiment="ablation")
    evaluation.write_text(content)
    experiment_id = track(runs, store=store, experiment="ablation").experiment_id
    history = logged(store, experiment_id)[run_id]["history"]
    assert len(history["model/parameters_m"]) == len(history["test/abs_rel"]) == 1


def test_killed_failed_and_diverged_runs(place):
    runs, store = place
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    factors = {"apx": "off"}
    killed = write_run(runs, 0, "A", "student", factors, status="running", ended=None, pid=gone.pid)
    alive = write_run(
        runs, 1, "B", "student", factors, status="running", ended=None, pid=os.getpid()
    )
    failed = write_run(runs, 2, "C", "student", factors, status="failed")
    silent = write_run(runs, 3, "D", "student", factors, status="running", ended=None)
    fresh = write_run(runs, 4, "E", "student", factors, status="running", ended=None)
    # Runs of another host, where the number of this process says nothing.
    elsewhere = {"status": "running", "ended": None, "pid": os.getpid(), "host": "elsewhere"}
    gone_there = write_run(runs, 5, "F", "student", factors, **elsewhere)
    alive_there = write_run(runs, 6, "G", "student", factors, **elsewhere)
    # The number of a process that ended before the machine was started again.
    reused = write_run(
        runs, 7, "H", "student", factors, status="running", ended=None, pid=os.getpid()
    )
    for run_id in (silent, gone_there, reused):
        for path in (runs / run_id).iterdir():
            os.utime(path, (time.time() - 10**6, time.time() - 10**6))
    with (runs / failed / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 999, "time": 1790009999, "train/loss/total": Infinity}\n')
    experiment_id = track(runs, store=store, experiment="ablation").experiment_id
    found = logged(store, experiment_id)
    assert {i: found[i]["status"] for i in found} == {
        killed: "KILLED",
        alive: "RUNNING",
        failed: "FAILED",
        silent: "KILLED",
        fresh: "RUNNING",
        gone_there: "KILLED",
        alive_there: "RUNNING",
        reused: "KILLED",
    }
    # A killed run ended when it was last heard of.
    assert found[killed]["times"][1] == 1000 * int(START + 20 * (STEPS - 1))
    assert found[alive]["times"][1] is None
    last = found[failed]["history"]["train/loss/total"][-1][2]
    assert last != last, "an infinity must not flatten the chart"


def test_seeds_are_named_apart_and_stay_flat(place):
    runs, store = place
    ids = write_study(runs, seeds=(1, 2))
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    found = logged(store, experiment_id)
    assert len(found) == 20
    names = Counter(run["name"] for run in found.values())
    assert names["ETM + PL · seed 2"] == 1
    assert names["HQDecv2"] == 1
    assert set(names.values()) == {1}
    assert not any("mlflow.parentRunId" in run["tags"] for run in found.values())


def test_older_runs_of_a_row_are_told_apart(place):
    runs, store = place
    old = write_run(runs, 1, "APX", "student", {"apx": "on"})
    new = write_run(runs, 2, "APX", "student", {"apx": "on"})
    experiment_id = track(runs, [old, new], store=store, experiment="ablation").experiment_id
    found = logged(store, experiment_id)
    assert found[old]["name"] == "APX · 0000000001"
    assert found[new]["name"] == "APX · 0000000002"


def test_prune_removes_only_our_stale_runs(place):
    runs, store = place
    ids = write_study(runs)
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    foreign = open_store(store).create_run(experiment_id).info.run_id
    summary = track(runs, ids[:8], store=store, experiment="ablation", prune=True)
    assert summary == TrackingSummary(experiment_id, unchanged=8, removed=4)
    left = open_store(store).search_runs([experiment_id])
    assert len(left) == 9
    assert foreign in {run.info.run_id for run in left}


def test_a_rebuilt_database_gives_the_same_comparison(place, empty_store):
    runs, store = place
    ids = write_study(runs)[4:10]
    first = track(runs, ids, store=store, experiment="ablation")
    before = logged(store, first.experiment_id)
    # Under another name: this process still holds connections to the first file.
    shutil.copy(empty_store, "rebuilt.db")
    store = "sqlite:///rebuilt.db"
    second = track(runs, ids, store=store, experiment="ablation")
    assert second.created == 6
    assert without_ids(logged(store, second.experiment_id)) == without_ids(before)


def test_a_moved_checkout_gets_its_artifacts_back(place):
    runs, store = place
    ids = write_study(runs)[:1]
    first = track(runs, ids, store=store, experiment="ablation")
    moved = runs.parent / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "runs", "mlartifacts"):
        shutil.move(runs.parent / name, moved / name)
    store = f"sqlite:///{moved}/mlflow.db"
    second = track(moved / "runs", ids, store=store, experiment="ablation")
    assert second == TrackingSummary(second.experiment_id, created=1)
    assert second.experiment_id != first.experiment_id
    client = open_store(store)
    assert client.get_experiment_by_name("ablation").experiment_id == second.experiment_id
    mlflow_id = logged(store, second.experiment_id)[ids[0]]["mlflow_id"]
    location = client.get_run(mlflow_id).info.artifact_uri
    assert location is not None
    assert location.startswith((moved / "mlartifacts").as_uri())
    copy = Path(client.download_artifacts(mlflow_id, "panels/frame_0.png"))
    assert copy.read_bytes() == (moved / "runs" / ids[0] / "panels" / "frame_0.png").read_bytes()
    # The files of the lost links do not stay behind.
    assert [path.name for path in (moved / "mlartifacts" / "ablation").iterdir()] == [mlflow_id]


def test_a_deleted_experiment_of_a_moved_checkout_comes_back(place):
    runs, store = place
    ids = write_study(runs)[:1]
    first = track(runs, ids, store=store, experiment="ablation")
    open_store(store).delete_experiment(first.experiment_id)
    moved = runs.parent / "moved"
    moved.mkdir()
    shutil.move("mlflow.db", moved)
    store = f"sqlite:///{moved}/mlflow.db"
    second = track(runs, ids, store=store, experiment="ablation")
    assert second == TrackingSummary(second.experiment_id, created=1)


def test_a_deleted_experiment_comes_back(place):
    runs, store = place
    ids = write_study(runs)[:1]
    first = track(runs, ids, store=store, experiment="ablation")
    open_store(store).delete_experiment(first.experiment_id)
    second = track(runs, ids, store=store, experiment="ablation")
    assert set(logged(store, second.experiment_id)) == set(ids)


def test_bad_input_is_told_in_one_sentence(place, tmp_path: Path):
    runs, store = place
    ids = write_study(runs)[:1]
    with pytest.raises(FadepthError, match=r"manifest\.json does not exist: start none-0 again"):
        track(runs, ["none-0"], store=store, experiment="ablation")
    path = runs / ids[0] / "metrics.jsonl"
    path.write_text("broken\n" + path.read_text())
    ids.append(write_run(runs, 30, "Z", "student", {}))
    with pytest.raises(FadepthError, match="line 1: expected an object with 'step' and 'time'"):
        track(runs, ids, store=store, experiment="ablation")
    # It stops no other.
    experiment = open_store(store).get_experiment_by_name("ablation")
    assert experiment is not None
    assert set(logged(store, experiment.experiment_id)) == {ids[1]}
    with pytest.raises(FadepthError, match=r"write it as sqlite:///mlflow\.db"):
        track(runs, [], store="sqlite:mlflow.db", experiment="ablation")
    with pytest.raises(FadepthError, match="fill it from runs/ with 'fadepth track'"):
        open_store("sqlite:///absent.db")
    (tmp_path / "text.db").write_text("this is no database, whatever its name says")
    with pytest.raises(FadepthError, match="cannot be opened"):
        open_store("sqlite:///text.db")


def test_links_name_views_and_runs():
    links = compare_url("http://127.0.0.1:5000/", "7", ["a1", "b2"])
    assert links.charts.startswith("http://127.0.0.1:5000/#/experiments/7/runs?")
    assert "viewStateShareKey=all" in links.charts
    assert "compareRunsMode=CHART" in links.charts
    assert links.table.endswith("/experiments/7/runs?viewStateShareKey=variants")
    assert links.compare is not None
    assert links.compare.endswith(
        "/#/compare-runs?runs=%5B%22a1%22%2C%22b2%22%5D&experiments=%5B%227%22%5D"
    )
    assert compare_url("http://127.0.0.1:5000", "7").compare is None
    # No browser opens an address of thousands of runs.
    assert compare_url("http://127.0.0.1:5000", "7", ["a"] * 2000).compare is None
