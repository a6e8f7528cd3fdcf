"""Noise and patterns of surfaces, filtered for the footprint of a ray. [derived]"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ASPHALT, PAVING, PLASTER, LEAVES = range(4)  # noise tiles


class Ripmap:
    """Tiles of texels, halved separately along u and v, so that far texture does not sparkle.

    Args:
        tiles: arrays of one shape (rows v, columns u), both powers of two; they wrap around.
    """

    def __init__(self, tiles: list[Array]) -> None:
        self.size = (tiles[0].shape[1], tiles[0].shape[0])
        self.levels = tuple(int(np.log2(n)) for n in self.size)
        self._offset = np.zeros((len(tiles), *self.levels), np.int64)
        flat: list[Array] = []
        total = 0
        for number, tile in enumerate(tiles):
            wide: Array = tile.astype(np.float32)
            for i in range(self.levels[0]):
                level = wide
                for j in range(self.levels[1]):
                    self._offset[number, i, j] = total
                    flat.append(level.ravel())
                    total += level.size
                    level = (level[0::2] + level[1::2]) / 2
                wide = (wide[:, 0::2] + wide[:, 1::2]) / 2
        self._flat = np.concatenate(flat)

    def sample(self, tile: Any, u: Array, v: Array, foot_u: Array, foot_v: Array) -> Array:
        """Bilinear values at (u, v) in texels (centres at 0.5), for footprints in texels."""
        i, columns, column, weight_u = self._axis(u, foot_u, 0)
        j, rows, row, weight_v = self._axis(v, foot_v, 1)
        base = self._offset[tile, i, j]
        top = base + row * columns
        bottom = base + ((row + 1) & (rows - 1)) * columns
        right = (column + 1) & (columns - 1)
        take = self._flat.take
        upper = take(top + column)
        upper += weight_u * (take(top + right) - upper)
        lower = take(bottom + column)
        lower += weight_u * (take(bottom + right) - lower)
        upper += weight_v * (lower - upper)
        return upper

    def _axis(self, x: Array, foot: Array, axis: int) -> tuple[Array, Array, Array, Array]:
        level = np.rint(np.log2(foot)).clip(0, self.levels[axis] - 1).astype(np.int64)
        x = x * np.float32(0.5) ** np.arange(self.levels[axis], dtype=np.float32)[level] - 0.5
        low = np.floor(x)
        count = self.size[axis] >> level
        return level, count, low.astype(np.int64) & (count - 1), x - low


def _noise(rng: np.random.Generator, size: int, slope: float, streak: float = 1.0) -> Array:
    """Tileable noise (size, size), mean 0 and deviation 1, with amplitudes falling as f^-slope.

    A slope of 1 has equal contrast in every octave; `streak` > 1 stretches it along u.
    """
    f = np.fft.fftfreq(size) * size
    frequency = np.hypot(f[:, None], f[None, :] * streak)
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((size, size))) * frequency**-slope
    field_ = np.fft.ifft2(spectrum).real
    return (field_ / field_.std()).clip(-2.5, 2.5)


def make_tiles(rng: np.random.Generator) -> Ripmap:
    """The noise of one scene, one tile for each of ASPHALT, PAVING, PLASTER and LEAVES."""
    base = [_noise(rng, 256, slope) for slope in (0.9, 1.0, 1.1, 0.7)]
    # The zero lines of a smooth field look like cracks, its peaks like patches of newer asphalt.
    smooth = _noise(rng, 256, 1.8)
    cracks = np.exp(-((smooth / 0.05) ** 2)) * (_noise(rng, 256, 1.5) > 0)
    patches = 0.9 * (smooth > 1.1) - 0.6 * (smooth < -1.4)
    base[ASPHALT] += 0.4 * _noise(rng, 256, 1.0, streak=4) + patches - 1.6 * cracks
    base[PAVING] += 0.8 * np.sign(_noise(rng, 256, 1.4)).clip(-0.5, 1)
    base[PLASTER] += 0.7 * _noise(rng, 256, 1.2, streak=0.2)
    base[LEAVES] = 1.2 * np.tanh(1.5 * base[LEAVES])
    return Ripmap([tile - tile.mean() for tile in base])


def pulse(x: Array, period: Any, width: Any, foot: Array) -> Array:
    """Share of [x - foot/2, x + foot/2] in the stripes [k period, k period + width], metres."""

    def covered(end: Array) -> Array:
        count = np.floor(end / period)
        return count * width + np.minimum(end - count * period, width)

    return (covered(x + foot / 2) - covered(x - foot / 2)) / foot


def band(x: Array, half: Any, foot: Array) -> Array:
    """Share of [x - foot/2, x + foot/2] in [-half, half], metres."""
    return (np.minimum(x + foot / 2, half) - np.maximum(x - foot / 2, -half)).clip(0) / foot


def mix(colour: Array, other: Any, share: Array) -> None:
    """Move `colour` (3, n) towards `other` in place."""
    for channel, value in zip(colour, np.broadcast_to(np.asarray(other).T, (3,)), strict=True):
        channel += share * (value - channel)
