"""Cameras, motions and the warp against closed forms, scipy, numpy, a real and a drawn frame."""

import math
from dataclasses import dataclass
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
    pixel_grid,
    pose_matrix,
    project_to_source,
    rotation_from_axis_angle,
    sample,
    shrink,
)
from fadepth.losses.photometric import Views, photometric_error

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
    angles = [0, 1e-300, 1e-12, 1e-6, 9.99e-4, 1.001e-3, 1e-2, 1, 3, math.pi - 1e-6]
    angles += [math.pi - 1e-12, math.pi, math.pi + 1e-6, 5, 2 * math.pi]
    return directions * np.tile(angles, 4)[:, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_rotation_is_scipys(dtype: torch.dtype, tolerance: float) -> None:
    vectors = axis_angles()
    ours = rotation_from_axis_angle(torch.tensor(vectors, dtype=dtype)).numpy()
    np.testing.assert_allclose(ours, Rotation.from_rotvec(vectors).as_matrix(), atol=tolerance)


def test_zero_rotation_is_exactly_the_identity() -> None:
    assert torch.equal(rotation_from_axis_angle(torch.zeros(1, 3)), torch.eye(3)[None])


def test_rotation_has_the_right_gradient_also_at_zero() -> None:
    vectors = torch.tensor(
        [
            [0, 0, 0],
            [1e-4, 0, 0],
            [2e-3, -1e-3, 0],
            [0.3, -0.2, 0.5],
            [0, 3.1, 0],
            [0, 0, math.pi],
            [math.pi / 3**0.5] * 3,
        ],
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


def test_inverse_pose_leads_back_in_either_order() -> None:
    rng = np.random.default_rng(3)
    pose = pose_matrix(*torch.tensor(rng.standard_normal((2, 8, 3))))
    eye = torch.eye(4, dtype=torch.float64).expand(8, 4, 4)
    torch.testing.assert_close(invert_pose(pose) @ pose, eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(pose @ invert_pose(pose), eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(invert_pose(invert_pose(pose)), pose, rtol=0, atol=1e-13)


def test_poses_have_the_right_gradient() -> None:
    rng = np.random.default_rng(4)
    motion = torch.tensor(rng.standard_normal((3, 6)))
    motion[0] = 0
    motion.requires_grad_()

    def there_and_back(motion: Tensor) -> tuple[Tensor, Tensor]:
        pose = pose_matrix(motion[:, :3], motion[:, 3:])
        return pose, invert_pose(pose)

    assert torch.autograd.gradcheck(there_and_back, (motion,), eps=1e-7)


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


def test_projection_has_the_right_gradient() -> None:
    depth = (4 + texture(5, 6)[:, 1:2]).requires_grad_()
    motion = torch.tensor([[0.1, -0.2, 0.15, 0.3, -0.1, -0.8]]).double().requires_grad_()
    camera = torch.tensor([5.1, 5.3, 2.7, 2.2]).double().requires_grad_()

    def project(depth: Tensor, motion: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        fx, fy, cx, cy = camera
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        k = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).view(1, 3, 3)
        return project_to_source(depth, k, pose_matrix(motion[:, :3], motion[:, 3:]))

    assert torch.autograd.gradcheck(project, (depth, motion, camera), eps=1e-7)


def test_a_smaller_image_of_the_same_scene_projects_to_the_same_place() -> None:
    """At a third of the size, pixel i covers pixels 3i to 3i + 2 and has the centre of 3i + 1."""
    pose = move((0.02, -0.05, 0.01), (0.3, 0.1, -0.4))
    depth = 5 + texture(HEIGHT, 42)[:, :1]
    small = depth[..., 1::3, 1::3].contiguous()
    pixels, z = project_to_source(depth, K, pose)
    fine = (pixels[:, 1::3, 1::3] + 0.5) / 3 - 0.5
    by_file = torch.tensor(scaled((FX, FY, CX, CY), (HEIGHT, 42), (HEIGHT // 3, 14)))[None]
    image = texture(HEIGHT, 42)
    by_loss = Views(image, [image], K, [pose]).resized(HEIGHT // 3, 14).intrinsics
    for k, tolerance in ((by_file, 1e-12), (by_loss, 1e-6)):  # factors in float32 there
        coarse, near = project_to_source(small, k, pose)
        torch.testing.assert_close(coarse, fine, rtol=0, atol=tolerance)
        torch.testing.assert_close(near, z[..., 1::3, 1::3], rtol=0, atol=tolerance)
    # The plain rule, cx / 3, sees another ray.
    plain = K * torch.tensor([1 / 3, 1 / 3, 1]).double().view(3, 1)
    assert (project_to_source(small, plain, pose)[0] - fine).abs().max() > 0.01


def test_samples_of_a_batch_keep_their_own_camera_and_motion() -> None:
    images = torch.cat([texture(HEIGHT, WIDTH), texture(HEIGHT, WIDTH).flip(-2)])
    depths = 4 + images[:, :1]
    cameras = torch.cat([K, K * torch.tensor([1.3, 0.8, 1]).double().view(3, 1)])
    poses = torch.cat([move((0.01, 0.02, 0), (0.3, 0, 0.1)), move((0, -0.03, 0.05), (0, 0.2, -1))])
    together = inverse_warp(images, depths, cameras, poses)
    for i in range(2):
        one = slice(i, i + 1)
        alone = inverse_warp(images[one], depths[one], cameras[one], poses[one])
        for batched, single in zip(together, alone, strict=True):
            torch.testing.assert_close(batched[one], single)


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
    image = texture(5, 6).requires_grad_()
    depth = (4 + texture(5, 6)[:, 1:2]).requires_grad_()
    motion = torch.tensor([[0.01, -0.02, 0.03, 0.11, 0.07, -0.2]], dtype=torch.float64)
    motion.requires_grad_()
    k = torch.tensor([[[5.1, 0, 2.7], [0, 5.3, 2.2], [0, 0, 1]]], dtype=torch.float64)

    def warp(image: Tensor, depth: Tensor, motion: Tensor) -> Tensor:
        return inverse_warp(image, depth, k, pose_matrix(motion[:, :3], motion[:, 3:]))[0]

    assert torch.autograd.gradcheck(warp, (image, depth, motion), eps=1e-7, atol=1e-5)


MIRROR = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))


def mirrored_camera(k: Tensor, width: int) -> Tensor:
    """The camera of the left-right mirrored image, as `fadepth.data.dataset` has it."""
    k = k.clone()
    k[:, 0, 2] = width - 1 - k[:, 0, 2]
    return k


def test_the_mirrored_scene_gives_the_mirrored_warp() -> None:
    image, depth = texture(HEIGHT, WIDTH), 4 + texture(HEIGHT, WIDTH)[:, 2:]
    pose = move((0.02, -0.06, 0.01), (0.3, 0.1, -0.4))
    warped, visible = inverse_warp(image, depth, K, pose)
    assert 0.2 < visible.double().mean() < 0.98
    # x -> -x turns the rotations about y and z and the motion along x around.
    reversed_pose = move((0.02, 0.06, -0.01), (-0.3, 0.1, -0.4))
    torch.testing.assert_close(MIRROR @ pose @ MIRROR, reversed_pose, rtol=0, atol=1e-14)
    camera = mirrored_camera(K, WIDTH)
    other, seen = inverse_warp(image.flip(-1), depth.flip(-1), camera, reversed_pose)
    torch.testing.assert_close(other.flip(-1), warped, rtol=0, atol=1e-10)
    assert torch.equal(seen.flip(-1), visible)
    # The camera must be mirrored with the image.
    wrong, _ = inverse_warp(image.flip(-1), depth.flip(-1), K, reversed_pose)
    assert (wrong.flip(-1) - warped).abs().mean() > 1e-3


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


# A drawn street, whose depth and motion are known exactly


@dataclass(frozen=True)
class Shot:
    """Two frames of a drawn street; images and depths (1, C, H, W) in float64."""

    target: Tensor
    source: Tensor
    depth: Tensor
    source_depth: Tensor
    k: Tensor
    pose: Tensor  # of the target's points in the source camera, (1, 4, 4)
    still: Tensor  # neither pixel nor what it falls on moves by itself, and there is no sky

    def cost(self, depth: Tensor, pose: Tensor) -> Tensor:
        """Photometric error (1, 1, H, W) of the source, warped by `depth` and `pose`."""
        return photometric_error(inverse_warp(self.source, depth, self.k, pose)[0], self.target)

    def compared(self, depth: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Depth of the points over depth of the surface that the source sees there; in view."""
        pixels, z = project_to_source(depth, self.k, pose)
        # A plane's inverse depth is linear in the image, so sampling it is exact.
        return z * sample(1 / self.source_depth, pixels), in_view(pixels, z, *depth.shape[-2:])

    def clear(self) -> Tensor:
        """Pixels whose surroundings of 5x5 are in view of the source, still, and not hidden."""
        ratio, seen = self.compared(self.depth, self.pose)
        doubtful = ~(seen & self.still & ((ratio - 1).abs() < 0.02))
        near = F.max_pool2d(F.pad(doubtful.double(), (2, 2, 2, 2), value=1.0), 5, 1)
        return near == 0


def take_shot(seed: int, neighbour: int, height: int = 128, width: int = 416) -> Shot:
    scene, target = make_scene(seed, 0, 6), 2
    k = torch.tensor(intrinsics(height, width))[None]
    (image, z, part), (other, other_z, other_part) = (
        render_frame(scene, frame, height, width) for frame in (target, neighbour)
    )
    world = [np.vstack([scene.poses[f], [0, 0, 0, 1]]) for f in (target, neighbour)]
    pose = torch.tensor(np.linalg.inv(world[1]) @ world[0])[None]
    depth, source_depth = (
        torch.tensor(d).double().clamp(max=1e5)[None, None] for d in (z, other_z)
    )
    # Sky and ground have negative numbers, which pick the added zeros.
    speed = np.append(scene.parts.speed, [0.0] * 4)
    moving, moving_there = (
        torch.tensor(speed[p] != 0).double()[None, None] for p in (part, other_part)
    )
    pixels, _ = project_to_source(depth, k, pose)
    still = (moving == 0) & (sample(moving_there, pixels) == 0) & (depth < 1e5)
    target_image, source = (
        torch.tensor(i).permute(2, 0, 1)[None].double() / 255 for i in (image, other)
    )
    return Shot(target_image, source, depth, source_depth, k, pose, still)


SHOTS = [(seed, neighbour) for seed in (0, 1, 2) for neighbour in (1, 3)]


@pytest.fixture(scope="module", params=SHOTS, ids=lambda p: f"scene{p[0]}-frame{p[1]}")
def shot(request: pytest.FixtureRequest) -> Shot:
    return take_shot(*request.param)


def turned(pose: Tensor, yaw: float) -> Tensor:
    return pose @ move((0, yaw, 0))


def test_true_depth_and_motion_redraw_the_target(shot: Shot) -> None:
    clear = shot.clear()
    assert clear.double().mean() > 0.4
    true = shot.cost(shot.depth, shot.pose)[clear].mean()
    # What is left is the blur of sampling between pixels.
    assert true < 0.025
    warped, _ = inverse_warp(shot.source, shot.depth, shot.k, shot.pose)
    assert (warped - shot.target).abs().mean(1, keepdim=True)[clear].mean() < 0.01
    # Where a nearer surface hides the point, another thing is seen.
    ratio, seen = shot.compared(shot.depth, shot.pose)
    hidden = seen & shot.still & (ratio > 1.1)
    assert hidden.sum() > 50
    assert shot.cost(shot.depth, shot.pose)[hidden].mean() > 2 * true


def test_a_wrong_motion_or_depth_is_clearly_worse(shot: Shot) -> None:
    clear = shot.clear()

    def cost(depth: Tensor, pose: Tensor) -> float:
        return shot.cost(depth, pose)[clear].mean().item()

    true, depth, pose = cost(shot.depth, shot.pose), shot.depth, shot.pose
    pixel = 1 / shot.k[0, 0, 0].item()  # the yaw that moves the picture by one pixel
    assert cost(depth, torch.eye(4).double()[None]) > 8 * true
    assert cost(depth, invert_pose(pose)) > 8 * true
    assert cost(2 * depth, pose) > 5 * true
    assert cost(depth / 2, pose) > 5 * true
    assert cost(torch.full_like(depth, depth[clear].median().item()), pose) > 3 * true
    assert cost(depth, turned(pose, pixel)) > 2 * true
    assert cost(depth, turned(pose, -pixel)) > 2 * true


def test_the_truth_is_the_minimum(shot: Shot) -> None:
    clear = shot.clear()
    factors = [0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25]
    costs = [shot.cost(shot.depth * f, shot.pose)[clear].mean().item() for f in factors]
    assert costs == sorted(costs[:4], reverse=True) + sorted(costs[4:])
    assert min(costs) == costs[3]
    pixel = 1 / shot.k[0, 0, 0].item()
    yaws = [-2, -1, -0.5, 0, 0.5, 1, 2]
    costs = [shot.cost(shot.depth, turned(shot.pose, y * pixel))[clear].mean().item() for y in yaws]
    assert costs == sorted(costs[:4], reverse=True) + sorted(costs[4:])
    assert min(costs) == costs[3]


def test_nothing_still_floats_before_the_surface_that_the_source_sees(shot: Shot) -> None:
    """A hidden point lies behind what the other camera sees; only a wrong geometry puts it before.

    Beside an edge a sampled depth mixes two surfaces, so a few pixels remain.
    """

    def floating(depth: Tensor, pose: Tensor) -> float:
        ratio, seen = shot.compared(depth, pose)
        return (ratio < 0.97)[seen & shot.still].double().mean().item()

    true = floating(shot.depth, shot.pose)
    assert true < 0.03
    assert floating(shot.depth, torch.eye(4).double()[None]) + floating(
        shot.depth, invert_pose(shot.pose)
    ) > 5 * max(true, 0.01)


@pytest.mark.parametrize("neighbour", [1, 3])
def test_descent_on_the_photometric_error_finds_the_motion(neighbour: int) -> None:
    """From a motion that is off by pixels and decimetres, by the gradient alone."""
    shot = take_shot(0, neighbour, 96, 312)
    clear = shot.clear()
    unit = torch.tensor([[0.005, 0.005, 0.005, 0.1, 0.1, 0.3]]).double()  # radians, metres
    off = torch.tensor([[0.6, -1.2, 0.8, -0.7, 0.5, 1.0]]).double().requires_grad_()
    optimiser = torch.optim.Adam([off], lr=0.2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.02, 40)
    start = off.detach().clone()
    for _ in range(40):
        motion = unit * off
        pose = shot.pose @ pose_matrix(motion[:, :3], motion[:, 3:])
        optimiser.zero_grad()
        shot.cost(shot.depth, pose)[clear].mean().backward()
        optimiser.step()
        schedule.step()
    assert start.abs().min() >= 0.5
    assert off.abs().max() < 0.2, off


def test_the_mirrored_street_costs_the_same(shot: Shot) -> None:
    width = shot.depth.shape[-1]
    k, pose = mirrored_camera(shot.k, width), MIRROR @ shot.pose @ MIRROR
    warped, _ = inverse_warp(shot.source.flip(-1), shot.depth.flip(-1), k, pose)
    error = photometric_error(warped, shot.target.flip(-1)).flip(-1)
    torch.testing.assert_close(error, shot.cost(shot.depth, shot.pose), rtol=0, atol=1e-9)


@pytest.mark.parametrize("factor", [3, 4])
def test_the_street_is_explained_at_smaller_sizes_too(factor: int) -> None:
    shot = take_shot(1, 3, 192, 624)
    clear = F.avg_pool2d(shot.clear().double(), factor) == 1
    views = Views(shot.target, [shot.source], shot.k, [shot.pose])
    small = views.resized(192 // factor, 624 // factor)
    depth = 1 / F.avg_pool2d(1 / shot.depth, factor)

    def cost(k: Tensor, pose: Tensor) -> float:
        warped, _ = inverse_warp(small.sources[0], depth, k, pose)
        return photometric_error(warped, small.target)[clear].mean().item()

    true = cost(small.intrinsics, shot.pose)
    assert true < 0.035
    assert cost(small.intrinsics, torch.eye(4).double()[None]) > 5 * true
    assert cost(shot.k, shot.pose) > 5 * true  # the large image's camera


@pytest.mark.parametrize("size", [(6, 10), (3, 5), (4, 20), (5, 9)])
def test_shrink_is_the_mean_by_area(size: tuple[int, int]) -> None:
    """Whole factors, equal or not on both axes, and others, with and without a gradient."""
    image = texture(12, 20)
    expected = torch.nn.functional.adaptive_avg_pool2d(image, size)
    for x in (image, image.clone().requires_grad_()):
        torch.testing.assert_close(shrink(x, *size), expected, rtol=0, atol=1e-14)
    assert shrink(image, 12, 20) is image


def test_projection_is_automatic_differentiations_and_needs_only_what_is_asked() -> None:
    """Every subset of inputs may want a gradient, and either output may bring one."""
    generator = torch.Generator().manual_seed(0)
    depth = 2 + 5 * torch.rand(2, 1, 4, 6, generator=generator, dtype=torch.float64)
    depth[0, 0, 1] = -3.0  # behind the camera
    motion = pose_matrix(
        *(0.1 * torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    )
    camera = K.double().expand(2, 3, 3)

    def plain(depth: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        grid = pixel_grid(4, 6, depth)
        points = motion[:, :3, :3] @ torch.linalg.inv(camera) @ grid * depth.flatten(2)
        points = camera @ (points + motion[:, :3, 3:])
        z = points[:, 2:]
        places = points[:, :2] / z.clamp(min=1e-3)
        return places.transpose(1, 2).reshape(2, 4, 6, 2), z.reshape(2, 1, 4, 6)

    weights = [torch.randn(shape, generator=generator, dtype=torch.float64)
               for shape in ((2, 4, 6, 2), (2, 1, 4, 6))]  # fmt: skip
    for wanted in ((True, True), (True, False), (False, True)):
        for outputs in ((0,), (1,), (0, 1)):
            gradients = []
            for function in (lambda d, m: project_to_source(d, camera, m), plain):
                inputs = [
                    x.clone().requires_grad_(needs)
                    for x, needs in zip((depth, motion), wanted, strict=True)
                ]
                results = function(*inputs)
                torch.stack([(results[i] * weights[i]).sum() for i in outputs]).sum().backward()
                gradients.append([x.grad for x in inputs])
            for ours, expected in zip(*gradients, strict=True):
                torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
