"""Figure of the base loss: neighbours, warped by true depth and motion, and what is compared."""

from typing import Any

import numpy as np
import torch

from fadepth.geometry import inverse_warp
from fadepth.losses.masks import automask
from fadepth.losses.photometric import identity_error, warped_error
from fadepth.report.method.material import FULL, SHOWN, picture_of, plane, rendered, street_views
from fadepth.report.method.style import Array, Drawing, Page, coloured

CEILING = 0.5  # photometric errors from here on share the brightest colour
SSIM_WEIGHT = 0.85
LEFT_OUT = np.array([0.84, 0.37, 0.0])  # the teacher's orange of the palette


def tinted(image: Array, kept: Array) -> Array:
    """The image, pale where it counts and orange where it does not."""
    grey = image.mean(2, keepdims=True) * np.ones(3)
    return np.where(kept[..., None], 0.35 + 0.65 * grey, 0.25 * grey + 0.75 * LEFT_OUT)


def draw() -> Drawing:
    """Target, sources, warps, errors and masks of one street frame."""
    views = street_views(FULL)
    depth = rendered(SHOWN, FULL).depth
    warps = [
        inverse_warp(source, depth, views.intrinsics, pose)
        for source, pose in zip(views.sources, views.poses, strict=True)
    ]
    error, visible = warped_error(views, depth, SSIM_WEIGHT)
    still = identity_error(views, SSIM_WEIGHT)
    kept = automask(error, still)
    target = picture_of(views.target)
    facts: dict[str, Any] = {
        "error": float(error.mean()),
        "identity_error": float(still.mean()),
        "kept": float(kept.double().mean()),
        "unseen": float((~visible).double().mean()),
        "unseen_each": [float((~seen).double().mean()) for _, seen in warps],
    }
    page = Page(414)
    columns, rows, width = (15, 278, 541), (26, 130, 234, 338), 244
    images = [
        ("source  $I_{t-1}$", picture_of(views.sources[0])),
        ("target  $I_t$", target),
        ("source  $I_{t+1}$", picture_of(views.sources[1])),
        ("$I_{t-1}$ warped to t, by true depth and motion", picture_of(warps[0][0])),
        ("difference  $|I_{t+1} - I_t|$, not warped", _difference(views.sources[1], views.target)),
        ("$I_{t+1}$ warped to t", picture_of(warps[1][0])),
        (f"unwarped error, mean {facts['identity_error']:.3f}", _error(plane(still))),
        (f"warped error, mean {facts['error']:.3f}", _error(plane(error))),
        ("gain by warping (purple: smaller error)", _gain(plane(still - error))),
        (
            f"auto-mask: leaves out {100 * (1 - facts['kept']):.1f} %",
            tinted(target, plane(kept.double()) > 0),
        ),
        (
            f"out of view, $I_{{t-1}}$: {100 * facts['unseen_each'][0]:.1f} %",
            tinted(target, plane(warps[0][1].double()) > 0),
        ),
        (
            f"out of view, $I_{{t+1}}$: {100 * facts['unseen_each'][1]:.1f} %",
            tinted(target, plane(warps[1][1].double()) > 0),
        ),
    ]
    for index, (title, image) in enumerate(images):
        page.picture(columns[index % 3], rows[index // 3], width, image, title=title)
    return Drawing("base_loss.png", page.figure, facts)


def _difference(one: torch.Tensor, other: torch.Tensor) -> Array:
    return _error(plane((one - other).abs().mean(1, keepdim=True)))


def _error(values: Array) -> Array:
    return coloured(values, 0, CEILING, "inferno")


def _gain(values: Array) -> Array:
    return coloured(values, -CEILING, CEILING, "PuOr")
