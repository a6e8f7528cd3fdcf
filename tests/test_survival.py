"""Locks of dead processes are nobody's; jobs end with their workflow; one writer a run folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fadepth.survival import (
    WORKFLOW,
    claim_folder,
    name_workflow,
    process_lives,
    sole_writer,
    start_of,
)

#: Only ends a test that would hang.
PATIENCE = 120


@pytest.fixture
def start(repository: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python code in a process of its own; whatever still lives is ended at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *words: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", code, *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(repository)} | environment,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_processes_are_known() -> None:
    assert process_lives(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not process_lives(process.pid)
    assert not process_lives(2**70)


# The working folder

CLAIM = """
import sys
from pathlib import Path
from fadepth.survival import claim_folder
alive = claim_folder(Path(sys.argv[1]))
print("claimed")
sys.stdin.readline()
"""


def lock_of_snakemake(state: Path) -> Path:
    lock = state / "locks" / "0.output.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("reports/table.csv\n")
    return lock


def test_locks_of_a_killed_snakemake_are_cleared(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    state = tmp_path / ".snakemake"
    other = start(CLAIM, state)
    assert hear(other) == "claimed"
    lock = lock_of_snakemake(state)
    other.kill()
    other.wait()
    with claim_folder(state):
        assert not lock.exists()


def test_locks_of_a_living_snakemake_stand(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Also after a first one has ended: all that live hold the folder together."""
    state = tmp_path / ".snakemake"
    first, second = start(CLAIM, state), start(CLAIM, state)
    assert [hear(first), hear(second)] == ["claimed", "claimed"]
    lock = lock_of_snakemake(state)
    with claim_folder(state):
        assert lock.exists()
    first.kill()
    first.wait()
    with claim_folder(state):
        assert lock.exists()
    second.kill()
    second.wait()
    with claim_folder(state):
        assert not lock.exists()


def test_locks_of_another_host_stand(tmp_path: Path) -> None:
    """A network file system may keep locks within a host: who is alive there is not known here."""
    state = tmp_path / ".snakemake"
    claim_folder(state).close()
    (state / "fadepth.host").write_text("another\n")
    lock = lock_of_snakemake(state)
    for _ in range(3):  # also a second call does not take them for its own
        claim_folder(state).close()
        assert lock.exists()


# Jobs

JOB = """
import signal, sys, time
from fadepth.survival import end_with_workflow
def stop(*_):
    sys.stdout.write("told to stop\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
end_with_workflow()
sys.stdout.write("running\\n")  # in one piece: a signal may come between print's two
while True:
    time.sleep(0.05)
"""


def test_a_job_ends_with_its_workflow(start: Callable[..., subprocess.Popen[str]]) -> None:
    workflow = start("import sys; sys.stdin.readline()")
    named = f"{workflow.pid}:{start_of(workflow.pid)}"
    job = start(JOB, **{WORKFLOW: named})
    assert hear(job) == "running"
    workflow.kill()
    workflow.wait()
    assert hear(job) == "told to stop"
    assert job.wait(PATIENCE) == 143


def test_a_pid_that_was_given_away_is_not_the_workflow(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    assert name_workflow() == f"{os.getpid()}:{start_of(os.getpid())}"
    # The kernel counts a hundred ticks a second, from boot.
    started = psutil.boot_time() + int(start_of(os.getpid()) or 0) / os.sysconf("SC_CLK_TCK")
    assert started == pytest.approx(psutil.Process().create_time(), abs=5)
    job = start(JOB, **{WORKFLOW: f"{os.getpid()}:{start_of(1)}"})
    assert "told to stop" in (hear(job), hear(job))


def test_a_closed_terminal_ends_a_job_as_sigterm_does(
    start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WORKFLOW, raising=False)
    job = start(JOB)
    assert hear(job) == "running"
    job.send_signal(signal.SIGHUP)
    assert hear(job) == "told to stop"


def test_a_command_by_hand_belongs_to_no_workflow(
    start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(WORKFLOW, raising=False)
    job = start(JOB)
    assert hear(job) == "running"
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(1.5)


SNAKEMAKE = """
import signal, subprocess, sys, threading, time
from fadepth.survival import pass_on_termination
if sys.argv[3] == "background":       # as a shell script starts what is followed by &
    signal.signal(signal.SIGINT, signal.SIG_IGN)
pass_on_termination()
ended = threading.Event()
lock = threading.Lock()
def gracefully(*_):       # as Snakemake's own handler, which is set later and takes a lock
    with lock:
        ended.set()
signal.signal(signal.SIGTERM, gracefully)
job = subprocess.Popen(["bash", "-c", f"{sys.executable} -u -c '{sys.argv[1]}'; true"])
try:
    if sys.argv[2] == "locked":
        with lock:
            time.sleep(600)
    while not (ended.is_set() and job.poll() is not None):
        time.sleep(0.05)
except KeyboardInterrupt:
    print("interrupted")
print("ended")
"""

TRAINING = """
import signal, sys, time
def stop(*_):
    print("checkpoint")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("training")
while True:
    time.sleep(0.05)
"""


@pytest.mark.parametrize("ground", ["foreground", "background"])
@pytest.mark.parametrize(("state", "heard"), [("free", "ended"), ("locked", "interrupted")])
def test_termination_reaches_the_jobs_and_ends_snakemake(
    start: Callable[..., subprocess.Popen[str]], state: str, heard: str, ground: str
) -> None:
    """Even while Snakemake holds the lock that its handler asks for, where it would hang."""
    snakemake = start(SNAKEMAKE, TRAINING, state, ground)
    assert hear(snakemake) == "training"
    snakemake.send_signal(signal.SIGTERM)
    assert [hear(snakemake), hear(snakemake)] == ["checkpoint", heard]
    assert snakemake.wait(PATIENCE) == 0


# Run folders

WRITER = """
import sys
from pathlib import Path
from fadepth.survival import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("writing")
    sys.stdin.readline()
"""


def test_a_second_training_waits_for_the_first(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    first = start(WRITER, folder)
    assert hear(first) == "writing"
    second = start(WRITER, folder)
    first.kill()
    first.wait()
    # Only now: what it prints first is that it writes.
    assert hear(second) == "writing"
    second.kill()
    second.wait()
    with sole_writer(folder):
        pass
