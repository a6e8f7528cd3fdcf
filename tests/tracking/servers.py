"""Stores that are processes of their own: MLflow's server and PostgreSQL."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int, *, file_limit: int | None = None) -> Iterator[str]:
    """A server on `folder`/mlflow.db that keeps artifacts itself; with a limit its disk is full.

    Args:
        folder: of database and artifacts.
        port: on the loopback address.
        file_limit: largest file that it can write, bytes.
    """
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_limit}, {file_limit}));"
    program = "import resource, runpy, sys;" + (limit if file_limit else "")
    program += "sys.argv[0] = 'mlflow'; runpy.run_module('mlflow', run_name='__main__')"
    command = [sys.executable, "-c", program, "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", (folder / "served").as_uri()]
    switches = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | switches,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = monotonic() + 120
    while monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        sleep(0.1)
    raise AssertionError(f"no answer from {url}: {log.read_text()}")


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A cluster with an empty database, on the loopback address; skips where there is none."""
    if importlib.util.find_spec("psycopg2") is None:
        pytest.skip("no driver for PostgreSQL: pip install psycopg2-binary")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb") or (str(programs[-1]) if programs else None)
    if found is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="fadepth-postgresql-"))
    # PostgreSQL does not run as root.
    user = None
    if os.getuid() == 0:
        user = next((name.pw_name for name in pwd.getpwall() if name.pw_name == "postgres"), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        shutil.chown(folder, user)

    def call(program: str, *arguments: str) -> None:
        command = [str(Path(found).with_name(program)), "-D", str(folder / "data"), *arguments]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            user=user,
            extra_groups=[] if user else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stdout

    port = free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        call("initdb", "-E", "UTF8", "-A", "trust", "-U", "postgres", "--no-sync")
        call("pg_ctl", "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://postgres:secret@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
