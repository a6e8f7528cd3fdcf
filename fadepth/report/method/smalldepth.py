"""Figure of SmallDepth: its folded layers with their costs, and the kernels' zero patterns."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fadepth.evaluation.complexity import count_parameters, describe_network
from fadepth.models import fold
from fadepth.models.etm import regroup
from fadepth.models.smalldepth import DESIGNS, PARTIAL_SHARE, SmallDepth
from fadepth.report.method.material import FULL
from fadepth.report.method.style import GREY, PALE, ROLES, SMALL, Array, Drawing, Page

STAGES = ("e1", "e2", "e3", "e4", "e5", "up5", "up4", "up3", "up2", "up1", "head")
KINDS = {
    "dense 3×3": ROLES["student"][0],
    "grouped 3×3": ROLES["accent"][0],
    "1×1": ROLES["loss"][0],
}
LEFT, ENCODER_STEP, DECODER_STEP = 92.0, 16.2, 32.0
TOP, LEVEL = 80.0, 36.0  # of the row of stride 2, and between rows


@dataclass(frozen=True)
class LayerCost:
    """One convolution of the folded network.

    Attributes:
        stage: a name of `STAGES`.
        kind: a key of `KINDS`.
        stride: of its output in the image.
        channels, size: of its output.
        groups, parameters, macs: what they say.
    """

    stage: str
    kind: str
    stride: int
    channels: int
    size: tuple[int, int]
    groups: int
    parameters: int
    macs: int


def layer_costs(network: nn.Module, size: tuple[int, int]) -> list[LayerCost]:
    """The convolutions of a folded SmallDepth in the order in which they run."""
    layers = []
    for part in describe_network(network, *size, depth=9):
        conv = network.get_submodule(part.name)
        if not isinstance(conv, nn.Conv2d):
            continue
        names = part.name.split(".")
        stage = f"e{int(names[1]) + 1}" if names[0] == "encoder" else names[0]
        kind = "1×1" if conv.kernel_size == (1, 1) else "dense 3×3"
        kind = "grouped 3×3" if conv.groups > 1 else kind
        assert part.shape is not None
        channels, height, width = part.shape
        stride, costs = size[0] // height, (part.parameters, part.macs)
        layers.append(
            LayerCost(stage, kind, stride, channels, (height, width), conv.groups, *costs)
        )
    return layers


def kernel_pattern(sparsity: str) -> tuple[Tensor, float]:
    """Which inputs a 3x3 convolution of stage e4 reads for each output, (C, C), and what share.

    The design `pconv` passes the channels on that its convolution does not read: a diagonal, which
    the share leaves out.
    """
    network = fold(SmallDepth("ac", sparsity))
    convs = [m for m in network.get_submodule("encoder.3").modules() if isinstance(m, nn.Conv2d)]
    conv = next(c for c in convs if c.kernel_size == (3, 3) and c.stride == (1, 1))
    taps = regroup(conv.weight.detach(), conv.groups, 1).abs().amax((2, 3)) > 0
    channels = DESIGNS[sparsity].channels[3]
    pattern = torch.eye(channels, dtype=torch.bool)
    pattern[: len(taps), : len(taps)] = taps
    assert len(taps) in (channels, channels // PARTIAL_SHARE)
    return pattern, float(taps.sum()) / channels**2


def draw() -> Drawing:
    """Layer plan, costs and zero patterns."""
    network = fold(SmallDepth("ac"))
    layers = layer_costs(network, FULL)
    designs = {name: fold(SmallDepth("ac", name)) for name in DESIGNS}
    patterns = {name: kernel_pattern(name) for name in DESIGNS}
    facts: dict[str, Any] = {
        "layers": layers,
        "parameters": count_parameters(network),
        "macs": sum(layer.macs for layer in layers),
        "designs": {
            name: (
                count_parameters(design),
                sum(isinstance(module, nn.Conv2d) for module in design.modules()),
                patterns[name][1],
            )
            for name, design in designs.items()
        },
    }
    page = Page(630)
    columns = _columns(layers)
    page.heading(15, 16, f"SmallDepth, folded: {len(layers)} convolutions")
    _key(page)
    _plan(page, layers, columns)
    macs = [layer.macs / 1e6 for layer in layers]
    parameters = [layer.parameters / 1e3 for layer in layers]
    total_macs = f"{sum(macs) / 1e3:.3f}\nGMAC"
    _bars(page, 328, layers, columns, macs, f"million\nMAC, of\n{total_macs}")
    total = f"{facts['parameters']:,}"
    _bars(page, 418, layers, columns, parameters, f"thousand\nparameters,\nof {total}")
    _patterns(page, 504, {name: p for name, (p, _) in patterns.items()}, facts["designs"])
    return Drawing("smalldepth.svg", page.figure, facts)


def _columns(layers: list[LayerCost]) -> list[float]:
    """The middle of each layer's column."""
    columns, x = [], LEFT
    for layer in layers:
        step = ENCODER_STEP if layer.stage.startswith("e") else DECODER_STEP
        columns.append(x + step / 2)
        x += step
    return columns


def _row(stride: int) -> float:
    return TOP + LEVEL * (stride.bit_length() - 2)


def _key(page: Page) -> None:
    x = 460.0
    for kind, colour in KINDS.items():
        page.rectangle(x, 11, 11, 11, fill=colour)
        page.text(x + 17, 16.5, kind, ha="left")
        x += 30 + 8 * len(kind)


def _plan(page: Page, layers: list[LayerCost], columns: list[float]) -> None:
    """Each convolution at its stride's height, skips as dashed lines."""
    for stride in (2, 4, 8, 16, 32):
        height, width = next(layer.size for layer in layers if layer.stride == stride)
        y = _row(stride)
        page.text(15, y - 7, f"stride {stride}", ha="left", size=SMALL)
        page.text(15, y + 8, f"{height}×{width}", ha="left", size=SMALL, colour=GREY)
    for (a, b), (x0, x1) in zip(pairwise(layers), pairwise(columns), strict=True):
        between = (x0 + x1) / 2
        y0, y1 = _row(a.stride), _row(b.stride)
        if b.stride < a.stride:  # nearest x2, then the skip is added
            page.arrow((x0, y0), (between, y0), (between, y1 + 8))
            page.circle(between, y1, "+")
            page.arrow((between + 8, y1), (x1 - 6, y1), head=False)
        else:
            page.arrow(
                (x0, y0), (x0 if y0 == y1 else between, y0), (between, y1), (x1, y1), head=False
            )
    for layer, x in zip(layers, columns, strict=True):
        y = _row(layer.stride)
        page.rectangle(x - 5.5, y - 10, 11, 20, fill=KINDS[layer.kind])
    _skips(page, layers, columns)
    for stage in STAGES:
        group = [i for i, layer in enumerate(layers) if layer.stage == stage]
        middle = (columns[group[0]] + columns[group[-1]]) / 2
        groups = max(layers[i].groups for i in group)
        if groups > 1:
            words = f"{groups} groups of {layers[group[-1]].channels // groups} channels"
            page.text(middle, _row(layers[group[-1]].stride) + 19, words, size=SMALL, colour=GREY)
        page.text(middle, 43, stage, bold=True, size=SMALL, va="baseline")
        page.text(
            middle, 58, str(layers[group[-1]].channels), size=SMALL, va="baseline", colour=GREY
        )
    page.text(15, 58, "channels", ha="left", va="baseline", size=SMALL, colour=GREY)
    page.text(columns[-1] + 2, _row(2) + 22, "σ, ×2", size=SMALL)


def _skips(page: Page, layers: list[LayerCost], columns: list[float]) -> None:
    for index, (a, b) in enumerate(pairwise(layers)):
        if b.stride >= a.stride:
            continue
        source = max(i for i, layer in enumerate(layers[:31]) if layer.stride == b.stride)
        y, end = _row(b.stride), (columns[index] + columns[index + 1]) / 2
        page.arrow((columns[source] + 6, y), (end - 8, y), dashed=True, colour=GREY)


def _bars(
    page: Page,
    base: float,
    layers: list[LayerCost],
    columns: list[float],
    values: list[float],
    label: str,
) -> None:
    """One bar per layer above `base`, and each stage's sum below it."""
    tall = 58.0
    page.text(15, base - 28, label, ha="left", size=SMALL)
    page.arrow((LEFT, base), (785, base), head=False, colour=PALE)
    for layer, x, value in zip(layers, columns, values, strict=True):
        height = tall * value / max(values)
        page.rectangle(x - 5.5, base - height, 11, height, fill=KINDS[layer.kind])
    for stage in STAGES:
        group = [i for i, layer in enumerate(layers) if layer.stage == stage]
        middle = (columns[group[0]] + columns[group[-1]]) / 2
        total = sum(values[i] for i in group)
        page.text(middle, base + 11, f"{total:.0f}" if total >= 2 else f"{total:.1f}", size=SMALL)


def _patterns(
    page: Page, top: float, patterns: dict[str, Tensor], designs: dict[str, tuple[int, int, float]]
) -> None:
    """Zero patterns of one 3x3 convolution of each design."""
    page.text(
        15,
        top - 35,
        "Which inputs (across) a 3×3 kernel of e4 reads for each output (down), in each design",
        ha="left",
    )
    size, step = 92.0, 156.0
    for index, (name, pattern) in enumerate(patterns.items()):
        left = 15 + index * step
        colour = KINDS["grouped 3×3" if name.startswith(("group", "depth")) else "dense 3×3"]
        page.picture(left, top, size, _matrix(pattern.numpy(), colour), line=GREY, smooth=False)
        page.text(left, top - 8, name, ha="left", va="baseline", bold=True)
        parameters, convs, share = designs[name]
        page.text(
            left, top + size + 12, f"{100 * share:.3g} % of the kernel", ha="left", size=SMALL
        )
        page.text(
            left, top + size + 27, f"{parameters / 1e6:.3f} M, {convs} conv.", ha="left", size=SMALL
        )


def _matrix(pattern: Array, colour: str) -> Array:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(pattern[..., None], rgb, 1.0)
