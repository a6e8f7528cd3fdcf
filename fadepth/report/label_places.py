"""Where labels go beside crowded points: near their own, over nothing, and not to be mistaken."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

TRIED, ORDERS = 48, 8  # places tried for each label, orders in which labels choose

#: A point of the plot, points (1/72 inch) from its lower left corner.
Place = tuple[float, float]


class Box(NamedTuple):
    """A rectangle, points from the lower left corner of the axes."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, width: float, height: float) -> float:
        """Area beyond a page that begins at (0, 0)."""
        inside = self.overlap(Box(0, 0, width, height))
        return (self.right - self.left) * (self.top - self.bottom) - inside


def placed(
    anchors: Sequence[Place],
    sizes: Sequence[Place],
    markers: Sequence[Box],
    bars: Sequence[Box],
    page: Place,
) -> list[Box]:
    """Boxes for labels near their anchors: no two overlap if any tried place allows it.

    Each label takes the cheapest of places around its anchor, given all others, until nothing
    moves; of several orders in which labels may choose, the cheapest outcome counts. Orders are
    drawn from a fixed seed, so equal input gives equal places.

    Args:
        anchors: points that the labels belong to, from the lower left corner of the page.
        sizes: width and height of the labels.
        markers: of the anchors, not to be covered, nor crossed by another's leader.
        bars: lines, not to be covered.
        page: width and height.
    """
    count = len(anchors)
    choices, fixed = [], []
    for index, (anchor, size) in enumerate(zip(anchors, sizes, strict=True)):
        boxes = _candidates(*anchor, *size)
        costs = [_own_cost(box, index, anchors, markers, bars, page) for box in boxes]
        best = sorted(range(len(boxes)), key=costs.__getitem__)[:TRIED]
        choices.append([boxes[i] for i in best])
        fixed.append([costs[i] for i in best])

    @cache
    def clash(one: int, place: int, other: int, other_place: int) -> float:
        boxes = choices[one][place], choices[other][other_place]
        return _clash(boxes[0], anchors[one], boxes[1], anchors[other])

    def cost(index: int, place: int, chosen: Sequence[int]) -> float:
        others = (clash(index, place, i, chosen[i]) for i in range(count) if i != index)
        return fixed[index][place] + sum(others)

    def settled(order: Sequence[int]) -> list[int]:
        chosen, before = [0] * count, [-1] * count
        for _ in range(12):
            if chosen == before:
                break
            before = list(chosen)
            for index in order:
                tried = range(len(choices[index]))
                chosen[index] = min(tried, key=lambda p, i=index: cost(i, p, chosen))  # type: ignore[misc]
        return chosen

    generator = np.random.default_rng(0)
    outcomes = [settled([int(i) for i in generator.permutation(count)]) for _ in range(ORDERS)]
    found = min(outcomes, key=lambda chosen: sum(cost(i, p, chosen) for i, p in enumerate(chosen)))
    return [choices[index][place] for index, place in enumerate(found)]


def _clash(box: Box, anchor: Place, other: Box, other_anchor: Place) -> float:
    """What two labels cost each other: overlap, and leaders that run through words."""
    shared = box.overlap(other)
    crossed = _runs_through(anchor, box, other) + _runs_through(other_anchor, other, box)
    return (1000 + 20 * shared if shared else 0) + 60 * crossed


def _runs_through(anchor: Place, box: Box, other: Box) -> bool:
    """Whether the line from an anchor to its label crosses another box."""
    (x0, y0), (x1, y1) = anchor, nearest(box, anchor)
    return any(
        other.left <= x0 + t * (x1 - x0) <= other.right
        and other.bottom <= y0 + t * (y1 - y0) <= other.top
        for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    )


def _candidates(x: float, y: float, width: float, height: float) -> list[Box]:
    """Places in twelve directions, nearer ones first."""
    found = []
    for distance in (5, 8, 12, 18, 26, 36, 48, 62):
        for turn in (0, 1, 11, 6, 5, 7, 2, 10, 4, 8, 3, 9):
            dx, dy = math.cos(turn * math.pi / 6), math.sin(turn * math.pi / 6)
            # The box touches the circle with the side or corner that looks at the anchor.
            left = x + distance * dx + width * (round(dx, 6) / 2 - 0.5)
            bottom = y + distance * dy + height * (round(dy, 6) / 2 - 0.5)
            found.append(Box(left, bottom, left + width, bottom + height))
    return found


def _own_cost(
    box: Box,
    index: int,
    anchors: Sequence[Place],
    markers: Sequence[Box],
    bars: Sequence[Box],
    page: Place,
) -> float:
    """What a place costs whatever the other labels do."""
    anchor = anchors[index]
    own = gap(box, anchor)
    middle = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    others = [i for i in range(len(anchors)) if i != index]
    # A reader takes a label for that of the nearest point, or of the last point on its line.
    mistaken = sum(gap(box, anchors[i]) < own + 2 for i in others)
    crossed = sum(_runs_through(anchor, box, markers[i]) for i in others)
    covered = 8 * sum(box.overlap(m) for m in markers) + 2 * sum(box.overlap(b) for b in bars)
    distance = own + 0.02 * math.dist(middle, anchor)
    return 200 * box.outside(*page) + covered + 12 * mistaken + 25 * crossed + distance


def gap(box: Box, point: Place) -> float:
    """Distance of a point from a box, points; 0 within it."""
    x, y = nearest(box, point)
    return math.dist((x, y), point)


def nearest(box: Box, point: Place) -> Place:
    """The point of a box that is nearest to another point."""
    x, y = point
    return min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)
