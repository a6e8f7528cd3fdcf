"""Cameras, motions and the warp against closed forms, scipy, numpy, a real and a drawn frame."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from fadepth.data.kitti import FrameId, image_path, read_camera, read_image, resize_image
from fadepth.data.kitti import scale_intrinsics as scaled
from fadepth.data.synthetic import intrinsics, make_scene, render_frame
from fadepth.geometry import (
    disparity_to_depth,
    disparity_to_inverse_depth,
    in_view,
    inverse_warp,
    invert_intrinsics,
    invert_pose,
    pose_matrix,
    project_to_source,
    rotation_from_axis_angle,
    sample,
)
from fadepth.losses.photometric import photometric_error

HEIGHT, WIDTH = 24, 40
K = torch.tensor([[[30.0, 0, 18.3], [0, 27.0, 10.6], [0, 0, 1]]], dtype=torch.float64)
FX, FY, CX, CY = (float(K[0, i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))


def texture(height: int, width: int) -> Tensor:
    """Image (1, 3, height, width) that differs at every pixel."""
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).double()


def grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    u, v = np.meshgrid(np.arange(WIDTH, dtype=float), np.arange(HEIGHT, dtype=float))
    return u, v


def move(axis_angle: tuple[float, ...] = (0, 0, 0), shift: tuple[float, ...] = (0, 0, 0)) -> Tensor:
    vectors = torch.tensor([axis_angle, shift], dtype=torch.float64)
    return pose_matrix(vectors[:1], vectors[1:])


def plane(depth: float) -> Tensor:
    return torch.full((1, 1, HEIGHT, WIDTH), depth, dtype=torch.float64)


# Depth


def test_depth_range_of_the_sigmoid() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(disparity_to_depth(ends), [100.0, 0.1], rtol=1e-12)
    middle = torch.tensor(0.5, dtype=torch.float64)
    assert disparity_to_inverse_depth(middle).item() == pytest.approx((0.01 + 10) / 2, rel=1e-12)


# Rigid motion


def axis_angles() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((60, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    angles = [0, 1e-12, 1e-6, 9.99e-4, 1.001e-3, 1e-2, 1, math.pi - 1e-6, math.pi, 5]
    return directions * np.tile(angles, 6)[:, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_rotation_is_scipys(dtype: torch.dtype, tolerance: float) -> None:
    vectors = axis_angles()
    ours = rotation_from_axis_angle(torch.tensor(vectors, dtype=dtype)).numpy()
    np.testing.assert_allclose(ours, Rotation.from_rotvec(vectors).as_matrix(), atol=tolerance)


def test_zero_rotation_is_exactly_the_identity() -> None:
    assert torch.equal(rotation_from_axis_angle(torch.zeros(1, 3)), torch.eye(3)[None])


def test_rotation_has_the_right_gradient_also_at_zero() -> None:
    vectors = torch.tensor(
        [[0, 0, 0], [1e-4, 0, 0], [2e-3, -1e-3, 0], [0.3, -0.2, 0.5], [0, 3.1, 0]],
        dtype=torch.float64,
        requires_grad=True,
    )
    assert torch.autograd.gradcheck(rotation_from_axis_angle, (vectors,), eps=1e-7)


def test_float32_gradient_is_finite_and_right_for_small_angles() -> None:
    for angle in (0.0, 1e-20, 1e-4, 9.9e-4, 1.1e-3, 1e-2):
        vector = torch.tensor([[0.6 * angle, -0.8 * angle, 0.0]])
        jacobian = torch.autograd.functional.jacobian(rotation_from_axis_angle, vector)
        exact = torch.autograd.functional.jacobian(rotation_from_axis_angle, vector.double())
        torch.testing.assert_close(jacobian.double(), exact, rtol=0, atol=1e-4)


def test_inverse_pose_is_numpys() -> None:
    rng = np.random.default_rng(1)
    pose = pose_matrix(*torch.tensor(rng.standard_normal((2, 8, 3))))
    np.testing.assert_allclose(invert_pose(pose), np.linalg.inv(pose.numpy()), atol=1e-13)


def test_pose_matrix_moves_points() -> None:
    rng = np.random.default_rng(2)
    axis_angle, shift, point = rng.standard_normal((3, 1, 3))
    pose = pose_matrix(torch.tensor(axis_angle), torch.tensor(shift))[0].numpy()
    expected = Rotation.from_rotvec(axis_angle).apply(point)[0] + shift[0]
    np.testing.assert_allclose((pose @ [*point[0], 1])[:3], expected, atol=1e-13)
    assert pose[3].tolist() == [0, 0, 0, 1]


def test_inverse_intrinsics_are_numpys() -> None:
    np.testing.assert_allclose(invert_intrinsics(K)[0], np.linalg.inv(K[0].numpy()), atol=1e-15)


# Projection: closed forms


def test_sideways_motion_shifts_a_frontal_plane_by_its_disparity() -> None:
    u, v = grid()
    pixels, z = project_to_source(plane(6.0), K, move(shift=(0.5, -0.2, 0)))
    np.testing.assert_allclose(pixels[0, ..., 0], u + FX * 0.5 / 6, atol=1e-12)
    np.testing.assert_allclose(pixels[0, ..., 1], v - FY * 0.2 / 6, atol=1e-12)
    np.testing.assert_allclose(z, 6.0, atol=1e-12)


def test_forward_motion_scales_about_the_principal_point() -> None:
    u, v = grid()
    # The source camera is 2 m ahead of the target's: its points are 2 m nearer.
    pixels, z = project_to_source(plane(6.0), K, move(shift=(0, 0, -2.0)))
    np.testing.assert_allclose(pixels[0, ..., 0], CX + (u - CX) * 6 / (6 - 2), atol=1e-12)
    np.testing.assert_allclose(pixels[0, ..., 1], CY + (v - CY) * 6 / (6 - 2), atol=1e-12)
    np.testing.assert_allclose(z, 4.0, atol=1e-12)


def test_yaw_adds_to_the_angle_of_a_ray_whatever_the_depth() -> None:
    level = K.clone()
    level[0, 1, 2] = 10  # a row of pixels at the horizon
    depth = 1 + 9 * texture(HEIGHT, WIDTH)[:, :1]
    pixels, _ = project_to_source(depth, level, move((0, 0.2, 0)))
    bearing = np.arctan((np.arange(WIDTH) - CX) / FX)
    np.testing.assert_allclose(pixels[0, 10, :, 0], CX + FX * np.tan(bearing + 0.2), atol=1e-11)
    np.testing.assert_allclose(pixels[0, 10, :, 1], 10, atol=1e-11)


def test_rotation_acts_as_a_homography() -> None:
    u, v = grid()
    vector = (0.05, -0.1, 0.2)
    k = K[0].numpy()
    homography = k @ Rotation.from_rotvec(vector).as_matrix() @ np.linalg.inv(k)
    x = np.einsum("ij,jhw->ihw", homography, np.stack([u, v, np.ones_like(u)]))
    pixels, _ = project_to_source(plane(3.0), K, move(vector))
    np.testing.assert_allclose(pixels[0].permute(2, 0, 1), x[:2] / x[2], atol=1e-11)


def test_a_motion_and_its_inverse_lead_back() -> None:
    pose = move((0.02, -0.05, 0.01), (0.3, 0.1, -0.4))
    depth = 5 + texture(HEIGHT, WIDTH)[:, :1]
    pixels, z = project_to_source(depth, K, pose)
    homogeneous = torch.cat([pixels[0], torch.ones(HEIGHT, WIDTH, 1)], 2).double()
    points = (homogeneous @ torch.linalg.inv(K[0]).T) * z[0, 0, ..., None]
    back = points @ invert_pose(pose)[0, :3, :3].T + invert_pose(pose)[0, :3, 3]
    image = back @ K[0].T
    u, v = grid()
    np.testing.assert_allclose(image[..., 0] / image[..., 2], u, atol=1e-10)
    np.testing.assert_allclose(image[..., 1] / image[..., 2], v, atol=1e-10)


# Warp


def test_whole_pixel_shift_moves_the_picture_exactly() -> None:
    image = texture(HEIGHT, WIDTH)
    # FX * t / Z = 30 * 0.5 / 5 = 3 pixels; 27 * -0.37037 / 5 = -2 pixels
    warped, visible = inverse_warp(image, plane(5.0), K, move(shift=(0.5, -10 / 27, 0)))
    torch.testing.assert_close(warped[..., 3:-1, :-4], image[..., 1:-3, 3:-1], rtol=0, atol=1e-12)
    # Outside, the border goes on.
    torch.testing.assert_close(
        warped[..., 3:-1, -3:], image[..., 1:-3, -1:].expand(-1, -1, -1, 3), rtol=0, atol=1e-12
    )
    assert visible[..., 3:-1, :-4].all()
    assert not visible[..., :2, :].any()
    assert not visible[..., -3:].any()


def test_sampling_is_bilinear() -> None:
    image = texture(HEIGHT, WIDTH)
    at = torch.tensor([[[[3.25, 7.5], [0.0, 0.0], [WIDTH - 1.0, HEIGHT - 1.0]]]]).double()
    found = sample(image, at)[0, :, 0]
    near = image[0, :, 7:9, 3:5]
    expected = (0.75 * near[..., 0] + 0.25 * near[..., 1]).mean(1)
    torch.testing.assert_close(found[:, 0], expected)
    torch.testing.assert_close(found[:, 1], image[0, :, 0, 0])
    torch.testing.assert_close(found[:, 2], image[0, :, -1, -1])


def test_in_view() -> None:
    pixels = torch.tensor([[[0.0, 0], [9, 4], [-0.01, 2], [9.01, 2], [5, -0.01], [5, 4.01]]])
    ahead = torch.ones(1, 1, 1, 6)
    assert in_view(pixels[:, None], ahead, 5, 10).flatten().tolist() == [True] * 2 + [False] * 4
    assert not in_view(pixels[:, None], -ahead, 5, 10).any()


@pytest.mark.parametrize("distance", [2.0, 3.0])  # behind the source camera, and in its centre
def test_points_without_an_image_are_out_of_view_and_harmless(distance: float) -> None:
    depth = plane(distance).requires_grad_()
    shift = torch.tensor([[0.0, 0.0, -3.0]], dtype=torch.float64, requires_grad=True)
    pose = pose_matrix(torch.zeros_like(shift), shift)
    warped, visible = inverse_warp(texture(HEIGHT, WIDTH), depth, K, pose)
    assert not visible.any()
    warped.sum().backward()
    assert depth.grad is not None
    assert shift.grad is not None
    assert depth.grad.isfinite().all()
    assert shift.grad.isfinite().all()


def test_warp_has_the_right_gradient() -> None:
    image = texture(5, 6)
    depth = (4 + texture(5, 6)[:, 1:2]).requires_grad_()
    motion = torch.tensor([[0.01, -0.02, 0.03, 0.11, 0.07, -0.2]], dtype=torch.float64)
    motion.requires_grad_()
    k = torch.tensor([[[5.1, 0, 2.7], [0, 5.3, 2.2], [0, 0, 1]]], dtype=torch.float64)

    def warp(depth: Tensor, motion: Tensor) -> Tensor:
        return inverse_warp(image, depth, k, pose_matrix(motion[:, :3], motion[:, 3:]))[0]

    assert torch.autograd.gradcheck(warp, (depth, motion), eps=1e-7, atol=1e-5)


def identity_costs(image: Tensor, k: Tensor) -> tuple[float, float]:
    """Photometric loss of a warp without motion: ours, and with `align_corners=False`."""
    depth = 1 / (0.02 + 0.5 * torch.rand(1, 1, *image.shape[-2:]))
    warped, _ = inverse_warp(image, depth, k, torch.eye(4)[None])
    pixels, _ = project_to_source(depth, k, torch.eye(4)[None])
    size = torch.tensor([image.shape[-1] - 1, image.shape[-2] - 1])
    other = F.grid_sample(image, 2 * pixels / size - 1, padding_mode="border", align_corners=False)
    ours, theirs = (photometric_error(x, image).mean().item() for x in (warped, other))
    return ours, theirs


def test_standing_still_costs_nothing() -> None:
    torch.manual_seed(0)
    for height, width in ((48, 156), (192, 640), (33, 47)):
        k = torch.tensor(intrinsics(height, width), dtype=torch.float32)[None]
        ours, theirs = identity_costs(texture(height, width).float(), k)
        assert ours < 1e-5
        assert theirs > 0.01


def test_standing_still_costs_nothing_on_a_real_frame(test_data: Path) -> None:
    root = test_data / "kitti_mini" / "kitti"
    frame = FrameId("2011_09_26/2011_09_26_drive_0001_sync", 10, "l")
    path = image_path(root, frame)
    assert path is not None, f"no image of {frame} below {root}"
    camera = read_camera(root, frame)
    k = scaled(camera.intrinsics, (camera.height, camera.width), (192, 640))
    image = torch.tensor(resize_image(read_image(path), 192, 640))[None] / 255
    ours, theirs = identity_costs(image, torch.tensor(k, dtype=torch.float32)[None])
    assert ours < 1e-5
    # The module's docstring quotes 0.026.
    assert theirs == pytest.approx(0.026, rel=0.25)


@pytest.mark.parametrize("neighbour", [1, 3])
def test_true_depth_and_motion_explain_a_drawn_street(neighbour: int) -> None:
    height, width, target = 48, 156, 2
    scene = make_scene(0, 0, 6)
    k = torch.tensor(intrinsics(height, width), dtype=torch.float32)[None]
    shots = {f: render_frame(scene, f, height, width) for f in (target, neighbour)}
    images = {f: torch.tensor(shot[0]).permute(2, 0, 1)[None] / 255 for f, shot in shots.items()}
    depth = torch.tensor(shots[target][1])[None, None]
    world = {f: np.vstack([scene.poses[f], [0, 0, 0, 1]]) for f in shots}  # camera to world
    pose = torch.tensor(np.linalg.inv(world[neighbour]) @ world[target], dtype=torch.float32)[None]
    near = depth.clamp(max=1000)

    def cost(depth: Tensor, pose: Tensor) -> float:
        warped, _ = inverse_warp(images[neighbour], depth, k, pose)
        return photometric_error(warped, images[target])[seen].mean().item()

    seen = inverse_warp(images[neighbour], near, k, pose)[1] & depth.isfinite()
    assert seen.float().mean() > 0.5
    true = cost(near, pose)
    assert true < 0.3 * cost(near, torch.eye(4)[None])
    assert true < 0.3 * cost(near, invert_pose(pose))
    assert true < 0.5 * cost(2 * near, pose)
    assert true < 0.5 * cost(near / 2, pose)
