"""KITTI files: values against the files' text, the projection against a slow second version."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fadepth.data import KittiRaw, kitti
from fadepth.data.kitti import FrameId
from fadepth.errors import FadepthError

LEFT = FrameId("2011_09_26/2011_09_26_drive_0001_sync", 5, "l")


@pytest.fixture(scope="module")
def root(test_data: Path) -> Path:
    return test_data / "kitti_mini" / "kitti"


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A root with the files of `LEFT` alone."""
    picture = kitti.image_path(root, LEFT)
    assert picture is not None
    for source in [
        picture,
        kitti.velodyne_path(root, LEFT),
        kitti.depth_png_path(root, LEFT),
        root / LEFT.date / "calib_cam_to_cam.txt",
        root / LEFT.date / "calib_velo_to_cam.txt",
    ]:
        target = tmp_path / source.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return tmp_path


def slow_projection(root: Path, frame: FrameId, use_z: bool = False) -> np.ndarray:
    """The export of the de-facto ground truth, point by point, from its description.

    Only the product with the points is one call, as its last bits depend on the library.
    """
    text = {}
    for name in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
        for line in (root / frame.date / name).read_text().splitlines():
            key, value = line.split(":", 1)
            if not key.endswith("time"):
                text[key] = [float(word) for word in value.split()]
    camera = {"l": "02", "r": "03"}[frame.side]
    width, height = (int(v) for v in text[f"S_rect_{camera}"])
    extrinsic = np.vstack(
        [np.hstack([np.reshape(text["R"], (3, 3)), np.reshape(text["T"], (3, 1))]), [0, 0, 0, 1]]
    )
    rectified = np.eye(4)
    rectified[:3, :3] = np.reshape(text["R_rect_00"], (3, 3))
    matrix = np.dot(np.dot(np.reshape(text[f"P_rect_{camera}"], (3, 4)), rectified), extrinsic)
    points = np.fromfile(kitti.velodyne_path(root, frame), dtype=np.float32).reshape(-1, 4)
    points = points[points[:, 0] >= 0]
    points[:, 3] = 1
    groups: dict[int, list[tuple[int, int, float]]] = {}
    depth = np.zeros((height, width))
    for point, (a, b, c) in zip(points, np.dot(matrix, points.T).T, strict=True):
        if c == 0:
            continue
        column, row = round(a / c) - 1, round(b / c) - 1  # half to even, as numpy
        if 0 <= column < width and 0 <= row < height:
            stored = float(c if use_z else point[0])
            depth[row, column] = stored
            groups.setdefault(row * (width - 1) + column - 1, []).append((row, column, stored))
    for members in groups.values():
        if len(members) > 1:
            row, column, _ = members[0]
            depth[row, column] = min(stored for _, _, stored in members)
    depth[depth < 0] = 0
    return depth.astype(np.float32)


@pytest.mark.parametrize(
    "frame",
    [
        LEFT,
        FrameId("2011_09_26/2011_09_26_drive_0002_sync", 3, "l"),
        FrameId("2011_09_26/2011_09_26_drive_0005_sync", 104, "r"),
    ],
)
def test_projection_equals_slow_version_bit_for_bit(root: Path, frame: FrameId) -> None:
    assert np.array_equal(kitti.velodyne_depth(root, frame), slow_projection(root, frame))
    of_z = kitti.velodyne_depth(root, frame, depth="camera_z")
    assert np.array_equal(of_z, slow_projection(root, frame, use_z=True))


def test_projection_keeps_the_collision_slip() -> None:
    # Identity camera: u = x / z with u read from the point's own coordinates.
    matrix = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]])  # u = y / x, v = z / x

    def point(row: int, column: int, x: float) -> list[float]:
        return [x, (column + 1) * x, (row + 1) * x, 0.5]

    scan = np.array(
        [
            point(1, 1, 8),  # the nearest of two in one pixel counts, whatever the order
            point(1, 1, 4),
            point(1, 1, 16),
            point(0, 3, 8),  # last column of row 0 and first of row 1 share a key:
            point(1, 0, 4),  # the first pixel gets the nearest of both, the second its own
            point(2, 2, 2),
        ],
        dtype=np.float32,
    )
    depth = kitti.project_velodyne(scan, matrix, 3, 4)
    expected = np.zeros((3, 4))
    expected[1, 1], expected[0, 3], expected[1, 0], expected[2, 2] = 4, 4, 4, 2
    assert np.array_equal(depth, expected)


def test_projection_drops_points_behind_the_scanner_and_outside() -> None:
    matrix = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]])
    scan = np.array([[-2, -2, -2, 0], [2, 20, 2, 0], [2, 0.4, 2, 0]], dtype=np.float32)
    assert not kitti.project_velodyne(scan, matrix, 3, 4).any()


def test_points_between_scanner_and_camera_stay_with_their_forward_distance() -> None:
    # The camera stands 1 m before the scanner here: z = x - 1, and such points appear mirrored.
    matrix = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, -1]])
    scan = np.array([[0.5, -1, -1, 0], [0, -1, -3, 0]], dtype=np.float32)
    forward = kitti.project_velodyne(scan, matrix, 4, 4)
    assert forward[1, 1] == 0.5
    assert np.count_nonzero(forward) == 1  # the other point has x = 0
    assert not kitti.project_velodyne(scan, matrix, 4, 4, depth="camera_z").any()


def test_projection_agrees_with_kittis_own(root: Path) -> None:
    # KITTI depth's projection of the same scan (another program, without the shift by one) and
    # its improved ground truth, both camera z.
    z = kitti.velodyne_depth(root, LEFT, depth="camera_z")
    official = kitti.depth_png_path(root, LEFT).parents[2] / "velodyne_raw/image_02/0000000005.png"
    raw = kitti.read_depth_png(official)

    def overlap(down: int, right: int) -> int:
        ours = z[: z.shape[0] - down, : z.shape[1] - right]
        return int(((ours > 0) & (raw[down:, right:] > 0)).sum())

    assert overlap(1, 1) > 1.5 * max(overlap(0, 0), overlap(0, 1), overlap(1, 0))
    improved = kitti.read_depth_png(kitti.depth_png_path(root, LEFT))
    both = (improved > 0) & (z > 0)
    assert both.sum() > 5000
    assert np.median(np.abs(improved - z)[both] / improved[both]) < 0.01
    # forward x lies at the scanner, 0.27 m behind the camera
    x = kitti.velodyne_depth(root, LEFT)
    assert 0.2 < np.median((x - z)[z > 0]) < 0.35


def test_depth_png_holds_the_files_integers(root: Path, tmp_path: Path) -> None:
    written = np.array([[0, 256, 257], [65535, 1, 2560]], dtype=np.uint16)
    Image.fromarray(written).save(tmp_path / "d.png")
    expected = [[0, 1, 257 / 256], [65535 / 256, 1 / 256, 10]]
    assert np.array_equal(
        kitti.read_depth_png(tmp_path / "d.png"), np.array(expected, dtype=np.float32)
    )
    improved = kitti.read_depth_png(kitti.depth_png_path(root, LEFT))
    assert improved.shape == (375, 1242)
    assert 1 < improved[improved > 0].min() < 10 < improved.max() < 100


def test_depth_png_of_another_kind_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "d.png")
    with pytest.raises(FadepthError, match=r"d\.png is not a 16-bit grey PNG"):
        kitti.read_depth_png(tmp_path / "d.png")
    (tmp_path / "d.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(FadepthError, match=r"d\.png is damaged"):
        kitti.read_depth_png(tmp_path / "d.png")


def test_camera_values_are_the_files(root: Path) -> None:
    # 2011_09_26/calib_cam_to_cam.txt, lines S_rect_02 and P_rect_02.
    camera = kitti.read_camera(root, LEFT)
    assert camera == kitti.Camera(375, 1242, (721.5377, 721.5377, 609.5593, 172.8540))
    other_day = kitti.read_camera(root, FrameId("2011_09_30/2011_09_30_drive_0028_sync", 0, "l"))
    assert other_day != camera


@pytest.mark.parametrize(("factor_y", "factor_x"), [(0.5, 0.5), (0.512, 0.4), (2.0, 3.0)])
def test_intrinsics_follow_the_half_pixel_rule_of_the_resize(
    factor_y: float, factor_x: float
) -> None:
    # An image whose values are its own coordinates, resized by the library's filter, tells where
    # each new pixel lies in the old image.
    height, width = 250, 500
    new_h, new_w = round(height * factor_y), round(width * factor_x)
    columns = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    rows = np.tile(np.arange(height, dtype=np.float32)[:, None], (1, width))
    old_x = Image.fromarray(columns).resize((new_w, new_h), Image.Resampling.LANCZOS)
    old_y = Image.fromarray(rows).resize((new_w, new_h), Image.Resampling.LANCZOS)
    k = kitti.scale_intrinsics((300.0, 310.0, 240.0, 130.0), (height, width), (new_h, new_w))
    centre = slice(20, -20)
    new_u, new_v = np.meshgrid(np.arange(new_w), np.arange(new_h))
    # A pixel's viewing ray must be the same before and after.
    ray_x = (np.asarray(old_x) - 240.0) / 300.0
    ray_y = (np.asarray(old_y) - 130.0) / 310.0
    np.testing.assert_allclose(
        ((new_u - k[0, 2]) / k[0, 0])[centre, centre], ray_x[centre, centre], atol=1e-4
    )
    np.testing.assert_allclose(
        ((new_v - k[1, 2]) / k[1, 1])[centre, centre], ray_y[centre, centre], atol=1e-4
    )


def test_resize_keeps_colour_order_and_range() -> None:
    image = Image.fromarray(np.full((40, 60, 3), (200, 100, 5), np.uint8))
    resized = kitti.resize_image(image, 32, 48)
    assert resized.shape == (3, 32, 48)
    assert resized.dtype == np.uint8
    assert np.array_equal(resized[:, 7, 9], [200, 100, 5])


def test_split_lists_read_padded_and_plain_numbers(tmp_path: Path) -> None:
    path = tmp_path / "train_files.txt"
    path.write_text("2011_09_26/a_sync 0000000069 l\n2011_09_26/a_sync 473 r\n\n")
    assert kitti.read_split(path) == [
        FrameId("2011_09_26/a_sync", 69, "l"),
        FrameId("2011_09_26/a_sync", 473, "r"),
    ]


def test_published_split_lists(test_data: Path) -> None:
    folder = test_data / "splits"
    if not folder.is_dir():
        pytest.skip(f"no split lists in {folder}")
    test = kitti.read_split(folder / "eigen" / "test_files.txt")
    train = kitti.read_split(folder / "eigen_zhou" / "train_files.txt")
    assert (len(test), len({f.drive for f in test}), {f.side for f in test}) == (697, 28, {"l"})
    assert (len(train), sum(f.side == "l" for f in train)) == (39810, 19956)
    assert not {f.drive for f in test} & {f.drive for f in train}


@pytest.mark.parametrize(
    "line", ["2011_09_26/a_sync 5", "2011_09_26/a_sync five l", "a_sync 5 l", "d/a 5 m", "d/a -5 l"]
)
def test_malformed_split_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "val_files.txt"
    path.write_text(f"2011_09_26/a_sync 4 l\n{line}\n")
    with pytest.raises(FadepthError, match=r"val_files\.txt, line 2: found '.*', expected"):
        kitti.read_split(path)


def test_absent_and_empty_split_lists(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"train_files\.txt does not exist: .*'data\.splits'"):
        kitti.read_split(tmp_path / "train_files.txt")
    (tmp_path / "train_files.txt").write_text("\n")
    with pytest.raises(FadepthError, match="names no frame"):
        kitti.read_split(tmp_path / "train_files.txt")


def test_calibration_errors_name_file_and_key(copy: Path) -> None:
    path = copy / LEFT.date / "calib_cam_to_cam.txt"
    text = path.read_text()
    path.write_text(text.replace("P_rect_02:", "P_rect_XX:"))
    with pytest.raises(FadepthError, match=r"calib_cam_to_cam\.txt has no key 'P_rect_02': unpack"):
        kitti.read_camera(copy, LEFT)
    path.write_text(text.replace("P_rect_02: 7.215377e+02", "P_rect_02: "))
    with pytest.raises(FadepthError, match="does not give 12 numbers for 'P_rect_02'"):
        kitti.read_camera(copy, LEFT)
    path.unlink()
    with pytest.raises(FadepthError, match=r"calib_cam_to_cam\.txt does not exist: unpack"):
        kitti.read_camera(copy, LEFT)


def test_truncated_scan(copy: Path) -> None:
    path = kitti.velodyne_path(copy, LEFT)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FadepthError, match=r"0000000005\.bin has \d+ bytes, expected a positive"):
        kitti.velodyne_depth(copy, LEFT)
    path.write_bytes(b"")
    with pytest.raises(FadepthError, match="has 0 bytes"):
        kitti.velodyne_depth(copy, LEFT)


def test_damaged_image(copy: Path) -> None:
    path = kitti.image_path(copy, LEFT)
    assert path is not None
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(FadepthError, match=r"0000000005\.jpg is damaged: restore it"):
        kitti.read_image(path)


def test_kitti_raw_samples(root: Path, test_data: Path) -> None:
    data = KittiRaw(
        root, test_data / "kitti_mini/splits/tiny/train_files.txt", height=96, width=320
    )
    assert len(data) == 140
    sample = data[0]
    assert (sample["drive"], sample["frame"], sample["side"]) == (
        "2011_09_26/2011_09_26_drive_0005_sync",
        51,
        "l",
    )
    assert sample["image"].shape == (3, 96, 320)
    assert sample["image"].dtype == torch.float32
    assert 0 <= sample["image"].min() < sample["image"].max() <= 1
    assert set(sample["neighbours"]) == {-1, 1}
    assert torch.equal(sample["neighbours"][1], data[1]["image"])
    assert torch.equal(data[1]["neighbours"][-1], sample["image"])
    s_x, s_y = 320 / 1242, 96 / 375
    expected = torch.tensor(
        [
            [721.5377 * s_x, 0, 610.0593 * s_x - 0.5],
            [0, 721.5377 * s_y, 173.3540 * s_y - 0.5],
            [0, 0, 1],
        ]
    )
    torch.testing.assert_close(sample["intrinsics"], expected)
    assert sample["depth"] is None


def test_kitti_raw_depth_is_native_and_drive_starts_have_no_predecessor(root: Path) -> None:
    first = FrameId("2011_09_26/2011_09_26_drive_0002_sync", 0, "l")
    sample = KittiRaw(root, [first], height=64, width=208)[0]
    assert set(sample["neighbours"]) == {1}
    assert sample["depth"] is not None
    assert np.array_equal(sample["depth"].numpy(), kitti.velodyne_depth(root, first))


def test_kitti_raw_names_the_absent_frame(root: Path) -> None:
    data = KittiRaw(root, [LEFT._replace(number=400)], height=64, width=208)
    with pytest.raises(FadepthError, match="drive_0001_sync 400 l has no image below"):
        data[0]


def test_the_19_test_frames_have_lidar(root: Path, test_data: Path) -> None:
    frames = kitti.read_split(test_data / "kitti_mini/splits/tiny/test_files.txt")
    assert len(frames) == 19
    assert all((kitti.velodyne_depth(root, frame) > 0).sum() > 10000 for frame in frames)
