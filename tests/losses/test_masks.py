"""Masks and the robust penalty: closed forms."""

import pytest
import torch

from fadepth.losses.masks import automask, charbonnier, masked_mean


def test_charbonnier() -> None:
    error = torch.tensor([0.0, 0.01, -0.01, 3.0, -3.0, 1e-5], dtype=torch.float64)
    expected = [0, 0.01 * (2**0.5 - 1), 0.01 * (2**0.5 - 1), 9.0001**0.5 - 0.01, 0, 0]
    found = charbonnier(error)
    assert found[:4].tolist() == pytest.approx(expected[:4], abs=1e-15)
    assert found[4] == found[3]
    # Quadratic near zero, e^2 / (2 eps); slope 1 far away.
    assert found[5].item() == pytest.approx(1e-10 / 0.02, rel=1e-3)
    assert charbonnier(error, epsilon=1.0)[3].item() == pytest.approx(10**0.5 - 1)


def test_charbonnier_has_a_gradient_at_zero() -> None:
    error = torch.tensor([0.0, 0.01, 5.0], dtype=torch.float64, requires_grad=True)
    charbonnier(error).sum().backward()
    assert error.grad is not None
    assert error.grad.tolist() == pytest.approx([0, 0.5**0.5, 5 / 25.0001**0.5], abs=1e-12)


def test_masked_mean_weighs() -> None:
    values = torch.arange(6.0).view(1, 1, 2, 3)
    mask = torch.tensor([[1, 0, 0], [0.5, 0, 0.5]]).view(1, 1, 2, 3)
    assert masked_mean(values, mask).item() == pytest.approx((0 + 1.5 + 2.5) / 2)
    assert masked_mean(values, mask > 0).item() == pytest.approx((0 + 3 + 5) / 3)
    assert masked_mean(values, 7 * mask).item() == pytest.approx(2)


def test_masked_mean_broadcasts_the_mask_over_channels() -> None:
    values = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])[None]
    mask = torch.tensor([[1, 0, 0], [0, 0, 0]]).view(1, 1, 2, 3)
    assert masked_mean(values, mask).item() == pytest.approx(0.5)


def test_masked_mean_of_nothing_is_zero_with_a_zero_gradient() -> None:
    values = torch.ones(1, 1, 2, 3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(1, 1, 2, 3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None
    assert values.grad.abs().max() == 0


def test_masked_mean_gives_no_gradient_outside_the_mask() -> None:
    values = torch.ones(1, 1, 2, 3, requires_grad=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.bool).view(1, 1, 2, 3)
    masked_mean(values, mask).backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == [0.5, 0, 0.5, 0, 0, 0]


def test_automask_keeps_what_the_warp_explains_better() -> None:
    warped = torch.tensor([0.1, 0.2, 0.3]).view(1, 1, 1, 3)
    still = torch.tensor([0.2, 0.2, 0.1]).view(1, 1, 1, 3)
    found = automask(warped, still)
    assert found.dtype == torch.bool
    assert found.flatten().tolist() == [True, False, False]
