"""What stands where: both sides of the street, its end, and the traffic on it. [derived]"""

import numpy as np

from fadepth.data.synthetic.solids import BOX, ELLIPSOID
from fadepth.data.synthetic.street import GREENS
from fadepth.data.synthetic.textures import LEAVES
from fadepth.data.synthetic.things import (
    CAR_SHARE,
    CARS,
    PLASTERS,
    Builder,
    bush,
    car,
    facade,
    hedge,
    post,
    tree,
)


def buildings(b: Builder, side: int) -> None:
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
            facade(b, middle, side * d, (deep, up / 2, length / 2))
            if fenced and setback > 1.5:
                hedge(b, middle, side * (street.verge(side) + 0.4), length)
            s += length + 0.02
        else:
            s += 2.0
        if b.chance(gap_share):
            s += b.uniform(*gaps)


def parked_cars(b: Builder, side: int) -> None:
    """Cars in the parking lane of `side`, now dense, now few."""
    street, occupancy = b.street, float(b.rng.beta(1.2, 1.0))
    if not street.parking[(side + 1) // 2]:
        return
    s = b.uniform(-6, 4)
    while s < street.end - 10:
        # No trucks: right beside the camera they would fill half the image.
        kind = int(b.rng.choice(4, p=(0.36, 0.34, 0.22, 0.08)))
        long = CARS[kind][0] / 2
        if b.chance(occupancy) and street.free(s + long, long + 2):
            turn = (0.0 if side > 0 else np.pi) + b.uniform(-0.03, 0.03)
            if b.chance(0.15):
                turn += np.pi
            d = side * (street.kerb(side) - 0.25 - CARS[kind][1] / 2) - b.uniform(0, 0.15) * side
            car(b, s + long, d, turn=turn, speed=0.0, kind=kind)
        s += 2 * long + b.uniform(0.6, 1.8) + (b.uniform(3, 25) if b.chance(0.1) else 0)


def greenery_and_posts(b: Builder, side: int) -> None:
    """Street trees and posts near the kerb; bushes and trees behind the pavement."""
    street = b.street
    near = street.kerb(side) + min(0.7, 0.4 * street.pavement[(side + 1) // 2])
    spacing = b.uniform(6, 16)
    share = b.uniform(0, 1) if b.chance(0.55) else 0.0
    s = b.uniform(0, spacing)
    while s < street.end - 4:
        if street.free(s, 1.5) and b.chance(share):
            tree(b, s, side * near)
        s += spacing * b.uniform(0.8, 1.2)
    spacing = b.uniform(9, 30)
    s = b.uniform(0, spacing)
    while s < street.end - 4:
        if street.free(s, 1.0):
            post(b, s, side * (near - 0.25))
        s += spacing * b.uniform(0.6, 1.4)
    wild = b.rng.beta(0.6, 1.2) * 0.5
    for place in np.arange(0, street.end + 30, 4.0):
        if b.chance(wild) and street.free(float(place), 3):
            d = street.verge(side) + b.uniform(1.5, 18)
            (tree if b.chance(0.5) else bush)(b, float(place), side * d)


def street_end(b: Builder) -> None:
    """What closes the view: a facade across the street, a bridge over it, or far blocks."""
    street = b.street
    if b.chance(0.3):
        for d in np.arange(-30, 31, 12.0):
            deep, up = b.uniform(4, 7), b.uniform(4, 18)
            place = street.end + 6 + deep + b.uniform(0, 1)
            facade(b, place, float(d), (6.0, up / 2, deep))
        return
    if b.chance(0.12):
        s, up = b.uniform(0.4, 0.9) * street.end, b.uniform(4.6, 5.6)
        wide = street.verge(1) + 2
        look = {"colour": b.pick(PLASTERS), "fine": 0.12, "coarse": 0.15}
        b.add(BOX, s, 0.0, up + 0.6, (wide + 12, 0.6, b.uniform(2, 5)), **look)
        for side in (-1, 1):
            b.add(BOX, s, side * (street.verge(side) + 0.9), up / 2, (0.5, up / 2, 1.9), **look)
    for _ in range(12):
        d = b.uniform(-90, 90)
        up = b.uniform(4, 22)
        s = street.end + b.uniform(15, 70)
        if b.chance(0.5):
            facade(b, s, d, (b.uniform(5, 14), up / 2, b.uniform(5, 10)))
        else:
            look = {"colour": b.pick(GREENS), "tile": LEAVES, "fine": 0.2, "coarse": 0.3}
            b.add(ELLIPSOID, s, d, up * 0.2, (b.uniform(8, 20), up * 0.4, 8.0), **look)


def traffic(b: Builder, camera_d: float, speed: float) -> None:
    """Oncoming cars in every scene; in some, one ahead that drives about as fast as the camera."""
    street = b.street
    oncoming = -b.uniform(0.5, 1.3)
    s = b.uniform(14, 45)
    for _ in range(int(b.rng.integers(2, 6))):
        kind = int(b.rng.choice(5, p=CAR_SHARE))
        if s < street.end - 5:
            d = -street.lane * (0.5 + float(b.rng.integers(street.lanes)))
            car(b, s, d, turn=np.pi, speed=oncoming, kind=kind)
        s += b.uniform(9, 40)
    if b.chance(0.35):
        kind = int(b.rng.choice(5, p=CAR_SHARE))
        ahead = b.uniform(8, 24) + CARS[kind][0] / 2
        car(b, ahead, camera_d, turn=0.0, speed=speed + b.uniform(-0.03, 0.05), kind=kind)
