"""ETM, the equivalent transformation module: many branches while training, one convolution after.

[paper] says only that ETM raises the feature representation ability of SmallDepth during training
"under the condition of equal complexity during inference". Everything below is [derived]; the
branch ideas come from the public code of RepVGG, ACNet, DBB, OREPA and MobileOne.

One principle makes every branch fold exactly, at the border too: the input is padded ONCE, before
all branches. Each branch is then a linear map of the k x k window of the padded image, evaluated
"valid" (no padding of its own) with the unit's stride and groups, and the branches are summed:

    y(q) = sum_j  K_j . window(q) + b_j   =   (sum_j K_j) . window(q) + (sum_j b_j)

so the sum is one k x k convolution. Batch norm takes part as the affine map it is in evaluation,
BN(z) = a z + c, with a = gamma / sqrt(var + eps) and c = beta - mean a. (Padding between a 1x1+BN
and a k x k convolution instead would have to pad with c, not with 0: an error at the border.)

Two spaces, chosen by `EtmConv2d(space=...)`:

- "activation": the branches are run side by side; each ends in its own BN (RepVGG, ACNet, DBB).
- "kernel": the branches' kernels, each with a learned scale per output channel, are summed and
  ONE convolution is run, followed by one BN (the idea of OREPA): cheap to train.

All kernels here have the layout of `nn.Conv2d.weight`, (out, in / groups, height, width). A branch
with more groups than its unit is sparser, and embeds as a block-diagonal kernel (`regroup`); one
with fewer groups is denser, has taps where the unit has none, and is refused at construction, as
is every other chain of layers that is not one k x k convolution (`_why_no_fold`).
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fadepth.errors import FadepthError

Space = Literal["activation", "kernel"]
PaddingMode = Literal["zeros", "reflect", "replicate"]
Ending = Literal["bn", "scale", "none"]


@dataclass(frozen=True)
class Window:
    """The convolution a unit folds into; what a branch has to know about its unit."""

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    groups: int
    ending: Ending  # what ends a branch: "bn" in activation space, "scale" in kernel space

    def __post_init__(self) -> None:
        if self.kernel_size not in (1, 3, 5, 7):
            raise FadepthError(f"ETM kernel_size must be 1, 3, 5 or 7, not {self.kernel_size}.")
        if self.stride not in (1, 2):
            raise FadepthError(f"ETM stride must be 1 or 2, not {self.stride}.")
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise FadepthError(
                f"ETM groups must divide both channel counts, but {self.groups} does not divide "
                f"{self.in_channels} and {self.out_channels}."
            )

    @property
    def padding(self) -> int:
        return (self.kernel_size - 1) // 2


# ------------------------------------------------------------------------------ kernel algebra


def regroup(kernel: Tensor, groups: int, target: int) -> Tensor:
    """The same linear map written with fewer groups: (O, I/groups, ...) -> (O, I/target, ...)."""
    if groups == target:
        return kernel
    ratio = groups // target
    out_channels = len(kernel)
    block = torch.arange(out_channels, device=kernel.device) // (out_channels // groups) % ratio
    where = F.one_hot(block, ratio).to(kernel.dtype)
    return (where[:, :, None, None, None] * kernel[:, None]).flatten(1, 2)


def centre(kernel: Tensor, size: int) -> Tensor:
    """Zero-pad a kernel of odd height and width to size x size."""
    height, width = ((size - extent) // 2 for extent in kernel.shape[-2:])
    return F.pad(kernel, (width, width, height, height)) if width or height else kernel


def compose(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], groups: int
) -> tuple[Tensor, Tensor]:
    """Kernel and bias of `second` after `first`, both 'valid' and with the same groups.

    K = sum_m K2[o,m] (full convolution) K1[m,i], of size k1 + k2 - 1; b = b2 + sum_m,uv K2 b1.
    Exact if the first has stride 1 or the second is 1x1.
    """
    (kernel1, bias1), (kernel2, bias2) = first, second
    height, width = kernel2.shape[-2:]
    # Each input channel within a group plays the part of one image of the batch.
    kernel = F.conv2d(
        kernel1.transpose(0, 1),
        kernel2.flip(-2, -1),
        padding=(height - 1, width - 1),
        groups=groups,
    ).transpose(0, 1)
    offset = F.conv2d(bias1[None, :, None, None].expand(1, -1, height, width), kernel2, None, 1, 0,
                      1, groups)  # fmt: skip
    return kernel, bias2 + offset.flatten()


class Scale(nn.Module):
    """A learned factor per output channel: what ends a branch in kernel space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


def absorb(norm: nn.Module, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution followed by `norm` (a BN as in evaluation, or a Scale)."""
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None and norm.running_var is not None
        factor = torch.rsqrt(norm.running_var + norm.eps)
        if norm.affine:
            factor = norm.weight * factor
        shift = -norm.running_mean * factor + (norm.bias if norm.affine else 0.0)
        return kernel * factor[:, None, None, None], bias * factor + shift
    if isinstance(norm, Scale):
        return kernel * norm.weight[:, None, None, None], bias * norm.weight
    return kernel, bias


def _last_norm(ending: Ending, channels: int) -> nn.Module:
    if ending == "bn":
        return nn.BatchNorm2d(channels)
    return Scale(channels) if ending == "scale" else nn.Identity()


def _inner_norm(ending: Ending, channels: int) -> nn.Module:
    # Not affine: the next layer's weights absorb a factor, and the BN at the branch's end removes
    # a shift (exactly, since the input was padded first), so its gradient would always be zero.
    return nn.BatchNorm2d(channels, affine=False) if ending == "bn" else nn.Identity()


def convolve(
    x: Tensor, kernel: Tensor, stride: int, groups: int, padding: int = 0, dilation: int = 1
) -> Tensor:
    """`F.conv2d` without bias, safe for strided 1x1 kernels on the CPU."""
    if kernel.shape[-2:] == (1, 1) and stride > 1:
        # Subsample by hand: the backward pass of a strided 1x1 with few channels in channels_last
        # corrupts memory (https://github.com/uxlfoundation/oneDNN/issues/6035).
        x, stride = x[..., ::stride, ::stride], 1
    return F.conv2d(x, kernel, None, stride, padding, dilation, groups)


# ------------------------------------------------------------ layers: the pieces of a branch


class Layer(nn.Module):
    """A 'valid' convolution without bias and with learned weights, then a norm.

    `inner=True` marks a layer that another one follows.
    """

    norm: nn.Module

    def __init__(
        self,
        ending: Ending,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        groups: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        inner: bool = False,
    ) -> None:
        super().__init__()
        self.groups, self.stride, self.dilation = groups, stride, dilation
        self.extent = tuple((taps - 1) * dilation + 1 for taps in size)
        self.make_weight(in_channels, out_channels, size)
        self.norm = (_inner_norm if inner else _last_norm)(ending, out_channels)

    def make_weight(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // self.groups, *size))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(convolve(x, self.weight, self.stride, self.groups, dilation=self.dilation))

    def kernel(self) -> Tensor:
        """The taps without the norm, (out, in / self.groups, *extent), with zeros if dilated."""
        if self.dilation == 1:
            return self.weight
        stuffed = self.weight.new_zeros(*self.weight.shape[:2], *self.extent)
        stuffed[..., :: self.dilation, :: self.dilation] = self.weight
        return stuffed

    def kernel_and_bias(self, groups: int) -> tuple[Tensor, Tensor]:
        """The layer with its norm, written with `groups` groups."""
        kernel = regroup(self.kernel(), self.groups, groups)
        return absorb(self.norm, kernel, kernel.new_zeros(len(kernel)))


class FixedLayer(Layer):
    """A depthwise mean over `size`; over 1x1 it is the identity. Nothing to learn but the norm."""

    ones: Tensor

    def make_weight(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        self.register_buffer("ones", torch.ones(out_channels, 1, *size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x if self.extent == (1, 1) else F.avg_pool2d(x, self.extent, self.stride))

    def kernel(self) -> Tensor:
        return self.ones / math.prod(self.extent)


class FilterLayer(Layer):
    """Depthwise 3x3: per channel a learned mix of Sobel x, Sobel y, Laplace and the identity."""

    filters: Tensor

    def make_weight(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
        laplace = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]) / 4
        delta = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
        filters = torch.stack([sobel, sobel.T, laplace, delta])
        self.register_buffer("filters", filters, persistent=False)
        self.mix = nn.Parameter(torch.randn(out_channels, len(filters)) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(convolve(x, self.kernel(), self.stride, self.groups))

    def kernel(self) -> Tensor:
        return torch.einsum("cf,fuv->cuv", self.mix, self.filters)[:, None]


# ----------------------------------------------------------------------------------- branches


class Branch(nn.Module):
    """A chain of one or two layers, seen as one linear map of the unit's k x k window.

    A kind of branch says in `build` which layers it chains and in `obstacle` where it has no place.
    Nothing nonlinear may stand between the layers.
    `groups`: the branch's own groups, a multiple of the unit's (default: the unit's).
    Raises FadepthError if the branch could not be folded into the unit.
    """

    layers: nn.Sequential

    def __init__(self, window: Window, groups: int | None = None) -> None:
        super().__init__()
        kind = type(self).__name__
        obstacle = self.obstacle(window)
        if obstacle:
            raise FadepthError(f"ETM branch {kind} cannot be used in this unit: it {obstacle}.")
        groups = window.groups if groups is None else groups
        if groups < 1 or window.in_channels % groups or window.out_channels % groups:
            raise FadepthError(
                f"ETM branch {kind}: {groups} groups do not divide its unit's channels, "
                f"{window.in_channels} -> {window.out_channels}."
            )
        self.window = window
        layers = self.build(window, groups)
        self.layers = nn.Sequential(*layers)
        reason = _why_no_fold(window, layers)
        if reason:
            raise FadepthError(f"ETM branch {kind} cannot fold: {reason}.")
        self.crop = tuple((window.kernel_size - reach) // 2 for reach in _reach(layers))

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        """Why such a unit cannot have (or has no use for) this branch; None if it can."""
        return None

    def build(self, w: Window, groups: int) -> list[Layer]:
        raise NotImplementedError

    def chain(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))

    def forward(self, padded: Tensor, x: Tensor) -> Tensor:
        """Padded input (B, Cin, H + 2p, W + 2p), and the same unpadded -> (B, Cout, H', W').

        A branch that sees less than the window takes the part of the padded input that keeps it
        centred; where that is the unpadded input, reading it directly is faster than a view.
        """
        dy, dx = self.crop
        if dy == dx == self.window.padding:
            return self.layers(x)
        height, width = padded.shape[-2:]
        return self.layers(padded[..., dy : height - dy, dx : width - dx])

    def kernel_and_bias(self) -> tuple[Tensor, Tensor]:
        """(Cout, Cin / groups, k, k) and (Cout,), differentiable; BN as in evaluation."""
        groups = self.window.groups
        first, *rest = (layer.kernel_and_bias(groups) for layer in self.chain())
        for following in rest:
            first = compose(first, following, groups)
        return centre(first[0], self.window.kernel_size), first[1]


def _reach(layers: list[Layer]) -> list[int]:
    """Height and width of what one output of the chain sees, if no layer but the last strides."""
    return [sum(layer.extent[axis] - 1 for layer in layers) + 1 for axis in (0, 1)]


def _why_no_fold(w: Window, layers: list[Layer]) -> str | None:
    """Why a chain of layers is not one convolution of the unit's window; None if it is."""
    for index, layer in enumerate(layers):
        if layer.groups % w.groups:
            return (
                f"a layer with {layer.groups} groups is denser than its unit with {w.groups}, "
                "give it a multiple of the unit's groups"
            )
        if layer.stride > 1 and any(later.extent != (1, 1) for later in layers[index + 1 :]):
            return "only 1x1 layers may follow one with a stride, let the last large layer stride"
        fixed = isinstance(layer.norm, nn.BatchNorm2d) and layer.norm.track_running_stats
        if not fixed and not isinstance(layer.norm, Scale | nn.Identity):
            return (
                f"{type(layer.norm).__name__} is no fixed affine map in evaluation, "
                "use batch norm with running statistics"
            )
    stride = math.prod(layer.stride for layer in layers)
    if stride != w.stride:
        return f"its stride is {stride} and the unit's {w.stride}, they must be the same"
    if any(reach > w.kernel_size or (w.kernel_size - reach) % 2 for reach in _reach(layers)):
        height, width = _reach(layers)
        return (
            f"it sees {height}x{width} pixels, which cannot be centred in the unit's "
            f"{w.kernel_size}x{w.kernel_size}"
        )
    return None


def _needs_area(w: Window) -> str | None:
    return "needs a kernel larger than 1x1" if w.kernel_size == 1 else None


def _needs_mixing(w: Window) -> str | None:
    # With one channel per group a 1x1 layer is one number, which the BN after it cancels.
    return "needs more than one channel per group" if w.in_channels == w.groups else None


def _needs_same_channels(w: Window) -> str | None:
    if w.in_channels == w.out_channels:
        return None
    return f"needs as many output as input channels, not {w.in_channels} -> {w.out_channels}"


class Square(Branch):
    """k x k. Several of them in one unit are MobileOne's copies."""

    def build(self, w: Window, groups: int) -> list[Layer]:
        k = w.kernel_size
        return [Layer(w.ending, w.in_channels, w.out_channels, (k, k), groups, stride=w.stride)]


class MirroredSquare(Square):
    """k x k, plus the same weights mirrored left-right with a norm of their own.

    The kernel is mirrored, not the image: flip-conv-flip differs at stride 2 with even width.
    """

    mirror_norm: nn.Module

    def __init__(self, window: Window, groups: int | None = None) -> None:
        super().__init__(window, groups)
        self.mirror_norm = _last_norm(window.ending, window.out_channels)

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w)

    def forward(self, padded: Tensor, x: Tensor) -> Tensor:
        (layer,) = self.chain()
        mirrored = convolve(padded, layer.weight.flip(-1), layer.stride, layer.groups)
        return layer(padded) + self.mirror_norm(mirrored)

    def kernel_and_bias(self) -> tuple[Tensor, Tensor]:
        (layer,) = self.chain()
        kernel, bias = super().kernel_and_bias()
        mirrored = regroup(layer.weight.flip(-1), layer.groups, self.window.groups)
        mirrored, offset = absorb(self.mirror_norm, mirrored, torch.zeros_like(bias))
        return kernel + mirrored, bias + offset


class Point(Branch):
    """1x1 (RepVGG)."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        return [Layer(w.ending, w.in_channels, w.out_channels, (1, 1), groups, stride=w.stride)]


class Identity(Branch):
    """The input itself (RepVGG): a delta at the centre of the kernel."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return "needs stride 1" if w.stride != 1 else _needs_same_channels(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        return [FixedLayer(w.ending, w.in_channels, w.in_channels, (1, 1), w.in_channels)]


class Row(Branch):
    """1 x k (ACNet)."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        size = (1, w.kernel_size)
        return [Layer(w.ending, w.in_channels, w.out_channels, size, groups, stride=w.stride)]


class Column(Branch):
    """k x 1 (ACNet)."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        size = (w.kernel_size, 1)
        return [Layer(w.ending, w.in_channels, w.out_channels, size, groups, stride=w.stride)]


class Mean(Branch):
    """Mean over the window of the same channel."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w) or _needs_same_channels(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        k, c = w.kernel_size, w.in_channels
        return [FixedLayer(w.ending, c, c, (k, k), c, stride=w.stride)]


class Dilated(Branch):
    """3x3 whose taps span the whole k x k window."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return "needs a kernel of 5x5 or more" if w.kernel_size < 5 else None

    def build(self, w: Window, groups: int) -> list[Layer]:
        channels = (w.in_channels, w.out_channels)
        return [Layer(w.ending, *channels, (3, 3), groups, stride=w.stride, dilation=w.padding)]


class PointSquare(Branch):
    """1x1 -> k x k (DBB). The 1x1 runs on the padded input, so nothing is padded in between."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w) or _needs_mixing(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        k = w.kernel_size
        return [
            Layer(w.ending, w.in_channels, w.in_channels, (1, 1), groups, inner=True),
            Layer(w.ending, w.in_channels, w.out_channels, (k, k), groups, stride=w.stride),
        ]


class PointMean(Branch):
    """1x1 -> mean over the window (DBB)."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w) or _needs_mixing(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        k, c = w.kernel_size, w.out_channels
        return [
            Layer(w.ending, w.in_channels, c, (1, 1), groups, inner=True),
            FixedLayer(w.ending, c, c, (k, k), c, stride=w.stride),
        ]


class PointFilters(Branch):
    """1x1 -> learned mix of fixed Sobel, Laplace and identity filters."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w) or _needs_mixing(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        c = w.out_channels
        return [
            Layer(w.ending, w.in_channels, c, (1, 1), groups, inner=True),
            FilterLayer(w.ending, c, c, (3, 3), c, stride=w.stride),
        ]


class SquarePoint(Branch):
    """k x k -> 1x1."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_mixing(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        k, c = w.kernel_size, w.out_channels
        return [
            Layer(w.ending, w.in_channels, c, (k, k), groups, stride=w.stride, inner=True),
            Layer(w.ending, c, c, (1, 1), groups),
        ]


class DepthwisePoint(Branch):
    """Depthwise k x k -> 1x1 (a separable convolution)."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return _needs_area(w) or _needs_mixing(w)

    def build(self, w: Window, groups: int) -> list[Layer]:
        k, c = w.kernel_size, w.in_channels
        return [
            Layer(w.ending, c, c, (k, k), c, stride=w.stride, inner=True),
            Layer(w.ending, c, w.out_channels, (1, 1), groups),
        ]


class TwoSquares(Branch):
    """3x3 -> 3x3 without padding in between, which together see 5x5."""

    @classmethod
    def obstacle(cls, w: Window) -> str | None:
        return "needs a 5x5 kernel" if w.kernel_size != 5 else None

    def build(self, w: Window, groups: int) -> list[Layer]:
        c = w.out_channels
        return [
            Layer(w.ending, w.in_channels, c, (3, 3), groups, inner=True),
            Layer(w.ending, c, c, (3, 3), groups, stride=w.stride),
        ]


BRANCH_SETS: dict[str, tuple[type[Branch], ...]] = {
    "off": (Square,),
    "rep": (Square, Point, Identity),
    "ac": (Square, Point, Identity, Row, Column),
    "seq": (Square, Point, Identity, PointSquare),
    "dbb": (Square, Point, PointSquare, PointMean),
    "ctx": (MirroredSquare, Point, Identity, Row, Column, PointMean, Mean),
    "all": (MirroredSquare, Point, Identity, Row, Column, Mean, Dilated, PointSquare, PointMean,
            PointFilters, SquarePoint, DepthwisePoint, TwoSquares),
}  # fmt: skip
"""Named sets for units larger than 1x1 [derived]; kinds that have no place are left out."""

POINT_SETS: dict[str, tuple[type[Branch], ...]] = {
    **dict.fromkeys(BRANCH_SETS, (Square, Identity)),
    "off": (Square,),
    "all": (Square, Identity, SquarePoint),
}
"""The same for 1x1 units, where a spatial branch would only repeat the convolution."""

BranchFactory = Callable[[Window], Branch]


def _make_branches(branches: str | Sequence[BranchFactory], window: Window) -> list[Branch]:
    if not isinstance(branches, str):
        if not branches:
            raise FadepthError("ETM needs at least one branch: name a set or give its kinds.")
        made = [make(window) for make in branches]
        if any(branch.window != window for branch in made):
            raise FadepthError(
                "an ETM branch was built for another unit: give kinds, not branches."
            )
        return made
    if branches not in BRANCH_SETS:
        raise FadepthError(f"unknown ETM branch set '{branches}': use {', '.join(BRANCH_SETS)}.")
    kinds = (POINT_SETS if window.kernel_size == 1 else BRANCH_SETS)[branches]
    return [kind(window) for kind in kinds if kind.obstacle(window) is None]


# --------------------------------------------------------------------------- unit and folding


def _middle(kernel: Tensor, extent: Sequence[int]) -> Tensor:
    """The taps of a kernel (..., k, k) that one of a smaller extent has when it is centred."""
    height, width = extent
    top, left = (kernel.shape[-2] - height) // 2, (kernel.shape[-1] - width) // 2
    return kernel[..., top : top + height, left : left + width]


def _same_channel(kernel: Tensor, groups: int) -> Tensor:
    """Middle taps, (groups, C / groups), of a channel to itself in a kernel (C, C/groups, k, k)."""
    middle = _middle(kernel, (1, 1))[..., 0, 0]
    return middle.unflatten(0, (groups, -1)).diagonal(dim1=1, dim2=2)


class _ScaledSum(torch.autograd.Function):
    """Sum of branches of one layer each in kernel space: weight times scale, centred.

    A third of the operations of the general way, which pads every kernel to k x k; same numbers.
    Arguments: groups, the k x k weight, its scale, then weight and scale of every other branch; a
    weight of None is the identity.
    """

    @staticmethod
    def forward(ctx: Any, groups: int, *tensors: Tensor | None) -> Tensor:
        ctx.groups = groups
        ctx.save_for_backward(*tensors)
        weights, scales = tensors[::2], cast(tuple[Tensor, ...], tensors[1::2])
        assert weights[0] is not None
        total = weights[0] * scales[0][:, None, None, None]
        for weight, scale in zip(weights[1:], scales[1:], strict=True):
            if weight is None:
                _same_channel(total, groups).add_(scale.view(groups, -1))
            else:
                _middle(total, weight.shape[-2:]).add_(weight * scale[:, None, None, None])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found: list[Tensor | None] = []
        for weight, scale in zip(tensors[::2], tensors[1::2], strict=True):
            if weight is None:
                found += [None, _same_channel(gradients[0], ctx.groups).flatten()]
            else:
                part = _middle(gradients[0], weight.shape[-2:])
                found += [part * scale[:, None, None, None], (part * weight).sum((1, 2, 3))]
        return None, *found


_summed: dict[nn.Module, Tensor] | None = None
"""The kernels of the units that have run within `kernels_summed_once`; None outside."""


@contextmanager
def kernels_summed_once() -> Iterator[None]:
    """Within, a unit in kernel space sums its kernels at its first run only.

    For a training step that runs one network several times, as the pyramid loss does: the sums
    depend on the weights alone. Update no weight within. (The idea of
    `torch.nn.utils.parametrize.cached`.)
    """
    global _summed
    outer, _summed = _summed, {}
    try:
        yield
    finally:
        _summed = outer


class EtmConv2d(nn.Module):
    """A convolution unit (BN included, ReLU not) that trains with branches and folds into one conv.

    Args:
        in_channels, out_channels, groups: as in `nn.Conv2d`.
        kernel_size: 1, 3, 5 or 7; the padding is (kernel_size - 1) / 2.
        stride: 1 or 2.
        branches: a name from `BRANCH_SETS` ("off" is plain conv + BN), or a sequence of branch
            kinds, e.g. `[Square, Row, partial(Point, groups=8)]`. A named set leaves out kinds that
            have no place in this unit; kinds listed one by one are refused instead.
        space: "activation" (a BN per branch) or "kernel" (one convolution, one BN).
        padding_mode: "zeros", "reflect" or "replicate".

    Maps (B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride)).
    Raises FadepthError for a branch that cannot fold, or any option not listed here.
    Source: [derived].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        *,
        branches: str | Sequence[BranchFactory] = "ac",
        space: Space = "activation",
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        if space not in ("activation", "kernel"):
            raise FadepthError(f"ETM space must be 'activation' or 'kernel', not '{space}'.")
        if padding_mode not in ("zeros", "reflect", "replicate"):
            raise FadepthError(
                f"ETM padding_mode must be 'zeros', 'reflect' or 'replicate', not '{padding_mode}'."
            )
        ending: Ending = "bn" if space == "activation" else "scale"
        if branches == "off":
            ending = "none"  # conv + BN, the same in both spaces
        self.window = Window(in_channels, out_channels, kernel_size, stride, groups, ending)
        self.padding_mode = padding_mode
        self.branches = nn.ModuleList(_make_branches(branches, self.window))
        self.norm: nn.Module = nn.Identity() if ending == "bn" else nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        w = self.window
        if w.ending == "bn":
            padded = self._pad(x)
            return reduce(torch.add, [branch(padded, x) for branch in self._kinds()])
        kernel = self._summed_kernel()
        if self.padding_mode == "zeros":
            return self.norm(convolve(x, kernel, w.stride, w.groups, w.padding))
        return self.norm(convolve(self._pad(x), kernel, w.stride, w.groups))

    def _pad(self, x: Tensor) -> Tensor:
        p = self.window.padding
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, (p, p, p, p), mode) if p else x

    def _kinds(self) -> list[Branch]:
        return cast(list[Branch], list(self.branches))

    def _summed_kernel(self) -> Tensor:
        kernel = None if _summed is None else _summed.get(self)
        if kernel is None:
            kernel = self._sum_of_kernels()
            if _summed is not None:
                _summed[self] = kernel
        return kernel

    def _sum_of_kernels(self) -> Tensor:
        """Of all branches in kernel space, where there is no BN inside, and so no bias."""
        first, *others = kinds = self._kinds()
        simple = all(type(kind) in (Square, Point, Identity, Row, Column) for kind in kinds)
        layers = [kind.chain()[0] for kind in kinds]
        groups = self.window.groups
        grouped = all(type(layer) is FixedLayer or layer.groups == groups for layer in layers)
        scaled = all(isinstance(layer.norm, Scale) for layer in layers)
        if type(first) is not Square or not (others and simple and grouped and scaled):
            return self._sum_of_branches()[0]
        tensors = [
            (None if type(layer) is FixedLayer else layer.weight, layer.norm.weight)
            for layer in layers
        ]
        return cast(Tensor, _ScaledSum.apply(groups, *chain.from_iterable(tensors)))

    def _sum_of_branches(self) -> tuple[Tensor, Tensor]:
        kernels, biases = zip(*(branch.kernel_and_bias() for branch in self._kinds()), strict=True)
        return reduce(torch.add, kernels), reduce(torch.add, biases)

    @torch.no_grad()
    def fold_unit(self) -> nn.Conv2d:
        """The `nn.Conv2d` (with bias) that equals this unit in evaluation; the unit stays as it is.

        Folded in float64 on the CPU, then cast back, so that the only error is that of rounding.
        """
        w = self.window
        unit = copy.deepcopy(self).to("cpu", torch.float64)
        kernel, bias = absorb(unit.norm, *unit._sum_of_branches())
        own = next(self.parameters())
        # On no device: to draw weights that are overwritten would disturb the random stream.
        # (`skip_init` does the same, and imports sympy for it.)
        conv = nn.Conv2d(
            w.in_channels, w.out_channels, w.kernel_size, w.stride, w.padding,
            groups=w.groups, padding_mode=self.padding_mode, device="meta",
        )  # fmt: skip
        conv.weight = nn.Parameter(own.new_empty(kernel.shape).copy_(kernel))
        conv.bias = nn.Parameter(own.new_empty(bias.shape).copy_(bias))
        return conv.eval()


def fold(model: nn.Module) -> nn.Module:
    """A deep copy for inference: every `EtmConv2d` as its plain convolution, in eval mode.

    Parts a module lists in its attribute `training_only` (names of submodules) are replaced by
    None. The original is not altered. A model without ETM comes back as a copy in eval mode.
    """
    # Told that a unit's copy is its convolution, deepcopy puts that in every place of the unit.
    convolutions: dict[int, object] = {
        id(module): module.fold_unit()
        for module in model.modules()
        if isinstance(module, EtmConv2d)
    }
    folded = copy.deepcopy(model, convolutions).eval()
    for module in list(folded.modules()):
        for part in getattr(module, "training_only", ()):
            setattr(module, part, None)
    return folded
