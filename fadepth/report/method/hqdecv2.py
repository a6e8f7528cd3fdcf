"""Figure of HQDecv2: the decoder's data flow, with shapes measured in the full-size network."""

from typing import Any

import torch
from torch import Tensor, nn

from fadepth.evaluation.complexity import count_parameters
from fadepth.models.hqdec import HQDecV2
from fadepth.report.method.material import FULL, SEED
from fadepth.report.method.style import GREY, SMALL, Drawing, Page

LEVELS = 4  # fused levels; the fifth feature is the bridge
ROW, FIRST_ROW, BRIDGE_ROW = 88.0, 78.0, 424.0
LANES = (116.0, 129.0, 142.0)  # x of the lines that bring f_0, f_1, f_2 down
SUM = 330.0  # x of the sums b_j


@torch.no_grad()
def measured_shapes(network: HQDecV2, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """(C, H, W) of f_j, b_j, u_j and the disparities d_j, from one pass over an image of `size`.

    b_j is what the module after the fusion takes in.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    decoder = network.decoder

    def note(module: nn.Module, name: str, *, taken: bool = False) -> None:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes[name] = tuple((inputs[0] if taken else output).shape[1:])

        module.register_forward_hook(hook)

    for j in range(LEVELS):
        note(decoder.lateral[j], f"f{j}", taken=True)
        note(decoder.reduce[j], f"b{j}", taken=True)
        note(decoder.up[j], f"u{j}")
    note(decoder.bridge, "f4", taken=True)
    note(decoder.bridge_up, "u4")
    for j, head in enumerate(decoder.heads):
        note(head, f"d{j}")
    network.train()(torch.zeros(1, 3, *size))
    return shapes


def draw() -> Drawing:
    """The five features, the fusion at four levels, three disparities."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = HQDecV2()
    facts: dict[str, Any] = {
        "shapes": measured_shapes(network, FULL),
        "parameters": count_parameters(network),
        "encoder": count_parameters(network.encoder),
        "samplers": list(network.decoder.sampled),
    }
    shapes = {name: "×".join(map(str, shape)) for name, shape in facts["shapes"].items()}
    page = Page(506)
    page.heading(15, 16, f"HQDecv2: {facts['parameters'] / 1e6:.1f} M parameters")
    page.text(
        785, 16, f"shapes C×H×W, measured on a {FULL[0]}×{FULL[1]} image",
        ha="right", size=SMALL, colour=GREY,
    )  # fmt: skip
    for j in range(LEVELS):
        _level(page, j, shapes, [key for key in facts["samplers"] if key.endswith(f"to_{j}")])
    _bridge(page, shapes)
    for i, lane in enumerate(LANES):
        page.arrow(
            (103, _row(i)), (lane, _row(i)), (lane, _entry(i, 3, 3)), head=False, colour=GREY
        )
    page.text(
        59, 468, f"EfficientNetV2-S,\n{facts['encoder'] / 1e6:.1f} M", size=SMALL, colour=GREY
    )
    _legend(page)
    return Drawing("hqdecv2.svg", page.figure, facts)


def _row(j: int) -> float:
    return FIRST_ROW + ROW * j


def _entry(i: int, j: int, count: int) -> float:
    """Height at which f_i enters the samplers of level j, which take `count` features."""
    return _row(j) + 31 + 7 * (i - (count - 1) / 2)


def _level(page: Page, j: int, shapes: dict[str, str], samplers: list[str]) -> None:
    """Feature f_j and finer ones into b_j, and b_j to u_j and a disparity."""
    y = _row(j)
    page.box(15, y - 18, 88, 36, f"$f_{j}$\n{shapes[f'f{j}']}", size=SMALL)
    page.arrow((103, y), (172, y))
    page.box(172, y - 13, 120, 26, "R(CT ·)", role="teacher")
    page.arrow((292, y), (SUM - 8, y))
    page.circle(SUM, y, "+")
    if samplers:
        page.box(172, y + 18, 120, 26, "Σ λ R(CT(D ·))", role="teacher")
        page.arrow((292, y + 31), (SUM - 16, y + 31), (SUM - 16, y + 10), (SUM - 7, y + 4))
        for key in samplers:
            i = int(key[0])
            start = _entry(i, j, len(samplers))
            page.arrow((LANES[i], start), (172, start), colour=GREY)
            if j < LEVELS - 1:
                page.dot(LANES[i], start)
    page.text((SUM + 418) / 2 + 2, y - 17, f"$b_{j}$")
    page.text((SUM + 418) / 2 + 2, y + 12, shapes[f"b{j}"], size=SMALL, colour=GREY)
    page.arrow((SUM + 8, y), (418, y))
    page.box(418, y - 13, 62, 26, "R(CT ·)", role="teacher")
    page.arrow((480, y), (500, y))
    page.box(500, y - 13, 54, 26, "Up", role="teacher", bold=True)
    if j:
        _upwards(page, j, 527, y - 13, shapes)
    else:
        page.text(595, y - 17, "$u_0$")
        page.text(595, y + 12, shapes["u0"], size=SMALL, colour=GREY)
    if f"d{j}" in shapes:
        page.arrow((554, y), (637, y))
        page.box(637, y - 13, 48, 26, "head", role="teacher")
        page.arrow((685, y), (702, y))
        page.box(702, y - 18, 83, 36, f"disparity\n{shapes[f'd{j}']}", role="student", size=SMALL)


def _upwards(page: Page, j: int, x: float, y: float, shapes: dict[str, str]) -> None:
    """u_j from an upsampler at (x, y) to the sum of the next finer level."""
    turn = _row(j - 1) + 52
    page.arrow((x, y), (x, turn), (SUM, turn), (SUM, _row(j - 1) + 8))
    page.text(SUM + 12, turn - 9, f"$u_{j}$:  {shapes[f'u{j}']}", ha="left", size=SMALL)


def _bridge(page: Page, shapes: dict[str, str]) -> None:
    y = BRIDGE_ROW
    page.box(15, y - 18, 88, 36, f"$f_4$\n{shapes['f4']}", size=SMALL)
    page.arrow((103, y), (172, y))
    page.box(172, y - 13, 120, 26, "R(CT ·)", role="teacher")
    page.arrow((292, y), (SUM - 27, y))
    page.box(SUM - 27, y - 13, 54, 26, "Up", role="teacher", bold=True)
    page.arrow((SUM, y - 13), (SUM, _row(3) + 8))
    page.text(SUM + 12, _row(3) + 43, f"$u_4$:  {shapes['u4']}", ha="left", size=SMALL)


def _legend(page: Page) -> None:
    lines = (
        ("R", "AdaRM: ELU(BN(x) + $p_1$ L(x) + $p_2$ G(x))"),
        ("G", "global feature maps"),
        ("CT", "3×3 convolution, ELU"),
        ("D", "axial sampler, by 2, 4 or 8"),
        ("Up", "DAdaNRSUv2"),
        ("λ, p", "AdaCoeff, zero at start"),
    )
    for index, (sign, meaning) in enumerate(lines):
        y = BRIDGE_ROW - 24 + 18 * index
        page.text(470, y, sign, ha="right", size=SMALL, bold=True)
        page.text(480, y, meaning, ha="left", size=SMALL)
