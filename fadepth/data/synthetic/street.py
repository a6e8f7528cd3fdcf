"""The ground: the curve of the street, its lanes, pavements and side streets. [derived]"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Colour = tuple[float, float, float]

CAMERA_HEIGHT = 1.65  # metres over the road
KERB_HEIGHT = 0.12  # of the pavement over the road, metres
_VIEW = 125.0  # the street is laid out this far ahead of the last camera position, metres

GREENS: list[Colour] = [(0.24, 0.34, 0.14), (0.33, 0.38, 0.16), (0.18, 0.28, 0.14)]


@dataclass(frozen=True)
class Curve:
    """The centre line: straight up to `start` metres, then an arc (`curvature` 1/m, right > 0)."""

    start: float
    curvature: float

    def heading(self, s: Array) -> Array:
        """Yaw of the centre line at `s`, radians, to the right."""
        return np.maximum(s - self.start, 0) * self.curvature

    def to_world(self, s: Array, d: Array) -> tuple[Array, Array, Array]:
        """World x and z, metres, and yaw, radians, of the points (s, d)."""
        k = self.curvature
        if k == 0:
            return d + 0 * s, s + 0 * d, 0 * s
        turn = self.heading(s)
        radius = 1 / k - d
        x = 1 / k - radius * np.cos(turn)
        z = np.minimum(s, self.start) + radius * np.sin(turn)
        return x, z, turn

    def from_world(self, x: Array, z: Array) -> tuple[Array, Array]:
        """The inverse of `to_world`: s and d of world points."""
        k = self.curvature
        if k == 0:
            return z, x
        ahead = z - self.start
        s = self.start + np.arctan2(k * ahead, 1 - k * x) / k
        d = 1 / k - np.sign(k) * np.hypot(x - 1 / k, ahead)
        straight = ahead < 0
        return np.where(straight, z, s), np.where(straight, x, d)


@dataclass(frozen=True)
class Street:
    """The ground of a scene and the numbers its builders share."""

    curve: Curve
    end: float  # nothing is built further along, metres
    lanes: int  # in each direction
    lane: float  # width, metres
    parking: tuple[bool, bool]  # left, right
    pavement: tuple[float, float]  # widths, metres: left, right
    crossings: tuple[tuple[float, float], ...]  # of side streets, from s to s
    colours: dict[str, Colour]  # of road, paving and yard
    marks: dict[str, float]  # lengths in metres, shares and contrasts of what is painted and laid

    @property
    def half_width(self) -> tuple[float, float]:
        """From the centre line to the left and right kerb, metres."""
        left, right = (self.lanes * self.lane + (2.7 if p else 0.4) for p in self.parking)
        return left, right

    def kerb(self, side: int) -> float:
        """Distance of the kerb on `side` (-1 left, 1 right), metres."""
        return self.half_width[(side + 1) // 2]

    def verge(self, side: int) -> float:
        """Distance of the pavement's outer edge on `side`, metres."""
        return self.kerb(side) + self.pavement[(side + 1) // 2]

    def raised(self, s: Array, d: Array) -> Array:
        """Whether the ground at (s, d) lies at pavement height."""
        left, right = self.half_width
        result = (d < -left) | (d > right)
        for begin, finish in self.crossings:
            result &= (s < begin) | (s > finish)
        return result

    def free(self, s: float, half: float) -> bool:
        """Whether [s - half, s + half] touches no side street."""
        return all(s + half < a or s - half > b for a, b in self.crossings)


def make_street(rng: np.random.Generator, travelled: float) -> Street:
    """A street for a camera that drives `travelled` metres along it."""
    lanes = 2 if rng.random() < 0.22 else 1
    bend = 0.0
    if rng.random() < 0.6:
        bend = float(rng.choice([-1, 1]) / rng.uniform(75, 350))
    curve = Curve(float(rng.uniform(5, 50)), bend)
    length = rng.uniform(22, 60) if rng.random() < 0.3 else _VIEW
    end = float(travelled + length)
    crossings: list[tuple[float, float]] = []
    s = float(rng.uniform(-30, 60))
    while s < end:
        crossings.append((s, s + float(rng.uniform(6, 14))))
        s += float(rng.uniform(35, 120))
    asphalt = rng.uniform(0.22, 0.46)
    paving = rng.uniform(0.36, 0.66)
    yard = GREENS[rng.integers(3)] if rng.random() < 0.6 else (0.44, 0.40, 0.34)
    tint = rng.uniform(-0.03, 0.03, 3)
    colours: dict[str, Colour] = {
        "road": (asphalt + tint[0], asphalt + tint[1] / 2, asphalt + tint[2]),
        "paving": (paving - tint[2], paving, paving + tint[2]),
        "yard": yard,
    }
    marks = {
        "dash": float(rng.uniform(6, 12)), "dash_share": float(rng.uniform(0.3, 0.55)),
        "edge": float(rng.random() < 0.4), "white": float(rng.uniform(0.6, 0.9)),
        "slab": float(rng.uniform(0.5, 1.5)), "fine": float(rng.uniform(0.09, 0.17)),
        "coarse": float(rng.uniform(0.06, 0.14)), "centre": float(rng.random() < 0.8),
    }  # fmt: skip
    pavement = rng.uniform(1.0, 4.0, 2)
    return Street(
        curve, end, lanes, float(rng.uniform(2.9, 3.6)),
        (bool(rng.random() < 0.6), bool(rng.random() < 0.6)),
        (float(pavement[0]), float(pavement[1])), tuple(crossings), colours, marks,
    )  # fmt: skip
