"""SSIM over 3 x 3 windows, with its gradient in closed form.

SSIM is evaluated for every warp of every scale and takes most of the loss's time on a CPU. Written
with automatic differentiation it makes some sixty passes over the images; written out, about half.
The formula is monodepth2's (Wang et al. 2004 with uniform windows, C1 = 0.01^2, C2 = 0.03^2).
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

C1, C2 = 0.01**2, 0.03**2

#: 3 x 3 means of an image and of its square.
Moments = tuple[Tensor, Tensor]


def _sums_of_three(image: Tensor, axis: int) -> Tensor:
    length = image.shape[axis] - 2
    first, second, third = (image.narrow(axis, start, length) for start in range(3))
    return (first + second).add_(third)


def box_mean(image: Tensor) -> Tensor:
    """Mean over each pixel's 3 x 3 window with reflected borders: (B, C, H, W) -> the same."""
    padded = F.pad(image, (1, 1, 1, 1), mode="reflect")
    return _sums_of_three(_sums_of_three(padded, 3), 2).mul_(1 / 9)


def box_mean_adjoint(gradient: Tensor) -> Tensor:
    """Gradient of `box_mean`: the same filter, with what fell on reflected borders moved inside."""
    spread = F.pad(gradient, (2, 2, 2, 2))
    spread = _sums_of_three(_sums_of_three(spread, 3), 2)
    for axis in (2, 3):
        # The pixel beyond the border mirrors the second one within it.
        length = spread.shape[axis]
        spread.narrow(axis, 2, 1).add_(spread.narrow(axis, 0, 1))
        spread.narrow(axis, length - 3, 1).add_(spread.narrow(axis, length - 1, 1))
        spread = spread.narrow(axis, 1, length - 2)
    return spread / 9


def local_moments(image: Tensor) -> Moments:
    """3 x 3 means of an image (B, C, H, W) and of its square."""
    return box_mean(image), box_mean(image * image)


class _SsimDistance(torch.autograd.Function):
    """(1 - SSIM(a, b)) / 2 clamped to [0, 1]; the gradient is taken with respect to a only."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, mean_b: Tensor, bb: Tensor) -> Tensor:
        parts = a.view(-1, *b.shape)
        mean_a, aa = (moment.view(parts.shape) for moment in local_moments(a))
        ab = box_mean((parts * b).view(a.shape)).view(parts.shape)
        product = mean_a * mean_b
        # SSIM = n1 n2 / (d1 d2)
        n1 = (2 * product).add_(C1)
        n2 = ab.sub_(product).mul_(2).add_(C2)
        squares = (mean_a * mean_a).add_(mean_b * mean_b)
        d1 = squares + C1
        d2 = aa.add_(bb).sub_(squares).add_(C2)
        inverse = (d1 * d2).reciprocal_()
        ssim = (n1 * n2).mul_(inverse)
        distance = (1 - ssim).mul_(0.5)
        if ctx.needs_input_grad[0]:
            inside = (distance > 0) & (distance < 1)
            by_mean = (n2 - n1).mul_(inverse).mul_(mean_b)
            by_mean.sub_((1 / d1).sub_(1 / d2).mul_(ssim).mul_(mean_a)).mul_(2)
            by_aa = ssim.div_(d2).neg_()
            by_ab = n1.mul_(inverse).mul_(2)
            ctx.save_for_backward(a, b, inside, by_mean, by_aa, by_ab)
        return distance.clamp_(0, 1).view(a.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, inside, by_mean, by_aa, by_ab = ctx.saved_tensors
        outer = gradients[0].view(inside.shape) * inside
        outer.mul_(-0.5)
        spread = torch.cat([(outer * by).view(a.shape) for by in (by_mean, by_aa, by_ab)], 1)
        mean_term, aa_term, ab_term = box_mean_adjoint(spread).split(a.shape[1], 1)
        result = mean_term + aa_term.mul_(a).mul_(2)
        result.view(inside.shape).add_(ab_term.reshape(inside.shape).mul_(b))
        return result, None, None, None


def ssim_distance(a: Tensor, b: Tensor, b_moments: Moments | None = None) -> Tensor:
    """clamp((1 - SSIM) / 2, 0, 1), per pixel and channel, shape of `a`.

    Args:
        a: images (n B, C, H, W) in [0, 1]; each of the n parts is compared with `b`.
        b: images (B, C, H, W) in [0, 1]; takes no gradient.
        b_moments: `local_moments(b)` where the caller has it already.
    """
    mean_b, bb = b_moments or local_moments(b)
    return cast(Tensor, _SsimDistance.apply(a.contiguous(), b, mean_b, bb))
