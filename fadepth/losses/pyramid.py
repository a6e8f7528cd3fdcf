"""Pyramid loss: every layer sees every context, mirrored and relit.

Known [paper, abstract]: it should "improve the ability of each layer in the case of a fixed
SmallDepth to perceive different context information and improve the robustness of SmallDepth to
the left-right direction and illumination changes". Its formulas are not known to us. All readings
here are [derived]; `loss.pyramid.kind` chooses what the pyramid is made of:

- `inputs`: the same weights see an image pyramid (at level l each receptive field covers 2^l times
  more of the scene), each level mirrored and relit at random, and every such view has to explain
  the same full-resolution geometry:

      x_v   = c(phi(down_{2^l} I))                  phi: flip or none, c: jitter
      d_v^s = up(phi^-1 f_s(x_v))                   the flip is undone, the size restored
      L_pyr = sum_l w_l [ L_ph(d_v^s; clean images) + w_c C(d_v^0, r) ] / sum_l w_l
      C(d, r) = mean_M rho(u_d - sg(u_r)),  u = log inverse depth,  r = the clean view's prediction

  with w_l = 1, 1/2, 1/4, ...; within level 0 the decoder scales weigh 1, 1/2, 1/4 (normalised), and
  coarser levels use their finest scale only, since each warp runs at full size.
- `outputs`: one altered view of full size; the levels are the decoder's output scales, each of
  which has to explain the scene alone: L_ph(d^l) + w_c C(d^l, r) for every l.
- `features`: the views of `inputs`, but what agrees is not the disparity. The encoder's features of
  the altered view, flip undone and size restored, agree with those of the clean view:
  A = mean over stages of mean_M (1 - cos(phi_v(p), sg phi(p))), the angle between channel vectors.

In all of them r is the prediction of the clean image at full size, in the orientation in which the
batch came. (With `jitter: false` the training's own jitter stays on the image that r is for.)
Data augmentation may have mirrored a sample as a whole, with its neighbours and its camera: that is
another consistent sample, and nothing is undone. The views' own flip is undone on the prediction,
so cameras and warps never see it. `reference: post_processed` takes the mean of r and of the
mirrored image's prediction, mirrored back.
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
from fadepth.geometry import disparity_to_depth, disparity_to_inverse_depth, shrink
from fadepth.losses.masks import charbonnier, masked_mean
from fadepth.losses.photometric import Views, identity_error, upsample, warped_error

FEATURE_STAGES = (2, 3, 4)
"""Encoder stages that `kind: features` compares, strides 8, 16 and 32 [derived].

Strides 2 and 4 hold edges: a mirror image reverses their direction, and to ask for equal channels
there would cost the network its oriented filters.
"""


@dataclass(frozen=True)
class AlteredView:
    """One altered input: image (B, 3, h, w) in [0, 1], and whether it is mirrored."""

    level: int
    image: Tensor
    flipped: bool


@dataclass(frozen=True)
class Reference:
    """The clean image's pass through the network; no gradient goes back to it.

    Attributes:
        disparity: (B, 1, H, W) in (0, 1).
        features: of `encoder_features`, for `kind: features`.
    """

    disparity: Tensor
    features: Sequence[Tensor] = ()


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise by batch statistics without updating the running ones or their count.

    The folded network runs on clean full-size images; statistics of small, relit images would
    leak into it through the batch-norm layers that folding makes permanent. Hiding the buffers is
    stronger than a momentum of zero, by which one infinite activation would still spoil them.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    tracked = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, before in zip(layers, tracked, strict=True):
            layer.track_running_stats = before


@contextmanager
def encoder_features(model: nn.Module, wanted: bool) -> Iterator[list[Tensor]]:
    """Collect what the stages `FEATURE_STAGES` of `model.encoder` return within, (B, C_s, h, w).

    Nothing where it is not `wanted`.
    """
    found: list[Tensor] = []

    def keep(_stage: nn.Module, _inputs: object, features: Tensor) -> None:
        # Reduced precision (training.amp) ends here: losses are computed in float32.
        found.append(features if features.dtype.itemsize >= 4 else features.float())

    stages = list(model.get_submodule("encoder").children()) if wanted else []
    chosen = [stages[stage] for stage in FEATURE_STAGES if wanted]
    handles = [stage.register_forward_hook(keep) for stage in chosen]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def altered_views(
    image: Tensor, settings: PyramidSettings, jitter: JitterSettings, generator: torch.Generator
) -> list[AlteredView]:
    """Draw one (flip, jitter) per view of a clean image batch (B, 3, H, W).

    The flip is one for the batch, the jitter one per image. There is a view for each pyramid level,
    2^l times smaller; `kind: outputs` has one view, of full size.
    """
    views = []
    for level in range(1 if settings.kind == "outputs" else settings.levels):
        view = image
        if level:
            height, width = (max(1, round(side / 2**level)) for side in image.shape[-2:])
            view = shrink(image, height, width)
        flip = bool(torch.rand((), generator=generator) < 0.5) and settings.flip
        if flip:
            view = view.flip(-1)
        if settings.jitter:
            view = jitter_batch(view, jitter, generator)
        views.append(AlteredView(level, view, flip))
    return views


def unaltered(view: AlteredView, prediction: Tensor, like: Tensor) -> Tensor:
    """Undo flip and size on disparities or features (B, C, h, w): those of the original frame."""
    return upsample(prediction.flip(-1) if view.flipped else prediction, like)


@torch.no_grad()
def post_processed(model: nn.Module, clean: Tensor, disparity: Tensor) -> Tensor:
    """1/2 (d + F d(F I)) (B, 1, H, W): the mean of both orientations, a teacher without sides.

    The mirrored pass leaves no trace in the running statistics: it is an altered view.
    """
    with frozen_running_statistics(model):
        mirrored: Sequence[Tensor] = model(clean.flip(-1))
    return (disparity.detach() + mirrored[0].flip(-1)) / 2


def consistency(disparity: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """C(d, r): robust distance of log inverse depths over `mask`; `reference` takes no gradient."""
    error = torch.log(disparity_to_inverse_depth(disparity)) - torch.log(
        disparity_to_inverse_depth(reference.detach())
    )
    return masked_mean(charbonnier(error), mask)


def feature_agreement(
    view: AlteredView, features: Sequence[Tensor], reference: Sequence[Tensor], mask: Tensor
) -> Tensor:
    """A in [0, 2]: mean over stages of 1 - cos of channel vectors; no gradient to `reference`.

    Args:
        view: which the features are of.
        features: of the altered view, one (B, C_s, h_s, w_s) per stage.
        reference: of the clean view, one (B, C_s, H_s, W_s) per stage.
        mask: (B, 1, H, W), brought to each stage's size by area.
    """
    terms = []
    for altered, clean in zip(features, reference, strict=True):
        # Half the squared distance of unit vectors is 1 - cos, and 0 where both are zero.
        apart = F.normalize(unaltered(view, altered, clean)) - F.normalize(clean.detach())
        seen = shrink(mask.to(apart.dtype), *clean.shape[-2:])
        terms.append(masked_mean(apart.square().sum(1, keepdim=True) / 2, seen))
    return torch.stack(terms).mean()


@dataclass(frozen=True)
class Judge:
    """The photometric term: clean images, the pixels that count, and how errors are measured.

    Attributes:
        views: clean images, cameras and motions.
        visible: (B, 1, H, W) boolean.
        ssim_weight: of the photometric error.
        automask: whether unwarped neighbours join the minimum, as in `base_loss`.
    """

    views: Views
    visible: Tensor
    ssim_weight: float
    automask: bool

    def errors(self, disparities: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Mean photometric error of disparities (B, 1, H, W), compared at `size`.

        They weigh 1, 1/2, 1/4, ... (normalised).
        """
        seen = self.views.resized(*size)
        mask = shrink(self.visible.to(seen.target.dtype), *size)
        # As in the base loss: what the unwarped neighbours explain better (a car ahead that
        # drives as fast as the camera) must not be pushed to infinity.
        still = identity_error(seen, self.ssim_weight) if self.automask else None
        scales = [0.5**s for s in range(len(disparities))]
        total = seen.target.new_zeros(())
        for disparity, scale in zip(disparities, scales, strict=True):
            depth = disparity_to_depth(upsample(disparity, seen.target))
            error, _ = warped_error(seen, depth, self.ssim_weight)
            kept = error if still is None else torch.minimum(error, still)
            total = total + scale / sum(scales) * masked_mean(kept, mask)
        return total


@dataclass(frozen=True)
class Level:
    """One level of the pyramid, un-altered.

    Attributes:
        weight: w_l.
        disparities: (B, 1, H, W); the first one is held against the reference, all of them against
            the images.
        size: (height, width) at which images are compared.
    """

    weight: float
    disparities: Sequence[Tensor]
    size: Sequence[int]


def levels_of(
    view: AlteredView,
    outputs: Sequence[Tensor],
    clean: Tensor,
    settings: PyramidSettings,
    warp_at: str,
) -> list[Level]:
    """What one altered view contributes: itself, or with `kind: outputs` each output scale."""
    restored = [unaltered(view, output, clean) for output in outputs]
    full, at_own_size = clean.shape[-2:], warp_at == "scale"
    if settings.kind == "outputs":
        return [
            Level(0.5**scale, [restored[scale]], output.shape[-2:] if at_own_size else full)
            for scale, output in enumerate(outputs[: settings.levels])
        ]
    used = restored[:1] if view.level or at_own_size else restored
    return [Level(0.5**view.level, used, view.image.shape[-2:] if at_own_size else full)]


def pyramid_loss(
    model: nn.Module,
    clean: Tensor,
    reference: Reference,
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
        reference: the student's own pass over `clean`.
        visible: (B, 1, H, W) boolean, pixels that some source sees.
        views: clean images, cameras and motions; motions take no gradient here.
        settings: kind, levels, switches and weights.
        jitter: strength of the relighting.
        ssim_weight: of the photometric error.
        warp_at: "full", or "scale": compare level l at its own size, and its finest scale only.
        automask: whether unwarped neighbours join the minimum, as in `base_loss`.
        epoch: fractional epoch, for the warm-up of the consistency weight.
        generator: source of flips and jitter, seeded by the caller.

    Returns:
        the loss, and its parts for the log.
    """
    judge = Judge(views.with_detached_poses(), visible, ssim_weight, automask)
    target = reference.disparity
    if settings.reference == "post_processed":
        target = post_processed(model, clean, target)
    by_features = settings.kind == "features"
    photometric, agreement = clean.new_zeros(()), clean.new_zeros(())
    total_weight = 0.0
    for view in altered_views(clean, settings, jitter, generator):
        with frozen_running_statistics(model), encoder_features(model, by_features) as features:
            outputs: Sequence[Tensor] = model(view.image)
        for level in levels_of(view, outputs, clean, settings, warp_at):
            if settings.photometric:
                errors = judge.errors(level.disparities, level.size)
                photometric = photometric + level.weight * errors
            apart = (
                feature_agreement(view, features, reference.features, visible)
                if by_features
                else consistency(level.disparities[0], target, visible)
            )
            agreement = agreement + level.weight * apart
            total_weight += level.weight
    photometric, agreement = photometric / total_weight, agreement / total_weight
    warmup = min(1.0, epoch / settings.warmup_epochs) if settings.warmup_epochs else 1.0
    loss = photometric + warmup * settings.consistency_weight * agreement
    return loss, {"photometric": photometric.detach(), "consistency": agreement.detach()}
