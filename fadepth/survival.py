"""Kills, and what they would leave behind: locks that nobody holds, jobs that nobody waits for.

The kernel gives up a file lock when its process ends, however it ends. So who holds one is alive,
and what lies about without one may be cleared away. Snakemake's own locks are files that stay.
"""

import errno
import fcntl
import logging
import os
import platform
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil
from filelock import FileLock, Timeout

from fadepth.files import write_atomic

log = logging.getLogger(__name__)

#: Names the workflow's process to its jobs: pid and time of its start.
WORKFLOW = "FADEPTH_WORKFLOW"

#: After its last job Snakemake ends within so many seconds, or never.
_LONGEST_END = 5.0

#: Interrupts Snakemake where it waits for ever.
_LEAD_OUT = signal.SIGURG

#: How often a job looks whether its workflow is still there, seconds.
_LOOK_EVERY = 0.5


def process_lives(pid: int) -> bool:
    """Whether this machine has a process of that number; false for a number that none can have."""
    try:
        return psutil.pid_exists(pid)
    except OverflowError:  # from a damaged file
        return False


# The workflow's process


def claim_folder(state: Path) -> IO[bytes]:
    """Mark this Snakemake as alive in a working folder; clear locks that dead ones left.

    Several Snakemakes may work in one folder, as long as Snakemake's own locks let them. Each
    holds a shared lock here from the moment it reads the Snakefile. Who can have it alone knows
    that no other is alive, and that the files in `locks/` are left over.

    Args:
        state: the folder's `.snakemake`.

    Returns:
        What holds the lock: it is given up when this is closed or the process ends.
    """
    state.mkdir(parents=True, exist_ok=True)
    alive = (state / "fadepth.alive").open("ab")
    owner, here = state / "fadepth.host", platform.node()
    known = owner.read_text().strip() if owner.exists() else ""
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # another one is alive: its locks stand
    except OSError:
        return alive  # a file system without locks: Snakemake's own stay until --unlock
    else:
        # Some network file systems keep locks within one host: there, only the same host knows.
        if known in ("", here):
            shutil.rmtree(state / "locks", ignore_errors=True)
    fcntl.flock(alive, fcntl.LOCK_SH)
    if any((state / "locks").glob("*.lock")):
        here = known if known in ("", here) else "several hosts"  # nobody knows any more
    if known != here:
        write_atomic(owner, here + "\n")
    return alive


def name_workflow() -> str:
    """What `WORKFLOW` holds for jobs of this process."""
    return f"{os.getpid()}:{start_of(os.getpid())}"


def start_of(pid: int) -> str | None:
    """When a process started, in ticks since boot; None: it is gone, or ended and not yet buried.

    Not in seconds since 1970: these change whenever the system's clock is set.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def pass_on_termination() -> None:
    """SIGTERM to Snakemake also ends its jobs, which save a checkpoint; call it once.

    Snakemake answers SIGTERM by starting nothing new and waiting, for days if a training takes
    days. It sets its own handler after the Snakefile is read, so the signal is heard at the
    descriptor that Python writes every signal's number to, whoever handles it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    # Not SIGINT, which a script's background jobs ignore. By itself this one does nothing.
    signal.signal(_LEAD_OUT, signal.default_int_handler)
    # A thread's argument keeps both ends open.
    threading.Thread(target=_pass_on, args=(heard, told), daemon=True).start()


def _pass_on(heard: socket.socket, _told: socket.socket) -> None:
    while signal.SIGTERM not in heard.recv(64):
        pass
    # Once Snakemake has noted that it is to start nothing new.
    time.sleep(0.2)
    jobs = [*jobs_of(psutil.Process())]
    for job in jobs:
        with suppress(psutil.NoSuchProcess):
            job.terminate()
    # Then Snakemake itself calls what is in `onerror`, which may take its time.
    while True:
        psutil.wait_procs(jobs)
        time.sleep(_LONGEST_END)
        jobs = [*jobs_of(psutil.Process())]
        if not jobs:
            break
    # Its handler takes a lock that its own thread may hold at that moment (9.27), and then it
    # waits for itself. An interrupt leads out of there.
    os.kill(os.getpid(), _LEAD_OUT)


def jobs_of(process: psutil.Process) -> Iterator[psutil.Process]:
    """What the shells below a process run: not the shells, and not a training's own workers."""
    with suppress(psutil.NoSuchProcess):
        for child in process.children():
            with suppress(psutil.NoSuchProcess):
                if child.name() in ("sh", "bash", "dash"):
                    yield from jobs_of(child)
                else:
                    yield child


# Its jobs


def end_with_workflow() -> None:
    """In a job of the workflow: SIGTERM to itself when the workflow's process is gone.

    After SIGKILL, or when memory ran out, nobody tells the jobs. A training that went on alone
    would write beside the one that the next call starts.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        # A closed terminal: also then a training saves a checkpoint first.
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    named = os.environ.get(WORKFLOW)
    if named:
        threading.Thread(target=_watch, args=(named,), daemon=True).start()


def _watch(named: str) -> None:
    while _is_alive(named):
        time.sleep(_LOOK_EVERY)
    log.warning("the workflow's process is gone: this job ends, and the next call goes on")
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(named: str) -> bool:
    # With its start, since a number is given to another process one day.
    pid, _, started = named.partition(":")
    return pid.isdigit() and start_of(int(pid)) == started


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Only one process at a time trains into a run's folder; another one waits for its end."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("waiting for another process that still writes to %s", folder)
        lock.acquire()
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        log.warning("%s has no file locks: never start two workflows at once there", folder)
    try:
        yield
    finally:
        lock.release()
