"""Every reader with every fault of the issue's list: one sentence, nothing half-written.

`MATRIX` has a row for each reader and a column for each fault; a cell holds the ways in which the
fault is tried, or says why it cannot occur. What is full or read-only is the output folder, which
is the same for all readers that write (`WRITERS`).
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.io import savemat

from fadepth.config import BenchmarkSettings, DataSettings, DdadSettings
from fadepth.data import kitti
from fadepth.data.kitti_odometry import SEQUENCES, read_sequence
from fadepth.data.manifest import Frame, Manifest
from fadepth.data.prepare import prepare_benchmark, prepare_data
from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import evaluate
from fadepth.evaluation.odometry import predict_trajectory
from fadepth.evaluation.protocols import find_protocol
from tests.data.fixtures import write_cityscapes, write_make3d
from tests.data.mounts import make_read_only, tmpfs
from tests.data.test_ddad import CALIBRATION, IMAGE, MOVING, SCAN, STANDING, write_scene_list
from tests.data.test_kitti_odometry import P2, some_poses, write_poses

Damage = Callable[[Path], object]

# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_a_point(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def loop(path: Path) -> None:
    """A file that even root cannot open."""
    path.unlink()
    path.symlink_to(path)


def resized(factor: float) -> Damage:
    def damage(path: Path) -> None:
        with Image.open(path) as image:
            size = round(image.width * factor), round(image.height * factor)
            image.resize(size, Image.Resampling.NEAREST).save(path)

    return damage


def grey_8_bit(path: Path) -> None:
    with Image.open(path) as image:
        Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).save(path)


def enormous(path: Path) -> None:
    """A JPEG whose head says 65535 x 65535."""
    content = path.read_bytes()
    size = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:size] + b"\xff" * 4 + content[size + 4 :])


def without_key(key: str) -> Damage:
    """A calibration file of KITTI without a line."""

    def damage(path: Path) -> None:
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(f"{key}:")]
        assert len(kept) == len(lines) - 1
        path.write_text("".join(kept))

    return damage


def edited(change: Callable[[Any], object]) -> Damage:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def without_camera_1(content: Any) -> None:
    number = content["names"].index("CAMERA_01")
    for part in ("names", "intrinsics", "extrinsics"):
        del content[part][number]


def of_camera_1(content: Any) -> Any:
    return content["intrinsics"][content["names"].index("CAMERA_01")]


def no_place(content: Any) -> None:
    for datum in content["data"]:
        if "image" in datum["datum"]:
            datum["datum"]["image"]["pose"]["translation"]["x"] = float("nan")


def nan_points(path: Path) -> None:
    points = np.fromfile(path, "<f4").reshape(-1, 4)
    points[7, 1] = np.nan
    points.tofile(path)


def nan_cloud(path: Path) -> None:
    points = np.load(path)["data"].copy()
    points[7, 1] = np.nan
    np.savez(path, data=points)


def no_cloud(path: Path) -> None:
    np.savez(path, data=np.zeros((0, 4)))


def grid(**changes: Any) -> Damage:
    """Another grid of Make3D."""

    def damage(path: Path) -> None:
        values = np.ones(changes.get("shape", (55, 305, 4)))
        values[3, 5] = changes.get("value", 1.0)
        savemat(path, {"Position3DGrid": values})

    return damage


def nan_pose(path: Path) -> None:
    lines = path.read_text().splitlines()
    lines[4] = " ".join(["nan", *lines[4].split()[1:]])
    path.write_text("\n".join(lines) + "\n")


# Data


DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
LISTS = {
    "train": f"{DRIVE} 6 l\n{DRIVE} 7 r\n",
    "val": f"{DRIVE} 15 l\n",  # its neighbour is the drive's last frame
    "test": f"{DRIVE} 5 l\n{DRIVE} 16 r\n",
}
RAW_DRIVE = f"2011_09_30/{SEQUENCES['04'].drive}_sync"


def link(source: Path, target: Path, *parts: str) -> None:
    """Every file of those parts as a link to the original, which nobody may write to."""
    for part in parts:
        files = [source / part] if (source / part).is_file() else (source / part).rglob("*")
        for path in files:
            if path.is_file():
                place = target / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(path)


def make_kitti(base: Path, test_data: Path) -> None:
    calibrations = [f"2011_09_26/calib_{kind}_to_cam.txt" for kind in ("cam", "velo")]
    parts = [f"{DRIVE}/{part}" for part in ("image_02", "image_03", "velodyne_points")]
    parts.append(f"{DRIVE}/proj_depth/groundtruth")
    link(test_data / "kitti_mini" / "kitti", base / "data", *calibrations, *parts)
    (base / "splits").mkdir()
    for split, text in LISTS.items():
        (base / "splits" / f"{split}_files.txt").write_text(text)


def make_ddad(base: Path, test_data: Path) -> None:
    if not (test_data / "ddad_mini").is_dir():
        pytest.skip(f"no ddad_mini in {test_data}")
    for scene in (STANDING, MOVING):
        folder = scene.split("/")[0]
        parts = [f"{folder}/{part}" for part in ("calibration", "rgb/CAMERA_01", "point_cloud")]
        link(test_data / "ddad_mini", base / "data", scene, *parts)
    write_scene_list(base / "ddad.json", [MOVING], [STANDING])


def make_make3d(base: Path, _: Path) -> None:
    names = write_make3d(base / "data", 2)
    (base / "list.txt").write_text("\n".join(names))


def make_cityscapes(base: Path, _: Path) -> None:
    write_cityscapes(base / "data", 2, size=(128, 256))


def write_images(folder: Path, digits: int, count: int) -> None:
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    for number in range(count):
        (folder / f"{number:0{digits}d}.png").write_bytes(buffer.getvalue())


def make_odometry(base: Path, _: Path) -> None:
    write_images(base / "sequences/09/image_2", 6, 12)
    (base / "sequences/09/calib.txt").write_text(f"P0: {P2}\nP2: {P2}\n")
    write_poses(base / "poses/09.txt", some_poses(12))


def make_odometry_raw(base: Path, _: Path) -> None:
    """The raw drive of sequence 04 instead, 271 frames."""
    write_images(base / RAW_DRIVE / "image_02/data", 10, 271)
    (base / "2011_09_30/calib_cam_to_cam.txt").write_text(f"S_rect_02: 24 8\nP_rect_02: {P2}\n")
    write_poses(base / "poses/04.txt", some_poses(271))


# Readers: each returns all that it has found out, for comparisons


def read_kitti(base: Path, output: Path) -> bytes:
    prepare_data(DataSettings(root="data", splits="splits"), output, base=base, workers=2)
    return output.read_bytes()


def read_ddad(base: Path, output: Path) -> bytes:
    config = DataSettings(
        name="ddad", source="ddad", root="data", splits="ddad.json", height=96, width=160,
        ddad=DdadSettings(held_out_scenes=0),
    )  # fmt: skip
    prepare_data(config, output, base=base, workers=2)
    return output.read_bytes()


def read_benchmark(source: Any, frames: str | None) -> Callable[[Path, Path], bytes]:
    def read(base: Path, output: Path) -> bytes:
        settings = BenchmarkSettings(source=source, root="data", frames=frames, protocol=source)
        prepare_benchmark(source, settings, output, base=base, workers=2)
        return output.read_bytes()

    return read


def read_odometry(name: str) -> Callable[[Path, Path], bytes]:
    def read(base: Path, _: Path) -> bytes:
        sequence = read_sequence(base, name)

        def pose_between(*images: Path) -> np.ndarray:
            for path in images:  # as the pose network does
                kitti.read_image(path)
            return np.eye(4)

        predict_trajectory(sequence, pose_between)
        names = " ".join(path.name for path in sequence.images)
        return f"{names} {sequence.intrinsics}".encode() + sequence.poses.tobytes()

    return read


MAKE: dict[str, Callable[[Path, Path], None]] = {
    "kitti": make_kitti,
    "ddad": make_ddad,
    "make3d": make_make3d,
    "cityscapes": make_cityscapes,
    "odometry": make_odometry,
    "odometry_raw": make_odometry_raw,
}
READ: dict[str, Callable[[Path, Path], bytes]] = {
    "kitti": read_kitti,
    "ddad": read_ddad,
    "make3d": read_benchmark("make3d", "list.txt"),
    "cityscapes": read_benchmark("cityscapes", None),
    "odometry": read_odometry("09"),
    "odometry_raw": read_odometry("04"),
}
#: Those that write; `read_sequence` gives its result to the evaluation.
WRITERS = ("kitti", "ddad", "make3d", "cityscapes")


# The matrix


@dataclass(frozen=True)
class Try:
    """A file, what happens to it, and what the error must name (the file's own name by default)."""

    path: str
    damage: Damage
    named: tuple[str, ...] = ()


IMAGE_6 = f"data/{DRIVE}/image_02/data/0000000006.jpg"
DEPTH_6 = f"data/{DRIVE}/proj_depth/groundtruth/image_02/0000000006.png"
SCAN_5 = f"data/{DRIVE}/velodyne_points/data/0000000005.bin"
LAST = f"data/{DRIVE}/image_0{{}}/data/0000000016.jpg"
CAMERAS, LIDAR = (f"data/2011_09_26/calib_{kind}_to_cam.txt" for kind in ("cam", "velo"))
DDAD_LAST = "data/scene_02/rgb/CAMERA_01/15616458251936472.jpg"
MAKE3D_NAME = "op1-p-077t000"
MAKE3D_IMAGE = f"data/Test134/img-{MAKE3D_NAME}.jpg"
MAKE3D_GRID = f"data/Gridlaserdata/depth_sph_corr-{MAKE3D_NAME}.mat"
CITY_NAME = "bielefeld/bielefeld_000001_000019"
CITY_IMAGE, CITY_DISPARITY, CITY_CAMERA = (
    f"data/{kind}/test/{CITY_NAME}_{kind}.{suffix}"
    for kind, suffix in (("leftImg8bit", "png"), ("disparity", "png"), ("camera", "json"))
)
FRAME_4, FRAME_11 = (f"sequences/09/image_2/{number:06d}.png" for number in (4, 11))
RAW_FRAME_0, RAW_FRAME_4, RAW_FRAME_270 = (
    f"{RAW_DRIVE}/image_02/data/{number:010d}.png" for number in (0, 4, 270)
)
RAW_CALIBRATION = "2011_09_30/calib_cam_to_cam.txt"

FAULTS = (
    "truncated image", "empty scan", "NaN points", "missing key", "wrong image size",
    "last frame missing", "cannot be opened",
)  # fmt: skip

MATRIX: dict[str, dict[str, list[Try] | str]] = {
    "kitti": {
        "truncated image": [Try(IMAGE_6, cut), Try(IMAGE_6, enormous), Try(DEPTH_6, cut)],
        "empty scan": [Try(SCAN_5, empty), Try(SCAN_5, cut_a_point)],
        "NaN points": [Try(SCAN_5, nan_points)],
        "missing key": [
            Try(CAMERAS, without_key("P_rect_02"), ("calib_cam_to_cam.txt", "'P_rect_02'")),
            Try(CAMERAS, without_key("S_rect_03"), ("calib_cam_to_cam.txt", "'S_rect_03'")),
            Try(CAMERAS, without_key("R_rect_00"), ("calib_cam_to_cam.txt", "'R_rect_00'")),
            Try(LIDAR, without_key("T"), ("calib_velo_to_cam.txt", "'T'")),
        ],
        "wrong image size": [
            Try(IMAGE_6, resized(0.5)),
            Try(DEPTH_6, resized(0.5)),
            Try(DEPTH_6, grey_8_bit),
        ],
        "last frame missing": [
            Try(LAST.format(2), Path.unlink, (f"{DRIVE} 0000000015 l", "val_files.txt")),
            Try(LAST.format(3), Path.unlink, (f"{DRIVE} 0000000016 r", "test_files.txt")),
        ],
        "cannot be opened": [
            Try(CAMERAS, loop),
            Try(LIDAR, loop),
            Try("splits/val_files.txt", loop),
        ],
    },
    "ddad": {
        "truncated image": [Try(f"data/{IMAGE}", cut)],
        "empty scan": [Try(f"data/{SCAN}", empty), Try(f"data/{SCAN}", no_cloud)],
        "NaN points": [
            Try(f"data/{SCAN}", nan_cloud),
            Try(f"data/{MOVING}", edited(no_place)),
            Try(
                f"data/{CALIBRATION}",
                edited(lambda c: of_camera_1(c).update(fx=float("nan"))),
            ),
        ],
        "missing key": [
            Try(f"data/{CALIBRATION}", edited(lambda c: of_camera_1(c).pop("fx"))),
            Try(f"data/{CALIBRATION}", edited(lambda c: c.pop("intrinsics"))),
            Try(
                f"data/{CALIBRATION}",
                edited(without_camera_1),
                (Path(CALIBRATION).name, "'CAMERA_01'"),
            ),
        ],
        "wrong image size": [Try(f"data/{IMAGE}", resized(0.5))],
        "last frame missing": [Try(DDAD_LAST, Path.unlink)],
        "cannot be opened": [
            Try("ddad.json", loop),
            Try(f"data/{MOVING}", loop),
            Try(f"data/{CALIBRATION}", loop),
        ],
    },
    "make3d": {
        "truncated image": [Try(MAKE3D_IMAGE, cut)],
        "empty scan": [Try(MAKE3D_GRID, empty), Try(MAKE3D_GRID, cut)],
        "NaN points": [Try(MAKE3D_GRID, grid(value=np.nan))],
        "missing key": "Make3D has no calibration",
        "wrong image size": [
            Try(MAKE3D_IMAGE, resized(0.5)),
            Try(MAKE3D_GRID, grid(shape=(55, 304, 4))),
        ],
        "last frame missing": [Try(MAKE3D_IMAGE, Path.unlink), Try(MAKE3D_GRID, Path.unlink)],
        "cannot be opened": [Try("list.txt", loop)],
    },
    "cityscapes": {
        "truncated image": [Try(CITY_IMAGE, cut), Try(CITY_DISPARITY, cut)],
        "empty scan": [Try(CITY_DISPARITY, empty)],
        "NaN points": [  # disparities are whole numbers, their camera's are not
            Try(CITY_CAMERA, edited(lambda c: c["extrinsic"].update(baseline=float("nan")))),
        ],
        "missing key": [
            Try(
                CITY_CAMERA,
                edited(lambda c: c["intrinsic"].pop("v0")),
                (Path(CITY_CAMERA).name, "'intrinsic.v0'"),
            ),
        ],
        "wrong image size": [
            Try(CITY_DISPARITY, resized(0.5)),
            Try(CITY_DISPARITY, grey_8_bit),
            Try(CITY_IMAGE, resized(0.5), (Path(CITY_DISPARITY).name,)),
        ],
        "last frame missing": [
            Try(path, Path.unlink) for path in (CITY_IMAGE, CITY_DISPARITY, CITY_CAMERA)
        ],
        "cannot be opened": [Try(CITY_CAMERA, loop)],
    },
    "odometry": {
        "truncated image": [Try(FRAME_4, cut)],
        "empty scan": "odometry reads no scans",
        "NaN points": [Try("poses/09.txt", nan_pose, ("09.txt, line 5", "'nan'"))],
        "missing key": [Try("sequences/09/calib.txt", without_key("P2"), ("calib.txt", "'P2'"))],
        "wrong image size": "calib.txt gives no size that an image could be compared with",
        "last frame missing": [Try(FRAME_11, Path.unlink, ("09.txt", "image_2"))],
        "cannot be opened": [Try("sequences/09/calib.txt", loop), Try("poses/09.txt", loop)],
    },
    "odometry_raw": {
        "truncated image": [Try(RAW_FRAME_4, cut), Try(RAW_FRAME_270, empty)],
        "empty scan": "odometry reads no scans",
        "NaN points": [Try("poses/04.txt", nan_pose, ("04.txt, line 5", "'nan'"))],
        "missing key": [
            Try(RAW_CALIBRATION, without_key("P_rect_02"), ("calib_cam_to_cam.txt", "'P_rect_02'"))
        ],
        "wrong image size": [Try(RAW_FRAME_0, resized(0.5))],
        "last frame missing": [Try(RAW_FRAME_270, Path.unlink, ("image_02/data", "number 270"))],
        "cannot be opened": [Try(RAW_CALIBRATION, loop)],
    },
}


def test_no_cell_of_the_matrix_is_empty() -> None:
    assert MATRIX.keys() == READ.keys() == MAKE.keys()
    for row in MATRIX.values():
        assert tuple(row) == FAULTS
        assert all(row.values())


# Trying


@dataclass(frozen=True)
class World:
    """A reader's data, in order, and what the reader makes of them."""

    base: Path
    read: Callable[[Path, Path], bytes]
    intact: bytes


@pytest.fixture(scope="module")
def world_of(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], World]:
    """The world of a reader, made once: each test leaves it as it was."""
    made: dict[str, World] = {}

    def world(name: str) -> World:
        if name not in made:
            own = name in ("kitti", "ddad")
            base = tmp_path_factory.mktemp(name)
            MAKE[name](base, request.getfixturevalue("test_data") if own else base)
            output = tmp_path_factory.mktemp("intact") / "m.json"
            made[name] = World(base, READ[name], READ[name](base, output))
        return made[name]

    return world


@contextmanager
def damaged(path: Path, damage: Damage) -> Iterator[None]:
    """Damage a copy in the file's place, never the original behind a link; mend it after."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    damage(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def content_of(folder: Path) -> dict[str, str]:
    """Hash of each file, also of those behind links."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes() if path.is_file() else b"broken link"
        ).hexdigest()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


REMEDY = re.compile(
    r"\b(restore|unpack|download|correct|use the|make room|set '|remove|take the frame off)\b"
)


def assert_clear(error: FadepthError, *named: str) -> None:
    text = str(error)
    assert type(error) is FadepthError
    assert "\n" not in text
    assert all(name in text for name in named), text
    assert REMEDY.search(text), text
    assert len(text) < 600


TRIES = [
    pytest.param(reader, attempt, id=f"{reader}, {fault}, {number}")
    for reader, row in MATRIX.items()
    for fault, cell in row.items()
    if not isinstance(cell, str)
    for number, attempt in enumerate(cell)
]


@pytest.mark.parametrize(("reader", "attempt"), TRIES)
def test_fault_is_one_sentence_and_nothing_is_half_written(
    world_of: Callable[[str], World], reader: str, attempt: Try, tmp_path: Path
) -> None:
    world = world_of(reader)
    older, new = tmp_path / "out" / "m.json", tmp_path / "out" / "new.json"
    older.parent.mkdir()
    older.write_bytes(b"an older manifest")
    path = world.base / attempt.path
    with damaged(path, attempt.damage):
        before = content_of(world.base)
        for output in (older, new):
            with pytest.raises(FadepthError) as caught:
                world.read(world.base, output)
            assert_clear(caught.value, *(attempt.named or (path.name,)))
        assert content_of(world.base) == before
    assert [file.name for file in older.parent.iterdir()] == ["m.json"]
    assert older.read_bytes() == b"an older manifest"
    assert world.read(world.base, older) == world.intact


# Output folders that refuse


@pytest.mark.parametrize("reader", WRITERS)
def test_full_disk(world_of: Callable[[str], World], reader: str, tmp_path: Path) -> None:
    world = world_of(reader)
    with tmpfs(tmp_path / "small", "size=64k") as small:
        older, ballast = small / "m.json", small / "ballast"
        older.write_bytes(b"an older manifest")
        ballast.write_bytes(bytes(shutil.disk_usage(small).free))
        for output in (older, small / "new.json"):
            with pytest.raises(FadepthError) as caught:
                world.read(world.base, output)
            assert_clear(caught.value, f"{output} cannot be written (No space left on device)")
        assert {path.name for path in small.iterdir()} == {"m.json", "ballast"}
        assert older.read_bytes() == b"an older manifest"
        ballast.unlink()
        assert world.read(world.base, older) == world.intact


@pytest.mark.parametrize("reader", WRITERS)
def test_read_only_folder_is_told_before_any_file_is_read(
    world_of: Callable[[str], World],
    reader: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = world_of(reader)
    with tmpfs(tmp_path / "fixed", "size=64k") as fixed:
        older = fixed / "m.json"
        older.write_bytes(b"an older manifest")
        make_read_only(fixed)
        with monkeypatch.context() as patch:
            patch.setattr("fadepth.data.prepare._inspect", None)  # hashing would fail otherwise
            for output in (older, fixed / "new.json", fixed / "folder" / "new.json"):
                with pytest.raises(FadepthError) as caught:
                    world.read(world.base, output)
                assert_clear(caught.value, f"{output} cannot be written (Read-only file system)")
        assert [path.name for path in fixed.iterdir()] == ["m.json"]
        assert older.read_bytes() == b"an older manifest"


def test_file_or_folder_in_the_way(world_of: Callable[[str], World], tmp_path: Path) -> None:
    world = world_of("cityscapes")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder.json").mkdir()
    for output in (tmp_path / "file" / "m.json", tmp_path / "folder.json"):
        with pytest.raises(FadepthError) as caught:
            world.read(world.base, output)
        assert_clear(caught.value, f"{output} cannot be written")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.json"}


# The command line


def command(repository: Path, *words: str | Path) -> tuple[int, list[str]]:
    """Exit code and the lines of stderr that are no progress."""
    result = subprocess.run(
        [sys.executable, "-m", "fadepth", "data", *map(str, words)],
        cwd=repository,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    return result.returncode, [line for line in lines if not line.startswith("[prepare_")]


@pytest.fixture
def preset(world_of: Callable[[str], World], tmp_path: Path) -> Path:
    """Settings of KITTI's world and of a benchmark on Cityscapes'."""
    base = world_of("kitti").base
    cityscapes = {
        "source": "cityscapes", "root": str(world_of("cityscapes").base / "data"),
        "protocol": "cityscapes",
    }  # fmt: skip
    # The workflow's manifest wants lidar for every test frame, which frame 16 has not.
    splits = tmp_path / "splits_with_lidar"
    splits.mkdir()
    for split, text in {**LISTS, "test": f"{DRIVE} 5 l\n"}.items():
        (splits / f"{split}_files.txt").write_text(text)
    settings = {
        "data": {"root": str(base / "data"), "splits": str(splits)},
        "benchmarks": {"city": cityscapes},
    }
    (tmp_path / "preset.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "preset.yaml"


@pytest.mark.parametrize(
    ("reader", "path", "words"),
    [("kitti", SCAN_5, ["manifest"]), ("cityscapes", CITY_DISPARITY, ["benchmark", "city"])],
)
def test_commands_tell_damage_in_one_sentence(
    world_of: Callable[[str], World],
    reader: str,
    path: str,
    words: list[str],
    preset: Path,
    tmp_path: Path,
    repository: Path,
) -> None:
    broken = world_of(reader).base / path
    output = tmp_path / "out" / "m.json"
    with damaged(broken, cut_a_point if reader == "kitti" else cut):
        code, lines = command(repository, *words, "--preset", preset, "--output", output)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("fadepth: ")
    assert_clear(FadepthError(lines[0]), str(broken))
    assert not output.parent.exists() or not list(output.parent.iterdir())


@pytest.mark.parametrize("words", [["manifest"], ["benchmark", "city"]])
def test_commands_tell_a_disk_that_refuses_in_one_sentence(
    words: list[str], preset: Path, tmp_path: Path, repository: Path
) -> None:
    full = words == ["manifest"]
    with tmpfs(tmp_path / "disk", "size=64k") as disk:
        output = disk / "m.json"
        if full:
            (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free))
        else:
            make_read_only(disk)
        code, lines = command(repository, *words, "--preset", preset, "--output", output)
        assert not output.exists()
        assert not list(disk.glob(".*"))
    assert code == 2
    reason = "No space left on device" if full else "Read-only file system"
    assert len(lines) == 1
    assert lines[0].startswith(f"fadepth: {output} cannot be written ({reason}): make room")


# Ground truth that is damaged after the manifest was made


def ramp(_: Frame) -> np.ndarray:
    rows, columns = np.mgrid[0:48, 0:96]
    return np.asarray(0.02 + rows / 400 + columns / 3000)


@pytest.mark.parametrize(
    ("reader", "protocol", "path", "damage"),
    [
        ("kitti", "kitti_eigen_raw", SCAN_5, cut_a_point),
        ("kitti", "kitti_eigen_raw", SCAN_5, nan_points),
        ("kitti", "kitti_eigen_raw", SCAN_5, Path.unlink),
        ("kitti", "kitti_eigen_raw", LIDAR, without_key("R")),
        ("kitti", "kitti_eigen_improved", DEPTH_6.replace("06.png", "05.png"), cut),
        ("ddad", "ddad", "data/scene_01/point_cloud/LIDAR/15569195940203574.npz", cut),
        ("make3d", "make3d", MAKE3D_GRID, cut),
        ("cityscapes", "cityscapes", CITY_DISPARITY, cut),
        ("cityscapes", "cityscapes", CITY_CAMERA, edited(lambda c: c.pop("extrinsic"))),
    ],
)
def test_evaluation_names_ground_truth_that_was_damaged_since(
    world_of: Callable[[str], World],
    reader: str,
    protocol: str,
    path: str,
    damage: Damage,
    tmp_path: Path,
) -> None:
    world = world_of(reader)
    (tmp_path / "m.json").write_bytes(world.intact)
    frames = Manifest.read(tmp_path / "m.json").splits["test"]
    if reader == "kitti":
        frames = frames[:1]  # the other one has no ground truth
    rules = find_protocol(protocol).model_copy(update={"crop": None})  # for small images

    def results() -> tuple[pd.DataFrame, dict[str, float]]:
        return evaluate(frames, world.base / "data", ramp, rules)

    table, means = results()
    assert len(table) == len(frames)
    with damaged(world.base / path, damage), pytest.raises(FadepthError) as caught:
        results()
    assert_clear(caught.value, str(world.base / path))
    again, same = results()
    pd.testing.assert_frame_equal(table, again, check_exact=True)
    assert means == same
