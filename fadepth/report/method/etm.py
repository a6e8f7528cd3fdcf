"""Figure of ETM: the branches of one real unit, and the convolution that they fold into."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fadepth.evaluation.complexity import count_parameters
from fadepth.models import fold
from fadepth.models.etm import Branch, Column, EtmConv2d, Identity, Point, Row, Square
from fadepth.models.smalldepth import SmallDepth
from fadepth.report.method.material import FULL, SHOWN, Material, rendered
from fadepth.report.method.style import GREY, INK, SMALL, Array, Drawing, Page, coloured

UNIT = "encoder.2.2"  # the second convolution of e3, 64 -> 64 channels
LABELS: dict[type[Branch], str] = {
    Square: "3×3", Point: "1×1", Identity: "identity", Row: "1×3", Column: "3×1",
}  # fmt: skip


def branch_kernels(unit: EtmConv2d) -> list[tuple[str, Tensor, Tensor]]:
    """Name, kernel (Cout, Cin, 3, 3) and bias (Cout,) of each branch, its BN included; float64."""
    exact = copy.deepcopy(unit).double()
    found = []
    for branch in exact.branches:
        assert isinstance(branch, Branch)
        kernel, bias = branch.kernel_and_bias()
        found.append((LABELS[type(branch)], kernel.detach(), bias.detach()))
    return found


def liveliest_channel(branches: list[tuple[str, Tensor, Tensor]]) -> int:
    """The channel whose kernels onto itself are largest, the identity's left out."""
    size = sum(
        kernel.diagonal().abs().sum((0, 1)) for name, kernel, _ in branches if name != "identity"
    )
    assert isinstance(size, Tensor)
    return int(size.argmax())


@torch.no_grad()
def largest_differences(network: nn.Module, image: Tensor) -> tuple[float, float]:
    """Largest absolute difference that folding makes: after the unit, and in disparity."""
    outputs: list[Tensor] = []
    disparities = []
    for form in (network, fold(network)):
        handle = form.get_submodule(UNIT).register_forward_hook(
            lambda _module, _inputs, output: outputs.append(output)
        )
        disparities.append(form(image))
        handle.remove()
    unit, whole = ((pair[0] - pair[1]).abs().max() for pair in (outputs, disparities))
    return float(unit), float(whole)


def draw(material: Material) -> Drawing:
    """Branch kernels that sum to the folded one, and the unit while training and after."""
    network = material.unfolded.module
    unit = network.get_submodule(UNIT)
    assert isinstance(network, SmallDepth) and isinstance(unit, EtmConv2d)
    branches = branch_kernels(unit)
    folded = unit.fold_unit()
    assert folded.bias is not None
    channel = liveliest_channel(branches)
    shown = [(name, kernel[channel, channel], bias[channel]) for name, kernel, bias in branches]
    weight, offset = folded.weight.detach(), folded.bias.detach()
    total = ("folded 3×3", weight[channel, channel], offset[channel])
    whole = SmallDepth("ac")
    facts: dict[str, Any] = {
        "channel": channel,
        "kernels": {name: kernel.tolist() for name, kernel, _ in [*shown, total]},
        "biases": {name: float(bias) for name, _, bias in [*shown, total]},
        "difference_unit": 0.0,
        "difference_disparity": 0.0,
        "parameters": (count_parameters(whole), count_parameters(fold(whole))),
    }
    image = rendered(SHOWN, FULL).image
    facts["difference_unit"], facts["difference_disparity"] = largest_differences(network, image)
    page = Page(410)
    _kernels(page, [*shown, total])
    _forms(page, [name for name, _, _ in shown], facts)
    page.note(396, f"SmallDepth: {material.unfolded.label}.")
    return Drawing("etm.png", page.figure, facts)


def _kernels(page: Page, kernels: list[tuple[str, Tensor, Tensor]]) -> None:
    page.heading(15, 16, "One kernel of a unit, branch by branch")
    page.text(
        785,
        16,
        "second convolution of e3, from a channel to itself, BN included; in hundredths",
        size=SMALL,
        ha="right",
        colour=GREY,
    )
    size, gap = 88.0, 46.0
    limit = 0.6 * max(float(kernel.abs().max()) for _, kernel, _ in kernels)
    for index, (name, kernel, bias) in enumerate(kernels):
        left = 15 + index * (size + gap)
        values = kernel.detach().double().numpy()
        page.text(left + size / 2, 42, name, bold=index == len(kernels) - 1)
        _cells(page, left, 54, size, values, limit)
        page.text(left + size / 2, 156, f"bias {_signed(float(bias))}", size=SMALL)
        if index:
            sign = "=" if index == len(kernels) - 1 else "+"
            page.text(left - gap / 2, 54 + size / 2, sign, size=20)


def _cells(page: Page, x: float, y: float, size: float, values: Array, limit: float) -> None:
    page.picture(x, y, size, coloured(values, -limit, limit, "RdBu_r"), line=GREY, smooth=False)
    step = size / 3
    for row, column in np.ndindex(3, 3):
        value = float(values[row, column])
        if value:
            colour = "white" if abs(value) > 0.7 * limit else INK
            middle = (x + (column + 0.5) * step, y + (row + 0.5) * step)
            page.text(*middle, _signed(value), size=SMALL, colour=colour)


def _signed(value: float) -> str:
    """In hundredths, without a sign for what rounds to nothing."""
    digits = 0 if abs(value) >= 0.0995 else 1
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def _forms(page: Page, names: list[str], facts: dict[str, Any]) -> None:
    """The unit while training, and folded."""
    page.heading(15, 192, "While training")
    page.heading(500, 192, "Folded")
    middle = 290.0
    page.box(15, middle - 13, 40, 26, "x", size=13)
    page.box(85, middle - 13, 70, 26, "pad once")
    page.arrow((55, middle), (85, middle))
    page.arrow((155, middle), (185, middle), head=False)
    page.circle(400, middle, "+")
    for index, name in enumerate(names):
        y = middle + (index - 2) * 34
        page.box(215, y - 12, 80, 24, name, role="student")
        page.box(315, y - 12, 40, 24, "BN", role="student")
        # Identity, 1x1 and the line kernels read the middle of what the 3x3 reads.
        page.arrow(*([] if y == middle else [(185.0, middle)]), (185, y), (215, y))
        page.arrow((295, y), (315, y))
        if y == middle:
            page.arrow((355, y), (392, y))
        else:
            page.arrow((355, y), (400, y), (400, middle + (8 if y > middle else -8)), colour=INK)
    page.arrow((408, middle), (430, middle))
    page.box(430, middle - 13, 46, 26, "ReLU")
    page.box(500, middle - 13, 40, 26, "x", size=13)
    page.arrow((540, middle), (565, middle))
    page.box(565, middle - 13, 110, 26, "3×3 with bias", role="student", bold=True)
    page.arrow((675, middle), (700, middle))
    page.box(700, middle - 13, 46, 26, "ReLU")
    training, inference = facts["parameters"]
    page.text(500, 222, f"SmallDepth: {training:,} parameters", ha="left")
    page.text(500, 240, f"while training, {inference:,} folded", ha="left")
    page.text(500, 332, "Largest difference that folding makes, measured:", ha="left")
    page.text(
        500,
        352,
        f"{_power(facts['difference_unit'])} after this unit,",
        ha="left",
    )
    page.text(500, 371, f"{_power(facts['difference_disparity'])} in disparity (0 to 1)", ha="left")


def _power(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$"
