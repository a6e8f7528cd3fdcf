"""A procedural street with exact depth and poses, for learning where no data set is at hand.

Every scene is drawn from a seed: a straight or bending street with pavements, facades, parked
cars, poles and trees, a camera that drives along it, and cars that move. Rays meet planes, boxes,
cylinders and ellipsoids in closed form, so depth and pose are exact. All of this is [derived]; it
is a test bed for the pipeline and no stand-in for KITTI: numbers reached on it are not the paper's.

Conventions
    Camera: x right, y down, z forward; depth is camera z in metres.
    Pixels: integer pixel centres. Column u (0 is the leftmost) and row v (0 is the top) are seen
    along ((u - cx) / fx, (v - cy) / fy, 1), with KITTI's normalised intrinsics as monodepth2 has
    them (https://github.com/nianticlabs/monodepth2, `kitti_dataset.py`): fx = 0.58 W,
    fy = 1.92 H, cx = 0.5 W, cy = 0.5 H.
    World: x right, y down, z forward at the start of the street; the camera moves in the plane
    y = 0 and the road is the plane y = 1.65 (`CAMERA_HEIGHT`).
    Street: s metres along the centre line, d metres to its right; traffic keeps to the right.
"""

import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fadepth.errors import FadepthError
from fadepth.files import write_atomic

Array = NDArray[Any]
Colour = tuple[float, float, float]

DATE = "2000_01_01"
SPLITS = ("train", "val", "test")
CAMERA_HEIGHT = 1.65
MAX_DEPTH = 255.0  # the largest depth a uint16 of 1/256 m can hold, rounded down

# Part of every completion marker: raise it whenever the same seed gives other pixels.
GENERATOR_VERSION = 1
# Drive numbers are fixed per split, so that more scenes in one split leave the others as they are.
_FIRST_DRIVE = {"train": 1, "val": 4001, "test": 6001}
_LAST_DRIVE = {"train": 4000, "val": 6000, "test": 9999}
_KERB = 0.12  # height of the pavement over the road, metres
_VIEW = 125.0  # the street is laid out this far ahead of the last camera position, metres

BOX, POST, WHEEL, ELLIPSOID, SHADE = range(5)  # shapes; a POST stands, a WHEEL's axis lies across
PLAIN, FACADE, BODY, GLASS, BOARDS = range(5)  # patterns
ASPHALT, PAVING, PLASTER, LEAVES = range(4)  # noise tiles


# ------------------------------------------------------------------------------------------------
# Geometry of the street and of the parts that stand in it


@dataclass(frozen=True)
class Curve:
    """The centre line: straight up to `start` metres, then an arc (`curvature` 1/m, right > 0)."""

    start: float
    curvature: float

    def heading(self, s: Array) -> Array:
        """Yaw of the centre line at `s`, radians, to the right."""
        return np.maximum(s - self.start, 0) * self.curvature

    def to_world(self, s: Array, d: Array) -> tuple[Array, Array, Array]:
        """World x, z and yaw of the points (s, d)."""
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


class Part(NamedTuple):
    """One solid; several make a car or a tree. Lengths in metres, `up` is above the road."""

    shape: int
    s: float
    d: float
    up: float
    half: tuple[float, float, float]  # half extents across, up, along (before `turn`)
    colour: Colour
    turn: float = 0.0  # yaw against the street, radians
    across: float = 0.0  # offset in the turned frame
    along: float = 0.0
    speed: float = 0.0  # metres per frame along s
    tile: int = PLASTER
    fine: float = 0.08  # contrast of the noise: texels of 4 cm and of 40 cm
    coarse: float = 0.08
    pattern: int = PLAIN
    q: tuple[float, ...] = (0.0,) * 6  # numbers of the pattern
    offset: tuple[float, float] = (0.0, 0.0)  # of the texture


class Parts:
    """All parts of a scene as arrays, placed for one frame."""

    def __init__(self, parts: list[Part], curve: Curve) -> None:
        self.curve = curve
        self.shape = np.array([p.shape for p in parts])
        self.pattern = np.array([p.pattern for p in parts])
        self.tile = np.array([p.tile for p in parts])
        self.half = np.array([p.half for p in parts], np.float32)
        self.speed = np.array([p.speed for p in parts])
        self._place = np.array([(p.s, p.d, p.up, p.turn, p.across, p.along) for p in parts])
        # One row per attribute, so that a gather by part gives contiguous rows.
        self.table = np.array(
            [(*p.half, *p.colour, p.fine, p.coarse, *p.offset, *p.q) for p in parts], np.float32
        ).T.copy()

    def at(self, frame: float) -> tuple[Array, Array]:
        """Centres (n, 3) in the world and yaws (n,) at `frame`."""
        s, d, up, turn, across, along = self._place.T
        x, z, heading = self.curve.to_world(s + self.speed * frame, d)
        yaw = heading + turn
        x = x + across * np.cos(yaw) + along * np.sin(yaw)
        z = z - across * np.sin(yaw) + along * np.cos(yaw)
        return np.stack([x, CAMERA_HEIGHT - up, z], 1), yaw


def _slab(origin: Any, direction: Any, half: float) -> tuple[Array, Array]:
    """Where a ray enters and leaves |x| <= half."""
    inverse = 1 / (direction + 1e-12)
    a, b = (-half - origin) * inverse, (half - origin) * inverse
    return np.minimum(a, b), np.maximum(a, b)


def _round(origins: list[Any], directions: list[Any], half: list[float]) -> tuple[Array, Array]:
    """Where a ray enters and leaves sum((x / half)^2) <= 1, with enter > leave for a miss."""
    o = [x / h for x, h in zip(origins, half, strict=True)]
    v = [x / h for x, h in zip(directions, half, strict=True)]
    a = sum(x * x for x in v) + 1e-12
    b = sum(x * y for x, y in zip(o, v, strict=True))
    root = b * b - a * (sum(x * x for x in o) - 1)
    missed = root < 0
    root = np.sqrt(np.maximum(root, 0))
    return np.where(missed, np.inf, (-b - root) / a), (-b + root) / a


def _intersect(shape: int, half: Array, o: list[Any], v: list[Any]) -> tuple[Array, Array]:
    """Enter and leave parameters of the rays o + t v with a part in its own frame."""
    h = [float(x) for x in half]
    if shape == ELLIPSOID:
        return _round(o, v, h)
    if shape == BOX:
        spans = [_slab(o[i], v[i], h[i]) for i in range(3)]
    else:
        axis = 1 if shape == POST else 0
        others = [i for i in range(3) if i != axis]
        spans = [
            _slab(o[axis], v[axis], h[axis]),
            _round([o[i] for i in others], [v[i] for i in others], [h[i] for i in others]),
        ]
    enter, leave = spans[0]
    for other_enter, other_leave in spans[1:]:
        enter, leave = np.maximum(enter, other_enter), np.minimum(leave, other_leave)
    return enter, leave


# ------------------------------------------------------------------------------------------------
# Textures


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


def _tiles(rng: np.random.Generator) -> Ripmap:
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


def _pulse(x: Array, period: Any, width: Any, foot: Array) -> Array:
    """Share of [x - foot/2, x + foot/2] in the stripes [k period, k period + width]."""

    def covered(end: Array) -> Array:
        count = np.floor(end / period)
        return count * width + np.minimum(end - count * period, width)

    return (covered(x + foot / 2) - covered(x - foot / 2)) / foot


def _band(x: Array, half: Any, foot: Array) -> Array:
    """Share of [x - foot/2, x + foot/2] in [-half, half]."""
    return (np.minimum(x + foot / 2, half) - np.maximum(x - foot / 2, -half)).clip(0) / foot


# ------------------------------------------------------------------------------------------------
# Layout: what stands where


@dataclass(frozen=True)
class Street:
    """The ground of a scene and the numbers its builders share."""

    curve: Curve
    end: float  # nothing is built further along, metres
    lanes: int  # in each direction
    lane: float  # width, metres
    parking: tuple[bool, bool]  # left, right
    pavement: tuple[float, float]
    crossings: tuple[tuple[float, float], ...]  # of side streets, from s to s
    colours: dict[str, Colour]
    marks: dict[str, float]

    @property
    def half_width(self) -> tuple[float, float]:
        """From the centre line to the left and right kerb."""
        left, right = (self.lanes * self.lane + (2.7 if p else 0.4) for p in self.parking)
        return left, right

    def kerb(self, side: int) -> float:
        """Distance of the kerb on `side` (-1 left, 1 right)."""
        return self.half_width[(side + 1) // 2]

    def verge(self, side: int) -> float:
        """Distance of the pavement's outer edge on `side`."""
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


@dataclass(frozen=True)
class Light:
    """Sun, sky and haze of a scene."""

    sun: tuple[float, float, float]  # unit vector towards the sun
    strength: float
    sun_colour: Colour
    ambient: Colour
    horizon: Colour
    zenith: Colour
    clouds: float
    haze: float  # per metre
    gain: float
    gamma: float
    noise: float  # of the sensor, in grey levels / 255


@dataclass(frozen=True)
class Scene:
    """All that one drive needs; made by `make_scene`."""

    street: Street
    parts: Parts
    light: Light
    tiles: Ripmap
    shadow: Ripmap
    poses: Array  # (frames, 3, 4), camera to world


@dataclass
class _Builder:
    """Collects the parts of a street; every `add` draws from `rng`, so order matters."""

    rng: np.random.Generator
    street: Street
    parts: list[Part] = field(default_factory=list)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def add(self, shape: int, s: float, d: float, up: float, half: Any, **more: Any) -> None:
        offset = (self.uniform(0, 400), self.uniform(0, 400))
        self.parts.append(Part(shape, s, d, up, half, more.pop("colour"), offset=offset, **more))

    def tint(self, colour: Colour, spread: float = 0.12) -> Colour:
        """`colour` with another brightness and a little other hue."""
        value = np.array(colour) * self.rng.uniform(1 - 2 * spread, 1 + 2 * spread)
        red, green, blue = (value + self.rng.uniform(-spread, spread, 3) * 0.3).clip(0.02, 1)
        return (float(red), float(green), float(blue))

    def pick(self, colours: list[Colour], spread: float = 0.12) -> Colour:
        return self.tint(colours[int(self.rng.integers(len(colours)))], spread)


_PLASTERS: list[Colour] = [
    (0.78, 0.72, 0.60), (0.70, 0.44, 0.34), (0.62, 0.60, 0.57), (0.84, 0.81, 0.75),
    (0.55, 0.36, 0.28), (0.76, 0.62, 0.40), (0.50, 0.54, 0.58), (0.66, 0.70, 0.62),
]  # fmt: skip
_PAINTS: list[Colour] = [
    (0.75, 0.76, 0.78), (0.14, 0.14, 0.16), (0.55, 0.10, 0.10), (0.14, 0.22, 0.45),
    (0.42, 0.44, 0.46), (0.88, 0.88, 0.86), (0.20, 0.34, 0.26), (0.70, 0.55, 0.22),
]  # fmt: skip
_GREENS: list[Colour] = [(0.24, 0.34, 0.14), (0.33, 0.38, 0.16), (0.18, 0.28, 0.14)]
_WOODS: list[Colour] = [(0.45, 0.33, 0.22), (0.62, 0.58, 0.50), (0.35, 0.38, 0.36)]


def _facade(b: _Builder, s: float, d: float, half: Any, turn: float = 0.0) -> None:
    """A building with a grid of windows, a ground floor of its own, and sometimes a roof storey."""
    storey, bay = b.uniform(2.7, 3.7), b.uniform(1.6, 4.2)
    q = (
        bay, storey, b.uniform(0.3, 0.68), b.uniform(0.38, 0.66),
        b.uniform(0.05, 0.4), b.uniform(0.0, 0.35),
    )  # fmt: skip
    colour = b.pick(_PLASTERS)
    noise = {"fine": b.uniform(0.06, 0.13), "coarse": b.uniform(0.06, 0.16)}
    b.add(BOX, s, d, half[1], half, colour=colour, turn=turn, pattern=FACADE, q=q, **noise)
    if b.chance(0.4):
        top = (max(half[0] - 0.8, 0.5), b.uniform(0.7, 1.6), max(half[2] - 0.8, 0.5))
        roof = b.pick([(0.42, 0.24, 0.18), (0.28, 0.28, 0.30)])
        up = 2 * half[1] + top[1]
        b.add(
            BOX, s, d, up, top, colour=roof, turn=turn, pattern=BOARDS, q=(0.4, 0.8, 0.7, 0, 0, 0)
        )


def _hedge(b: _Builder, s: float, d: float, length: float) -> None:
    """A hedge, a board fence or a low wall along the street."""
    kind = b.rng.integers(3)
    if kind == 0:
        half = (b.uniform(0.3, 0.7), b.uniform(0.4, 1.1), length / 2)
        look = {"colour": b.pick(_GREENS), "tile": LEAVES, "fine": 0.3, "coarse": 0.12}
    elif kind == 1:
        half = (0.05, b.uniform(0.5, 1.0), length / 2)
        q = (b.uniform(0.25, 0.6), 0.9, 0.6, 0, 0, 0)
        look = {"colour": b.pick(_WOODS), "pattern": BOARDS, "q": q, "fine": 0.12}
    else:
        half = (0.15, b.uniform(0.25, 0.9), length / 2)
        look = {"colour": b.pick(_PLASTERS), "fine": 0.14, "coarse": 0.14}
    b.add(BOX, s, d, half[1], half, **look)


def _tree(b: _Builder, s: float, d: float) -> None:
    """A trunk and a crown of a few ellipsoids."""
    height, radius = b.uniform(4, 10), b.uniform(1.2, 2.6)
    trunk, thick = height - radius, b.uniform(0.12, 0.3)
    b.add(
        POST, s, d, trunk / 2, (thick, trunk / 2, thick), colour=b.tint((0.30, 0.24, 0.18)),
        tile=LEAVES, fine=0.2, coarse=0.1,
    )  # fmt: skip
    green = b.pick(_GREENS)
    for _ in range(int(b.rng.integers(2, 5))):
        size = radius * b.uniform(0.6, 1.0)
        half = (size, size * b.uniform(0.8, 1.2), size * b.uniform(0.8, 1.1))
        place = {"across": b.uniform(-0.5, 0.5) * radius, "along": b.uniform(-0.5, 0.5) * radius}
        up = max(trunk + b.uniform(-0.5, 0.8) * radius, 2.4 + half[1])
        look = {"colour": b.tint(green, 0.06), "tile": LEAVES, "fine": 0.34, "coarse": 0.16}
        b.add(ELLIPSOID, s, d, up, half, **place, **look)


def _bush(b: _Builder, s: float, d: float) -> None:
    half = (b.uniform(0.5, 1.6), b.uniform(0.5, 1.3), b.uniform(0.5, 1.6))
    look = {"colour": b.pick(_GREENS), "tile": LEAVES, "fine": 0.32, "coarse": 0.16}
    b.add(ELLIPSOID, s, d, half[1] * 0.7, half, **look)


def _post(b: _Builder, s: float, d: float) -> None:
    """A lamp post, a sign or a bollard."""
    kind, thick = b.rng.integers(3), b.uniform(0.05, 0.12)
    grey = b.pick([(0.5, 0.5, 0.5), (0.3, 0.32, 0.3), (0.68, 0.66, 0.6)])
    height = (b.uniform(4.5, 8), b.uniform(2.2, 3), b.uniform(0.8, 1.2))[kind]
    look = {"colour": grey, "fine": 0.15, "coarse": 0.1}
    b.add(POST, s, d, height / 2, (thick, height / 2, thick), **look)
    if kind == 0:
        b.add(BOX, s, d, height, (0.8, 0.08, 0.12), across=-0.7 * np.sign(d), **look)
    elif kind == 1:
        sign = b.pick([(0.75, 0.12, 0.1), (0.1, 0.25, 0.6), (0.85, 0.8, 0.2), (0.85, 0.85, 0.85)])
        half = (b.uniform(0.3, 0.5), b.uniform(0.3, 0.5), 0.03)
        b.add(BOX, s, d, height, half, along=-thick - 0.04, colour=sign, fine=0.2)


# Length, width, height in metres; how often.
_CARS = ((3.9, 1.70, 1.45), (4.5, 1.78, 1.42), (4.6, 1.88, 1.70), (5.3, 1.96, 2.3), (7.2, 2.3, 3.1))
_CAR_SHARE = (0.32, 0.30, 0.20, 0.12, 0.06)


def _car(b: _Builder, s: float, d: float, *, turn: float, speed: float, kind: int) -> None:
    """A car, van or truck of boxes and wheels, with the shade under it; `turn` 0 faces along s."""
    length, width, height = _CARS[kind]
    more: dict[str, Any] = {"turn": turn, "speed": speed}
    paint = {"colour": b.pick(_PAINTS), "fine": 0.07, "coarse": 0.12}
    body = {**paint, "pattern": BODY}
    glass = {**paint, "pattern": GLASS}
    side, long = width / 2, length / 2
    if kind < 3:
        waist = 0.58 * height
        b.add(BOX, s, d, (0.25 + waist) / 2, (side, (waist - 0.25) / 2, long), **body, **more)
        half = (side * 0.88, (height - waist) / 2 + 0.02, long * (0.52, 0.5, 0.68)[kind])
        back = -(0.16, 0.06, 0.3)[kind] * long
        b.add(BOX, s, d, (height + waist) / 2, half, along=back, **glass, **more)
    else:
        share = 0.78 if kind == 3 else 0.7
        cargo = (side, (height - 0.4) / 2, long * share)
        back = -long * (1 - share)
        b.add(BOX, s, d, (height + 0.4) / 2, cargo, along=back, **body, **more)
        top = height * (0.9 if kind == 3 else 0.75)
        half = (side * 0.96, (top - 0.35) / 2, long * (1 - share) + 0.02)
        b.add(BOX, s, d, (top + 0.35) / 2, half, along=long * share, **glass, **more)
    radius = 0.31 if kind < 4 else 0.45
    rubber: dict[str, Any] = {"colour": (0.05, 0.05, 0.055), "fine": 0.2}
    for axle in (-0.62, 0.62):
        b.add(
            WHEEL, s, d, radius, (side + 0.01, radius, radius), along=axle * long, **rubber, **more
        )
    b.add(SHADE, s, d, 0.0, (side + 0.25, 0.02, long + 0.25), colour=(0.0, 0.0, 0.0), **more)


def _buildings(b: _Builder, side: int) -> None:
    """One side of the street: a style of its own, with facades, gaps, hedges and back rows."""
    street = b.street
    style = b.rng.choice(["wall", "houses", "blocks", "open"], p=[0.36, 0.28, 0.2, 0.16])
    lengths, heights, gaps, back, gap_share = {
        "wall": ((7, 18), (6, 19), (2, 9), (0.0, 1.5), 0.15),
        "houses": ((7, 13), (4, 8.5), (3, 12), (2.0, 10.0), 0.8),
        "blocks": ((12, 26), (8, 24), (5, 25), (1.0, 14.0), 0.6),
        "open": ((8, 22), (3, 9), (20, 70), (4.0, 25.0), 1.0),
    }[str(style)]
    setback = b.uniform(*back)
    fenced = style in ("houses", "open") and b.chance(0.6)
    # Long boxes on a bend would reach into the street.
    longest = 11.0 if abs(street.curve.curvature) > 1 / 400 else 99.0
    s = -12.0 + b.uniform(0, 8)
    while s < street.end:
        length = min(b.uniform(*lengths), longest)
        middle = s + length / 2
        if street.free(middle, length / 2):
            deep, up = b.uniform(4, 8), b.uniform(*heights)
            d = street.verge(side) + setback + deep + b.uniform(0.05, 0.9)
            _facade(b, middle, side * d, (deep, up / 2, length / 2))
            if fenced and setback > 1.5:
                _hedge(b, middle, side * (street.verge(side) + 0.4), length)
            s += length + 0.02
        else:
            s += 2.0
        if b.chance(gap_share):
            s += b.uniform(*gaps)


def _parked(b: _Builder, side: int) -> None:
    """Cars in the parking lane of `side`, now dense, now few."""
    street, occupancy = b.street, float(b.rng.beta(1.2, 1.0))
    if not street.parking[(side + 1) // 2]:
        return
    s = b.uniform(-6, 4)
    while s < street.end - 10:
        # No trucks: right beside the camera they would fill half the image.
        kind = int(b.rng.choice(4, p=(0.36, 0.34, 0.22, 0.08)))
        long = _CARS[kind][0] / 2
        if b.chance(occupancy) and street.free(s + long, long + 2):
            turn = (0.0 if side > 0 else np.pi) + b.uniform(-0.03, 0.03)
            if b.chance(0.15):
                turn += np.pi
            d = side * (street.kerb(side) - 0.25 - _CARS[kind][1] / 2) - b.uniform(0, 0.15) * side
            _car(b, s + long, d, turn=turn, speed=0.0, kind=kind)
        s += 2 * long + b.uniform(0.6, 1.8) + (b.uniform(3, 25) if b.chance(0.1) else 0)


def _greenery_and_posts(b: _Builder, side: int) -> None:
    """Street trees and posts near the kerb; bushes and trees behind the pavement."""
    street = b.street
    near = street.kerb(side) + min(0.7, 0.4 * street.pavement[(side + 1) // 2])
    spacing = b.uniform(6, 16)
    share = b.uniform(0, 1) if b.chance(0.55) else 0.0
    s = b.uniform(0, spacing)
    while s < street.end - 4:
        if street.free(s, 1.5) and b.chance(share):
            _tree(b, s, side * near)
        s += spacing * b.uniform(0.8, 1.2)
    spacing = b.uniform(9, 30)
    s = b.uniform(0, spacing)
    while s < street.end - 4:
        if street.free(s, 1.0):
            _post(b, s, side * (near - 0.25))
        s += spacing * b.uniform(0.6, 1.4)
    wild = b.rng.beta(0.6, 1.2) * 0.5
    for place in np.arange(0, street.end + 30, 4.0):
        if b.chance(wild) and street.free(float(place), 3):
            d = street.verge(side) + b.uniform(1.5, 18)
            (_tree if b.chance(0.5) else _bush)(b, float(place), side * d)


def _street_end(b: _Builder) -> None:
    """What closes the view: a facade across the street, a bridge over it, or far blocks."""
    street = b.street
    if b.chance(0.3):
        for d in np.arange(-30, 31, 12.0):
            deep, up = b.uniform(4, 7), b.uniform(4, 18)
            place = street.end + 6 + deep + b.uniform(0, 1)
            _facade(b, place, float(d), (6.0, up / 2, deep))
        return
    if b.chance(0.12):
        s, up = b.uniform(0.4, 0.9) * street.end, b.uniform(4.6, 5.6)
        wide = street.verge(1) + 2
        look = {"colour": b.pick(_PLASTERS), "fine": 0.12, "coarse": 0.15}
        b.add(BOX, s, 0.0, up + 0.6, (wide + 12, 0.6, b.uniform(2, 5)), **look)
        for side in (-1, 1):
            b.add(BOX, s, side * (street.verge(side) + 0.9), up / 2, (0.5, up / 2, 1.9), **look)
    for _ in range(12):
        d = b.uniform(-90, 90)
        up = b.uniform(4, 22)
        s = street.end + b.uniform(15, 70)
        if b.chance(0.5):
            _facade(b, s, d, (b.uniform(5, 14), up / 2, b.uniform(5, 10)))
        else:
            look = {"colour": b.pick(_GREENS), "tile": LEAVES, "fine": 0.2, "coarse": 0.3}
            b.add(ELLIPSOID, s, d, up * 0.2, (b.uniform(8, 20), up * 0.4, 8.0), **look)


def _traffic(b: _Builder, camera_d: float, speed: float) -> None:
    """Oncoming cars in every scene; in some, one ahead that drives about as fast as the camera."""
    street = b.street
    oncoming = -b.uniform(0.5, 1.3)
    s = b.uniform(14, 45)
    for _ in range(int(b.rng.integers(2, 6))):
        kind = int(b.rng.choice(5, p=_CAR_SHARE))
        if s < street.end - 5:
            d = -street.lane * (0.5 + float(b.rng.integers(street.lanes)))
            _car(b, s, d, turn=np.pi, speed=oncoming, kind=kind)
        s += b.uniform(9, 40)
    if b.chance(0.35):
        kind = int(b.rng.choice(5, p=_CAR_SHARE))
        ahead = b.uniform(8, 24) + _CARS[kind][0] / 2
        _car(b, ahead, camera_d, turn=0.0, speed=speed + b.uniform(-0.03, 0.05), kind=kind)


def _street(rng: np.random.Generator, travelled: float) -> Street:
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
    yard = _GREENS[rng.integers(3)] if rng.random() < 0.6 else (0.44, 0.40, 0.34)
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


def _light(rng: np.random.Generator) -> Light:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(22, 65))
    flat = np.cos(elevation)
    sun = np.array([flat * np.sin(azimuth), -np.sin(elevation), flat * np.cos(azimuth)])
    overcast = rng.random() < 0.35
    strength = rng.uniform(0.05, 0.2) if overcast else rng.uniform(0.55, 1.0)
    warm = rng.uniform(0, 0.16)
    sky = np.array([0.45, 0.62, 0.86]) if not overcast else np.array([0.72, 0.75, 0.78])
    return Light(
        sun=_floats(sun),
        strength=float(strength),
        sun_colour=_floats([1 + warm, 1.0, 1 - warm]),
        ambient=_floats(
            np.array([0.95, 1.0, 1.06]) * rng.uniform(0.72, 0.85) * (1.25 if overcast else 0.8)
        ),
        horizon=_floats((0.5 * sky + 0.45) * rng.uniform(0.85, 1.05)),
        zenith=_floats(sky * rng.uniform(0.75, 1.0)),
        clouds=float(rng.uniform(0.02, 0.14)),
        haze=float(rng.uniform(0, 0.005)),
        gain=float(rng.uniform(0.75, 1.2)),
        gamma=float(rng.uniform(1.0, 1.35)),
        noise=float(rng.uniform(0.001, 0.004)),
    )


def _wobble(rng: np.random.Generator, frames: int, amplitude: float) -> Array:
    """A smooth signal (frames,) of about `amplitude`, periods of 10 to 50 frames."""
    t = np.arange(frames)
    waves = [np.sin(2 * np.pi * (t / rng.uniform(10, 50) + rng.random())) for _ in range(3)]
    return amplitude / 1.5 * np.sum(waves, 0)


def _poses(rng: np.random.Generator, curve: Curve, d: float, speed: float, frames: int) -> Array:
    """Camera-to-world rows (frames, 3, 4) of a drive at `speed` metres per frame in lane `d`."""
    step = speed * (1 + _wobble(rng, frames, 0.02))
    s = np.concatenate([[0.0], np.cumsum(step)[:-1]])
    lateral = d + _wobble(rng, frames, 0.12)
    x, z, heading = curve.to_world(s, lateral)
    yaw = heading + np.gradient(lateral) / speed + _wobble(rng, frames, np.radians(0.5))
    pitch = np.radians(rng.uniform(-0.6, 0.6)) + _wobble(rng, frames, np.radians(0.25))
    zero, one = np.zeros(frames), np.ones(frames)
    sin, cos = np.sin(yaw), np.cos(yaw)
    turn = np.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], 1).reshape(-1, 3, 3)
    sin, cos = np.sin(pitch), np.cos(pitch)
    nod = np.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).reshape(-1, 3, 3)
    rotation = np.einsum("nij,njk->nik", turn, nod)
    return np.concatenate([rotation, np.stack([x, zero, z], 1)[:, :, None]], 2)


def _floats(values: Any) -> tuple[float, float, float]:
    """Three Python numbers, which leave float32 arrays float32 where numpy's would not."""
    first, second, third = (float(value) for value in values)
    return first, second, third


def make_scene(seed: int, drive: int, frames: int) -> Scene:
    """The scene of `drive`: a function of these three numbers alone."""
    rng = np.random.default_rng([seed, drive])
    speed = float(rng.uniform(0.6, 1.3))
    street = _street(rng, speed * frames)
    b = _Builder(rng, street)
    for side in (-1, 1):
        _buildings(b, side)
        _parked(b, side)
        _greenery_and_posts(b, side)
    _street_end(b)
    camera_d = street.lane * (0.5 + float(rng.integers(street.lanes)))
    _traffic(b, camera_d, speed)
    light = _light(rng)
    parts = Parts(b.parts, street.curve)
    poses = _poses(rng, street.curve, camera_d, speed, frames)
    return Scene(street, parts, light, _tiles(rng), _shadows(street, parts, light), poses)


# ------------------------------------------------------------------------------------------------
# Shadows on the ground, once per scene

_SHADOW_ORIGIN = (-8.0, -32.0)  # s and d of the map's first texel
_SHADOW_TEXEL = (0.2, 0.25)
_SHADOW_SIZE = (1024, 256)
_CORNERS = np.array([[(i >> k & 1) * 2 - 1 for k in range(3)] for i in range(8)], float)


def _corners(half: Array, centre: Array, yaw: Array) -> Array:
    """World corners (n, 8, 3) of boxes of half extents (n, 3)."""
    local = _CORNERS * half[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x = local[..., 0] * cos + local[..., 2] * sin
    z = local[..., 2] * cos - local[..., 0] * sin
    return np.stack([x, local[..., 1], z], 2) + centre[:, None]


def _shadows(street: Street, parts: Parts, light: Light) -> Ripmap:
    """Share of the sun that reaches the ground past the parts that stand still, over (d, s)."""
    lit = np.ones(_SHADOW_SIZE[::-1], np.float32)
    if light.strength < 0.3:
        return Ripmap([lit])
    axes = [
        o + (np.arange(n) + 0.5) * step
        for o, n, step in zip(_SHADOW_ORIGIN, _SHADOW_SIZE, _SHADOW_TEXEL, strict=True)
    ]
    x, z, _ = street.curve.to_world(axes[0][None, :], axes[1][:, None])
    x, z = x.astype(np.float32), z.astype(np.float32)
    centre, yaw = parts.at(0)
    points = _corners(parts.half, centre, yaw)
    drop = (points[..., 1] - CAMERA_HEIGHT) / light.sun[1]
    ends = street.curve.from_world(
        points[..., 0] - light.sun[0] * drop, points[..., 2] - light.sun[2] * drop
    )
    bounds = [
        ((e - o) / step).round().clip(-3, n + 3).astype(int)
        for e, o, n, step in zip(ends, _SHADOW_ORIGIN, _SHADOW_SIZE, _SHADOW_TEXEL, strict=True)
    ]
    for i in np.flatnonzero((parts.speed == 0) & (parts.shape != SHADE)):
        columns, rows = (slice(max(e[i].min() - 3, 0), max(e[i].max() + 3, 0)) for e in bounds)
        window = (rows, columns)
        if lit[window].size == 0:
            continue
        ox, oz = x[window] - centre[i, 0], z[window] - centre[i, 2]
        cos, sin = np.cos(yaw[i]), np.sin(yaw[i])
        origin = [ox * cos - oz * sin, CAMERA_HEIGHT - centre[i, 1], ox * sin + oz * cos]
        sx, sy, sz = light.sun
        towards = [sx * cos - sz * sin, sy, sx * sin + sz * cos]
        enter, leave = _intersect(parts.shape[i], parts.half[i], origin, towards)
        lit[window][(enter < leave) & (leave > 0)] = 0
    return Ripmap([lit])


# ------------------------------------------------------------------------------------------------
# Tracing: which surface each ray meets, and where

# Four rays of a rotated grid are averaged into the colour; the fifth, at the centre, is the depth.
_OFFSETS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375), (0.0, 0.0))
_SKY, _ROAD, _RAISED, _KERB_FACE = -1, -2, -3, -4  # instead of a part's number
_NEAR = 0.3


@dataclass
class _Hits:
    """What the rays (5, H, W) of one frame meet; `t` is camera z, infinite for the sky."""

    eye: tuple[float, float, float]
    ray: Array  # (3, 5, H, W) world directions with camera z 1
    t: Array
    part: Array
    s: Array  # of the ground
    d: Array
    shade: Array  # light left by the cars above the ground
    centre: Array
    yaw: Array


def intrinsics(height: int, width: int) -> Array:
    """K (3, 3) in pixels: fx = 0.58 W, fy = 1.92 H, c = 0.5 (monodepth2's for KITTI)."""
    return np.array([[0.58 * width, 0, 0.5 * width], [0, 1.92 * height, 0.5 * height], [0, 0, 1]])


def _rays(pose: Array, height: int, width: int) -> Array:
    k = intrinsics(height, width)
    offset = np.array(_OFFSETS)
    x = (np.arange(width) + offset[:, :1] - k[0, 2]) / k[0, 0]
    y = (np.arange(height) + offset[:, 1:] - k[1, 2]) / k[1, 1]
    r = pose[:, :3]
    rays = [r[i, 0] * x[:, None, :] + r[i, 1] * y[:, :, None] + r[i, 2] for i in range(3)]
    return np.stack(rays).astype(np.float32)


def _trace_ground(street: Street, hits: _Hits) -> None:
    """Meet the road, the raised pavement and the kerb between them."""
    flat = hits.ray.reshape(3, -1)
    index = np.flatnonzero(flat[1] > 1e-3)
    vx, vy, vz = flat[:, index]

    def meet(t: Array, pick: Any = slice(None)) -> tuple[Array, Array]:
        return street.curve.from_world(hits.eye[0] + t * vx[pick], hits.eye[2] + t * vz[pick])

    drop = CAMERA_HEIGHT - hits.eye[1]
    t = ((drop - _KERB) / vy).astype(np.float32)
    s, d = (a.astype(np.float32) for a in meet(t))
    high = street.raised(s, d)
    part = np.where(high, _RAISED, _ROAD).astype(np.int16)
    low = np.flatnonzero(~high)
    above, below = t[low], (drop / vy[low]).astype(np.float32)
    s[low], d[low] = meet(below, low)
    t[low] = below
    # Over the road at pavement height and under the pavement at road height: the kerb is between.
    kerb = np.flatnonzero(street.raised(s[low], d[low]))
    pick, a, b = low[kerb], above[kerb], below[kerb]
    for _ in range(12):
        middle = (a + b) / 2
        behind = street.raised(*meet(middle, pick))
        a, b = np.where(behind, a, middle), np.where(behind, middle, b)
    t[pick], part[pick] = b, _KERB_FACE
    for target, value in ((hits.t, t), (hits.part, part), (hits.s, s), (hits.d, d)):
        target.reshape(-1)[index] = value


def _windows(corners: Array, pose: Array, height: int, width: int) -> tuple[Array, Array]:
    """Pixel bounds (n, 4: top, bottom, left, right) of boxes (n, 8, 3), and their least depth."""
    k = intrinsics(height, width)
    points = np.einsum("nci,ij->ncj", corners - pose[:, 3], pose[:, :3])
    # Edges that cross the near plane are cut there.
    ends = [(i, i | 1 << b) for b in range(3) for i in range(8) if not i >> b & 1]
    first, second = (points[:, [e[n] for e in ends]] for n in (0, 1))
    span = second[..., 2] - first[..., 2]
    share = (_NEAR - first[..., 2]) / np.where(span == 0, 1, span)
    cut = first + share[..., None] * (second - first)
    crossing = (first[..., 2] > _NEAR) != (second[..., 2] > _NEAR)
    valid = np.concatenate([points[..., 2] > _NEAR, crossing], 1)
    every = np.concatenate([points, cut], 1)
    z = np.where(valid, every[..., 2], 1)
    u = every[..., 0] / z * k[0, 0] + k[0, 2]
    v = every[..., 1] / z * k[1, 1] + k[1, 2]
    bounds = []
    for x, size in ((v, height), (u, width)):
        bounds.append(np.floor(np.where(valid, x, np.inf).min(1).clip(-9, size + 9)))
        bounds.append(np.ceil(np.where(valid, x, -np.inf).max(1).clip(-9, size + 9)) + 1)
    limits = np.array([height, height, width, width])
    return np.stack(bounds, 1).clip(0, limits).astype(int), points[..., 2].min(1).clip(_NEAR)


def _trace(scene: Scene, frame: int, height: int, width: int) -> _Hits:
    """Meet the ground, then the parts from near to far, each in the window it can cover."""
    pose, parts = scene.poses[frame], scene.parts
    shape = (len(_OFFSETS), height, width)
    empty = np.zeros(shape, np.float32)
    hits = _Hits(
        _floats(pose[:, 3]), _rays(pose, height, width), np.full(shape, np.inf, np.float32),
        np.full(shape, _SKY, np.int16), empty, empty.copy(), empty + 1, *parts.at(frame),
    )  # fmt: skip
    _trace_ground(scene.street, hits)
    corners = _corners(parts.half, hits.centre, hits.yaw)
    bounds, nearest = _windows(corners, pose, height, width)
    seen = (bounds[:, 0] < bounds[:, 1]) & (bounds[:, 2] < bounds[:, 3])
    for i in np.argsort(nearest, kind="stable"):
        if not seen[i]:
            continue
        top, bottom, left, right = bounds[i]
        window = (slice(None), slice(top, bottom), slice(left, right))
        cos, sin = np.float32(np.cos(hits.yaw[i])), np.float32(np.sin(hits.yaw[i]))
        ox, oy, oz = (e - float(c) for e, c in zip(hits.eye, hits.centre[i], strict=True))
        origin = [ox * float(cos) - oz * float(sin), oy, ox * float(sin) + oz * float(cos)]
        vx, vy, vz = hits.ray[(slice(None), *window)]
        local = [vx * cos - vz * sin, vy, vx * sin + vz * cos]
        t = hits.t[window]
        if parts.shape[i] == SHADE:
            _cast_shade(hits, window, origin, local, parts.half[i])
        elif t.max() > nearest[i]:
            enter, leave = _intersect(parts.shape[i], parts.half[i], origin, local)
            hit = (enter < leave) & (enter > 0.05) & (enter < t)
            np.copyto(t, enter, where=hit, casting="same_kind")
            hits.part[window][hit] = i
    return hits


def _cast_shade(hits: _Hits, window: Any, origin: list[Any], local: list[Any], half: Array) -> None:
    """Darken the ground under a car, softly towards the rim."""
    drop = CAMERA_HEIGHT - hits.eye[1]
    t = drop / np.maximum(local[1], 1e-3)
    inside = [((half[i] - np.abs(origin[i] + t * local[i])) / 0.35).clip(0, 1) for i in (0, 2)]
    hits.shade[window] *= 1 - 0.75 * inside[0] * inside[1]


# ------------------------------------------------------------------------------------------------
# Shading


@dataclass
class _Surface:
    """What the shaders say about each of the n samples."""

    colour: Array  # (3, n)
    uv: Array  # (2, n) metres
    foot: Array  # (2, n) metres of surface under a sample, along u and v
    tile: Array
    contrast: Array  # (2, n) of the fine and the coarse noise
    sun: Array  # share of direct light
    sky: Array  # share of ambient light


def _mix(colour: Array, other: Any, share: Array) -> None:
    """Move `colour` (3, n) towards `other` in place."""
    for channel, value in zip(colour, np.broadcast_to(np.asarray(other).T, (3,)), strict=True):
        channel += share * (value - channel)


def _shade_ground(scene: Scene, hits: _Hits, pick: Array, foot: Array, out: _Surface) -> None:
    """Asphalt with marks, paving slabs, kerbs and yards."""
    street, m = scene.street, scene.street.marks
    part, s, d = (a.reshape(-1)[pick] for a in (hits.part, hits.s, hits.d))
    vx, vy, vz = hits.ray.reshape(3, -1)[:, pick]
    length = np.sqrt(vx * vx + vy * vy + vz * vz)
    slant = length / np.maximum(vy, 1e-3)
    turn = street.curve.heading(s).astype(np.float32)
    flat = np.maximum(np.hypot(vx, vz), 1e-6)
    along = np.abs((vx * np.sin(turn) + vz * np.cos(turn)) / flat)
    beside = np.sqrt((1 - along * along).clip(0))
    foot_s, foot_d = foot * (along * slant + beside), foot * (beside * slant + along)

    raised = part == _RAISED
    side = (d > 0).astype(int)
    kerb = np.array(street.half_width, np.float32)[side]
    verge = kerb + np.array(street.pavement, np.float32)[side]
    yard = np.abs(d) > verge
    which = np.where(yard & raised, 2, np.where(part == _ROAD, 0, 1))
    base = np.array([street.colours[name] for name in ("road", "paving", "yard")], np.float32).T
    colour = base[:, which]

    road = (part == _ROAD) & (np.abs(d) < kerb)
    line = m["centre"] * _band(d, 0.07, foot_d)
    line *= _pulse(s, m["dash"], m["dash"] * m["dash_share"], foot_s)
    for k in range(1, street.lanes):
        lane = _band(np.abs(d) - k * street.lane, 0.06, foot_d)
        line += lane * _pulse(s, m["dash"], 0.4 * m["dash"], foot_s)
    line += m["edge"] * _band(np.abs(d) - street.lanes * street.lane, 0.06, foot_d)
    for begin, _ in street.crossings[1::2]:  # a zebra before every other side street
        zebra = _band(s - begin + 2.5, 1.4, foot_s)
        line = np.maximum(line, zebra * _pulse(d, 1.0, 0.5, foot_d))
    _mix(colour, (m["white"],) * 3, np.where(road, 0.85 * line.clip(0, 1), 0).astype(np.float32))
    slab = m["slab"]
    joint = np.maximum(_pulse(s, slab, 0.07, foot_s), _pulse(d, slab, 0.07, foot_d))
    colour *= np.where(raised & ~yard, 1 - 0.4 * joint, 1)
    stone = _band(np.abs(d) - kerb - 0.1, 0.12, foot_d) * _pulse(s, 1.0, 0.94, foot_s)
    colour *= 1 + np.where(raised, 0.3 * stone, 0)
    colour *= np.where(part == _KERB_FACE, 0.7, 1)

    out.colour[:, pick] = colour
    out.uv[:, pick] = s, d
    out.foot[:, pick] = foot_s, foot_d
    out.tile[pick] = np.where(which == 0, ASPHALT, PAVING)
    rough = np.where(yard & raised, 1.6, 1.0)
    out.contrast[:, pick] = rough * m["fine"], rough * m["coarse"]
    texels = [
        ((a - o) / step, f / step)
        for a, f, o, step in zip(
            (s, d), (foot_s, foot_d), _SHADOW_ORIGIN, _SHADOW_TEXEL, strict=True
        )
    ]
    (us, fs), (ud, fd) = texels
    lit = scene.shadow.sample(
        0, us.clip(1, _SHADOW_SIZE[0] - 1), ud.clip(1, _SHADOW_SIZE[1] - 1), fs, fd
    )
    shade = hits.shade.reshape(-1)[pick]
    lambert = np.where(part == _KERB_FACE, 0.3, -scene.light.sun[1])
    out.sun[pick] = lit * lambert * shade
    out.sky[pick] = shade


class _Local(NamedTuple):
    """Samples in the frames of the parts they lie on."""

    number: Array
    x: Array
    y: Array
    z: Array
    v: tuple[Array, Array, Array]
    cos: Array
    sin: Array
    up: Array  # height above the road
    attribute: Array  # the first 10 rows of `Parts.table`


def _localise(scene: Scene, hits: _Hits, pick: Array) -> _Local:
    number = hits.part.reshape(-1)[pick]
    place = np.vstack([hits.centre.T, np.cos(hits.yaw), np.sin(hits.yaw)]).astype(np.float32)
    cx, cy, cz, cos, sin = place[:, number]
    vx, vy, vz = hits.ray.reshape(3, -1)[:, pick]
    t = hits.t.reshape(-1)[pick]
    eye = hits.eye
    x, y, z = eye[0] + t * vx - cx, eye[1] + t * vy, eye[2] + t * vz - cz
    up = CAMERA_HEIGHT - y
    v = (vx * cos - vz * sin, vy, vx * sin + vz * cos)
    table = scene.parts.table[:10, number]
    return _Local(number, x * cos - z * sin, y - cy, x * sin + z * cos, v, cos, sin, up, table)


def _shade_boxes(scene: Scene, hits: _Hits, pick: Array, foot: Array, out: _Surface) -> None:
    """Find the face of each sample, its texture coordinates, pattern and light."""
    at = _localise(scene, hits, pick)
    half = at.attribute[:3]
    share = np.abs(np.stack([at.x, at.y, at.z]) / half)
    face = share.argmax(0)
    across, flat = face == 0, face == 1
    length = np.sqrt(sum(v * v for v in at.v))
    facing = np.abs(np.where(across, at.v[0], np.where(flat, at.v[1], at.v[2]))) / length
    foot_u = foot / np.maximum(np.where(flat, 1, facing), 0.03)
    foot_v = foot / np.where(flat, np.maximum(facing, 0.03), 1)
    u = np.where(across, at.z, at.x)
    v = np.where(flat, at.z, at.up)
    sx, sy, sz = scene.light.sun
    towards = np.where(
        across,
        np.sign(at.x) * (sx * at.cos - sz * at.sin),
        np.where(flat, np.sign(at.y) * sy, np.sign(at.z) * (sx * at.sin + sz * at.cos)),
    )
    colour = at.attribute[3:6].copy()
    contrast = at.attribute[6:8].copy()
    pattern = np.where(flat & (at.y > 0), PLAIN, scene.parts.pattern[at.number])
    for kind, paint in ((FACADE, _paint_facade), (BODY, _paint_body), (GLASS, _paint_glass),
                        (BOARDS, _paint_boards)):  # fmt: skip
        these = np.flatnonzero((pattern == kind) & ~flat)
        if these.size:
            part = _Wall(
                u[these], np.where(across, half[2], half[0])[these], at.up[these],
                (at.y / half[1])[these], across[these], at.z[these], foot_u[these], foot_v[these],
                at.number[these], scene.parts.table[10:, at.number[these]],
            )  # fmt: skip
            painted, noise = colour[:, these], contrast[:, these]
            paint(part, painted, noise)
            colour[:, these], contrast[:, these] = painted, noise
    out.colour[:, pick] = colour
    out.uv[:, pick] = u + at.attribute[8], v + at.attribute[9]
    out.foot[:, pick] = foot_u, foot_v
    out.tile[pick] = scene.parts.tile[at.number]
    out.contrast[:, pick] = contrast
    out.sun[pick] = towards.clip(0)
    out.sky[pick] = 0.7 + 0.3 * (at.up / 2.5).clip(0, 1)


class _Wall(NamedTuple):
    """Samples on upright faces."""

    u: Array  # along the face, 0 in its middle
    half: Array  # its half length
    up: Array  # above the road
    low: Array  # -1 at the top edge, 1 at the bottom
    across: Array  # whether the face looks sideways
    along: Array  # local z
    foot_u: Array
    foot_v: Array
    number: Array
    q: Array  # (6, n)


_RANDOM = np.random.default_rng(0).random(4096).astype(np.float32)


def _random(*index: Any) -> Array:
    """A fixed random number in [0, 1) for each tuple of integers."""
    mixed = sum(np.asarray(i).astype(np.int64) * 57**k for k, i in enumerate(index))
    return _RANDOM[mixed & 4095]


def _paint_facade(w: _Wall, colour: Array, contrast: Array) -> None:
    """Windows in bays and storeys, sills, courses of stone, a darker ground floor."""
    bay, storey, share_u, share_v, courses, ground = w.q
    period = 2 * w.half / np.maximum(np.rint(2 * w.half / bay), 1)
    u = w.u + w.half
    glass, frame = (
        _pulse(u - (period * (1 - share_u) - e) / 2, period, period * share_u + e, w.foot_u)
        * _pulse(w.up - (storey * (1 - share_v) - e) / 2, storey, storey * share_v + e, w.foot_v)
        for e in (0.0, 0.24)
    )
    cell = _random(np.floor(u / period), np.floor(w.up / storey), w.number)
    sharp = np.exp(-2 * w.foot_u / period)
    tone = 0.16 + 0.5 * sharp * np.where(cell > 0.72, cell - 0.5, 0.25 * (cell - 0.5))
    colour *= 1 - courses * 0.8 * _pulse(w.up, 0.45, 0.08, w.foot_v)
    colour *= 1 - 0.3 * _pulse(w.up + 0.12, storey, 0.16, w.foot_v)
    colour *= 1 - ground * _band(w.up, storey * 0.96, w.foot_v)
    colour += 0.3 * (frame - glass) * (1.1 - colour)
    colour += 0.92 * glass * (tone * np.array([[0.95], [1.0], [1.08]], np.float32) - colour)
    contrast[0] *= 1 - 0.3 * glass


def _paint_body(w: _Wall, colour: Array, contrast: Array) -> None:
    """Doors on the sides, lamps and number plates at the ends, dark sills."""
    doors = np.where(w.across, _pulse(w.u + 0.1, 1.15, 0.05, w.foot_u), 0)
    colour *= 1 - 0.5 * doors
    colour *= 1 - 0.6 * _band(w.low - 1, 0.3, w.foot_v)
    lamps = _band(np.abs(w.u) - 0.8 * w.half, 0.17 * w.half, w.foot_u)
    lamps *= _band(w.low + 0.3, 0.3, w.foot_v) * ~w.across
    front = w.along > 0
    lamp = np.where(front, 0.95, 0.6), np.where(front, 0.95, 0.06), np.where(front, 0.88, 0.05)
    colour += lamps * (np.stack(lamp) - colour)
    plate = _band(w.u, 0.26, w.foot_u) * _band(w.low - 0.25, 0.2, w.foot_v) * ~w.across
    _mix(colour, (0.85, 0.85, 0.8), plate)


def _paint_glass(w: _Wall, colour: Array, contrast: Array) -> None:
    """A cabin: windows between pillars; q[0] says how far down they reach."""
    edge = np.where(w.across, 0.93, 0.88) * w.half
    pane = _band(w.u, edge, w.foot_u)
    pane *= 1 - np.where(w.across, _pulse(w.u + 0.05, 1.1, 0.09, w.foot_u), 0)
    pane *= (w.low > -0.8) & (w.low < w.q[0])
    _mix(colour, (0.10, 0.12, 0.14), pane)
    contrast *= 1 + pane


def _paint_boards(w: _Wall, colour: Array, contrast: Array) -> None:
    """Upright boards of period q[0], each a little other in tone."""
    period = w.q[0]
    sharp = np.exp(-2 * w.foot_u / period)
    colour *= 1 - 0.55 * _pulse(w.u, period, 0.14 * period, w.foot_u)
    colour *= 1 + 0.4 * sharp * (_random(np.floor(w.u / period), w.number) - 0.5)


def _shade_round(scene: Scene, hits: _Hits, pick: Array, foot: Array, out: _Surface) -> None:
    """Crowns, bushes, posts and wheels."""
    at = _localise(scene, hits, pick)
    half = at.attribute[:3]
    shape = scene.parts.shape[at.number]
    wheel, post = shape == WHEEL, shape == POST
    normal = np.stack([at.x, at.y, at.z]) / half**2
    normal[1] = np.where(post, 0, normal[1])
    normal[1:] = np.where(wheel, 0, normal[1:])
    normal /= np.sqrt((normal * normal).sum(0)) + 1e-9
    sx, sy, sz = scene.light.sun
    towards = normal[0] * (sx * at.cos - sz * at.sin) + normal[1] * sy
    towards += normal[2] * (sx * at.sin + sz * at.cos)
    colour = at.attribute[3:6].copy()
    hub = wheel & (np.hypot(at.y, at.z) < 0.6 * half[1]) & (np.abs(at.x) > 0.99 * half[0])
    _mix(colour, (0.45, 0.45, 0.47), hub)
    out.colour[:, pick] = colour
    out.uv[0, pick] = at.x + 0.7 * at.z + at.attribute[8]
    out.uv[1, pick] = at.y + 0.5 * at.z + at.attribute[9]
    out.foot[:, pick] = 1.3 * foot
    out.tile[pick] = scene.parts.tile[at.number]
    out.contrast[:, pick] = at.attribute[6:8]
    out.sun[pick] = towards.clip(0)
    out.sky[pick] = np.where(wheel, 0.8, 0.85 - 0.25 * normal[1])


def _sky(scene: Scene, hits: _Hits, pick: Array) -> Array:
    """The sky (3, n), a function of the direction alone."""
    vx, vy, vz = hits.ray.reshape(3, -1)[:, pick]
    length = np.sqrt(vx * vx + vy * vy + vz * vz)
    up = (-vy / length).clip(0, 1)
    light = scene.light
    u, v = vx / length / (up + 0.12) * 60, vz / length / (up + 0.12) * 60
    one = np.full_like(up, 0.7)
    clouds = 1 + light.clouds * scene.tiles.sample(PAVING, u, v, one, 3 * one)
    share = np.minimum(up / 0.3, 1)
    channels = zip(light.horizon, light.zenith, strict=True)
    return np.stack([(low * (1 - share) + high * share) * clouds for low, high in channels])


def _shade(scene: Scene, hits: _Hits) -> Array:
    """Colours (4 rays, H, W, 3) before averaging, in display values that may exceed 1."""
    count, height, width = (len(_OFFSETS) - 1, *hits.t.shape[1:])
    n = count * height * width
    part, t = hits.part.reshape(-1)[:n], hits.t.reshape(-1)[:n]
    # Four rays share a pixel, so each may be a little sharper than the pixel is wide.
    foot = 0.75 * t / np.float32(0.58 * width)
    out = _Surface(
        np.zeros((3, n), np.float32), np.zeros((2, n), np.float32), np.ones((2, n), np.float32),
        np.zeros(n, np.int64), np.zeros((2, n), np.float32), np.zeros(n, np.float32),
        np.zeros(n, np.float32),
    )  # fmt: skip
    is_box = np.append(scene.parts.shape == BOX, [False] * 4)  # negative numbers index from behind
    box = is_box[part]
    groups = (
        (_shade_ground, part <= _ROAD),
        (_shade_boxes, box),
        (_shade_round, (part >= 0) & ~box),
    )
    for shader, mask in groups:
        pick = np.flatnonzero(mask)
        if pick.size:
            shader(scene, hits, pick, foot[pick], out)
    light = scene.light
    noise = np.ones_like(t)
    for contrast, texel in zip(out.contrast, (0.04, 0.4), strict=True):
        texture = scene.tiles.sample(out.tile, *(out.uv / texel), *(out.foot / texel))
        noise += contrast * texture
    noise = noise.clip(0.15, 2.2)
    clear = np.exp(-light.haze * t)
    result = out.colour
    for c in range(3):
        lit = out.sky * light.ambient[c] + out.sun * (light.strength * light.sun_colour[c])
        result[c] *= noise * lit * clear
        result[c] += light.horizon[c] * (1 - clear)
    sky = np.flatnonzero(part == _SKY)
    result[:, sky] = _sky(scene, hits, sky)
    return result.reshape(3, count, height, width)


def render_frame(scene: Scene, frame: int, height: int, width: int) -> tuple[Array, Array, Array]:
    """Render one frame.

    Returns:
        Image (H, W, 3) uint8; depth (H, W) float32 in metres at the pixel centres, infinite in the
        sky; and the number (H, W) of the part seen (index into `scene.parts`), negative for sky
        and ground.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        hits = _trace(scene, frame, height, width)
        colour = _shade(scene, hits)
    light = scene.light
    # A film's shoulder: bright walls keep their texture where a clip would make them white.
    display = np.power(1 - np.exp(-1.4 * light.gain * colour), light.gamma).mean(1)
    rng = np.random.default_rng([frame, *np.abs(scene.poses[frame].ravel() * 1e6).astype(np.int64)])
    display += light.noise * rng.standard_normal(display.shape, np.float32)
    image = np.rint(display.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return image, hits.t[-1], hits.part[-1]


# ------------------------------------------------------------------------------------------------
# Files


def _png(array: Array) -> bytes:
    """PNG bytes of (H, W, 3) uint8 or (H, W) uint16."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def _numbers(values: Any) -> str:
    """KITTI's notation: 7.215377e+02, separated by spaces."""
    return " ".join(f"{value:.6e}" for value in np.asarray(values, float).ravel())


def _calibration(height: int, width: int) -> dict[str, str]:
    """The two calibration files, with the keys and the notation of the KITTI raw data.

    Image 02 is the reference camera, so P_rect_02 has no shift; image 03, which is not rendered,
    stands 0.54 m to its right as on KITTI's car. The laser's frame is x forward, y left, z up.
    """
    k = intrinsics(height, width)
    lines = ["calib_time: 01-Jan-2000 00:00:00", "corner_dist: 9.950000e-02"]
    for camera, shift in (("00", 0.0), ("01", 0.54), ("02", 0.0), ("03", 0.54)):
        size = _numbers([width, height])
        translation = np.array([-shift, 0, 0])
        projection = k @ np.column_stack([np.eye(3), translation])
        lines += [
            f"S_{camera}: {size}",
            f"K_{camera}: {_numbers(k)}",
            f"D_{camera}: {_numbers(np.zeros(5))}",
            f"R_{camera}: {_numbers(np.eye(3))}",
            f"T_{camera}: {_numbers(translation)}",
            f"S_rect_{camera}: {size}",
            f"R_rect_{camera}: {_numbers(np.eye(3))}",
            f"P_rect_{camera}: {_numbers(projection)}",
        ]
    rotation = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    laser = [
        "calib_time: 01-Jan-2000 00:00:00",
        f"R: {_numbers(rotation)}",
        f"T: {_numbers([0, -0.08, -0.27])}",
        f"delta_f: {_numbers([0, 0])}",
        f"delta_c: {_numbers([0, 0])}",
    ]
    return {
        "calib_cam_to_cam.txt": "\n".join(lines) + "\n",
        "calib_velo_to_cam.txt": "\n".join(laser) + "\n",
    }


class _Job(NamedTuple):
    """One scene to write."""

    root: Path
    seed: int
    drive: int
    frames: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"{DATE}_drive_{self.drive:04d}_sync"

    @property
    def folder(self) -> Path:
        return self.root / DATE / self.name

    @property
    def marker(self) -> Path:
        return self.folder / "complete.json"

    def files(self, frame: int) -> tuple[Path, Path]:
        """Paths of the image and of the depth map of `frame`."""
        name = f"{frame:010d}.png"
        depth = self.folder / "proj_depth" / "groundtruth" / "image_02"
        return self.folder / "image_02" / "data" / name, depth / name

    def parameters(self) -> str:
        values: dict[str, int] = {"renderer": GENERATOR_VERSION} | self._asdict()
        del values["root"]
        return json.dumps(values, sort_keys=True) + "\n"

    def complete(self) -> bool:
        """Whether the marker holds these parameters and no file has gone since."""
        try:
            same = self.marker.read_text(encoding="utf-8") == self.parameters()
        except FileNotFoundError:
            return False
        files = [path for frame in range(self.frames) for path in self.files(frame)]
        return same and all(p.is_file() for p in [*files, self.folder / "poses.txt"])


def _write_scene(job: _Job) -> None:
    """Render one scene into its folder; the marker goes first and comes back last."""
    job.marker.unlink(missing_ok=True)
    for folder in {path.parent for path in job.files(0)}:
        for old in folder.glob("*.png"):
            if old.stem.isdigit() and int(old.stem) >= job.frames:
                old.unlink()
    scene = make_scene(job.seed, job.drive, job.frames)
    for frame in range(job.frames):
        image, depth, _ = render_frame(scene, frame, job.height, job.width)
        seen = np.where(depth <= MAX_DEPTH, depth, 0)
        for path, array in zip(
            job.files(frame), (image, np.rint(seen * 256).astype(np.uint16)), strict=True
        ):
            write_atomic(path, _png(array))
    rows = (" ".join(f"{x:.9e}" for x in pose.ravel()) for pose in scene.poses)
    write_atomic(job.folder / "poses.txt", "\n".join(rows) + "\n")
    write_atomic(job.marker, job.parameters())


def _jobs(
    root: Path,
    seed: int,
    scenes: Mapping[str, int],
    frames: Mapping[str, int],
    size: tuple[int, int],
) -> dict[str, list[_Job]]:
    """The scenes of each split, after a check of the request."""
    for name, value in (("scenes", scenes), ("frames", frames)):
        if set(value) != set(SPLITS):
            raise FadepthError(
                f"render_street: `{name}` has the keys {sorted(value)}; give train, val and test."
            )
    if seed < 0:
        raise FadepthError(f"render_street: `seed` is {seed}; give an integer >= 0.")
    if min(size) < 16:
        raise FadepthError(
            f"render_street: {size[0]}x{size[1]} (height x width) is too small; "
            "give at least 16 pixels each way."
        )
    for split in SPLITS:
        limit = _LAST_DRIVE[split] - _FIRST_DRIVE[split] + 1
        if not 0 <= scenes[split] <= limit:
            raise FadepthError(
                f"render_street: `scenes[{split}]` is {scenes[split]}; give 0 to {limit}."
            )
        if scenes[split] and frames[split] < 3:
            raise FadepthError(
                f"render_street: `frames[{split}]` is {frames[split]}; give at least 3, since "
                "a target needs a frame before and one after it."
            )
    return {
        split: [
            _Job(root, seed, _FIRST_DRIVE[split] + i, frames[split], *size)
            for i in range(scenes[split])
        ]
        for split in SPLITS
    }


def _run(jobs: list[_Job], workers: int) -> Iterator[None]:
    """Write the scenes, yielding after each."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            _write_scene(job)
            yield
        return
    # Spawned, not forked: the caller may hold threads (torch) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(_write_scene, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def render_street(
    root: Path,
    *,
    seed: int,
    scenes: Mapping[str, int],
    frames: Mapping[str, int],
    height: int,
    width: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write synthetic drives in the KITTI raw layout, split by scene. [derived]

    Under `root`: `2000_01_01/calib_cam_to_cam.txt` and `calib_velo_to_cam.txt`; for every scene
    `2000_01_01/2000_01_01_drive_NNNN_sync/` with `image_02/data/%010d.png` (RGB, 8 bit),
    `proj_depth/groundtruth/image_02/%010d.png` (uint16, camera z in 1/256 m at integer pixel
    centres, 0 for sky or beyond 255 m) and `poses.txt` (per frame the 12 numbers of the 3x4
    camera-to-world matrix, as in KITTI odometry; see the module for the frames, the first pose is
    not the identity); and `splits/{train,val,test}_files.txt`, whose targets have both neighbours.

    A scene is a function of `seed`, its drive number and its number of frames. Scenes that are
    already there with the same parameters are kept; the rest is rendered, so a call that was cut
    short is repeated at the cost of what is missing. Scenes of an earlier, larger call stay on
    disk but leave the split lists.

    Args:
        root: folder to write to; made if missing.
        seed: integer >= 0.
        scenes: number of scenes for "train", "val" and "test".
        frames: frames per scene for the same keys, at least 3.
        height, width: image size in pixels, at least 16 each.
        workers: processes; the bytes written do not depend on it.
        progress: called with (scenes done, scenes in all) at the start and after each scene.

    Raises:
        FadepthError: if an argument is out of range.
    """
    root = Path(root)
    by_split = _jobs(root, seed, scenes, frames, (height, width))
    every = [job for split in SPLITS for job in by_split[split]]
    missing = [job for job in every if not job.complete()]
    for name, text in _calibration(height, width).items():
        write_atomic(root / DATE / name, text)
    report = progress or (lambda done, total: None)
    done = len(every) - len(missing)
    report(done, len(every))
    for now, _ in enumerate(_run(missing, workers), done + 1):
        report(now, len(every))
    for split, jobs in by_split.items():
        lines = [
            f"{DATE}/{job.name} {frame:010d} l\n"
            for job in jobs
            for frame in range(1, job.frames - 1)
        ]
        write_atomic(root / "splits" / f"{split}_files.txt", "".join(lines))
