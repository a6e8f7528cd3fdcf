"""Leases of GPUs: processes that share made-up devices, are killed, are of another user."""

import fcntl
import itertools
import json
import logging
import os
import pwd
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fadepth import devices
from fadepth.devices import (
    device_count,
    hold_device,
    holders,
    lease_device,
    lock_path,
    visible_devices,
)
from fadepth.errors import FadepthError
from fadepth.execution import evaluate as evaluation
from fadepth.execution.train import predict_teacher, train_run
from fadepth.run import Run
from tests.tiny import tiny_config, tiny_manifest

#: Lease a device, say so in a file, and keep it until the standard input ends.
HOLD = """
import logging, os, sys
from pathlib import Path
from fadepth.devices import lease_device

logging.basicConfig(level=logging.INFO)
wanted, task, told = sys.argv[1:4]
exec(os.environ.get("BEFORE", ""))
with lease_device(wanted, task) as device:
    exec(os.environ.get("HOLDING", ""))
    Path(told + ".new").write_text(f"{device} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    os.rename(told + ".new", told)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with devices `fake0` and `fake1`, and its folder of locks."""
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", devices.VISIBLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(devices.DEVICES, "fake0,fake1")
    monkeypatch.setenv(devices.LOCKS, str(tmp_path / "locks"))
    return tmp_path / "locks"


class Process:
    """A process that waits for a device, and then holds it."""

    def __init__(self, folder: Path, wanted: str, task: str, extra: dict[str, str]) -> None:
        self.task, self.told, self.log = task, folder / task, folder / f"{task}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HOLD, wanted, task, str(self.told)],
                env=os.environ | {"PYTHONPATH": str(Path(devices.__file__).parents[1])} | extra,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )

    @property
    def holds(self) -> str | None:
        """Its device, and CUDA_VISIBLE_DEVICES as it sees it; None while it waits."""
        return self.told.read_text() if self.told.exists() else None

    def wait_until(self, condition: Callable[[], object]) -> None:
        """A process that ends before the condition is met fails the test."""
        deadline = time.monotonic() + 60
        while not condition():
            alive = self.process.poll() is None and time.monotonic() < deadline
            assert alive or condition(), f"{self.task}: {self.log.read_text()}"
            time.sleep(0.01)

    def until_it_holds(self) -> "Process":
        self.wait_until(lambda: self.holds)
        return self

    def until_it_waits(self) -> "Process":
        self.wait_until(lambda: "waiting" in self.log.read_text())
        return self

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(60) == 0, self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start a process that leases a device; what still runs at the end is killed."""
    started: list[Process] = []

    def start(task: str, wanted: str = "auto", **extra: str) -> Process:
        started.append(Process(tmp_path, wanted, task, extra))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()


# One process a device


#: Three times in turn, lease a device and note when. The first time a process stays until both
#: devices have been entered, so that both are held at once.
TURNS = """
import json, os, sys, time
from pathlib import Path
from fadepth.devices import lease_device

notes = Path(sys.argv[1])
stream = os.open(notes, os.O_WRONLY | os.O_APPEND)

def note(what, device):
    line = {"what": what, "device": device, "pid": os.getpid(), "time": time.monotonic_ns()}
    os.write(stream, (json.dumps(line) + "\\n").encode())

for turn in range(3):
    with lease_device("auto", "turn") as device:
        note("enter", device)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device
        while not turn and not all(name in notes.read_text() for name in ("fake0", "fake1")):
            time.sleep(0.005)
        time.sleep(0.02)
        note("leave", device)
"""


def test_no_two_processes_hold_one_device(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    environment = os.environ | {"PYTHONPATH": str(Path(devices.__file__).parents[1])}
    command = [sys.executable, "-c", TURNS, str(notes)]
    started = [subprocess.Popen(command, env=environment) for _ in range(5)]
    assert [process.wait(120) for process in started] == [0] * 5

    lines = sorted(map(json.loads, notes.read_text().splitlines()), key=lambda line: line["time"])
    spans: dict[str, list[tuple[int, int]]] = {"fake0": [], "fake1": []}
    inside: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line["what"] == "enter":
            assert line["device"] not in inside, f"{inside} and then {line}"
            inside[line["device"]] = line
        else:
            entered = inside.pop(line["device"])
            assert entered["pid"] == line["pid"]
            spans[line["device"]].append((entered["time"], line["time"]))
    assert sum(map(len, spans.values())) == 5 * 3
    assert any(
        max(one[0], other[0]) < min(one[1], other[1])
        for one, other in itertools.product(*spans.values())
    ), "never were both devices in use at once"


def test_the_first_free_device_is_taken_and_shown_to_cuda_alone(
    start: Callable[..., Process],
) -> None:
    one = start("one").until_it_holds()
    two = start("two").until_it_holds()
    assert [one.holds, two.holds] == ["fake0 fake0", "fake1 fake1"]
    one.end()
    assert start("three").until_it_holds().holds == "fake0 fake0"


def test_who_waits_is_told_for_whom(start: Callable[..., Process]) -> None:
    start("train-a").until_it_holds()
    other = start("train-b").until_it_holds()
    waiting = start("train-c").until_it_waits()
    told = waiting.log.read_text()
    assert "waiting for a GPU: fake0 is held by train-a (process " in told
    assert f"; fake1 is held by train-b (process {other.process.pid} on " in told
    assert waiting.holds is None
    other.end()
    assert waiting.until_it_holds().holds == "fake1 fake1"


def test_holders_are_known_while_they_hold(start: Callable[..., Process], machine: Path) -> None:
    assert holders() == {"fake0": None, "fake1": None}
    assert not machine.exists(), "looking makes nothing"
    process = start("train-a").until_it_holds()
    told = holders()
    assert told["fake1"] is None
    assert str(told["fake0"]).startswith(f"train-a (process {process.process.pid} on ")
    process.end()
    assert holders() == {"fake0": None, "fake1": None}


def test_a_half_written_holder_changes_nothing(
    start: Callable[..., Process], machine: Path
) -> None:
    held = {"FADEPTH_DEVICES": "fake0"}
    process = start("train-a", **held).until_it_holds()
    (machine / "fake0").write_bytes(b"\xff\x1b[31m")
    assert holders() == {"fake0": "\ufffd?[31m", "fake1": None}
    (machine / "fake0").write_bytes(b"")
    assert holders() == {"fake0": "another process", "fake1": None}
    waiting = start("train-b", **held).until_it_waits()
    assert "fake0 is held by another process" in waiting.log.read_text()
    process.end()
    waiting.until_it_holds()


# Killed


def test_the_lease_of_a_killed_process_is_free_at_once(start: Callable[..., Process]) -> None:
    """Though a process that it forked, as data loading does, lives on."""
    # The child has closed what it inherited by the time that the parent goes on to say it holds.
    fork = """
import time
near, far = os.pipe()
if os.fork() == 0:
    os.write(far, str(os.getpid()).encode())
    time.sleep(600)
Path(told + ".child").write_bytes(os.read(near, 20))
"""
    parent = start("parent", FADEPTH_DEVICES="fake0", HOLDING=fork).until_it_holds()
    child = int(Path(f"{parent.told}.child").read_text())
    try:
        parent.process.kill()
        parent.process.wait()
        assert holders()["fake0"] is None
        after = start("after", FADEPTH_DEVICES="fake0").until_it_holds()
        assert after.holds == "fake0 fake0"
        assert "waiting" not in after.log.read_text()
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, 9)


def test_a_waiting_process_that_is_killed_leaves_nothing(start: Callable[..., Process]) -> None:
    one = {"FADEPTH_DEVICES": "fake0"}
    holding = start("holding", **one).until_it_holds()
    waiting = start("waiting", **one).until_it_waits()
    waiting.process.kill()
    waiting.process.wait()
    holding.end()
    assert start("next", **one).until_it_holds().holds == "fake0 fake0"


def test_the_folder_is_kept_from_being_cleaned_while_a_device_is_held(
    start: Callable[..., Process], machine: Path
) -> None:
    process = start("train-a").until_it_holds()
    folder = os.open(machine, os.O_RDONLY)
    # This is what systemd-tmpfiles asks for before it clears a folder.
    with pytest.raises(BlockingIOError):
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.end()
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)


# Which devices


def test_devices_are_those_of_the_user_then_of_cuda_then_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A container that is given the fourth GPU alone: CUDA calls it 0.
    (tmp_path / "nvidia3").touch()
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(devices, "_FILES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setenv(devices.VISIBLE, "4, 2")
    monkeypatch.setenv(devices.DEVICES, "a,b,c")
    assert visible_devices() == ["a", "b", "c"]
    monkeypatch.setenv(devices.DEVICES, "")
    assert visible_devices() == []
    monkeypatch.delenv(devices.DEVICES)
    assert visible_devices() == ["4", "2"]
    monkeypatch.delenv(devices.VISIBLE)
    assert visible_devices() == ["0"]
    (tmp_path / "nvidia3").unlink()
    assert visible_devices() == []


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,0", ["1"]),
        ("1,,0", ["1"]),
        ("0,0", ["0"]),
        ("GPU-5f,MIG-GPU-5f/1/0", ["GPU-5f", "MIG-GPU-5f/1/0"]),
    ],
)
def test_lists_are_read_as_cuda_reads_them(
    told: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(devices.DEVICES)
    monkeypatch.setenv(devices.VISIBLE, told)
    assert visible_devices() == seen


def test_as_many_trainings_run_at_once_as_the_setting_has_devices() -> None:
    counts = {wanted: device_count(wanted) for wanted in ("auto", "cuda", "cuda:1", "cpu", "mps")}
    assert counts == {"auto": 2, "cuda": 2, "cuda:1": 1, "cpu": 0, "mps": 0}


def test_no_lease_where_no_gpu_is_wanted_or_there(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease_device("cpu", "train") as lease:
        assert lease is None
        assert devices.VISIBLE not in os.environ
    monkeypatch.setenv(devices.DEVICES, "")
    for wanted in ("auto", "cuda", "cuda:1"):
        with lease_device(wanted, "train") as lease:
            assert lease is None
    assert not machine.exists()


def test_names_of_devices_are_no_paths(machine: Path) -> None:
    for device in ("MIG-GPU-5f/1/0", "../../etc/passwd", "/dev/null"):
        assert lock_path(device).parent == machine


def test_a_named_device_is_leased_alone_and_keeps_its_number(
    start: Callable[..., Process],
) -> None:
    named = start("named", "cuda:1").until_it_holds()
    # torch's device 1 is the second one of the list only while the list is whole.
    assert named.holds == "fake1 fake0,fake1"
    assert start("any").until_it_holds().holds == "fake0 fake0"
    other = start("other", "cuda:1").until_it_waits()
    assert "waiting for a GPU: fake1 is held by named" in other.log.read_text()
    named.end()
    other.until_it_holds()


def test_a_named_device_is_torchs_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[int, str]] = []

    def set_device(number: int) -> None:
        chosen.append((number, os.environ[devices.VISIBLE]))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    with lease_device("cuda:1", "train"):
        pass
    with lease_device("auto", "train"):
        pass
    assert chosen == [(1, "fake0,fake1")]


def test_a_named_device_that_is_absent_is_told() -> None:
    with pytest.raises(FadepthError, match=r"'cuda:2' but the GPUs.* only fake0, fake1:"):
        device_count("cuda:2")


def test_the_environment_is_as_before_after_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    with lease_device("auto", "train"):
        pass
    assert devices.VISIBLE not in os.environ
    monkeypatch.setenv(devices.VISIBLE, "7")
    with pytest.raises(KeyError), lease_device("auto", "train"):
        raise KeyError
    assert os.environ[devices.VISIBLE] == "7"
    assert holders()["fake0"] is None


# Slurm


def slurm(job: str, given: str, **more: str) -> dict[str, str]:
    # sbatch brings the submitting shell's environment along.
    return {"SLURM_JOB_ID": job, "CUDA_VISIBLE_DEVICES": given, "FADEPTH_DEVICES": "fake7"} | more


def test_jobs_of_slurm_do_not_wait_for_each_other(
    start: Callable[..., Process], machine: Path
) -> None:
    """Each sees its own GPU, and cgroups call each of them 0."""
    start("local", FADEPTH_DEVICES="0").until_it_holds()
    one = start("one", **slurm("11", "0")).until_it_holds()
    two = start("two", **slurm("12", "0")).until_it_holds()
    without = start("without", **slurm("13", "")).until_it_holds()
    assert [one.holds, two.holds, without.holds] == ["None 0", "None 0", "None "]
    assert [path.name for path in machine.iterdir()] == ["0"]


def test_one_job_of_slurm_shares_its_devices_out(start: Callable[..., Process]) -> None:
    """Snakemake inside an allocation of several GPUs, as `salloc` gives."""
    one = start("one", **slurm("11", "0,1")).until_it_holds()
    two = start("two", **slurm("11", "0,1")).until_it_holds()
    assert [one.holds, two.holds] == ["0 0", "1 1"]
    start("three", **slurm("11", "0,1")).until_it_waits()
    # Another job, and another step of the same one, have devices of their own.
    other = start("other", **slurm("12", "0,1")).until_it_holds()
    step = start("step", **slurm("11", "0,1", SLURM_STEP_ID="0")).until_it_holds()
    assert [other.holds, step.holds] == ["0 0", "0 0"]


# Folders, users


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(devices.LOCKS, str(tmp_path / "file"))
    with pytest.raises(FadepthError) as told, lease_device("auto", "train"):
        pass
    sentence = str(told.value)
    assert "file/fake0, the lock of GPU fake0, cannot be written" in sentence
    assert "\n" not in sentence
    for part in (f"chmod 1777 {tmp_path / 'file'}", "FADEPTH_DEVICE_LOCKS"):
        assert part in sentence


@pytest.fixture
def nobody() -> str:
    """Python that makes a process one of user `nobody`, after its imports."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    other = pwd.getpwnam("nobody")
    return f"os.setgroups([]); os.setgid({other.pw_gid}); os.setuid({other.pw_uid})"


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that all users reach, which pytest's own are not; what `/tmp` is to the locks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        monkeypatch.setenv(devices.LOCKS, str(folder / "locks"))
        yield folder


def test_users_share_the_devices(start: Callable[..., Process], common: Path, nobody: str) -> None:
    """Whoever comes first, and however private their files are by default."""
    told = common / "told"
    told.mkdir()
    told.chmod(0o777)

    def launch(task: str, before: str) -> Process:
        process = start(task, BEFORE=f"os.umask(0o077); told = '{told}/{task}'; {before}")
        process.told = told / task
        return process

    first = launch("first", nobody).until_it_holds()
    ours = launch("ours", "").until_it_holds()
    third = launch("third", nobody).until_it_waits()
    assert [first.holds, ours.holds] == ["fake0 fake0", "fake1 fake1"]
    assert f"fake1 is held by ours (process {ours.process.pid}" in third.log.read_text()
    assert {path.stat().st_uid for path in (common / "locks").iterdir()} == {
        0,
        pwd.getpwnam("nobody").pw_uid,
    }
    ours.end()
    assert third.until_it_holds().holds == "fake1 fake1"


def test_modes_let_everybody_lock_and_nobody_delete(
    start: Callable[..., Process], common: Path
) -> None:
    start("train-a", BEFORE="os.umask(0o077)").until_it_holds()
    folder = common / "locks"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "fake0").stat().st_mode) == 0o666


def test_a_folder_of_another_user_is_told(
    start: Callable[..., Process], common: Path, nobody: str
) -> None:
    (common / "locks").mkdir(mode=0o755)
    process = start("train-a", BEFORE=nobody)
    assert process.process.wait(60) == 1
    log = process.log.read_text()
    assert "fake0, the lock of GPU fake0, cannot be written (Permission denied)" in log
    assert f"chmod 1777 {common / 'locks'}" in log


# In the stages


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What this process holds; given back at the end."""
    yield devices._held
    devices._UNTIL_EXIT.close()
    devices._held.clear()


def test_a_process_holds_one_device_to_its_end(held: list[str]) -> None:
    hold_device("cpu", "train")
    assert held == []
    hold_device("auto", "train")
    hold_device("auto", "evaluate")
    assert held == ["fake0"]
    assert str(holders()["fake0"]).startswith(f"train (process {os.getpid()} on ")
    assert holders()["fake1"] is None


def test_a_training_has_its_device_before_torch_looks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: list[str]
) -> None:
    """CUDA reads its variable once, at the first question."""
    look, seen = torch.cuda.is_available, []

    def is_available() -> bool:
        seen.append(os.environ.get(devices.VISIBLE))
        return look()

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    manifest = tiny_manifest(tmp_path)
    manifest.write(tmp_path / "m.jsonl")
    config = tiny_config(tmp_path, training__device="auto", training__epochs=1)
    run = Run("teacher", "tiny", "tiny", {}, 1, config, "0" * 10, "study")
    train_run(run, tmp_path / "runs", tmp_path / "m.jsonl", None, 1)
    assert set(seen) == {"fake0"}
    assert held == ["fake0"]

    # Another process, that of the next rule.
    devices._UNTIL_EXIT.close()
    held.clear()
    seen.clear()
    output = tmp_path / "runs" / run.id / "targets.npy"
    predict_teacher(run, tmp_path / "runs", tmp_path / "m.jsonl", output, 1)
    assert set(seen) == {"fake0"}
    assert output.exists()


def test_an_evaluation_has_its_device_before_torch_looks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: list[str]
) -> None:
    seen: list[str | None] = []

    class Asked(Exception):
        """Torch has been asked for a GPU; the rest is not of interest."""

    def choose_device(name: str) -> torch.device:
        seen.append(os.environ.get(devices.VISIBLE))
        raise Asked

    monkeypatch.setattr(evaluation, "choose_device", choose_device)
    monkeypatch.setattr(evaluation, "read_sequence", lambda *_: None)
    monkeypatch.setattr(evaluation, "seen_in_training", lambda *_: False)
    path = tmp_path / "m.jsonl"
    tiny_manifest(tmp_path).write(path)
    config = tiny_config(tmp_path, training__device="auto", evaluation__split="train")
    run = Run("student", "tiny", "tiny", {}, 1, config, "0" * 10, "study")
    for stage in (
        lambda: evaluation.evaluate_run(run, tmp_path, path, 1),
        lambda: evaluation.measure_robustness(run, tmp_path, path, None, 1),
        lambda: evaluation.evaluate_odometry(run, "04", tmp_path, path, 1),
    ):
        with pytest.raises(Asked):
            stage()
        assert held == ["fake0"]
        devices._UNTIL_EXIT.close()
        held.clear()
    assert seen == ["fake0"] * 3


def test_waiting_is_told_again_after_a_minute_not_at_each_try(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = itertools.count(0.0, 0.25)
    tries = itertools.count()

    class Clock:
        monotonic = staticmethod(lambda: next(now))
        sleep = staticmethod(lambda seconds: None)
        strftime = staticmethod(time.strftime)

    take = devices._try
    monkeypatch.setattr(devices, "time", Clock)
    # Taken for 600 looks at one device, one in a quarter of a second at most: 150 s or more.
    monkeypatch.setenv(devices.DEVICES, "fake0")
    monkeypatch.setattr(devices, "_try", lambda d: take(d) if next(tries) >= 600 else None)
    with caplog.at_level(logging.WARNING), lease_device("auto", "train") as device:
        assert device == "fake0"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
