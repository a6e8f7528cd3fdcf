"""`fadepth data check` on real data with things taken away and damaged."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner, Result

from fadepth.cli.common import parse_size
from fadepth.cli.data_check import check
from fadepth.data.archives import KITTI_STORE, merge_command
from fadepth.data.check import cityscapes, kitti_odometry, make3d, soundness, walk
from fadepth.data.check.report import runs
from fadepth.data.check.walk import Need
from fadepth.data.kitti_odometry import RawRange
from fadepth.errors import FadepthError
from tests.data.fixtures import write_cityscapes, write_make3d

DAY = "2011_09_26"
DRIVE = f"{DAY}/{DAY}_drive_0005_sync"
TEST_DRIVE = f"{DAY}/{DAY}_drive_0002_sync"
IMAGE = f"{DRIVE}/image_02/data/0000000060.jpg"
SCAN = f"{TEST_DRIVE}/velodyne_points/data/0000000003.bin"
CALIBRATION = f"{DAY}/calib_cam_to_cam.txt"


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests do not look at the estimates, which take longer than all the rest."""
    monkeypatch.setattr(walk, "SAMPLE", 2)


def raw_url(drive: str) -> str:
    name = drive.split("/")[1].removesuffix("_sync")
    return f"{KITTI_STORE}/raw_data/{name}/{name}_sync.zip"


def call(*arguments: str | Path) -> Result:
    """Run the command; errors for the user are raised."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(check)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def report_of(*arguments: str | Path) -> dict[str, Any]:
    """The JSON report; the exit code has to fit it."""
    result = call(*arguments, "--json")
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if report["complete"] else 1)
    return report


def urls(report: dict[str, Any]) -> list[str]:
    return [archive["url"] for archive in report["archives"]]


def part(report: dict[str, Any], group: str, kind: str) -> dict[str, Any]:
    (found,) = [
        part
        for of_report in report["groups"]
        if of_report["name"] == group
        for part in of_report["parts"]
        if part["kind"] == kind
    ]
    return dict(found)


def all_broken(report: dict[str, Any]) -> list[tuple[str, str]]:
    parts = [part for group in report["groups"] for part in group["parts"]]
    return [(file["path"], file["reason"]) for part in parts for file in part["broken"]]


def copy_tree(source: Path, target: Path) -> None:
    """A writable copy of a tree, its files as symbolic links to the originals."""
    for path in source.rglob("*"):
        copied = target / path.relative_to(source)
        if path.is_dir():
            copied.mkdir(parents=True, exist_ok=True)
        else:
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.symlink_to(path)


def own(path: Path) -> Path:
    """Make a link a file that may be damaged."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


def cut(path: Path) -> None:
    content = own(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    own(path).write_bytes(b"")


def lose(key: str) -> Callable[[Path], None]:
    """Damage to a calibration file: the line of a key."""

    def damage(path: Path) -> None:
        lines = own(path).read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(f"{key}:")))

    return damage


def not_finite(path: Path) -> None:
    points = np.frombuffer(own(path).read_bytes(), dtype="<f4").copy()
    points[5] = np.nan
    path.write_bytes(points.tobytes())


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        small = image.resize((600, 200))
    path.unlink()
    small.save(path)


@pytest.fixture
def kitti(test_data: Path, tmp_path: Path) -> tuple[Path, list[str | Path]]:
    """A root, and the arguments that check it against the tiny lists."""
    root = tmp_path / "kitti"
    copy_tree(test_data / "kitti_mini" / "kitti", root)
    lists = test_data / "kitti_mini" / "splits" / "tiny"
    return root, ["kitti", "--root", root, "--splits", lists]


def listed(path: Path) -> list[tuple[str, int, str]]:
    fields = [line.split() for line in path.read_text().splitlines()]
    return [(drive, int(number), side) for drive, number, side in fields]


def needed_files(root: Path, lists: Path) -> set[Path]:
    """The files behind the tiny lists, found plainly."""
    files = set()
    for split in ("train", "val", "test"):
        for drive, number, side in listed(lists / f"{split}_files.txt"):
            folder = root / drive / ("image_02" if side == "l" else "image_03") / "data"
            for offset in (-1, 0, 1) if split != "test" else (0,):
                files.add(folder / f"{number + offset:010d}.jpg")
            if split == "test":
                files.add(root / drive / f"velodyne_points/data/{number:010d}.bin")
            files.add(root / drive[:10] / "calib_cam_to_cam.txt")
            if split == "test":
                files.add(root / drive[:10] / "calib_velo_to_cam.txt")
    return files


# KITTI raw


def test_complete(kitti: tuple[Path, list[str | Path]]) -> None:
    root, arguments = kitti
    report = report_of(*arguments)
    assert report["complete"]
    assert [total["counts"] for total in report["totals"]] == [
        {"images with neighbours": [140, 140]},
        {"images with neighbours": [10, 10]},
        {"images": [19, 19], "lidar scans": [19, 19]},
    ]
    assert report["archives"] == report["notes"] == []
    files = needed_files(root, Path(str(arguments[-1])))
    parts = [part for group in report["groups"] for part in group["parts"]]
    assert sum(part["needed"] for part in parts) == len(files)
    assert report["space"]["used"] == sum(path.stat().st_size for path in files)
    text = call(*arguments).stdout
    assert "8 of 8 drives and days of calibration are complete" in text
    assert "19 of 19 images, 19 of 19 lidar scans (not a published list)" in text


def test_decoding_finds_nothing_wrong_with_real_files(
    kitti: tuple[Path, list[str | Path]],
) -> None:
    report = report_of(*kitti[1], "--decode", "--workers", "2")
    assert report["complete"]
    assert report["decoded"]


def test_nothing_is_written(
    kitti: tuple[Path, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> dict[str, tuple[int, int]]:
        found = {}
        for path in tmp_path.rglob("*"):
            status = path.lstat()
            found[str(path)] = (status.st_mtime_ns, status.st_size)
        return found

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    before = state()
    call(*kitti[1])
    call(*kitti[1], "--decode", "--json")
    assert state() == before


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (IMAGE, cut, "is a JPEG without its end: truncated"),
        (IMAGE, empty, "is empty"),
        (SCAN, empty, "is empty"),
        (SCAN, lambda path: own(path).write_bytes(b"x" * 50), "has 50 bytes, no multiple of 16"),
        (CALIBRATION, lose("P_rect_02"), "has no key 'P_rect_02'"),
        (CALIBRATION, lose("R_rect_00"), "has no key 'R_rect_00'"),
        (CALIBRATION, empty, "is empty"),
        (f"{DAY}/calib_velo_to_cam.txt", lambda path: own(path).write_text("R: 1 2\n"),
         "does not give 9 numbers for 'R', has no key 'T'"),
    ],
)  # fmt: skip
def test_damage_is_named(
    kitti: tuple[Path, list[str | Path]],
    name: str,
    damage: Callable[[Path], object],
    reason: str,
) -> None:
    root, arguments = kitti
    damage(root / name)
    report = report_of(*arguments)
    ((path, told),) = all_broken(report)
    assert path == name
    assert told.startswith(reason)
    assert (report["missing"], report["broken"]) == (0, 1)
    archive = f"{KITTI_STORE}/raw_data/{DAY}_calib.zip"
    if not name.startswith(f"{DAY}/calib"):
        archive = raw_url("/".join(name.split("/")[:2]))
    assert urls(report) == [archive]
    assert [archive["folder"] for archive in report["archives"]] == [str(root)]
    text = call(*arguments).stdout
    assert f"{name} {reason}" in text
    assert archive in text


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (SCAN, not_finite, "has values that are not finite in 1 of"),
        (IMAGE, shrink, "is 600 x 200 pixels, expected 1242 x 375"),
    ],
)
def test_decoding_finds_what_a_look_does_not(
    kitti: tuple[Path, list[str | Path]], name: str, damage: Callable[[Path], None], reason: str
) -> None:
    root, arguments = kitti
    damage(root / name)
    assert report_of(*arguments)["complete"]
    ((path, told),) = all_broken(report_of(*arguments, "--decode"))
    assert path == name
    assert told.startswith(reason)


def test_damage_within_is_found_by_decoding(kitti: tuple[Path, list[str | Path]]) -> None:
    """A PNG with both ends right and one byte wrong between them."""
    root, arguments = kitti
    png = (root / IMAGE).with_suffix(".png")
    with Image.open(root / IMAGE) as image:
        image.save(png)
    (root / IMAGE).unlink()
    assert report_of(*arguments, "--decode")["complete"]
    content = bytearray(png.read_bytes())
    content[len(content) // 2] ^= 0xFF
    png.write_bytes(content)
    assert report_of(*arguments)["complete"]
    ((path, reason),) = all_broken(report_of(*arguments, "--decode"))
    assert (path, reason) == (f"{IMAGE[:-4]}.png", "is damaged")


def test_last_frame_of_a_drive(kitti: tuple[Path, list[str | Path]]) -> None:
    root, arguments = kitti
    lists = Path(str(arguments[-1]))
    folder = root / DRIVE / "image_02" / "data"
    last = max(path for path in needed_files(root, lists) if path.parent == folder)
    last.unlink()
    report = report_of(*arguments)
    images = part(report, DRIVE, "images")
    assert images["needed"] - images["present"] == 1
    assert images["missing"] == [f"image_02 {int(last.stem)}"]
    assert urls(report) == [raw_url(DRIVE)]
    # It was the neighbour of a training frame, so that frame is no longer whole.
    assert report["totals"][0]["counts"] == {"images with neighbours": [139, 140]}
    (row,) = [line for line in call(*arguments).stdout.splitlines() if DRIVE[11:] + " " in line]
    assert f"{images['present']} of {images['needed']}" in row
    assert row.endswith(f"image_02 {int(last.stem)}")


def test_missing_files_are_counted_against_each_list(
    kitti: tuple[Path, list[str | Path]],
) -> None:
    root, arguments = kitti
    (root / SCAN).unlink()
    (root / TEST_DRIVE / "image_02/data/0000000009.jpg").unlink()
    shutil.rmtree(root / "2011_09_30")
    report = report_of(*arguments)
    assert report["totals"][2]["counts"] == {"images": [18, 19], "lidar scans": [18, 19]}
    assert part(report, TEST_DRIVE, "lidar scans")["missing"] == ["velodyne 3"]
    assert part(report, TEST_DRIVE, "images")["missing"] == ["image_02 9"]
    gone = "2011_09_30/2011_09_30_drive_0028_sync"
    lists = Path(str(arguments[-1]))
    frames = [*listed(lists / "train_files.txt"), *listed(lists / "val_files.txt")]
    left = sum(drive != gone for drive, _, _ in frames[:140])
    assert report["totals"][0]["counts"] == {"images with neighbours": [left, 140]}
    calibration = f"{KITTI_STORE}/raw_data/2011_09_30_calib.zip"
    assert urls(report) == sorted([raw_url(TEST_DRIVE), raw_url(gone), calibration])
    (row,) = [line for line in call(*arguments).stdout.splitlines() if gone[11:] + " " in line]
    assert row.endswith("  all")


def test_folder_in_the_place_of_a_file_is_missing(
    kitti: tuple[Path, list[str | Path]],
) -> None:
    root, arguments = kitti
    (root / CALIBRATION).unlink()
    (root / CALIBRATION).mkdir()
    report = report_of(*arguments, "--decode")
    assert part(report, DAY, "calibration")["missing"] == ["calib_cam_to_cam.txt"]
    assert report["broken"] == 0


def test_real_lists_ask_for_exactly_their_archives(test_data: Path, tmp_path: Path) -> None:
    splits = test_data / "splits"
    if not splits.is_dir():
        pytest.skip(f"no splits in {test_data}")
    (tmp_path / "root").mkdir()
    more = [splits / "eigen/test_files.txt", splits / "eigen_benchmark/test_files.txt"]
    arguments: list[str | Path] = ["kitti", "--root", tmp_path / "root"]
    arguments += ["--splits", splits / "eigen_zhou", "--list", more[0], "--list", more[1]]
    report = report_of(*arguments, "--archives", tmp_path / "urls.txt")
    assert [(total["published"], total["counts"]) for total in report["totals"]] == [
        ("eigen_zhou/train", {"images with neighbours": [0, 39_810]}),
        ("eigen_zhou/val", {"images with neighbours": [0, 4_424]}),
        ("eigen/test", {"images": [0, 697], "lidar scans": [0, 697]}),
        ("eigen_benchmark/test", {"images": [0, 652], "improved ground truth": [0, 652]}),
    ]
    names = ("eigen_zhou/train", "eigen_zhou/val", "eigen/test", "eigen_benchmark/test")
    frames = [f for name in names for f in listed(splits / f"{name}_files.txt")]
    drives = {drive for drive, _, _ in frames}
    assert len(drives) == 32 + 28
    expected = [raw_url(drive) for drive in drives]
    expected += [f"{KITTI_STORE}/raw_data/{day}_calib.zip" for day in {d[:10] for d in drives}]
    expected.append(f"{KITTI_STORE}/data_depth_annotated.zip")
    assert urls(report) == sorted(expected)
    assert (tmp_path / "urls.txt").read_text() == "".join(f"{url}\n" for url in sorted(expected))
    space = report["space"]
    assert space["copy"] is space["cache_seconds"] is None  # no image to measure with
    cached = set()
    for drive, number, side in listed(splits / "eigen_zhou/train_files.txt"):
        cached |= {(drive, number + offset, side) for offset in (-1, 0, 1)}
    assert space["cached_images"] == len(cached)
    assert space["cache"] == len(cached) * 192 * 640 * 3
    assert report["notes"][0].startswith("60 drives are not complete; the archives of all 61")


@pytest.fixture
def benchmark(
    kitti: tuple[Path, list[str | Path]], tmp_path: Path
) -> tuple[Path, list[str | Path], list[int]]:
    """A list of the frames of drive 0001 that have improved ground truth."""
    root, arguments = kitti
    drive = f"{DAY}/{DAY}_drive_0001_sync"
    depths = root / drive / "proj_depth/groundtruth/image_02"
    images = root / drive / "image_02/data"
    numbers = [int(p.stem) for p in sorted(depths.iterdir()) if (images / f"{p.stem}.jpg").exists()]
    path = tmp_path / "eigen_benchmark" / "test_files.txt"
    path.parent.mkdir()
    path.write_text("".join(f"{drive} {number} l\n" for number in numbers))
    return root / drive, [*arguments, "--list", path], numbers


def test_improved_ground_truth(benchmark: tuple[Path, list[str | Path], list[int]]) -> None:
    drive, arguments, numbers = benchmark
    assert len(numbers) > 3
    report = report_of(*arguments, "--decode")
    assert report["totals"][3]["counts"] == {
        "images": [len(numbers)] * 2, "improved ground truth": [len(numbers)] * 2,
    }  # fmt: skip
    depths = drive / "proj_depth/groundtruth/image_02"
    (depths / f"{numbers[-1]:010d}.png").unlink()
    cut(depths / f"{numbers[0]:010d}.png")
    report = report_of(*arguments)
    total = report["totals"][3]["counts"]["improved ground truth"]
    assert total == [len(numbers) - 2, len(numbers)]
    found = part(report, f"{DAY}/{drive.name}", "improved ground truth")
    assert found["missing"] == [f"image_02 {numbers[-1]}"]
    ((_, reason),) = all_broken(report)
    assert reason == "is a PNG without its end: truncated"
    assert urls(report) == [f"{KITTI_STORE}/data_depth_annotated.zip"]
    assert "train/ and val/" in report["archives"][0]["note"]


def test_told_command_merges_the_improved_ground_truth(
    benchmark: tuple[Path, list[str | Path], list[int]],
) -> None:
    """It is unpacked beside the days, as the archive does it; then the told line is run."""
    drive, arguments, numbers = benchmark
    root = drive.parent.parent
    unpacked = root / "val" / drive.name
    unpacked.mkdir(parents=True)
    shutil.move(drive / "proj_depth", unpacked / "proj_depth")
    report = report_of(*arguments)
    assert report["missing"] == len(numbers)
    (note,) = report["notes"]
    command = merge_command(root)
    assert str(root / "val") in note
    assert note.endswith(f"in {root}: {command}")
    before = sorted(path.name for path in root.iterdir())
    subprocess.run(["bash", "-c", command], cwd=root, check=True)
    assert report_of(*arguments)["complete"]
    assert sorted(path.name for path in root.iterdir()) == before


def test_merging_works_below_a_name_with_blanks(tmp_path: Path) -> None:
    root = tmp_path / "my kitti"
    name = f"{DAY}_drive_0001_sync"
    (tmp_path / "train" / name / "proj_depth" / "groundtruth").mkdir(parents=True)
    subprocess.run(["bash", "-c", merge_command(root)], cwd=tmp_path, check=True)
    assert (root / DAY / name / "proj_depth" / "groundtruth").is_dir()


def test_root_beside_the_right_one_is_told(kitti: tuple[Path, list[str | Path]]) -> None:
    root, arguments = kitti
    for wrong in (root.parent, root / DAY):
        notes = report_of("kitti", "--root", wrong, *arguments[3:])["notes"]
        assert notes == [f"{wrong} holds no recording day, but {root} does: name that"]


def test_first_frame_cannot_have_a_predecessor(
    kitti: tuple[Path, list[str | Path]], tmp_path: Path
) -> None:
    """A list that trains on frame 0: no file is missing, but the frame is not whole."""
    root, _ = kitti
    source = root / TEST_DRIVE / "image_02/data/0000000003.jpg"
    folder = tmp_path / "kitti" / f"{DAY}/{DAY}_drive_0099_sync" / "image_02/data"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number:010d}.jpg").symlink_to(source.resolve())
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train_files.txt").write_text(
        "".join(f"{DAY}/{DAY}_drive_0099_sync {number} l\n" for number in (0, 1))
    )
    report = report_of("kitti", "--root", root, "--splits", tmp_path / "lists")
    assert report["totals"][0]["counts"] == {"images with neighbours": [1, 2]}
    assert (report["missing"], report["complete"]) == (0, False)
    assert "has 1 frames with number 0" in report["notes"][0]


def test_estimates_are_those_of_the_images(
    kitti: tuple[Path, list[str | Path]], tmp_path: Path
) -> None:
    """With PNGs of one picture the copy is as large as that many JPEGs of it."""
    root, _ = kitti
    with Image.open(root / IMAGE) as image:
        picture = image.convert("RGB").resize((320, 96))
    folder = tmp_path / "png" / DRIVE / "image_02/data"
    folder.mkdir(parents=True)
    for number in range(4):
        picture.save(folder / f"{number:010d}.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train_files.txt").write_text(f"{DRIVE} 1 l\n{DRIVE} 2 l\n")
    picture.save(tmp_path / "one.jpg", quality=92, subsampling="4:2:0")
    arguments: list[str | Path] = ["kitti", "--root", tmp_path / "png"]
    arguments += ["--splits", tmp_path / "lists", "--size", "48x160", "--workers", "2"]
    space = report_of(*arguments)["space"]
    assert space["copy"] == 4 * (tmp_path / "one.jpg").stat().st_size
    assert space["cache"] == 4 * 48 * 160 * 3
    assert space["copy_seconds"] > 0
    assert space["cache_seconds"] > 0
    assert "'fadepth data prepare', 4 images as JPEG" in call(*arguments).stdout


# Options


def test_wrong_options_are_told(kitti: tuple[Path, list[str | Path]], tmp_path: Path) -> None:
    root, arguments = kitti
    with pytest.raises(FadepthError, match=r"--camera is for ddad, not for kitti"):
        call(*arguments, "--camera", "CAMERA_01")
    with pytest.raises(FadepthError, match=r"nowhere is no folder: --root has to name"):
        call("kitti", "--root", tmp_path / "nowhere", *arguments[3:])
    with pytest.raises(FadepthError, match=r"holds none of train_files.*fetch-splits"):
        call("kitti", "--root", root, "--splits", tmp_path)
    with pytest.raises(FadepthError, match=r"absent.txt does not exist"):
        call(*arguments, "--list", tmp_path / "absent.txt")
    for size in ("192", "0x640", "192x", "192x640x3", "-1x5"):
        with pytest.raises(FadepthError, match="write height x width in pixels"):
            parse_size(size)
    assert parse_size("192x640") == (192, 640)
    assert call("nuscenes", "--root", root).exit_code == 2


def test_urls_that_cannot_be_written(kitti: tuple[Path, list[str | Path]], tmp_path: Path) -> None:
    """The report is printed before, and what lay there stays."""
    root, arguments = kitti
    (root / IMAGE).unlink()
    (tmp_path / "file").write_text("")
    app = typer.Typer()
    app.command()(check)
    command = [str(argument) for argument in arguments]
    result = CliRunner().invoke(app, [*command, "--archives", str(tmp_path / "file" / "urls")])
    assert isinstance(result.exception, FadepthError)
    assert "file/urls cannot be written" in str(result.exception)
    assert raw_url(DRIVE) in result.stdout


# DDAD

STANDING = "scene_01/scene_a8dc5ed1da0923563f85ea129f0e0a83e7fe1867.json"
MOVING = "scene_02/scene_fe9f29d3bde25d182dcf88caf1011acd8cc13624.json"
DDAD_CALIBRATION = "scene_02/calibration/64b9fde6360457d8beddcfb06c512fec6e2989d8.json"
DDAD_IMAGE = "scene_02/rgb/CAMERA_01/15616458250936520.jpg"
DDAD_SCAN = "scene_02/point_cloud/LIDAR/15616458251018358.npz"


@pytest.fixture
def ddad(test_data: Path, tmp_path: Path) -> tuple[Path, list[str | Path]]:
    """A root with a scene list, and the arguments that check it."""
    if not (test_data / "ddad_mini").is_dir():
        pytest.skip(f"no ddad_mini in {test_data}")
    root = tmp_path / "ddad"
    copy_tree(test_data / "ddad_mini", root)
    splits = {"0": {"filenames": [MOVING]}, "1": {"filenames": [STANDING]}}
    (root / "ddad.json").write_text(json.dumps({"scene_splits": splits}))
    return root, ["ddad", "--root", root]


def lose_intrinsics(path: Path) -> None:
    content = json.loads(own(path).read_text())
    del content["intrinsics"][1]["fx"]
    path.write_text(json.dumps(content))


def lose_datum(path: Path) -> None:
    content = json.loads(own(path).read_text())
    del content["data"][0]
    path.write_text(json.dumps(content))


def test_ddad_complete(ddad: tuple[Path, list[str | Path]]) -> None:
    _, arguments = ddad
    report = report_of(*arguments, "--decode")
    assert report["complete"]
    assert [(t["name"], t["counts"]) for t in report["totals"]] == [
        ("train", {"scenes": [1, 1]}), ("val", {"scenes": [1, 1]}),
    ]  # fmt: skip
    for scene in ("scene_01", "scene_02"):
        assert part(report, scene, "images")["present"] == 3
        assert part(report, scene, "lidar scans")["present"] == 3
    assert "1 of the published 150 scenes are listed, 3 of 12,650 samples" in report["notes"][0]
    assert "1 of the published 50 scenes are listed, 3 of 3,950 samples" in report["notes"][1]
    assert report["space"]["cache"] == 3 * 384 * 640 * 3
    two = report_of(*arguments, "--camera", "camera_01", "--camera", "CAMERA_05")
    assert part(two, "scene_02", "images")["present"] == 6
    assert part(two, "scene_02", "lidar scans")["present"] == 3


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (DDAD_IMAGE, cut, "is a JPEG without its end: truncated"),
        (DDAD_SCAN, cut, "is a zip file without its end: truncated"),
        (DDAD_CALIBRATION, cut, "is not readable JSON"),
        (DDAD_CALIBRATION, lose_intrinsics, "does not give fx, fy, cx and cy of every sensor"),
        (MOVING, cut, "is not readable JSON"),
        (MOVING, lose_datum, "is not as DGP writes it"),
    ],
)
def test_ddad_damage_is_named(
    ddad: tuple[Path, list[str | Path]], name: str, damage: Callable[[Path], None], reason: str
) -> None:
    root, arguments = ddad
    damage(root / name)
    report = report_of(*arguments)
    ((path, told),) = all_broken(report)
    assert path == name
    assert told.startswith(reason)
    assert report["missing"] == 0
    assert [total["counts"]["scenes"][0] for total in report["totals"]] == [0, 1]
    assert urls(report) == ["https://tri-ml-public.s3.amazonaws.com/github/DDAD/datasets/DDAD.tar"]


@pytest.mark.parametrize("name", [DDAD_IMAGE, DDAD_SCAN, DDAD_CALIBRATION, MOVING])
def test_ddad_missing_is_named(ddad: tuple[Path, list[str | Path]], name: str) -> None:
    root, arguments = ddad
    (root / name).unlink()
    report = report_of(*arguments)
    assert (report["missing"], report["broken"]) == (1, 0)
    parts = [part for group in report["groups"] for part in group["parts"]]
    assert [name for part in parts for name in part["missing"]] == [name.removeprefix("scene_02/")]


def test_ddad_without_its_list(ddad: tuple[Path, list[str | Path]]) -> None:
    root, arguments = ddad
    (root / "ddad.json").unlink()
    report = report_of(*arguments)
    assert report["missing"] == 1
    assert "nobody knows which scenes are needed" in report["notes"][0]
    with pytest.raises(FadepthError, match=r"other.json does not exist"):
        call(*arguments, "--splits", root / "other.json")
    (root / "ddad_train_val").mkdir()
    (root / "ddad_train_val" / "ddad.json").write_text("{}")
    note = report_of(*arguments)["notes"][0]
    assert note == f"ddad.json lies in {root / 'ddad_train_val'}: name that as --root"


def test_ddad_camera_that_there_is_not(ddad: tuple[Path, list[str | Path]]) -> None:
    report = report_of(*ddad[1], "--camera", "CAMERA_07")
    assert all_broken(report) == [(STANDING, "has no camera CAMERA_07")]


# Make3D, Cityscapes, KITTI odometry


def test_make3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(write_make3d(tmp_path, 3))
    monkeypatch.setattr(make3d, "TEST_FRAMES", 3)
    arguments: list[str | Path] = ["make3d", "--root", tmp_path]
    report = report_of(*arguments, "--decode")
    assert report["complete"]
    assert report["totals"][0]["counts"] == {"pairs": [3, 3]}
    cut(tmp_path / "Gridlaserdata" / f"depth_sph_corr-{names[0]}.mat")
    (tmp_path / "Test134" / f"img-{names[1]}.jpg").unlink()
    report = report_of(*arguments)
    assert report["totals"][0]["counts"] == {"pairs": [1, 3]}
    assert part(report, "test set", "images")["missing"] == [f"img-{names[1]}.jpg"]
    ((path, reason),) = all_broken(report)
    assert path == f"Gridlaserdata/depth_sph_corr-{names[0]}.mat"
    assert reason == "ends within a variable: truncated"
    assert len(urls(report)) == 2


def test_make3d_pairs_of_which_nothing_is_there(tmp_path: Path) -> None:
    write_make3d(tmp_path, 2)
    shutil.move(tmp_path / "Gridlaserdata", tmp_path / "Test134Depth")
    report = report_of("make3d", "--root", tmp_path)
    assert report["totals"][0]["counts"] == {"pairs": [2, 134]}
    assert report["missing"] == 2 * 132
    assert part(report, "test set", "depth grids")["missing"] == ["unnamed 1-132"]
    assert [url.rsplit("/", 1)[1] for url in urls(report)] == [
        "Test134.tar.gz", "Test134Depth.tar.gz",
    ]  # fmt: skip


def test_cityscapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(write_cityscapes(tmp_path, 4))
    monkeypatch.setitem(cityscapes.SPLIT_FRAMES, "test", 4)
    arguments: list[str | Path] = ["cityscapes", "--root", tmp_path]
    report = report_of(*arguments, "--decode")
    assert report["complete"]
    assert report["totals"][0]["counts"] == {"frames": [4, 4]}
    berlin = [name for name in names if name.startswith("berlin")]
    cut(tmp_path / f"disparity/test/berlin/{berlin[0]}_disparity.png")
    camera = tmp_path / f"camera/test/berlin/{berlin[1]}_camera.json"
    content = json.loads(camera.read_text())
    del content["extrinsic"]["baseline"]
    camera.write_text(json.dumps(content))
    report = report_of(*arguments)
    assert dict(all_broken(report)) == {
        f"disparity/test/berlin/{berlin[0]}_disparity.png": "is a PNG without its end: truncated",
        f"camera/test/berlin/{berlin[1]}_camera.json": "gives no number 'extrinsic.baseline'",
    }
    assert report["totals"][0]["counts"] == {"frames": [2, 4]}
    assert [archive["name"] for archive in report["archives"]] == [
        "camera_trainvaltest.zip", "disparity_trainvaltest.zip",
    ]  # fmt: skip
    result = call(*arguments, "--archives", tmp_path / "urls.txt")
    assert (tmp_path / "urls.txt").read_text() == ""
    assert "2 archives need a login" in result.stderr


def test_cityscapes_with_archives_in_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cityscapes(tmp_path, 2, split="val", size=(64, 128))
    (tmp_path / "camera_trainvaltest").mkdir()
    shutil.move(tmp_path / "camera", tmp_path / "camera_trainvaltest" / "camera")
    monkeypatch.setitem(cityscapes.SPLIT_FRAMES, "val", 2)
    arguments: list[str | Path] = ["cityscapes", "--root", tmp_path, "--split", "val"]
    assert report_of(*arguments)["complete"]
    # Its pictures are of another size than the published ones.
    assert report_of(*arguments, "--decode")["broken"] == 4
    with pytest.raises(FadepthError, match=r"no split 'demo': use train, val or test"):
        call("cityscapes", "--root", tmp_path, "--split", "demo")


@pytest.fixture
def odometry(
    kitti: tuple[Path, list[str | Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Poses of two short sequences, the first three and two frames of a drive."""
    drive = TEST_DRIVE.split("/")[1].removesuffix("_sync")
    short = {"09": RawRange(drive, 0, 2), "10": RawRange(drive, 0, 1)}
    monkeypatch.setattr(kitti_odometry, "SEQUENCES", short)
    root = tmp_path / "odometry"
    (root / "poses").mkdir(parents=True)
    for name, frames in (("09", 3), ("10", 2)):
        lines = [f"1 0 0 0 0 1 0 0 0 0 1 {z}\n" for z in range(frames)]
        (root / "poses" / f"{name}.txt").write_text("".join(lines))
    return root


def test_odometry_from_raw_drives(kitti: tuple[Path, list[str | Path]], odometry: Path) -> None:
    raw = kitti[0]
    folder = raw / TEST_DRIVE / "image_02/data"
    picture = next(folder.iterdir()).resolve()
    for number in range(3):
        (folder / f"{number:010d}.jpg").unlink(missing_ok=True)
        (folder / f"{number:010d}.jpg").symlink_to(picture)
    arguments: list[str | Path] = ["kitti_odometry", "--root", odometry, "--raw-root", raw]
    report = report_of(*arguments)
    assert report["complete"]
    assert [part(report, name, "images")["present"] for name in ("09", "10")] == [3, 2]
    (folder / "0000000002.jpg").unlink()
    (odometry / "poses/10.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n")
    report = report_of(*arguments)
    assert part(report, "09", "images")["missing"] == ["image_02 2"]
    assert all_broken(report) == [("poses/10.txt", "has 1 poses, expected 2")]
    assert urls(report) == sorted([f"{KITTI_STORE}/data_odometry_poses.zip", raw_url(TEST_DRIVE)])


def test_odometry_in_its_own_layout(kitti: tuple[Path, list[str | Path]], odometry: Path) -> None:
    arguments: list[str | Path] = ["kitti_odometry", "--root", odometry]
    report = report_of(*arguments)
    assert urls(report) == [f"{KITTI_STORE}/data_odometry_{p}.zip" for p in ("calib", "color")]
    assert "--raw-root" in report["notes"][0]
    for name, frames in (("09", 3), ("10", 2)):
        folder = odometry / "sequences" / name / "image_2"
        folder.mkdir(parents=True)
        (folder.parent / "calib.txt").write_text("P2: 7 0 6 4 0 7 1 0 0 0 1 0\n")
        for number in range(frames):
            shutil.copy(kitti[0] / IMAGE, folder / f"{number:06d}.jpg")
    assert report_of(*arguments)["complete"]
    (odometry / "sequences/09/calib.txt").write_text("P0: 1\n")
    report = report_of(*arguments)
    assert all_broken(report) == [("sequences/09/calib.txt", "has no key 'P2'")]
    assert urls(report) == [f"{KITTI_STORE}/data_odometry_calib.zip"]


def test_odometry_one_folder_too_high(odometry: Path) -> None:
    (odometry / "dataset").mkdir()
    shutil.move(odometry / "poses", odometry / "dataset" / "poses")
    notes = report_of("kitti_odometry", "--root", odometry)["notes"]
    assert notes[0] == f"poses/ lies in {odometry / 'dataset'}: name that as --root"
    report = report_of("kitti_odometry", "--root", odometry / "dataset")
    # The archives bring their own `dataset/`.
    assert {archive["folder"] for archive in report["archives"]} == {str(odometry)}


# Parts


def write_npz(path: Path) -> None:
    np.savez(path, data=np.arange(600.0))


def write_mat(path: Path) -> None:
    savemat(path, {"Position3DGrid": np.arange(600.0)}, do_compression=True)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".png", lambda path: Image.new("RGB", (64, 48), (5, 60, 200)).save(path)),
        (".jpg", lambda path: Image.effect_noise((64, 48), 40).save(path)),
        (".npz", write_npz),
        (".mat", write_mat),
        (".json", lambda path: path.write_text(json.dumps({"a": list(range(50))}))),
    ],
)
def test_every_truncation_is_seen(
    tmp_path: Path, suffix: str, write: Callable[[Path], object]
) -> None:
    path = tmp_path / f"whole{suffix}"
    write(path)
    assert soundness.look(path) is None
    content = path.read_bytes()
    for length in [*range(0, len(content) - 20, 7), *range(len(content) - 20, len(content))]:
        path.write_bytes(content[:length])
        assert soundness.look(path), length
    path.write_bytes(b"x" * len(content))
    assert soundness.look(path)


def test_jpeg_filled_up_with_zeros_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "filled.jpg"
    Image.effect_noise((64, 48), 40).save(path)
    path.write_bytes(path.read_bytes() + bytes(40))
    assert soundness.look(path) is None


def test_runs_name_exactly_the_files() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        numbers = set(generator.integers(0, 40, generator.integers(1, 40)).tolist())
        named = set()
        for run in runs([("image_02", number) for number in numbers]):
            series, _, span = run.partition(" ")
            assert series == "image_02"
            first, _, last = span.partition("-")
            named |= set(range(int(first), int(last or first) + 1))
        assert named == numbers
    assert runs([("b", 2), "z.txt", ("a", 1), ("b", 3), "y.txt"]) == [
        "a 1",
        "b 2-3",
        "y.txt",
        "z.txt",
    ]


def test_few_files_are_held_at_once(tmp_path: Path) -> None:
    """However many files there are, only a few are drawn before the first are done with."""
    drawn = told = most = 0

    def needs() -> Iterator[Need]:
        nonlocal drawn, most
        for number in range(500):
            drawn += 1
            most = max(most, drawn - told)
            yield Need("g", "images", ("i", number), (tmp_path / f"{number}.png",))

    def tell() -> None:
        nonlocal told
        told += 1

    walked = walk.walk(needs(), tmp_path, workers=2, tell=tell)
    assert told == 500
    assert most <= 2 * 4 + 1
    (group,) = walked.groups
    assert group.parts[0].missing == ["i 0-499"]


def test_sample_is_drawn_from_all_sound_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 200 images is as likely: the mean position is that of uniform draws."""
    monkeypatch.setattr(walk, "SAMPLE", 16)
    for number in range(200):
        os.link(_pixel(tmp_path), tmp_path / f"{number}.png")
    (tmp_path / "50.png").unlink()
    needs = [Need("g", "images", ("i", n), (tmp_path / f"{n}.png",)) for n in range(200)]
    sample = walk.walk(needs, tmp_path, workers=2).sample
    assert sample == walk.walk(needs, tmp_path, workers=1).sample
    positions = [int(path.stem) for path in sample]
    assert len(set(positions)) == 16
    assert 50 not in positions
    # Four standard deviations of the mean of 16 uniform draws.
    assert abs(np.mean(positions) - 99.5) < 4 * 200 / math.sqrt(12 * 16)
    assert max(positions) > 100


def _pixel(folder: Path) -> Path:
    path = folder / "pixel.png"
    if not path.exists():
        Image.new("RGB", (1, 1)).save(path)
    return path
