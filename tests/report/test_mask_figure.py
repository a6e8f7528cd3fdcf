"""The figure of the masks: lidar, GPS/IMU and a run's networks give what the panels are made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fadepth.checkpoint import Identity
from fadepth.data.kitti import FrameId
from fadepth.errors import FadepthError
from fadepth.losses.photometric import identity_error, warped_error
from fadepth.report import mask_figure
from fadepth.report.mask_figure import LEFT_OUT, draw_masks, marked, pictures
from fadepth.report.mask_frames import (
    DataSet,
    MaskFrame,
    Source,
    kitti_frame,
    load_source,
    moved,
    oxts_pose,
    predicted,
    rasterise,
    size_of_run,
)
from fadepth.training import Job, Training
from tests.tiny import SIZE, tiny_config, tiny_manifest

K = np.array([[40.0, 0, 49.5], [0, 40.0, 19.5], [0, 0, 1]])


# Lidar and GPS/IMU


def test_rasterise_keeps_the_nearest_point_and_knows_how_far_it_reaches() -> None:
    def point(u: float, v: float, z: float) -> list[float]:
        return [(u - 49.5) * z / 40, (v - 19.5) * z / 40, z]

    points = [point(20, 10, 9.0), point(20.3, 9.8, 4.0), point(20, 10, 7.0), point(60, 30, 3.0)]
    outside = [point(-3, 10, 2.0), point(50, 45, 2.0), [0, 0, -5.0]]
    depth, known = rasterise(np.array(points + outside), K, (40, 100))
    assert depth[10, 20] == 4.0 and depth[30, 60] == 3.0
    assert set(np.unique(depth)) == {3.0, 4.0}
    v, u = np.mgrid[:40, :100]
    near = [np.hypot(v - row, u - column) <= 2 for row, column in ((10, 20), (30, 60))]
    assert np.array_equal(known, near[0] | near[1])
    assert (depth[near[0]] == 4.0).all() and (depth[near[1]] == 3.0).all()


def test_moved() -> None:
    quarter = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    assert moved(np.array([[1.0, 2, 3]]), quarter).tolist() == [[3, 7, 10]]


def test_oxts_pose(tmp_path: Path) -> None:
    def pose(*values: float) -> np.ndarray:
        path = tmp_path / "oxts.txt"
        path.write_text(" ".join(str(value) for value in (*values, *[0.0] * 24)))
        return oxts_pose(path, 49.0)

    start = pose(49.0, 8.4, 110.0, 0, 0, 0)
    # A degree of latitude is 111.3 km on this sphere, one of longitude less by its cosine.
    degree = np.radians(1) * 6378137
    east, north = (
        pose(49.0, 8.40001, 110.0, 0, 0, 0) - start,
        pose(49.00001, 8.4, 112.0, 0, 0, 0) - start,
    )
    assert east[:3, 3] == pytest.approx([1e-5 * degree * np.cos(np.radians(49)), 0, 0], abs=1e-6)
    assert north[:3, 3] == pytest.approx([0, 1e-5 * degree, 2], rel=1e-4, abs=1e-6)
    # x forward, y left, z up: yaw turns forward to the left, pitch down, roll left up.
    turn = np.pi / 2
    yaw, pitch, roll = (
        pose(49.0, 8.4, 110.0, *angles)[:3, :3]
        for angles in ((0, 0, turn), (0, turn, 0), (turn, 0, 0))
    )
    assert yaw @ [1, 0, 0] == pytest.approx([0, 1, 0])
    assert pitch @ [1, 0, 0] == pytest.approx([0, 0, -1])
    assert roll @ [0, 1, 0] == pytest.approx([0, 0, 1])
    # Yaw, then pitch, then roll, each about the axis that the one before has turned.
    small = pose(49.0, 8.4, 110.0, 0.1, 0.2, 0.3)[:3, :3]
    assert small[2] == pytest.approx(
        [-np.sin(0.2), np.cos(0.2) * np.sin(0.1), np.cos(0.2) * np.cos(0.1)]
    )
    with pytest.raises(FadepthError, match="GPS/IMU"):
        oxts_pose(tmp_path / "absent.txt", 49.0)


@pytest.mark.parametrize(("drive", "number"), [("0005", 88), ("0009", 16)])
def test_kitti_motion_is_that_of_the_speedometer(drive: str, number: int, test_data: Path) -> None:
    root = test_data / "kitti_mini" / "kitti"
    folder = f"2011_09_26/2011_09_26_drive_{drive}_sync"
    frame = kitti_frame(root, FrameId(folder, number, "l"), (192, 640), "not asked")
    motion = frame.views.poses[0][0]
    values = np.loadtxt(root / folder / "oxts" / "data" / f"{number:010d}.txt")
    forward_speed = values[8]  # vf, m/s; frames are 0.1 s apart
    assert forward_speed > 3
    assert motion[:3, 3].norm().item() == pytest.approx(0.1 * forward_speed, rel=0.06)
    # The scene comes nearer along z.
    assert motion[2, 3].item() < -0.99 * motion[:3, 3].norm().item()
    explains(frame, 0.8)


def explains(frame: MaskFrame, most: float) -> None:
    """The warp by the frame's depth and motion has at most this share of the unwarped error."""
    error, visible = warped_error(frame.views, frame.depths[:1], 0.85)
    still = identity_error(frame.views, 0.85)
    seen = visible[0, 0].numpy() & frame.known
    assert seen.mean() > 0.3
    ratio = (error[0, 0].numpy()[seen].mean() / still[0, 0].numpy()[seen].mean()).item()
    assert ratio < most


def test_ddad_frames(test_data: Path) -> None:
    source = load_source("ddad", test_data, (192, 304))
    ahead, _, behind, standing = source.frames
    explains(ahead, 0.8)
    assert ahead.views.poses[0][0, 2, 3] < -1 < 1 < behind.views.poses[0][0, 2, 3]
    assert standing.views.poses[0][0, :3, 3].norm() < 0.05
    assert "by chance" in pictures(standing)[4][1]
    assert all(isinstance(frame.ego, str) for frame in source.frames)


# The street, and a run in place of its truth


@pytest.fixture(scope="module")
def street() -> Source:
    return load_source("street", Path("nowhere"), (48, 156))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "plain-s1-0123456789"
    folder.mkdir()
    config = tiny_config(folder)
    job = Job(
        folder.name, "student", config, 1, Identity("c", "d", "e"), folder,
        tiny_manifest(folder), folder,
    )  # fmt: skip
    Training(job)._save_model()
    return folder / "model.pt"


def test_street_frames(street: Source) -> None:
    for frame in street.frames:
        explains(frame, 0.6)
        assert frame.depths.shape == (2, 1, 48, 156)
        assert not isinstance(frame.ego, str) and not frame.ego.any()
    assert "ground truth" in street.provenance


def test_panels_mark_what_is_left_out(street: Source) -> None:
    frame = street.frames[0]
    panels = pictures(frame)
    assert len(panels) == len(mask_figure.ROWS)
    _, visible = warped_error(frame.views, frame.depths[:1], 0.85)
    hidden = ~visible[0, 0].numpy() & frame.known
    out_of_view, remark = panels[3]
    red = out_of_view[..., 0] > out_of_view[..., 1] + 0.3
    assert np.array_equal(red, hidden)
    assert remark == f"{hidden.sum() / frame.known.sum():.0%}"
    assert panels[6][1] == "none found"
    # Where depth is unknown nothing is claimed, but for the ego vehicle.
    for picture, _ in panels[1:6]:
        assert (picture[~frame.known] == mask_figure.UNKNOWN).all()


def test_marked() -> None:
    image = np.tile([0.2, 0.4, 0.6], (1, 12, 1))
    grey, stripe, *_, red = marked(image, np.arange(12)[None] > 0)[0]
    assert grey == pytest.approx([0.4] * 3)
    assert red == pytest.approx(0.1 + 0.75 * LEFT_OUT)
    # In grey prints red is as dark as the street: stripes of another brightness tell it.
    luminance = np.array([0.2126, 0.7152, 0.0722])
    assert stripe @ luminance > red @ luminance + 0.3


def test_a_run_gives_depth_and_motion(street: Source, model: Path) -> None:
    assert size_of_run(model) == SIZE
    source = load_source("street", Path("nowhere"), SIZE)
    found = predicted(source, model)
    assert "plain-s1-0123456789" in found.provenance and "scale smoke" in found.provenance
    for frame, truth in zip(found.frames, source.frames, strict=True):
        assert frame.depths.shape == (2, 1, *SIZE)
        assert frame.depths.min() >= 0.1 and frame.depths.max() <= 100
        assert not torch.equal(frame.depths, truth.depths)
        assert not torch.equal(frame.views.poses[0], truth.views.poses[0])
        assert torch.equal(frame.views.target, truth.views.target)
        assert frame.known.all()


def test_the_figure_is_written(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures" / "masks.png"
    draw_masks("street", output, Path("nowhere"), model)
    with Image.open(output) as picture:
        assert picture.size[0] == round(10.5 * 160)
        assert np.asarray(picture.convert("RGB")).std() > 20


def test_absent_data_is_told(tmp_path: Path) -> None:
    names: tuple[DataSet, ...] = ("kitti", "ddad")
    for name in names:
        with pytest.raises(FadepthError, match=f"FADEPTH_TEST_DATA to .* {name}_mini"):
            draw_masks(name, tmp_path / "x.png", tmp_path)
