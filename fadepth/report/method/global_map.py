"""Figure of the global feature maps: what a pixel reads, and why HQDec's patches leave a grid."""

from typing import Any

import torch
from matplotlib.ticker import NullFormatter
from torch import Tensor

from fadepth.evaluation.grid import flat_harmonic_share, harmonic_energy_share, smooth_image
from fadepth.models.hqdec import HEADS, MIN_WIDTH, GlobalMap, HQDecV2, Level
from fadepth.models.hqdec_v1 import PatchGrid, PatchTransformer, patch_grid
from fadepth.report.method.material import FULL, SEED, SHOWN, Material, picture_of, rendered
from fadepth.report.method.style import (
    GREY,
    PALE,
    POINTS,
    ROLES,
    SMALL,
    Array,
    Drawing,
    Page,
    coloured,
    spread,
)

MODULE = "decoder.reduce.0.1.global_branch.0"  # of the last AdaRM before full size
PIXELS = {"p": (99, 268), "q": (30, 340)}  # row and column, at 192x640: a van, the sky
STRIDE, CHANNELS, WIDTH_OF_TOKENS = 2, 24, 48  # of the comparison: HQDec's at stride 2


@torch.no_grad()
def attention_of(network: HQDecV2, image: Tensor) -> Tensor:
    """Weight of each token for each pixel: (rows, columns, H, W), sum 1 over the tokens."""
    module = network.get_submodule(MODULE)
    assert isinstance(module, GlobalMap)
    found: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output})
        )
        for name in ("embed", "read")
    ]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    features, keys = found["embed"], found["read"].chunk(2, dim=2)[0]
    logits = torch.einsum("bne,behw->bnhw", keys * module.width**-0.5, features)
    return logits.softmax(1)[0].unflatten(0, module.grid(features.shape))


@torch.no_grad()
def global_features(size: tuple[int, int]) -> tuple[PatchGrid, Tensor, Tensor, Tensor, Tensor]:
    """Both forms on slow waves: patches, input, HQDec's template, HQDec's map and v2's.

    Untrained weights from `SEED`; maps are (1, C, H, W) at `STRIDE`, the template (C, 1, h, w).
    """
    rows, columns = (side // STRIDE for side in size)
    waves = torch.cat([smooth_image(rows, columns, seed) for seed in range(CHANNELS // 3)], 1)
    grid = patch_grid(size, STRIDE)
    level = Level(CHANNELS, MIN_WIDTH, HEADS[0], 1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        patches = PatchTransformer(CHANNELS, grid, WIDTH_OF_TOKENS, HEADS[0], 1.0).eval()
        reading = GlobalMap(CHANNELS, level, STRIDE).eval()
    return grid, waves, patches.paint.weight, patches(waves), reading(waves)


def row_spectrum(maps: Tensor) -> Tensor:
    """Share of the energy at each frequency along the rows, frequency 0 left out: (W / 2,)."""
    energy = torch.fft.rfft(maps.double(), dim=-1).abs().square().sum((0, 1, 2))[1:]
    return energy / energy.sum()


def draw(material: Material) -> Drawing:
    """Attention of two pixels; HQDec's patches and the global map on the same smooth input."""
    network = material.teacher.module
    assert isinstance(network, HQDecV2)
    frame = rendered(SHOWN, FULL).image
    attention = attention_of(network, frame)
    grid, waves, template, painted, read = global_features(FULL)
    period = grid.patch[1]
    shares = [harmonic_energy_share(m.transpose(0, 1), period) for m in (waves, painted, read)]
    stride = FULL[0] // attention.shape[2]
    weights = {
        name: attention[:, :, row // stride, column // stride]
        for name, (row, column) in PIXELS.items()
    }
    tokens = attention.shape[0] * attention.shape[1]
    facts: dict[str, Any] = {
        "tokens": tuple(attention.shape[:2]),
        "attention_sums": {name: float(w.sum()) for name, w in weights.items()},
        "attention_peaks": {name: float(w.max()) * tokens for name, w in weights.items()},
        "patch": grid.patch,
        "patches": grid.tokens,
        "harmonic_shares": dict(zip(("input", "patches", "global map"), shares, strict=True)),
        "flat": flat_harmonic_share(waves.shape[-1], period),
    }
    page = Page(548)
    _read_out(page, picture_of(frame), weights, facts)
    page.note(156, f"HQDecv2: {material.teacher.label}.")
    height, width = (4 * side for side in grid.patch)
    maps = (waves[0, 0], template[0, 0], painted[0, 0, :height, :width], read[0, 0])
    _patches(page, [m.double().detach().numpy() for m in maps], facts)
    _spectra(page, painted, read, facts)
    page.note(535, f"Lower part: both modules untrained, seed {SEED}.")
    return Drawing("global_map.png", page.figure, facts)


def _read_out(page: Page, frame: Array, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
    rows, columns = facts["tokens"]
    page.heading(15, 16, f"Global feature maps: a pixel reads from {rows}×{columns} tokens")
    left, top, width = 15.0, 58.0, 244.0
    tall = page.picture(left, top, width, frame, title="frame, tokens' cells, two pixels")
    for column in range(1, columns):
        x = left + width * column / columns
        page.arrow((x, top), (x, top + tall), head=False, colour="white", thick=0.4, above=True)
    for row in range(1, rows):
        y = top + tall * row / rows
        page.arrow((left, y), (left + width, y), head=False, colour="white", thick=0.4, above=True)
    for index, (name, weight) in enumerate(weights.items()):
        row, column = PIXELS[name]
        start = 278 + 263 * index
        peak = facts["attention_peaks"][name]
        title = f"{name}'s weights, 0 to {peak:.1f} times the mean"
        image = coloured(weight.numpy() * rows * columns, 0, peak, "viridis")
        page.picture(start, top, width, image, title=title, smooth=False)
        for corner in (left, start):
            x = corner + width * (column + 0.5) / frame.shape[1]
            y = top + tall * (row + 0.5) / frame.shape[0]
            page.marker(x, y, name)


def _patches(page: Page, maps: list[Array], facts: dict[str, Any]) -> None:
    height, width = facts["patch"]
    rows, columns = facts["patches"]
    page.heading(15, 190, "The same input through HQDec's patches, and through tokens")
    titles = (
        "smooth input (1 of 24)",
        f"HQDec's template, {height}×{width}",
        f"painted {rows}×{columns} times (part)",
        "read from the tokens",
    )
    for index, (title, values) in enumerate(zip(titles, maps, strict=True)):
        image = coloured(values, *spread(values, (0.5, 99.5)), "gray")
        smooth = index in (0, 3)
        page.picture(15 + 194.5 * index, 232, 186.5, image, title=title, smooth=smooth)


def _spectra(page: Page, painted: Tensor, read: Tensor, facts: dict[str, Any]) -> None:
    axes = page.plot(75, 322, 505, 150)
    period, size = facts["patch"][1], painted.shape[-1]
    for harmonic in range(1, period // 2 + 1):
        axes.axvline(harmonic / period, color=PALE, linewidth=0.7, zorder=1)
    curves = (
        ("patches", painted, ROLES["student"][0], "HQDec's patches"),
        ("global map", read, ROLES["teacher"][0], "tokens (v2)"),
    )
    for _, maps, colour, _ in curves:
        spectrum = row_spectrum(maps).numpy()
        frequencies = [(k + 1) / size for k in range(len(spectrum))]
        axes.plot(frequencies, spectrum, color=colour, linewidth=1.1)
    axes.set_yscale("log")
    axes.set_xlim(0, 0.5)
    axes.set_ylim(1e-8, 1)
    axes.set_yticks([1e-8, 1e-6, 1e-4, 1e-2, 1])
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("frequency along the rows, per feature pixel", fontsize=SMALL * POINTS)
    axes.set_ylabel("share of energy", fontsize=SMALL * POINTS)
    page.text(
        598, 330, f"Energy on the harmonics\nof period {period} (grey lines):", ha="left", va="top"
    )
    for index, (key, _, colour, label) in enumerate(curves):
        y = 384 + 22 * index
        page.text(
            598, y, _share(facts["harmonic_shares"][key]), ha="left", bold=True, colour=colour
        )
        page.text(655, y, label, ha="left", colour=colour)
    page.text(598, 428, f"{facts['flat']:.3f}", ha="left", colour=GREY)
    page.text(655, 428, "a flat spectrum", ha="left", colour=GREY)


def _share(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"
