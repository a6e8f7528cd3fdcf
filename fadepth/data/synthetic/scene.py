"""A scene: all that one drive needs, drawn from a seed. [derived]"""

from dataclasses import dataclass

import numpy as np

from fadepth.data.synthetic.camera import drive_poses
from fadepth.data.synthetic.layout import (
    buildings,
    greenery_and_posts,
    parked_cars,
    street_end,
    traffic,
)
from fadepth.data.synthetic.light import Light, cast_shadows, make_light
from fadepth.data.synthetic.solids import Parts
from fadepth.data.synthetic.street import Array, Street, make_street
from fadepth.data.synthetic.textures import Ripmap, make_tiles
from fadepth.data.synthetic.things import Builder


@dataclass(frozen=True)
class Scene:
    """All that one drive needs; made by `make_scene`."""

    street: Street
    parts: Parts
    light: Light
    tiles: Ripmap
    shadow: Ripmap
    poses: Array  # (frames, 3, 4), camera to world


def make_scene(seed: int, drive: int, frames: int) -> Scene:
    """The scene of `drive`: a function of these three numbers alone."""
    rng = np.random.default_rng([seed, drive])
    speed = float(rng.uniform(0.6, 1.3))
    street = make_street(rng, speed * frames)
    b = Builder(rng, street)
    for side in (-1, 1):
        buildings(b, side)
        parked_cars(b, side)
        greenery_and_posts(b, side)
    street_end(b)
    camera_d = street.lane * (0.5 + float(rng.integers(street.lanes)))
    traffic(b, camera_d, speed)
    light = make_light(rng)
    parts = Parts(b.parts, street.curve)
    poses = drive_poses(rng, street.curve, camera_d, speed, frames)
    return Scene(street, parts, light, make_tiles(rng), cast_shadows(street, parts, light), poses)
