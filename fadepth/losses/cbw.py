"""The bidirectional base loss, `loss.base: cbw`: every pair of frames compared both ways.

Known from the abstract of CbwLoss (arXiv 2212.05845): moving objects and occlusions are dealt with
by differences of flow fields and of depth structure, textureless regions by differences of
features, without extra networks; each term is bidirectional; each pair of images is inferred only
once. Its formulas are not known to us; those here are [derived], with weights close to
SC-SfMLearner's (arXiv 1908.10553):

    p'    = pi(K (R_ab D_a(p) K^-1 p + t_ab)), Z' its depth,  T_ba = T_ab^-1
    W     = sg((1 - dD) exp(-dF))                    dD, dF: `masks.depth_difference`, ...
    L_ab  = sum M W [pe(I_a, I_b(p')) + 0.1 |phi_a - phi_b(p')|] / sum M W + 0.1 sum M dD / sum M
    L     = 1/2 (L_ab + L_ba) + 1e-3 smoothness

- M: in view, not of the ego vehicle, inside the border, and explained better by the warp than by
  standing still.
- phi: the encoder's map at stride 4 (`PHI_LAYERS`), absolute difference averaged over channels and
  taken at the map's own size, with the finest disparity. The map is divided by its root mean square
  over the sample's images and all channels, as a constant: without that, the term would fall by
  making features small.
- Disparities of all scales are compared and averaged as `loss.warp_at` says; D_a and D_b both take
  gradient. With several sources, the mean runs over all pairs.

The depth network infers target and sources in one batch, each image once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fadepth.config import LossSettings
from fadepth.geometry import (
    disparity_to_depth,
    in_view,
    invert_pose,
    pixel_grid,
    project_to_source,
    sample,
    shrink,
)
from fadepth.losses.masks import (
    automask,
    depth_difference,
    flow_difference,
    masked_mean,
    reliability,
    unoccluded,
)
from fadepth.losses.photometric import (
    BaseLoss,
    Views,
    identity_error,
    photometric_error,
    smoothness,
    that_count,
    upsample,
)

#: Where phi leaves each depth network: the end of the encoder's stage of stride 4.
PHI_LAYERS = {"student": "encoder.1", "teacher": "encoder.features.2"}


@contextmanager
def early_features(network: nn.Module, kind: str | None) -> Iterator[list[Tensor]]:
    """Collect phi (B, C, H/4, W/4) of every inference of `network` within.

    Args:
        network: SmallDepth or HQDecV2, not folded.
        kind: `student` or `teacher`; None: nothing is collected.
    """
    found: list[Tensor] = []
    if kind is None:
        yield found
        return

    def keep(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        # Reduced precision (training.amp) ends here: losses are computed in float32.
        found.append(output if output.dtype.itemsize >= 4 else output.float())

    handle = network.get_submodule(PHI_LAYERS[kind]).register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def normalised(phi: Tensor, batch: int) -> Tensor:
    """phi ((1 + S) B, C, h, w) over its root mean square per sample, which takes no gradient.

    One number for target and sources of a sample: a scale for each image would let the same surface
    look different in two of them.
    """
    groups = phi.detach().view(-1, batch, *phi.shape[1:])
    scale = groups.square().mean((0, 2, 3, 4)).sqrt().clamp(min=1e-6)
    return phi / scale.repeat(len(groups)).view(-1, 1, 1, 1)


# Directed pairs: a is explained by b


def first_ends(maps: Tensor, batch: int) -> Tensor:
    """a of every directed pair: ((1 + S) B, ...), targets first -> (2 S B, ...).

    The targets, once for each source, then the sources.
    """
    target, sources = maps[:batch], maps[batch:]
    return torch.cat([target] * (len(sources) // batch) + [sources])


def opposite(ends: Tensor) -> Tensor:
    """b of every directed pair from a of every directed pair."""
    return torch.cat(ends.chunk(2)[::-1])


def directed_pairs(views: Views) -> Views:
    """Target and sources as 2 S B targets with one source each; T_ba is T_ab inverted."""
    count = len(views.sources)
    images = first_ends(torch.cat([views.target, *views.sources]), len(views.target))
    poses = torch.cat(list(views.poses))
    return Views(
        images,
        [opposite(images)],
        views.intrinsics.repeat(2 * count, 1, 1),
        [torch.cat([poses, invert_pose(poses)])],
        # The same camera took all of them.
        None if views.world is None else views.world.repeat(2 * count, 1, 1, 1),
    )


def both_directions(values: Tensor, mask: Tensor) -> Tensor:
    """1/2 (mean_ab + mean_ba), each weighted by its own half of `mask`."""
    forward, backward = zip(values.chunk(2), mask.chunk(2), strict=True)
    return (masked_mean(*forward) + masked_mean(*backward)) / 2


@dataclass(frozen=True)
class Comparison:
    """How b explains a, for N directed pairs; each (N, 1, H, W).

    Attributes:
        error: photometric error of the warped b.
        depth_difference: dD in [0, 1].
        flow_difference: dF in [0, 1), without gradient.
        visible: boolean, a's pixel projects into b.
    """

    error: Tensor
    depth_difference: Tensor
    flow_difference: Tensor
    visible: Tensor

    @property
    def weight(self) -> Tensor:
        """W in [0, 1], without gradient."""
        return reliability(self.depth_difference, self.flow_difference)


def compare(pairs: Views, depth: Tensor, ssim_weight: float) -> Comparison:
    """Warp b to a by a's depth, and compare images, depths and camera flows.

    Args:
        pairs: of `directed_pairs`: a as the target, b as the only source.
        depth: (N, 1, H, W) of a, metres.
        ssim_weight: of the photometric error.
    """
    height, width = depth.shape[-2:]
    pixels, z = project_to_source(depth, pairs.intrinsics, pairs.poses[0])
    with torch.no_grad():
        grid = pixel_grid(height, width, depth)[:2].view(1, 2, height, width)
        flow = pixels.permute(0, 3, 1, 2) - grid
        apart = flow_difference(flow, sample(opposite(flow), pixels))
    warped = sample(pairs.sources[0], pixels)
    return Comparison(
        photometric_error(warped, pairs.target, ssim_weight, pairs.moments),
        depth_difference(z, sample(opposite(depth), pixels)),
        apart,
        in_view(pixels, z, height, width),
    )


def occlusion_weight(pairs: Comparison, kind: str) -> Tensor:
    """What `loss.cbw.occlusion` names, (N, 1, H, W) in [0, 1], without gradient."""
    if kind == "weight":
        return pairs.weight
    if kind == "depth":
        return unoccluded(pairs.depth_difference.detach()).to(pairs.error.dtype)
    return torch.ones_like(pairs.error)


def feature_term(phi: Tensor, disparity: Tensor, pairs: Views, mask: Tensor) -> Tensor:
    """1/2 (mean_ab + mean_ba) of |phi_a - phi_b(p')|, at phi's size.

    Args:
        phi: of a, normalised, (N, C, h, w).
        disparity: of a, the finest, (N, 1, H, W).
        pairs: the N directed pairs.
        mask: M W, (N, 1, H', W').
    """
    size = phi.shape[-2:]
    small = pairs.resized(*size)
    depth = disparity_to_depth(shrink(disparity, *size))
    pixels, _ = project_to_source(depth, small.intrinsics, small.poses[0])
    apart = (phi - sample(opposite(phi), pixels)).abs().mean(1, keepdim=True)
    return both_directions(apart, shrink(mask, *size))


@dataclass(frozen=True)
class Scale:
    """One disparity scale's terms: scalars with gradient, and what the finest one hands on."""

    photometric: Tensor
    consistency: Tensor
    smoothness: Tensor
    pairs: Comparison
    moving: Tensor
    mask: Tensor  # M W


def scale_terms(
    disparity: Tensor, pairs: Views, settings: LossSettings, noise: torch.Generator
) -> Scale:
    """All terms of one scale but the feature term.

    Args:
        disparity: of a, (N, 1, h, w).
        pairs: the N directed pairs at full size.
        settings, noise: as in `cbw_loss`.
    """
    full, size = pairs.target.shape[-2:], disparity.shape[-2:]
    seen = pairs.resized(*size) if settings.warp_at == "scale" else pairs
    depth = disparity_to_depth(upsample(disparity, seen.target))
    found = compare(seen, depth, settings.ssim_weight)
    valid = that_count(found.visible, seen, settings.border, full[0])
    moving = torch.ones_like(valid)
    if settings.automask:
        still = identity_error(seen, settings.ssim_weight)
        still = still + 1e-5 * torch.randn(still.shape, generator=noise).to(still)
        moving = automask(found.error.detach(), still)
    mask = (valid & moving).to(disparity.dtype)
    weighted = mask * occlusion_weight(found, settings.cbw.occlusion)
    return Scale(
        both_directions(found.error, weighted),
        both_directions(found.depth_difference, mask),
        smoothness(disparity, shrink(seen.target, *size)) * size[0] / full[0],
        found,
        moving,
        weighted,
    )


def cbw_loss(
    disparities: Sequence[Tensor],
    views: Views,
    settings: LossSettings,
    noise: torch.Generator,
    phi: Sequence[Tensor] = (),
) -> BaseLoss:
    """The bidirectional loss of the module's docstring [derived].

    Args:
        disparities: of the targets, then of each source in turn, ((1 + S) B, 1, h_s, w_s) in
            (0, 1), finest first.
        views: the clean batch, B targets with S sources.
        settings: weights and switches.
        noise: source of the auto-mask's tie-breaking noise, seeded by the caller.
        phi: early features of the same images, maps of ((1 + S) B, C, h, w); none: no such term.
    """
    batch, count = len(views.target), len(views.sources)
    pairs = directed_pairs(views)
    ends = [first_ends(disparity, batch) for disparity in disparities]
    scales = [scale_terms(disparity, pairs, settings, noise) for disparity in ends]
    finest = scales[0]
    photometric, consistency, smooth = (
        torch.stack([getattr(scale, name) for scale in scales]).mean()
        for name in ("photometric", "consistency", "smoothness")
    )
    total = photometric + settings.cbw.consistency_weight * consistency
    total = total + settings.smoothness_weight * smooth
    parts = {"consistency": consistency.detach(), "weight": finest.mask.mean()}
    if phi and settings.cbw.feature_weight:
        maps = [first_ends(normalised(one, batch), batch) for one in phi]
        terms = [feature_term(one, ends[0], pairs, finest.mask) for one in maps]
        features = torch.stack(terms).mean()
        total = total + settings.cbw.feature_weight * features
        parts["features"] = features.detach()
    # The first half of the pairs looks from the targets, once for each source.
    shape = count, batch, *finest.mask.shape[1:]
    error, visible = (
        of_pairs[: count * batch].view(shape)
        for of_pairs in (finest.pairs.error.detach(), finest.pairs.visible)
    )
    return BaseLoss(
        total=total,
        photometric=photometric.detach(),
        smoothness=smooth.detach(),
        error=error.amin(0),
        visible=that_count(visible.any(0), views, settings.border, views.target.shape[-2]),
        automask_share=finest.moving.to(error.dtype).mean(),
        parts=parts,
    )
