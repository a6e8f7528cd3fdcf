"""HQDecV2, the teacher: EfficientNetV2-S encoder and a high-quality decoder.

Known from the HQDec authors' public decoder code ([HQDec]; "HQDec: Self-Supervised Monocular Depth
Estimation Based on a High-Quality Decoder", arXiv 2305.18706): the data flow of `Decoder`, the
blocks `RefineBlock` (AdaRM), `AxialSampler` (AdaAxialNPCAS), `Upsampler` (DAdaNRSU) and
`DisparityHead`, and that all extra paths are weighted by coefficients that are zero at start.

The FA-Depth paper (arXiv 2405.10885) says that HQDecv2 is HQDec changed "to address grid artifacts
in some regions", and names AdaCoeff, DAdaNRSUv2 and a global feature maps module; their internals
are not public. `AdaCoeff`, `GlobalMap`, the blur and detail steps of `UpsamplerV2` and every number
below that is not tagged [HQDec] are therefore [derived]: ours, not the paper's.

Each of the three can be switched back to HQDec's own form (`Forms`; the parts are in
`hqdec_v1.py`). With all three off this is HQDec's decoder, but for small things that every form
here shares. Together they add 0.3 % of parameters and MACs at 256x832:

- AdaRM's inner width follows the channels of a block, HQDec's its stride (narrower in `reduce` at
  strides 4 and 16);
- 1x1 convolutions before a batch normalisation have no bias; AdaRM's 3x3 convolution pads with
  zeros, HQDec's by reflection; the window of the samplers' channel attention grows with the
  channels, HQDec's stays 3;
- the start of the sub-row index (zero) and of the heads (`DisparityHead`).

Left out: HQDec's three image reconstruction heads (training only; their loss is not public).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fadepth.errors import FadepthError
from fadepth.models.efficientnetv2 import EfficientNetV2, Pointwise, scale_blocks
from fadepth.models.hqdec_v1 import (
    CoefficientMap,
    MapAttention,
    PatchGate,
    PatchTransformer,
    attention_blocks,
    channel_gate,
    channel_mixer,
    crop,
    feature_size,
    group_norm,
    pad_to_multiple,
    patch_grid,
    pixels,
    reflect,
)

MIN_SIZE = 32  # smallest height and width of an image: one pixel at the encoder's last stride
INITIAL_DISPARITY = 0.07  # [derived] see DisparityHead; 1.4 m with the depth range 0.1 to 100 m
MAX_TOKENS = (6, 20)  # [derived] one token per 32x32 image cell at 192x640, and never more
TOKEN_STRIDE = 32  # image pixels per token below that size
HEAD_DIM = 8  # [derived] width of one attention head
HEADS = (2, 4, 4, 8, 8)  # [HQDec] attention heads at the five channel levels
REDUCTION = (2, 4, 4, 8, 8)  # [HQDec] AdaRM works on C / r channels
MIN_WIDTH = 8  # [derived] narrowest inner width, for scaled-down networks
AXIAL_BLOCKS = 2  # [HQDec], times `depth`
AXIAL_SQUEEZE = 16  # [HQDec] ratio of the squeeze-and-excitation in AxialSampler


class Level(NamedTuple):
    """Widths of the blocks that work at one of the five channel levels."""

    channels: int
    inner: int  # AdaRM's reduced width
    heads: int  # attention heads, each HEAD_DIM wide
    depth: float  # scales the repeats inside a block


class Summary:
    """What the coefficients see of a feature map x (B, C, H, W), without gradient.

    What reads it (the coefficients) learns; the features are not bent to steer them. The gradient
    would carry the factor gamma, zero at start, and lengthen a training step by about a tenth.
    A part is computed when it is first asked for: HQDec's learned maps never ask.
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x

    @cached_property
    def channel(self) -> Tensor:
        """(B, 2C): mean and standard deviation over the pixels of each channel."""
        with torch.no_grad():
            mean = self._x.mean((2, 3))
            # torch.var_mean is several times slower than two means on channels-last tensors.
            var = (self._x.square().mean((2, 3)) - mean.square()).clamp(min=0)
            return torch.cat((mean, var.sqrt()), dim=1)

    @cached_property
    def spatial(self) -> Tensor:
        """(B, 2, H, W): mean and maximum over the channels at each pixel."""
        with torch.no_grad():
            x = self._x
            return torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)


class AdaCoeff(nn.Module):
    """Input-adaptive weight of an injected map y that is added to a base map x. [derived]

    The sum is x + lambda * y with lambda(x, y) = gamma * 2 sigmoid(s_channel + s_spatial), where
    s_channel is a two-layer perceptron of both maps' channel statistics and s_spatial a 5x5
    convolution of their means and maxima over the channels. gamma is learned and zero at start, as
    HQDec's fixed coefficient maps are, so |lambda| <= 2 |gamma|; unlike those maps, it fits any
    resolution.

    `outputs` is `channels` for a weight per channel, or 1 for one weight per pixel.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        hidden = max(MIN_WIDTH, channels // 4)
        self.reduce = nn.Linear(4 * channels, hidden)
        self.expand = nn.Linear(hidden, outputs)
        self.spatial = nn.Conv2d(4, 1, 5, padding=2, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1, outputs, 1, 1))

    def forward(self, base: Summary, injected: Summary) -> Tensor:
        """lambda, (B, outputs, H, W), from the summaries of x and y."""
        channel = self.reduce(torch.cat((base.channel, injected.channel), dim=1))
        channel = self.expand(F.elu(channel))[:, :, None, None]
        spatial = self.spatial(torch.cat((base.spatial, injected.spatial), dim=1))
        return 2 * self.gamma * torch.sigmoid(channel + spatial)


class ChannelAttention(nn.Module):
    """Efficient channel attention on a weighted mean. [HQDec], its learned map made adaptive.

    y_c = x_c sigmoid(conv1d_k(v)) with v_c = sum(a x_c) / sum(a); HQDec's a is a learned map of
    one resolution, here a = sigmoid(conv5x5(mean and maximum over the channels)) [derived].
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Conv2d(2, 1, 5, padding=2)
        self.mix = channel_mixer(channels)

    def forward(self, x: Tensor, summary: Summary | None = None) -> Tensor:
        """x (B, C, H, W) and its summary, if the caller has it."""
        spatial = (summary or Summary(x)).spatial
        weight = torch.sigmoid(self.weight(spatial)).flatten(2)
        mean = torch.bmm(weight, pixels(x)) / weight.sum(2, keepdim=True)
        return x * channel_gate(mean[:, 0], self.mix)


class GlobalMap(nn.Module):
    """Global feature maps (B, C, H, W) -> (B, E, H, W) for any size; E is `width`. [derived]

    Features pooled to a fixed grid of tokens attend to each other, then every pixel reads from the
    tokens by attention. HQDec paints a learned 16x52 template per patch instead, which shows as a
    grid and fixes the resolution. The position of a token comes from a depthwise convolution.

    The grid has one token per 32x32 image pixels, at most 6x20. The query convolution and the
    read-out's output convolution are left out because one attention head without softmax between
    can absorb them: q^T k = (W_q f)^T k = f^T (W_q^T k), likewise for the values.
    """

    def __init__(self, channels: int, level: Level, stride: int) -> None:
        super().__init__()
        self.stride = stride
        width = self.width = level.heads * HEAD_DIM
        self.embed = Pointwise(channels, width)
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.blocks = attention_blocks(width, level.heads, level.depth)
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, 2 * width)

    def grid(self, size: torch.Size) -> tuple[int, int]:
        """Rows and columns of tokens for a feature map of `size` at this module's stride."""
        rows, columns = (math.ceil(n * self.stride / TOKEN_STRIDE) for n in size[-2:])
        return min(rows, MAX_TOKENS[0]), min(columns, MAX_TOKENS[1])

    def forward(self, x: Tensor) -> Tensor:
        features = self.embed(x)
        grid = F.adaptive_avg_pool2d(features, self.grid(x.shape))
        tokens = self.blocks(pixels(grid + self.position(grid)))
        keys, values = self.read(self.norm(tokens)).chunk(2, dim=2)
        # Tokens before pixels: a softmax over few tokens in the last dimension is slow on a CPU.
        logits = torch.bmm(keys * self.width**-0.5, pixels(features).transpose(1, 2))
        out = torch.bmm(logits.softmax(1).transpose(1, 2), values)
        return out.unflatten(1, x.shape[-2:]).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Forms:
    """Which form of each part the decoder has: HQDecv2's (True) or HQDec's own (False).

    Attributes:
        adacoeff, upsampler_v2, global_map: the three switches.
        size: of the images (H, W), at least 32; needed where a form is `bound` to it.
        widths: the encoder's channels at strides 2 to 32, the widths of the patch transformers.

    Raises:
        FadepthError: a form is bound to the size, and that is missing or too small.
    """

    adacoeff: bool = True
    upsampler_v2: bool = True
    global_map: bool = True
    size: tuple[int, int] | None = None
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.bound and (self.size is None or min(self.size) < MIN_SIZE):
            raise FadepthError(
                f"HQDecV2: {self.bound} needs the size of the images, got size={self.size}; give "
                f"size=(height, width), both at least {MIN_SIZE}"
            )

    @property
    def bound(self) -> str:
        """The switches that bind the network to one image size, as a sentence names them."""
        switches = {"adacoeff": self.adacoeff, "global_map": self.global_map}
        return " and ".join(f"{name}=False" for name, on in switches.items() if not on)

    def feature_size(self, stride: int) -> tuple[int, int]:
        """Rows and columns at `stride`; only where a form is bound to them."""
        assert self.size is not None
        return feature_size(self.size, stride)

    def coefficient(
        self, channels: int, stride: int, *, outputs: int = 1, map_outputs: int | None = None
    ) -> nn.Module:
        """A weight of a map at `stride`; `map_outputs` where HQDec's map has fewer channels."""
        if self.adacoeff:
            return AdaCoeff(channels, outputs)
        return CoefficientMap(map_outputs or outputs, self.feature_size(stride))

    def attention(self, channels: int, stride: int, columns: int = 1) -> nn.Module:
        """Channel attention on a map at `stride` that is `columns` times as wide."""
        if self.adacoeff:
            return ChannelAttention(channels)
        rows, width = self.feature_size(stride)
        return MapAttention(channels, (rows, columns * width))

    def global_features(
        self, channels: int, level: Level, stride: int
    ) -> GlobalMap | PatchTransformer:
        """The global feature maps of a map at `stride`; `.width` is their number of channels."""
        if self.global_map:
            return GlobalMap(channels, level, stride)
        assert self.size is not None
        index = stride.bit_length() - 2  # 0 at stride 2
        grid = patch_grid(self.size, stride)
        return PatchTransformer(channels, grid, self.widths[index], HEADS[index], level.depth)

    def patch_gate(self, channels: int, depth: float, stride: int) -> PatchGate:
        """HQDec's T' of the head at `stride` 1, 2 or 4, half as wide as T one level further."""
        assert self.size is not None
        index = stride.bit_length() - 1
        grid = patch_grid(self.size, stride)
        return PatchGate(channels, grid, self.widths[index] // 2, HEADS[index], depth)


V2 = Forms()


class RefineBlock(nn.Module):
    """AdaRM: ELU(BN(x) + p1 L + p2 G), local branch L and global branch G in parallel. [HQDec]

    The v2 forms of the coefficients p1, p2 and of the global module are [derived].
    """

    def __init__(self, level: Level, stride: int, forms: Forms = V2) -> None:
        super().__init__()
        channels, inner = level.channels, level.inner
        self.base = nn.BatchNorm2d(channels)
        self.reduce = nn.Sequential(
            Pointwise(channels, inner), nn.ELU(inplace=True), nn.BatchNorm2d(inner)
        )
        self.local_branch = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ELU(inplace=True),
            nn.BatchNorm2d(inner),
            Pointwise(inner, channels, bias=False),
            nn.BatchNorm2d(channels),
        )
        global_map = forms.global_features(inner, level, stride)
        self.global_branch = nn.Sequential(
            global_map,
            nn.BatchNorm2d(global_map.width),
            Pointwise(global_map.width, channels, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.attention = nn.ModuleList(forms.attention(channels, stride) for _ in range(2))
        self.coeffs = nn.ModuleList(forms.coefficient(channels, stride) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        z = self.reduce(x)
        out = self.base(x)
        base = Summary(out)
        branches = (self.local_branch, self.global_branch)
        for branch, attention, coeff in zip(branches, self.attention, self.coeffs, strict=True):
            y = branch(z)
            # The coefficient sees the branch before its channel attention: one summary for both.
            summary = Summary(y)
            weight = coeff(base, summary)
            out = torch.addcmul(out, weight, attention(y, summary))
        return F.elu(out)


class ConvBlock(nn.Module):
    """3x3 convolution with reflection padding, then ELU. [HQDec]"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.conv(reflect(x)))


class AxialBlock(nn.Module):
    """Depthwise 3x3, squeeze and excitation, 1x1 convolution; each with ELU and GroupNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // AXIAL_SQUEEZE)
        self.depthwise = nn.Conv2d(channels, channels, 3, groups=channels)
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.squeeze, self.excite = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)
        self.pointwise = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(F.elu(self.depthwise(reflect(x))))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3))))))
        x = x * gate[:, :, None, None]
        return F.elu(self.norm2(self.pointwise(x)))


class AxialStep(nn.Module):
    """One axis of AxialSampler: `stride` sub-rows become channels without loss, then are mixed.

    `target` is the stride of the sampler's output in the image; bound forms read it.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        depth: float,
        *,
        vertical: bool,
        target: int = 0,
        forms: Forms = V2,
    ) -> None:
        super().__init__()
        self.stride, self.vertical = stride, vertical
        wide = channels * stride
        self.index = nn.Parameter(torch.zeros(stride, 1))
        self.blocks = nn.Sequential(
            *(AxialBlock(wide) for _ in range(scale_blocks(AXIAL_BLOCKS, depth)))
        )
        # The vertical step comes first: its map is still `stride` times as wide as the output.
        self.attention = forms.attention(wide, target, stride if vertical else 1)
        self.merge, self.norm = nn.Conv2d(wide, channels, 3), group_norm(channels)

    def gather(self, x: Tensor) -> Tensor:
        """Move the sub-rows (or sub-columns) into the channels; the size must divide."""
        batch, channels, height, width = x.shape
        x = x.permute(0, 2, 3, 1)
        if self.vertical:
            x = x.reshape(batch, height // self.stride, self.stride, width, channels)
            x = x.transpose(2, 3)
        else:
            x = x.reshape(batch, height, width // self.stride, self.stride, channels)
        return (x + self.index).flatten(3).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(self.blocks(self.gather(x)))
        return F.elu(self.norm(self.merge(reflect(x))))


class AxialSampler(nn.Module):
    """AdaAxialNPCAS: near-lossless downsampling by `stride`, vertical then horizontal. [HQDec]

    ELU(BN(main) + p BN(maxpool x)) with a coefficient p. A size that `stride` does not divide is
    padded below and to the right by replication, so the output has ceil(H / stride) rows: the size
    of the encoder's feature at that stride, `target`.
    """

    def __init__(
        self, channels: int, stride: int, depth: float, target: int, forms: Forms = V2
    ) -> None:
        super().__init__()
        self.stride = stride
        self.main = nn.Sequential(
            AxialStep(channels, stride, depth, vertical=True, target=target, forms=forms),
            AxialStep(channels, stride, depth, vertical=False, target=target, forms=forms),
            nn.BatchNorm2d(channels),
        )
        self.side = nn.Sequential(nn.MaxPool2d(stride), nn.BatchNorm2d(channels))
        self.coeff = forms.coefficient(channels, target)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, self.stride, self.stride)
        main, side = self.main(x), self.side(x)
        weight = self.coeff(Summary(main), Summary(side))
        return F.elu(torch.addcmul(main, weight, side))


def blur_kernel() -> Tensor:
    """The kernel [1 2 1]^T [1 2 1] / 16, (1, 1, 3, 3); its response at period 2 is zero."""
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    return torch.outer(row, row)[None, None]


def icnr_(conv: nn.Conv2d, phases: int = 4) -> None:
    """Make the sub-kernels that PixelShuffle interleaves equal.

    Aitken et al., "Checkerboard artifact free sub-pixel convolution", arXiv 1707.02937: at start
    the shuffled output equals a nearest-neighbour upsampled convolution.
    """
    with torch.no_grad():
        conv.weight.copy_(conv.weight[::phases].repeat_interleave(phases, dim=0))
        if conv.bias is not None:
            conv.bias.copy_(conv.bias[::phases].repeat_interleave(phases, dim=0))


class Upsampler(nn.Module):
    """x2: BN(bilinear x) plus weighted high-frequency detail, in the two forms below. [HQDec]"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.base = nn.BatchNorm2d(channels)
        self.coeff: nn.Module

    def detail(self, x: Tensor) -> Tensor:
        """High-frequency map (B, C, 2H, 2W) of x (B, C, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x (B, C, ceil(H/2), ceil(W/2)) to (B, C, H, W) with `size` = (H, W)."""
        # Cropping an odd size keeps the factor 2 exact and undoes the encoder's rounding up.
        base = self.base(crop(upsample(x), size))
        detail = crop(self.detail(x), size)
        return torch.addcmul(base, self.coeff(Summary(base), Summary(detail)), detail)


class UpsamplerV2(Upsampler):
    """DAdaNRSUv2. [derived]

    AdaRM before the expansion, equal sub-kernels at start, a fixed blur that removes period-2
    checkerboards, and only y - bilinear(avgpool y) is injected. That detail is not
    batch-normalised: it is small at start, and scaling it to unit variance would amplify noise.
    """

    blur_weight: Tensor

    def __init__(self, level: Level, stride: int, forms: Forms = V2) -> None:
        channels = level.channels
        super().__init__(channels)
        self.refine = RefineBlock(level, stride, forms)
        self.expand = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        icnr_(self.expand)
        weight = blur_kernel().repeat(channels, 1, 1, 1)
        self.register_buffer("blur_weight", weight, persistent=False)
        self.coeff = forms.coefficient(channels, stride // 2, outputs=channels, map_outputs=1)

    def blur(self, y: Tensor) -> Tensor:
        """Depthwise binomial blur, (B, C, H, W) of even H and W; a checkerboard becomes zero."""
        # Reflection continues a checkerboard across the border, so the borders vanish as well.
        return F.conv2d(reflect(y), self.blur_weight, groups=y.shape[1])

    def detail(self, x: Tensor) -> Tensor:
        y = self.blur(F.pixel_shuffle(self.expand(self.refine(x)), 2))
        return y - upsample(F.avg_pool2d(y, 2))


class UpsamplerV1(Upsampler):
    """DAdaNRSU: the detail is a sub-pixel map, with AdaRM on its 4C channels. [HQDec]

    BN(shuffle(BN(ELU(AdaRM(BN(ELU(conv1x1 x))))))). The four phases come from unrelated kernels:
    a checkerboard of period 2 unless training makes them agree.
    """

    def __init__(self, level: Level, stride: int, forms: Forms) -> None:
        channels, wide = level.channels, 4 * level.channels
        super().__init__(channels)
        self.expand = Pointwise(channels, wide, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (wide, wide, channels))
        # AdaRM's reduction is 4 here, so its inner width is C.
        self.refine = RefineBlock(level._replace(channels=wide, inner=channels), stride, forms)
        self.coeff = forms.coefficient(channels, stride // 2, outputs=channels, map_outputs=1)

    def detail(self, x: Tensor) -> Tensor:
        y = self.norms[0](F.elu(self.expand(x)))
        y = self.norms[1](F.elu(self.refine(y)))
        out: Tensor = self.norms[2](F.pixel_shuffle(y, 2))
        return out


def upsample(x: Tensor) -> Tensor:
    """Bilinear x2."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class DisparityHead(nn.Module):
    """sigmoid(a * sigmoid(T)), a from a 3x3 convolution, T from the global map. [HQDec]

    In HQDec's own form T is the patch transformer T', at the head's resolution.

    [derived]: the start. With zero biases the disparity starts at 0.5, which means 0.2 m; here it
    starts near INITIAL_DISPARITY by the bias of `conv`, with sigmoid(T) close to 1/2 by small
    weights of `gate`. The formula itself is unchanged.
    """

    def __init__(self, level: Level, stride: int, forms: Forms = V2) -> None:
        super().__init__()
        self.attention = forms.attention(level.channels, stride)
        self.conv = nn.Conv2d(level.channels, 1, 3)
        self.global_map: nn.Module = nn.Identity()
        self.gate: nn.Module
        if forms.global_map:
            self.global_map = GlobalMap(level.channels, level, stride)
            self.gate = Pointwise(self.global_map.width, 1)
            nn.init.normal_(self.gate.weight, std=0.01)
            nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]
        else:
            self.gate = forms.patch_gate(level.channels, level.depth, stride)
        logit = math.log(INITIAL_DISPARITY / (1 - INITIAL_DISPARITY))
        nn.init.constant_(self.conv.bias, 2 * logit)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        gate = torch.sigmoid(self.gate(self.global_map(x)))
        return torch.sigmoid(self.conv(reflect(x)) * gate)


class Decoder(nn.Module):
    """HQDec's data flow over the encoder's five features. [HQDec]

    At each level the feature, all finer features brought down by axial samplers, and the upsampled
    coarser map are fused (R: RefineBlock, CT: ConvBlock, Up: Upsampler):

        b_j = R(CT f_j) + u_(j+1) + sum over i < j of l_ij * R(CT(sampler_ij f_i))
        u_j = Up(R(CT b_j))

    with coefficients l_ij per channel and pixel.
    """

    def __init__(
        self, channels: tuple[int, ...], width: float, depth: float, forms: Forms = V2
    ) -> None:
        super().__init__()
        levels = [
            Level(c, max(MIN_WIDTH, c // r), max(1, round(h * width)), depth)
            for c, r, h in zip(channels, REDUCTION, HEADS, strict=True)
        ]
        below = [levels[0], *levels[:3]]  # the level whose channels u_j has

        upsampler = UpsamplerV2 if forms.upsampler_v2 else UpsamplerV1

        def refined(inputs: int, level: Level, stride: int) -> list[nn.Module]:
            return [ConvBlock(inputs, level.channels), RefineBlock(level, stride, forms)]

        self.bridge = nn.Sequential(*refined(channels[4], levels[3], 32))
        self.bridge_up = upsampler(levels[3], 32, forms)
        self.lateral, self.reduce = nn.ModuleList(), nn.ModuleList()
        self.up, self.heads = nn.ModuleList(), nn.ModuleList()
        # Keys such as "0_to_2".
        self.sampled, self.coeffs = nn.ModuleDict(), nn.ModuleDict()
        for j in range(4):
            stride, level = 2 ** (j + 1), levels[j]
            self.lateral.append(nn.Sequential(*refined(channels[j], level, stride)))
            # The nearest finer levels are kept where `depth` asks for fewer than all.
            for i in range(max(0, j - scale_blocks(j, depth)), j):
                sampler = AxialSampler(channels[i], 2 ** (j - i), depth, stride, forms)
                path = nn.Sequential(sampler, *refined(channels[i], level, stride))
                self.sampled[f"{i}_to_{j}"] = path
                coeff = forms.coefficient(channels[j], stride, outputs=channels[j])
                self.coeffs[f"{i}_to_{j}"] = coeff
            self.reduce.append(nn.Sequential(*refined(channels[j], below[j], stride)))
            self.up.append(upsampler(below[j], stride, forms))
            if j < 3:
                self.heads.append(DisparityHead(below[j], stride // 2, forms))

    def fuse(self, j: int, features: list[Tensor], coarser: Tensor) -> Tensor:
        """b_j of the class docstring."""
        out: Tensor = self.lateral[j](features[j]) + coarser
        base = Summary(out)
        for i in range(j):
            if (key := f"{i}_to_{j}") in self.sampled:
                y = self.sampled[key](features[i])
                out = torch.addcmul(out, self.coeffs[key](base, Summary(y)), y)
        return out

    def forward(self, features: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Five features and the image size to disparities at strides 1, 2 and 4.

        In eval mode only the first is computed.
        """
        sizes = [size, *((f.shape[2], f.shape[3]) for f in features)]
        x = self.bridge_up(self.bridge(features[4]), sizes[4])
        disparities = []
        for j in (3, 2, 1, 0):
            x = self.up[j](self.reduce[j](self.fuse(j, features, x)), sizes[j])
            if j == 0 or (j < 3 and self.training):
                disparities.append(self.heads[j](x))
        return disparities[::-1]


class HQDecV2(nn.Module):
    """The teacher: images (B, 3, H, W) in [0, 1] to disparity in (0, 1).

    Train mode gives [(B, 1, H, W), (B, 1, ceil(H/2), ceil(W/2)), (B, 1, ceil(H/4), ceil(W/4))],
    eval mode the first alone. Any H, W >= 32, with the same weights (training at 32x32 needs two
    images per batch, as any batch normalisation of a single pixel does).

    Args:
        width: scales all channels, of encoder, decoder and attention; 1 is EfficientNetV2-S.
        depth: scales the repeats of encoder blocks, of the decoder's attention and axial blocks,
            and, below 1, the number of finer features that are fused at a level (nearest first).
        adacoeff, upsampler_v2, global_map: the v2 forms of HQDec's coefficient maps, upsampler and
            patch transformer; False is HQDec's own form. All False is HQDec's decoder.
        size: (H, W) of the images. adacoeff=False and global_map=False need it, and the network
            then takes images of this size only; otherwise it has no effect.

    Raises:
        FadepthError: a factor is not positive, `size` is missing where it is needed, or an image
            is not (B, 3, H, W) with H, W >= 32, or not of the size the network is bound to.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        *,
        adacoeff: bool = True,
        upsampler_v2: bool = True,
        global_map: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = EfficientNetV2(width, depth)
        channels = self.encoder.channels
        self.forms = Forms(adacoeff, upsampler_v2, global_map, size, channels)
        self.decoder = Decoder(channels, width, depth, self.forms)
        # Pixel-major weights and activations: several steps here work on (B, H*W, C) views.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < MIN_SIZE:
            raise FadepthError(
                f"HQDecV2: images have shape {tuple(images.shape)}, expected (B, 3, H, W) with "
                f"H and W of at least {MIN_SIZE}; resize the images"
            )
        size = (images.shape[2], images.shape[3])
        if self.forms.bound and size != self.forms.size:
            raise FadepthError(
                f"HQDecV2: images have height and width {size}, but {self.forms.bound} binds this "
                f"network to {self.forms.size}; resize the images, or build and train it at {size}"
            )
        images = images.contiguous(memory_format=torch.channels_last)
        disparities: list[Tensor] = self.decoder(self.encoder(images), size)
        return disparities if self.training else disparities[0]
