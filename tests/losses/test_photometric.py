"""The self-supervised base loss: closed forms, static scenes, and what gradients reach."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fadepth.config import LossSettings
from fadepth.geometry import disparity_to_depth, pose_matrix
from fadepth.losses.photometric import (
    BaseLoss,
    Views,
    base_loss,
    identity_error,
    photometric_error,
    smoothness,
    upsample,
    warped_error,
)

HEIGHT, WIDTH = 32, 48
K = torch.tensor([[[36.0, 0, 22.7], [0, 34.0, 16.2], [0, 0, 1]]], dtype=torch.float64)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(motions: tuple[tuple[float, float, float], ...], sources: list[Tensor]) -> Views:
    poses = [
        pose_matrix(torch.zeros(1, 3).double(), torch.tensor([motion]).double())
        for motion in motions
    ]
    return Views(images(1, 3, HEIGHT, WIDTH), sources, K, poses)


def disparity(seed: int = 5, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Tensor:
    return (0.01 + 0.03 * images(1, 1, *size, seed=seed)).requires_grad_()


def settings(**changes: object) -> LossSettings:
    return LossSettings.model_validate(changes)


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Photometric error


def test_an_image_equals_itself() -> None:
    image = images(2, 3, 9, 11)
    assert photometric_error(image, image).max() < 1e-15


def test_without_ssim_it_is_the_mean_absolute_difference() -> None:
    a, b = images(2, 3, 9, 11), images(2, 3, 9, 11, seed=1)
    expected = (a - b).abs().mean(1, keepdim=True)
    torch.testing.assert_close(photometric_error(a, b, 0), expected)
    assert photometric_error(a, b).shape == (2, 1, 9, 11)


def test_weights_of_the_two_terms() -> None:
    # Flat windows have no structure but their means: SSIM = (2 xy + C1) / (x^2 + y^2 + C1).
    x, y = 0.5, 0.3
    a, b = (torch.full((1, 3, 6, 6), value, dtype=torch.float64) for value in (x, y))
    distance = (1 - (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)) / 2
    for weight in (0.85, 0.5, 1.0):
        expected = weight * distance + (1 - weight) * (x - y)
        found = photometric_error(a, b, weight)
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-12)


def test_several_images_are_compared_with_one_target() -> None:
    a, b = images(4, 3, 8, 9), images(2, 3, 8, 9, seed=1)
    for weight in (0, 0.85):
        expected = photometric_error(a, b.repeat(2, 1, 1, 1), weight)
        torch.testing.assert_close(photometric_error(a, b, weight), expected)


# Views at other sizes


def test_resized_camera_sees_a_point_at_the_same_relative_place() -> None:
    views = scene(((0, 0, 0),), [images(1, 3, HEIGHT, WIDTH, seed=1)])
    small = views.resized(HEIGHT // 2, WIDTH // 4)
    point = torch.tensor([0.3, -0.2, 4.0]).double()
    places = []
    for view in (views, small):
        u, v, z = view.intrinsics[0] @ point
        height, width = view.target.shape[-2:]
        # Pixel centres are integers, so the image covers [-0.5, W - 0.5].
        places.append(((u / z + 0.5) / width, (v / z + 0.5) / height))
    assert torch.tensor(places[0]).tolist() == pytest.approx(torch.tensor(places[1]).tolist())
    # Two pixels 0 and 1 become one whose centre lies between them.
    assert small.intrinsics[0, 1, 2].item() == pytest.approx((16.2 - 0.5) / 2)
    assert torch.equal(views.intrinsics, K)
    torch.testing.assert_close(small.target, F.avg_pool2d(views.target, (2, 4)))
    torch.testing.assert_close(small.sources[0], F.avg_pool2d(views.sources[0], (2, 4)))
    assert views.resized(HEIGHT, WIDTH) is views


def test_resizing_commutes_with_warping() -> None:
    """A warp of the small images is the small image of the warp, for pictures without detail."""
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    smooth = torch.stack([torch.sin(u / 14), torch.cos(v / 11), torch.sin((u + v) / 17)])[None]
    smooth = 0.5 + 0.4 * smooth.double()
    target = (
        0.5
        + 0.4
        * torch.stack(
            # The source moved by 36 * 0.5 / 6 = 3 pixels.
            [torch.sin((u + 3) / 14), torch.cos(v / 11), torch.sin((u + 3 + v) / 17)]
        )[None].double()
    )
    pose = pose_matrix(torch.zeros(1, 3).double(), torch.tensor([[0.5, 0, 0]]).double())
    views = Views(target, [smooth], K, [pose])
    for size in ((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2), (HEIGHT // 4, WIDTH // 4)):
        depth = torch.full((1, 1, *size), 6.0).double()
        error, _ = warped_error(views.resized(*size), depth, 0)
        assert error[..., :-4].max() < 5e-3
        wrong = Views(
            F.interpolate(target, size, mode="area"),
            [F.interpolate(smooth, size, mode="area")],
            views.resized(*size).intrinsics,
            [torch.eye(4).double()[None]],
        )
        assert warped_error(wrong, depth, 0)[0][..., :-4].mean() > 2e-2


def test_detached_poses() -> None:
    motion = torch.tensor([[0.1, 0, 0.2]], dtype=torch.float64, requires_grad=True)
    pose = pose_matrix(torch.zeros(1, 3).double(), motion)
    views = Views(images(1, 3, 8, 9), [images(1, 3, 8, 9, seed=1)], K, [pose])
    assert not views.with_detached_poses().poses[0].requires_grad
    assert views.poses[0].requires_grad


# Errors over the sources


def test_the_best_source_counts_at_every_pixel() -> None:
    target = images(1, 3, HEIGHT, WIDTH)
    left, right = (images(1, 3, HEIGHT, WIDTH, seed=s) for s in (1, 2))
    left[..., : WIDTH // 2] = target[..., : WIDTH // 2]
    right[..., WIDTH // 2 :] = target[..., WIDTH // 2 :]
    still = torch.eye(4).double()[None]
    views = Views(target, [left, right], K, [still, still])
    depth = torch.full((1, 1, HEIGHT, WIDTH), 3.0).double()
    error, visible = warped_error(views, depth, 0)
    assert error.max() < 1e-12
    torch.testing.assert_close(identity_error(views, 0), torch.zeros_like(error))
    each = [warped_error(Views(target, [s], K, [still]), depth, 0.85)[0] for s in (left, right)]
    both, _ = warped_error(views, depth, 0.85)
    torch.testing.assert_close(both, torch.minimum(*each))
    assert visible[..., 1:-1, 1:-1].all()


def test_a_pixel_is_visible_where_any_source_sees_it() -> None:
    source = images(1, 3, HEIGHT, WIDTH, seed=1)
    depth = torch.full((1, 1, HEIGHT, WIDTH), 6.0).double()
    away, left, right = (0, 0, -9.0), (-0.6, 0, 0), (0.6, 0, 0)  # shifts of 3.6 pixels
    rows = slice(1, -1)
    for motions, first, last in (((left,), 4, WIDTH), ((right,), 0, WIDTH - 4)):
        _, visible = warped_error(scene(motions, [source]), depth, 0)
        expected = torch.zeros(WIDTH, dtype=torch.bool)
        expected[first:last] = True
        assert torch.equal(visible[0, 0, rows], expected.expand(HEIGHT - 2, -1))
    _, visible = warped_error(scene((left, right), [source, source]), depth, 0)
    assert visible[..., rows, :].all()
    _, visible = warped_error(scene((away,), [source]), depth, 0)
    assert not visible.any()


def test_batches_keep_their_order() -> None:
    """Sources are stacked behind each other: sample 1 must not meet the source of sample 0."""
    parts = [
        Views(
            images(1, 3, HEIGHT, WIDTH, seed=i),
            [images(1, 3, HEIGHT, WIDTH, seed=10 + i), images(1, 3, HEIGHT, WIDTH, seed=20 + i)],
            K * torch.tensor([1 + 0.1 * i, 1, 1]).double().view(1, 3, 1),
            [
                pose_matrix(*torch.full((2, 1, 3), 0.01 * (i + 1)).double()),
                pose_matrix(*torch.full((2, 1, 3), -0.02 * (i + 1)).double()),
            ],
        )
        for i in range(3)
    ]
    whole = Views(
        torch.cat([p.target for p in parts]),
        [torch.cat([p.sources[s] for p in parts]) for s in range(2)],
        torch.cat([p.intrinsics for p in parts]),
        [torch.cat([p.poses[s] for p in parts]) for s in range(2)],
    )
    depth = 3 + images(3, 1, HEIGHT, WIDTH, seed=30)
    error, visible = warped_error(whole, depth, 0.85)
    still = identity_error(whole, 0.85)
    for i, part in enumerate(parts):
        one_error, one_visible = warped_error(part, depth[i : i + 1], 0.85)
        torch.testing.assert_close(error[i : i + 1], one_error)
        assert torch.equal(visible[i : i + 1], one_visible)
        torch.testing.assert_close(still[i : i + 1], identity_error(part, 0.85))


# Smoothness


def test_smoothness_of_a_ramp_on_a_flat_image() -> None:
    ramp = torch.arange(1.0, 11.0).double().view(1, 1, 1, 10).expand(1, 1, 7, 10)
    flat = torch.full((1, 3, 7, 10), 0.3).double()
    assert smoothness(ramp, flat).item() == pytest.approx(1 / 5.5, rel=1e-6)
    assert smoothness(ramp.transpose(2, 3), flat.transpose(2, 3)).item() == pytest.approx(1 / 5.5)
    assert smoothness(torch.full_like(ramp, 0.2), images(1, 3, 7, 10)).item() == 0


def test_smoothness_does_not_depend_on_the_scale_of_disparity() -> None:
    d, image = images(2, 1, 8, 9), images(2, 3, 8, 9, seed=1)
    value = smoothness(d, image)
    for factor in (0.01, 7.0, torch.tensor([0.1, 3.0]).double().view(2, 1, 1, 1)):
        torch.testing.assert_close(smoothness(factor * d, image), value, rtol=1e-4, atol=0)


def test_edges_of_the_image_forgive_edges_of_disparity() -> None:
    step = torch.ones(1, 1, 4, 10).double()
    step[..., 5:] = 3  # mean 2: a normalised step of 1 in one of nine columns
    flat = torch.zeros(1, 3, 4, 10).double()
    edge, elsewhere = flat.clone(), flat.clone()
    edge[:, :2, :, 5:] = 0.6  # mean over channels: 0.4
    elsewhere[:, :2, :, 3:] = 0.6
    assert smoothness(step, flat).item() == pytest.approx(1 / 9, rel=1e-6)
    assert smoothness(step, edge).item() == pytest.approx(math.exp(-0.4) / 9, rel=1e-6)
    assert smoothness(step, elsewhere).item() == pytest.approx(1 / 9, rel=1e-6)


def test_upsample_keeps_means_and_own_size() -> None:
    small = images(1, 1, 4, 6)
    assert upsample(small, small) is small
    large = upsample(small, torch.zeros(1, 3, 8, 12))
    assert large.shape == (1, 1, 8, 12)
    torch.testing.assert_close(large[..., 0, 0], small[..., 0, 0])
    # With half-pixel centres, pixel 1 lies a quarter of the way from small pixel 0 to 1.
    torch.testing.assert_close(
        large[0, 0, 0, 1], 0.75 * small[0, 0, 0, 0] + 0.25 * small[0, 0, 0, 1]
    )


# The whole base loss


def moving() -> Views:
    sources = [images(1, 3, HEIGHT, WIDTH, seed=s) for s in (1, 2)]
    return scene(((0.1, 0.02, -0.2), (-0.1, 0, 0.2)), sources)


def test_one_scale_is_the_mean_error_and_weighted_smoothness() -> None:
    views, d = moving(), disparity()
    error, visible = warped_error(views, disparity_to_depth(d), 0.85)
    loss = base_loss([d], views, settings(automask=False, smoothness_weight=0.2), noise())
    torch.testing.assert_close(loss.photometric, error.mean().detach())
    expected = error.mean() + 0.2 * smoothness(d, views.target)
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.error, error.detach())
    assert torch.equal(loss.visible, visible)
    assert loss.automask_share == 1


def test_scales_are_averaged_and_coarse_smoothness_counts_less() -> None:
    views = moving()
    pyramid = [disparity(5), disparity(6, (16, 24)), disparity(7, (8, 12))]
    options = settings(automask=False, smoothness_weight=0.5)
    loss = base_loss(pyramid, views, options, noise())
    photometric, smooth = 0.0, 0.0
    for s, d in enumerate(pyramid):
        full = F.interpolate(d, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        photometric += warped_error(views, disparity_to_depth(full), 0.85)[0].mean().item() / 3
        small = F.avg_pool2d(views.target, 2**s) if s else views.target
        smooth += smoothness(d, small).item() / 2**s / 3
    assert loss.photometric.item() == pytest.approx(photometric)
    assert loss.smoothness.item() == pytest.approx(smooth)
    assert loss.total.item() == pytest.approx(photometric + 0.5 * smooth)


def test_own_size_and_full_size_agree_on_the_finest_scale() -> None:
    results: list[BaseLoss] = [
        base_loss([disparity()], moving(), settings(warp_at=size), noise())
        for size in ("full", "scale")
    ]
    torch.testing.assert_close(results[0].total, results[1].total, rtol=0, atol=0)
    assert torch.equal(results[0].error, results[1].error)


def test_at_own_size_coarse_scales_are_compared_with_small_images() -> None:
    views = moving()
    pyramid = [disparity(5), disparity(6, (16, 24))]
    options = settings(automask=False, smoothness_weight=0, warp_at="scale")
    loss = base_loss(pyramid, views, options, noise())
    errors = [
        warped_error(views.resized(*d.shape[-2:]), disparity_to_depth(d), 0.85)[0].mean().item()
        for d in pyramid
    ]
    assert loss.total.item() == pytest.approx(sum(errors) / 2)
    full = base_loss(pyramid, views, options.model_copy(update={"warp_at": "full"}), noise())
    assert full.total.item() != pytest.approx(sum(errors) / 2, rel=1e-3)
    assert loss.error.shape == (1, 1, HEIGHT, WIDTH)


def test_border_pixels_do_not_count() -> None:
    views, pyramid = moving(), [disparity(5), disparity(6, (16, 24))]
    for warp_at, borders in (("full", (5, 5)), ("scale", (5, 3))):
        plain = settings(automask=False, smoothness_weight=0, warp_at=warp_at)
        loss = base_loss(pyramid, views, plain.model_copy(update={"border": 5}), noise())
        expected = 0.0
        for d, border in zip(pyramid, borders, strict=True):
            seen = views.resized(*d.shape[-2:]) if warp_at == "scale" else views
            error, _ = warped_error(seen, disparity_to_depth(upsample(d, seen.target)), 0.85)
            expected += error[..., border:-border, border:-border].mean().item() / 2
        assert loss.total.item() == pytest.approx(expected, rel=1e-9)
        # What the pyramid loss and APX go by, too.
        _, visible = warped_error(views, disparity_to_depth(pyramid[0]), 0.85)
        inside = torch.zeros_like(visible)
        inside[..., 5:-5, 5:-5] = True
        assert torch.equal(loss.visible, visible & inside)


@pytest.mark.parametrize("warp_at", ["full", "scale"])
def test_the_ego_vehicle_does_not_count(warp_at: str) -> None:
    """What is painted on the bonnet changes nothing, and nothing else is left out."""
    views, pyramid = moving(), [disparity(5), disparity(6, (16, 24))]
    world = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    world[..., 20:, 10:40] = False
    options = settings(smoothness_weight=0, automask=False, warp_at=warp_at)
    painted = views.target.clone()
    # SSIM sees one pixel further, at half size two.
    painted[..., 24:, 14:36] = 0
    marked, other = replace(views, world=world), replace(views, target=painted, cache={})
    totals = [
        base_loss(pyramid, seen, options, noise()).total.item()
        for seen in (marked, replace(other, world=world), other)
    ]
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)
    assert totals[2] != pytest.approx(totals[1], rel=1e-2)
    visible = base_loss(pyramid, views, options, noise()).visible
    assert torch.equal(base_loss(pyramid, marked, options, noise()).visible, visible & world)


@pytest.mark.parametrize("warp_at", ["full", "scale"])
def test_automask_takes_a_standing_camera_out(warp_at: str) -> None:
    target = images(1, 3, HEIGHT, WIDTH)
    pose = pose_matrix(torch.zeros(1, 3).double(), torch.tensor([[0.3, 0.1, -0.2]]).double())
    views = Views(target, [target, target], K, [pose, pose])
    pyramid = [disparity(5), disparity(6, (16, 24))]
    options = settings(smoothness_weight=0, warp_at=warp_at)
    loss = base_loss(pyramid, views, options, noise())
    assert loss.automask_share < 0.01
    assert loss.total.abs() < 1e-4
    loss.total.backward()
    assert all(d.grad is not None for d in pyramid)
    touched = sum(int(d.grad.count_nonzero()) for d in pyramid if d.grad is not None)
    assert touched <= 0.01 * HEIGHT * WIDTH

    without = base_loss(pyramid, views, options.model_copy(update={"automask": False}), noise())
    assert without.total > 0.1


def test_automask_leaves_a_moving_scene_alone() -> None:
    """Where the right depth explains the frame, its pixels win over the unwarped sources."""
    source = images(1, 3, HEIGHT, WIDTH, seed=1)
    target = torch.roll(source, -3, -1)  # 36 * 0.5 / 6 = 3 pixels
    pose = pose_matrix(torch.zeros(1, 3).double(), torch.tensor([[0.5, 0, 0]]).double())
    depth = 6.0
    d = torch.full((1, 1, HEIGHT, WIDTH), (1 / depth - 0.01) / 9.99).double()
    views = Views(target, [source], K, [pose])
    loss = base_loss([d], views, settings(), noise())
    assert loss.automask_share > 0.9
    assert loss.error[..., :-5].max() < 1e-9


def test_ties_are_broken_at_random_but_reproducibly() -> None:
    target = images(1, 3, HEIGHT, WIDTH)
    still = torch.eye(4).double()[None]
    views = Views(target, [target], K, [still])
    shares = [
        base_loss([disparity()], views, settings(), torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    ]
    assert shares[0].automask_share == shares[1].automask_share
    assert shares[0].total == shares[1].total
    assert shares[0].total != shares[2].total
    assert 0.4 < shares[0].automask_share < 0.6


def test_gradient_reaches_every_scale_and_the_motion() -> None:
    motion = torch.tensor([[0.1, 0.02, -0.2]], dtype=torch.float64, requires_grad=True)
    pose = pose_matrix(torch.zeros(1, 3).double(), motion)
    target, source = images(1, 3, HEIGHT, WIDTH), images(1, 3, HEIGHT, WIDTH, seed=1)
    views = Views(target, [source], K, [pose])
    pyramid = [disparity(5), disparity(6, (16, 24)), disparity(7, (8, 12))]
    base_loss(pyramid, views, settings(), noise()).total.backward()
    for leaf in (*pyramid, motion):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() > 0
