"""Colour operations against Pillow, colorsys and closed forms."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from fadepth.config import JitterSettings
from fadepth.data import augment
from fadepth.data.augment import Jitter, apply_jitter, draw_jitter, jitter_batch

FULL = JitterSettings(probability=1.0)


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth colours with all hues and some noise, (40, 50, 3) uint8."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:40, 0:50]
    base = np.stack([x * 5, y * 6, 255 - x * 2 - y * 3], -1)
    return np.clip(base + rng.integers(-20, 20, base.shape), 0, 255).astype(np.uint8)


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].double() / 255


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (augment.adjust_brightness, ImageEnhance.Brightness),
        (augment.adjust_contrast, ImageEnhance.Contrast),
        (augment.adjust_saturation, ImageEnhance.Color),
    ],
)
def test_operations_agree_with_pillow(picture, ours, theirs, factor) -> None:
    expected = np.asarray(theirs(Image.fromarray(picture)).enhance(factor), dtype=float)
    result = ours(to_tensor(picture), factor)[0].permute(1, 2, 0).numpy() * 255
    # Pillow rounds grey values and results to integers.
    assert np.abs(result - expected).max() < 1.6


def test_brightness_is_a_factor_that_saturates() -> None:
    image = torch.tensor([0.0, 0.25, 0.9]).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    result = augment.adjust_brightness(image, 1.2)[0, 0, 0]
    torch.testing.assert_close(result, torch.tensor([0.0, 0.3, 1.0]))


def test_contrast_pivots_on_each_images_own_mean() -> None:
    images = torch.stack([torch.full((3, 2, 2), 0.2), torch.full((3, 2, 2), 0.7)])
    torch.testing.assert_close(augment.adjust_contrast(images, 0.5), images)


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.03, 0.1, 1 / 3])
def test_hue_agrees_with_colorsys(picture, turns) -> None:
    special = [(0, 0, 0), (255, 255, 255), (90, 90, 90), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    special += [(255, 255, 0), (0, 200, 200), (10, 10, 11)]
    pixels = np.array([*special, *picture.reshape(-1, 3)[::37]], dtype=np.uint8)
    result = augment.shift_hue(to_tensor(pixels[None]), turns)[0, :, 0].T.numpy()
    for pixel, shifted in zip(pixels / 255, result, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(
            shifted, colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), atol=1e-9
        )


def test_a_third_of_a_turn_permutes_channels(picture) -> None:
    image = to_tensor(picture)
    torch.testing.assert_close(augment.shift_hue(image, 1 / 3), image.roll(1, dims=1))


def test_order_of_operations_is_followed(picture) -> None:
    image = to_tensor(picture)
    jitter = Jitter(brightness=1.2, contrast=0.8, saturation=1.1, hue=0.05, order=(3, 1, 0, 2))
    expected = augment.shift_hue(image, 0.05)
    expected = augment.adjust_contrast(expected, 0.8)
    expected = augment.adjust_brightness(expected, 1.2)
    expected = augment.adjust_saturation(expected, 1.1)
    assert torch.equal(apply_jitter(image, jitter), expected)
    assert not torch.equal(
        apply_jitter(image, Jitter(1.2, 0.8, 1.1, 0.05, order=(0, 1, 2, 3))), expected
    )


def test_draws_fill_their_ranges() -> None:
    rng = np.random.default_rng(0)
    draws = [draw_jitter(FULL, rng) for _ in range(2000)]
    for name, low, high in [
        ("brightness", 0.8, 1.2),
        ("contrast", 0.8, 1.2),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ]:
        values = np.array([getattr(draw, name) for draw in draws])
        margin = 0.01 * (high - low)
        assert low <= values.min() < low + margin
        assert high - margin < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
    assert len({draw.order for draw in draws if draw}) == 24


def test_probability() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_jitter(JitterSettings(probability=0.25), rng) is None for _ in range(2000)]
    assert 0.7 < np.mean(drawn) < 0.8
    assert draw_jitter(JitterSettings(probability=0), rng) is None


def test_batch_draws_are_separate_reproducible_and_in_range(picture) -> None:
    images = to_tensor(picture).float().repeat(4, 1, 1, 1)
    first = jitter_batch(images, FULL, torch.Generator().manual_seed(7))
    again = jitter_batch(images, FULL, torch.Generator().manual_seed(7))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert first.min() >= 0
    assert first.max() <= 1
    for i in range(4):
        for j in range(i):
            assert (first[i] - first[j]).abs().mean() > 1e-3
    # always applied, whatever the probability of the training augmentation
    never = jitter_batch(images, JitterSettings(probability=0.0), torch.Generator().manual_seed(7))
    assert torch.equal(never, first)


def test_batch_gamma_covers_its_range() -> None:
    # With every colour operation off only gamma is left: x -> x^g with g in [0.8, 1.2].
    off = JitterSettings(brightness=0, contrast=0, saturation=0, hue=0)
    grey = torch.full((500, 3, 2, 2), 0.5, dtype=torch.float64)
    result = jitter_batch(grey, off, torch.Generator().manual_seed(0))
    gamma = torch.log(result[:, 0, 0, 0]) / np.log(0.5)
    assert 0.8 - 1e-6 <= gamma.min() < 0.81
    assert 1.19 < gamma.max() <= 1.2 + 1e-6
