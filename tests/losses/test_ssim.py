"""SSIM with a hand-written gradient, against plain pooling and automatic differentiation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fadepth.losses.ssim import Moments, _box_adjoint, box_mean, image_error, local_moments


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def plain_mean(image: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, 1)


def ssim_distance(a: Tensor, b: Tensor, b_moments: Moments | None = None) -> Tensor:
    """SSIM alone: `image_error` without its absolute difference."""
    return image_error(a, b, 1.0, b_moments)


def box_mean_adjoint(gradient: Tensor) -> Tensor:
    return _box_adjoint(gradient, torch.empty_like(gradient), torch.empty_like(gradient))


def plain_distance(a: Tensor, b: Tensor) -> Tensor:
    """The formula as monodepth2 and Wang et al. 2004 state it."""
    mean_a, mean_b = plain_mean(a), plain_mean(b)
    variance_a = plain_mean(a**2) - mean_a**2
    variance_b = plain_mean(b**2) - mean_b**2
    covariance = plain_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    upper = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    lower = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return ((1 - upper / lower) / 2).clamp(0, 1)


@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 1, 3, 3), (1, 2, 2, 5), (1, 3, 4, 4)])
def test_box_mean_and_its_adjoint(shape: tuple[int, ...]) -> None:
    x, y = images(*shape), images(*shape, seed=1) - 0.5
    torch.testing.assert_close(box_mean(x), plain_mean(x), rtol=0, atol=1e-14)
    # <A x, y> = <x, A' y> defines the adjoint.
    left, right = (box_mean(x) * y).sum(), (x * box_mean_adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    x.requires_grad_()
    plain_mean(x).backward(y)
    torch.testing.assert_close(box_mean_adjoint(y), x.grad, rtol=0, atol=1e-14)


def test_box_mean_leaves_its_input_alone() -> None:
    x = images(1, 2, 5, 6)
    kept = x.clone()
    box_mean(x)
    box_mean_adjoint(x)
    local_moments(x)
    assert torch.equal(x, kept)


def pairs() -> list[tuple[str, Tensor, Tensor]]:
    a, b = images(2, 3, 9, 11), images(2, 3, 9, 11, seed=1)
    flat = torch.full_like(a, 0.4)
    return [
        ("unlike", a, b),
        ("alike", b + 0.02 * (a - 0.5), b),
        ("inverse", 1 - b, b),
        ("flat", flat, b),
        ("dark", a * 1e-3, b),
        ("both flat", flat, flat + 0.1),
    ]


@pytest.mark.parametrize(("a", "b"), [pytest.param(a, b, id=name) for name, a, b in pairs()])
def test_values_and_gradients_are_those_of_the_plain_formula(a: Tensor, b: Tensor) -> None:
    weights = images(*a.shape, seed=2) - 0.3
    ours, plain = a.clone().requires_grad_(), a.clone().requires_grad_()
    found, expected = ssim_distance(ours, b), plain_distance(plain, b)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    found.backward(weights)
    expected.backward(weights)
    assert plain.grad is not None
    # The gradient is large where windows are flat: 1 / C2 is about 1100.
    scale = max(1.0, plain.grad.abs().max().item())
    torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-10 * scale)


def test_gradcheck() -> None:
    a, b = images(1, 2, 5, 6).requires_grad_(), images(1, 2, 5, 6, seed=1)
    assert torch.autograd.gradcheck(lambda x: ssim_distance(x, b), (a,), atol=1e-6)


def test_gradient_survives_a_reduction_and_a_mask() -> None:
    """The incoming gradient is then an expanded tensor, without memory of its own."""
    b = images(2, 3, 6, 8, seed=1)
    ours, plain = (images(2, 3, 6, 8).requires_grad_() for _ in range(2))
    ssim_distance(ours, b).mean(1, keepdim=True).sum().backward()
    plain_distance(plain, b).mean(1, keepdim=True).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-10)


def test_parts_are_each_compared_with_the_same_target() -> None:
    a, b = images(6, 3, 7, 8), images(2, 3, 7, 8, seed=1)
    ours, plain = a.clone().requires_grad_(), a.clone().requires_grad_()
    found = ssim_distance(ours, b, local_moments(b))
    expected = plain_distance(plain, b.repeat(3, 1, 1, 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    weights = images(6, 3, 7, 8, seed=3)
    found.backward(weights)
    expected.backward(weights)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-10)


def test_any_memory_layout() -> None:
    a, b = images(2, 3, 6, 8), images(2, 3, 6, 8, seed=1)
    expected = plain_distance(a, b)
    last_a, last_b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
    turned_a, turned_b = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (a, b))
    for x, y in ((last_a, last_b), (turned_a, turned_b), (a, last_b), (last_a, turned_b)):
        torch.testing.assert_close(ssim_distance(x, y), expected, rtol=0, atol=1e-10)


def test_range_and_inputs() -> None:
    a, b = images(2, 3, 9, 11), images(2, 3, 9, 11, seed=1)
    kept = a.clone(), b.clone()
    assert ssim_distance(a, a).max() < 1e-15
    inverse = ssim_distance(1 - b, b)
    assert inverse.min() >= 0
    assert 0.5 < inverse.max() <= 1
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])
    # Two flat windows differ by their means alone: (2 xy + C1) / (x^2 + y^2 + C1).
    x, y = torch.full((1, 1, 4, 4), 0.2), torch.full((1, 1, 4, 4), 0.6)
    expected = (1 - (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4)) / 2
    assert ssim_distance(x, y).mean().item() == pytest.approx(expected, abs=1e-4)


def test_float32_is_good_enough() -> None:
    a, b = images(1, 3, 32, 40), images(1, 3, 32, 40, seed=1)
    torch.testing.assert_close(
        ssim_distance(a.float(), b.float()).double(), plain_distance(a, b), rtol=0, atol=2e-5
    )
