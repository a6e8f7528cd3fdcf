"""Make3D in its own formats: depth against a closed-form scene, faults against their messages."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from fadepth.data.kitti import read_image
from fadepth.data.make3d import list_frames, read_depth
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol
from tests.data.fixtures import CAMERA_HEIGHT, wall_distance, write_make3d

SMALL = (284, 213)
DOTTED = "10.21op2-p-015t000"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_make3d(tmp_path, 3, SMALL)
    return tmp_path


# Reading


def test_native_size_and_depth_of_a_known_scene(tmp_path: Path) -> None:
    (name,) = write_make3d(tmp_path, 1)
    (frame,) = list_frames(tmp_path)
    assert frame.name == name == DOTTED
    assert read_image(frame.image).size == (1704, 2272)
    depth = read_depth(frame.depth)
    assert depth.shape == (55, 305)
    assert depth.dtype == np.float32
    # The middle cell looks straight ahead at the wall, where distance along the ray is depth.
    assert depth[27, 152] == pytest.approx(wall_distance(0), rel=1e-6)
    # The middle of the lowest row looks at the ground at an angle: d = h / sin(angle).
    slope = (54.5 / 55 - 0.5) * 2272 / (1.2 * 1704)
    expected = CAMERA_HEIGHT / np.sin(np.arctan(slope))
    assert depth[54, 152] == pytest.approx(expected, rel=1e-6)
    # The corner of the wall's row is farther along the ray than its middle: not channel z.
    corner = np.hypot(1, (304.5 / 305 - 0.5) / 1.2)
    assert depth[27, 304] == pytest.approx(wall_distance(0) * corner, rel=1e-6)


def test_depth_is_the_fourth_channel(root: Path) -> None:
    truth = write_make3d(root, 3, SMALL)
    for frame in list_frames(root):
        assert np.array_equal(read_depth(frame.depth), truth[frame.name].astype(np.float32))


def test_strips_of_image_and_grid_are_central() -> None:
    """A 2:1 strip of the image and its part of the grid, as in the authors' formula."""
    protocol = find_protocol("make3d")
    assert protocol.image_crop is not None and protocol.ground_truth_crop is not None
    rows, _ = protocol.image_crop.slices(2272, 1704)
    assert (rows.start, rows.stop) == ((2272 - 852) / 2, (2272 + 852) / 2)
    rows, _ = protocol.ground_truth_crop.slices(55, 305)
    assert (rows.start, rows.stop) == ((55 - 21) / 2, (55 + 21) / 2)


def test_uncompressed_files_are_read_too(root: Path) -> None:
    grid = np.random.default_rng(0).uniform(1, 80, (55, 305, 4))
    savemat(root / "a.mat", {"Other": np.zeros(3), "Position3DGrid": grid})
    assert np.array_equal(read_depth(root / "a.mat"), grid[:, :, 3].astype(np.float32))


# Listing


def test_frames_are_sorted_and_paired(root: Path) -> None:
    frames = list_frames(root)
    assert [frame.name for frame in frames] == [DOTTED, "op1-p-077t000", "op2-p-139t000"]
    for frame in frames:
        assert frame.image == root / f"Test134/img-{frame.name}.jpg"
        assert frame.depth == root / f"Gridlaserdata/depth_sph_corr-{frame.name}.mat"


@pytest.mark.parametrize("line", ["img-{}.jpg", "{}"])
def test_list_file_picks_and_orders(root: Path, line: str) -> None:
    names = ["op2-p-139t000", DOTTED]
    # No newline at the end, as in the list that is in use.
    (root / "list.txt").write_text("\n".join(line.format(name) for name in names))
    assert [frame.name for frame in list_frames(root, root / "list.txt")] == names


@pytest.mark.parametrize(
    ("images", "depths"),
    [
        ("Test134Img", "Test134Depth"),
        ("Test134Img", "Test134Depth/Gridlaserdata"),
        ("Test134/Test134", "Gridlaserdata/Gridlaserdata"),
    ],
)
def test_other_layouts(root: Path, images: str, depths: str) -> None:
    for old, new in (("Test134", images), ("Gridlaserdata", depths)):
        (root / old).rename(root / "moved")
        (root / new).parent.mkdir(exist_ok=True)
        (root / "moved").rename(root / new)
    frames = list_frames(root)
    assert len(frames) == 3
    assert frames[0].image.parent == root / images
    assert frames[0].depth.parent == root / depths


def test_other_files_beside_are_passed_over(root: Path) -> None:
    (root / "Test134/._img-op1-p-077t000.jpg").touch()
    (root / "Test134/readme.txt").touch()
    (root / "Gridlaserdata/depth_sph_corr-of-training.mat").touch()
    assert len(list_frames(root)) == 3


def test_image_without_its_grid(root: Path) -> None:
    for name in ("op1-p-077t000", "op2-p-139t000"):
        (root / f"Gridlaserdata/depth_sph_corr-{name}.mat").unlink()
    message = (
        r"^2 of 3 Make3D depth grids missing, the first is .*depth_sph_corr-op1-p-077t000\.mat: "
        r"unpack Test134Depth\.tar\.gz"
    )
    with pytest.raises(FadepthError, match=message):
        list_frames(root)


def test_listed_frame_without_image(root: Path) -> None:
    (root / "list.txt").write_text(f"{DOTTED}\nnowhere\n")
    message = r"^1 of 2 Make3D images missing, the first is .*img-nowhere\.jpg: unpack Test134\."
    with pytest.raises(FadepthError, match=message):
        list_frames(root, root / "list.txt")


def test_nothing_there(root: Path) -> None:
    with pytest.raises(FadepthError, match=r"^no img-\*\.jpg in .*Test134 .*: unpack Test134\.tar"):
        list_frames(root / "elsewhere")
    (root / "Gridlaserdata").rename(root / "depth")
    with pytest.raises(FadepthError, match=r"^no depth_sph_corr-\*\.mat in .*Gridlaserdata \(or"):
        list_frames(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "names no frame"), (b"\xff\xfe\x00", "is not a text file")],
)
def test_broken_list(root: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (root / "list.txt").write_bytes(content)
    with pytest.raises(FadepthError, match=rf"list of frames .*list\.txt {message}"):
        list_frames(root, root / "list.txt")


# Faults of a file


def with_grid(**variables: Any) -> Callable[[Path], None]:
    return lambda path: savemat(path, variables, do_compression=True)


def poisoned(value: float) -> np.ndarray:
    grid = np.ones((55, 305, 4))
    grid[3, 4:6, 3] = value
    return grid


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "does not exist"),
        (lambda path: path.write_bytes(b""), "is damaged or no Matlab 5 file"),
        (lambda path: path.write_text("depth 1 2 3\n" * 100), "is damaged or no Matlab 5 file"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600)), "is damaged or no M"),
        (with_grid(depth=np.ones((55, 305, 4))), "has no variable 'Position3DGrid'"),
        (with_grid(Position3DGrid=np.ones((55, 305))), r"holds float64 of shape \(55, 305\) in"),
        (
            with_grid(Position3DGrid=np.ones((305, 55, 4))),
            r"holds float64 of shape \(305, 55, 4\) in",
        ),
        (with_grid(Position3DGrid="text"), "holds <U4 of shape"),
        (with_grid(Position3DGrid=poisoned(np.nan)), "has 2 of 16775 depths that are not finite"),
        (with_grid(Position3DGrid=poisoned(np.inf)), "has 2 of 16775 depths that are not finite"),
        (with_grid(Position3DGrid=poisoned(1e300)), "has 2 of 16775 depths that are not finite"),
    ],
)
def test_damage_is_named(root: Path, damage: Callable[[Path], None], message: str) -> None:
    path = list_frames(root)[0].depth
    damage(path)
    with pytest.raises(
        FadepthError, match=rf"^depth grid .*015t000\.mat {message}.*unpack Test134"
    ):
        read_depth(path)


def test_matlab_7_3_is_told(root: Path) -> None:
    """Such a file opens with Matlab's header of version 2, then HDF5."""
    head = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM"
    (root / "a.mat").write_bytes(head.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(FadepthError, match=r"a\.mat is damaged or no Matlab 5 file"):
        read_depth(root / "a.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_truncation_anywhere_is_told(root: Path, compressed: bool) -> None:
    path = root / "a.mat"
    grid = np.random.default_rng(1).uniform(1, 80, (55, 305, 4))
    savemat(path, {"Position3DGrid": grid}, do_compression=compressed)
    whole = path.read_bytes()
    lengths = [1, 4, 100, 127, 128, 130, 136, 140, 150, 170, 180, 200, 1000]
    for length in [*lengths, len(whole) // 2, len(whole) - 100]:
        path.write_bytes(whole[:length])
        with pytest.raises(FadepthError, match=r"a\.mat (is damaged|has no variable)"):
            read_depth(path)


def test_damage_anywhere_is_told_or_harmless(root: Path) -> None:
    """Whatever a byte becomes, no other exception escapes, and scipy does not crash."""
    path = root / "a.mat"
    savemat(path, {"Position3DGrid": np.ones((55, 305, 4))}, do_compression=True)
    whole = path.read_bytes()
    told = 0
    for position in range(124, len(whole)):
        for value in (0, 255, whole[position] ^ 1):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                assert read_depth(path).shape == (55, 305)
            except FadepthError:
                told += 1
    assert told > 100


def test_truncated_image(root: Path) -> None:
    path = list_frames(root)[1].image
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FadepthError, match=r"image .*img-op1-p-077t000\.jpg is damaged"):
        read_image(path)
