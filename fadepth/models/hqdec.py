"""HQDecV2, the teacher: EfficientNetV2-S encoder and a high-quality decoder.

Known from the HQDec authors' public decoder code ([HQDec]; "HQDec: Self-Supervised Monocular Depth
Estimation Based on a High-Quality Decoder", arXiv 2305.18706): the data flow of `Decoder`, the
blocks `RefineBlock` (AdaRM), `AxialSampler` (AdaAxialNPCAS), `Upsampler` (DAdaNRSU) and
`DisparityHead`, and that all extra paths are weighted by coefficients that are zero at start.

The FA-Depth paper (arXiv 2405.10885) says that HQDecv2 is HQDec changed "to address grid artifacts
in some regions", and names AdaCoeff, DAdaNRSUv2 and a global feature maps module; their internals
are not public. `AdaCoeff`, `GlobalMap`, the blur and detail steps of `Upsampler` and every number
below that is not tagged [HQDec] are therefore [derived]: ours, not the paper's.

Left out: HQDec's three image reconstruction heads (training only; their loss is not public).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fadepth.errors import FadepthError
from fadepth.models.efficientnetv2 import EfficientNetV2, Pointwise, scale_blocks

INITIAL_DISPARITY = 0.07  # [derived] see DisparityHead; 1.4 m with the depth range 0.1 to 100 m
MAX_TOKENS = (6, 20)  # [derived] one token per 32x32 image cell at 192x640, and never more
TOKEN_STRIDE = 32  # image pixels per token below that size
HEAD_DIM = 8  # [derived] width of one attention head
HEADS = (2, 4, 4, 8, 8)  # [HQDec] attention heads at the five channel levels
REDUCTION = (2, 4, 4, 8, 8)  # [HQDec] AdaRM works on C / r channels
MIN_WIDTH = 8  # [derived] narrowest inner width, for scaled-down networks
MLP_RATIO = 2  # [HQDec]
ATTENTION_BLOCKS = 2  # [HQDec], times `depth`
AXIAL_BLOCKS = 2  # [HQDec], times `depth`
AXIAL_SQUEEZE = 16  # [HQDec] ratio of the squeeze-and-excitation in AxialSampler


class Level(NamedTuple):
    """Widths of the blocks that work at one of the five channel levels."""

    channels: int
    inner: int  # AdaRM's reduced width
    heads: int  # attention heads, each HEAD_DIM wide
    depth: float  # scales the repeats inside a block


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 16 groups [HQDec], or fewer where 16 do not divide `channels`.

    At least two channels stay in a group: a group of one is instance normalisation, which would
    erase the mean of every channel of an image.
    """
    groups = [g for g in range(1, 17) if channels % g == 0 and 2 * g <= channels]
    return nn.GroupNorm(max(groups, default=1), channels)


def reflect(x: Tensor, pad: int = 1) -> Tensor:
    """Reflection padding on four sides; replication where a side is too short to reflect."""
    mode = "reflect" if min(x.shape[-2:]) > pad else "replicate"
    return F.pad(x, (pad, pad, pad, pad), mode=mode)


def pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H*W, C); no copy for channels-last tensors."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class Summary(NamedTuple):
    """What AdaCoeff sees of one feature map."""

    channel: Tensor  # (B, 2C): mean and standard deviation over the pixels of each channel
    spatial: Tensor  # (B, 2, H, W): mean and maximum over the channels at each pixel


@torch.no_grad()
def across_channels(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, 2, H, W): mean and maximum over the channels, without gradient."""
    return torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)


@torch.no_grad()
def summarise(x: Tensor) -> Summary:
    """The statistics of a feature map (B, C, H, W), without gradient.

    What reads them (the coefficients) learns; the features are not bent to steer them. The gradient
    would carry the factor gamma, zero at start, and lengthen a training step by about a tenth.
    """
    mean = x.mean((2, 3))
    # torch.var_mean is several times slower than two means on channels-last tensors.
    var = (x.square().mean((2, 3)) - mean.square()).clamp(min=0)
    return Summary(torch.cat((mean, var.sqrt()), dim=1), across_channels(x))


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
        kernel = int(abs((math.log2(channels) + 1) / 2))
        kernel = max(3, kernel if kernel % 2 else kernel + 1)
        self.weight = nn.Conv2d(2, 1, 5, padding=2)
        self.kernel = kernel
        self.mix = nn.Linear(kernel, 1, bias=False)  # conv1d_k, applied to sliding windows

    def forward(self, x: Tensor, spatial: Tensor | None = None) -> Tensor:
        """x (B, C, H, W); `spatial` is `across_channels(x)` if the caller has it."""
        spatial = across_channels(x) if spatial is None else spatial
        weight = torch.sigmoid(self.weight(spatial)).flatten(2)
        mean = torch.bmm(weight, pixels(x)) / weight.sum(2, keepdim=True)
        side = self.kernel // 2
        gate = torch.sigmoid(self.mix(F.pad(mean[:, 0], (side, side)).unfold(1, self.kernel, 1)))
        return x * gate[..., None]


class AttentionBlock(nn.Module):
    """Pre-norm transformer block on tokens (B, N, E)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, HEAD_DIM))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.project(mixed)
        return tokens + self.mlp(self.norm2(tokens))


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
        self.blocks = nn.Sequential(
            *(
                AttentionBlock(width, level.heads)
                for _ in range(scale_blocks(ATTENTION_BLOCKS, level.depth))
            )
        )
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


class RefineBlock(nn.Module):
    """AdaRMv2: ELU(BN(x) + p1 L + p2 G), local branch L and global branch G in parallel. [HQDec]

    The coefficients p1, p2 and the global module are the [derived] ones of this file.
    """

    def __init__(self, level: Level, stride: int) -> None:
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
        global_map = GlobalMap(inner, level, stride)
        self.global_branch = nn.Sequential(
            global_map,
            nn.BatchNorm2d(global_map.width),
            Pointwise(global_map.width, channels, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.attention = nn.ModuleList(ChannelAttention(channels) for _ in range(2))
        self.coeffs = nn.ModuleList(AdaCoeff(channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        z = self.reduce(x)
        out = self.base(x)
        base = summarise(out)
        branches = (self.local_branch, self.global_branch)
        for branch, attention, coeff in zip(branches, self.attention, self.coeffs, strict=True):
            y = branch(z)
            # The coefficient sees the branch before its channel attention: one summary for both.
            summary = summarise(y)
            weight = coeff(base, summary)
            out = torch.addcmul(out, weight, attention(y, summary.spatial))
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
    """One axis of AxialSampler: `stride` sub-rows become channels without loss, then are mixed."""

    def __init__(self, channels: int, stride: int, depth: float, *, vertical: bool) -> None:
        super().__init__()
        self.stride, self.vertical = stride, vertical
        wide = channels * stride
        self.index = nn.Parameter(torch.zeros(stride, 1))
        self.blocks = nn.Sequential(
            *(AxialBlock(wide) for _ in range(scale_blocks(AXIAL_BLOCKS, depth)))
        )
        self.attention = ChannelAttention(wide)
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
    """AdaAxialNPCASv2: near-lossless downsampling by `stride`, vertical then horizontal. [HQDec]

    ELU(BN(main) + p BN(maxpool x)) with an AdaCoeff for p. A size that `stride` does not divide is
    padded below and to the right by replication, so the output has ceil(H / stride) rows: the size
    of the encoder's feature at that stride.
    """

    def __init__(self, channels: int, stride: int, depth: float) -> None:
        super().__init__()
        self.stride = stride
        self.main = nn.Sequential(
            AxialStep(channels, stride, depth, vertical=True),
            AxialStep(channels, stride, depth, vertical=False),
            nn.BatchNorm2d(channels),
        )
        self.side = nn.Sequential(nn.MaxPool2d(stride), nn.BatchNorm2d(channels))
        self.coeff = AdaCoeff(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        below, right = -x.shape[2] % self.stride, -x.shape[3] % self.stride
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        main, side = self.main(x), self.side(x)
        weight = self.coeff(summarise(main), summarise(side))
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
    """DAdaNRSUv2 (x2): BN(bilinear x) plus weighted high-frequency detail.

    The sum of an interpolated map and a sub-pixel map is [HQDec]. [derived]: AdaRM before the
    expansion, equal sub-kernels at start, the fixed blur that removes period-2 checkerboards, and
    that only y - bilinear(avgpool y) is injected. That detail is not batch-normalised: it is small
    at start, and scaling it to unit variance would amplify noise.
    """

    blur_weight: Tensor

    def __init__(self, level: Level, stride: int) -> None:
        super().__init__()
        channels = level.channels
        self.base = nn.BatchNorm2d(channels)
        self.refine = RefineBlock(level, stride)
        self.expand = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        icnr_(self.expand)
        weight = blur_kernel().repeat(channels, 1, 1, 1)
        self.register_buffer("blur_weight", weight, persistent=False)
        self.coeff = AdaCoeff(channels, channels)

    def blur(self, y: Tensor) -> Tensor:
        """Depthwise binomial blur, (B, C, H, W) of even H and W; a checkerboard becomes zero."""
        # Reflection continues a checkerboard across the border, so the borders vanish as well.
        return F.conv2d(reflect(y), self.blur_weight, groups=y.shape[1])

    def detail(self, x: Tensor) -> Tensor:
        """High-frequency map (B, C, 2H, 2W) of x (B, C, H, W)."""
        y = self.blur(F.pixel_shuffle(self.expand(self.refine(x)), 2))
        return y - upsample(F.avg_pool2d(y, 2))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x (B, C, ceil(H/2), ceil(W/2)) to (B, C, H, W) with `size` = (H, W)."""
        # Cropping an odd size keeps the factor 2 exact and undoes the encoder's rounding up.
        base = self.base(crop(upsample(x), size))
        detail = crop(self.detail(x), size)
        return torch.addcmul(base, self.coeff(summarise(base), summarise(detail)), detail)


def upsample(x: Tensor) -> Tensor:
    """Bilinear x2."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left part of `size` (H, W)."""
    return x if x.shape[-2:] == size else x[:, :, : size[0], : size[1]]


class DisparityHead(nn.Module):
    """HeadV2: sigmoid(a * sigmoid(T)), a from a 3x3 convolution, T from the global map. [HQDec]

    [derived]: the start. With zero biases the disparity starts at 0.5, which means 0.2 m; here it
    starts near INITIAL_DISPARITY by the bias of `conv`, with sigmoid(T) close to 1/2 by small
    weights of `gate`. The formula itself is unchanged.
    """

    def __init__(self, level: Level, stride: int) -> None:
        super().__init__()
        self.attention = ChannelAttention(level.channels)
        self.conv = nn.Conv2d(level.channels, 1, 3)
        self.global_map = GlobalMap(level.channels, level, stride)
        self.gate = Pointwise(self.global_map.width, 1)
        logit = math.log(INITIAL_DISPARITY / (1 - INITIAL_DISPARITY))
        nn.init.normal_(self.gate.weight, std=0.01)
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.conv.bias, 2 * logit)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        gate = torch.sigmoid(self.gate(self.global_map(x)))
        return torch.sigmoid(self.conv(reflect(x)) * gate)


class Decoder(nn.Module):
    """HQDec's data flow over the encoder's five features. [HQDec]

    At each level the feature, all finer features brought down by axial samplers, and the upsampled
    coarser map are fused (R: RefineBlock, CT: ConvBlock, Up: Upsampler):

        b_j = R(CT f_j) + u_(j+1) + sum over i < j of AdaCoeff * R(CT(sampler_ij f_i))
        u_j = Up(R(CT b_j))
    """

    def __init__(self, channels: tuple[int, ...], width: float, depth: float) -> None:
        super().__init__()
        levels = [
            Level(c, max(MIN_WIDTH, c // r), max(1, round(h * width)), depth)
            for c, r, h in zip(channels, REDUCTION, HEADS, strict=True)
        ]
        below = [levels[0], *levels[:3]]  # the level whose channels u_j has

        def refined(inputs: int, level: Level, stride: int) -> list[nn.Module]:
            return [ConvBlock(inputs, level.channels), RefineBlock(level, stride)]

        self.bridge = nn.Sequential(*refined(channels[4], levels[3], 32))
        self.bridge_up = Upsampler(levels[3], 32)
        self.lateral, self.reduce = nn.ModuleList(), nn.ModuleList()
        self.up, self.heads = nn.ModuleList(), nn.ModuleList()
        # Keys such as "0_to_2".
        self.sampled, self.coeffs = nn.ModuleDict(), nn.ModuleDict()
        for j in range(4):
            stride, level = 2 ** (j + 1), levels[j]
            self.lateral.append(nn.Sequential(*refined(channels[j], level, stride)))
            # The nearest finer levels are kept where `depth` asks for fewer than all.
            for i in range(max(0, j - scale_blocks(j, depth)), j):
                sampler = AxialSampler(channels[i], 2 ** (j - i), depth)
                path = nn.Sequential(sampler, *refined(channels[i], level, stride))
                self.sampled[f"{i}_to_{j}"] = path
                self.coeffs[f"{i}_to_{j}"] = AdaCoeff(channels[j], channels[j])
            self.reduce.append(nn.Sequential(*refined(channels[j], below[j], stride)))
            self.up.append(Upsampler(below[j], stride))
            if j < 3:
                self.heads.append(DisparityHead(below[j], stride // 2))

    def fuse(self, j: int, features: list[Tensor], coarser: Tensor) -> Tensor:
        """b_j of the class docstring."""
        out: Tensor = self.lateral[j](features[j]) + coarser
        base = summarise(out) if j else None
        for i in range(j):
            if (key := f"{i}_to_{j}") in self.sampled:
                y = self.sampled[key](features[i])
                out = torch.addcmul(out, self.coeffs[key](base, summarise(y)), y)
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
            patch transformer. The resolution-bound v1 forms (False) are not built yet.

    Raises:
        FadepthError: a switch is False, a factor is not positive, or an image is not (B, 3, H, W)
            with H, W >= 32.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        *,
        adacoeff: bool = True,
        upsampler_v2: bool = True,
        global_map: bool = True,
    ) -> None:
        super().__init__()
        switches = {"adacoeff": adacoeff, "upsampler_v2": upsampler_v2, "global_map": global_map}
        for name, value in switches.items():
            if not value:
                raise FadepthError(
                    f"HQDecV2: {name}=False, HQDec's own form, is not built yet; set {name}=True"
                )
        self.encoder = EfficientNetV2(width, depth)
        self.decoder = Decoder(self.encoder.channels, width, depth)
        # Pixel-major weights and activations: several steps here work on (B, H*W, C) views.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        if images.dim() != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 32:
            raise FadepthError(
                f"HQDecV2: images have shape {tuple(images.shape)}, expected (B, 3, H, W) with "
                "H and W of at least 32; resize the images"
            )
        images = images.contiguous(memory_format=torch.channels_last)
        size = (images.shape[2], images.shape[3])
        disparities: list[Tensor] = self.decoder(self.encoder(images), size)
        return disparities if self.training else disparities[0]
