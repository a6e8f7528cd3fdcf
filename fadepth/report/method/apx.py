"""Figure of APX: teacher and student, their residual, and how much each pixel counts."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fadepth.config import ApxSettings
from fadepth.geometry import disparity_to_depth
from fadepth.losses.apx import (
    STEPS,
    alignment,
    apx_loss,
    flip_reliability,
    photometric_trust,
    slope_term,
    value_term,
)
from fadepth.losses.photometric import warped_error
from fadepth.report.method.material import (
    HALF,
    Material,
    log_inverse,
    picture_of,
    plane,
    street_views,
)
from fadepth.report.method.style import Drawing, Page, coloured, spread

SSIM_WEIGHT = 0.85


def slopes(residual: Tensor) -> Tensor:
    """Mean over steps and axes of |e(p + h) - e(p)|, (1, 1, H, W); zero beyond the border."""
    total = torch.zeros_like(residual)
    for step in STEPS:
        for axis in (2, 3):
            length = residual.shape[axis] - step
            ahead, here = residual.narrow(axis, step, length), residual.narrow(axis, 0, length)
            total.narrow(axis, 0, length).add_((ahead - here).abs())
    return total / (2 * len(STEPS))


def draw(material: Material) -> Drawing:
    """Both networks' inverse depth of one frame, and the parts of the loss."""
    views = street_views(HALF)
    student = material.student.disparity(views.target)
    teacher = material.teacher.disparity(views.target)
    mirrored = material.teacher.disparity(views.target.flip(-1)).flip(-1)
    reliability = flip_reliability(teacher, mirrored)
    offset = alignment(log_inverse(student), log_inverse(teacher), reliability)
    error, _ = warped_error(views, disparity_to_depth(student), SSIM_WEIGHT)
    trust = photometric_trust(teacher, offset, error, views, SSIM_WEIGHT)
    mask = reliability * trust
    residual = log_inverse(student) - log_inverse(teacher) - offset
    _, parts = apx_loss(
        [student], teacher, reliability, ApxSettings(), views=views, student_error=error
    )
    facts: dict[str, Any] = {
        "offset": float(offset),
        "value": float(value_term(residual, mask)),
        "slope": float(slope_term(residual, mask)),
        "loss_parts": {name: float(part) for name, part in parts.items()},
        "trusted": float((trust == 1).double().mean()),
        "mean_mask": float(mask.mean()),
    }
    low, high = spread(np.stack([plane(log_inverse(d)) for d in (student, teacher)]))
    steep = plane(slopes(residual))
    images = [
        ("frame  x", picture_of(views.target)),
        ("teacher  log $q_T$", coloured(plane(log_inverse(teacher)), low, high)),
        (
            f"student  log $q_S$   (offset a: {facts['offset']:.3f})".replace("-", "−"),
            coloured(plane(log_inverse(student)), low, high),
        ),
        (
            f"residual  e   (mean of ρ, APX0: {facts['value']:.3f})",
            coloured(plane(residual), -0.6, 0.6, "RdBu_r"),
        ),
        (
            f"slopes of e   (mean, APX1: {facts['slope']:.3f})",
            coloured(steep, 0, 0.3, "inferno"),
        ),
        (
            "teacher, mirrored frame, mirrored back",
            coloured(plane(log_inverse(mirrored)), low, high),
        ),
        ("$r_T$: the teacher agrees with itself", coloured(plane(reliability), 0, 1, "cividis")),
        (
            f"$m_{{ph}}$: explains the frame ({100 * facts['trusted']:.0f} % of pixels)",
            coloured(plane(trust), 0, 1, "cividis"),
        ),
        (
            f"M = $r_T$ $m_{{ph}}$   (mean {facts['mean_mask']:.2f})",
            coloured(plane(mask), 0, 1, "cividis"),
        ),
    ]
    page = Page(384)
    columns, rows, width = (15, 278, 541), (26, 134, 242), 244
    for index, (title, image) in enumerate(images):
        page.picture(columns[index % 3], rows[index // 3], width, image, title=title)
    page.colour_bar(70, 333, 120, "magma", "far", "near")
    page.colour_bar(270, 333, 90, "RdBu_r", "e: −0.6", "+0.6")
    page.colour_bar(475, 333, 90, "inferno", "slopes: 0", "0.3")
    page.colour_bar(665, 333, 90, "cividis", "weights: 0", "1")
    page.note(362, f"Student: {material.student.label}.\nTeacher: {material.teacher.label}.")
    return Drawing("apx.png", page.figure, facts)
