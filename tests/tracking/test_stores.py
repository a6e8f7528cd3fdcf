"""The same comparison in any MLflow store: SQLite, a server, PostgreSQL."""

import contextlib
import importlib.util
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fadepth.errors import FadepthError
from fadepth.tracking import TrackingSummary, open_store, run_links, study_links, track
from tests.tracking.fakes import (
    STEPS,
    change,
    logged,
    without_ids,
    write_run,
    write_study,
)
from tests.tracking.servers import free_port, mlflow_server, postgresql

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with mlflow_server(folder, free_port()) as address:
        yield address


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Without a schema, until somebody opens it first."""
    with postgresql() as address:
        yield address


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def write_at_once(folders: list[Path], jobs: list[list[str]], store: str, name: str) -> None:
    """A process for each job, all of which begin at the same moment; none may fail.

    They are forked off a process that has imported MLflow, which takes longest, and opened nothing.
    """
    program = """
import os, sys, traceback, mlflow.tracking, mlflow.store.tracking.sqlalchemy_store
from pathlib import Path
from fadepth.tracking import track
store, name, *jobs = sys.argv[1:]
children = []
for job in jobs:
    folder, *ids = job.split(',')
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)
            track(Path('runs'), ids, store=store, experiment=name)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""
    words = [",".join([str(folder), *ids]) for folder, ids in zip(folders, jobs, strict=True)]
    done = subprocess.run(
        [sys.executable, "-c", program, store, name, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def whole(store: str, ids: list[str], name: str) -> None:
    """Each run is in the experiment once, with all that it has measured."""
    experiment = open_store(store).get_experiment_by_name(name)
    assert experiment is not None
    found = logged(store, experiment.experiment_id)
    assert set(found) == set(ids)
    for run_id in ids:
        history = found[run_id]["history"]
        assert len(history["train/loss/total"]) == STEPS
        if found[run_id]["status"] == "FINISHED":
            assert len(history["test/abs_rel"]) == 1
            assert "panels/frame_1.png" in found[run_id]["artifacts"]


def write_ten(runs: Path) -> list[str]:
    """Ten runs, two of which have results."""
    states = ["finished"] * 2 + ["failed"] * 8
    return [
        write_run(runs, n, f"row {n}", "student", {"apx": "on"}, status=state)
        for n, state in enumerate(states)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "server", "database"])
def test_eight_writers_on_a_fresh_store_lose_nothing_and_double_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
):
    ids = write_ten(tmp_path / "runs")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    folders = [tmp_path] * 8
    if kind != "sqlite":
        store = request.getfixturevalue(kind)
    if kind == "database":
        # Projects of their own, so that nothing but the database can hold one back.
        folders = [tmp_path / f"project_{n}" for n in range(8)]
        for folder in folders:
            shutil.copytree(tmp_path / "runs", folder / "runs")
    # Two that all write, and one of each's own.
    jobs = [[*ids[:2], own] for own in ids[2:]]
    write_at_once(folders, jobs, store, "at once")
    whole(store, ids, "at once")
    summary = track(tmp_path / "runs", ids, store=store, experiment="at once")
    assert (summary.created, summary.replaced, summary.removed, summary.left) == (0, 0, 0, 0)
    assert not (tmp_path / "mlruns").exists()
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.slow
def test_hosts_that_share_only_a_server_lose_nothing_and_double_nothing(
    server: str, tmp_path: Path
):
    ids = write_ten(tmp_path / "runs")[:4]
    hosts = [tmp_path / f"host_{n}" for n in range(4)]
    for host in hosts:
        shutil.copytree(tmp_path / "runs", host / "runs")
    write_at_once(hosts, [ids] * 4, server, "hosts")
    track(hosts[0] / "runs", ids, store=server, experiment="hosts")
    whole(server, ids, "hosts")


def test_a_host_that_adds_the_same_tag_at_the_same_moment_does_no_harm(
    place, monkeypatch: pytest.MonkeyPatch
):
    from mlflow.exceptions import RestException
    from mlflow.tracking import MlflowClient

    runs, store = place
    ids = write_ten(runs)[:1]
    write, refused = MlflowClient.set_experiment_tag, []

    def set_second(client, experiment_id, key, value):
        """As an MLflow server answers whose database has got the other host's row in between."""
        there = key in client.get_experiment(experiment_id).tags
        write(client, experiment_id, key, value if there else "the other host's")
        if not there:
            refused.append(key)
            raise RestException({"error_code": "BAD_REQUEST", "message": "UNIQUE constraint"})

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", set_second)
    assert track(runs, ids, store=store, experiment="hosts").created == 1
    experiment = open_store(store).get_experiment_by_name("hosts")
    assert experiment is not None
    assert len(refused) == 3
    assert "the other host's" not in experiment.tags.values()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["server", "database"])
def test_any_store_shows_what_sqlite_shows(kind: str, place, request: pytest.FixtureRequest):
    runs, sqlite = place
    store = request.getfixturevalue(kind)
    ids = write_study(runs)[6:10]
    running = write_run(
        runs, 20, "R", "student", {"apx": "on"}, status="running", ended=None, pid=os.getpid()
    )
    with (runs / ids[0] / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 999, "time": 1790009999, "train/loss/total": NaN}\n')
    history = runs / running / "metrics.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:10]))
    for name in (sqlite, store):
        first = track(runs, [*ids, running], store=name, experiment="same")
        assert first == TrackingSummary(first.experiment_id, created=5)
        again = track(runs, [*ids, running], store=name, experiment="same")
        assert again == TrackingSummary(first.experiment_id, unchanged=5)
        links = run_links(name, "http://127.0.0.1:1")
        assert {*ids, running} <= set(links)
        compared = study_links(name, "http://127.0.0.1:1")["same"].compare
        assert compared is not None
        assert compared.count("%2C") == 2  # three variants
    assert _shown(store) == _shown(sqlite)

    history.write_text("".join(lines))
    change(runs / running, "manifest.json", status="finished", ended=1_790_021_000.0)
    for name in (sqlite, store):
        grown = track(runs, [*ids, running], store=name, experiment="same")
        assert grown == TrackingSummary(grown.experiment_id, updated=1, unchanged=4)
    assert _shown(store) == _shown(sqlite)


def _shown(store: str) -> str:
    """Everything of the experiment, as text: NaN equals itself there."""
    client = open_store(store)
    experiment = client.get_experiment_by_name("same")
    assert experiment is not None
    found = logged(store, experiment.experiment_id)
    panels = {
        run_id: Path(client.download_artifacts(run["mlflow_id"], "panels/frame_0.png")).read_bytes()
        for run_id, run in found.items()
        if "panels/frame_0.png" in run["artifacts"]
    }
    runs = {run_id: sorted(run.items()) for run_id, run in without_ids(found).items()}
    for run in runs.values():
        for index, (key, value) in enumerate(run):
            if isinstance(value, dict):
                run[index] = (key, sorted(value.items()))
    return repr([sorted(runs.items()), sorted(panels.items()), sorted(experiment.tags.items())])


@pytest.mark.slow
def test_what_another_host_is_writing_is_left_to_it(server: str, place):
    runs, _ = place
    ids = write_ten(runs)[:2]
    first = track(runs, ids, store=server, experiment="left")
    client = open_store(server)
    run = logged(server, first.experiment_id)[ids[0]]["mlflow_id"]
    client.set_tag(run, "fadepth.digest", f"writing elsewhere 1 {int(time.time())}")
    again = track(runs, ids, store=server, experiment="left")
    assert again == TrackingSummary(first.experiment_id, left=1, unchanged=1)
    # It has not been heard of since: its run is half-written.
    client.set_tag(run, "fadepth.digest", f"writing elsewhere 1 {int(time.time()) - 3600}")
    later = track(runs, ids, store=server, experiment="left")
    assert later == TrackingSummary(first.experiment_id, replaced=1, unchanged=1)
    assert len(logged(server, first.experiment_id)) == 2


@pytest.mark.slow
def test_ui_prints_the_links_of_a_server_and_starts_none(server: str, place):
    runs, _ = place
    ids = write_study(runs)[7:9]
    done = subprocess.run(
        [sys.executable, "-m", "fadepth", "ui"],
        env=environment(MLFLOW_TRACKING_URI=server),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    experiment = open_store(server).get_experiment_by_name("ablation-street-quick")
    assert experiment is not None
    assert set(ids) < set(logged(server, experiment.experiment_id))
    assert f"MLflow is at {server}" in done.stdout
    assert f"{server}/#/experiments/{experiment.experiment_id}/runs?" in done.stdout
    assert not Path("mlflow.db.lock").exists()


@pytest.mark.slow
def test_a_moved_checkout_gets_its_artifacts_back_in_postgresql(database: str, place):
    runs, _ = place
    ids = write_study(runs)[:1]
    track(runs, ids, store=database, experiment="moved")
    moved = runs.parent / "moved"
    moved.mkdir()
    for name in ("runs", "mlartifacts"):
        shutil.move(runs.parent / name, moved / name)
    second = track(moved / "runs", ids, store=database, experiment="moved")
    assert second == TrackingSummary(second.experiment_id, created=1)
    run = logged(database, second.experiment_id)[ids[0]]["mlflow_id"]
    client = open_store(database)
    assert str(client.get_run(run).info.artifact_uri).startswith(moved.as_uri())
    copy = Path(client.download_artifacts(run, "panels/frame_0.png"))
    assert copy.read_bytes() == (moved / "runs" / ids[0] / "panels/frame_0.png").read_bytes()
    # Another checkout of this host, while the first is there: its files go to the first's.
    shutil.copytree(moved / "runs", runs)
    third = track(runs, ids, store=database, experiment="moved")
    assert third == TrackingSummary(second.experiment_id, unchanged=1)
    # On another host there are no such folders.
    client.set_experiment_tag(second.experiment_id, "fadepth.host", "elsewhere")
    shutil.rmtree(moved)
    with pytest.raises(FadepthError, match="run 'mlflow server' on that store"):
        track(runs, ids, store=database, experiment="moved")


# ---------------------------------------------------------------------------- down and full


def test_a_store_that_is_down_is_told_in_one_sentence(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = write_study(tmp_path / "runs")[:1]
    port = free_port()
    stores = {
        f"http://me:secret@127.0.0.1:{port}": "Connection refused",
        f"http://nowhere.invalid:{port}": "nowhere.invalid|resolution|not known",
        "sqlite:///runs": "unable to open database file",
    }
    if importlib.util.find_spec("psycopg2"):
        stores[f"postgresql://me:secret@127.0.0.1:{port}/x"] = "Connection refused"
    for store, reason in stores.items():
        with pytest.raises(FadepthError, match=rf"cannot be opened \(.*({reason})") as caught:
            track(tmp_path / "runs", ids, store=store, experiment="ablation")
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize("store", ["", "mlruns", "file:///tmp/mlruns", "postgres://me@host/x"])
def test_an_address_that_is_no_store_is_refused(store: str, tmp_path: Path):
    with pytest.raises(FadepthError, match=f"store '{store}' is none that MLflow writes to"):
        track(tmp_path, [], store=store, experiment="ablation")
    with pytest.raises(FadepthError, match="is none that MLflow writes to"):
        open_store(store)


def test_a_store_without_its_driver_is_told(tmp_path: Path):
    with pytest.raises(FadepthError, match="needs a driver: No module named 'MySQLdb'"):
        track(tmp_path, [], store="mysql://me@127.0.0.1/x", experiment="ablation")


@pytest.mark.parametrize("retries", [None, "0"])
def test_a_server_that_never_answers_is_not_asked_for_minutes(
    retries: str | None, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    if retries:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", retries)
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def listen() -> None:
            while True:
                try:
                    asked.append(silent.accept()[0])
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        store = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FadepthError, match=r"cannot be opened \(no answer in time\)"):
            track(tmp_path, [], store=store, experiment="ablation")
        for connection in asked:
            connection.close()
    assert len(asked) == (1 if retries else 2)
    assert os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") == "1"


def test_a_full_disk_is_told_and_caught_up(place, empty_store: Path):
    runs, store = place
    ids = write_study(runs)[4:12]
    shutil.copy(empty_store, "never_full.db")
    never_full = "sqlite:///never_full.db"
    whole_id = track(runs, ids, store=never_full, experiment="ablation").experiment_id
    # Each time there is room for a little more; a page of the database has 4 kB.
    for room in (8_000, 40_000, 100_000):
        with (
            largest_file(Path("mlflow.db").stat().st_size + room),
            pytest.raises(
                FadepthError, match=r"mlflow\.db could not be filled .*(full|I/O)"
            ) as told,
        ):
            track(runs, ids, store=store, experiment="ablation")
        assert "'fadepth track' brings it up to date from runs/" in str(told.value)
        assert "\n" not in str(told.value)
    summary = track(runs, ids, store=store, experiment="ablation")
    assert without_ids(logged(store, summary.experiment_id)) == without_ids(
        logged(never_full, whole_id)
    )


def test_a_database_for_which_there_is_no_room_is_made_later(tmp_path: Path):
    ids = write_study(tmp_path / "runs")[:1]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with largest_file(100_000), pytest.raises(FadepthError, match="cannot be created"):
        track(tmp_path / "runs", ids, store=store, experiment="ablation")
    assert not list(tmp_path.glob("mlflow.db*[!k]"))
    summary = track(tmp_path / "runs", ids, store=store, experiment="ablation")
    assert set(logged(store, summary.experiment_id)) == set(ids)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As a disk with so much room: Python ignores the signal, and gets an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_server_whose_disk_is_full_and_then_dies_is_caught_up(place, empty_store: Path):
    runs, sqlite = place
    ids = write_study(runs)[6:10]
    folder = runs.parent / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    port = free_port()
    limit = (folder / "mlflow.db").stat().st_size + 40_000
    with (
        mlflow_server(folder, port, file_limit=limit) as server,
        pytest.raises(FadepthError, match="could not be filled"),
    ):
        track(runs, ids, store=server, experiment="ablation")
    with pytest.raises(FadepthError, match="Connection refused"):
        track(runs, ids, store=server, experiment="ablation")
    with mlflow_server(folder, port):
        summary = track(runs, ids, store=server, experiment="ablation")
        again = track(runs, ids, store=server, experiment="ablation")
        assert again == TrackingSummary(summary.experiment_id, unchanged=4)
        local = track(runs, ids, store=sqlite, experiment="ablation")
        assert without_ids(logged(server, summary.experiment_id)) == without_ids(
            logged(sqlite, local.experiment_id)
        )
