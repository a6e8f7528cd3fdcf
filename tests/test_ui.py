"""MLflow's pages on this machine: links printed, one server a port, nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from fadepth import ui
from fadepth.errors import FadepthError
from fadepth.tracking import open_store, track
from tests.tracking.fakes import write_study
from tests.tracking.servers import free_port


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/ and their store."""
    folder = tmp_path_factory.mktemp("ui")
    ids = write_study(folder / "runs")[6:9]
    track(folder / "runs", ids, store=f"sqlite:///{folder}/mlflow.db", experiment="ablation")
    return folder


class Served:
    """`serve` in a process of its own, read line by line."""

    def __init__(self, project: Path, port: int) -> None:
        program = (
            "import sys; from fadepth.ui import serve; from fadepth.errors import FadepthError\n"
            "try: serve('sqlite:///mlflow.db', int(sys.argv[1]))\n"
            "except FadepthError as error: sys.exit(f'fadepth: {error}')"
        )
        self.said = ""
        self.job = subprocess.Popen(
            [sys.executable, "-c", program, str(port)],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, words: str) -> None:
        assert self.job.stdout is not None
        while words not in self.said:
            line = self.job.stdout.readline()
            assert line, self.said
            self.said += line

    def processes(self) -> list[psutil.Process]:
        """The server's processes: all that this one has started."""
        return psutil.Process(self.job.pid).children(recursive=True)

    def end(self, number: signal.Signals) -> None:
        """Send a signal: it ends in peace, and so does all that it has started."""
        started = self.processes()
        self.job.send_signal(number)
        self.said += self.job.communicate(timeout=60)[0]
        assert self.job.returncode == 0, self.said
        assert "Traceback" not in self.said
        assert [process for process in started if process.is_running()] == []

    def kill(self) -> None:
        """Leave nothing behind where a test has failed."""
        if self.job.poll() is None:
            for process in self.processes():
                process.kill()
            self.job.kill()
            self.job.communicate()


@pytest.mark.slow
def test_ui_prints_links_serves_this_machine_and_ends_with_its_children(project: Path) -> None:
    store = f"sqlite:///{project}/mlflow.db"
    port = free_port()
    served = Served(project, port)
    try:
        served.read_until("Starting MLflow")
        # Its server binds the port only after seconds.
        with pytest.raises(FadepthError, match=f"port {port} .*another 'fadepth ui' has it"):
            ui.serve(store, port)
        served.read_until("Ctrl-C ends it")
        client = open_store(store)
        experiment = client.get_experiment_by_name("ablation")
        assert experiment is not None
        page = f"http://127.0.0.1:{port}/#/experiments/{experiment.experiment_id}/runs"
        assert page in served.said
        assert f"http://127.0.0.1:{port}/#/compare-runs?runs=" in served.said
        run = client.search_runs([experiment.experiment_id])[0].info.run_id
        address = f"http://127.0.0.1:{port}/get-artifact?path=config.yaml&run_uuid={run}"
        with urllib.request.urlopen(address) as answer:
            assert b"epochs" in answer.read()
        started = served.processes()
        listening = [
            connection.laddr.ip
            for process in started
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert set(listening) == {"127.0.0.1"}
        # MLflow's default is ten processes; see docs/decisions/006.
        assert len(started) <= 2, [process.cmdline() for process in started]
        served.end(signal.SIGTERM)
    finally:
        served.kill()
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ui_that_is_ended_while_it_starts_leaves_nothing(
    number: signal.Signals, project: Path
) -> None:
    served = Served(project, free_port())
    try:
        served.read_until("Starting MLflow")
        while not served.processes():
            assert served.job.poll() is None, served.said
            time.sleep(0.01)
        served.end(number)
    finally:
        served.kill()
    assert "MLflow is up" not in served.said


def test_ui_refuses_a_busy_port_and_an_absent_store(project: Path) -> None:
    store = f"sqlite:///{project}/mlflow.db"
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(FadepthError, match=f"port {port} on 127.0.0.1 cannot be used"):
            ui.serve(store, port)
    with pytest.raises(FadepthError, match="fill it from runs/ with 'fadepth track'"):
        ui.serve(f"sqlite:///{project}/absent.db", free_port())


def test_the_pages_of_a_server_are_its_own() -> None:
    assert ui.page_address("sqlite:///mlflow.db") == "http://127.0.0.1:5000"
    assert ui.page_address("https://me:secret@host:8080/mlflow/") == "https://host:8080/mlflow"
