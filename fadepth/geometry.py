"""Cameras, rigid motion and the inverse warp that self-supervision rests on.

Conventions, used everywhere: pixel centres have integer coordinates, so the image spans
[0, W - 1] x [0, H - 1] and `grid_sample` runs with `align_corners=True`. The other setting shifts
the sampled picture by up to half a pixel, and costs 0.026 photometric loss at an identity pose
where this one costs less than 1e-5. `T_target_to_source` maps points of the target camera's frame
into the source camera's frame; camera axes are x right, y down, z forward, in metres up to the
unknown scale of monocular training.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

#: Depth range of the sigmoid's two ends, metres (monodepth2, arXiv 1806.01260).
MIN_DEPTH = 0.1
MAX_DEPTH = 100.0


def disparity_to_inverse_depth(disparity: Tensor) -> Tensor:
    """Map a network's disparity in (0, 1) linearly to inverse depth in 1/metres, (0.01, 10)."""
    return 1 / MAX_DEPTH + (1 / MIN_DEPTH - 1 / MAX_DEPTH) * disparity


def disparity_to_depth(disparity: Tensor) -> Tensor:
    """Map disparity in (0, 1), any shape, to depth in (0.1, 100) metres (monodepth2)."""
    return 1 / disparity_to_inverse_depth(disparity)


def rotation_from_axis_angle(axis_angle: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) of axis-angle vectors (B, 3) in radians (Rodrigues' formula).

    Exact and differentiable at zero: sin(a)/a and (1-cos a)/a^2 are taken from their series where
    a is small, rather than from a normalised axis that zero does not have.
    """
    squared = (axis_angle**2).sum(-1)[:, None, None]
    small = squared < 1e-6
    # The square root has an infinite slope at zero; a harmless stand-in keeps its gradient finite.
    angle = torch.sqrt(torch.where(small, torch.ones_like(squared), squared))
    first = torch.where(small, 1 - squared / 6, torch.sin(angle) / angle)
    second = torch.where(small, 0.5 - squared / 24, (1 - torch.cos(angle)) / angle**2)
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + first * skew + second * (skew @ skew)


def pose_matrix(axis_angle: Tensor, translation: Tensor) -> Tensor:
    """Rigid motions (B, 4, 4) from axis-angle (B, 3), radians, and translation (B, 3), metres."""
    upper = torch.cat([rotation_from_axis_angle(axis_angle), translation[:, :, None]], 2)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=upper.dtype, device=upper.device)
    return torch.cat([upper, last.expand(len(upper), 1, 4)], 1)


def invert_pose(pose: Tensor) -> Tensor:
    """Inverse of rigid motions (B, 4, 4): R^T and -R^T t, without a general matrix inverse."""
    rotation = pose[:, :3, :3].transpose(1, 2)
    upper = torch.cat([rotation, -rotation @ pose[:, :3, 3:]], 2)
    return torch.cat([upper, pose[:, 3:]], 1)


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Homogeneous pixel coordinates (3, H*W), rows u, v, 1; integer pixel centres."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([u, v, torch.ones_like(u)]).reshape(3, -1)


def invert_intrinsics(intrinsics: Tensor) -> Tensor:
    """Inverse of pinhole matrices (B, 3, 3) without skew, in closed form."""
    fx, fy = intrinsics[:, 0, 0], intrinsics[:, 1, 1]
    cx, cy = intrinsics[:, 0, 2], intrinsics[:, 1, 2]
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = [1 / fx, zero, -cx / fx, zero, 1 / fy, -cy / fy, zero, zero, one]
    return torch.stack(rows, -1).view(-1, 3, 3)


def project_to_source(
    depth: Tensor, intrinsics: Tensor, T_target_to_source: Tensor
) -> tuple[Tensor, Tensor]:
    """Where each target pixel lies in the source image.

    Args:
        depth: (B, 1, H, W) of the target view, metres.
        intrinsics: (B, 3, 3), pixels at H x W, the same camera for both views.
        T_target_to_source: (B, 4, 4).

    Returns:
        pixels (B, H, W, 2) as (u', v') in source pixels, and the points' depth Z' (B, 1, H, W) in
        the source camera. p' = pi(K (R D K^-1 p + t)) (monodepth2; SfMLearner, arXiv 1704.07813).
    """
    # K R K^-1 p does not depend on depth; D scales it and K t shifts it.
    infinite = intrinsics @ T_target_to_source[:, :3, :3] @ invert_intrinsics(intrinsics)
    return cast(
        tuple[Tensor, Tensor],
        _Projection.apply(depth, infinite, intrinsics @ T_target_to_source[:, :3, 3:]),
    )


#: Points at or behind the camera have no image; from here on their gradient stays finite, and
#: `in_view` masks them out.
_NEAREST = 1e-3


class _Projection(torch.autograd.Function):
    """pi(D M p + t) and its depth Z', for all pixels p, with the gradient in closed form.

    It runs for every warp of every scale. Automatic differentiation makes three times as many
    passes over the maps, of which those for slices alone fill as many maps with zeros.
    """

    @staticmethod
    def forward(ctx: Any, depth: Tensor, matrix: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, height, width = depth.shape
        grid = pixel_grid(height, width, depth)
        rays = matrix @ grid
        points = torch.addcmul(shift, rays, depth.reshape(batch, 1, -1))
        z = points[:, 2:]
        places = points[:, :2] / z.clamp(min=_NEAREST)
        ctx.save_for_backward(depth, rays, z, places)
        pixels = places.transpose(1, 2).reshape(batch, height, width, 2)
        ctx.set_materialize_grads(False)
        # A copy: z shares its memory with the points.
        return pixels, z.clone().view(batch, 1, height, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        depth, rays, z, places = ctx.saved_tensors
        by_pixels, by_z = gradients
        by_points = torch.zeros_like(rays)
        if by_pixels is not None:
            planes = by_pixels.reshape(len(rays), -1, 2).transpose(1, 2)
            across = torch.div(planes, z.clamp(min=_NEAREST), out=by_points[:, :2])
            along = (across * places).sum(1, keepdim=True)
            # Nearer points are projected as if they were at that distance.
            by_points[:, 2:] = along.mul_(z > _NEAREST).neg_()
        if by_z is not None:
            by_points[:, 2:] += by_z.reshape(z.shape)
        by_depth = by_matrix = by_shift = None
        if ctx.needs_input_grad[0]:
            by_depth = (by_points * rays).sum(1).view(depth.shape)
        if ctx.needs_input_grad[2]:
            by_shift = by_points.sum(2, keepdim=True)
        if ctx.needs_input_grad[1]:
            grid = pixel_grid(depth.shape[2], depth.shape[3], depth)
            by_matrix = by_points.mul_(depth.reshape(len(depth), 1, -1)) @ grid.T
        return by_depth, by_matrix, by_shift


def sample(image: Tensor, pixels: Tensor) -> Tensor:
    """Sample `image` (B, C, H, W) bilinearly at `pixels` (B, h, w, 2), border values outside."""
    height, width = image.shape[-2:]
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)], dtype=pixels.dtype)
    grid = pixels * scale.to(pixels.device) - 1
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def in_view(pixels: Tensor, z: Tensor, height: int, width: int) -> Tensor:
    """Boolean (B, 1, H, W): the pixel projects into the source image and lies in front of it."""
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=pixels.dtype)
    middle = middle.to(pixels.device)
    # Comparing is slow on a CPU, and so there is one comparison for each of the four sides' pairs.
    inside = (pixels - middle).abs_() <= middle
    return (inside[..., 0] & inside[..., 1])[:, None] & (z > _NEAREST)


def inverse_warp(
    source: Tensor, depth: Tensor, intrinsics: Tensor, T_target_to_source: Tensor
) -> tuple[Tensor, Tensor]:
    """Synthesise the target view from `source` (B, C, H, W) by the target's depth and the motion.

    Returns:
        the warped image (B, C, H, W), and the boolean in-view mask (B, 1, H, W).
    """
    pixels, z = project_to_source(depth, intrinsics, T_target_to_source)
    return sample(source, pixels), in_view(pixels, z, *source.shape[-2:])


def shrink(image: Tensor, height: int, width: int) -> Tensor:
    """Resize (B, C, H, W) to a smaller size by area, or return it as it is."""
    if (height, width) == tuple(image.shape[-2:]):
        return image
    factor = image.shape[-2] // height
    whole = (height * factor, width * factor) == tuple(image.shape[-2:])
    if whole and factor > 1 and not image.requires_grad:
        # Torch's own pooling is slow on a CPU: sums of slices take a fifth of its time.
        return _block_means(image, factor)
    return F.interpolate(image, (height, width), mode="area")


def _block_means(image: Tensor, factor: int) -> Tensor:
    rows = image[..., ::factor, :] + image[..., 1::factor, :]
    for start in range(2, factor):
        rows += image[..., start::factor, :]
    cells = rows[..., ::factor] + rows[..., 1::factor]
    for start in range(2, factor):
        cells += rows[..., start::factor]
    return cells.mul_(1 / factor**2)
