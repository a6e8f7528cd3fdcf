"""APX, the function approximation loss: the student approximates a pretrained teacher.

Known [paper, abstract]: APX "transfers knowledge of a pretrained HQDecv2 to SmallDepth". Its
formulas are not known to us. The reading here is [derived]: teacher and student are functions from
images to inverse depth, and the student approximates the teacher in a Sobolev sense, in values and
in derivatives. With u = log q_S, v = log q_T and the residual e = u - v - a:

    APX0 = mean_M rho(e)                                      values (low frequencies)
    APX1 = mean over steps h in {1, 2, 4, 8} and axes of mean_M |e(p + h k) - e(p)|     slopes
    APX2 = mean_M |laplace e|                                 curvature, off by default
    L    = sum_s w_s (a0 APX0_s + a1 APX1_s + a2 APX2_s),     w_s = 4/7, 2/7, 1/7

where a aligns the scales (the median of u - v per image): monocular training leaves the scale of
depth open, so teacher and student need not agree on it. Slopes need no alignment.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fadepth.config import ApxSettings
from fadepth.geometry import disparity_to_inverse_depth
from fadepth.losses.masks import charbonnier, masked_mean
from fadepth.losses.photometric import Views, add_slope_gradient, upsample, warped_error

STEPS = (1, 2, 4, 8)


def flip_reliability(disparity: Tensor, disparity_of_flipped: Tensor) -> Tensor:
    """r_T = exp(-10 |log q(x) - F log q(F x)|) in (0, 1]: where the teacher agrees with itself.

    Args:
        disparity: (B, 1, H, W), the teacher's for the image.
        disparity_of_flipped: (B, 1, H, W), the teacher's for the mirrored image, mirrored back.
    """
    q, q_flipped = (disparity_to_inverse_depth(d) for d in (disparity, disparity_of_flipped))
    return torch.exp(-10 * (torch.log(q) - torch.log(q_flipped)).abs())


def alignment(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """a = sg(median over the mask of student - teacher), per image: (B, 1, 1, 1)."""
    offset = (student - teacher).detach().masked_fill(mask <= 0, float("nan"))
    median = offset.flatten(1).nanmedian(1).values
    # An image without any reliable pixel has no offset; it has no weight either.
    return median.nan_to_num(0.0).view(-1, 1, 1, 1)


def offset_between(student: Tensor, teacher: Tensor, mask: Tensor, settings: ApxSettings) -> Tensor:
    """a as the settings want it, (B, 1, 1, 1): the median, or 0 with `align: none`."""
    if settings.align == "median":
        return alignment(student, teacher, mask)
    return student.new_zeros(len(student), 1, 1, 1)


def value_term(residual: Tensor, mask: Tensor) -> Tensor:
    """APX0: robust mean of the residual (B, 1, H, W)."""
    return masked_mean(charbonnier(residual), mask)


def slope_term(residual: Tensor, mask: Tensor) -> Tensor:
    """APX1: mean absolute difference of the residual over several steps in both axes."""
    return cast(Tensor, _Slopes.apply(residual, mask))


class _Slopes(torch.autograd.Function):
    """The slope term of a residual (B, 1, H, W), its gradient computed at once; none to the mask.

    By automatic differentiation each of the eight pairs of slices would fill two maps with zeros.
    """

    @staticmethod
    def forward(ctx: Any, residual: Tensor, mask: Tensor) -> Tensor:
        pairs = [(step, axis) for step in STEPS for axis in (2, 3) if residual.shape[axis] > step]
        total, gradient = residual.new_zeros(()), torch.zeros_like(residual)
        for step, axis in pairs:
            length = residual.shape[axis] - step
            slope = residual.narrow(axis, step, length) - residual.narrow(axis, 0, length)
            both = mask.narrow(axis, step, length) * mask.narrow(axis, 0, length)
            share = 1 / both.sum().clamp(min=1e-6) / len(pairs)
            total = total + (slope.abs() * both).sum() * share
            add_slope_gradient(gradient, slope.sign_().mul_(both), axis, step, share)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None


def curvature_term(residual: Tensor, mask: Tensor) -> Tensor:
    """APX2: mean absolute discrete Laplacian of the residual, inner pixels only."""
    inner = residual[..., 1:-1, 1:-1]
    laplacian = (
        residual[..., :-2, 1:-1]
        + residual[..., 2:, 1:-1]
        + residual[..., 1:-1, :-2]
        + residual[..., 1:-1, 2:]
        - 4 * inner
    )
    return masked_mean(laplacian.abs(), mask[..., 1:-1, 1:-1])


def photometric_trust(
    teacher: Tensor, offset: Tensor, student_error: Tensor, views: Views, ssim_weight: float
) -> Tensor:
    """m_ph (B, 1, H, W): 1 where the teacher explains the frame about as well as the student.

    0.2 elsewhere. The teacher's inverse depth is brought to the student's scale by `offset` (B, 1,
    1, 1), since the motions come from the student's pose net; with `align: none` both have one
    scale, and the offset is 0.
    """
    aligned = torch.log(disparity_to_inverse_depth(teacher)) + offset
    error, _ = warped_error(views, torch.exp(-aligned), ssim_weight)
    return torch.where(error <= student_error + 0.05, 1.0, 0.2)


def apx_loss(
    disparities: Sequence[Tensor],
    teacher: Tensor,
    reliability: Tensor,
    settings: ApxSettings,
    *,
    views: Views | None = None,
    student_error: Tensor | None = None,
    ssim_weight: float = 0.85,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_APX, before its weight lambda_apx. Gradients reach the student only.

    Args:
        disparities: the student's, (B, 1, h_s, w_s) in (0, 1), finest first.
        teacher: the teacher's disparity (B, 1, H, W) for the same (unflipped or flipped) image.
        reliability: r_T (B, 1, H, W) in (0, 1], from `flip_reliability`.
        settings: weights and switches.
        views: with `student_error`, adds the photometric part of the mask.
        student_error: (B, 1, H, W), the student's photometric error of the finest scale.
        ssim_weight: of that error.

    Returns:
        the loss, and its parts for the log.
    """
    teacher = teacher.detach()
    target = torch.log(disparity_to_inverse_depth(teacher))
    mask = reliability.detach() if settings.mask else torch.ones_like(teacher)
    finest = torch.log(disparity_to_inverse_depth(upsample(disparities[0], teacher)))
    if settings.mask and views is not None and student_error is not None:
        with torch.no_grad():
            offset = offset_between(finest, target, mask, settings)
            trust = photometric_trust(teacher, offset, student_error, views, ssim_weight)
        mask = mask * trust
    parts = {name: teacher.new_zeros(()) for name in ("value", "slope", "curvature")}
    weights = [0.5**scale for scale in range(len(disparities))]
    for disparity, weight in zip(disparities, weights, strict=True):
        share = weight / sum(weights)
        values = torch.log(disparity_to_inverse_depth(upsample(disparity, teacher)))
        residual = values - target - offset_between(values, target, mask, settings)
        parts["value"] = parts["value"] + share * value_term(residual, mask)
        parts["slope"] = parts["slope"] + share * slope_term(residual, mask)
        if settings.curvature_weight:
            parts["curvature"] = parts["curvature"] + share * curvature_term(residual, mask)
    loss = (
        settings.value_weight * parts["value"]
        + settings.slope_weight * parts["slope"]
        + settings.curvature_weight * parts["curvature"]
    )
    return loss, {name: part.detach() for name, part in parts.items()}
