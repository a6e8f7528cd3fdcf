"""EfficientNetV2-S as a feature encoder.

Structure: Tan & Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021
(arXiv 2104.00298), in the layer order and with the parameter names of torchvision's
`efficientnet_v2_s`, so that its published ImageNet weights load. Fresh code.

That HQDec uses this encoder is [derived]: its public decoder expects exactly the channels
(24, 48, 64, 160, 256) at strides 2 to 32, which are the five taps of EfficientNetV2-S.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fadepth.errors import FadepthError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BATCH_NORM_EPS = 1e-3  # torchvision's value for the V2 family


class Stage(NamedTuple):
    """One row of Table 4 of the EfficientNetV2 paper; the kernel is 3x3 everywhere."""

    fused: bool
    expand: int
    stride: int
    channels: int
    blocks: int


STEM_CHANNELS = 24
STAGES = (
    Stage(fused=True, expand=1, stride=1, channels=24, blocks=2),
    Stage(fused=True, expand=4, stride=2, channels=48, blocks=4),
    Stage(fused=True, expand=4, stride=2, channels=64, blocks=4),
    Stage(fused=False, expand=4, stride=2, channels=128, blocks=6),
    Stage(fused=False, expand=6, stride=1, channels=160, blocks=9),
    Stage(fused=False, expand=6, stride=2, channels=256, blocks=15),
)
TAPS = (1, 2, 3, 5, 6)  # indices into `features` after which a feature map leaves the encoder
UNUSED = ("features.7.", "classifier.")  # the 1x1 convolution to 1280 channels and the classifier


def scale_channels(channels: int, width: float) -> int:
    """`channels * width` rounded to a multiple of 8, at least 8, never below 90 % of the product.

    The rounding rule of the MobileNet and EfficientNet papers' code.
    """
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


def scale_blocks(blocks: int, depth: float) -> int:
    """`blocks * depth` rounded up, at least 1."""
    return max(1, math.ceil(blocks * depth))


class Pointwise(nn.Conv2d):
    """1x1 convolution, (B, C, H, W) to (B, C', H, W), as one matrix product over the pixels.

    The same function and parameters as nn.Conv2d(C, C', 1); several times faster on a CPU for
    small maps, and without a copy for channels-last tensors.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return out.permute(0, 3, 1, 2)


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True
) -> nn.Sequential:
    if kernel == 1:
        conv: nn.Conv2d = Pointwise(inputs, outputs, bias=False)
    else:
        padding = kernel // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs, eps=BATCH_NORM_EPS)]
    if act:
        layers.append(nn.SiLU(inplace=True))
    return nn.Sequential(*layers)


class SqueezeExcitation(nn.Module):
    """Channel gate from the global mean; `fc1` and `fc2` are 1x1 convolutions as in torchvision."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = Pointwise(channels, squeezed)
        self.fc2 = Pointwise(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class Block(nn.Module):
    """FusedMBConv or MBConv with a shortcut where stride and channels allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, fused: bool) -> None:
        super().__init__()
        hidden = scale_channels(inputs * expand, 1.0)
        if fused and expand == 1:
            layers: list[nn.Module] = [_conv_bn(inputs, outputs, 3, stride)]
        elif fused:
            layers = [_conv_bn(inputs, hidden, 3, stride)]
            layers.append(_conv_bn(hidden, outputs, 1, act=False))
        else:
            layers = [_conv_bn(inputs, hidden, 1), _conv_bn(hidden, hidden, 3, stride, hidden)]
            layers.append(SqueezeExcitation(hidden, max(1, inputs // 4)))
            layers.append(_conv_bn(hidden, outputs, 1, act=False))
        self.block = nn.Sequential(*layers)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out + x if self.shortcut else out


class EfficientNetV2(nn.Module):
    """EfficientNetV2-S without its last 1x1 convolution (`features.7`) and classifier.

    `width` scales the channels (multiples of 8) and `depth` the blocks of each stage (rounded up,
    at least 1); both at 1 give the published S network, with torchvision's parameter names.
    Stochastic depth, which has no parameters, is left out: it belongs to ImageNet training.
    """

    channels: tuple[int, ...]  # of the five features, finest first; (24, 48, 64, 160, 256) at S
    mean: Tensor
    std: Tensor

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        if width <= 0 or depth <= 0:
            raise FadepthError(
                f"encoder: width and depth must be above 0, got width={width} and depth={depth}"
            )
        self.width, self.depth = width, depth
        inputs = scale_channels(STEM_CHANNELS, width)
        layers = [_conv_bn(3, inputs, 3, stride=2)]
        for stage in STAGES:
            outputs = scale_channels(stage.channels, width)
            blocks = []
            for index in range(scale_blocks(stage.blocks, depth)):
                stride = stage.stride if index == 0 else 1
                blocks.append(Block(inputs, outputs, stride, stage.expand, stage.fused))
                inputs = outputs
            layers.append(nn.Sequential(*blocks))
        self.features = nn.Sequential(*layers)
        self.channels = tuple(scale_channels(STAGES[tap - 1].channels, width) for tap in TAPS)
        # Not persistent: the state dict must hold torchvision's names and nothing else.
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(shape), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [0, 1] to five features (B, C_k, ceil(H/s), ceil(W/s)).

        Strides s = 2, 4, 8, 16, 32, finest first. ImageNet normalisation happens here.
        """
        x = (images - self.mean) / self.std
        taps = []
        for index, stage in enumerate(self.features):
            x = stage(x)
            if index in TAPS:
                taps.append(x)
        return taps

    def load_imagenet(self, path: Path) -> None:
        """Load torchvision's `efficientnet_v2_s` state dict from the local file `path`.

        The weights of `features.7` and of the classifier in the file are ignored.

        Raises:
            FadepthError: the file is absent or no state dict, or names or shapes do not match
                (always so when width or depth is not 1).
        """
        weights = _read_state_dict(Path(path))
        weights = {name: w for name, w in weights.items() if not name.startswith(UNUSED)}
        own = self.state_dict()
        problems = [f"{name} is missing" for name in own if name not in weights]
        problems += [f"{name} is unknown" for name in weights if name not in own]
        problems += [
            f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ]
        if problems:
            raise FadepthError(
                f"{path}: expected torchvision's efficientnet_v2_s weights for an encoder with "
                f"width={self.width} and depth={self.depth}, but {problems[0]} ({len(problems)} "
                "such differences); use the official file with width=1 and depth=1, or no file"
            )
        self.load_state_dict(weights)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    advice = "give the local path of torchvision's efficientnet_v2_s weights (a .pth state dict)"
    if not path.is_file():
        raise FadepthError(f"{path}: no such file; {advice}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common exception type for broken files
        raise FadepthError(f"{path}: not a readable PyTorch file; {advice}") from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise FadepthError(f"{path}: holds no state dict (names to tensors); {advice}")
    return weights
