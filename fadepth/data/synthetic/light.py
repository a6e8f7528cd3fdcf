"""Sun, sky and haze, and the shadows on the ground. [derived]"""

from dataclasses import dataclass

import numpy as np

from fadepth.data.synthetic.solids import SHADE, Parts, corners_of, floats, intersect
from fadepth.data.synthetic.street import CAMERA_HEIGHT, Array, Colour, Street
from fadepth.data.synthetic.textures import Ripmap

# The map of shadows, along s and d: its first corner, a texel in metres, the number of texels.
_SHADOW_ORIGIN = (-8.0, -32.0)
_SHADOW_TEXEL = (0.2, 0.25)
_SHADOW_SIZE = (1024, 256)


@dataclass(frozen=True)
class Light:
    """Sun, sky and haze of a scene."""

    sun: tuple[float, float, float]  # unit vector towards the sun
    strength: float  # of direct light, 0 to 1
    sun_colour: Colour
    ambient: Colour
    horizon: Colour
    zenith: Colour
    clouds: float  # contrast
    haze: float  # per metre
    gain: float  # exposure
    gamma: float
    noise: float  # of the sensor, in grey levels / 255


def make_light(rng: np.random.Generator) -> Light:
    """A sunny or an overcast sky."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(22, 65))
    flat = np.cos(elevation)
    sun = np.array([flat * np.sin(azimuth), -np.sin(elevation), flat * np.cos(azimuth)])
    overcast = rng.random() < 0.35
    strength = rng.uniform(0.05, 0.2) if overcast else rng.uniform(0.55, 1.0)
    warm = rng.uniform(0, 0.16)
    sky = np.array([0.45, 0.62, 0.86]) if not overcast else np.array([0.72, 0.75, 0.78])
    return Light(
        sun=floats(sun),
        strength=float(strength),
        sun_colour=floats([1 + warm, 1.0, 1 - warm]),
        ambient=floats(
            np.array([0.95, 1.0, 1.06]) * rng.uniform(0.72, 0.85) * (1.25 if overcast else 0.8)
        ),
        horizon=floats((0.5 * sky + 0.45) * rng.uniform(0.85, 1.05)),
        zenith=floats(sky * rng.uniform(0.75, 1.0)),
        clouds=float(rng.uniform(0.02, 0.14)),
        haze=float(rng.uniform(0, 0.005)),
        gain=float(rng.uniform(0.75, 1.2)),
        gamma=float(rng.uniform(1.0, 1.35)),
        noise=float(rng.uniform(0.001, 0.004)),
    )


def cast_shadows(street: Street, parts: Parts, light: Light) -> Ripmap:
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
    points = corners_of(parts.half, centre, yaw)
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
        enter, leave = intersect(parts.shape[i], parts.half[i], origin, towards)
        lit[window][(enter < leave) & (leave > 0)] = 0
    return Ripmap([lit])


def sunlit(shadow: Ripmap, s: Array, d: Array, foot_s: Array, foot_d: Array) -> Array:
    """Share of the sun (n,) at ground points, for footprints in metres along s and d."""
    texels = [
        ((a - o) / step, f / step)
        for a, f, o, step in zip(
            (s, d), (foot_s, foot_d), _SHADOW_ORIGIN, _SHADOW_TEXEL, strict=True
        )
    ]
    (us, fs), (ud, fd) = texels
    return shadow.sample(
        0, us.clip(1, _SHADOW_SIZE[0] - 1), ud.clip(1, _SHADOW_SIZE[1] - 1), fs, fd
    )
