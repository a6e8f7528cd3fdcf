"""Published lists told apart and fetched, the benchmark's index, validation by whole drives."""

import hashlib
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fadepth.data import kitti_splits
from fadepth.data.kitti import FrameId, read_split
from fadepth.data.kitti_splits import LAYOUT, PUBLISHED, hold_out_drives
from fadepth.errors import FadepthError


@pytest.fixture(scope="module")
def lists(test_data: Path) -> Path:
    return test_data / "splits"


@pytest.fixture(scope="module")
def zhou(lists: Path) -> tuple[list[FrameId], list[FrameId]]:
    folder = lists / "eigen_zhou"
    return read_split(folder / "train_files.txt"), read_split(folder / "val_files.txt")


@pytest.fixture
def published(lists: Path, tmp_path: Path) -> Path:
    """The lists where monodepth2's repository has them."""
    for name, known in LAYOUT.items():
        if (lists / name).exists():
            target = tmp_path / "published" / known.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(lists / name, target)
    return tmp_path / "published"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(published: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(published))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


# Which list is it?


def test_every_published_list_is_known(lists: Path) -> None:
    found = {}
    for path in sorted(lists.rglob("*_files.txt")):
        known = kitti_splits.identify(path)
        assert known is not None
        assert (len(read_split(path)), path.stat().st_size) == (known.entries, known.size)
        kitti_splits.verify(path, known)
        found[known.name] = known.entries
    index = kitti_splits.identify(lists / "eigen_benchmark" / "eigen_to_benchmark_ids.npy")
    assert index == kitti_splits.EIGEN_BENCHMARK_INDEX
    assert found == {
        "eigen/test": 697,
        "eigen_benchmark/test": 652,
        "eigen_zhou/train": 39_810,
        "eigen_zhou/val": 4_424,
    }
    assert kitti_splits.identify(lists / "README.md") is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.replace(b"\n", b"\r\n"), "found 652 entries .*line endings were"),
        (lambda data: data[: data[:-1].rindex(b"\n")], r"found 651 entries .*2c92c20428\): remove"),
        (lambda data: data.replace(b" l", b" r", 1), "found 652 entries .*, expected 652 and 7274"),
        (lambda _: b"", "found 0 entries"),
    ],
)
def test_another_list_is_told(
    lists: Path, tmp_path: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "test_files.txt"
    path.write_bytes(damage((lists / "eigen_benchmark" / "test_files.txt").read_bytes()))
    assert kitti_splits.identify(path) is None
    with pytest.raises(FadepthError, match=rf"test_files\.txt is not the published.*{message}"):
        kitti_splits.verify(path, kitti_splits.EIGEN_BENCHMARK_TEST)


def test_absent_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"a\.txt does not exist: run 'fadepth data fetch-"):
        kitti_splits.identify(tmp_path / "a.txt")


# Fetching


def check_layout(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    assert set(files) == set(LAYOUT)
    for name, path in files.items():
        assert hashlib.md5(path.read_bytes()).hexdigest() == LAYOUT[name].md5
    assert len(read_split(folder / "eigen_zhou" / "test_files.txt")) == 697


@pytest.mark.parametrize("over", ["http", "file"])
def test_fetch_writes_the_layout_of_the_settings(
    over: str, server: str, published: Path, tmp_path: Path
) -> None:
    base = server if over == "http" else published.as_uri()
    fetched = kitti_splits.fetch(tmp_path / "splits", base)
    assert len(fetched) == len(LAYOUT) == 6
    check_layout(tmp_path / "splits")


def test_what_is_there_is_left_alone(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "splits"
    kitti_splits.fetch(folder, published.as_uri())
    lost = folder / "eigen" / "test_files.txt"
    lost.unlink()
    before = {path: path.stat().st_ino for path in folder.rglob("*.*")}
    shutil.move(published / "eigen_zhou", published / "away")  # asking for these would fail
    assert kitti_splits.fetch(folder, published.as_uri()) == [lost]
    check_layout(folder)
    assert {path: path.stat().st_ino for path in before} == before


def test_own_file_in_the_way_is_not_overwritten(published: Path, tmp_path: Path) -> None:
    own = tmp_path / "splits" / "eigen_zhou" / "val_files.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine\n")
    with pytest.raises(FadepthError, match=r"val_files\.txt is not the published list eigen_zhou"):
        kitti_splits.fetch(tmp_path / "splits", published.as_uri())
    assert own.read_text() == "mine\n"
    assert list(own.parent.iterdir()) == [own]


def test_failing_download_tells_what_to_do_and_keeps_the_others(
    server: str, published: Path, tmp_path: Path
) -> None:
    (published / "benchmark" / "eigen_to_benchmark_ids.npy").unlink()
    folder = tmp_path / "splits"
    with pytest.raises(FadepthError, match="answered 404") as caught:
        kitti_splits.fetch(folder, server)
    index = folder / "eigen_benchmark" / "eigen_to_benchmark_ids.npy"
    assert str(caught.value) == (
        f"{server}benchmark/eigen_to_benchmark_ids.npy could not be downloaded (the server "
        "answered 404 File not found): fetch https://raw.githubusercontent.com/nianticlabs/"
        f"monodepth2/master/splits/benchmark/eigen_to_benchmark_ids.npy by hand and put it at "
        f"{index}"
    )
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {
        name for name in LAYOUT if name.endswith(".txt")
    }


@pytest.mark.parametrize("base", ["http://127.0.0.1:9/", "file:///nowhere/", "nonsense:/", "x"])
def test_unreachable_source_is_told(base: str, tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"could not be downloaded \(.+\): fetch .* by hand"):
        kitti_splits.fetch(tmp_path / "splits", base)
    assert not (tmp_path / "splits").exists()


@pytest.mark.parametrize("content", [b"<html>blocked</html>", b"", bytes(10_000_000)])
def test_wrong_answer_is_not_put_in_place(content: bytes, published: Path, tmp_path: Path) -> None:
    (published / "eigen_zhou" / "train_files.txt").write_bytes(content)
    with pytest.raises(FadepthError, match=r"train_files\.txt gave is not .* by hand and put it"):
        kitti_splits.fetch(tmp_path / "splits", published.as_uri())
    assert not (tmp_path / "splits").exists()


def test_file_in_the_place_of_the_folder(published: Path, tmp_path: Path) -> None:
    (tmp_path / "splits").write_text("a file")
    with pytest.raises(FadepthError, match=r"splits/eigen_zhou/train_files\.txt cannot be written"):
        kitti_splits.fetch(tmp_path / "splits", published.as_uri())


# Improved ground truth


def test_index_leads_from_eigen_s_frames_to_the_benchmark_s(lists: Path) -> None:
    index = kitti_splits.benchmark_index(lists / "eigen_benchmark" / "eigen_to_benchmark_ids.npy")
    eigen = read_split(lists / "eigen" / "test_files.txt")
    benchmark = read_split(lists / "eigen_benchmark" / "test_files.txt")
    kitti_splits.check_benchmark_index(eigen, benchmark, index)
    assert [eigen[i] for i in index] == benchmark
    assert len(set(eigen) - set(benchmark)) == 697 - 652
    swapped = [*benchmark[:2], benchmark[3], benchmark[2], *benchmark[4:]]
    with pytest.raises(FadepthError, match=r"^entry 3 of the benchmark list \(2011_"):
        kitti_splits.check_benchmark_index(eigen, swapped, index)
    with pytest.raises(FadepthError, match="has 652 positions for 651 frames"):
        kitti_splits.check_benchmark_index(eigen, benchmark[1:], index)
    first = int(np.flatnonzero(index >= 690)[0])
    with pytest.raises(FadepthError, match=rf"^entry {first + 1} of the benchmark list"):
        kitti_splits.check_benchmark_index(eigen[:690], benchmark, index)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(651), "does not hold 652 int64"),
        (np.arange(652.0), "does not hold 652 int64"),
        (np.arange(652)[:, None], "does not hold 652 int64"),
        (np.arange(652)[::-1].copy(), "increasing positions from 0 to 696"),
        (np.arange(652) + 46, "increasing positions from 0 to 696"),
        (np.arange(652) - 1, "increasing positions"),
        (np.repeat(np.arange(326), 2), "increasing positions"),
        (np.array([print] * 652), "is not a readable .npy"),
    ],
)
def test_wrong_index_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    with pytest.raises(FadepthError, match=rf"ids\.npy .*{message}"):
        kitti_splits.benchmark_index(tmp_path / "ids.npy")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_damaged_index_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ids.npy").write_bytes(content)
    with pytest.raises(FadepthError, match=r"ids\.npy is not a readable \.npy file"):
        kitti_splits.benchmark_index(tmp_path / "ids.npy")
    with pytest.raises(FadepthError, match=r"other\.npy does not exist"):
        kitti_splits.benchmark_index(tmp_path / "other.npy")


# Validation by whole drives


def test_published_validation_is_not_held_out_by_drive(
    zhou: tuple[list[FrameId], list[FrameId]],
) -> None:
    """The reason for another one: all 31 validation drives are training drives."""
    train, val = ({frame.drive for frame in frames} for frames in zhou)
    assert len(val & train) == len(val) == 31


def test_drives_held_out_of_eigen_zhou(zhou: tuple[list[FrameId], list[FrameId]]) -> None:
    train, val = hold_out_drives(*zhou)
    assert (len(train), len(val)) == (37_857, 2_204)
    frames = Counter(frame.drive for frame in val)
    assert frames == {
        "2011_09_26/2011_09_26_drive_0091_sync": 676,
        "2011_09_29/2011_09_29_drive_0004_sync": 638,
        "2011_09_26/2011_09_26_drive_0014_sync": 624,
        "2011_09_26/2011_09_26_drive_0035_sync": 258,
        "2011_09_26/2011_09_26_drive_0017_sync": 8,
    }
    held = set(frames)
    assert not held & {frame.drive for frame in train}
    everything = [*zhou[0], *zhou[1]]
    assert sorted(val) == sorted(frame for frame in everything if frame.drive in held)
    assert train == [frame for frame in zhou[0] if frame.drive not in held]
    assert {frame.date for frame in train} == {frame.date for frame in everything}


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2])
def test_share_is_about_what_was_asked_for(
    share: float, zhou: tuple[list[FrameId], list[FrameId]]
) -> None:
    _, val = hold_out_drives(*zhou, share=share)
    asked = share * (39_810 + 4_424)
    assert 0.85 * asked < len(val) <= asked
    frames = Counter(frame.drive for frame in val)
    assert max(frames.values()) <= asked / 3
    assert len({drive.split("/")[0] for drive in frames}) > 1


def test_choice_depends_neither_on_order_nor_on_which_list_a_frame_is_in(
    zhou: tuple[list[FrameId], list[FrameId]],
) -> None:
    train, val = hold_out_drives(*zhou)
    other_train, other_val = hold_out_drives(zhou[0][::-1], zhou[1][::-1])
    assert (other_train[::-1], other_val) == (train, val)
    assert hold_out_drives([*zhou[1], *zhou[0]], [])[1] == val


def drive(day: str, number: int, count: int) -> list[FrameId]:
    return [FrameId(f"{day}/{day}_drive_{number:04d}_sync", i, "l") for i in range(count)]


def test_rule_by_hand() -> None:
    """300 frames, a fifth is 60, so a drive may have 20: days a, b, a, b, a take turns."""
    frames = [
        *drive("a", 1, 21),  # too long
        *drive("a", 2, 18),
        *drive("a", 3, 18),
        *drive("a", 4, 140),
        *drive("b", 5, 20),
        *drive("b", 6, 74),
        *drive("c", 7, 9),  # the only one of its day
    ]
    train, val = hold_out_drives(frames, [], share=0.2)
    assert sorted({int(frame.drive[-9:-5]) for frame in val}) == [2, 3, 5]
    assert {int(frame.drive[-9:-5]) for frame in train} == {1, 4, 6, 7}


@pytest.mark.parametrize(
    "frames",
    [
        drive("a", 1, 100),
        [*drive("a", 1, 100), *drive("b", 2, 100)],
        [*drive("a", 1, 100), *drive("a", 2, 1), *drive("a", 3, 1), *drive("b", 4, 1)],
    ],
)
def test_lists_too_short_to_hold_out_of(frames: list[FrameId]) -> None:
    with pytest.raises(FadepthError, match=r"no 5% of the frames can be held out"):
        hold_out_drives(frames, [])


def test_written_list_is_the_published_format(
    lists: Path, tmp_path: Path, zhou: tuple[list[FrameId], list[FrameId]]
) -> None:
    path = tmp_path / "new" / "val_files.txt"
    kitti_splits.write_split(path, zhou[1])
    assert path.read_bytes() == (lists / "eigen_zhou" / "val_files.txt").read_bytes()
    (tmp_path / "file").write_text("x")
    with pytest.raises(FadepthError, match=r"file/a\.txt cannot be written \(.+\): make room or"):
        kitti_splits.write_split(tmp_path / "file" / "a.txt", zhou[1])


def test_names_and_hashes_are_distinct() -> None:
    assert len({known.name for known in PUBLISHED}) == len({known.md5 for known in PUBLISHED}) == 5
