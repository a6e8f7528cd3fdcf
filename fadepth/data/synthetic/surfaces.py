"""What the surfaces that rays meet look like: ground, boxes, round things. [derived]"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fadepth.data.synthetic.light import sunlit
from fadepth.data.synthetic.scene import Scene
from fadepth.data.synthetic.solids import BOARDS, BODY, FACADE, GLASS, PLAIN, POST, WHEEL
from fadepth.data.synthetic.street import CAMERA_HEIGHT, Array
from fadepth.data.synthetic.textures import ASPHALT, PAVING, band, mix, pulse
from fadepth.data.synthetic.tracing import KERB_FACE, RAISED, ROAD, Hits
from fadepth.data.synthetic.walls import (
    Wall,
    paint_boards,
    paint_body,
    paint_facade,
    paint_glass,
)


@dataclass
class Surface:
    """What the shaders say about each of the n samples."""

    colour: Array  # (3, n)
    uv: Array  # (2, n) metres
    foot: Array  # (2, n) metres of surface under a sample, along u and v
    tile: Array  # of the noise
    contrast: Array  # (2, n) of the fine and the coarse noise
    sun: Array  # share of direct light
    sky: Array  # share of ambient light


def shade_ground(scene: Scene, hits: Hits, pick: Array, foot: Array, out: Surface) -> None:
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

    raised = part == RAISED
    side = (d > 0).astype(int)
    kerb = np.array(street.half_width, np.float32)[side]
    verge = kerb + np.array(street.pavement, np.float32)[side]
    yard = np.abs(d) > verge
    which = np.where(yard & raised, 2, np.where(part == ROAD, 0, 1))
    base = np.array([street.colours[name] for name in ("road", "paving", "yard")], np.float32).T
    colour = base[:, which]

    road = (part == ROAD) & (np.abs(d) < kerb)
    line = m["centre"] * band(d, 0.07, foot_d)
    line *= pulse(s, m["dash"], m["dash"] * m["dash_share"], foot_s)
    for k in range(1, street.lanes):
        lane = band(np.abs(d) - k * street.lane, 0.06, foot_d)
        line += lane * pulse(s, m["dash"], 0.4 * m["dash"], foot_s)
    line += m["edge"] * band(np.abs(d) - street.lanes * street.lane, 0.06, foot_d)
    for begin, _ in street.crossings[1::2]:  # a zebra before every other side street
        zebra = band(s - begin + 2.5, 1.4, foot_s)
        line = np.maximum(line, zebra * pulse(d, 1.0, 0.5, foot_d))
    mix(colour, (m["white"],) * 3, np.where(road, 0.85 * line.clip(0, 1), 0).astype(np.float32))
    slab = m["slab"]
    joint = np.maximum(pulse(s, slab, 0.07, foot_s), pulse(d, slab, 0.07, foot_d))
    colour *= np.where(raised & ~yard, 1 - 0.4 * joint, 1)
    stone = band(np.abs(d) - kerb - 0.1, 0.12, foot_d) * pulse(s, 1.0, 0.94, foot_s)
    colour *= 1 + np.where(raised, 0.3 * stone, 0)
    colour *= np.where(part == KERB_FACE, 0.7, 1)

    out.colour[:, pick] = colour
    out.uv[:, pick] = s, d
    out.foot[:, pick] = foot_s, foot_d
    out.tile[pick] = np.where(which == 0, ASPHALT, PAVING)
    rough = np.where(yard & raised, 1.6, 1.0)
    out.contrast[:, pick] = rough * m["fine"], rough * m["coarse"]
    lit = sunlit(scene.shadow, s, d, foot_s, foot_d)
    shade = hits.shade.reshape(-1)[pick]
    lambert = np.where(part == KERB_FACE, 0.3, -scene.light.sun[1])
    out.sun[pick] = lit * lambert * shade
    out.sky[pick] = shade


def shade_boxes(scene: Scene, hits: Hits, pick: Array, foot: Array, out: Surface) -> None:
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
    for kind, paint in ((FACADE, paint_facade), (BODY, paint_body), (GLASS, paint_glass),
                        (BOARDS, paint_boards)):  # fmt: skip
        these = np.flatnonzero((pattern == kind) & ~flat)
        if these.size:
            part = Wall(
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


def shade_round(scene: Scene, hits: Hits, pick: Array, foot: Array, out: Surface) -> None:
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
    mix(colour, (0.45, 0.45, 0.47), hub)
    out.colour[:, pick] = colour
    out.uv[0, pick] = at.x + 0.7 * at.z + at.attribute[8]
    out.uv[1, pick] = at.y + 0.5 * at.z + at.attribute[9]
    out.foot[:, pick] = 1.3 * foot
    out.tile[pick] = scene.parts.tile[at.number]
    out.contrast[:, pick] = at.attribute[6:8]
    out.sun[pick] = towards.clip(0)
    out.sky[pick] = np.where(wheel, 0.8, 0.85 - 0.25 * normal[1])


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


def _localise(scene: Scene, hits: Hits, pick: Array) -> _Local:
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
