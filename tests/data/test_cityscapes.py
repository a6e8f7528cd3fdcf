"""Cityscapes in its own formats: depth against a closed-form scene, faults against messages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fadepth.data.cityscapes import list_frames, read_camera, read_depth, read_disparity
from fadepth.data.kitti import read_image
from fadepth.errors import FadepthError
from tests.data.fixtures import CAMERA_HEIGHT, wall_distance, write_cityscapes

SMALL = (128, 256)
FIRST = "berlin_000000_000019"
CAMERA = f"camera/test/berlin/{FIRST}_camera.json"
DISPARITY = f"disparity/test/berlin/{FIRST}_disparity.png"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_cityscapes(tmp_path, 4, size=SMALL)
    return tmp_path


# Reading


def test_native_size_and_depth_of_a_known_scene(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, 1)
    (frame,) = list_frames(tmp_path)
    assert read_image(frame.image).size == (2048, 1024)
    disparity = read_disparity(frame.disparity)
    assert disparity.shape == (1024, 2048)
    assert disparity.dtype == np.float32
    depth = read_depth(frame.disparity, frame.camera)
    assert depth.shape == (1024, 2048)
    assert depth.dtype == np.float32
    # The wall straight ahead, the ground at the lower edge, nothing above the wall or at the left.
    focal_baseline = 2262.52 * 0.209313
    assert disparity[513, 1097] == pytest.approx(focal_baseline / wall_distance(0), abs=0.5 / 256)
    assert depth[513, 1097] == pytest.approx(wall_distance(0), rel=1e-4)
    ground = CAMERA_HEIGHT * 2265.3017905988554 / (1023 - 513.137)
    assert depth[1023, 1500] == pytest.approx(ground, rel=1e-4)
    # The first row looks up by (513.137 - 0) / 2265.3 and leaves the wall in the far frames only.
    assert not depth[:, :128].any()
    assert depth[0, 128] == pytest.approx(wall_distance(0), rel=1e-4)


def test_depth_is_true_to_half_a_step_of_disparity(root: Path) -> None:
    truth = write_cityscapes(root, 4, size=SMALL)
    for frame in list_frames(root):
        expected = truth[frame.name]
        depth = read_depth(frame.disparity, frame.camera)
        assert np.array_equal(depth > 0, expected > 0)
        seen = expected > 0
        assert 0.5 < seen.mean() < 1
        scale = 2262.52 / 8 * 0.209313
        steps = np.abs(scale / depth[seen].astype(np.float64) - scale / expected[seen]) * 256
        assert steps.max() < 0.501


def test_disparity_values_are_those_of_the_read_me(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 257], [258, 32768, 65535, 0]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "d.png")
    expected = [[0, 0, 1 / 256, 1], [257 / 256, 32767 / 256, 65534 / 256, 0]]
    assert np.array_equal(read_disparity(tmp_path / "d.png"), np.array(expected, np.float32))


def test_no_disparity_is_no_depth(tmp_path: Path) -> None:
    """Neither an invalid measurement (0) nor a disparity of 0 (1) becomes infinite depth."""
    Image.fromarray(np.array([[0, 1, 257]], dtype=np.uint16)).save(tmp_path / "d.png")
    content = {
        "extrinsic": {"baseline": 0.25},
        "intrinsic": {"fx": 2000, "fy": 1000.0, "u0": 3.0, "v0": 4.0},
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    depth = read_depth(tmp_path / "d.png", tmp_path / "c.json")
    assert np.array_equal(depth, [[0, 0, 500]])
    camera = read_camera(tmp_path / "c.json")
    assert camera.intrinsics == (2000.0, 1000.0, 3.0, 4.0)
    assert camera.baseline == 0.25


def test_camera_of_a_frame(root: Path) -> None:
    camera = read_camera(root / CAMERA)
    expected = (2262.52 / 8, 2265.3017905988554 / 8, 1096.98 / 8, 513.137 / 8)
    assert camera.intrinsics == pytest.approx(expected, rel=1e-12)
    assert camera.baseline == 0.209313


# Listing


def test_frames_are_sorted_by_name_and_paired(root: Path) -> None:
    frames = list_frames(root)
    assert [frame.name for frame in frames] == [
        "berlin_000000_000019",
        "berlin_000002_000019",
        "bielefeld_000001_000019",
        "bielefeld_000003_000019",
    ]
    assert [frame.city for frame in frames] == ["berlin"] * 2 + ["bielefeld"] * 2
    assert frames[0].image == root / f"leftImg8bit/test/berlin/{FIRST}_leftImg8bit.png"
    assert frames[0].disparity == root / DISPARITY
    assert frames[0].camera == root / CAMERA


@pytest.mark.parametrize("line", ["{city} {name}", "{name}"])
def test_list_file_picks_and_orders(root: Path, line: str) -> None:
    names = ["bielefeld_000003_000019", FIRST]
    lines = [line.format(city=name.split("_")[0], name=name) for name in names]
    (root / "list.txt").write_text("\n".join(lines))
    assert [frame.name for frame in list_frames(root, list_file=root / "list.txt")] == names


def test_other_split(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, 1, split="val", size=SMALL)
    (frame,) = list_frames(tmp_path, "val")
    assert frame.camera == tmp_path / f"camera/val/berlin/{FIRST}_camera.json"
    with pytest.raises(FadepthError, match=r"^no <city>/.*leftImg8bit\.png in .*leftImg8bit/test:"):
        list_frames(tmp_path)


@pytest.mark.parametrize(
    ("split", "archive"), [("test", "trainvaltest"), ("train_extra", "trainextra")]
)
def test_archives_in_folders_of_their_own(tmp_path: Path, split: str, archive: str) -> None:
    write_cityscapes(tmp_path, 1, split=split, size=SMALL)
    for kind in ("camera", "disparity"):
        (tmp_path / f"{kind}_{archive}").mkdir()
        (tmp_path / kind).rename(tmp_path / f"{kind}_{archive}" / kind)
    (frame,) = list_frames(tmp_path, split)
    assert frame.camera.is_relative_to(tmp_path / f"camera_{archive}/camera" / split)
    assert frame.disparity.is_relative_to(tmp_path / f"disparity_{archive}/disparity" / split)
    assert read_depth(frame.disparity, frame.camera).max() > 0


def test_other_files_beside_are_passed_over(root: Path) -> None:
    folder = root / "leftImg8bit/test/berlin"
    for name in (f"._{FIRST}", "berlin_1_2", "bielefeld_000001_000019"):
        (folder / f"{name}_leftImg8bit.png").touch()
    (root / "leftImg8bit/test/license.txt").touch()
    assert len(list_frames(root)) == 4


@pytest.mark.parametrize(
    ("kind", "suffix", "what"),
    [
        ("disparity", "disparity.png", "disparity maps"),
        ("camera", "camera.json", "camera files"),
    ],
)
def test_image_without_its_partner(root: Path, kind: str, suffix: str, what: str) -> None:
    for name in ("berlin_000002_000019", "bielefeld_000003_000019"):
        (root / kind / "test" / name.split("_")[0] / f"{name}_{suffix}").unlink()
    message = (
        rf"^2 of 4 Cityscapes {what} of split test missing, the first is "
        rf".*/test/berlin/berlin_000002_000019_{suffix}: unpack {kind}_trainvaltest\.zip"
    )
    with pytest.raises(FadepthError, match=message):
        list_frames(root)


def test_listed_frame_without_image(root: Path) -> None:
    (root / "list.txt").write_text(f"{FIRST}\nmunich_000000_000019\n")
    message = r"^1 of 2 Cityscapes images of split test missing, the first is .*/munich/munich_0"
    with pytest.raises(FadepthError, match=message):
        list_frames(root, list_file=root / "list.txt")


@pytest.mark.parametrize(
    "line", ["aachen_1_2", "bonn berlin_000000_000019", f"a b {FIRST}", "../x_000000_000019"]
)
def test_bad_line_of_a_list(root: Path, line: str) -> None:
    (root / "list.txt").write_text(f"{FIRST}\n\n{line}\n")
    with pytest.raises(FadepthError, match=r"list\.txt, line 3: found '.*', expected '<city>_<seq"):
        list_frames(root, list_file=root / "list.txt")


# Faults of a file


def edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def baseline(value: object) -> Callable[[Path], None]:
    return edit(lambda content: content["extrinsic"].update(baseline=value))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is not readable JSON"),
        (lambda path: path.write_bytes(b""), "is not readable JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "is not readable JSON"),
        (lambda path: path.write_text("[]"), "gives no number 'intrinsic.fx'"),
        (edit(lambda c: c.pop("extrinsic")), "gives no number 'extrinsic.baseline'"),
        (edit(lambda c: c["extrinsic"].pop("baseline")), "gives no number 'extrinsic.baseline'"),
        (edit(lambda c: c["intrinsic"].pop("v0")), "gives no number 'intrinsic.v0'"),
        (edit(lambda c: c.update(intrinsic=[1, 2])), "gives no number 'intrinsic.fx'"),
        (edit(lambda c: c["intrinsic"].update(fx=-1)), "gives -1.0 for 'intrinsic.fx', expected a"),
        (baseline(0), "gives 0.0 for 'extrinsic.baseline', expected a positive number"),
        (baseline(float("nan")), "gives nan for 'extrinsic.baseline', expected a positive number"),
        (baseline("0.2"), "gives no number 'extrinsic.baseline'"),
        (baseline(None), "gives no number 'extrinsic.baseline'"),
        (baseline(True), "gives no number 'extrinsic.baseline'"),
        (baseline(10**400), "gives no number 'extrinsic.baseline'"),
    ],
)
def test_damaged_camera_is_named(root: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(root / CAMERA)
    with pytest.raises(FadepthError, match=rf"^camera file .*_camera\.json {message}.*unpack its"):
        read_depth(root / DISPARITY, root / CAMERA)


def as_mode(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (256, 128)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_text("no picture"), "is damaged"),
        (as_mode("L"), "is not a 16-bit grey PNG"),
        (as_mode("1"), "is not a 16-bit grey PNG"),
        (as_mode("RGB"), "is not a 16-bit grey PNG"),
    ],
)
def test_damaged_disparity_is_named(
    root: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(root / DISPARITY)
    with pytest.raises(FadepthError, match=rf"^disparity map .*y\.png {message}.*unpack its arch"):
        read_depth(root / DISPARITY, root / CAMERA)


def test_truncated_image(root: Path) -> None:
    path = list_frames(root)[0].image
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(FadepthError, match=r"image .*berlin_0.*_leftImg8bit\.png is damaged"):
        read_image(path)
