"""One frame: surfaces in light and haze, sky, film. [derived]"""

import numpy as np

from fadepth.data.synthetic.camera import RAY_OFFSETS
from fadepth.data.synthetic.scene import Scene
from fadepth.data.synthetic.solids import BOX
from fadepth.data.synthetic.street import Array
from fadepth.data.synthetic.surfaces import Surface, shade_boxes, shade_ground, shade_round
from fadepth.data.synthetic.textures import PAVING
from fadepth.data.synthetic.tracing import ROAD, SKY, Hits, trace


def render_frame(scene: Scene, frame: int, height: int, width: int) -> tuple[Array, Array, Array]:
    """Render one frame.

    Returns:
        Image (H, W, 3) uint8; depth (H, W) float32 in metres at the pixel centres, infinite in the
        sky; and the number (H, W) of the part seen (index into `scene.parts`), negative for sky
        and ground.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        hits = trace(scene, frame, height, width)
        colour = _shade(scene, hits)
    light = scene.light
    # A film's shoulder: bright walls keep their texture where a clip would make them white.
    display = np.power(1 - np.exp(-1.4 * light.gain * colour), light.gamma).mean(1)
    rng = np.random.default_rng([frame, *np.abs(scene.poses[frame].ravel() * 1e6).astype(np.int64)])
    display += light.noise * rng.standard_normal(display.shape, np.float32)
    image = np.rint(display.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return image, hits.t[-1], hits.part[-1]


def _shade(scene: Scene, hits: Hits) -> Array:
    """Colours (4 rays, H, W, 3) before averaging, in display values that may exceed 1."""
    count, height, width = (len(RAY_OFFSETS) - 1, *hits.t.shape[1:])
    n = count * height * width
    part, t = hits.part.reshape(-1)[:n], hits.t.reshape(-1)[:n]
    # Four rays share a pixel, so each may be a little sharper than the pixel is wide.
    foot = 0.75 * t / np.float32(0.58 * width)
    out = Surface(
        np.zeros((3, n), np.float32), np.zeros((2, n), np.float32), np.ones((2, n), np.float32),
        np.zeros(n, np.int64), np.zeros((2, n), np.float32), np.zeros(n, np.float32),
        np.zeros(n, np.float32),
    )  # fmt: skip
    is_box = np.append(scene.parts.shape == BOX, [False] * 4)  # negative numbers index from behind
    box = is_box[part]
    groups = (
        (shade_ground, part <= ROAD),
        (shade_boxes, box),
        (shade_round, (part >= 0) & ~box),
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
    sky = np.flatnonzero(part == SKY)
    result[:, sky] = _sky(scene, hits, sky)
    return result.reshape(3, count, height, width)


def _sky(scene: Scene, hits: Hits, pick: Array) -> Array:
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
