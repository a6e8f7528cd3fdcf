"""Figure of AdaCoeff and DAdaNRSUv2: two diagrams, and maps of a real decoder."""

from typing import Any

import torch
from torch import Tensor

from fadepth.models.hqdec import HQDecV2, UpsamplerV2
from fadepth.report.method.material import HALF, SHOWN, Material, rendered
from fadepth.report.method.style import GREY, SMALL, Array, Drawing, Page, coloured, spread

FUSION = "decoder.coeffs.0_to_1"
REFINE = "decoder.up.0.refine.coeffs.1"  # p2, of the global branch
UPSAMPLER = "decoder.up.0"


@torch.no_grad()
def decoder_maps(network: HQDecV2, image: Tensor) -> dict[str, Tensor]:
    """Lambda of three places, and the base and detail of the last upsampler, each (1, C, H, W)."""
    upsampler = network.get_submodule(UPSAMPLER)
    assert isinstance(upsampler, UpsamplerV2)
    found: dict[str, Tensor] = {}
    places = (FUSION, REFINE, f"{UPSAMPLER}.coeff", f"{UPSAMPLER}.base")
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output})
        )
        for name in places
    ]
    original = upsampler.detail

    def detail(x: Tensor) -> Tensor:
        found["detail"] = original(x)
        return found["detail"]

    upsampler.detail = detail  # type: ignore[method-assign]
    try:
        network(image)
    finally:
        del upsampler.detail
        for handle in handles:
            handle.remove()
    return found


def draw(material: Material) -> Drawing:
    """Both diagrams, lambda where it varies most, and what the last upsampler adds."""
    network = material.teacher.module
    assert isinstance(network, HQDecV2)
    frame = rendered(SHOWN, HALF).image
    maps = decoder_maps(network, frame)
    chosen: dict[str, Array] = {}
    facts: dict[str, Any] = {}
    for name in (FUSION, REFINE, f"{UPSAMPLER}.coeff"):
        weight = maps[name][0]
        channel = int(weight.std((1, 2)).argmax())
        gamma = network.get_parameter(f"{name}.gamma").detach().flatten()
        chosen[name] = weight[channel].double().numpy()
        facts[name] = {
            "channel": channel,
            "shape": tuple(weight.shape),
            "gamma": float(gamma[channel]),
            "range": spread(chosen[name], (0, 100)),
        }
    channel = facts[f"{UPSAMPLER}.coeff"]["channel"]
    for name in ("detail", f"{UPSAMPLER}.base"):
        chosen[name] = maps[name][0, channel].double().numpy()
    page = Page(556)
    _coefficient(page, chosen, facts)
    _upsampler(page, chosen, facts)
    page.note(543, f"HQDecv2: {material.teacher.label}.")
    return Drawing("adacoeff_upsampler.png", page.figure, facts)


def _weight(values: Array, facts: dict[str, Any], name: str) -> tuple[str, Array]:
    """Title and picture of a lambda map."""
    channels, height, width = facts[name]["shape"]
    low, high = facts[name]["range"]
    digits = 2 if high - low > 0.05 else 3
    ends = " to ".join(f"{value:z.{digits}f}".replace("-", "−") for value in (low, high))
    return f"{ends}   ({channels}×{height}×{width})", coloured(values, low, high, "viridis")


def _coefficient(page: Page, maps: dict[str, Array], facts: dict[str, Any]) -> None:
    page.heading(15, 16, "AdaCoeff:  x + λ(x, y) · y")
    upper, lower = 84.0, 196.0
    middle = (upper + lower) / 2
    page.box(15, middle - 46, 40, 28, "x", size=13)
    page.box(15, middle + 18, 40, 28, "y", size=13)
    boxes = (
        (upper, "mean, std", "over pixels", "two-layer\nperceptron", "$s_{channel}$: C×1×1"),
        (lower, "mean, max", "over channels", "conv 5×5", "$s_{spatial}$: 1×H×W"),
    )
    for y, statistic, over, layer, name in boxes:
        page.box(86, y - 20, 96, 40, f"{statistic}\n{over}", size=SMALL)
        for source in (middle - 32, middle + 32):
            page.arrow((55, source), (70, source), (70, y), (86, y))
        page.box(206, y - 18, 82, 36, layer, role="teacher", size=SMALL)
        page.arrow((182, y), (206, y))
        page.arrow((288, y), (318, y), (318, middle + (8 if y > middle else -8)))
        page.text(247, y - 31 if y < middle else y + 31, name, size=SMALL)
    page.text(134, middle, "statistics take\nno gradient", size=SMALL, colour=GREY)
    page.circle(318, middle, "+")
    page.arrow((326, middle), (340, middle))
    page.box(340, middle - 14, 52, 28, "2 γ σ(·)", role="teacher", size=SMALL)
    page.text(366, middle + 32, "γ learned,\n0 at start", size=SMALL, colour=GREY)
    page.arrow((392, middle), (410, middle))
    page.text(419, middle, "λ", size=14)
    places = ((FUSION, "λ, fusion 0 → 1:"), (REFINE, "λ, AdaRM (p2):"))
    for index, (name, words) in enumerate(places):
        numbers, image = _weight(maps[name], facts, name)
        page.picture(462, 28 + index * 122, 323, image, title=f"{words}  {numbers}", smooth=False)


def _upsampler(page: Page, maps: dict[str, Array], facts: dict[str, Any]) -> None:
    page.heading(15, 282, "DAdaNRSUv2:  twice the size")
    base, detail = 318.0, 384.0
    page.box(15, base - 14, 40, 28, "x", size=13)
    page.arrow((55, base), (86, base))
    page.box(86, base - 14, 96, 28, "bilinear ×2")
    page.arrow((182, base), (206, base))
    page.box(206, base - 14, 44, 28, "BN", role="teacher")
    page.arrow((250, base), (728, base))
    page.circle(736, base, "+")
    page.arrow((744, base), (775, base))
    page.arrow((70, base), (70, detail), (86, detail))
    steps = (
        (86, 60, "AdaRM", "teacher"),
        (164, 84, "conv 3×3\nC → 4C", "teacher"),
        (266, 84, "pixel shuffle\n×2", "data"),
        (368, 84, "blur\n[1 2 1]", "data"),
        (470, 152, "y − bilinear ×2\n(mean over 2×2 of y)", "data"),
    )
    for (x, width, words, role), after in zip(steps, [*steps[1:], None], strict=True):
        page.box(x, detail - 20, width, 40, words, role=role, size=SMALL)
        page.arrow((x + width, detail), (after[0] if after else 728, detail))
    page.text(675, detail - 10, "detail", size=SMALL)
    page.circle(736, detail, "×")
    page.arrow((736, detail - 8), (736, base + 8))
    page.text(766, detail, "λ", size=14)
    page.arrow((760, detail), (744, detail))
    edge = max(abs(value) for value in spread(maps["detail"], (2, 98)))
    name = f"{UPSAMPLER}.coeff"
    numbers, weight = _weight(maps[name], facts, name)
    base_map = maps[f"{UPSAMPLER}.base"]
    images = [
        ("one channel's base", coloured(base_map, *spread(base_map), "gray")),
        ("its detail", coloured(maps["detail"], -edge, edge, "PuOr")),
        (f"its λ:  {numbers}", weight),
    ]
    for index, (title, image) in enumerate(images):
        page.picture(15 + index * 263, 448, 244, image, title=title)
