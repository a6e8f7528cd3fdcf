"""Replaying run folders into MLflow: nothing lost, nothing doubled, rebuilt at any time."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import yaml
from PIL import Image

from fadepth import ui
from fadepth.errors import FadepthError
from fadepth.tracking import TrackingSummary, compare_url, open_store, track

METRICS = ["abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3"]
STEPS = 30
START = 1_790_000_000.0


def write_run(runs: Path, index: int, row: str, kind: str, factors: dict, **changes) -> str:
    """A run folder as training and evaluation leave it; `index` makes its numbers its own."""
    run_id = f"{row.lower().replace(' + ', '_').replace(' ', '-')}-{index:010x}"
    folder = runs / run_id
    (folder / "panels").mkdir(parents=True)
    started = START + 1000 * index
    manifest = {
        "run_id": run_id,
        "kind": kind,
        "row": row,
        "study": "ablation",
        "factors": factors,
        "seed": None if kind == "baseline" else 1,
        "scale": "quick",
        "dataset": "street",
        "status": "finished",
        "started": started,
        "ended": started + 600,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": index == 0,
        "data_hash": "d" * 12,
        "config_hash": f"{index:012x}",
        "code_hash": "c" * 12,
        "environment": {"python": "3.11", "torch": "2", "platform": "x", "threads": 1},
        "command": f"fadepth train {run_id}",
        "teacher": "hqdecv2-000" if factors.get("apx") == "on" else None,
        "parameters_inference": 0 if kind == "baseline" else 2_030_000 + 1000 * index,
        "parameters_training": 3_000_000,
    }
    seed = changes.pop("seed", manifest["seed"])
    manifest |= {"seed": seed, **changes}
    if manifest["status"] == "running":
        # Known at the end only.
        del manifest["parameters_inference"], manifest["parameters_training"]
    config = {
        "seed": seed,
        "training": {"epochs": 3},
        "loss": {"apx": {"enabled": factors.get("apx") == "on"}},
    }
    lines = [
        {
            "step": 10 * s,
            "epoch": s // 10,
            "time": started + 20 * s,
            "train/loss/total": 0.5 * 0.95**s + 0.01 * index,
            "train/loss/photometric": 0.4 * 0.95**s,
            "val/abs_rel": 0.4 * 0.98**s + 0.01 * index,
        }
        for s in range(STEPS if kind != "baseline" else 0)
    ]
    values = [0.14, 1.1, 5.3, 0.22, 0.81, 0.93, 0.97]
    scale = {"student": 1 - 0.02 * index, "teacher": 0.75, "baseline": 2.5}[kind]
    metrics = {
        name: value * scale if n < 4 else 1 - (1 - value) * scale
        for n, (name, value) in enumerate(zip(METRICS, values, strict=True))
    }
    evaluation = {
        "protocol": "synthetic_dense",
        "images": 128,
        "scale": "quick",
        "dataset": "street",
        "metrics": metrics,
        "parameters": 2_030_000,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "per_image.csv").write_text("drive,frame,abs_rel\nA,1,0.1\n")
    (folder / "model.pt").write_bytes(b"weights")
    if manifest["status"] == "finished":
        (folder / "metrics.json").write_text(json.dumps(evaluation))
        for frame in range(2):
            gradient = Image.linear_gradient("L").resize((312, 96)).rotate(90 * frame + 8 * index)
            strip = Image.new("RGB", (312, 288), (60 + 8 * index, 90, 120))
            strip.paste(Image.merge("RGB", [gradient] * 3), (0, 96))
            strip.save(folder / "panels" / f"frame_{frame}.png")
    return run_id


def write_study(runs: Path, seeds: tuple[int, ...] = (1,)) -> list[str]:
    """8 variants, a teacher, 3 baselines, in the table's order."""
    ids: list[str] = []
    for levels in product(["off", "on"], repeat=3):
        factors = dict(zip(["etm", "pyramid", "apx"], levels, strict=True))
        names = {"etm": "ETM", "pyramid": "PL", "apx": "APX"}
        row = " + ".join(names[n] for n, level in factors.items() if level == "on") or "Base"
        for seed in seeds:
            ids.append(write_run(runs, len(ids), row, "student", factors, seed=seed))
    ids.append(write_run(runs, len(ids), "HQDecv2", "teacher", {}))
    for row in ("Constant depth", "Mean depth map", "Vertical ramp"):
        ids.append(write_run(runs, len(ids), row, "baseline", {}))
    return ids


def change(folder: Path, name: str, **values) -> None:
    content = json.loads((folder / name).read_text())
    content.update(values)
    (folder / name).write_text(json.dumps(content))


def logged(store: str, experiment_id: str) -> dict[str, dict]:
    """All that a comparison shows, by fadepth's run id, without MLflow's own ids."""
    client = open_store(store)
    result = {}
    for run in client.search_runs([experiment_id], max_results=1000):
        run_id = run.data.tags["fadepth.run_id"]
        assert run_id not in result, "a run folder is in MLflow twice"
        keys = run.data.metrics
        history = {key: client.get_metric_history(run.info.run_id, key) for key in keys}
        artifacts = [a.path for a in client.list_artifacts(run.info.run_id)]
        panels = [a.path for a in client.list_artifacts(run.info.run_id, "panels")]
        result[run_id] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": run.data.tags,
            "history": {
                k: sorted((m.step, m.timestamp, m.value) for m in h) for k, h in history.items()
            },
            "artifacts": sorted(artifacts + panels),
            "mlflow_id": run.info.run_id,
        }
    return result


def without_ids(runs: dict[str, dict]) -> dict[str, dict]:
    return {i: {k: v for k, v in run.items() if k != "mlflow_id"} for i, run in runs.items()}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its schema: creating one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("store")
    track(folder, [], store=f"sqlite:///{folder}/mlflow.db", experiment="unused")
    assert {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch):
    """A working directory with runs/ and a store; returns both and the run ids."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path / "runs", "sqlite:///mlflow.db"


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
    ids = write_study(runs)
    first = track(runs, ids, store=store, experiment="ablation")
    before = logged(store, first.experiment_id)
    second = track(runs, ids, store=store, experiment="ablation")
    assert second == TrackingSummary(first.experiment_id, unchanged=12)
    assert logged(store, first.experiment_id) == before


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
    for path in (runs / silent).iterdir():
        os.utime(path, (START, START))
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
    ids = write_study(runs)
    first = track(runs, ids, store=store, experiment="ablation")
    before = logged(store, first.experiment_id)
    # Under another name: this process still holds connections to the first file.
    shutil.copy(empty_store, "rebuilt.db")
    store = "sqlite:///rebuilt.db"
    second = track(runs, ids, store=store, experiment="ablation")
    assert second.created == 12
    assert without_ids(logged(store, second.experiment_id)) == without_ids(before)


def test_a_moved_checkout_gets_its_artifacts_back(place):
    runs, store = place
    ids = write_study(runs)[:1]
    first = track(runs, ids, store=store, experiment="ablation")
    moved = runs.parent / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "runs"):
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
    with pytest.raises(FadepthError, match="line 1: expected an object with 'step' and 'time'"):
        track(runs, ids, store=store, experiment="ablation")
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


@pytest.mark.slow
def test_processes_that_share_a_fresh_store_lose_nothing(tmp_path: Path):
    runs = tmp_path / "runs"
    ids = write_study(runs)
    program = (
        "import sys; from pathlib import Path; from fadepth.tracking import track;"
        "track(Path('runs'), sys.argv[1:], experiment='ablation')"
    )
    root = Path(__file__).resolve().parent.parent
    # Each process has three runs of its own, and one that all share.
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", program, ids[0], *ids[3 * i : 3 * i + 3]],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(4)
    ]
    said = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, said
    store = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = open_store(store).get_experiment_by_name("ablation")
    assert experiment is not None
    found = logged(store, experiment.experiment_id)
    assert set(found) == set(ids)
    assert [len(found[i]["history"]["train/loss/total"]) for i in ids[:9]] == [STEPS] * 9
    assert not (tmp_path / "mlruns").exists()
    assert not (tmp_path / "mlflow.db.unfinished").exists()


def test_ui_refuses_a_busy_port_and_an_absent_store(place):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(FadepthError, match=f"port {port} on 127.0.0.1 cannot be used"):
            ui.serve(place[1], port=port)
    with pytest.raises(FadepthError, match="fill it from runs/ with 'fadepth track'"):
        ui.serve("sqlite:///absent.db")


@pytest.mark.slow
def test_ui_prints_links_and_ends_with_its_children(place):
    runs, store = place
    ids = write_study(runs)
    experiment_id = track(runs, ids, store=store, experiment="ablation").experiment_id
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = f"from fadepth.ui import serve; serve({store!r}, {port})"
    root = Path(__file__).resolve().parent.parent
    job = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert job.stdout is not None
    said = ""
    try:
        while "Ctrl-C ends it" not in said:
            line = job.stdout.readline()
            assert line, said
            said += line
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
    finally:
        job.send_signal(signal.SIGTERM)
        said += job.communicate(timeout=60)[0]
    assert job.returncode == 0, said
    assert f"http://127.0.0.1:{port}/#/experiments/{experiment_id}/runs" in said
    assert "Traceback" not in said
    # The port is free again: no child of the server is left.
    with socket.create_server(("127.0.0.1", port)):
        pass
