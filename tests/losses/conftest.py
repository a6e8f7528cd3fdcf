"""Pairs of frames of the synthetic street with exact depth, motion and visibility."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fadepth.data.synthetic import intrinsics, make_scene, render_frame
from fadepth.losses.photometric import Views

STREET_SIZE = (96, 312)


@dataclass(frozen=True)
class StreetPair:
    """Two frames a and b, 1 m apart, with the truth about them.

    Attributes:
        views: a as the target, b as the only source, float64.
        depths: (2, 1, H, W) of a and b, metres, the sky at 100 m.
        seen: (H, W) boolean, a's surface is seen in b: the same part of the scene lies there.
        hidden: (H, W) boolean, another part lies there and at none of the pixels around.
        moving: (H, W) boolean, a's surface drives.
    """

    views: Views
    depths: Tensor
    seen: NDArray[np.bool_]
    hidden: NDArray[np.bool_]
    moving: NDArray[np.bool_]


def street_pair(drive: int) -> StreetPair:
    height, width = STREET_SIZE
    scene = make_scene(0, drive, 5)
    frames = [render_frame(scene, frame, height, width) for frame in (1, 2)]
    k = intrinsics(height, width)
    a_to_world, b_to_world = (np.vstack([scene.poses[f], [0, 0, 0, 1]]) for f in (1, 2))
    a_to_b = np.linalg.inv(b_to_world) @ a_to_world
    depths = [np.minimum(depth, 100).astype(float) for _, depth, _ in frames]
    parts = [part for *_, part in frames]

    # Where a's points lie in b, written out here once more: K (R D K^-1 p + t).
    v, u = np.mgrid[:height, :width]
    points = np.linalg.inv(k) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1)
    points = a_to_b[:3, :3] @ (points * depths[0].ravel()) + a_to_b[:3, 3:]
    x, y, z = (k @ points).reshape(3, height, width)
    column, row = np.rint(x / z).astype(int), np.rint(y / z).astype(int)
    inside = (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1) & (z > 0)
    inside &= np.isfinite(frames[0][1])
    column, row = column.clip(1, width - 2), row.clip(1, height - 2)
    around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    same = np.any([parts[1][row + i, column + j] == parts[0] for i, j in around], axis=0)

    images = [torch.from_numpy(i).permute(2, 0, 1)[None].double() / 255 for i, *_ in frames]
    views = Views(
        images[0],
        [images[1]],
        torch.from_numpy(k)[None].double(),
        [torch.from_numpy(a_to_b)[None]],
    )
    moving = np.isin(parts[0], np.flatnonzero(scene.parts.speed))
    return StreetPair(
        views,
        torch.from_numpy(np.stack(depths))[:, None],
        inside & same & ~moving,
        inside & ~same & ~moving,
        moving,
    )


@pytest.fixture(scope="session")
def street() -> StreetPair:
    """A street with hidden facades and pavements (drive 4)."""
    return street_pair(4)


@pytest.fixture(scope="session")
def traffic() -> StreetPair:
    """A street with a large car that moves (drive 6)."""
    return street_pair(6)
