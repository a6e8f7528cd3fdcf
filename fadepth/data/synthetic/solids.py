"""Boxes, cylinders and ellipsoids, and where rays meet them in closed form. [derived]"""

from typing import Any, NamedTuple

import numpy as np

from fadepth.data.synthetic.street import CAMERA_HEIGHT, Array, Colour, Curve
from fadepth.data.synthetic.textures import PLASTER

BOX, POST, WHEEL, ELLIPSOID, SHADE = range(5)  # shapes; a POST stands, a WHEEL's axis lies across
PLAIN, FACADE, BODY, GLASS, BOARDS = range(5)  # patterns

_CORNERS = np.array([[(i >> k & 1) * 2 - 1 for k in range(3)] for i in range(8)], float)


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
        """Centres (n, 3) in the world, metres, and yaws (n,), radians, at `frame`."""
        s, d, up, turn, across, along = self._place.T
        x, z, heading = self.curve.to_world(s + self.speed * frame, d)
        yaw = heading + turn
        x = x + across * np.cos(yaw) + along * np.sin(yaw)
        z = z - across * np.sin(yaw) + along * np.cos(yaw)
        return np.stack([x, CAMERA_HEIGHT - up, z], 1), yaw


def corners_of(half: Array, centre: Array, yaw: Array) -> Array:
    """World corners (n, 8, 3) of boxes with half extents and centres (n, 3), and yaws (n,)."""
    local = _CORNERS * half[:, None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x = local[..., 0] * cos + local[..., 2] * sin
    z = local[..., 2] * cos - local[..., 0] * sin
    return np.stack([x, local[..., 1], z], 2) + centre[:, None]


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


def intersect(shape: int, half: Array, o: list[Any], v: list[Any]) -> tuple[Array, Array]:
    """The t at which rays o + t v, in a part's frame, enter and leave it; enter > leave: a miss."""
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


def floats(values: Any) -> tuple[float, float, float]:
    """Three Python numbers, which leave float32 arrays float32 where numpy's would not."""
    first, second, third = (float(value) for value in values)
    return first, second, third
