"""The yardstick: depth and pose networks in the style of monodepth2, on ResNet-18.

Every self-supervised depth network of the last years is compared with monodepth2 (Godard et al.,
ICCV 2019, arXiv 1806.01260), so its ResNet-18 form is what our speeds are ratios of. This is an
implementation of our own from the published description (sections 3.1 and 4, supplement table 5 and
figure 1): a ResNet-18 encoder (He et al., arXiv 1512.03385), a U-Net decoder of nearest x2, skip
concatenation and 3x3 convolutions with reflected borders and ELU, and a pose network on a second
ResNet-18. The classifier of ResNet is left out, since nothing reads it: 14.33 M parameters for
depth, where the public code counts 14.84 M. Weights are random; pretrained ones are not ours.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fadepth.errors import FadepthError

ENCODER_CHANNELS = (64, 64, 128, 256, 512)
"""At strides 2 to 32 (ResNet-18)."""

DECODER_CHANNELS = (16, 32, 64, 128, 256)
"""At strides 1 to 16 (monodepth2, supplement)."""

IMAGE_MEAN, IMAGE_STD = 0.45, 0.225
"""Input normalisation, one pair for all channels (monodepth2 code)."""

MOTION_SCALE = 0.01
"""Factor on axis-angle and translation (monodepth2, section 4)."""


class BasicBlock(nn.Module):
    """ResNet's block of two 3x3: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """Features at strides 2 to 32 of normalised images (B, 3 n, H, W), without the classifier.

    Args:
        images: n, how many images are stacked along the channels.
    """

    def __init__(self, images: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3 * images, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = ENCODER_CHANNELS
        self.layers = nn.ModuleList(
            nn.Sequential(
                BasicBlock(c_in, c_out, 1 if stage == 0 else 2), BasicBlock(c_out, c_out, 1)
            )
            for stage, (c_in, c_out) in enumerate(pairwise(channels))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1((images - IMAGE_MEAN) / IMAGE_STD)), inplace=True)
        features = [x]
        x = F.max_pool2d(x, 3, 2, 1)
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features


def _reflected(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect")


class Monodepth2(nn.Module):
    """monodepth2's depth network: image (B, 3, H, W) in [0, 1] -> disparity in (0, 1).

    In train mode returns four scales [(B, 1, H, W), (B, 1, H/2, W/2), ...], finest first; in eval
    mode only the finest, whose three coarse heads are not run. H and W are multiples of 32, and at
    least 64 (the smallest map is reflected). 14.33 M parameters, 8.0 GMAC at 192x640.

    Raises:
        FadepthError: for other sizes.

    Source: arXiv 1806.01260, implemented anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ResNet18()
        inputs = [*DECODER_CHANNELS[1:], ENCODER_CHANNELS[-1]]
        skips = [0, *ENCODER_CHANNELS[:-1]]
        self.before = nn.ModuleList(
            _reflected(c_in, c_out) for c_in, c_out in zip(inputs, DECODER_CHANNELS, strict=True)
        )
        self.after = nn.ModuleList(
            _reflected(c_out + skip, c_out)
            for skip, c_out in zip(skips, DECODER_CHANNELS, strict=True)
        )
        self.heads = nn.ModuleList(_reflected(count, 1) for count in DECODER_CHANNELS[:4])

    @staticmethod
    def takes(height: int, width: int) -> bool:
        """Whether images of that size go through the network."""
        return not (height % 32 or width % 32) and min(height, width) >= 64

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        height, width = image.shape[-2:]
        if not torch.jit.is_tracing() and not self.takes(height, width):
            raise FadepthError(
                f"Monodepth2 needs sides that are multiples of 32, from 64 on, not {height}x{width}"
            )
        skips = self.encoder(image)
        x = skips.pop()
        disparities: list[Tensor] = []
        for scale in reversed(range(len(DECODER_CHANNELS))):
            x = F.interpolate(F.elu(self.before[scale](x)), scale_factor=2.0, mode="nearest")
            if skips:
                x = torch.cat([x, skips.pop()], 1)
            x = F.elu(self.after[scale](x))
            if scale == 0 or (self.training and scale < len(self.heads)):
                disparities.insert(0, torch.sigmoid(self.heads[scale](x)))
        return disparities if self.training else disparities[0]


class Monodepth2Pose(nn.Module):
    """monodepth2's pose network, 12.5 M parameters: interface of `fadepth.models.posenet.PoseNet`.

    The public code predicts two motions per pair and uses the first; the last layer here has the
    twelve outputs, too. Source: arXiv 1806.01260, implemented anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ResNet18(images=2)
        self.squeeze = nn.Conv2d(ENCODER_CHANNELS[-1], 256, 1)
        self.convs = nn.ModuleList(nn.Conv2d(256, 256, 3, padding=1) for _ in range(2))
        self.head = nn.Conv2d(256, 12, 1)

    def forward(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Pair (B, 6, H, W) in [0, 1], earlier frame first -> axis-angle, translation, (B, 3)."""
        x = F.relu(self.squeeze(self.encoder(pair)[-1]), inplace=True)
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        motion = MOTION_SCALE * self.head(x).mean((2, 3))
        return motion[:, :3], motion[:, 3:6]
