"""MLflow's web interface on this machine, with links to the prepared views."""

import contextlib
import os
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
from types import FrameType
from typing import IO

from fadepth.errors import FadepthError
from fadepth.tracking import database_file, store_uri, study_links

HOST, PORT = "127.0.0.1", 5000
#: Where `fadepth ui` serves unless told otherwise.
ADDRESS = f"http://{HOST}:{PORT}"

_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


def serve(store: str, port: int = PORT, host: str = HOST) -> None:
    """Run the MLflow server until Ctrl-C or SIGTERM; print where to look once it answers.

    Raises:
        FadepthError: the store is not there, the port is taken, or the server does not start.
    """
    path = database_file(store)
    if path is not None and not path.exists():
        raise FadepthError(f"{path} does not exist: fill it from runs/ with 'fadepth track'")
    _check_port_is_free(host, port)
    base_url = f"http://{host}:{port}"
    print(f"Starting MLflow on {base_url} (about ten seconds) ...", flush=True)
    with _sigterm_as_interrupt(), _server(store, port, host) as (server, log):
        try:
            _wait_until_up(server, log, base_url)
            print(_greeting(store, base_url), flush=True)
            server.wait()
        except KeyboardInterrupt:
            print("\nStopping MLflow ...", flush=True)
            return
        raise FadepthError(f"the MLflow server ended by itself: {_last_line(log)}")


def _check_port_is_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the server does it: a port that merely cools down after a restart counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FadepthError(
                f"port {port} on {host} cannot be used ({error.strerror}): "
                f"end what listens there or choose another, e.g. --port {port + 1}"
            ) from None


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _server(
    store: str, port: int, host: str
) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    """The server in a process group of its own, which ends with this block."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", store_uri(store), "--host", host, "--port", str(port)]
    path = database_file(store)
    folder = Path.cwd() if path is None else path.parent
    if path is not None:
        command += ["--artifacts-destination", (folder / "mlartifacts").as_uri()]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Eight idle workers for language model jobs otherwise (2 GB).
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        try:
            yield server, log
        finally:
            _end_group(server)


def _end_group(server: "subprocess.Popen[bytes]") -> None:
    # A second Ctrl-C must not leave half of the group behind.
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, ending)
            deadline = monotonic() + _STOP_SECONDS
            while monotonic() < deadline:
                server.poll()
                try:
                    os.killpg(server.pid, 0)
                except ProcessLookupError:
                    return
                sleep(0.1)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _wait_until_up(server: "subprocess.Popen[bytes]", log: IO[bytes], base_url: str) -> None:
    deadline = monotonic() + _START_SECONDS
    while monotonic() < deadline:
        if server.poll() is not None:
            raise FadepthError(f"the MLflow server did not start: {_last_line(log)}")
        try:
            # Not through a proxy: it is this machine.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{base_url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        sleep(0.2)
    raise FadepthError(
        f"the MLflow server did not answer on {base_url} within {_START_SECONDS:.0f} s: "
        "try again when the machine is less busy"
    )


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"


def _greeting(store: str, base_url: str) -> str:
    links = study_links(store, base_url)
    lines = [f"MLflow is up: {base_url}"]
    if not links:
        lines.append("It holds no study yet: fill it from runs/ with 'fadepth track'")
    for name, link in links.items():
        lines += [f"  {name}", f"    charts   {link.charts}", f"    table    {link.table}"]
        if link.compare is not None:
            lines.append(f"    compare  {link.compare}")
    return "\n".join([*lines, "Ctrl-C ends it."])
