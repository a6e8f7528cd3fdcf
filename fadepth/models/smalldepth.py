"""SmallDepth: the student, one image to one disparity map with 2 M parameters and 35 convolutions.

[paper] SmallDepth is "based on sparsity", has about 2 M parameters and more than 500 frames/s; its
layers are not published. The layer plan here is [derived]. "Sparsity" is read as a fixed zero
pattern in the kernels: dense 3x3 convolutions where channels are few (strides 2 to 8), and 3x3
convolutions in groups of 32 channels followed by 1x1 where they are many (strides 16 and 32).

Folded (`fadepth.models.etm.fold`) the net is convolution + ReLU, plain additions for the skips,
nearest x2, one sigmoid and one bilinear x2: no norm, no attention, no concatenation, no padding op.
The design `pconv` alone needs more: a split, a concatenation and an addition per block, since its
3x3 convolutions leave three quarters of the channels as they are.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fadepth.errors import FadepthError
from fadepth.models.etm import EtmConv2d, Space

INITIAL_DISPARITY = 0.07
"""Disparity of an untrained net up to the spread of its features [derived], about 1.4 m of depth.

Street scenes lie between disparity 0 (100 m) and 0.1 (1 m). A zero bias would start at 0.5, which
is 0.2 m, where the pose net's small first motions move pixels far out of the image; starting at a
typical 0.005 (17 m) instead would leave the sigmoid a slope of 0.005. At 0.07 the slope is 0.065.
"""

FIRST_WIDE_STAGE = 4
"""From this stage on (stride 16) a sparse design uses grouped convolutions [derived]."""

FIRST_PARTIAL_STAGE = 3
"""From this stage on (stride 8) the design `pconv` uses partial convolutions [derived]."""

PARTIAL_SHARE = 4
"""A partial convolution reads one channel in this many (FasterNet, arXiv 2303.03667)."""

EXPANSION = 2
"""Channels between the two 1x1 of a partial block, as a multiple (FasterNet)."""

DENSE_STEP = 4
"""A scaled width is a multiple of this in dense stages; `PARTIAL_SHARE` divides it."""


@dataclass(frozen=True)
class Design:
    """Stages 1 to 5 (strides 2 to 32): channels, and blocks after the stage's strided block."""

    channels: tuple[int, int, int, int, int]
    blocks: tuple[int, int, int, int, int]
    group_width: int | None  # channels per group in wide stages; None: no grouped convolutions
    last: int = 8  # channels of the decoder's last convolution, at half size
    partial: bool = False  # partial convolutions in the stride-1 blocks of deep stages


DESIGNS = {
    "dense": Design((16, 32, 64, 128, 192), (0, 0, 1, 3, 3), None),
    "group32": Design((16, 32, 64, 160, 320), (0, 0, 1, 5, 6), 32),
    "group16": Design((16, 32, 64, 160, 320), (0, 0, 1, 7, 8), 16),
    "depthwise": Design((16, 32, 64, 160, 352), (0, 0, 1, 6, 11), 1),
    "pconv": Design((16, 32, 64, 128, 240), (0, 0, 1, 5, 4), None, partial=True),
}
"""Sparsity designs with about 2 M parameters each [derived]."""


def _design(sparsity: str) -> Design:
    if sparsity not in DESIGNS:
        raise FadepthError(f"unknown sparsity '{sparsity}': use {', '.join(DESIGNS)}.")
    return DESIGNS[sparsity]


def _scaled_channels(design: Design, width: float) -> list[int]:
    """Channels times width; whole groups in wide stages, so the group width is kept."""
    if not width > 0:
        raise FadepthError(f"SmallDepth width must be positive, not {width}.")
    channels = []
    for stage, count in enumerate(design.channels, start=1):
        wide = design.group_width is not None and stage >= FIRST_WIDE_STAGE
        step = max(DENSE_STEP, design.group_width or 1) if wide else DENSE_STEP
        channels.append(_scaled(count, width, step))
    return channels


def _scaled(count: int, width: float, step: int) -> int:
    return max(1, round(count * width / step)) * step


class PartialBlock(nn.Module):
    """Block of the design `pconv`: (B, C, H, W) -> (B, C, H, W), FasterNet's (arXiv 2303.03667).

    3x3 over the first quarter of the channels while the others pass; 1x1 to 2 C channels and ReLU;
    1x1 back to C; the input is added. As in FasterNet, no ReLU follows the 3x3 nor the sum. Unlike
    there, the 3x3 ends in a BN, as every ETM unit does, and so folds with a bias; the BN of
    the 1x1 that follows takes a shift out again, so this one never learns (nor does the shift of
    the net's last block).

    Args:
        channels: C, a multiple of 4.
        spatial, expand, project: the three convolutions, of C/4 -> C/4, C -> 2 C and 2 C -> C
            channels; `expand` with its ReLU.

    Source: [derived]; its place in the net, and the bias of the 3x3, are our choice.
    """

    def __init__(
        self, channels: int, spatial: nn.Module, expand: nn.Module, project: nn.Module
    ) -> None:
        super().__init__()
        self.sizes = [channels // PARTIAL_SHARE, channels - channels // PARTIAL_SHARE]
        self.spatial, self.expand, self.project = spatial, expand, project

    def forward(self, x: Tensor) -> Tensor:
        part, rest = x.split(self.sizes, dim=1)
        mixed = torch.cat([self.spatial(part), rest], dim=1)
        return x + self.project(self.expand(mixed))


class SmallDepth(nn.Module):
    """The depth student: image (B, 3, H, W) in [0, 1] -> disparity in (0, 1).

    Args:
        etm: branch set of every convolution unit, a key of `etm.BRANCH_SETS`; "off" is conv + BN.
        sparsity: a key of `DESIGNS`.
        etm_space: "activation" or "kernel", see `etm`.
        width: factor on the channels; other than 1 is meant for smoke tests.

    In train mode returns [(B, 1, H, W), (B, 1, H/4, W/4), (B, 1, H/8, W/8)] (sizes rounded up), in
    eval mode only the first. Any H, W >= 32. The two coarse heads (434 parameters) serve training
    only and are dropped by `fold`. At width 1 and 192x640 the folded net has, whatever the ETM:

        sparsity    parameters   GMAC    convolutions
        dense       1,917,217    0.695   18
        group32     1,949,697    0.682   35
        group16     1,931,137    0.673   43
        depthwise   1,953,825    0.611   47
        pconv       1,952,177    0.642   41

    Images are used as they are: the BN of the first unit standardises them in training and folds
    away, whereas subtracting a mean first would be one more operation on the largest map.
    Raises FadepthError for unknown options, smaller images, or train mode after folding.
    Source: [derived] (the paper gives the parameter count and the word sparsity).
    """

    training_only: ClassVar[tuple[str, ...]] = ("head4", "head8")
    head4: nn.Conv2d | None
    head8: nn.Conv2d | None

    def __init__(
        self,
        etm: str = "ac",
        sparsity: str = "group32",
        *,
        etm_space: Space = "activation",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        self.etm, self.etm_space = etm, etm_space
        design = _design(sparsity)
        channels = _scaled_channels(design, width)
        self.encoder = nn.ModuleList(
            self._stage(stage, c_in, c_out, design)
            for stage, (c_in, c_out) in enumerate(zip([3, *channels], channels, strict=False), 1)
        )
        c1, c2, c3, c4, c5 = channels
        # Decoder widths equal the encoder's, so skips are plain sums without lateral convolutions.
        self.up5 = self._unit(c5, c4, 1)
        self.up4 = self._unit(c4, c3)
        self.up3 = self._unit(c3, c2)
        self.up2 = self._unit(c2, c1)
        # The largest map: half the channels cost half the time, and no skip follows.
        last = _scaled(design.last, width, DENSE_STEP)
        self.up1 = self._unit(c1, last)
        self.head = _head(last)
        self.head4 = _head(c1)
        self.head8 = _head(c2)

    def _conv(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> EtmConv2d:
        return EtmConv2d(
            c_in, c_out, kernel, stride, groups, branches=self.etm, space=self.etm_space
        )

    def _unit(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        conv = self._conv(c_in, c_out, kernel, stride, groups)
        return nn.Sequential(conv, nn.ReLU(inplace=True))

    def _partial_block(self, channels: int) -> PartialBlock:
        read, inner = channels // PARTIAL_SHARE, EXPANSION * channels
        return PartialBlock(
            channels,
            self._conv(read, read),
            self._unit(channels, inner, 1),
            self._conv(inner, channels, 1),
        )

    def _stage(self, stage: int, c_in: int, c_out: int, design: Design) -> nn.Sequential:
        """A block of stride 2, then the design's number of blocks of stride 1."""
        strides = [2] + [1] * design.blocks[stage - 1]
        units: list[nn.Module] = []
        for index, stride in enumerate(strides):
            source = c_in if index == 0 else c_out
            # The step into the first wide stage still reads few channels: dense.
            wide = stage > FIRST_WIDE_STAGE or (stage == FIRST_WIDE_STAGE and index > 0)
            if design.group_width is not None and wide:
                groups = source // design.group_width
                units += self._unit(source, source, 3, stride, groups)
                units += self._unit(source, c_out, 1)
            elif design.partial and stage >= FIRST_PARTIAL_STAGE and index > 0:
                units.append(self._partial_block(c_out))
            else:
                units += self._unit(source, c_out, 3, stride)
        return nn.Sequential(*units)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        height, width = image.shape[-2:]
        if not torch.jit.is_tracing() and min(height, width) < 32:
            raise FadepthError(f"SmallDepth needs images of 32x32 or more, not {height}x{width}.")
        skips = []
        x = image
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        at2, at4, at8, at16, _ = skips
        x = _enlarged_sum(self.up5(x), at16)
        x = _enlarged_sum(self.up4(x), at8)
        coarse8 = self.up3(x)
        coarse4 = self.up2(_enlarged_sum(coarse8, at4))
        x = self.up1(_enlarged_sum(coarse4, at2))
        # Sigmoid before the last x2: a quarter of the evaluations.
        disparity = F.interpolate(
            torch.sigmoid(self.head(x)), (height, width), mode="bilinear", align_corners=False
        )
        if not self.training:
            return disparity
        if self.head4 is None or self.head8 is None:
            raise FadepthError("a folded SmallDepth is for inference: train the unfolded model.")
        return [
            disparity,
            torch.sigmoid(self.head4(coarse4)),
            torch.sigmoid(self.head8(coarse8)),
        ]


def _enlarged_sum(x: Tensor, skip: Tensor) -> Tensor:
    # To the skip's own size, which is not always twice: 180 rows give 90, 45, 23, 12, 6. In place:
    # a new map of this size costs more time than the sum.
    return F.interpolate(x, skip.shape[-2:], mode="nearest").add_(skip)


def _head(channels: int) -> nn.Conv2d:
    """Features -> disparity logit. Without BN or ETM: the disparity's scale is what it learns."""
    head = nn.Conv2d(channels, 1, 3, padding=1)
    assert head.bias is not None
    nn.init.constant_(head.bias, math.log(INITIAL_DISPARITY / (1 - INITIAL_DISPARITY)))
    return head
