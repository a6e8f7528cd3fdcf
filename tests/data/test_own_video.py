"""One's own videos as frames to train on: what is picked, where points are seen, what is refused.

The videos are made here: a textured wall with dots before it, past which a camera of known
intrinsics moves sideways, so that every point's pixel is known in closed form.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from fadepth.cli import app
from fadepth.config import DataSettings, load_config, load_yaml
from fadepth.data import own_video
from fadepth.data.convert import only_preparer
from fadepth.data.dataset import TrainingFrames
from fadepth.data.kitti import read_split
from fadepth.data.manifest import Frame, Manifest
from fadepth.data.motion import motion_picture, picture_motion
from fadepth.data.own_camera import frame_intrinsics, resample_depth
from fadepth.data.own_video import Choice, Prepared, prepare_videos
from fadepth.data.prepare import data_identity, missing_truth, prepare_data
from fadepth.data.video import video_writer
from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import evaluate
from fadepth.execution.data import prepare_data_of
from fadepth.study import missing_benchmark, resolve_study

Picture = NDArray[np.uint8]

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 150, 260
FX, FY, CX, CY = 200.0, 190.0, 121.5, 77.25
#: Camera's frame at the first image, metres: a dot each.
DOTS = ((-1.0, -0.6, 5.0), (1.5, 0.4, 5.0), (-2.0, 1.0, 8.0), (0.5, -0.9, 8.0), (0.9, 1.2, 8.0))
STEP = 0.1  # metres to the right from image to image: 4 pixels at 5 m, 2.5 at 8 m
WALL = 10.0  # metres; 2 pixels from image to image


def pixel(dot: tuple[float, float, float], number: float) -> tuple[float, float]:
    """Column and row of a dot in image `number`, pixel centres at integers."""
    x, y, z = dot
    return FX * (x - STEP * number) / z + CX, FY * y / z + CY


@cache
def wall() -> NDArray[np.float64]:
    """A wide texture, 40 to 160 grey levels."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((HEIGHT, WIDTH + 100)), 2)
    return 100 + 60 * noise / np.abs(noise).max()


@cache
def drawn(number: int, dots: bool) -> Picture:
    shift = round(number * STEP * FX / WALL)
    grey = wall()[:, shift : shift + WIDTH].copy()
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    for dot in DOTS if dots else ():
        u, v = pixel(dot, number)
        shape = np.exp(-((column - u) ** 2 + (row - v) ** 2) / (2 * 3.0**2))
        grey = grey * (1 - shape) + 250 * shape
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def image(number: int, *, dots: bool = True) -> Picture:
    """Image `number` of the drive, (H, W, 3) uint8."""
    return drawn(number, dots).copy()


def write_folder(folder: Path, images: list[Picture], name: str = "{:04d}.png") -> Path:
    folder.mkdir(parents=True)
    for number, picture in enumerate(images):
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


def write_video(path: Path, images: list[Picture]) -> Path:
    pytest.importorskip("av", reason="PyAV is not installed")
    with video_writer(path, 10) as write:
        for picture in images:
            write(picture)
    return path


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    path = tmp_path / "front.yaml"
    path.write_text(f"fx: {FX}\nfy: {FY}\ncx: {CX}\ncy: {CY}\n")
    return path


Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare(tmp_path: Path, camera: Path) -> Prepare:
    """`prepare_videos` into out/, with settings that keep frames as they are."""

    def call(*paths: Path, hold_out: tuple[str, ...] = (), **changes: object) -> Prepared:
        output = changes.pop("output", tmp_path / "out")
        more = {k: changes.pop(k) for k in ("depth", "workers", "progress") if k in changes}
        cameras = changes.pop("cameras", [camera])
        choice = replace(Choice(png=True), **changes)  # type: ignore[arg-type]
        return prepare_videos(
            list(paths), cameras, output, choice, hold_out=hold_out, **more,  # type: ignore[arg-type]
        )  # fmt: skip

    return call


def settings(root: Path, **more: object) -> DataSettings:
    content = {"name": "mine", "source": "video", "root": str(root), "splits": f"{root}/splits"}
    return DataSettings.model_validate({**content, **more})


def listed(root: Path, split: str) -> list[tuple[str, int]]:
    return [(f.drive, f.number) for f in read_split(root / "splits" / f"{split}_files.txt")]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".prepare.lock"
    }


# Where points are seen


def dots_in(picture: NDArray[np.floating], expected: list[tuple[float, float]]) -> list[float]:
    """Distance of each bright dot's centre from where it is expected, pixels."""
    found = []
    for u, v in expected:
        column, row = round(u), round(v)
        window = picture[row - 4 : row + 5, column - 4 : column + 5]
        weight = np.clip(window - 170.0, 0, None)
        assert weight.sum() > 0, f"no dot at {u:.1f}, {v:.1f}"
        rows, columns = np.mgrid[row - 4 : row + 5, column - 4 : column + 5]
        centre = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
        found.append(float(np.hypot(centre[0] - u, centre[1] - v)))
    return found


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_known_points_are_seen_where_the_new_intrinsics_project_them(
    kind: str, tmp_path: Path, prepare: Prepare
) -> None:
    images = [image(number) for number in range(6)]
    write = write_video if kind == "video" else write_folder
    source = write(tmp_path / ("drive.mp4" if kind == "video" else "drive"), images)
    other = write_folder(tmp_path / "other", images)
    # Cropped, made smaller by other factors across and down, then resized again by the loader.
    prepare(source, other, crop=(13, 21), size=(87, 201))
    manifest = prepare_data(settings(tmp_path / "out"), tmp_path / "m.jsonl", base=tmp_path)
    frame = manifest.splits["train"][1]
    assert (frame.drive, frame.frame, frame.height, frame.width) == ("front/drive", 2, 87, 201)
    config = settings(tmp_path / "out", height=72, width=150, flip_probability=0)
    samples = TrainingFrames(manifest.splits["train"], tmp_path / "out", config, seed=0)
    sample = samples[0, 1]
    k = sample["intrinsics"].double().numpy()
    for number, picture in ((2, sample["target"]), (1, sample["sources"][0])):
        points = np.array([(x - STEP * number, y, z) for x, y, z in DOTS])
        projected = points @ k.T
        uv = [tuple(row) for row in (projected[:, :2] / projected[:, 2:]).tolist()]
        grey = picture.numpy().mean(0) * 255
        distances = dots_in(grey, uv)
        assert max(distances) < 0.25, distances
        # Half a pixel elsewhere, as under the other convention, would show.
        assert max(dots_in(grey, [(u + 0.5, v + 0.5) for u, v in uv])) > 0.4


def test_intrinsics_of_a_crop_and_a_resize_in_closed_form() -> None:
    # 100 x 300 pixels less 20 rows at the top and 30 below, to half height and a third of width.
    got = frame_intrinsics((120.0, 110.0, 149.5, 49.5), (100, 300), (20, 30), (25, 100))
    # The picture's middle, 149.5, stays the middle; row 49.5 is 29.5 of the crop, whose edge lies
    # 30 pixels above it, 15 after the resize.
    assert got == pytest.approx((40.0, 55.0, 49.5, 14.5))


def test_depth_moves_with_its_pixel_and_the_nearest_counts() -> None:
    depth = np.zeros((12, 8), np.uint16)
    depth[2, 0] = 500  # cut off
    depth[4, 5] = 2560
    depth[8, 2], depth[9, 3] = 900, 700  # the same pixel of the half-size map
    small = resample_depth(depth, (4, 2), (3, 4))
    expected = np.zeros((3, 4), np.uint16)
    expected[0, 2], expected[2, 1] = 2560, 700
    np.testing.assert_array_equal(small, expected)


# Which frames


def numbered(count: int) -> list[Picture]:
    """Moving images whose top left corner tells their number."""
    images = [image(number, dots=False) for number in range(count)]
    for number, picture in enumerate(images):
        picture[:8, :8] = 10 * number
    return images


def number_of(path: Path) -> int:
    return round(int(np.asarray(Image.open(path))[2, 2, 0]) / 10)


def test_every_third_frame_is_taken_and_numbered_anew(tmp_path: Path, prepare: Prepare) -> None:
    source = write_folder(tmp_path / "a", numbered(20), "frame{}.png")  # 10 sorts behind 9
    prepare(source, write_folder(tmp_path / "b", numbered(9)), every=3)
    frames = sorted((tmp_path / "out/front/a/image_02/data").iterdir())
    assert [path.name for path in frames] == [f"{number:010d}.png" for number in range(7)]
    assert [number_of(path) for path in frames] == [0, 3, 6, 9, 12, 15, 18]
    assert listed(tmp_path / "out", "train") == [("front/a", number) for number in range(1, 6)]
    assert listed(tmp_path / "out", "val") == [("front/b", 1)]


def test_standing_frames_are_no_targets_and_not_written(tmp_path: Path, prepare: Prepare) -> None:
    noise = np.random.default_rng(0)
    moving = [image(number) for number in range(12)]
    # Drives for images 0 to 4, stands for six more, with noise and other light, drives on.
    standing = [
        np.clip(moving[4] * (1 + 0.02 * n) + noise.normal(0, 0.7, moving[4].shape), 0, 255)
        for n in range(6)
    ]
    images = [*moving[:5], *(picture.astype(np.uint8) for picture in standing), *moving[5:]]
    done = prepare(write_folder(tmp_path / "a", images), write_folder(tmp_path / "b", moving))
    targets = [number for _, number in listed(tmp_path / "out", "train")]
    # 4 is the last that the car reaches; 10 is the last that it stands in, and 11 moves again.
    assert targets == [1, 2, 3, *range(11, 17)]
    assert done.clips[0].still == 7
    written = {int(path.stem) for path in (tmp_path / "out/front/a/image_02/data").iterdir()}
    assert written == {0, 1, 2, 3, 4, *range(10, 18)}
    everything = prepare(tmp_path / "a", tmp_path / "b", still=0.0, output=tmp_path / "all")
    assert everything.frames["train"] == len(images) - 2


def test_motion_grows_with_the_shift_and_ignores_light_and_passing_cars() -> None:
    texture = gaussian_filter(np.random.default_rng(1).standard_normal((130, 500)), 3)
    texture = 128 + 60 * texture / np.abs(texture).max()

    def shifted(pixels: float) -> NDArray[np.float32]:
        columns = np.arange(416) + 20 + pixels
        rows = [np.interp(columns, np.arange(500), row) for row in texture]
        return np.array(rows, dtype=np.float32)

    still = shifted(0)
    measured = [picture_motion(still, shifted(pixels)) for pixels in (0, 0.25, 0.5, 1, 2)]
    assert measured[0] == 0
    assert measured == sorted(measured)
    # Along the shift alone slopes count, on average 2 / pi of all.
    assert measured[2] == pytest.approx(0.5 * 2 / np.pi, rel=0.15)
    assert picture_motion(still, still + 12) == pytest.approx(0, abs=1e-4)
    passing = still.copy()
    passing[:, 100:220] = shifted(5)[:, 100:220]
    assert picture_motion(still, passing) == 0
    assert picture_motion(np.full_like(still, 90), np.full_like(still, 120)) == 0


def test_motion_tells_standing_from_driving_on_real_frames(test_data: Path) -> None:
    def motion(scene: str) -> float:
        folder = test_data / "ddad_mini" / scene / "rgb" / "CAMERA_01"
        first, second, _ = (motion_picture(Image.open(p)) for p in sorted(folder.glob("*.jpg")))
        return picture_motion(first, second)

    assert motion("scene_01") < 0.5 * Choice().still  # its README: the car stands
    assert motion("scene_02") > 2 * Choice().still  # 1.27 m per frame


# Lists


def test_of_a_single_video_the_end_is_held_out(tmp_path: Path, prepare: Prepare) -> None:
    done = prepare(write_folder(tmp_path / "a", numbered(20)))
    root = tmp_path / "out"
    assert listed(root, "train") == [("front/a", number) for number in range(1, 15)]
    assert listed(root, "val") == [("front/a_end", 17), ("front/a_end", 18)]
    assert listed(root, "test") == listed(root, "val")
    assert number_of(root / "front/a_end/image_02/data/0000000017.png") == 17
    assert (done.frames["train"], done.frames["val"], done.test_depths) == (14, 2, 0)
    # No image belongs to both.
    last = max(int(p.stem) for p in (root / "front/a/image_02/data").iterdir())
    assert last == 15


def test_of_several_videos_the_named_ones_are_held_out(tmp_path: Path, prepare: Prepare) -> None:
    paths = [write_folder(tmp_path / name, numbered(5)) for name in ("a", "b b", "c")]
    prepare(*paths)
    assert {drive for drive, _ in listed(tmp_path / "out", "val")} == {"front/c"}
    prepare(*paths, hold_out=("b b", "a"))
    assert {drive for drive, _ in listed(tmp_path / "out", "val")} == {"front/a", "front/b_b"}
    assert {drive for drive, _ in listed(tmp_path / "out", "train")} == {"front/c"}


def test_a_video_that_hides_its_length_is_counted(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "a.mp4", numbered(20))
    info = replace(own_video.video_info(video), frames=None)
    monkeypatch.setattr(own_video, "video_info", lambda path: info)
    prepare(video)
    assert {number for _, number in listed(tmp_path / "out", "val")} == {17, 18}


def test_each_camera_has_its_own_intrinsics(tmp_path: Path, camera: Path, prepare: Prepare) -> None:
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps({"fx": 100, "fy": 95, "cx": CX, "cy": CY}, indent="\t"))
    paths = [write_folder(tmp_path / name, numbered(4)) for name in ("a", "b")]
    prepare(*paths, cameras=[camera, wide])
    manifest = prepare_data(settings(tmp_path / "out"), tmp_path / "m.jsonl", base=tmp_path)
    of = {frame.drive: frame for frames in manifest.splits.values() for frame in frames}
    assert of["front/a"].intrinsics == (FX, FY, CX, CY)
    assert of["wide/b"].intrinsics == (100, 95, CX, CY)


def test_odd_sizes_and_default_width(tmp_path: Path, prepare: Prepare) -> None:
    odd = [picture[:149, :259] for picture in numbered(4)]
    paths = [write_folder(tmp_path / name, odd) for name in ("a", "b")]
    assert prepare(*paths).sizes == ((149, 259),)
    assert prepare(*paths, width=101, output=tmp_path / "small").sizes == ((58, 101),)
    picture = Image.open(tmp_path / "small/front/a/image_02/data/0000000001.png")
    assert picture.size == (101, 58)


def test_jpeg_and_png(tmp_path: Path, prepare: Prepare) -> None:
    paths = [write_folder(tmp_path / name, numbered(4)) for name in ("a", "b")]
    prepare(*paths)
    prepare(*paths, png=False, output=tmp_path / "jpeg")
    exact, close = (
        np.asarray(Image.open(tmp_path / name).convert("RGB"), dtype=int)
        for name in ("out/front/a/image_02/data/0000000001.png",
                     "jpeg/front/a/image_02/data/0000000001.jpg")
    )  # fmt: skip
    np.testing.assert_array_equal(exact, numbered(4)[1])
    assert 0 < np.abs(exact - close).mean() < 2


# Stopping and starting again


def test_an_interrupted_call_goes_on_and_ends_alike(
    tmp_path: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_folder(tmp_path / name, numbered(12)) for name in ("a", "b", "c")]
    prepare(*paths, output=tmp_path / "whole")
    read, stopped = own_video.read_image, tmp_path / "b" / "0007.png"

    def stop(path: Path) -> Image.Image:
        if path == stopped:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(own_video, "read_image", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(*paths)
    monkeypatch.undo()
    first = tmp_path / "out/front/a/image_02/data/0000000003.png"
    half = tmp_path / "out/front/b/image_02/data/0000000003.png"
    assert half.is_file() and not (tmp_path / "out/splits").exists()
    kept = first.stat()
    half.write_bytes(b"cut off")  # made anew with its folder, or the comparison below fails
    assert prepare(*paths).made in (1, 2)  # the third may have been finished beside the second
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert prepare(*paths).made == 0


def test_workers_change_nothing(tmp_path: Path, prepare: Prepare) -> None:
    paths = [write_folder(tmp_path / name, numbered(9)) for name in ("a", "b", "c")]
    told: list[tuple[int, int]] = []
    prepare(*paths, workers=3, progress=lambda done, total: told.append((done, total)))
    prepare(*paths, output=tmp_path / "one")
    assert files(tmp_path / "out") == files(tmp_path / "one")
    assert told[-1] == (27, 27)


def test_other_settings_are_refused(tmp_path: Path, prepare: Prepare) -> None:
    paths = [write_folder(tmp_path / name, numbered(12)) for name in ("a", "b")]
    prepare(*paths)
    before = files(tmp_path / "out/front/a")
    with pytest.raises(FadepthError, match=r"front/a was made otherwise \(every was 1, now 2\)"):
        prepare(*paths, every=2)
    Image.fromarray(numbered(12)[3]).resize((250, 150)).save(tmp_path / "a" / "0003.png")
    with pytest.raises(FadepthError, match=r"was made otherwise \(video was"):
        prepare(*paths)
    assert files(tmp_path / "out/front/a") == before


def test_folders_of_others_are_not_touched(tmp_path: Path, prepare: Prepare) -> None:
    mine = tmp_path / "out/front/a/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(FadepthError, match="out/front/a exists and was not made by this command"):
        prepare(*[write_folder(tmp_path / name, numbered(4)) for name in ("a", "b")])
    assert mine.read_text() == "precious"


def test_a_broken_video_stops_no_other(tmp_path: Path, prepare: Prepare) -> None:
    paths = [write_folder(tmp_path / name, numbered(8)) for name in ("a", "b", "c")]
    broken = tmp_path / "a" / "0005.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FadepthError, match=r"1 of 3 videos could not.*a/0005\.png is damaged"):
        prepare(*paths)
    assert not (tmp_path / "out/splits").exists()
    broken.write_bytes(whole)
    assert prepare(*paths).made == 1


# What is refused


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [write_folder(tmp_path / name, numbered(4)) for name in ("a", "b")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("fx: 200\ncx: 121", "front.yaml lacks fy, cy: expected numbers for fx, fy, cx and cy"),
        ("fx: 200\nfy: 190\ncx: 121\ncy: 77\nk1: 0", "has the unknown key k1"),
        ("fx: far\nfy: 190\ncx: 121\ncy: 77", "has a wrong value for fx"),
        ("fx: .nan\nfy: 190\ncx: 121\ncy: 77", "has a wrong value for fx"),
        ("fx: 200\nfy: 190\ncx: 121\ncy: .inf", "has a wrong value for cy"),
        ("[1, 2]", "holds a list"),
        ("fx: [", "front.yaml, line 1 is not readable YAML"),
        ("fx: 200\nfy: 190\ncx: 260\ncy: 77", r"at \(260, 77\), which lies outside of the images"),
        ("fx: 200\nfy: 190\ncx: 121\ncy: -1", "outside of the images"),
        ("fx: 0.8\nfy: 1.3\ncx: 0.5\ncy: 0.5", "multiply normalised values by width and height"),
        ("fx: 200\nfy: 190\ncx: 121\ncy: 77\nwidth: 1920", "is for images of 1920 x 150 pixels"),
        ("fx: 200\nfy: 190\ncx: 121\ncy: 77\ndistortion: [0.1, 0]", "undistort the images first"),
    ],
)
def test_wrong_cameras(
    content: str, sentence: str, camera: Path, paths: list[Path], tmp_path: Path, prepare: Prepare
) -> None:
    camera.write_text(content)
    with pytest.raises(FadepthError, match=sentence):
        prepare(*paths)
    assert not (tmp_path / "out").exists()


def test_a_distortion_of_zeros_is_none(camera: Path, paths: list[Path], prepare: Prepare) -> None:
    camera.write_text(camera.read_text() + "distortion: [0, 0, 0, 0, 0]\n")
    assert prepare(*paths).frames["train"] == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"every": 2}, "a gives 2 frames with --every 2: 3 are needed"),
        ({"size": (151, 200)}, "--size is 151x200 but after the crop .* has only 150x260"),
        ({"size": (16, 200)}, "would have 16x200 pixels"),
        ({"crop": (70, 60)}, "--crop 70,60 leaves 20 rows"),
        ({"still": 50.0}, "no training frame moves against both of its neighbours"),
        ({"hold_out": ("d",)}, "--hold-out d is none of the videos: there are a, b"),
        ({"hold_out": ("a", "b")}, "--hold-out names every video"),
        ({"cameras": [Path("x")] * 3}, "3 files of --intrinsics for 2 videos"),
        ({"cameras": [Path("x.yaml")]}, "x.yaml does not exist"),
        ({"depth": Path("no")}, "--depth no is no folder"),
    ],
)
def test_wrong_choices(
    changes: dict[str, object], sentence: str, paths: list[Path], prepare: Prepare
) -> None:
    with pytest.raises(FadepthError, match=sentence):
        prepare(*paths, **changes)


def test_wrong_videos(tmp_path: Path, paths: list[Path], prepare: Prepare) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    (tmp_path / "empty").mkdir()
    large = write_folder(tmp_path / "large", [np.zeros((200, 300, 3), np.uint8)] * 4)
    short = write_folder(tmp_path / "short", numbered(5))
    other = write_folder(tmp_path / "deep" / "a", numbered(4))
    for videos, sentence in (
        ([text], "text.mp4 is no video that can be read"),
        ([tmp_path / "gone.mp4"], "gone.mp4 does not exist"),
        ([camera_like(tmp_path)], "notes.txt is no video by its name"),
        ([tmp_path / "empty"], "empty holds no image"),
        ([paths[0], large], "one camera file cannot be for both"),
        ([short], "gives 5 frames with --every 1: 6 are needed"),
        ([paths[0], other], "two videos are called a"),
    ):
        with pytest.raises(FadepthError, match=sentence):
            prepare(*videos)
    Image.new("RGB", (100, 150)).save(paths[0] / "0002.png")
    with pytest.raises(FadepthError, match=r"frame 0002 of .*a has 100 x 150 pixels but the first"):
        prepare(*paths)


def camera_like(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("fx")
    return path


def test_two_calls_at_once_are_refused(tmp_path: Path, paths: list[Path], prepare: Prepare) -> None:
    with (
        only_preparer(tmp_path / "out"),
        pytest.raises(FadepthError, match="another process is preparing"),
    ):
        prepare(*paths)


# Depth


def true_wall(frame: Frame) -> NDArray[np.float64]:
    """The wall's disparity, up to scale."""
    return np.full((64, 208), 0.37 / WALL)


@pytest.fixture
def depths(tmp_path: Path) -> Path:
    """For folder b, depth of images 0 and 2: the wall, at one pixel in nine; and of one of a."""
    depth = np.zeros((HEIGHT, WIDTH), np.uint16)
    depth[::3, ::3] = int(WALL * 256)
    for name in ("a/0001.png", "b/0000.png", "b/0002.png"):
        path = tmp_path / "depth" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(depth).save(path)
    return tmp_path / "depth"


def test_frames_with_depth_are_the_test_list(
    tmp_path: Path, paths: list[Path], depths: Path, prepare: Prepare
) -> None:
    done = prepare(*paths, depth=depths, size=(50, 86))
    root = tmp_path / "out"
    # Image 0 has no neighbour before it: evaluated it can be, trained it cannot.
    assert listed(root, "test") == [("front/b", 0), ("front/b", 2)]
    assert listed(root, "val") == [("front/b", 1), ("front/b", 2)]
    assert (done.test_depths, done.train_depths) == (2, 1)
    manifest = prepare_data(settings(root), tmp_path / "m.jsonl", base=tmp_path)
    table, mean = evaluate(manifest.splits["test"], root, true_wall, "video_depth")
    assert mean["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert table["scale_ratio"].tolist() == pytest.approx([0.37, 0.37])


def test_depth_of_a_video_is_found_by_the_frames_number(
    tmp_path: Path, depths: Path, prepare: Prepare
) -> None:
    video = write_video(tmp_path / "b.mp4", numbered(8))
    (depths / "b" / "0002.png").rename(depths / "b" / "000006.png")
    prepare(write_folder(tmp_path / "a", numbered(4)), video, depth=depths, every=1)
    assert listed(tmp_path / "out", "test") == [("front/b", 0), ("front/b", 6)]
    prepare(tmp_path / "a", video, depth=depths, every=1, output=tmp_path / "two")
    (depths / "b" / "left.png").write_bytes((depths / "b" / "0000.png").read_bytes())
    with pytest.raises(FadepthError, match=r"left\.png must be called by the number of its frame"):
        prepare(tmp_path / "a", video, depth=depths, output=tmp_path / "three")


def test_depth_that_cannot_be_used(
    tmp_path: Path, paths: list[Path], depths: Path, prepare: Prepare
) -> None:
    (depths / "b").rename(depths / "c")
    with pytest.raises(FadepthError, match="there is depth, but for no held-out frame"):
        prepare(*paths, depth=depths)
    assert prepare(*paths, depth=depths, hold_out=("a",)).test_depths == 1
    (depths / "a" / "0001.png").rename(depths / "a" / "0009.png")
    with pytest.raises(
        FadepthError, match=r"none of the 1 depth maps in .* is of a frame that was"
    ):
        prepare(*paths, depth=depths, hold_out=("a",), output=tmp_path / "none")
    (depths / "a" / "0009.png").rename(depths / "a" / "0001.png")
    (depths / "a").rename(depths / "d")
    with pytest.raises(FadepthError, match="holds no folder of depth maps that is called as one"):
        prepare(*paths, depth=depths)
    (depths / "d").rename(depths / "a")
    Image.fromarray(np.ones((20, 30), np.uint16)).save(depths / "a" / "0001.png")
    with pytest.raises(FadepthError, match="has 30 x 20 pixels but its frame has 260 x 150"):
        prepare(*paths, depth=depths, output=tmp_path / "size")
    Image.new("RGB", (WIDTH, HEIGHT)).save(depths / "a" / "0001.png")
    with pytest.raises(FadepthError, match="is not a 16-bit grey PNG"):
        prepare(*paths, depth=depths, output=tmp_path / "mode")


# In the workflow


@pytest.fixture
def preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDEO_ROOT", str(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    return ROOT / "config" / "own_video.yaml"


def reason_of(name: str, preset: Path) -> str | None:
    """Why a study's table cannot be made; None: it can."""
    path = ROOT / "ablations" / f"{name}.yaml"
    return missing_benchmark(resolve_study(path, load_yaml(preset), str(preset)), Path.cwd())


def test_without_depth_tables_are_refused_in_a_sentence_and_training_is_not(
    tmp_path: Path, paths: list[Path], prepare: Prepare, preset: Path
) -> None:
    prepare(*paths)
    reason = reason_of("components", preset)
    assert reason
    assert re.fullmatch(
        r"table_ablation cannot be made: \S*out has no depth to compare with: add depth maps by "
        r"'fadepth data prepare video --depth', or let a study be 'evaluated_on' other data \(.*\)",
        reason,
    )
    config = load_config(preset)
    prepare_data_of(config, tmp_path / "m.jsonl", 1)
    manifest = Manifest.read(tmp_path / "m.jsonl")
    assert len(manifest.splits["train"]) == 2
    with pytest.raises(FadepthError, match=r"has no ground truth .*proj_depth"):
        evaluate(manifest.splits["test"], tmp_path / "out", true_wall, "video_depth")


def test_with_depth_tables_can_be_made(
    paths: list[Path], depths: Path, prepare: Prepare, preset: Path
) -> None:
    prepare(*paths, depth=depths)
    assert reason_of("components", preset) is None


def test_other_frames_are_other_data(tmp_path: Path, paths: list[Path], prepare: Prepare) -> None:
    """The same lists of differently cropped frames must not be taken for the same data."""
    prepare(*paths)
    prepare(*paths, crop=(4, 0), output=tmp_path / "cropped")
    names = [data_identity(settings(tmp_path / name), tmp_path) for name in ("out", "cropped")]
    assert names[0] != names[1]
    assert missing_truth(DataSettings(), tmp_path) is None  # KITTI's absent files are told by name
    with pytest.raises(FadepthError, match="make frames of your videos with 'fadepth data prepare"):
        data_identity(settings(tmp_path / "none"), tmp_path)


def test_command(tmp_path: Path, camera: Path, paths: list[Path]) -> None:
    words = ["data", "prepare", "video", *map(str, paths), "--intrinsics", str(camera)]
    words += ["--output", str(tmp_path / "out"), "--size", "64x128", "--crop", "10,0"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("front/a: 4 frames taken, 2 targets, 0 left out as near-still; med")
    assert (
        f"{tmp_path / 'out'} is complete: 2 training targets and 2 held out, of 64x128" in lines[2]
    )
    assert os.path.getsize(tmp_path / "out/front/a/image_02/data/0000000001.jpg") > 0
    wrong = CliRunner().invoke(app, [*words[:-1], "10"])
    assert "--crop is '10': write rows at the top and bottom" in str(wrong.exception)
