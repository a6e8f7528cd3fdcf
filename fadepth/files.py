"""Writing files so that a reader never meets a half-written one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fadepth.errors import FadepthError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` on success.

    The temporary file lies in the same folder because a rename is atomic only within one file
    system. On any exception it is removed and an older `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
    except OSError as error:
        error.filename = str(path)
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; results are to be read by the group as any other file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and error.filename in (None, name):
            error.filename = str(path)  # what the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` to `path` in one step: readers see the old file or the new one, never a part."""
    with atomic_path(path) as temporary:
        if isinstance(data, str):
            temporary.write_text(data, encoding="utf-8")
        else:
            temporary.write_bytes(data)


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
