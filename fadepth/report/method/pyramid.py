"""Figure of the pyramid loss: the altered views of one frame, and what a layer sees in each."""

import torch
from torch import nn

from fadepth.config import JitterSettings, PyramidSettings
from fadepth.losses.pyramid import altered_views, consistency, unaltered
from fadepth.models import fold
from fadepth.models.smalldepth import SmallDepth
from fadepth.report.method.material import (
    FULL,
    SHOWN,
    Material,
    log_inverse,
    picture_of,
    plane,
    rendered,
)
from fadepth.report.method.style import GREY, ROLES, SMALL, Array, Drawing, Page, coloured

STAGE = 3  # of the encoder; stride 8
SEED = 2  # of flips and jitter: chosen so that the figure shows both orientations
CENTRE = (268, 96)  # of the boxes, pixels of the full image
LOG_RANGE = (-4.6, -0.7)  # of log inverse depth: 1/100 m to 1/2 m
COLOURS = [ROLES[role][0] for role in ("student", "teacher", "loss")]


def receptive_field(network: SmallDepth, stage: int) -> int:
    """Side of the square of pixels that one value after an encoder stage (1 to 5) depends on."""
    field, jump = 1, 1
    for module in list(fold(network).get_submodule("encoder").children())[:stage]:
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                field += (conv.kernel_size[0] - 1) * jump
                jump *= conv.stride[0]
    return field


def draw(material: Material) -> Drawing:
    """The frame with receptive fields, its views, and the disparities that have to agree."""
    network = material.student.module
    assert isinstance(network, SmallDepth)
    frame = rendered(SHOWN, FULL).image
    generator = torch.Generator().manual_seed(SEED)
    views = altered_views(frame, PyramidSettings(), JitterSettings(), generator)
    field = receptive_field(network, STAGE)
    clean = material.student.disparity(frame)
    restored = [unaltered(v, material.student.disparity(v.image), clean) for v in views]
    apart = [float(consistency(d, clean, torch.ones_like(clean))) for d in restored]
    facts = {
        "receptive_fields": [field * 2**view.level for view in views],
        "sizes": [tuple(view.image.shape[-2:]) for view in views],
        "flipped": [view.flipped for view in views],
        "consistency": apart,
    }
    page = Page(534)
    _fields(page, picture_of(frame), facts["receptive_fields"])
    left, scale = 15.0, 754 / sum(width for _, width in facts["sizes"])
    for view, colour in zip(views, COLOURS, strict=True):
        height, width = view.image.shape[-2:]
        title = f"$x_{view.level}$: {height}×{width}"
        tall = page.picture(
            left, 268, width * scale, picture_of(view.image), title=title, line=colour
        )
        if view.flipped:
            page.text(left, 268 + tall + 12, "mirrored", ha="left", size=SMALL)
        left += width * scale + 8
    page.text(785, 390, "each view relit by a draw of its own", ha="right", size=SMALL, colour=GREY)
    titles = ["r, of the clean frame"]
    titles += [f"$d_{v.level}$:  C = {c:.3f}" for v, c in zip(views, apart, strict=True)]
    page.text(
        15, 422, "Disparities, mirrored back and resized, that have to agree with r:", ha="left"
    )
    for index, (title, disparity) in enumerate(zip(titles, [clean, *restored], strict=True)):
        image = coloured(plane(log_inverse(disparity)), *LOG_RANGE)
        page.picture(15 + index * 194.5, 448, 186.5, image, title=title)
    page.note(521, f"SmallDepth: {material.student.label}.")
    return Drawing("pyramid.png", page.figure, facts)


def _fields(page: Page, image: Array, fields: list[int]) -> None:
    left, top, width = 150, 24, 635
    scale = width / image.shape[1]
    page.picture(left, top, width, image)
    x, y = left + CENTRE[0] * scale, top + CENTRE[1] * scale
    page.text(15, 40, "One value\nafter e3\n(stride 8)\nsees", ha="left", va="top")
    for level, (side, colour) in enumerate(zip(fields, COLOURS, strict=True)):
        half = side * scale / 2
        page.rectangle(x - half, y - half, 2 * half, 2 * half, line=colour, thick=2.2)
        page.text(15, 122 + 34 * level, f"{side}×{side}", ha="left", bold=True, colour=colour)
        page.text(15, 136 + 34 * level, f"pixels at level {level}", ha="left", size=SMALL)
