"""The camera: intrinsics, its drive along the street, its rays, what a box covers. [derived]"""

import numpy as np

from fadepth.data.synthetic.street import Array, Curve

# Four rays of a rotated grid are averaged into the colour; the fifth, at the centre, is the depth.
RAY_OFFSETS = ((-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375), (0.0, 0.0))
_NEAR = 0.3  # metres


def intrinsics(height: int, width: int) -> Array:
    """K (3, 3) in pixels: fx = 0.58 W, fy = 1.92 H, c = 0.5 (monodepth2's for KITTI)."""
    return np.array([[0.58 * width, 0, 0.5 * width], [0, 1.92 * height, 0.5 * height], [0, 0, 1]])


def _wobble(rng: np.random.Generator, frames: int, amplitude: float) -> Array:
    """A smooth signal (frames,) of about `amplitude`, periods of 10 to 50 frames."""
    t = np.arange(frames)
    waves = [np.sin(2 * np.pi * (t / rng.uniform(10, 50) + rng.random())) for _ in range(3)]
    return amplitude / 1.5 * np.sum(waves, 0)


def drive_poses(
    rng: np.random.Generator, curve: Curve, d: float, speed: float, frames: int
) -> Array:
    """Camera to world (frames, 3, 4) of a drive at `speed` metres a frame, `d` to the right.

    A car keeps neither its speed nor its lane exactly, and nods.
    """
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


def rays(pose: Array, height: int, width: int) -> Array:
    """World directions (3, 5, H, W) of `RAY_OFFSETS` of each pixel, with camera z 1, float32."""
    k = intrinsics(height, width)
    offset = np.array(RAY_OFFSETS)
    x = (np.arange(width) + offset[:, :1] - k[0, 2]) / k[0, 0]
    y = (np.arange(height) + offset[:, 1:] - k[1, 2]) / k[1, 1]
    r = pose[:, :3]
    rays = [r[i, 0] * x[:, None, :] + r[i, 1] * y[:, :, None] + r[i, 2] for i in range(3)]
    return np.stack(rays).astype(np.float32)


def windows(corners: Array, pose: Array, height: int, width: int) -> tuple[Array, Array]:
    """Pixel bounds (n, 4: top, bottom, left, right) of boxes (n, 8, 3); their least depth (m)."""
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
