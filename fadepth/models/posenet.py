"""Pose network for self-supervised training: two frames to the camera motion between them."""

import torch
from torch import Tensor, nn

from fadepth.errors import FadepthError

MOTION_SCALE = 0.01
"""Factor on the network's output, so that training starts near zero motion (monodepth2 code)."""

IMAGE_MEAN, IMAGE_STD = 0.45, 0.225
"""Input normalisation (x - mean) / std, one pair for all channels (monodepth2 code)."""

# (channels, kernel) of the strided convolutions: strides 2 to 128.
LAYERS = ((16, 5), (32, 3), (64, 3), (128, 3), (256, 3), (256, 3), (256, 3))
GROUP_WIDTH = 8


class PoseNet(nn.Module):
    """Relative pose of an image pair, with 1.6 M parameters at width 1.

    Seven convolutions of stride 2, each with group norm and ReLU, then 1x1 to six numbers and the
    mean over the image: the plan of SfMLearner's pose network without its second half and with
    smaller first kernels (5, 3 instead of 7, 5), which are most of its cost. Group norm, because
    pairs are few and the last maps small (1x2 pixels for 64x208), and so that a pair's pose does
    not depend on the batch it is in. The network exists only in training. Source: [derived].
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        if not width > 0:
            raise FadepthError(f"PoseNet width must be positive, not {width}.")
        layers: list[nn.Module] = []
        source = 6
        for count, kernel in LAYERS:
            channels = max(1, round(count * width / GROUP_WIDTH)) * GROUP_WIDTH
            layers += [
                nn.Conv2d(source, channels, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.GroupNorm(channels // GROUP_WIDTH, channels),
                nn.ReLU(inplace=True),
            ]
            source = channels
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Conv2d(source, 6, 1)

    def forward(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Pair (B, 6, H, W) in [0, 1], earlier frame first -> axis-angle and translation, (B, 3).

        The rotation vector is in radians, the translation in the depth network's unit of length.
        Raises FadepthError if the input does not have six channels.
        """
        if pair.ndim != 4 or pair.shape[1] != 6:
            raise FadepthError(f"PoseNet needs pairs (B, 6, H, W), not {tuple(pair.shape)}.")
        features = self.encoder((pair - IMAGE_MEAN) / IMAGE_STD)
        motion = MOTION_SCALE * self.head(features).mean(dim=(2, 3))
        axis_angle, translation = torch.split(motion, 3, dim=1)
        return axis_angle, translation
