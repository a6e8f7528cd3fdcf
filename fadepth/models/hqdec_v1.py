"""HQDec's own forms of what HQDecv2 replaces, and the small parts that both share.

The own forms, all from the HQDec authors' public decoder code ([HQDec], see `hqdec.py`):

- `CoefficientMap`: a learned number per pixel weighs an injected map (v2: AdaCoeff);
- `MapAttention`: channel attention with a learned weight per pixel (v2: a weight from the image);
- `PatchTransformer`, `PatchGate`: attention between patches, whose result is painted back through
  one learned template per patch (v2: the global feature maps module).

Each binds a network to one image size. HQDec's upsampler, which does not, is in `hqdec.py`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fadepth.models.efficientnetv2 import Pointwise, scale_blocks

PATCHES = 16  # a patch is 1/16 of the image's height and width, counted in feature pixels
MLP_RATIO = 2  # [HQDec]
ATTENTION_BLOCKS = 2  # [HQDec], times `depth`


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


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left part of `size` (H, W)."""
    return x if x.shape[-2:] == size else x[:, :, : size[0], : size[1]]


def pad_to_multiple(x: Tensor, height: int, width: int) -> Tensor:
    """Replicate the last row and column until `height` and `width` divide the size."""
    below, right = -x.shape[2] % height, -x.shape[3] % width
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def feature_size(image: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of the encoder's feature at `stride` for an image (H, W)."""
    return math.ceil(image[0] / stride), math.ceil(image[1] / stride)


def channel_mixer(channels: int) -> nn.Linear:
    """ECA's conv1d_k across channels, k = odd(|log2 C + 1| / 2), as a layer on windows. [HQDec]"""
    kernel = int(abs((math.log2(channels) + 1) / 2))
    return nn.Linear(max(3, kernel if kernel % 2 else kernel + 1), 1, bias=False)


def channel_gate(mean: Tensor, mixer: nn.Linear) -> Tensor:
    """sigmoid(conv1d_k(v)), (B, C, 1, 1), of the channels' means v (B, C)."""
    kernel = mixer.in_features
    side = kernel // 2
    gate = torch.sigmoid(mixer(F.pad(mean, (side, side)).unfold(1, kernel, 1)))
    return gate[..., None]


class AttentionBlock(nn.Module):
    """Pre-norm transformer block on tokens (B, N, E). [HQDec]"""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.project(mixed)
        return tokens + self.mlp(self.norm2(tokens))


def attention_blocks(width: int, heads: int, depth: float) -> nn.Sequential:
    """ATTENTION_BLOCKS blocks, times `depth`."""
    repeats = range(scale_blocks(ATTENTION_BLOCKS, depth))
    return nn.Sequential(*(AttentionBlock(width, heads) for _ in repeats))


class CoefficientMap(nn.Module):
    """HQDec's weight of an injected map: `outputs` learned numbers per pixel, zero at start."""

    def __init__(self, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.zeros(1, outputs, *size))

    def forward(self, _base: object, _injected: object) -> Tensor:
        """The map, (1, outputs, H, W), whatever the two feature maps are."""
        return self.map


class MapAttention(nn.Module):
    """Efficient channel attention: y_c = x_c sigmoid(conv1d_k(v)), v_c = mean(P x_c). [HQDec]

    P is learned, (1, 1, H, W), and one at start.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.ones(1, 1, *size))
        self.mix = channel_mixer(channels)

    def forward(self, x: Tensor, _summary: object = None) -> Tensor:
        return x * channel_gate((self.map * x).mean((2, 3)), self.mix)


class PatchGrid(NamedTuple):
    """How a feature map is cut: a patch's size in pixels, and how many rows and columns of them."""

    patch: tuple[int, int]
    tokens: tuple[int, int]


def patch_grid(image: tuple[int, int], stride: int) -> PatchGrid:
    """The patches of the feature at `stride`, for an image (H, W).

    HQDec's are 16x52 pixels at the strides 1 to 16 of a 256x832 image, and the whole 8x26 map at
    stride 32: 256, 64, 16, 4, 1 and 1 tokens [HQDec]. For other images they are a sixteenth of the
    image in height and width, rounded up, counted in pixels of the feature, and never larger than
    it; so the numbers of tokens stay wherever 16 divides the image. [derived]
    """
    rows, columns = feature_size(image, stride)
    height, width = feature_size(image, PATCHES)
    height, width = min(height, rows), min(width, columns)
    return PatchGrid((height, width), (math.ceil(rows / height), math.ceil(columns / width)))


class PatchTokens(nn.Module):
    """Attention between the patches of a map (B, C, H, W): (B, C, rows, columns) of `grid`. [HQDec]

    A patch is one token of `width` numbers: a weighted sum per channel, a 1x1 convolution, a
    learned position. A size that the patches do not divide is padded by replication [derived].
    """

    def __init__(
        self, channels: int, grid: PatchGrid, width: int, heads: int, depth: float
    ) -> None:
        super().__init__()
        self.grid = grid
        self.sums = nn.Conv2d(channels, channels, grid.patch, stride=grid.patch, groups=channels)
        self.embed = nn.Sequential(Pointwise(channels, width), group_norm(width), nn.ELU())
        self.position = nn.Parameter(torch.zeros(1, math.prod(grid.tokens), width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = attention_blocks(width, heads, depth)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(self.sums(pad_to_multiple(x, *self.grid.patch)))
        tokens = self.project(self.norm(self.blocks(pixels(x) + self.position)))
        return tokens.unflatten(1, self.grid.tokens).permute(0, 3, 1, 2)


class PatchTransformer(nn.Module):
    """HQDec's patch transformer T, (B, C, H, W) to itself, of one size. [HQDec]

    Every token is painted through its channel's template of a patch's size. The patches do not
    overlap, so the template repeats as a grid.
    """

    def __init__(
        self, channels: int, grid: PatchGrid, width: int, heads: int, depth: float
    ) -> None:
        super().__init__()
        self.width = channels  # of the output, as GlobalMap.width
        self.tokens = PatchTokens(channels, grid, width, heads, depth)
        patch = grid.patch
        self.paint = nn.ConvTranspose2d(channels, channels, patch, stride=patch, groups=channels)
        self.mix = nn.Sequential(Pointwise(channels, channels), group_norm(channels), nn.ELU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(crop(self.paint(self.tokens(x)), (x.shape[2], x.shape[3])))
        return out


class PatchGate(nn.Module):
    """HQDec's patch transformer T' of the disparity head, (B, C, H, W) to (B, 1, H, W). [HQDec]

    It starts near zero [derived], as the gate of the v2 head does: see `hqdec.DisparityHead`.
    """

    def __init__(
        self, channels: int, grid: PatchGrid, width: int, heads: int, depth: float
    ) -> None:
        super().__init__()
        self.tokens = PatchTokens(channels, grid, width, heads, depth)
        self.paint = nn.ConvTranspose2d(channels, 1, grid.patch, stride=grid.patch)
        nn.init.normal_(self.paint.weight, std=0.01)
        nn.init.zeros_(self.paint.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return crop(self.paint(self.tokens(x)), (x.shape[2], x.shape[3]))
