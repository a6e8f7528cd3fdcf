"""Grid artifacts of a depth network, measured on a smooth image. [derived]

FA-Depth says that HQDecv2 addresses "grid artifacts in some regions" [paper]; how they are measured
is not known. Two causes can be read in HQDec's public decoder, and each leaves its own trace in the
spectrum of a disparity map:

- templates painted once per patch: energy on the harmonics of the patch's period;
- sub-pixel phases that disagree: energy near the highest frequency (period 2).

A smooth image has neither, so what appears in its disparity is the network's own.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fadepth.errors import FadepthError
from fadepth.models.hqdec_v1 import PATCHES

Map = Tensor | NDArray[np.floating]
SILENCE = 1e-24  # share of a constant map's energy below which the rest is rounding


def _images(maps: Map) -> Tensor:
    """(H, W) or (B, 1, H, W) as float64 (B, H, W)."""
    values = torch.as_tensor(maps).detach().to("cpu", torch.float64)
    if values.dim() == 4 and values.shape[1] == 1:
        values = values[:, 0]
    elif values.dim() == 2:
        values = values[None]
    else:
        shape = tuple(values.shape)
        raise FadepthError(f"a map has shape {shape}: expected (H, W) or (B, 1, H, W)")
    if not values.isfinite().all():
        raise FadepthError("a map holds values that are not finite: check the network's output")
    return values


def _share(part: Tensor, whole: Tensor, dc: Tensor) -> float:
    """Mean over images of part / whole (B,); 0 for images without any structure."""
    flat = whole <= SILENCE * dc
    return float(
        torch.where(flat, 0.0, part / whole.clamp(min=torch.finfo(whole.dtype).tiny)).mean()
    )


def harmonic_energy_share(maps: Map, period: int, axis: int = -1) -> float:
    """Share of the energy along one axis that lies on the harmonics of a period, in [0, 1].

    The energy at frequency f is |DFT(line)(f)|^2, summed over the lines along `axis`; f = 0, each
    line's mean, is left out. Harmonics are the multiples of 1 / period. A pattern that repeats with
    `period` has share 1. The rows (or columns) beyond a whole number of periods are left out, so
    that harmonics fall on bins. A flat spectrum (white noise) has `flat_harmonic_share`.

    Args:
        maps: (H, W) or (B, 1, H, W), any unit; for several images their mean share.
        period: in pixels, 2 to half the length of the axis.
        axis: -1 along the rows (vertical lines are seen), -2 along the columns.

    Returns:
        The share; 0 for a constant map.

    Raises:
        FadepthError: wrong shape, values that are not finite, wrong axis, or a period that does
            not fit.
    """
    values = _images(maps)
    if axis not in (-1, -2):
        raise FadepthError(f"axis is {axis}: use -1 for the rows or -2 for the columns")
    length = values.shape[axis]
    if not 2 <= period <= length // 2:
        raise FadepthError(
            f"period is {period} on an axis of {length} pixels: use 2 to {length // 2}"
        )
    periods = length // period
    spectrum = torch.fft.fft(values.narrow(axis, 0, periods * period), dim=axis)
    energy = spectrum.abs().square().sum(-1 if axis == -2 else -2)  # (B, frequencies)
    harmonics = energy[:, periods::periods].sum(1)
    return _share(harmonics, energy[:, 1:].sum(1), energy[:, 0])


def flat_harmonic_share(length: int, period: int) -> float:
    """`harmonic_energy_share` of a flat spectrum: (period - 1) of the frequencies but zero."""
    return (period - 1) / (length // period * period - 1)


def _in_top_band(height: int, width: int, fraction: float) -> Tensor:
    """(H, W): whether a frequency of the 2-D DFT lies in the top band."""
    vertical = torch.fft.fftfreq(height, dtype=torch.float64).abs()
    horizontal = torch.fft.fftfreq(width, dtype=torch.float64).abs()
    limit = 0.5 * (1 - fraction) - 1e-9  # a frequency on the limit counts, whatever the rounding
    return torch.maximum(vertical[:, None], horizontal[None]) >= limit


def top_band_share(maps: Map, fraction: float = 0.1) -> float:
    """Share of the energy in the top `fraction` of frequencies, in [0, 1].

    The energy is |2-D DFT|^2 without frequency zero; a frequency is in the top band if its vertical
    or its horizontal part is at least (1 - fraction) of the highest, 1/2 per pixel. So
    checkerboards and stripes of period 2 have share 1. A flat spectrum (white noise) has
    `flat_top_band_share`, about 1 - (1 - fraction)^2: 0.19 for the top 10 %.

    Args:
        maps: (H, W) or (B, 1, H, W), any unit; for several images their mean share.
        fraction: in (0, 1).

    Returns:
        The share; 0 for a constant map.

    Raises:
        FadepthError: wrong shape, values that are not finite, or a wrong fraction.
    """
    if not 0 < fraction < 1:
        raise FadepthError(f"fraction is {fraction}: use a number between 0 and 1")
    values = _images(maps)
    energy = torch.fft.fft2(values).abs().square()
    dc = energy[:, 0, 0].clone()
    energy[:, 0, 0] = 0
    band = _in_top_band(values.shape[1], values.shape[2], fraction)
    return _share(energy[:, band].sum(1), energy.sum((1, 2)), dc)


def flat_top_band_share(height: int, width: int, fraction: float = 0.1) -> float:
    """`top_band_share` of a flat spectrum: the band's part of all frequencies but zero."""
    return int(_in_top_band(height, width, fraction).sum()) / (height * width - 1)


def smooth_image(height: int, width: int, seed: int = 0, cycles: int = 2) -> Tensor:
    """An image (1, 3, H, W) in [0, 1] of slow waves: at most `cycles` along an axis.

    Waves of whole cycles leave nothing on harmonics of a period shorter than the image / cycles,
    nor in the top band. Amplitudes and phases are drawn from `seed`.
    """
    draw = np.random.default_rng(seed)
    rows = 2 * np.pi * np.arange(height)[:, None] / height
    columns = 2 * np.pi * np.arange(width)[None] / width
    image = np.zeros((3, height, width))
    for down in range(-cycles, cycles + 1):
        for across in range(cycles + 1):
            amplitude, phase = draw.normal(size=(3, 1, 1)), draw.uniform(0, 2 * np.pi, (3, 1, 1))
            image += amplitude * np.cos(down * rows + across * columns + phase)
    low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
    return torch.from_numpy((image - low) / (high - low)).float()[None]


class GridMetrics(NamedTuple):
    """Traces of a grid in disparity, and what a flat spectrum would have in their place.

    A checkerboard of period 2 counts as a harmonic, too, where the patch is an even number of
    pixels high or wide.
    """

    harmonics_x: float  # share along the rows, on the harmonics of the patch's width
    harmonics_y: float  # along the columns, of its height
    top_band: float  # share in the top 10 % of frequencies
    flat: tuple[float, float, float]  # of the three, for a flat spectrum


@torch.no_grad()
def grid_metrics(
    network: nn.Module,
    height: int,
    width: int,
    *,
    period: tuple[int, int] | None = None,
    images: int = 4,
) -> GridMetrics:
    """Both shares of a depth network's disparity, mean over a few smooth images.

    Args:
        network: maps (1, 3, H, W) in [0, 1] to disparity (1, 1, H, W) in evaluation mode; it is
            not changed.
        height, width: of the images, pixels.
        period: height and width of the patches, pixels. Default: HQDec's patches at full
            resolution, a sixteenth of the image (16x52 at 256x832) [HQDec]; those of the coarser
            levels are whole multiples, so their harmonics contain these.
        images: how many smooth images (seeds 0, 1, ...).

    Raises:
        FadepthError: as the two shares, or `images` is below 1.
    """
    if images < 1:
        raise FadepthError(f"images is {images}: use 1 or more")
    down, across = period or (math.ceil(height / PATCHES), math.ceil(width / PATCHES))
    network = copy.deepcopy(network).eval()
    device = next(network.parameters()).device
    maps = torch.cat(
        [network(smooth_image(height, width, seed).to(device)) for seed in range(images)]
    )
    flat = (
        flat_harmonic_share(width, across),
        flat_harmonic_share(height, down),
        flat_top_band_share(height, width),
    )
    return GridMetrics(
        harmonic_energy_share(maps, across, -1),
        harmonic_energy_share(maps, down, -2),
        top_band_share(maps),
        flat,
    )
