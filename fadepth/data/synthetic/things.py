"""What stands in a street, built of solids: houses, hedges, trees, posts, cars. [derived]"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fadepth.data.synthetic.solids import (
    BOARDS,
    BODY,
    BOX,
    ELLIPSOID,
    FACADE,
    GLASS,
    POST,
    SHADE,
    WHEEL,
    Part,
)
from fadepth.data.synthetic.street import GREENS, Colour, Street
from fadepth.data.synthetic.textures import LEAVES

PLASTERS: list[Colour] = [
    (0.78, 0.72, 0.60), (0.70, 0.44, 0.34), (0.62, 0.60, 0.57), (0.84, 0.81, 0.75),
    (0.55, 0.36, 0.28), (0.76, 0.62, 0.40), (0.50, 0.54, 0.58), (0.66, 0.70, 0.62),
]  # fmt: skip
_PAINTS: list[Colour] = [
    (0.75, 0.76, 0.78), (0.14, 0.14, 0.16), (0.55, 0.10, 0.10), (0.14, 0.22, 0.45),
    (0.42, 0.44, 0.46), (0.88, 0.88, 0.86), (0.20, 0.34, 0.26), (0.70, 0.55, 0.22),
]  # fmt: skip
_WOODS: list[Colour] = [(0.45, 0.33, 0.22), (0.62, 0.58, 0.50), (0.35, 0.38, 0.36)]

# Kinds of cars: length, width, height in metres; how often each is met.
CARS = ((3.9, 1.70, 1.45), (4.5, 1.78, 1.42), (4.6, 1.88, 1.70), (5.3, 1.96, 2.3), (7.2, 2.3, 3.1))
CAR_SHARE = (0.32, 0.30, 0.20, 0.12, 0.06)


@dataclass
class Builder:
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


def facade(b: Builder, s: float, d: float, half: Any, turn: float = 0.0) -> None:
    """A building with a grid of windows, a ground floor of its own, and sometimes a roof storey."""
    storey, bay = b.uniform(2.7, 3.7), b.uniform(1.6, 4.2)
    q = (
        bay, storey, b.uniform(0.3, 0.68), b.uniform(0.38, 0.66),
        b.uniform(0.05, 0.4), b.uniform(0.0, 0.35),
    )  # fmt: skip
    colour = b.pick(PLASTERS)
    noise = {"fine": b.uniform(0.06, 0.13), "coarse": b.uniform(0.06, 0.16)}
    b.add(BOX, s, d, half[1], half, colour=colour, turn=turn, pattern=FACADE, q=q, **noise)
    if b.chance(0.4):
        top = (max(half[0] - 0.8, 0.5), b.uniform(0.7, 1.6), max(half[2] - 0.8, 0.5))
        roof = b.pick([(0.42, 0.24, 0.18), (0.28, 0.28, 0.30)])
        up = 2 * half[1] + top[1]
        b.add(
            BOX, s, d, up, top, colour=roof, turn=turn, pattern=BOARDS, q=(0.4, 0.8, 0.7, 0, 0, 0)
        )


def hedge(b: Builder, s: float, d: float, length: float) -> None:
    """A hedge, a board fence or a low wall along the street."""
    kind = b.rng.integers(3)
    if kind == 0:
        half = (b.uniform(0.3, 0.7), b.uniform(0.4, 1.1), length / 2)
        look = {"colour": b.pick(GREENS), "tile": LEAVES, "fine": 0.3, "coarse": 0.12}
    elif kind == 1:
        half = (0.05, b.uniform(0.5, 1.0), length / 2)
        q = (b.uniform(0.25, 0.6), 0.9, 0.6, 0, 0, 0)
        look = {"colour": b.pick(_WOODS), "pattern": BOARDS, "q": q, "fine": 0.12}
    else:
        half = (0.15, b.uniform(0.25, 0.9), length / 2)
        look = {"colour": b.pick(PLASTERS), "fine": 0.14, "coarse": 0.14}
    b.add(BOX, s, d, half[1], half, **look)


def tree(b: Builder, s: float, d: float) -> None:
    """A trunk and a crown of a few ellipsoids."""
    height, radius = b.uniform(4, 10), b.uniform(1.2, 2.6)
    trunk, thick = height - radius, b.uniform(0.12, 0.3)
    b.add(
        POST, s, d, trunk / 2, (thick, trunk / 2, thick), colour=b.tint((0.30, 0.24, 0.18)),
        tile=LEAVES, fine=0.2, coarse=0.1,
    )  # fmt: skip
    green = b.pick(GREENS)
    for _ in range(int(b.rng.integers(2, 5))):
        size = radius * b.uniform(0.6, 1.0)
        half = (size, size * b.uniform(0.8, 1.2), size * b.uniform(0.8, 1.1))
        place = {"across": b.uniform(-0.5, 0.5) * radius, "along": b.uniform(-0.5, 0.5) * radius}
        up = max(trunk + b.uniform(-0.5, 0.8) * radius, 2.4 + half[1])
        look = {"colour": b.tint(green, 0.06), "tile": LEAVES, "fine": 0.34, "coarse": 0.16}
        b.add(ELLIPSOID, s, d, up, half, **place, **look)


def bush(b: Builder, s: float, d: float) -> None:
    """One ellipsoid of leaves."""
    half = (b.uniform(0.5, 1.6), b.uniform(0.5, 1.3), b.uniform(0.5, 1.6))
    look = {"colour": b.pick(GREENS), "tile": LEAVES, "fine": 0.32, "coarse": 0.16}
    b.add(ELLIPSOID, s, d, half[1] * 0.7, half, **look)


def post(b: Builder, s: float, d: float) -> None:
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


def car(b: Builder, s: float, d: float, *, turn: float, speed: float, kind: int) -> None:
    """A car, van or truck of boxes and wheels, with the shade under it; `turn` 0 faces along s."""
    length, width, height = CARS[kind]
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
