"""One GPU for each process that computes: a lease that the kernel takes back when the process ends.

Snakemake limits how many jobs use a GPU at once (`resources: gpu`), and does not say which: all
would land on the first one. So each process locks a file that stands for a GPU, and shows CUDA that
GPU alone. The reasons are told in docs/decisions/016. Nothing here imports torch unless a setting
names a GPU by its number.
"""

import atexit
import fcntl
import logging
import os
import platform
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from glob import glob
from itertools import takewhile
from pathlib import Path

from filelock import FileLock, Timeout

from fadepth.errors import FadepthError

log = logging.getLogger(__name__)

#: Names of the GPUs to share, as CUDA_VISIBLE_DEVICES writes them: "0,1"; empty for none.
DEVICES = "FADEPTH_DEVICES"

#: Another folder for the lock files: where containers that share GPUs have no common /tmp.
LOCKS = "FADEPTH_DEVICE_LOCKS"

#: What CUDA reads, once, when a process first asks for a GPU.
VISIBLE = "CUDA_VISIBLE_DEVICES"

#: Not `tempfile.gettempdir()`: users with a TMPDIR of their own would not see each other's locks.
_FOLDER = "/tmp/fadepth-devices"
_FILES = "/dev/nvidia[0-9]*"

#: What CUDA takes for the end of its list; Slurm writes the last one for a job without a GPU.
_NO_DEVICE = re.compile(r"-.*||NoDevFiles")

#: How often a waiting process says for whom it waits, seconds.
_TELL_EVERY = 60.0


# Which GPUs there are


def visible_devices() -> list[str]:
    """The GPUs that this process may take, as CUDA_VISIBLE_DEVICES names them.

    Without a word from the user all of the machine. CUDA counts from 0 whatever their files are
    called: in a container that is given GPU 3 alone, `/dev/nvidia3` is its device 0.
    """
    told = os.environ.get(VISIBLE)
    if _slurm():
        # What the scheduler gave, even if sbatch has brought FADEPTH_DEVICES from another machine.
        told = told or ""
    elif DEVICES in os.environ:
        told = os.environ[DEVICES]
    if told is None:
        return [str(number) for number in range(len(glob(_FILES)))]
    names = (name.strip() for name in told.split(","))
    return list(dict.fromkeys(takewhile(lambda name: not _NO_DEVICE.fullmatch(name), names)))


def device_count(wanted: str = "auto") -> int:
    """How many processes with `training.device: wanted` can each have a GPU at once.

    Raises:
        FadepthError: `wanted` names a GPU that is not there.
    """
    return len(_choice(wanted, visible_devices()))


def _choice(wanted: str, devices: list[str]) -> list[str]:
    """Those of `devices` that a setting agrees with; none for a setting that means no GPU."""
    named = re.fullmatch(r"cuda:(\d+)", wanted)
    if not named:
        return devices if wanted in ("auto", "cuda") else []
    number = int(named[1])
    if devices and number >= len(devices):
        raise FadepthError(
            f"training.device is '{wanted}' but the GPUs, counted from 0, are only "
            f"{', '.join(devices)}: use 'auto' for any of them"
        )
    return devices[number : number + 1]


def _slurm() -> str:
    """The Slurm job, and its step where it has one, that this process belongs to; else empty."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return f"{job}.{os.environ.get('SLURM_STEP_ID', 'batch')}" if job else ""


# Taking one


@contextmanager
def lease_device(wanted: str, task: str) -> Iterator[str | None]:
    """Wait for a GPU, and hold it: CUDA_VISIBLE_DEVICES is that GPU until the block ends.

    Torch must not have asked for a GPU before.

    Args:
        wanted: `training.device`. `auto` and `cuda` are any GPU. `cuda:1` is that one: all stay
            visible, so that torch's device 1 goes on to be the second one.
        task: what for, told to those who wait.

    Yields:
        The GPU; None where none is wanted, there is none, or a scheduler has chosen it.

    Raises:
        FadepthError: `wanted` names a GPU that is not there, or the lock files cannot be written.
    """
    devices = visible_devices()
    choice = _choice(wanted, devices)
    # Slurm gave a job its GPUs. Where cgroups hide the others, every job's is called 0, so a lock
    # of that name would let jobs wait for each other. Only a job with several has to share them
    # out among its own processes; its locks are named after it.
    if not choice or (_slurm() and len(devices) == 1):
        yield None
        return
    by_number = wanted.startswith("cuda:")
    with ExitStack() as held:
        device = _wait_for(choice, task, held)
        held.enter_context(_visible(",".join(devices) if by_number else device))
        if by_number:
            _make_current(devices.index(device))
        log.info("GPU %s is leased to %s", device, task)
        yield device


_UNTIL_EXIT = ExitStack()
atexit.register(_UNTIL_EXIT.close)
_held: list[str] = []


def hold_device(wanted: str, task: str) -> None:
    """`lease_device` until the process ends: CUDA does not let go of a GPU before that, either.

    A process has one GPU: a second call changes nothing.
    """
    if not _held and (device := _UNTIL_EXIT.enter_context(lease_device(wanted, task))):
        _held.append(device)


def _wait_for(devices: Sequence[str], task: str, held: ExitStack) -> str:
    """The first of `devices` that is free; `held` gives it back."""
    told = -float("inf")
    while True:
        for device in devices:
            if lock := _try(device):
                path = lock_path(device)
                held.callback(lock.release)
                held.callback(os.close, _keep(path.parent))
                since = time.strftime("%d %b %H:%M")
                holder = f"{task} (process {os.getpid()} on {platform.node()}, since {since})"
                _write_holder(path, holder)
                return device
        if time.monotonic() - told >= _TELL_EVERY:
            told = time.monotonic()
            busy = [f"{name} is held by {_read_holder(lock_path(name))}" for name in devices]
            log.warning("waiting for a GPU: %s", "; ".join(busy))
        # Not all at the same moment, so that none of the waiting is always late.
        time.sleep(random.uniform(0.1, 0.3))


def lock_path(device: str) -> Path:
    """The file that is locked for a GPU."""
    job = _slurm()
    name = f"slurm-{job}-{device}" if job else device
    return Path(os.environ.get(LOCKS) or _FOLDER) / re.sub(r"[^\w.-]", "_", name)


def _try(device: str) -> FileLock | None:
    """The lock of a GPU, if it is free.

    It is one of BSD's (`flock`), which the kernel drops with the last process that has the file
    open. Data loading processes, which are forked, would be such: they outlive a killed training
    by seconds. `filelock` closes the file in them.
    """
    path = lock_path(device)
    lock = FileLock(path, mode=0o666, thread_local=False)
    try:
        with _for_all_users():
            path.parent.mkdir(mode=0o1777, exist_ok=True)
            lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        raise FadepthError(
            f"{path}, the lock of GPU {device}, cannot be written ({error.strerror or error}): "
            f"make its folder writable for all ('chmod 1777 {path.parent}') and the file too "
            f"('chmod 666'), or set {LOCKS} to another folder, the same for all who share the GPUs"
        ) from None
    return lock


@contextmanager
def _for_all_users() -> Iterator[None]:
    """What is made here has the mode that is asked for from the first moment on."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _keep(folder: Path) -> int:
    """Keep systemd-tmpfiles from clearing a folder of /tmp after ten days; the open descriptor.

    Who found the lock file gone would make a new one, and lock that. The cleaner leaves out what
    is locked, files only in its later versions, folders in all (tmpfiles.d(5)).
    """
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


@contextmanager
def _visible(devices: str) -> Iterator[None]:
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = devices
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def _make_current(number: int) -> None:
    """Let `cuda` without a number mean this GPU, as pinned memory and the manifest do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(number)


# Who holds them


def holders() -> dict[str, str | None]:
    """Each GPU and who holds it, in words; None: nobody.

    Raises:
        FadepthError: the lock files cannot be opened.
    """
    return {device: _holder(device) for device in visible_devices()}


def _holder(device: str) -> str | None:
    path = lock_path(device)
    if not path.exists():
        return None
    # Only the kernel knows: what is written there may be left over from a process that was killed.
    if lock := _try(device):
        lock.release()
        return None
    return _read_holder(path)


def _write_holder(path: Path, text: str) -> None:
    # It only tells. Not created here: in a folder of all users, Linux refuses that for a file of
    # another one, even if it is there (fs.protected_regular).
    with suppress(OSError), path.open("r+", encoding="utf-8") as file:
        file.truncate(0)
        file.write(text)


def _read_holder(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(300)
    except OSError:
        text = ""
    # Anybody may write there, and this goes to a terminal.
    shown = "".join(sign if sign.isprintable() else "?" for sign in text)
    return shown or "another process"  # which is writing at this moment
