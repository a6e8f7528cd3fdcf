"""Grid metrics against spectra in closed form, and what they say of HQDec and HQDecv2."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fadepth.errors import FadepthError
from fadepth.evaluation.grid import (
    flat_harmonic_share,
    flat_top_band_share,
    grid_metrics,
    harmonic_energy_share,
    smooth_image,
    top_band_share,
)
from fadepth.models import HQDecV2
from fadepth.models.hqdec import AdaCoeff, Forms, GlobalMap, Level, UpsamplerV1, UpsamplerV2
from fadepth.models.hqdec_v1 import CoefficientMap, PatchGate, PatchTransformer, patch_grid

ROWS, COLUMNS = np.arange(48)[:, None], np.arange(120)[None]


def cosine(cycles: float, offset: float = 3.0) -> np.ndarray:
    """Vertical stripes, `cycles` of them over 120 columns."""
    return offset + np.cos(2 * np.pi * cycles * COLUMNS / 120 + 0.7) + 0 * ROWS


@pytest.mark.parametrize(
    ("cycles", "period", "expected"),
    [
        *[(10, 12, 1), (20, 12, 1), (60, 12, 1), (9, 12, 0), (11, 12, 0)],
        *[(10, 24, 1), (20, 6, 1), (10, 6, 0)],
    ],
)
def test_a_cosine_is_on_the_harmonics_or_not(cycles: int, period: int, expected: float) -> None:
    assert harmonic_energy_share(cosine(cycles), period) == pytest.approx(expected, abs=1e-12)
    assert harmonic_energy_share(cosine(cycles).T, period, -2) == pytest.approx(expected, abs=1e-12)


def test_shares_are_of_energy_and_leave_the_mean_out() -> None:
    for offset in (0.0, 50.0):
        both = 2 * cosine(10, offset) + 1 * cosine(7, offset)
        assert harmonic_energy_share(both, 12) == pytest.approx(4 / 5)
        both = 2 * cosine(58, offset) + 1 * cosine(7, offset)
        assert top_band_share(both) == pytest.approx(4 / 5)
    # Structure along the other axis alone is each line's mean: nothing to share.
    assert harmonic_energy_share(cosine(10).T, 12, -1) == 0


@pytest.mark.parametrize("period", [4, 6, 12])
def test_a_comb_has_equal_lines_on_its_harmonics(period: int) -> None:
    comb = np.zeros((48, 120))
    comb[:, 3::period] = 1
    assert harmonic_energy_share(comb, period) == pytest.approx(1)
    assert harmonic_energy_share(comb, 2 * period) == pytest.approx(1)
    # Of its period - 1 lines, those of half the period are every second.
    expected = (period / 2 - 1) / (period - 1)
    assert harmonic_energy_share(comb, period // 2) == pytest.approx(expected)


def test_any_repeated_template_has_share_one() -> None:
    template = np.random.default_rng(0).normal(size=(48, 15))
    assert harmonic_energy_share(np.tile(template, 8), 15) == pytest.approx(1)
    # The rest beyond whole periods is left out.
    ragged = np.concatenate([np.tile(template, 8), np.full((48, 7), 99.0)], axis=1)
    assert harmonic_energy_share(ragged, 15) == pytest.approx(1)


def test_checkerboards_and_fine_stripes_fill_the_top_band() -> None:
    checkerboard = (-1.0) ** (ROWS + COLUMNS)
    stripes = [(-1.0) ** ROWS + 0.0 * COLUMNS, (-1.0) ** COLUMNS + 0.0 * ROWS]
    for pattern in (checkerboard, *stripes, checkerboard + 7):
        assert top_band_share(pattern) == pytest.approx(1)
    assert harmonic_energy_share(checkerboard, 12) == pytest.approx(1)  # every even period
    assert harmonic_energy_share(checkerboard, 15) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("cycles", "inside"), [(60, 1), (54, 1), (53, 0), (5, 0)])
def test_the_top_tenth_starts_at_0_45_per_pixel(cycles: int, inside: float) -> None:
    assert top_band_share(cosine(cycles)) == pytest.approx(inside, abs=1e-12)
    assert top_band_share(cosine(cycles).T) == pytest.approx(inside, abs=1e-12)
    half = top_band_share(cosine(cycles), fraction=0.5)
    assert half == pytest.approx(1 if cycles >= 30 else 0, abs=1e-12)


def test_white_noise_has_the_flat_shares() -> None:
    noise = torch.randn(40, 1, 48, 120, generator=torch.Generator().manual_seed(0))
    for period in (5, 12, 24):
        share = harmonic_energy_share(noise, period)
        assert share == pytest.approx((period - 1) / 119, rel=0.05)
        assert flat_harmonic_share(120, period) == (period - 1) / 119
    assert flat_harmonic_share(416, 52) == pytest.approx(1 / 8, abs=0.003)
    # 2 * 2 + 1 of 48 rows and 2 * 6 + 1 of 120 columns reach 0.45: the last one has no twin.
    expected = 1 - (48 - 5) * (120 - 13) / (48 * 120)
    assert flat_top_band_share(48, 120) == pytest.approx(expected, rel=1e-3)
    assert top_band_share(noise) == pytest.approx(expected, rel=0.02)


def test_several_images_give_their_mean_and_tensors_equal_arrays() -> None:
    one, other = cosine(10), cosine(7)
    batch = torch.from_numpy(np.stack([one, other]))[:, None]
    assert harmonic_energy_share(batch, 12) == pytest.approx(0.5)
    assert harmonic_energy_share(batch.float(), 12) == pytest.approx(0.5)
    noise = np.random.default_rng(0).normal(size=(48, 120))
    assert top_band_share(torch.from_numpy(noise)) == top_band_share(noise)


def test_a_constant_map_has_no_grid() -> None:
    for value in (0.0, 0.1, 1e6):
        constant = np.full((48, 120), value)
        assert harmonic_energy_share(constant, 12) == 0
        assert top_band_share(constant) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: harmonic_energy_share(np.ones((3, 8, 8)), 2), "expected \\(H, W\\)"),
        (lambda: top_band_share(np.ones((2, 3, 8, 8))), "expected \\(H, W\\)"),
        (lambda: top_band_share(np.full((8, 8), np.nan)), "not finite"),
        (lambda: harmonic_energy_share(np.ones((8, 8)), 5), "use 2 to 4"),
        (lambda: harmonic_energy_share(np.ones((8, 8)), 2, 1), "axis is 1"),
        (lambda: top_band_share(np.ones((8, 8)), 1.0), "between 0 and 1"),
        (lambda: grid_metrics(nn.Conv2d(3, 1, 1), 64, 64, images=0), "images is 0"),
    ],
)
def test_bad_input_is_told(call: Callable[[], float], message: str) -> None:
    with pytest.raises(FadepthError, match=message):
        call()


def test_the_smooth_image_has_no_grid_of_its_own() -> None:
    image = smooth_image(64, 208)
    assert image.shape == (1, 3, 64, 208)
    assert image.min() == 0
    assert image.max() == 1
    assert all(channel.std() > 0.1 for channel in image[0])
    for channel in image[0]:
        assert harmonic_energy_share(channel, 13) < 1e-12
        assert harmonic_energy_share(channel, 4, -2) < 1e-12
        assert top_band_share(channel) < 1e-12
    assert torch.equal(smooth_image(64, 208, 3), smooth_image(64, 208, 3))
    assert not torch.equal(smooth_image(64, 208, 3), smooth_image(64, 208, 4))


class Painted(nn.Module):
    """The image's first channel, with stripes of known energy on top; wrong while training."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        stripes = torch.cos(2 * torch.pi * torch.arange(images.shape[3]) / 13)
        board = (-1.0) ** torch.arange(images.shape[2])[:, None] * torch.ones(images.shape[3])
        first = images[:, :1] - images[:, :1].mean()
        first = first / first.square().mean().sqrt()
        return 9 + first + (0 if self.training else self.strength * (stripes + board))


def test_a_network_that_paints_a_known_grid() -> None:
    network = Painted()
    metrics = grid_metrics(network, 64, 208, images=2)
    assert network.training
    # Energies: the image 1, stripes 2^2 / 2, board 2^2; what is constant along an axis drops out.
    assert metrics.top_band == pytest.approx(4 / 7, rel=1e-3)
    assert metrics.flat == (12 / 207, 3 / 63, flat_top_band_share(64, 208))
    still = torch.cat([network.eval()(smooth_image(64, 208, seed)) for seed in range(2)])
    assert metrics.harmonics_x == harmonic_energy_share(still, 13, -1) > 2 / 3
    assert metrics.harmonics_y == harmonic_energy_share(still, 4, -2) > 4 / 5
    assert metrics == grid_metrics(network, 64, 208, period=(4, 13), images=2)


def slow(channels: int, height: int, width: int) -> Tensor:
    """A smooth random map (1, C, H, W)."""
    size = (height, width)
    return nn.functional.interpolate(torch.randn(1, channels, 4, 13), size, mode="bicubic")


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_patch_templates_show_and_the_global_map_does_not(seed: int) -> None:
    """At HQDec's size, stride 2, random weights: a prototype of ours gave 0.40, 0.52 and 0.014."""
    torch.manual_seed(seed)
    level = Level(channels=24, inner=12, heads=2, depth=1.0)
    template = PatchTransformer(12, patch_grid((256, 832), 2), 24, 2, 1.0)
    gate = PatchGate(24, patch_grid((256, 832), 1), 12, 2, 1.0)
    x = slow(12, 128, 416)

    def share(y: Tensor) -> float:
        return harmonic_energy_share(y.transpose(0, 1), 52)

    assert share(template(x)) > 2 * flat_harmonic_share(416, 52)
    assert share(gate(slow(24, 256, 832))) > 2 * flat_harmonic_share(832, 52)
    # The input's own share, 0.013 to 0.016, is the jump from its right border to its left one.
    assert share(GlobalMap(12, level, 2)(x)) < 1.5 * share(x) < 0.03


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_sub_pixel_phases_show_and_blurred_detail_does_not(seed: int) -> None:
    """Random weights, those of the expansion too: equal sub-kernels are only a start."""
    torch.manual_seed(seed)
    level = Level(channels=24, inner=12, heads=2, depth=1.0)
    old, new = UpsamplerV1(level, 4, Forms(upsampler_v2=False)), UpsamplerV2(level, 4)
    nn.init.normal_(new.expand.weight, std=0.05)
    x = slow(24, 64, 208)
    assert top_band_share(old.detail(x).transpose(0, 1)) > 0.5
    assert top_band_share(new.detail(x).transpose(0, 1)) < 0.05


HEIGHT, WIDTH = 64, 208  # patches of 4x13: a checkerboard is no harmonic of 13


def random_network(seed: int, **forms: bool) -> HQDecV2:
    """The quick preset's size; injected paths weigh about 1/2; calibrated batch norms."""
    torch.manual_seed(seed)
    network = HQDecV2(0.25, 0.33, **forms, size=(HEIGHT, WIDTH))
    for module in network.modules():
        if isinstance(module, AdaCoeff):
            nn.init.normal_(module.gamma, mean=0.5, std=0.1)
        if isinstance(module, CoefficientMap):  # one value: no pattern of the map's own
            nn.init.constant_(module.map, float(0.5 + 0.1 * torch.randn(())))
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(torch.cat([smooth_image(HEIGHT, WIDTH, seed) for seed in (100, 101)]))
    return network


@pytest.mark.parametrize("seed", range(3))
def test_v2_has_less_grid_than_hqdec(seed: int) -> None:
    v2 = grid_metrics(random_network(seed), HEIGHT, WIDTH)
    off = {"adacoeff": False, "upsampler_v2": False, "global_map": False}
    hqdec = grid_metrics(random_network(seed, **off), HEIGHT, WIDTH)
    assert 2 * v2.harmonics_x < hqdec.harmonics_x
    assert 5 * v2.harmonics_y < hqdec.harmonics_y
    assert 10 * v2.top_band < hqdec.top_band
    # Each by its own cause.
    patches = grid_metrics(random_network(seed, global_map=False), HEIGHT, WIDTH)
    assert 2 * v2.harmonics_x < patches.harmonics_x
    phases = grid_metrics(random_network(seed, upsampler_v2=False), HEIGHT, WIDTH)
    assert 10 * v2.top_band < phases.top_band
    assert patches.top_band < phases.top_band
