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
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import IO
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from fadepth.errors import FadepthError
from fadepth.tracking import database_file, is_server, store_uri, study_links

HOST, PORT = "127.0.0.1", 5000
#: Where `fadepth ui` serves unless told otherwise.
ADDRESS = f"http://{HOST}:{PORT}"

_START_SECONDS = 120.0
_STOP_SECONDS = 15.0


@dataclass
class _Request:
    """Whether somebody asked for the end."""

    to_end: bool = False


def page_address(store: str) -> str:
    """Where the pages of a store are, or will be."""
    if not is_server(store):
        return ADDRESS
    parts = urlsplit(store)
    # Without a name and password, if the address has them.
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def print_links(store: str) -> None:
    """Print where a server shows each study.

    Raises:
        FadepthError: the server does not answer.
    """
    base_url = page_address(store)
    print("\n".join([f"MLflow is at {base_url}", *_links(store, base_url)]), flush=True)


def serve(store: str, port: int = PORT) -> None:
    """Run the MLflow server until Ctrl-C or SIGTERM; print where to look once it answers.

    Raises:
        FadepthError: the store is not there, the port is taken, or the server does not start.
    """
    path = database_file(store)
    if path is not None and not path.exists():
        raise FadepthError(f"{path} does not exist: fill it from runs/ with 'fadepth track'")
    base_url = f"http://{HOST}:{port}"
    with _port(port), _ends_asked_for() as request:
        print(f"Starting MLflow on {base_url} (about ten seconds) ...", flush=True)
        with _server(store, port) as (server, log):
            is_up = _wait_until_up(server, log, base_url, request)
            if is_up:
                lines = [f"MLflow is up: {base_url}", *_links(store, base_url), "Ctrl-C ends it."]
                print("\n".join(lines), flush=True)
            while not request.to_end:
                if server.poll() is not None:
                    raise FadepthError(f"the MLflow server ended by itself: {_last_line(log)}")
                sleep(0.1)
            print("\nStopping MLflow ...", flush=True)


@contextlib.contextmanager
def _port(port: int) -> Iterator[None]:
    """The port, for this process alone.

    A server binds it after seconds only; until then the lock tells a second call.
    """
    taken = FadepthError(
        f"port {port} on {HOST} cannot be used (another 'fadepth ui' has it): "
        f"look at http://{HOST}:{port}, end it, or choose another, e.g. --port {port + 1}"
    )
    lock = FileLock(Path(tempfile.gettempdir()) / f"fadepth-ui-{os.getuid()}-{port}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise taken from None
    try:
        _check_port_is_free(port)
        yield
    finally:
        lock.release()


def _check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        # As the server does it: a port that merely cools down after a restart counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise FadepthError(
                f"port {port} on {HOST} cannot be used ({error.strerror}): "
                f"end what listens there or choose another, e.g. --port {port + 1}"
            ) from None


@contextlib.contextmanager
def _ends_asked_for() -> Iterator[_Request]:
    """Ctrl-C, SIGTERM and a closed terminal are noted, and interrupt nothing half-way.

    An exception between a child's start and its handle's return would leave the child behind.
    """
    request = _Request()

    def note(_signal: int, _frame: FrameType | None) -> None:
        request.to_end = True

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _server(store: str, port: int) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    """The server in a process group of its own, which ends with this block."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", HOST, "--port", str(port)]
    path = database_file(store)
    folder = Path.cwd() if path is None else path.parent
    command += ["--artifacts-destination", (folder / "mlartifacts").as_uri()]
    environment = os.environ | {
        # Not among the arguments, which everybody may read: it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": store_uri(store),
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


def _wait_until_up(
    server: "subprocess.Popen[bytes]", log: IO[bytes], base_url: str, request: _Request
) -> bool:
    """Whether the server answers; no, if the end was asked for before it did."""
    deadline = monotonic() + _START_SECONDS
    while monotonic() < deadline:
        if request.to_end:
            return False
        if server.poll() is not None:
            raise FadepthError(f"the MLflow server did not start: {_last_line(log)}")
        try:
            # Not through a proxy: it is this machine.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{base_url}/health", timeout=2) as answer:
                if answer.status == 200:
                    return True
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


def _links(store: str, base_url: str) -> list[str]:
    """Where each study is compared, a line an address."""
    links = study_links(store, base_url)
    if not links:
        return ["It holds no study yet: fill it from runs/ with 'fadepth track'"]
    lines = []
    for name, link in links.items():
        lines += [f"  {name}", f"    charts   {link.charts}", f"    table    {link.table}"]
        if link.compare is not None:
            lines.append(f"    compare  {link.compare}")
    return lines
