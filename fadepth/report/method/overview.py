"""Figure of the training architecture: what runs, on what, and which loss it feeds."""

from typing import Any

import torch
from torch import nn

from fadepth.config import ApxSettings, JitterSettings, PyramidSettings
from fadepth.evaluation.complexity import count_parameters
from fadepth.losses.pyramid import altered_views
from fadepth.models import fold
from fadepth.models.smalldepth import SmallDepth
from fadepth.report.method.material import (
    FULL,
    HALF,
    SHOWN,
    SOURCES,
    Material,
    log_inverse,
    picture_of,
    plane,
    rendered,
)
from fadepth.report.method.pyramid import LOG_RANGE, SEED
from fadepth.report.method.style import GREY, ROLES, SMALL, Array, Drawing, Page, coloured

TEACHER, PYRAMID, STUDENT, POSE, FOLDED = 48.0, 148.0, 264.0, 372.0, 466.0  # heights of the rows
NETWORKS, OUTPUTS, LOSSES = 336.0, 484.0, 640.0  # left edges of the columns
PICTURE = 122.0


def draw(material: Material) -> Drawing:
    """Teacher, pyramid views, student and pose net from top to bottom; losses on the right."""
    frame = rendered(SHOWN, FULL).image
    generator = torch.Generator().manual_seed(SEED)
    views = altered_views(frame, PyramidSettings(), JitterSettings(), generator)
    student = fold(SmallDepth("ac"))
    facts: dict[str, Any] = {
        "parameters": count_parameters(student),
        "convolutions": sum(isinstance(module, nn.Conv2d) for module in student.modules()),
        "pyramid_weight": PyramidSettings().weight,
        "apx_weight": ApxSettings().weight,
    }
    small = rendered(SHOWN, HALF).image
    outputs: dict[str, Any] = {
        "teacher": _map(material.teacher.disparity(small)),
        "student": _map(material.student.disparity(frame)),
        "views": [_map(material.student.disparity(view.image)) for view in views],
    }
    page = Page(518)
    _inputs(page, frame, [picture_of(view.image) for view in views])
    _networks(page, outputs)
    _losses(page, facts)
    _inference(page, picture_of(frame), outputs["student"], facts)
    page.note(508, f"Maps for illustration.  SmallDepth: {material.student.label}.")
    return Drawing("overview.png", page.figure, facts)


def _map(disparity: torch.Tensor) -> Array:
    return coloured(plane(log_inverse(disparity)), *LOG_RANGE)


def _inputs(page: Page, frame: torch.Tensor, views: list[Array]) -> None:
    image = picture_of(frame)
    half = PICTURE * image.shape[0] / image.shape[1] / 2
    page.picture(15, STUDENT - half, PICTURE, image, title="$I_t$")
    for index, source in enumerate(SOURCES):
        shift = 10.0 * index
        page.picture(
            15 + shift,
            POSE - half - 6 + shift,
            PICTURE - 10,
            picture_of(rendered(source, FULL).image),
        )
    page.text(15, POSE - half - 13, "$I_{t-1},\\ I_{t+1}$", ha="left", va="baseline")
    bus = 160.0
    page.arrow((15 + PICTURE, STUDENT), (bus, STUDENT), head=False)
    page.arrow((bus, POSE - 8), (bus, TEACHER), head=False)
    page.arrow((bus, TEACHER), (NETWORKS, TEACHER))
    page.arrow((bus, STUDENT), (NETWORKS, STUDENT))
    page.arrow((bus, PYRAMID), (184, PYRAMID))
    page.arrow((bus, POSE - 8), (NETWORKS, POSE - 8))
    page.arrow((15 + PICTURE, POSE + 8), (NETWORKS, POSE + 8))
    for y in (PYRAMID, STUDENT):
        page.dot(bus, y, colour="#222222")
    page.text(184, PYRAMID - 34, "altered views", ha="left", va="baseline")
    page.text(184, PYRAMID + 43, "smaller, mirrored, relit", ha="left", size=SMALL, colour=GREY)
    left, top = 184.0, PYRAMID - 26
    for index, view in enumerate(views):
        width = (96.0, 60.0, 38.0)[index]
        page.picture(left, top, width, view, line="white")
        left, top = left + (30.0, 40.0, 0)[index], top + (20.0, 14.0, 0)[index]
    page.arrow((300, PYRAMID), (NETWORKS, PYRAMID))


def _networks(page: Page, outputs: dict[str, Any]) -> None:
    boxes = (
        (TEACHER, "HQDecv2", "teacher, frozen", "teacher"),
        (PYRAMID, "SmallDepth", "+ ETM", "student"),
        (STUDENT, "SmallDepth", "+ ETM", "student"),
        (POSE, "pose net", "", "pose"),
    )
    for y, name, note, role in boxes:
        page.box(NETWORKS, y - 24, 112, 48, role=role, dashed=role == "teacher")
        page.text(NETWORKS + 56, y - (8 if note else 0), name, bold=True)
        if note:
            page.text(NETWORKS + 56, y + 10, note, size=SMALL, colour=GREY)
    middle = (PYRAMID + STUDENT) / 2
    page.arrow(
        (NETWORKS + 56, PYRAMID + 24), (NETWORKS + 56, STUDENT - 24), dashed=True, head=False
    )
    page.text(NETWORKS + 56, middle, "same weights", size=SMALL, colour=GREY, ground=True)
    for y in (TEACHER, PYRAMID, STUDENT):
        page.arrow((NETWORKS + 112, y), (OUTPUTS, y))
    half = PICTURE * 0.15
    page.picture(OUTPUTS, TEACHER - half, PICTURE, outputs["teacher"], title="$d_T$ and its mirror")
    page.picture(OUTPUTS, STUDENT - half, PICTURE, outputs["student"], title="$d$, three scales")
    page.text(OUTPUTS, PYRAMID - 34, "$d_0, d_1, d_2$", ha="left", va="baseline")
    for index, image in enumerate(outputs["views"]):
        shift = 9.0 * index
        page.picture(OUTPUTS + shift, PYRAMID - 26 + 1.2 * shift, PICTURE - 18, image, line="white")
    page.box(OUTPUTS, POSE - 17, PICTURE, 34, "warp $I_{t±1}$ to t")
    page.arrow((NETWORKS + 112, POSE), (OUTPUTS, POSE))
    page.text(NETWORKS + 130, POSE - 9, "T", ha="center")
    page.arrow((OUTPUTS + PICTURE / 2, STUDENT + half), (OUTPUTS + PICTURE / 2, POSE - 17))


def _losses(page: Page, facts: dict[str, Any]) -> None:
    boxes = (
        (TEACHER, 145.0, "$L_{APX}$", "values, slopes"),
        (PYRAMID, 100.0, "$L_{pyr}$", "agree, explain"),
        (POSE, 145.0, "$L_{base}$", "photometric, smooth"),
    )
    for y, width, name, note in boxes:
        page.box(LOSSES, y - 24, width, 48, role="loss")
        page.text(LOSSES + width / 2, y - 9, name, size=14)
        page.text(LOSSES + width / 2, y + 12, note, size=SMALL, colour=GREY)
    right = OUTPUTS + PICTURE
    page.arrow((right, TEACHER), (LOSSES, TEACHER))
    page.arrow((right, PYRAMID), (LOSSES, PYRAMID))
    page.arrow((right, POSE), (LOSSES, POSE))
    # The clean prediction is what both other losses compare with.
    clean, far = LOSSES + 50, LOSSES + 125
    page.arrow((right, STUDENT), (clean, STUDENT), (clean, PYRAMID + 24))
    page.arrow((clean, STUDENT), (far, STUDENT), (far, TEACHER + 24))
    page.dot(clean, STUDENT, colour="#222222")
    page.text(clean - 7, PYRAMID + 62, "r, no\ngradient", ha="right", size=SMALL, colour=GREY)
    page.arrow((right + 10, POSE), (right + 10, PYRAMID + 14), (LOSSES, PYRAMID + 14), dashed=True)
    page.text(right + 18, STUDENT + 52, "motions, no gradient", ha="left", size=SMALL, colour=GREY)
    weights = facts["pyramid_weight"], facts["apx_weight"]
    total = "$L = L_{{base}} + {:g}\\,L_{{pyr}} + {:g}\\,L_{{APX}}$".format(*weights)
    page.text(LOSSES + 145, POSE + 44, total, size=12, ha="right")


def _inference(page: Page, frame: Array, disparity: Array, facts: dict[str, Any]) -> None:
    y = FOLDED
    line, ground = ROLES["student"]
    page.rectangle(8, y - 30, 784, 60, fill=ground, zorder=1)
    half = PICTURE * 0.15
    page.text(22, y, "After training:", ha="left", bold=True)
    page.picture(160, y - half, PICTURE, frame)
    page.arrow((160 + PICTURE, y), (NETWORKS, y))
    page.box(NETWORKS, y - 20, 112, 40, "SmallDepth,\nfolded", role="student", bold=True)
    page.arrow((NETWORKS + 112, y), (OUTPUTS, y))
    page.picture(OUTPUTS, y - half, PICTURE, disparity)
    words = f"{facts['convolutions']} convolutions,\n{facts['parameters']:,} parameters"
    page.text(LOSSES, y, words, ha="left", colour=line)
