"""SSIM over 3 x 3 windows and the absolute difference, with their gradient in closed form.

This error is evaluated for every warp of every scale and takes most of the loss's time on a CPU.
Written with automatic differentiation it makes some seventy passes over the images. Written out it
needs about half of them, and makes them block by block, so that what a pass has written is still
in the processor's cache when the next one reads it (docs/decisions/020-training-throughput.md).
The formula is monodepth2's (Wang et al. 2004 with uniform windows, C1 = 0.01^2, C2 = 0.03^2).
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

C1, C2 = 0.01**2, 0.03**2

#: 3 x 3 means of an image and of its square.
Moments = tuple[Tensor, Tensor]

#: Elements of a block on a CPU, 512 kB in float32, so that few of them fill a second-level cache. A
#: GPU, whose passes are launched one by one, takes all at once.
BLOCK = 131072


def _horizontal(x: Tensor, out: Tensor) -> Tensor:
    """Sums of three along the last axis with reflected borders."""
    inner = torch.add(x[..., :-2], x[..., 2:], out=out[..., 1:-1])
    inner.add_(x[..., 1:-1])
    # The pixel beyond the border mirrors the second one within it.
    torch.add(x[..., 0], x[..., 1], alpha=2, out=out[..., 0])
    torch.add(x[..., -1], x[..., -2], alpha=2, out=out[..., -1])
    return out


def _horizontal_adjoint(x: Tensor, out: Tensor) -> Tensor:
    """The transpose of `_horizontal`: what fell on reflected borders moves inside."""
    inner = torch.add(x[..., :-2], x[..., 2:], out=out[..., 1:-1])
    inner.add_(x[..., 1:-1])
    torch.add(x[..., 0], x[..., 1], out=out[..., 0])
    torch.add(x[..., -1], x[..., -2], out=out[..., -1])
    out[..., 1].add_(x[..., 0])
    out[..., -2].add_(x[..., -1])
    return out


def _box(x: Tensor, out: Tensor, scratch: Tensor) -> Tensor:
    """`box_mean` into `out`; `scratch` has the same shape, and neither is `x`."""
    _horizontal(x, scratch)
    _horizontal(scratch.transpose(-1, -2), out.transpose(-1, -2))
    return out.mul_(1 / 9)


def _box_adjoint(x: Tensor, out: Tensor, scratch: Tensor) -> Tensor:
    """The transpose of `_box`, its gradient, into `out`, which may be `x`; `scratch` may not."""
    _horizontal_adjoint(x, scratch)
    _horizontal_adjoint(scratch.transpose(-1, -2), out.transpose(-1, -2))
    return out.mul_(1 / 9)


def box_mean(image: Tensor) -> Tensor:
    """Mean over each pixel's 3 x 3 window with reflected borders: (B, C, H, W) -> the same."""
    image = image.contiguous()
    return _box(image, torch.empty_like(image), torch.empty_like(image))


def local_moments(image: Tensor) -> Moments:
    """3 x 3 means of an image (B, C, H, W) and of its square."""
    return box_mean(image), box_mean(image * image)


Place = tuple[slice, slice]


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[Place, Place]]:
    """Blocks of `a` (n B, C, H, W), and those of `b` (B, C, H, W) that they are compared with.

    As many images as a block holds; if it does not hold one, as many channels, at least one.
    """
    count, channels = b.shape[:2]
    images, planes = count, channels
    if a.device.type == "cpu":
        plane = b[0, 0].numel()
        images = max(1, BLOCK // (channels * plane))
        planes = channels if images > 1 else min(channels, max(1, BLOCK // plane))
    for part in range(0, len(a), count):
        for first in range(0, count, images):
            last = min(first + images, count)
            for start in range(0, channels, planes):
                chosen = slice(start, start + planes)
                yield (slice(part + first, part + last), chosen), (slice(first, last), chosen)


class _Error(torch.autograd.Function):
    """w (1 - SSIM(a, b)) / 2 + (1 - w) |a - b|; the gradient is taken with respect to a only.

    Forward also writes what SSIM's gradient is made of: its derivatives with respect to the local
    means of a, of a^2 and of a b, times -w / 2 and zero where the distance is clamped.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, mean_b: Tensor, bb: Tensor, weight: float
    ) -> Tensor:
        needed = ctx.needs_input_grad[0]
        error = torch.empty_like(a)
        derivatives = [torch.empty_like(a) for _ in range(3)] if needed else []
        for ours, theirs in _blocks(a, b):
            _forward_block(
                a[ours], b[theirs], mean_b[theirs], bb[theirs], weight, error[ours],
                [d[ours] for d in derivatives],
            )  # fmt: skip
        ctx.weight = weight
        ctx.save_for_backward(a, b, *derivatives)
        return error

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *derivatives = ctx.saved_tensors
        result = torch.empty_like(a)
        for ours, theirs in _blocks(a, b):
            _backward_block(
                a[ours], b[theirs], [d[ours] for d in derivatives], ctx.weight,
                gradients[0][ours], result[ours],
            )  # fmt: skip
        return result, None, None, None, None


def _forward_block(
    a: Tensor,
    b: Tensor,
    mean_b: Tensor,
    bb: Tensor,
    weight: float,
    error: Tensor,
    derivatives: list[Tensor],
) -> None:
    scratch, product = torch.empty_like(a), torch.mul(a, a)
    mean_a = _box(a, torch.empty_like(a), scratch)
    aa = _box(product, torch.empty_like(a), scratch)
    ab = _box(torch.mul(a, b, out=product), torch.empty_like(a), scratch)
    means = torch.mul(mean_a, mean_b, out=product)
    n2 = ab.sub_(means).mul_(2).add_(C2)
    n1 = means.mul_(2).add_(C1)
    squares = torch.mul(mean_a, mean_a, out=scratch).addcmul_(mean_b, mean_b)
    d2 = aa.add_(bb).sub_(squares).add_(C2)
    d1 = squares.add_(C1)
    # SSIM = n1 n2 / (d1 d2)
    inverse = torch.mul(d1, d2).reciprocal_()
    ssim = torch.mul(n1, n2).mul_(inverse)
    distance = torch.sub(1, ssim, out=error).mul_(0.5)
    if derivatives:
        by_mean, by_aa, by_ab = derivatives
        inverse.mul_((distance > 0).logical_and_(distance < 1)).mul_(weight)
        torch.mul(ssim, inverse, out=by_aa).mul_(d1).mul_(0.5)
        torch.mul(n1, inverse, out=by_ab).neg_()
        # (n1 - n2) mean_b + (d2 - d1) SSIM mean_a
        torch.sub(n1, n2, out=by_mean).mul_(mean_b)
        by_mean.add_(d2.sub_(d1).mul_(ssim).mul_(mean_a)).mul_(inverse)
    distance.clamp_(0, 1)
    if weight != 1:
        distance.mul_(weight).add_(torch.sub(a, b, out=scratch).abs_(), alpha=1 - weight)


def _backward_block(
    a: Tensor,
    b: Tensor,
    derivatives: list[Tensor],
    weight: float,
    gradient: Tensor,
    result: Tensor,
) -> None:
    by_mean, by_aa, by_ab = derivatives
    weighted, scratch = torch.empty_like(a), torch.empty_like(a)
    _box_adjoint(torch.mul(by_aa, gradient, out=result), result, scratch)
    result.mul_(a).mul_(2)
    _box_adjoint(torch.mul(by_ab, gradient, out=weighted), weighted, scratch)
    result.addcmul_(weighted, b)
    _box_adjoint(torch.mul(by_mean, gradient, out=weighted), weighted, scratch)
    result.add_(weighted)
    if weight != 1:
        sign = torch.sub(a, b, out=weighted).sign_()
        result.addcmul_(sign, gradient, value=1 - weight)


def image_error(
    a: Tensor, b: Tensor, ssim_weight: float, b_moments: Moments | None = None
) -> Tensor:
    """w (1 - SSIM) / 2 + (1 - w) |a - b|, per pixel and channel, shape of `a`.

    The first term is clamped to [0, 1].

    Args:
        a: images (n B, C, H, W) in [0, 1], H and W at least 2; each of the n parts is compared
            with `b`.
        b: images (B, C, H, W) in [0, 1]; takes no gradient.
        ssim_weight: w in (0, 1].
        b_moments: `local_moments(b)` where the caller has it already.
    """
    a, b = a.contiguous(), b.contiguous()
    mean_b, bb = b_moments or local_moments(b)
    return cast(Tensor, _Error.apply(a, b, mean_b, bb, ssim_weight))
