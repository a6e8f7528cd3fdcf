"""Whether a large file is still the one that was checked, and one process at a time that writes it.

A file of many gigabytes is hashed once in every state: a label beside it remembers size, mtime,
ctime and inode of the file that was hashed. The kernel sets ctime at each write, rename and change
of times, and no call sets it back (mtime alone can be), so the same state means the same content.
What this cannot see is a disk that loses bits by itself.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

#: Times of files move in ticks of some milliseconds; a state is believed once its tick is over.
_TICK = 0.05


@dataclass(frozen=True)
class FileState:
    """What the file system tells of a file; equal as long as nobody writes to it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """The state of a file now."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    @classmethod
    def settled(cls, path: Path) -> "FileState":
        """The state of a file, once any later write would change it.

        A write in the tick of the last one would leave all times as they are.
        """
        while True:
            state = cls.of(path)
            if abs(time.time_ns() - state.ctime_ns) >= _TICK * 1e9:
                return state
            time.sleep(_TICK)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Only one process at a time checks or writes `path`; the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that checks or writes %s", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
