"""The self-supervised base loss: photometric error over warped neighbours, and smoothness.

`loss.base: md2` is monodepth2's loss (arXiv 1806.01260), `loss.base: cbw` that of
`fadepth.losses.cbw`. FA-Depth's own base loss is not known from any public source; which one it is
remains open, and this choice is [derived].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fadepth.config import LossSettings
from fadepth.geometry import disparity_to_depth, inverse_warp, shrink
from fadepth.losses.masks import automask, inside_border, masked_mean
from fadepth.losses.ssim import Moments, image_error, local_moments


@dataclass(frozen=True)
class Views:
    """One batch as the losses see it: clean images, cameras and motions.

    Attributes:
        target: (B, 3, H, W) in [0, 1].
        sources: the neighbours, each (B, 3, H, W) in [0, 1].
        intrinsics: (B, 3, 3), pixels at H x W.
        poses: for each source its T_target_to_source (B, 4, 4).
        world: boolean (B, 1, H, W), false where the camera sees its own vehicle; None: nowhere.
        cache: what has been computed from the images alone.
    """

    target: Tensor
    sources: Sequence[Tensor]
    intrinsics: Tensor
    poses: Sequence[Tensor]
    world: Tensor | None = None
    cache: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def moments(self) -> Moments:
        """`local_moments` of the target, which every warp is compared with."""
        if "moments" not in self.cache:
            self.cache["moments"] = local_moments(self.target)
        return self.cache["moments"]

    @property
    def joined(self) -> Tensor:
        """All sources in one batch, (S B, 3, H, W)."""
        if "joined" not in self.cache:
            self.cache["joined"] = torch.cat(list(self.sources))
        return self.cache["joined"]

    def resized(self, height: int, width: int) -> "Views":
        """The same views at another size: images by area, cameras by the half-pixel rule."""
        if (height, width) == tuple(self.target.shape[-2:]):
            return self
        target, joined, cache = self._images_at(height, width)
        factors = [width / self.target.shape[-1], height / self.target.shape[-2]]
        scale = torch.tensor([*factors, 1.0]).to(self.intrinsics).view(3, 1)
        intrinsics = self.intrinsics * scale
        # Pixel centres are integers: the image begins half a pixel before the first one.
        intrinsics[:, :2, 2:] += 0.5 * (scale[:2] - 1)
        # A small pixel counts where nothing of the vehicle went into it.
        world = None if self.world is None else shrink(self.world.float(), height, width) == 1
        sources = joined.chunk(len(self.sources))
        return Views(target, sources, intrinsics, self.poses, world, cache)

    def _images_at(self, height: int, width: int) -> tuple[Tensor, Tensor, dict[Any, Any]]:
        """Target and joined sources at a smaller size, and the cache of what is made of them."""
        key = "resized", height, width
        if key not in self.cache:
            small = shrink(self.joined, height, width)
            self.cache[key] = shrink(self.target, height, width), small, {"joined": small}
        return self.cache[key]

    def with_detached_poses(self) -> "Views":
        """The same views and the same cache, with motions that take no gradient."""
        return replace(self, poses=[pose.detach() for pose in self.poses])


def photometric_error(
    a: Tensor,
    b: Tensor,
    ssim_weight: float = 0.85,
    b_moments: Moments | None = None,
) -> Tensor:
    """pe(a, b) = w (1 - SSIM) / 2 + (1 - w) |a - b|, channels averaged: (B, 1, H, W).

    Arguments as in `fadepth.losses.ssim.image_error`.
    """
    if ssim_weight == 0:
        difference = a.view(len(a) // len(b), *b.shape) - b
        return difference.abs().view(a.shape).mean(1, keepdim=True)
    return image_error(a, b, ssim_weight, b_moments).mean(1, keepdim=True)


def warped_error(views: Views, depth: Tensor, ssim_weight: float) -> tuple[Tensor, Tensor]:
    """Smallest photometric error over the sources, and where any source sees the pixel.

    The minimum over sources deals with occlusion: a pixel hidden in one neighbour is usually seen
    in the other (monodepth2, section 3.2).

    Returns:
        error (B, 1, H, W), and the boolean mask (B, 1, H, W).
    """
    count = len(views.sources)
    # All sources in one batch: half the operations, the same numbers.
    warped, visible = inverse_warp(
        views.joined,
        depth.repeat(count, 1, 1, 1),
        views.intrinsics.repeat(count, 1, 1),
        torch.cat(list(views.poses)),
    )
    error = photometric_error(warped, views.target, ssim_weight, views.moments)
    smallest = error.view(count, *depth.shape).amin(0)
    return smallest, visible.view(count, *depth.shape).any(0)


def identity_error(views: Views, ssim_weight: float) -> Tensor:
    """Smallest photometric error (B, 1, H, W) of the sources as they are, without a warp."""
    key = "identity", ssim_weight
    if key not in views.cache:
        error = photometric_error(views.joined, views.target, ssim_weight, views.moments)
        views.cache[key] = error.view(len(views.sources), -1, *error.shape[1:]).amin(0)
    return views.cache[key]


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness of the mean-normalised disparity, a scalar (monodepth2).

    |d_x d*| exp(-mean_c |d_x I|) + the same in y, with d* = d / mean(d), so that shrinking the
    whole disparity is not rewarded. `image` has the disparity's size.
    """
    normalised = disparity / (disparity.mean((2, 3), keepdim=True) + 1e-7)
    weights = []
    for axis in (2, 3):
        edge = image.diff(dim=axis).abs_().mean(1, keepdim=True)
        weights.append(edge.neg_().exp_())
    return cast(Tensor, _Roughness.apply(normalised, *weights))


class _Roughness(torch.autograd.Function):
    """mean |d_y d| w_y + mean |d_x d| w_x of maps d (B, 1, H, W), its gradient computed at once."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, *weights: Tensor) -> Tensor:
        total, gradient = values.new_zeros(()), torch.zeros_like(values)
        for axis, weight in zip((2, 3), weights, strict=True):
            slope = values.diff(dim=axis)
            total = total + (slope.abs() * weight).mean()
            add_slope_gradient(gradient, slope.sign_().mul_(weight), axis, 1, 1 / slope.numel())
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None


def add_slope_gradient(
    gradient: Tensor, by_slope: Tensor, axis: int, step: int, factor: float | Tensor
) -> None:
    """Add, in place, what a gradient of d(p + step) - d(p) means for d (B, 1, H, W)."""
    length = by_slope.shape[axis]
    scaled = by_slope.mul_(factor)
    gradient.narrow(axis, step, length).add_(scaled)
    gradient.narrow(axis, 0, length).sub_(scaled)


def upsample(disparity: Tensor, like: Tensor) -> Tensor:
    """Bilinear resize of (B, 1, h, w) to the height and width of `like`."""
    if disparity.shape[-2:] == like.shape[-2:]:
        return disparity
    return F.interpolate(disparity, like.shape[-2:], mode="bilinear", align_corners=False)


def that_count(visible: Tensor, views: Views, border: int, full_height: int) -> Tensor:
    """`visible` (B, 1, h, w) without the ego vehicle and `border` full-size pixels at the edge.

    `views` has the size of `visible`.
    """
    if views.world is not None:
        visible = visible & views.world
    if not border:
        return visible
    height, width = visible.shape[-2:]
    return visible & inside_border(height, width, border * height / full_height, visible.device)


@dataclass(frozen=True)
class BaseLoss:
    """Result of a base loss: scalars, and per-pixel results of the finest scale.

    Attributes:
        total: with its gradient; everything else has none.
        photometric, smoothness: its parts, for the log.
        error: (B, 1, H, W), smallest photometric error of the target over its sources.
        visible: boolean (B, 1, H, W), pixels that some source sees, without the border.
        automask_share: of the pixels, those that the auto-mask keeps.
        parts: what else to log.
    """

    total: Tensor
    photometric: Tensor
    smoothness: Tensor
    error: Tensor
    visible: Tensor
    automask_share: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


def base_loss(
    disparities: Sequence[Tensor], views: Views, settings: LossSettings, noise: torch.Generator
) -> BaseLoss:
    """Mean over scales of the masked photometric error and of smoothness (monodepth2).

    Every scale is upsampled to full size before warping, or (`warp_at: scale`) compared at its own
    size with smaller images, which costs a fraction. With the auto-mask, the unwarped sources
    join the minimum, with noise of 1e-5 to break ties; the pixels that they win give no gradient.
    The smoothness weight is divided by the scale's down-sampling factor. Pixels nearer to the edge
    than `border`, and those of the ego vehicle, do not count.

    Args:
        disparities: (B, 1, h_s, w_s) in (0, 1), finest first.
        views: the clean batch.
        settings: weights and switches.
        noise: source of the tie-breaking noise, seeded by the caller.
    """
    target, weight = views.target, settings.ssim_weight
    photometric, smooth = target.new_zeros(()), target.new_zeros(())
    finest: tuple[Tensor, Tensor, Tensor] | None = None
    for disparity in disparities:
        size = disparity.shape[-2:]
        seen = views.resized(*size) if settings.warp_at == "scale" else views
        error, visible = warped_error(
            seen, disparity_to_depth(upsample(disparity, seen.target)), weight
        )
        if finest is None or settings.warp_at == "scale":
            still = identity_error(seen, weight)
            still = still + 1e-5 * torch.randn(still.shape, generator=noise).to(still)
        finest = finest or (error, visible, still)
        kept = torch.minimum(error, still) if settings.automask else error
        if settings.border or views.world is not None:
            everywhere = torch.ones_like(visible)
            mask = that_count(everywhere, seen, settings.border, target.shape[-2])
            photometric = photometric + masked_mean(kept, mask) / len(disparities)
        else:
            photometric = photometric + kept.mean() / len(disparities)
        factor = target.shape[-2] / disparity.shape[-2]
        roughness = smoothness(disparity, shrink(seen.target, *size))
        smooth = smooth + roughness / factor / len(disparities)
    assert finest is not None, "a network returns at least one disparity"
    moving = automask(finest[0], finest[2]) if settings.automask else torch.ones_like(finest[1])
    return BaseLoss(
        total=photometric + settings.smoothness_weight * smooth,
        photometric=photometric.detach(),
        smoothness=smooth.detach(),
        error=finest[0].detach(),
        visible=that_count(finest[1], views, settings.border, target.shape[-2]),
        automask_share=moving.to(target.dtype).mean(),
    )
