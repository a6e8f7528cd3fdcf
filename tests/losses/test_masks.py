"""Masks and the robust penalty: closed forms, constructed images, painted bonnets."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fadepth.data.kitti import read_image, resize_image
from fadepth.data.synthetic import make_scene, render_frame
from fadepth.errors import FadepthError
from fadepth.geometry import in_view, pose_matrix, project_to_source
from fadepth.losses.masks import (
    automask,
    charbonnier,
    depth_difference,
    ego_vehicle,
    flow_difference,
    inside_border,
    masked_mean,
    reliability,
    unoccluded,
)
from fadepth.losses.photometric import Views, identity_error, warped_error


def test_charbonnier() -> None:
    error = torch.tensor([0.0, 0.01, -0.01, 3.0, -3.0, 1e-5], dtype=torch.float64)
    expected = [0, 0.01 * (2**0.5 - 1), 0.01 * (2**0.5 - 1), 9.0001**0.5 - 0.01, 0, 0]
    found = charbonnier(error)
    assert found[:4].tolist() == pytest.approx(expected[:4], abs=1e-15)
    assert found[4] == found[3]
    # Quadratic near zero, e^2 / (2 eps); slope 1 far away.
    assert found[5].item() == pytest.approx(1e-10 / 0.02, rel=1e-3)
    assert charbonnier(error, epsilon=1.0)[3].item() == pytest.approx(10**0.5 - 1)


def test_charbonnier_has_a_gradient_at_zero() -> None:
    error = torch.tensor([0.0, 0.01, 5.0], dtype=torch.float64, requires_grad=True)
    charbonnier(error).sum().backward()
    assert error.grad is not None
    assert error.grad.tolist() == pytest.approx([0, 0.5**0.5, 5 / 25.0001**0.5], abs=1e-12)


def test_masked_mean_weighs() -> None:
    values = torch.arange(6.0).view(1, 1, 2, 3)
    mask = torch.tensor([[1, 0, 0], [0.5, 0, 0.5]]).view(1, 1, 2, 3)
    assert masked_mean(values, mask).item() == pytest.approx((0 + 1.5 + 2.5) / 2)
    assert masked_mean(values, mask > 0).item() == pytest.approx((0 + 3 + 5) / 3)
    assert masked_mean(values, 7 * mask).item() == pytest.approx(2)


def test_masked_mean_broadcasts_the_mask_over_channels() -> None:
    values = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])[None]
    mask = torch.tensor([[1, 0, 0], [0, 0, 0]]).view(1, 1, 2, 3)
    assert masked_mean(values, mask).item() == pytest.approx(0.5)


def test_masked_mean_of_nothing_is_zero_with_a_zero_gradient() -> None:
    values = torch.ones(1, 1, 2, 3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(1, 1, 2, 3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None
    assert values.grad.abs().max() == 0


def test_masked_mean_gives_no_gradient_outside_the_mask() -> None:
    values = torch.ones(1, 1, 2, 3, requires_grad=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.bool).view(1, 1, 2, 3)
    masked_mean(values, mask).backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0.5, 0, 0.5, 0, 0, 0]


def test_automask_keeps_what_the_warp_explains_better() -> None:
    warped = torch.tensor([0.1, 0.2, 0.3]).view(1, 1, 1, 3)
    still = torch.tensor([0.2, 0.2, 0.1]).view(1, 1, 1, 3)
    found = automask(warped, still)
    assert found.dtype == torch.bool
    assert found.flatten().tolist() == [True, False, False]


# Out of view


@pytest.mark.parametrize("sideways", [0.55, -0.77])
def test_out_of_view_of_a_plane_and_a_sideways_step(sideways: float) -> None:
    """Every pixel moves by f t / Z; those that leave the image are out of view, and no others."""
    height, width, focal, depth = 7, 40, 36.0, 6.0
    k = torch.tensor([[[focal, 0, 19.3], [0, 34.0, 3.1], [0, 0, 1]]]).double()
    step = torch.tensor([[sideways, 0, 0]]).double()
    pose = pose_matrix(torch.zeros(1, 3).double(), step)
    plane = torch.full((1, 1, height, width), depth).double()
    pixels, z = project_to_source(plane, k, pose)
    places = torch.arange(width) + focal * sideways / depth
    expected = (places >= 0) & (places <= width - 1)
    # The rows at the edge stay where they are, up to rounding.
    found = in_view(pixels, z, height, width)[0, 0, 1:-1]
    assert torch.equal(found, expected.expand(height - 2, -1))
    assert expected.sum() == width - math.ceil(abs(focal * sideways / depth))


# Auto-mask on constructed images


def driving(car: slice) -> tuple[Views, Tensor]:
    """A textured wall 6 m ahead, seen from a camera that steps 0.5 m aside: 3 pixels.

    The columns `car` show a car that moves along with the camera, so they stay where they are.
    """
    generator = torch.Generator().manual_seed(0)
    wall = torch.rand(1, 3, 24, 60, generator=generator, dtype=torch.float64)
    before, after = wall[..., 3:51], wall[..., :48]
    target, source = before.clone(), after.clone()
    target[..., car] = source[..., car] = wall[..., 10 : 10 + car.stop - car.start]
    k = torch.tensor([[[36.0, 0, 23.7], [0, 34.0, 12.2], [0, 0, 1]]]).double()
    pose = pose_matrix(torch.zeros(1, 3).double(), torch.tensor([[0.5, 0, 0]]).double())
    return Views(target, [source], k, [pose]), torch.full((1, 1, 24, 48), 6.0).double()


def test_automask_takes_out_a_car_that_drives_along() -> None:
    car = slice(20, 32)
    views, depth = driving(car)
    error, visible = warped_error(views, depth, 0)
    moving = automask(error, identity_error(views, 0))
    assert not moving[..., car].any()
    inside = visible.clone()
    inside[..., 16:33] = False  # the car itself, and what it hides in the source
    assert inside.sum() > 500
    assert moving[inside].all()


def test_automask_takes_out_everything_while_the_camera_stands() -> None:
    views, depth = driving(slice(0, 1))
    standing = Views(views.target, [views.target], views.intrinsics, views.poses)
    error, _ = warped_error(standing, depth, 0.85)
    assert not automask(error, identity_error(standing, 0.85)).any()


# Differences of depths and flows


def test_depth_difference_is_symmetric_bounded_and_scale_free() -> None:
    near = torch.tensor([2.0, 4.0, 6.0, -1.0], dtype=torch.float64).view(1, 1, 1, 4)
    far = torch.tensor([2.0, 6.0, 4.0, 5.0], dtype=torch.float64).view(1, 1, 1, 4)
    found = depth_difference(near, far)
    assert found.flatten()[:3].tolist() == pytest.approx([0, 0.2, 0.2])
    assert found[..., 3].item() == pytest.approx(1, abs=1e-3)  # behind the camera
    torch.testing.assert_close(depth_difference(7 * near, 7 * far)[..., :3], found[..., :3])
    assert unoccluded(found).flatten().tolist() == [True, False, False, False]
    assert unoccluded(found, 0.3).flatten().tolist() == [True, True, True, False]


def test_depth_difference_gradient() -> None:
    moved, seen = (
        (1 + torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(s)).double() + s)
        .detach()
        .requires_grad_()
        for s in (0, 1)
    )
    assert torch.autograd.gradcheck(depth_difference, (moved, seen))


def test_flow_difference() -> None:
    forward = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [3.0, 4.0]]).double()
    backward = torch.tensor([[-3.0, -4.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]).double()
    found = flow_difference(forward.T[None, :, None], backward.T[None, :, None])
    # |F + F'| / (|F| + |F'| + 1)
    assert found.flatten().tolist() == pytest.approx([0, 10 / 11, 0, 5 / 6])


def test_reliability() -> None:
    depth = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    flow = torch.tensor([0.0, 0.2, 0.0], requires_grad=True)
    found = reliability(depth, flow)
    assert found.tolist() == pytest.approx([1, 0.5 * math.exp(-0.2), 0])
    assert not found.requires_grad


# Border


def test_border() -> None:
    mask = inside_border(6, 9, 2, torch.device("cpu"))
    assert mask.shape == (1, 1, 6, 9)
    assert mask.sum() == 2 * 5
    assert mask[0, 0, 2:4, 2:7].all()
    assert torch.equal(inside_border(6, 9, 1.5, torch.device("cpu")), mask)
    assert inside_border(6, 9, 0, torch.device("cpu")).all()


# Ego vehicle


def street_frames(*drives: int) -> NDArray[np.float64]:
    frames = []
    for drive in drives:
        scene = make_scene(0, drive, 30)
        frames += [render_frame(scene, frame, 48, 156)[0] / 255 for frame in range(0, 30, 3)]
    return np.stack(frames)


@pytest.fixture(scope="module")
def drive() -> NDArray[np.float64]:
    return street_frames(1, 2, 3)


def with_bonnet(images: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The images with a dark bonnet, noise of two grey levels, and a shining badge on it."""
    count, height, width, _ = images.shape
    v, u = np.mgrid[:height, :width]
    bonnet = v > height - 1 - 8 * (1 - ((u - width / 2) / (0.4 * width)) ** 2)
    rng = np.random.default_rng(0)
    painted = images.copy()
    painted[:, bonnet] = 0.2 + rng.normal(0, 2 / 255, (count, int(bonnet.sum()), 3))
    painted[:, -6:-2, width // 2 - 3 : width // 2 + 3] = rng.random((count, 4, 6, 3))
    return painted, bonnet


def test_ego_vehicle_finds_a_painted_bonnet(drive: NDArray[np.float64]) -> None:
    painted, bonnet = with_bonnet(drive)
    found = ego_vehicle(painted)
    assert found.shape == bonnet.shape
    assert (found & bonnet).sum() / (found | bonnet).sum() > 0.98


def test_ego_vehicle_is_nowhere_on_a_street_without_a_bonnet(drive: NDArray[np.float64]) -> None:
    assert not ego_vehicle(drive).any()


def test_what_stands_still_elsewhere_is_no_ego_vehicle(drive: NDArray[np.float64]) -> None:
    painted = drive.copy()
    painted[:, :12] = 0.7  # a sky without clouds
    painted[:, 20:30, 60:90] = 0.1  # a car ahead at one distance
    painted[:, -1, 5:8] = 0.1  # a speck at the bottom
    assert not ego_vehicle(painted).any()


def test_ego_vehicle_in_kitti(test_data: Path) -> None:
    """KITTI's cameras stand on the roof and see nothing of the car."""
    folder = test_data / "kitti_mini/kitti/2011_09_26/2011_09_26_drive_0005_sync/image_02/data"
    paths = sorted(folder.iterdir())[::8]
    pixels = np.stack([resize_image(read_image(path), 96, 312) for path in paths])
    images = pixels.transpose(0, 2, 3, 1).astype(np.float64) / 255
    assert not ego_vehicle(images).any()
    painted, bonnet = with_bonnet(images)
    found = ego_vehicle(painted)
    assert (found & bonnet).sum() / (found | bonnet).sum() > 0.95


def test_a_standing_drive_is_refused(drive: NDArray[np.float64]) -> None:
    with pytest.raises(FadepthError, match="drive with motion"):
        ego_vehicle(np.repeat(drive[:1], 8, axis=0))
    with pytest.raises(FadepthError, match="N >= 8"):
        ego_vehicle(drive[:7])
