"""Which surface each ray meets, and where. [derived]"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fadepth.data.synthetic.camera import RAY_OFFSETS, rays, windows
from fadepth.data.synthetic.scene import Scene
from fadepth.data.synthetic.solids import SHADE, corners_of, floats, intersect
from fadepth.data.synthetic.street import CAMERA_HEIGHT, KERB_HEIGHT, Array, Street

SKY, ROAD, RAISED, KERB_FACE = -1, -2, -3, -4  # in place of a part's number


@dataclass
class Hits:
    """What the rays (5, H, W) of one frame meet; `t` is camera z, infinite for the sky."""

    eye: tuple[float, float, float]
    ray: Array  # (3, 5, H, W) world directions with camera z 1
    t: Array
    part: Array  # its number
    s: Array  # of the ground, metres
    d: Array
    shade: Array  # light left by the cars above the ground, 0 to 1
    centre: Array  # (n, 3) of the parts, and their yaws (n,)
    yaw: Array


def trace(scene: Scene, frame: int, height: int, width: int) -> Hits:
    """Meet the ground, then the parts from near to far, each in the window it can cover."""
    pose, parts = scene.poses[frame], scene.parts
    shape = (len(RAY_OFFSETS), height, width)
    empty = np.zeros(shape, np.float32)
    hits = Hits(
        floats(pose[:, 3]), rays(pose, height, width), np.full(shape, np.inf, np.float32),
        np.full(shape, SKY, np.int16), empty, empty.copy(), empty + 1, *parts.at(frame),
    )  # fmt: skip
    _trace_ground(scene.street, hits)
    corners = corners_of(parts.half, hits.centre, hits.yaw)
    bounds, nearest = windows(corners, pose, height, width)
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
            enter, leave = intersect(parts.shape[i], parts.half[i], origin, local)
            hit = (enter < leave) & (enter > 0.05) & (enter < t)
            np.copyto(t, enter, where=hit, casting="same_kind")
            hits.part[window][hit] = i
    return hits


def _trace_ground(street: Street, hits: Hits) -> None:
    """Meet the road, the raised pavement and the kerb between them."""
    flat = hits.ray.reshape(3, -1)
    index = np.flatnonzero(flat[1] > 1e-3)
    vx, vy, vz = flat[:, index]

    def meet(t: Array, pick: Any = slice(None)) -> tuple[Array, Array]:
        return street.curve.from_world(hits.eye[0] + t * vx[pick], hits.eye[2] + t * vz[pick])

    drop = CAMERA_HEIGHT - hits.eye[1]
    t = ((drop - KERB_HEIGHT) / vy).astype(np.float32)
    s, d = (a.astype(np.float32) for a in meet(t))
    high = street.raised(s, d)
    part = np.where(high, RAISED, ROAD).astype(np.int16)
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
    t[pick], part[pick] = b, KERB_FACE
    for target, value in ((hits.t, t), (hits.part, part), (hits.s, s), (hits.d, d)):
        target.reshape(-1)[index] = value


def _cast_shade(hits: Hits, window: Any, origin: list[Any], local: list[Any], half: Array) -> None:
    """Darken the ground under a car, softly towards the rim."""
    drop = CAMERA_HEIGHT - hits.eye[1]
    t = drop / np.maximum(local[1], 1e-3)
    inside = [((half[i] - np.abs(origin[i] + t * local[i])) / 0.35).clip(0, 1) for i in (0, 2)]
    hits.shade[window] *= 1 - 0.75 * inside[0] * inside[1]
