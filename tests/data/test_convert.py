"""The slim copy of KITTI: what it holds, what stops it, what it does after a stop."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fadepth.cli import data_prepare
from fadepth.data import convert, kitti
from fadepth.data.convert import Prepared, prepare_kitti
from fadepth.data.parallel import AHEAD, in_order
from fadepth.errors import FadepthError
from tests.data.mounts import tmpfs

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
TEST_DRIVE = "2011_09_28/2011_09_28_drive_0002_sync"
IMAGES = f"{DRIVE}/image_02/data"


def picture(seed: int, height: int = 40, width: int = 120) -> Image.Image:
    """Smooth colours with some noise, a different picture for every seed."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + k) + seed) * np.cos(y / (7 - k)) for k in range(3)]
    noise = generator.normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(127 + 100 * np.stack(waves, 2) + noise, 0, 255).astype(np.uint8))


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def name(number: int) -> str:
    return f"{number:010d}"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Drive 1 with PNGs 0 to 9, a test drive with PNGs 0 to 2, scans and some depth maps."""
    root = tmp_path / "raw"
    for drive, count in ((DRIVE, 10), (TEST_DRIVE, 3)):
        day = drive.split("/")[0]
        for file in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
            write(root / day / file, f"{file} of {day}\n".encode())
        for number in range(count):
            image = encoded(picture(number), "PNG")
            write(root / drive / "image_02" / "data" / f"{name(number)}.png", image)
            scan = np.full((50, 4), number, "<f4").tobytes()
            write(root / drive / "velodyne_points" / "data" / f"{name(number)}.bin", scan)
    write(root / DRIVE / "proj_depth/groundtruth/image_02" / f"{name(5)}.png", b"a depth map")
    write(root / DRIVE / "proj_depth/groundtruth/image_02" / f"{name(9)}.png", b"of no target")
    return root


def write_lists(folder: Path, train: list[int], val: list[int], test: list[int]) -> Path:
    for split, drive, numbers in (
        ("train", DRIVE, train), ("val", DRIVE, val), ("test", TEST_DRIVE, test),
    ):  # fmt: skip
        lines = "".join(f"{drive} {number} l\n" for number in numbers)
        write(folder / f"{split}_files.txt", lines.encode())
    return folder


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Frames 2 to 8 of drive 1 are called for, 2 and 8 as neighbours; 0 to 2 of the test drive."""
    return write_lists(tmp_path / "mine", [3, 4, 5], [7], [0, 2])


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".prepare.lock"
    }


# What the copy holds


def test_copy_holds_what_the_lists_call_for(root: Path, lists: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = prepare_kitti(
        root,
        tmp_path / "out",
        lists,
        workers=2,
        lidar="test",
        progress=lambda *step: seen.append(step),
    )
    files = content(tmp_path / "out")
    days = ("2011_09_26", "2011_09_28")
    calibrations = {f"{d}/calib_{k}_to_cam.txt" for d in days for k in ("cam", "velo")}
    taken = {
        *(c for c in calibrations if not c.startswith("2011_09_26/calib_velo")),
        f"{DRIVE}/proj_depth/groundtruth/image_02/{name(5)}.png",
        *(f"{TEST_DRIVE}/velodyne_points/data/{name(n)}.bin" for n in (0, 2)),
        "2011_09_26/calib_velo_to_cam.txt",
    }
    images = {
        *(f"{IMAGES}/{name(n)}.jpg" for n in range(2, 9)),
        *(f"{TEST_DRIVE}/image_02/data/{name(n)}.jpg" for n in range(3)),
    }
    splits = {f"splits/mine/{split}_files.txt" for split in ("train", "val", "test")}
    assert set(files) == taken | images | splits
    for path in taken:
        assert files[path] == (root / path).read_bytes()
    for path in splits:
        assert files[path] == (lists / Path(path).name).read_bytes()
    size = sum(len(files[path]) for path in taken | images)
    linked = sum(len(files[path]) for path in taken)
    assert done == Prepared(len(images), len(taken), 0, size, linked)
    assert seen == [(n, len(taken | images)) for n in range(1, len(taken | images) + 1)]


def test_images_are_the_jpegs_of_the_published_numbers(
    root: Path, lists: Path, tmp_path: Path
) -> None:
    prepare_kitti(root, tmp_path / "out", lists)
    path = tmp_path / "out" / IMAGES / f"{name(4)}.jpg"
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (120, 40))
        # Identifier, horizontal and vertical sampling of Y, Cb, Cr.
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # type: ignore[attr-defined]
        tables = image.quantization  # type: ignore[attr-defined]
        decoded = np.asarray(image, dtype=float)
    # Both tables of JPEG's annex K end in 99; quality 92 scales them by 200 - 2 * 92 = 16 %.
    assert (tables[0][63], tables[1][63]) == (16, 16)
    error = np.abs(decoded - np.asarray(picture(4), dtype=float)).mean()
    assert 0.1 < error < 4
    neighbour = np.abs(decoded - np.asarray(picture(5), dtype=float)).mean()
    assert neighbour > 5 * error


def test_real_jpegs_are_taken_over_byte_for_byte(test_data: Path, tmp_path: Path) -> None:
    source = test_data / "kitti_mini"
    tiny = source / "splits" / "tiny"
    done = prepare_kitti(source / "kitti", tmp_path / "out", tiny, workers=2, lidar="test")
    files = content(tmp_path / "out")
    for path, data in files.items():
        original = tiny / Path(path).name if path.startswith("splits/") else source / "kitti" / path
        assert data == original.read_bytes()
    assert done.converted == 0
    for split, offsets in (("train", (-1, 0, 1)), ("val", (-1, 0, 1)), ("test", (0,))):
        for frame in kitti.read_split(tiny / f"{split}_files.txt"):
            for offset in offsets:
                assert kitti.image_path(tmp_path / "out", frame, offset) is not None
            scan = kitti.velodyne_path(tmp_path / "out", frame)
            assert scan.is_file() == (split == "test")
    again = prepare_kitti(source / "kitti", tmp_path / "out", tiny, workers=2, lidar="test")
    assert (again.converted, again.taken, again.kept) == (0, 0, done.taken)
    assert (again.size, again.linked) == (done.size, done.linked)


@pytest.mark.parametrize(("lidar", "scans"), [("none", 0), ("test", 2), ("needed", 5), ("all", 6)])
def test_scans_of_the_chosen_lists(
    lidar: convert.LidarChoice, scans: int, root: Path, lists: Path, tmp_path: Path
) -> None:
    # Three training frames, one of validation, two of the test.
    prepare_kitti(root, tmp_path / "out", lists, lidar=lidar)
    assert sum(path.endswith(".bin") for path in content(tmp_path / "out")) == scans


def test_scan_absent_outside_the_test_list_is_no_failure(
    root: Path, lists: Path, tmp_path: Path
) -> None:
    (root / DRIVE / "velodyne_points" / "data" / f"{name(4)}.bin").unlink()
    prepare_kitti(root, tmp_path / "out", lists, lidar="all")
    (root / TEST_DRIVE / "velodyne_points" / "data" / f"{name(2)}.bin").unlink()
    with pytest.raises(FadepthError, match=rf"^1 of .*lidar scan .*{name(2)}\.bin does not exist"):
        prepare_kitti(root, tmp_path / "other", lists)


def test_pngs_as_they_are(root: Path, lists: Path, tmp_path: Path) -> None:
    done = prepare_kitti(root, tmp_path / "out", lists, copy_png=True)
    assert done.converted == 0
    path = f"{IMAGES}/{name(4)}.png"
    assert (tmp_path / "out" / path).read_bytes() == (root / path).read_bytes()
    with pytest.raises(FadepthError, match=r"\.png is from a copy made with images of the other"):
        prepare_kitti(root, tmp_path / "out", lists)


def test_without_links_files_are_copied(
    root: Path, lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    linked = prepare_kitti(root, tmp_path / "linked", lists)
    monkeypatch.setattr(os, "link", link)
    copied = prepare_kitti(root, tmp_path / "copied", lists)
    assert content(tmp_path / "copied") == content(tmp_path / "linked")
    assert (copied.linked, copied.size) == (0, linked.size)
    assert linked.linked > 0


def test_copy_of_symbolic_links_stands_for_itself(root: Path, lists: Path, tmp_path: Path) -> None:
    scan = Path(TEST_DRIVE) / "velodyne_points" / "data" / f"{name(2)}.bin"
    (root / scan).rename(tmp_path / "elsewhere.bin")
    (root / scan).symlink_to(tmp_path / "elsewhere.bin")
    prepare_kitti(root, tmp_path / "out", lists)
    assert not (tmp_path / "out" / scan).is_symlink()
    assert (tmp_path / "out" / scan).read_bytes() == (tmp_path / "elsewhere.bin").read_bytes()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_other_kinds_of_png_are_converted(mode: str, tmp_path: Path) -> None:
    grey = picture(1).convert("L")
    path = tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path)
    else:
        grey.convert(mode).save(path)
    with Image.open(io.BytesIO(convert.encode_jpeg(path))) as image:
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image)[..., 1] - np.asarray(grey, dtype=float)).mean() < 3


def test_published_lists_are_verified_and_get_validation_by_drives(
    test_data: Path, tmp_path: Path
) -> None:
    lists = tmp_path / "eigen_zhou"
    shutil.copytree(test_data / "splits" / "eigen_zhou", lists, copy_function=shutil.copyfile)
    lists.chmod(0o755)
    test = lists / "test_files.txt"
    test.write_text(f"{TEST_DRIVE} 1 l\n")
    with pytest.raises(FadepthError, match=r"test_files\.txt is not the published list eigen/test"):
        prepare_kitti(test_data / "kitti_mini" / "kitti", tmp_path / "out", lists)
    assert not (tmp_path / "out").exists()
    test.write_bytes((test_data / "splits" / "eigen" / "test_files.txt").read_bytes())
    with pytest.raises(FadepthError, match=r"^[0-9]+ of [0-9]+ files could not be made") as caught:
        prepare_kitti(test_data / "kitti_mini" / "kitti", tmp_path / "out", lists, workers=2)
    assert str(caught.value).count("does not exist") == 3
    files = content(tmp_path / "out")
    for split in ("train", "val", "test"):
        original = (lists / f"{split}_files.txt").read_bytes()
        assert files[f"splits/eigen_zhou/{split}_files.txt"] == original
    folder = tmp_path / "out" / "splits" / "eigen_zhou_drives"
    assert len(kitti.read_split(folder / "train_files.txt")) == 37_857
    assert len(kitti.read_split(folder / "val_files.txt")) == 2_204
    assert files["splits/eigen_zhou_drives/test_files.txt"] == test.read_bytes()
    # What there is of the real drives was made all the same.
    assert sum(path.endswith(".jpg") for path in files) > 100


# What is broken or absent


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_broken_image_does_not_stop_the_others(root: Path, lists: Path, tmp_path: Path) -> None:
    whole = prepare_kitti(root, tmp_path / "whole", lists)
    cut(root / IMAGES / f"{name(4)}.png")
    with pytest.raises(FadepthError) as caught:
        prepare_kitti(root, tmp_path / "out", lists, workers=2)
    total = whole.converted + whole.taken
    assert str(caught.value) == (
        f"1 of {total} files could not be made, the others are in {tmp_path / 'out'} (mend these "
        f"and start again): image {root / IMAGES / name(4)}.png is damaged: restore it from the "
        "archive"
    )
    expected = content(tmp_path / "whole")
    del expected[f"{IMAGES}/{name(4)}.jpg"]
    assert content(tmp_path / "out") == expected
    (root / IMAGES / f"{name(4)}.png").write_bytes(encoded(picture(4), "PNG"))
    done = prepare_kitti(root, tmp_path / "out", lists)
    assert (done.converted, done.taken, done.kept) == (1, 0, total - 1)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_many_broken_files_are_counted_and_three_named(
    root: Path, lists: Path, tmp_path: Path
) -> None:
    for number in range(3, 8):
        cut(root / IMAGES / f"{name(number)}.png")
    with pytest.raises(FadepthError, match=r"^5 of .*; \.\.\.$") as caught:
        prepare_kitti(root, tmp_path / "out", lists, workers=2)
    named = [number for number in range(10) if f"{name(number)}.png" in str(caught.value)]
    assert named == [3, 4, 5]


def test_broken_jpeg_of_the_original_is_told(root: Path, lists: Path, tmp_path: Path) -> None:
    png = root / IMAGES / f"{name(4)}.png"
    jpeg = png.with_suffix(".jpg")
    jpeg.write_bytes(encoded(picture(4), "JPEG"))
    png.unlink()
    cut(jpeg)
    with pytest.raises(FadepthError, match=rf"^1 of .*{name(4)}\.jpg is damaged"):
        prepare_kitti(root, tmp_path / "out", lists)
    assert not (tmp_path / "out" / IMAGES / jpeg.name).exists()


@pytest.mark.parametrize(
    ("number", "train", "val"),
    [(6, [3, 4, 5], [3]), (8, [3, 4, 5], [7]), (9, [3, 8], [3])],
    ids=["neighbour in training", "neighbour in validation", "drive without its last frame"],
)
def test_absent_neighbour_is_a_failure_outside_the_test_list(
    number: int, train: list[int], val: list[int], root: Path, tmp_path: Path
) -> None:
    (root / IMAGES / f"{name(number)}.png").unlink()
    lists = write_lists(tmp_path / "lists", train, val, [1])
    with pytest.raises(FadepthError, match=rf"^1 of .*image .*{name(number)}\.png .* not exist: r"):
        prepare_kitti(root, tmp_path / "out", lists)
    assert (tmp_path / "out" / IMAGES / f"{name(3)}.jpg").is_file()


def test_absent_neighbour_is_fine_for_test(root: Path, tmp_path: Path) -> None:
    folder = root / TEST_DRIVE / "image_02" / "data"
    lists = write_lists(tmp_path / "lists", [3], [3], [0, 2])
    (folder / f"{name(1)}.png").unlink()
    prepare_kitti(root, tmp_path / "out", lists)
    (folder / f"{name(2)}.png").unlink()
    with pytest.raises(FadepthError, match=rf"^1 of .*image .*{name(2)}\.png .* does not exist"):
        prepare_kitti(root, tmp_path / "other", lists)


def test_absent_calibration_is_a_failure(root: Path, lists: Path, tmp_path: Path) -> None:
    for day in ("2011_09_26", "2011_09_28"):
        (root / day / "calib_velo_to_cam.txt").unlink()
    # Day 26 has no test scans that would need it.
    with pytest.raises(FadepthError, match=r"^1 of .*2011_09_28/calib_velo_to_cam\.txt does not"):
        prepare_kitti(root, tmp_path / "out", lists, lidar="test")


# Where it is written


def test_disk_that_is_too_small_is_told_before_the_start(
    root: Path, lists: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    for number in range(2, 9):
        noise = Image.fromarray(generator.integers(0, 256, (200, 400, 3), dtype=np.uint8))
        noise.save(root / IMAGES / f"{name(number)}.png")
    made = prepare_kitti(root, tmp_path / "whole", lists)
    with tmpfs(tmp_path / "small", "size=300k") as small:
        with pytest.raises(FadepthError, match="the copy needs about") as caught:
            prepare_kitti(root, small / "out", lists)
        assert not [path for path in content(small / "out") if not path.startswith("splits/")]
    words = str(caught.value).split()
    told = float(words[4]) * {"kB": 1e3, "MB": 1e6}[words[5]]
    assert told == pytest.approx(made.size, rel=0.5)
    assert str(caught.value).endswith("make room or choose a folder on another disk")


def test_full_disk_stops_with_one_sentence_and_goes_on_later(
    root: Path, lists: Path, tmp_path: Path
) -> None:
    prepare_kitti(root, tmp_path / "whole", lists)
    with tmpfs(tmp_path / "small", "size=300k") as small:
        ballast = small / "ballast"

        def fill(done: int, _: int) -> None:
            if done == 5:
                ballast.write_bytes(bytes(shutil.disk_usage(small).free))

        with pytest.raises(FadepthError, match="is full") as caught:
            prepare_kitti(root, small / "out", lists, progress=fill)
        assert str(caught.value).startswith(f"the disk of {small / 'out'} is full (0 bytes free, a")
        assert str(caught.value).endswith("start the same command again to go on")
        expected = content(tmp_path / "whole")
        partly = content(small / "out")
        assert 5 <= len(partly) < len(expected)
        assert all(data == expected[path] for path, data in partly.items())
        ballast.unlink()
        prepare_kitti(root, small / "out", lists)
        assert content(small / "out") == expected


def test_read_only_output_is_told(root: Path, lists: Path, tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "fixed", "size=300k,ro") as fixed,
        pytest.raises(FadepthError, match=r"fixed/out cannot be written \(Read-only file system\)"),
    ):
        prepare_kitti(root, fixed / "out", lists)


def test_folder_that_turns_read_only_is_told(root: Path, lists: Path, tmp_path: Path) -> None:
    prepare_kitti(root, tmp_path / "whole", lists)
    expected = content(tmp_path / "whole")
    (tmp_path / "out").mkdir()
    with ExitStack() as mounted:

        def mount(done: int, _: int) -> None:
            if done == 5:
                (tmp_path / "out" / "2011_09_28").mkdir(exist_ok=True)
                mounted.enter_context(tmpfs(tmp_path / "out" / TEST_DRIVE, "ro"))

        with pytest.raises(
            FadepthError, match=r"cannot be written \(Read-only file system\): make"
        ):
            prepare_kitti(root, tmp_path / "out", lists, progress=mount)
    partly = content(tmp_path / "out")
    assert 5 <= len(partly) < len(expected)
    assert all(data == expected[path] for path, data in partly.items())


def test_file_where_a_folder_should_be_is_told(root: Path, lists: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FadepthError, match=r"out cannot be written \(File exists\)"):
        prepare_kitti(root, tmp_path / "out", lists)
    write(tmp_path / "other" / "2011_09_26", b"a file")
    with pytest.raises(FadepthError, match=r"2011_09_26.* cannot be written"):
        prepare_kitti(root, tmp_path / "other", lists)
    assert (tmp_path / "other" / "2011_09_26").read_bytes() == b"a file"


def test_original_is_never_written_to(root: Path, lists: Path, tmp_path: Path) -> None:
    before = content(root)
    for output in (root, root / "copy", tmp_path / "out" / ".." / "raw"):
        with pytest.raises(FadepthError, match="lies in the original"):
            prepare_kitti(root, output, lists)
    (tmp_path / "link").symlink_to(root)
    with pytest.raises(FadepthError, match="lies in the original"):
        prepare_kitti(root, tmp_path / "link" / "copy", lists)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "2011_09_26").symlink_to(root / "2011_09_26")
    with pytest.raises(FadepthError, match="2011_09_26 leads out of the output folder"):
        prepare_kitti(root, tmp_path / "out", lists)
    assert content(root) == before


def test_list_that_leads_out_of_the_output_is_refused(root: Path, tmp_path: Path) -> None:
    lists = write_lists(tmp_path / "lists", [3], [3], [1])
    (lists / "test_files.txt").write_text("../evil 1 l\n")
    with pytest.raises(FadepthError, match="leads out of the output folder"):
        prepare_kitti(root, tmp_path / "out", lists)


def test_absent_root_and_lists_are_told(root: Path, lists: Path, tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match="nowhere does not exist: name the folder that holds"):
        prepare_kitti(tmp_path / "nowhere", tmp_path / "out", lists)
    with pytest.raises(FadepthError, match=r"train_files\.txt does not exist"):
        prepare_kitti(root, tmp_path / "out", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


# Going on


@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
def test_unfinished_files_are_made_again(
    damage: Callable[[Path], None], root: Path, lists: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = prepare_kitti(root, out, lists)
    expected = content(out)
    for file in (
        out / IMAGES / f"{name(4)}.jpg", out / TEST_DRIVE / f"velodyne_points/data/{name(2)}.bin"
    ):  # fmt: skip
        data = file.read_bytes()
        file.unlink()  # a link to the original, which stays whole
        file.write_bytes(data)
        damage(file)
    again = prepare_kitti(root, out, lists)
    assert (again.converted, again.taken) == (1, 1)
    assert again.kept == first.converted + first.taken - 2
    assert content(out) == expected


KILLED = """
import os, signal, sys
from pathlib import Path
from fadepth.data import convert
from fadepth.data.convert import prepare_kitti

root, output, lists = map(Path, sys.argv[1:])
original = os.replace

def replace(source, target):
    if str(target).endswith("0000000005.jpg"):
        os.kill(os.getpid(), signal.SIGKILL)  # its temporary file is written
    original(source, target)

os.replace = replace
prepare_kitti(root, output, lists)
"""


def test_killed_and_started_again_it_gives_the_same_bytes(
    root: Path, lists: Path, tmp_path: Path, repository: Path
) -> None:
    prepare_kitti(root, tmp_path / "whole", lists)
    expected = content(tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(root), str(out), str(lists)]
    killed = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = content(out)
    temporary = [path for path in left if path not in expected]
    assert [path.startswith(f"{IMAGES}/.{name(5)}.jpg.") for path in temporary] == [True]
    assert f"{IMAGES}/{name(4)}.jpg" in left
    done = prepare_kitti(root, out, lists)
    assert content(out) == expected
    assert done.kept == len(left) - len(temporary) - 3  # the lists are no part of the count


def test_two_at_once_are_refused(root: Path, lists: Path, tmp_path: Path) -> None:
    def second(done: int, _: int) -> None:
        if done == 1:
            with pytest.raises(FadepthError, match="another process is preparing"):
                prepare_kitti(root, tmp_path / "out", lists)

    prepare_kitti(root, tmp_path / "out", lists, progress=second)


# Many files


class Counted:
    """Jobs that know how many of them were drawn; the largest number not yet yielded again."""

    def __init__(self, count: int) -> None:
        self.count, self.drawn, self.yielded, self.largest = count, 0, 0, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.drawn += 1
            self.largest = max(self.largest, self.drawn - self.yielded)
            yield number


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [100, 400, 1600])
def test_pending_jobs_do_not_grow_with_their_number(count: int, workers: int) -> None:
    jobs = Counted(count)
    for number, result in enumerate(in_order(jobs, lambda job: job * job, workers)):
        assert result == number * number
        jobs.yielded += 1
    assert jobs.yielded == count
    assert jobs.largest == AHEAD * workers


def test_jobs_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=30)
    assert len(list(in_order(range(9), lambda _: barrier.wait(), 3))) == 9


def test_after_a_failure_what_waits_is_dropped() -> None:
    begun: list[int] = []

    def work(job: int) -> None:
        begun.append(job)
        if job == 3:
            raise OSError("disk")
        if job > 3:
            time.sleep(0.2)

    with pytest.raises(OSError, match="disk"):
        list(in_order(range(1000), work, 2))
    drawn = 3 + AHEAD * 2
    assert len(begun) < drawn


# Command line


def test_command_tells_the_result(
    root: Path, lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_prepare.kitti(root, tmp_path / "out", splits=lists)
    out, err = capsys.readouterr()
    size = sum(
        len(data)
        for path, data in content(tmp_path / "out").items()
        if not path.startswith("splits/")
    )
    assert out.startswith(f"{tmp_path / 'out'} is complete: 10 images converted, 10 files taken ")
    assert f"0 kept from before; {size / 1000:.1f} kB, of which" in out
    assert err == ""
    data_prepare.kitti(root, tmp_path / "out", splits=lists)
    assert ": 0 images converted, 0 files taken over, 20 kept from before" in capsys.readouterr()[0]


def test_lidar_scan_with_broken_values_is_refused(tmp_path: Path) -> None:
    points = np.ones((9, 4), "<f4")
    points[2, 1] = np.nan
    points[5] = np.inf
    (tmp_path / "a.bin").write_bytes(points.tobytes())
    with pytest.raises(FadepthError, match=r"a\.bin has values that are not finite in 2 of 9 poin"):
        kitti.read_velodyne(tmp_path / "a.bin")
    (tmp_path / "a.bin").write_bytes(points[6:].tobytes())
    assert kitti.read_velodyne(tmp_path / "a.bin").shape == (3, 4)
