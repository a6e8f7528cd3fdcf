"""Photometric augmentation of images in [0, 1]: colour jitter and gamma.

Same operations as torchvision's `ColorJitter` (used by monodepth2 `datasets/mono_dataset.py`), but
every draw is explicit: monodepth2's followers lost the "one draw per sample" when torchvision
changed, since a `ColorJitter` object draws anew at each call. Values stay in floating point where
monodepth2 rounds to 8 bits after each operation [derived].
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fadepth.config import JitterSettings

#: Luma of ITU-R BT.601, as in Pillow's conversion to grey.
LUMA = (0.299, 0.587, 0.114)
OPERATIONS = ("brightness", "contrast", "saturation", "hue")
#: Range of the gamma of `jitter_batch` [derived].
GAMMA = (0.8, 1.2)


@dataclass(frozen=True)
class Jitter:
    """One draw: factors (1 = unchanged), hue shift in turns (0 = unchanged), order."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    order: tuple[int, ...] = (0, 1, 2, 3)


def draw_jitter(settings: JitterSettings, rng: np.random.Generator) -> Jitter | None:
    """Draw for one sample; None with probability 1 - p.

    The number of values taken from `rng` does not depend on the outcome.
    """
    applied = rng.random() < settings.probability
    shares = rng.random(4)
    order = tuple(int(i) for i in rng.permutation(4))
    return _jitter(settings, shares, order) if applied else None


def _jitter(settings: JitterSettings, shares: np.ndarray, order: tuple[int, ...]) -> Jitter:
    """Turn four numbers in [0, 1) into factors in [1 - a, 1 + a] and a shift in [-h, h]."""
    b, c, s, h = (2 * float(share) - 1 for share in shares)
    return Jitter(
        brightness=1 + b * settings.brightness,
        contrast=1 + c * settings.contrast,
        saturation=1 + s * settings.saturation,
        hue=h * settings.hue,
        order=order,
    )


def apply_jitter(images: Tensor, jitter: Jitter) -> Tensor:
    """Apply one draw to all images (N, 3, H, W) in [0, 1]; the result is in [0, 1].

    Contrast pivots on each image's own mean luma, as in `ColorJitter`.
    """
    for operation in jitter.order:
        name = OPERATIONS[operation]
        if name == "brightness":
            images = adjust_brightness(images, jitter.brightness)
        elif name == "contrast":
            images = adjust_contrast(images, jitter.contrast)
        elif name == "saturation":
            images = adjust_saturation(images, jitter.saturation)
        else:
            images = shift_hue(images, jitter.hue)
    return images


@torch.no_grad()
def jitter_batch(images: Tensor, settings: JitterSettings, generator: torch.Generator) -> Tensor:
    """Relight every image (B, 3, H, W) in [0, 1] by a draw of its own, always; gamma comes last.

    For the pyramid loss, whose altered views are always altered: `settings.probability` does not
    enter. Gamma is drawn from `[0.8, 1.2]` [derived]. The draws come from `generator` (on the CPU)
    and are the same for any device.
    """
    result = []
    for image in images.unbind():
        shares = torch.rand(5, generator=generator, dtype=torch.float64).numpy()
        order = tuple(torch.randperm(4, generator=generator).tolist())
        altered = apply_jitter(image[None], _jitter(settings, shares[:4], order))
        result.append(altered ** float(GAMMA[0] + (GAMMA[1] - GAMMA[0]) * shares[4]))
    return torch.cat(result)


def mirrored_where(maps: Tensor, flipped: Tensor) -> Tensor:
    """Maps (B, C, H, W), or one for all (1, C, H, W), mirrored where `flipped` (B,) says so."""
    return torch.where(flipped[:, None, None, None], maps.flip(-1), maps)


def luma(images: Tensor) -> Tensor:
    """Grey value (N, 1, H, W) of images (N, 3, H, W)."""
    r, g, b = images.unbind(1)
    return (LUMA[0] * r + LUMA[1] * g + LUMA[2] * b).unsqueeze(1)


def adjust_brightness(images: Tensor, factor: float) -> Tensor:
    """Scale all values by `factor`."""
    return (images * factor).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: float) -> Tensor:
    """Scale the distance of all values to the image's mean luma by `factor`."""
    mean = luma(images).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(images), images, factor).clamp(0, 1)


def adjust_saturation(images: Tensor, factor: float) -> Tensor:
    """Scale the distance of all values to the pixel's luma by `factor`."""
    return torch.lerp(luma(images).expand_as(images), images, factor).clamp(0, 1)


def shift_hue(images: Tensor, turns: float) -> Tensor:
    """Turn the hue of HSV colours by `turns` of the colour circle; value and saturation stay.

    With V the largest and C the range of a pixel's channels, hue h in sixths gives each channel
    as V - C·clamp(min(k, 4 - k), 0, 1), k = (n + h) mod 6, n = 5, 3, 1 for red, green, blue
    (https://en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative").
    """
    if turns == 0:
        return images
    value, brightest = images.max(1)
    chroma = value - images.amin(1)
    r, g, b = images.unbind(1)
    divisor = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sixths = torch.where(
        brightest == 0,
        (g - b) / divisor,
        torch.where(brightest == 1, 2 + (b - r) / divisor, 4 + (r - g) / divisor),
    )
    sixths = sixths + 6 * turns
    n = torch.tensor([5.0, 3.0, 1.0], dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    k = (n + sixths.unsqueeze(1)) % 6
    fall = torch.minimum(k, 4 - k).clamp(0, 1)
    return (value.unsqueeze(1) - chroma.unsqueeze(1) * fall).clamp(0, 1)
