"""Pyramid loss: every layer sees every context, mirrored and relit.

Known [paper, abstract]: it should "improve the ability of each layer in the case of a fixed
SmallDepth to perceive different context information and improve robustness to the left-right
direction and illumination changes". Its formulas are not public. The reading here is [derived]:
the same weights see an image pyramid (at level l each receptive field covers 2^l times more of the
scene), each level mirrored and relit at random, and every such view has to explain the same
full-resolution geometry:

    x_v   = c(phi(down_{2^l} I))                  phi: flip or none, c: jitter
    d_v^s = up(phi^-1 f_s(x_v))                   the flip is undone, the size restored
    L_pyr = sum_l w_l [ L_ph(d_v^s; clean images) + w_c C(d_v^0, r) ] / sum_l w_l
    C(d, r) = mean_M rho(u_d - sg(u_r)),  u = log inverse depth,  r = the clean view's prediction

with w_l = 1, 1/2, 1/4, ...; within level 0 the decoder scales weigh 1, 1/2, 1/4 (normalised), and
coarser levels use their finest scale only, since each warp runs at full size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fadepth.config import JitterSettings, PyramidSettings
from fadepth.data.augment import jitter_batch
from fadepth.geometry import disparity_to_depth, disparity_to_inverse_depth
from fadepth.losses.masks import charbonnier, masked_mean
from fadepth.losses.photometric import Views, identity_error, upsample, warped_error


@dataclass(frozen=True)
class AlteredView:
    """One pyramid level's input: image (B, 3, h, w) in [0, 1], and whether it is mirrored."""

    level: int
    image: Tensor
    flipped: bool


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise by batch statistics without updating the running ones.

    The folded network runs on clean full-size images; statistics of small, relit images would
    leak into it through the batch-norm layers that folding makes permanent.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def altered_views(
    image: Tensor, settings: PyramidSettings, jitter: JitterSettings, generator: torch.Generator
) -> list[AlteredView]:
    """Draw one (flip, jitter) per pyramid level for a clean image batch (B, 3, H, W)."""
    views = []
    for level in range(settings.levels):
        view = image
        if level:
            size = [max(1, round(side / 2**level)) for side in image.shape[-2:]]
            view = F.interpolate(image, size, mode="area")
        flip = bool(torch.rand((), generator=generator) < 0.5) and settings.flip
        if flip:
            view = view.flip(-1)
        if settings.jitter:
            view = jitter_batch(view, jitter, generator)
        views.append(AlteredView(level, view, flip))
    return views


def unaltered(view: AlteredView, disparity: Tensor, like: Tensor) -> Tensor:
    """Undo flip and size on a disparity (B, 1, h, w): the prediction for the original frame."""
    return upsample(disparity.flip(-1) if view.flipped else disparity, like)


def consistency(disparity: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """C(d, r): robust distance of log inverse depths over `mask`; `reference` takes no gradient."""
    error = torch.log(disparity_to_inverse_depth(disparity)) - torch.log(
        disparity_to_inverse_depth(reference.detach())
    )
    return masked_mean(charbonnier(error), mask)


def pyramid_loss(
    model: nn.Module,
    clean: Tensor,
    reference: Tensor,
    visible: Tensor,
    views: Views,
    settings: PyramidSettings,
    *,
    jitter: JitterSettings,
    ssim_weight: float,
    warp_at: str,
    automask: bool,
    epoch: float,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_pyr, before its weight lambda_pyr.

    Args:
        model: the student, in training mode.
        clean: (B, 3, H, W), the unaltered target image.
        reference: (B, 1, H, W), the student's disparity for the clean view.
        visible: (B, 1, H, W) boolean, pixels that some source sees.
        views: clean images, cameras and motions; motions take no gradient here.
        settings: levels, switches and weights.
        jitter: strength of the relighting.
        ssim_weight: of the photometric error.
        warp_at: "full", or "scale": compare level l at its own size, and its finest scale only.
        automask: whether unwarped neighbours join the minimum, as in `base_loss`.
        epoch: fractional epoch, for the warm-up of the consistency weight.
        generator: source of flips and jitter, seeded by the caller.

    Returns:
        the loss, and its parts for the log.
    """
    views = views.with_detached_poses()
    warmup = min(1.0, epoch / settings.warmup_epochs) if settings.warmup_epochs else 1.0
    photometric = clean.new_zeros(())
    agreement = clean.new_zeros(())
    total_weight = 0.0
    for view in altered_views(clean, settings, jitter, generator):
        with frozen_running_statistics(model):
            outputs: Sequence[Tensor] = model(view.image)
        weight = 0.5**view.level
        total_weight += weight
        disparities = [unaltered(view, output, clean) for output in outputs]
        if settings.photometric:
            used = disparities if view.level == 0 and warp_at == "full" else disparities[:1]
            scales = [0.5**s for s in range(len(used))]
            size = view.image.shape[-2:] if warp_at == "scale" else clean.shape[-2:]
            seen = views.resized(*size)
            mask = F.interpolate(visible.to(clean.dtype), size, mode="area")
            # As in the base loss: what the unwarped neighbours explain better (a car ahead that
            # drives as fast as the camera) must not be pushed to infinity.
            still = identity_error(seen, ssim_weight) if automask else None
            for disparity, scale in zip(used, scales, strict=True):
                depth = disparity_to_depth(upsample(disparity, seen.target))
                error, _ = warped_error(seen, depth, ssim_weight)
                kept = error if still is None else torch.minimum(error, still)
                term = masked_mean(kept, mask)
                photometric = photometric + weight * scale / sum(scales) * term
        agreement = agreement + weight * consistency(disparities[0], reference, visible)
    photometric, agreement = photometric / total_weight, agreement / total_weight
    loss = photometric + warmup * settings.consistency_weight * agreement
    return loss, {"photometric": photometric.detach(), "consistency": agreement.detach()}
