"""APX: zero for the teacher at any scale, closed forms, and the table of docs/method.md."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fadepth.config import ApxSettings
from fadepth.geometry import pose_matrix
from fadepth.losses.apx import (
    alignment,
    apx_loss,
    curvature_term,
    flip_reliability,
    photometric_trust,
    slope_term,
    value_term,
)
from fadepth.losses.photometric import Views, warped_error


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def disparity_of(log_inverse_depth: Tensor) -> Tensor:
    """The disparity whose inverse depth, 0.01 + 9.99 d (monodepth2), has this logarithm."""
    disparity = (log_inverse_depth.exp() - 0.01) / 9.99
    assert disparity.min() > 0
    assert disparity.max() < 1
    return disparity


def settings(**changes: Any) -> ApxSettings:
    return ApxSettings.model_validate({"enabled": True, **changes})


def parts_of(error: Tensor, **changes: Any) -> dict[str, float]:
    """Log of the loss for a student that is off by `error` in log inverse depth."""
    teacher = -1 + 0.5 * normal(*error.shape, seed=7)
    options = settings(curvature_weight=1, **changes)
    ones = torch.ones_like(error)
    loss, parts = apx_loss([disparity_of(teacher + error)], disparity_of(teacher), ones, options)
    assert loss.item() == pytest.approx(sum(part.item() for part in parts.values()))
    return {name: part.item() for name, part in parts.items()}


# The whole loss


def test_the_teacher_itself_costs_nothing_at_any_scale() -> None:
    v = -1 + 0.3 * normal(2, 1, 12, 20)
    teacher, ones = disparity_of(v), torch.ones(2, 1, 12, 20).double()
    per_image = torch.tensor([2.0, 0.3]).double().log().view(2, 1, 1, 1)
    for shift in (0.0, math.log(3), per_image):
        options = settings(curvature_weight=1)
        loss, _ = apx_loss([disparity_of(v + shift)], teacher, ones, options)
        assert loss.abs() < 1e-10


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("masked", [False, True])
def test_the_students_scale_does_not_count(factor: float, masked: bool) -> None:
    """APX(c q_S) = APX(q_S) for a student that is wrong, with every term and all three scales."""
    teacher = disparity_of(-1 + 0.3 * normal(2, 1, 16, 24))
    reliability = uniform(2, 1, 16, 24) if masked else torch.ones(2, 1, 16, 24).double()
    wrong = [-1 + 0.3 * normal(2, 1, 16 // 2**s, 24 // 2**s, seed=s) for s in range(3)]
    options = settings(curvature_weight=1)
    found = [
        apx_loss([disparity_of(u + shift) for u in wrong], teacher, reliability, options)[0].item()
        for shift in (0.0, math.log(factor))
    ]
    assert found[0] > 0.1
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_unaligned_the_scale_costs_its_value_but_no_slope() -> None:
    e = torch.full((1, 1, 12, 20), math.log(2)).double()
    found = parts_of(e, align="none")
    expected = math.hypot(math.log(2), 0.01) - 0.01
    assert found["value"] == pytest.approx(expected, rel=1e-6)
    assert found["slope"] < 1e-12
    assert found["curvature"] < 1e-12


def test_slope_and_curvature_are_scale_free_without_alignment() -> None:
    e = 0.2 * normal(1, 1, 16, 24)
    plain = parts_of(e, align="none")
    scaled = parts_of(e + math.log(1.7), align="none")
    assert scaled["slope"] == pytest.approx(plain["slope"], rel=1e-9)
    assert scaled["curvature"] == pytest.approx(plain["curvature"], rel=1e-9)
    assert scaled["value"] > 1.5 * plain["value"]


def test_weights_of_the_parts() -> None:
    v, e = -1 + 0.3 * normal(1, 1, 16, 24), 0.2 * normal(1, 1, 16, 24, seed=1)
    arguments = [disparity_of(v + e)], disparity_of(v), torch.ones_like(v)
    weights = {"value_weight": 0.5, "slope_weight": 2, "curvature_weight": 3}
    loss, parts = apx_loss(*arguments, settings(**weights))
    expected = 0.5 * parts["value"] + 2 * parts["slope"] + 3 * parts["curvature"]
    torch.testing.assert_close(loss, expected)
    loss, parts = apx_loss(*arguments, settings())
    torch.testing.assert_close(loss, parts["value"] + parts["slope"])
    assert parts["curvature"] == 0


def test_scales_weigh_four_two_one() -> None:
    """Unaligned constants of 0.1, 0.2 and 0.4 on the three scales."""
    teacher = torch.full((1, 1, 16, 24), -1.0).double()
    student = [
        disparity_of(torch.full((1, 1, 16 // 2**s, 24 // 2**s), -1.0 + 0.1 * 2**s).double())
        for s in range(3)
    ]
    options = settings(align="none")
    _, parts = apx_loss(student, disparity_of(teacher), torch.ones_like(teacher), options)
    rho = [math.hypot(e, 0.01) - 0.01 for e in (0.1, 0.2, 0.4)]
    expected = (4 * rho[0] + 2 * rho[1] + rho[2]) / 7
    assert parts["value"].item() == pytest.approx(expected, rel=1e-6)
    assert parts["slope"] < 1e-9


def test_gradient_reaches_every_scale_of_the_student_and_not_the_teacher() -> None:
    teacher = disparity_of(-1 + 0.3 * normal(1, 1, 16, 24)).requires_grad_()
    reliability = uniform(1, 1, 16, 24).requires_grad_()
    student = [(0.02 + 0.1 * uniform(1, 1, 16 // 2**s, 24 // 2**s)).requires_grad_()
               for s in range(3)]  # fmt: skip
    loss, parts = apx_loss(student, teacher, reliability, settings(curvature_weight=1))
    loss.backward()
    assert teacher.grad is None
    assert reliability.grad is None
    assert all(d.grad is not None and d.grad.abs().min() > 0 for d in student[:1])
    assert all(d.grad is not None and d.grad.abs().max() > 0 for d in student)
    assert not any(part.requires_grad for part in parts.values())


def test_loss_has_the_right_gradient() -> None:
    """Of the student, with the alignment taken as given."""
    teacher, ones = disparity_of(-1 + 0.3 * normal(1, 1, 6, 7)), torch.ones(1, 1, 6, 7).double()
    student = disparity_of(-1 + 0.3 * normal(1, 1, 6, 7, seed=1)).requires_grad_()
    options = settings(curvature_weight=0.5, align="none")
    assert torch.autograd.gradcheck(
        lambda d: apx_loss([d], teacher, ones, options)[0], (student,), eps=1e-8, atol=1e-4
    )


# The parts


def test_slope_of_a_linear_ramp() -> None:
    """|e(p + h k) - e(p)| = h g along x and zero along y: mean over h = 1, 2, 4, 8 is 15/4 g."""
    ramp = 0.01 * torch.arange(20.0).double().view(1, 1, 1, 20).expand(1, 1, 16, 20)
    ones = torch.ones_like(ramp)
    assert slope_term(ramp, ones).item() == pytest.approx(0.01 * 15 / 4 / 2)
    assert slope_term(ramp.transpose(2, 3), ones.transpose(2, 3)).item() == pytest.approx(
        0.01 * 15 / 4 / 2
    )
    both = ramp + 0.03 * torch.arange(16.0).double().view(1, 1, 16, 1)
    assert slope_term(both, ones).item() == pytest.approx((0.01 + 0.03) * 15 / 4 / 2)
    assert curvature_term(both, ones).item() == pytest.approx(0, abs=1e-12)


def test_steps_longer_than_the_picture_are_left_out() -> None:
    ramp = 0.01 * torch.arange(20.0).double().view(1, 1, 1, 20).expand(1, 1, 4, 20)
    # Along x steps 1, 2, 4, 8; along y steps 1, 2 only.
    assert slope_term(ramp, torch.ones_like(ramp)).item() == pytest.approx(0.15 / 6)


def test_curvature_of_a_parabola() -> None:
    x = torch.arange(9.0).double()
    parabola = (0.5 * x**2).view(1, 1, 1, 9) + (1.5 * x**2).view(1, 1, 9, 1)
    found = curvature_term(parabola, torch.ones_like(parabola))
    assert found.item() == pytest.approx(1 + 3)


def test_value_is_robust() -> None:
    e = torch.tensor([0.0, 0.3, -0.3, 4.0]).double().view(1, 1, 2, 2)
    expected = (2 * (math.hypot(0.3, 0.01) - 0.01) + math.hypot(4, 0.01) - 0.01) / 4
    assert value_term(e, torch.ones_like(e)).item() == pytest.approx(expected)


def test_masks_weigh_all_parts() -> None:
    e = 0.2 * normal(1, 1, 16, 24)
    bad = e.clone()
    bad[..., 12:] = 50
    mask = torch.ones_like(e)
    mask[..., 12:] = 0
    for term in (value_term, slope_term, curvature_term):
        inside = term(e[..., :12], torch.ones_like(e[..., :12]))
        if term is curvature_term:  # the Laplacian looks one pixel beyond the mask
            bad[..., 12] = e[..., 12]
            inside = term(e[..., :13], torch.ones_like(e[..., :13]))
        torch.testing.assert_close(term(bad, mask), inside)
        torch.testing.assert_close(term(e, 0.3 * torch.ones_like(e)), term(e, torch.ones_like(e)))
    half = torch.tensor([[1.0, 0.5]]).double().view(1, 1, 1, 2)
    values = torch.tensor([[0.2, 0.4]]).double().view(1, 1, 1, 2)
    rho = [math.hypot(x, 0.01) - 0.01 for x in (0.2, 0.4)]
    assert value_term(values, half).item() == pytest.approx((rho[0] + 0.5 * rho[1]) / 1.5)


def test_alignment_is_the_median_over_reliable_pixels() -> None:
    u = torch.tensor([[5.0, 1.0, 2.0, 9.0, 7.0], [1.0, 1.0, 1.0, 2.0, 2.0]]).view(2, 1, 1, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0.1, 0.1, 0.1, 1, 1]]).view(2, 1, 1, 5)
    found = alignment(u, torch.zeros_like(u), mask)
    assert found.shape == (2, 1, 1, 1)
    assert found.flatten().tolist() == [2.0, 1.0]
    nothing = alignment(u, torch.zeros_like(u), torch.zeros_like(u))
    assert nothing.flatten().tolist() == [0, 0]
    assert not alignment(u.clone().requires_grad_(), u, mask).requires_grad


# Which pixels of the teacher count


def test_flip_reliability() -> None:
    q = torch.tensor([0.1, 1.0, 2.0, 4.0]).double().view(1, 1, 2, 2)
    ratio = torch.tensor([1.0, 1.1, 0.5, 1.5]).double().view(1, 1, 2, 2)
    d, flipped = ((x - 0.01) / 9.99 for x in (q, q * ratio))
    # exp(-10 |log r|) = min(r, 1 / r)^10
    expected = torch.minimum(ratio, 1 / ratio) ** 10
    torch.testing.assert_close(flip_reliability(d, flipped), expected)
    torch.testing.assert_close(flip_reliability(flipped, d), expected)


def test_unreliable_pixels_do_not_count() -> None:
    v = -1 + 0.3 * normal(1, 1, 16, 24)
    e = torch.zeros_like(v)
    e[..., 12:] = 0.8
    reliability = torch.ones_like(v)
    reliability[..., 12:] = 0
    arguments = [disparity_of(v + e)], disparity_of(v), reliability
    assert apx_loss(*arguments, settings())[0] < 1e-9
    assert apx_loss(*arguments, settings(mask=False))[0] > 0.1


def views(depth: float) -> Views:
    """A frontal plane at `depth` metres, seen after a sideways step of 2 pixels."""
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 3, 20, 30, generator=generator, dtype=torch.float64)
    k = torch.tensor([[[20.0, 0, 15], [0, 20.0, 10], [0, 0, 1]]]).double()
    shift = torch.tensor([[2 * depth / 20, 0, 0]]).double()
    pose = pose_matrix(torch.zeros(1, 3).double(), shift)
    return Views(torch.roll(source, -2, -1), [source], k, [pose])


def test_trust_is_one_where_the_teacher_explains_the_frame_and_a_fifth_elsewhere() -> None:
    scene = views(4.0)
    shape = (1, 1, 20, 30)
    right = torch.full(shape, -math.log(4.0)).double()  # log inverse depth
    zero = torch.zeros(1, 1, 1, 1).double()
    perfect = torch.zeros(shape).double()  # the student's error

    trust = photometric_trust(disparity_of(right), zero, perfect, scene, 0.85)
    assert (trust[..., :-3] == 1).all()
    wrong = disparity_of(right + math.log(2))
    trust = photometric_trust(wrong, zero, perfect, scene, 0.85)
    assert (trust[..., :-5] == 0.2).double().mean() > 0.9
    # The same teacher at half the student's scale: the offset brings it there.
    trust = photometric_trust(wrong, zero - math.log(2), perfect, scene, 0.85)
    assert (trust[..., :-3] == 1).all()
    # Where the student is as bad, the teacher is trusted all the same.
    error, _ = warped_error(scene, torch.full(shape, 2.0).double(), 0.85)
    assert (photometric_trust(wrong, zero, error, scene, 0.85) == 1).all()
    assert (photometric_trust(wrong, zero, error - 0.049, scene, 0.85) == 1).all()
    assert (photometric_trust(wrong, zero, error - 0.051, scene, 0.85) == 0.2).all()


def test_trust_enters_the_loss() -> None:
    scene, shape = views(4.0), (1, 1, 20, 30)
    v = torch.full(shape, -math.log(4.0)).double()
    v[..., 20:] += math.log(2)  # the teacher is wrong on the right third
    student = disparity_of(torch.full(shape, -math.log(4.0)).double())
    ones, none = torch.ones(shape).double(), torch.zeros(shape).double()
    arguments = [student], disparity_of(v), ones
    options = settings(align="none", slope_weight=0)
    plain, _ = apx_loss(*arguments, options)
    trusting, _ = apx_loss(*arguments, options, views=scene, student_error=none)
    rho = math.hypot(math.log(2), 0.01) - 0.01
    assert plain.item() == pytest.approx(rho / 3)
    offset = torch.zeros(1, 1, 1, 1).double()
    mask = photometric_trust(disparity_of(v), offset, none, scene, 0.85)
    assert trusting.item() == pytest.approx(rho * (mask[..., 20:].sum() / mask.sum()).item())
    assert trusting < 0.6 * plain
    ignoring, _ = apx_loss(
        *arguments,
        options.model_copy(update={"mask": False}),
        views=scene,
        student_error=none,
    )
    torch.testing.assert_close(ignoring, plain)


def test_without_alignment_the_teacher_is_trusted_at_its_own_scale() -> None:
    """Teacher right, student at half its scale: with `align: none` nothing may move the teacher.

    The median offset would bring the teacher to the student's wrong scale, where it explains the
    frame badly and would count a fifth.
    """
    scene, shape = views(4.0), (1, 1, 20, 30)
    right = torch.full(shape, -math.log(4.0)).double()
    right[..., 25:] += 0.3  # so that trusted and distrusted pixels differ in their residual
    student = disparity_of(torch.full(shape, -math.log(4.0) + math.log(2)).double())
    ones, none = torch.ones(shape).double(), torch.zeros(shape).double()
    parts = {}
    for align in ("none", "median"):
        options = settings(align=align, slope_weight=0)
        arguments = [student], disparity_of(right), ones, options
        parts[align] = apx_loss(*arguments, views=scene, student_error=none)[1]["value"].item()

    def expected(offset: float) -> float:
        """By hand: weights of the teacher moved by `offset`, residuals as `align` says."""
        log_q = right + offset
        error, _ = warped_error(scene, torch.exp(-log_q), 0.85)
        weight = torch.where(error <= 0.05, 1.0, 0.2)
        residual = math.log(2) + right[0, 0, 0, 0] - right - offset
        rho = (residual**2 + 1e-4).sqrt() - 0.01
        return ((rho * weight).sum() / weight.sum()).item()

    assert parts["none"] == pytest.approx(expected(0.0), rel=1e-6)
    assert parts["median"] == pytest.approx(expected(math.log(2)), rel=1e-6)
    # The two sets of weights differ where the loss can see it.
    assert (
        weights_of(scene, right).mean() > 0.8 > 0.3 > weights_of(scene, right + math.log(2)).mean()
    )


def weights_of(scene: Views, log_q: Tensor) -> Tensor:
    error, _ = warped_error(scene, torch.exp(-log_q), 0.85)
    return torch.where(error <= 0.05, 1.0, 0.2)


# The table of docs/method.md: what each part sees of the same rms error


def patterns() -> dict[str, Tensor]:
    height, width = 192, 640
    half = torch.ones(1, 1, height, width).double()
    half[..., width // 2 :] = -1
    blocks = normal(1, 1, height // 16, -(-width // 52))
    blocks = blocks.repeat_interleave(16, 2).repeat_interleave(52, 3)[..., :width]
    row, column = torch.arange(height).view(-1, 1), torch.arange(width).view(1, -1)
    checkerboard = (1.0 - 2 * ((row + column) % 2)).double().view(1, 1, height, width)
    found = {
        "half": half,
        "blocks": blocks,
        "checkerboard": checkerboard,
        "white": normal(1, 1, height, width, seed=3),
    }
    return {name: 0.05 * e / e.square().mean().sqrt() for name, e in found.items()}


TABLE = {
    "half": (0.045, 0.0003, 0.0003),
    "blocks": (0.032, 0.008, 0.008),
    "checkerboard": (0.045, 0.025, 0.400),
    "white": (0.032, 0.056, 0.178),
}


def closed_forms() -> dict[str, tuple[float, float, float]]:
    """Expected APX0, APX1, APX2 of the patterns on 192 x 640 pixels, from their definitions."""
    sigma, steps, size = 0.05, (1, 2, 4, 8), (192, 640)
    # Two values in equal numbers: the median is one of them, the residuals are 0 and 0.1.
    halves = 0.5 * (math.hypot(2 * sigma, 0.01) - 0.01)
    # Gaussian: E rho by quadrature, E |a - b| of two draws, E |laplace| of weights 1 1 1 1 -4.
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    gauss = torch.trapezoid(density * (((sigma * x) ** 2 + 1e-4).sqrt() - 0.01), x).item()
    pair = 2 * sigma / math.sqrt(math.pi)
    # Blocks: the share of pairs that a border separates.
    crossings = [
        sum(math.floor((length - 1) / block) * h / (length - h) for h in steps) / len(steps)
        for length, block in zip(size, (16, 52), strict=True)
    ]
    # Laplacian at a border: one neighbour of another block, or two at a corner.
    one, two = pair, sigma * math.sqrt(6) * math.sqrt(2 / math.pi)
    rows, columns = 2 * 11 / 190, 2 * 12 / 638
    laplace = one * (rows * (1 - columns) + columns * (1 - rows)) + two * rows * columns
    return {
        "half": (
            halves,
            sum(2 * sigma * h / (size[1] - h) for h in steps) / (2 * len(steps)),
            2 * sigma * 2 / (size[1] - 2),
        ),
        "blocks": (gauss, pair * sum(crossings) / 2, laplace),
        "checkerboard": (halves, 2 * sigma * 2 / (2 * len(steps)), 8 * sigma),
        "white": (gauss, pair, sigma * math.sqrt(20) * math.sqrt(2 / math.pi)),
    }


@pytest.mark.parametrize("name", TABLE)
def test_values_see_low_and_slopes_high_frequencies(name: str) -> None:
    parts = parts_of(patterns()[name])
    found = parts["value"], parts["slope"], parts["curvature"]
    # Exact for the fixed patterns; the noise is one draw (blocks: 12 x 13 numbers only).
    sampled = {"blocks": 0.08, "white": 0.01}.get(name, 1e-6)
    assert found == pytest.approx(closed_forms()[name], rel=sampled)
    # The design's table has two or three digits.
    assert found == pytest.approx(TABLE[name], rel=0.1)


def test_slopes_put_the_patterns_in_order_of_their_frequency() -> None:
    """Half image, then blocks, then pixels; the teacher's own grid is cheap in slopes."""
    slopes = {name: parts_of(e)["slope"] for name, e in patterns().items()}
    assert sorted(slopes, key=lambda name: slopes[name]) == list(patterns())
