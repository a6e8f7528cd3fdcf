"""Patterns of upright faces: windows, doors and lamps, panes, boards. [derived]"""

from typing import Any, NamedTuple

import numpy as np

from fadepth.data.synthetic.street import Array
from fadepth.data.synthetic.textures import band, mix, pulse

_RANDOM = np.random.default_rng(0).random(4096).astype(np.float32)


class Wall(NamedTuple):
    """Samples (n,) on upright faces; lengths in metres."""

    u: Array  # along the face, 0 in its middle
    half: Array  # its half length
    up: Array  # above the road
    low: Array  # -1 at the top edge, 1 at the bottom
    across: Array  # whether the face looks sideways
    along: Array  # local z
    foot_u: Array  # of surface under a sample
    foot_v: Array
    number: Array  # of the part
    q: Array  # (6, n), numbers of the pattern: `Part.q`


def _random(*index: Any) -> Array:
    """A fixed random number in [0, 1) for each tuple of integers."""
    mixed = sum(np.asarray(i).astype(np.int64) * 57**k for k, i in enumerate(index))
    return _RANDOM[mixed & 4095]


def paint_facade(w: Wall, colour: Array, contrast: Array) -> None:
    """Windows in bays and storeys, sills, courses of stone, a darker ground floor.

    q: bay and storey in metres, shares of the window in both, contrast of courses and ground floor.
    """
    bay, storey, share_u, share_v, courses, ground = w.q
    period = 2 * w.half / np.maximum(np.rint(2 * w.half / bay), 1)
    u = w.u + w.half
    glass, frame = (
        pulse(u - (period * (1 - share_u) - e) / 2, period, period * share_u + e, w.foot_u)
        * pulse(w.up - (storey * (1 - share_v) - e) / 2, storey, storey * share_v + e, w.foot_v)
        for e in (0.0, 0.24)
    )
    cell = _random(np.floor(u / period), np.floor(w.up / storey), w.number)
    sharp = np.exp(-2 * w.foot_u / period)
    tone = 0.16 + 0.5 * sharp * np.where(cell > 0.72, cell - 0.5, 0.25 * (cell - 0.5))
    colour *= 1 - courses * 0.8 * pulse(w.up, 0.45, 0.08, w.foot_v)
    colour *= 1 - 0.3 * pulse(w.up + 0.12, storey, 0.16, w.foot_v)
    colour *= 1 - ground * band(w.up, storey * 0.96, w.foot_v)
    colour += 0.3 * (frame - glass) * (1.1 - colour)
    colour += 0.92 * glass * (tone * np.array([[0.95], [1.0], [1.08]], np.float32) - colour)
    contrast[0] *= 1 - 0.3 * glass


def paint_body(w: Wall, colour: Array, contrast: Array) -> None:
    """Doors on the sides, lamps and number plates at the ends, dark sills."""
    doors = np.where(w.across, pulse(w.u + 0.1, 1.15, 0.05, w.foot_u), 0)
    colour *= 1 - 0.5 * doors
    colour *= 1 - 0.6 * band(w.low - 1, 0.3, w.foot_v)
    lamps = band(np.abs(w.u) - 0.8 * w.half, 0.17 * w.half, w.foot_u)
    lamps *= band(w.low + 0.3, 0.3, w.foot_v) * ~w.across
    front = w.along > 0
    lamp = np.where(front, 0.95, 0.6), np.where(front, 0.95, 0.06), np.where(front, 0.88, 0.05)
    colour += lamps * (np.stack(lamp) - colour)
    plate = band(w.u, 0.26, w.foot_u) * band(w.low - 0.25, 0.2, w.foot_v) * ~w.across
    mix(colour, (0.85, 0.85, 0.8), plate)


def paint_glass(w: Wall, colour: Array, contrast: Array) -> None:
    """A cabin: windows between pillars; q[0] says how far down they reach."""
    edge = np.where(w.across, 0.93, 0.88) * w.half
    pane = band(w.u, edge, w.foot_u)
    pane *= 1 - np.where(w.across, pulse(w.u + 0.05, 1.1, 0.09, w.foot_u), 0)
    pane *= (w.low > -0.8) & (w.low < w.q[0])
    mix(colour, (0.10, 0.12, 0.14), pane)
    contrast *= 1 + pane


def paint_boards(w: Wall, colour: Array, contrast: Array) -> None:
    """Upright boards of period q[0], each a little other in tone."""
    period = w.q[0]
    sharp = np.exp(-2 * w.foot_u / period)
    colour *= 1 - 0.55 * pulse(w.u, period, 0.14 * period, w.foot_u)
    colour *= 1 + 0.4 * sharp * (_random(np.floor(w.u / period), w.number) - 0.5)
