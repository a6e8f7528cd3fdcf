"""Atomic writing: the old file or the new one, and nothing left over."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fadepth.files import atomic_path, write_atomic


@pytest.fixture
def umask() -> Iterator[None]:
    old = os.umask(0o027)
    yield
    os.umask(old)


def test_text_and_bytes_arrive_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomic(path, "µ\n")
    assert path.read_bytes() == "µ\n".encode()
    write_atomic(path, b"\x00\xff\r\n")
    assert path.read_bytes() == b"\x00\xff\r\n"
    assert list(path.parent.iterdir()) == [path]


def write_half_and_raise(path: Path, error: type[BaseException]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_the_old_file_and_no_other(
    error: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(error):
        write_half_and_raise(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_exception_makes_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_half_and_raise(tmp_path / "a.csv", RuntimeError)
    assert list(tmp_path.iterdir()) == []


def test_readers_see_the_old_content_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with path.open() as reader:
        with atomic_path(path) as temporary:
            # The suffix is kept for writers that choose a format by it; same folder, same disk.
            assert (temporary.suffix, temporary.parent) == (".csv", tmp_path)
            assert temporary.name.startswith(".")
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_failure_of_the_rename_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_atomic(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.usefixtures("umask")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes == [0o640, 0o640]
    assert os.umask(0o027) == 0o027  # left as it was


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from fadepth.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_gone_after_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


WRITE_MANY = """
import sys
from pathlib import Path
from fadepth.files import write_atomic
for number in range(300):
    write_atomic(Path(sys.argv[1]), sys.argv[2] * 2000)
"""


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """A reader finds one writer's content, whole, at any moment; no writer loses its own file."""
    path = tmp_path / "a.txt"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE_MANY, str(path), letter]) for letter in "abcd"
    ]
    found = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            found.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0] * 4
    assert found <= {letter * 2000 for letter in "abcd"}
    assert list(tmp_path.iterdir()) == [path]
