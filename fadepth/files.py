"""Writing files so that a reader never meets a half-written one."""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fadepth.errors import FadepthError

#: More processes than write one file at once.
_MOST_WRITERS = 16


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` on success.

    The temporary file lies in the same folder because a rename is atomic only within one file
    system. On any exception it is removed and an older `path` stays as it was. After SIGKILL it
    stays until the next writer of `path` writes into the same one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = _locked_temporary(path)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        # Only here: after the rename, the name may already be another writer's.
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError) or not error.errno:
            raise
        if error.filename in (None, str(temporary)):
            error.filename = str(path)  # what the user knows
        raise
    finally:
        os.close(handle)


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """An empty file beside `path` that no other process writes, locked while this one does.

    Its name is the first of `.NAME.part0`, `.NAME.part1`, ... that nobody has locked. The kernel
    gives a lock up when its process ends, so what a killed writer left is the next one's file.
    """
    for number in range(_MOST_WRITERS):
        temporary = path.with_name(f".{path.name}.part{number}{path.suffix}")
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except PermissionError:
            continue  # another user's; if it is the folder, the end tells
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its writer may have renamed it between our opening and its unlocking.
            if os.path.samestat(os.fstat(handle), os.stat(temporary)):
                os.truncate(handle, 0)
                return handle, temporary
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:  # a file system without locks, or a full one
            os.close(handle)
            temporary.unlink(missing_ok=True)
            break
        os.close(handle)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    # mkstemp makes private files; results are to be read by the group as any other file.
    umask = os.umask(0)
    os.umask(umask)
    os.fchmod(handle, 0o666 & ~umask)
    return handle, Path(name)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` to `path` in one step: readers see the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        if isinstance(data, str):
            temporary.write_text(data, encoding="utf-8")
        else:
            temporary.write_bytes(data)


def file_digest(path: Path) -> str:
    """sha256 of a file, as long as memory never holds more than a piece of it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def told_when_unwritable(path: Path) -> Iterator[None]:
    """Turn what the system says about writing `path` into one sentence.

    Raises:
        FadepthError: the disk is full, the folder is read-only or no folder, and the like.
    """
    try:
        yield
    except OSError as error:
        raise FadepthError(
            f"{path} cannot be written ({error.strerror or error}): make room or choose a folder "
            "that you may write to; what was finished before is kept"
        ) from None


def readable_bytes(count: int) -> str:
    """A number of bytes for people, such as `6.1 GB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
