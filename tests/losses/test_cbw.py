"""The bidirectional loss against the street's true depth, motion and visibility."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fadepth.checkpoint import Identity
from fadepth.config import LossSettings
from fadepth.geometry import (
    disparity_to_depth,
    in_view,
    invert_pose,
    pose_matrix,
    project_to_source,
    sample,
)
from fadepth.losses.cbw import (
    Comparison,
    cbw_loss,
    compare,
    directed_pairs,
    early_features,
    first_ends,
    normalised,
    occlusion_weight,
    opposite,
)
from fadepth.losses.masks import unoccluded
from fadepth.losses.photometric import Views, photometric_error, smoothness
from fadepth.models import HQDecV2, SmallDepth
from fadepth.training import Job, Kind, Training
from tests.tiny import SIZE, tiny_config, tiny_manifest

from .conftest import StreetPair

Mask = NDArray[np.bool_]


def settings(**changes: Any) -> LossSettings:
    return LossSettings.model_validate({"base": "cbw", **changes})


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def to_disparity(depth: Tensor) -> Tensor:
    return (1 / depth - 0.01) / 9.99


def comparison(pair: StreetPair) -> Comparison:
    return compare(directed_pairs(pair.views), pair.depths, 0.85)


def forward_half(values: Tensor) -> NDArray[np.float64]:
    return values[0, 0].numpy()


# Pairs


def test_directed_pairs_of_two_sources() -> None:
    batch = 2
    target, left, right = (random(batch, 3, 4, 5, seed=s) for s in range(3))
    poses = [pose_matrix(random(2, 3, seed=s), random(2, 3, seed=s + 9)) for s in (3, 4)]
    k = torch.eye(3).double() * torch.tensor([1.0, 2.0]).double().view(2, 1, 1)
    pairs = directed_pairs(Views(target, [left, right], k, poses))
    torch.testing.assert_close(pairs.target, torch.cat([target, target, left, right]))
    torch.testing.assert_close(pairs.sources[0], torch.cat([left, right, target, target]))
    torch.testing.assert_close(pairs.intrinsics, torch.cat([k] * 4))
    forward, backward = pairs.poses[0].chunk(2)
    torch.testing.assert_close(forward, torch.cat(poses))
    torch.testing.assert_close(backward @ forward, torch.eye(4).double().expand(4, 4, 4))
    # Motions are drawn per pair: the same one everywhere would hide a wrong order.
    assert (forward[0] - forward[1]).abs().max() > 0.1
    maps = torch.arange(6)
    assert first_ends(maps, batch).tolist() == [0, 1, 0, 1, 2, 3, 4, 5]
    assert opposite(first_ends(maps, batch)).tolist() == [2, 3, 4, 5, 0, 1, 0, 1]


# With the truth


def test_depths_agree_where_the_surface_is_seen_and_differ_where_it_is_hidden(
    street: StreetPair,
) -> None:
    difference = forward_half(comparison(street).depth_difference)
    seen, hidden = difference[street.seen], difference[street.hidden]
    assert len(seen) > 15000 and len(hidden) > 500
    assert np.median(seen) < 1e-3
    assert np.quantile(seen, 0.9) < 0.02
    assert np.median(hidden) > 0.3
    # Any seen pixel against any hidden one.
    assert (np.sort(seen).searchsorted(hidden) / len(seen)).mean() > 0.97


def test_unoccluded_keeps_what_is_seen(street: StreetPair) -> None:
    kept = unoccluded(comparison(street).depth_difference)[0, 0].numpy()
    assert kept[street.seen].mean() > 0.97
    assert kept[street.hidden].mean() < 0.25


def test_backward_flow_leads_back(street: StreetPair) -> None:
    height, width = street.depths.shape[-2:]
    pose, k = street.views.poses[0], street.views.intrinsics
    there, z = project_to_source(street.depths[:1], k, pose)
    back, _ = project_to_source(street.depths[1:], k, invert_pose(pose))
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([u, v], -1)
    returned = sample((back - grid).permute(0, 3, 1, 2), there)
    error = (there - grid).permute(0, 3, 1, 2) + returned
    lost = error.norm(dim=1)[0].numpy()
    assert in_view(there, z, height, width).any()
    moved = (there - grid).norm(dim=-1)[0].numpy()
    assert np.median(moved[street.seen]) > 1
    assert np.median(lost[street.seen]) < 0.01
    difference = forward_half(comparison(street).flow_difference)
    expected = lost / (moved + returned.norm(dim=1)[0].numpy() + 1)
    assert np.abs(difference - expected).max() < 1e-12


def test_weight_is_high_on_seen_static_pixels_and_low_elsewhere(
    street: StreetPair, traffic: StreetPair
) -> None:
    weight = forward_half(comparison(street).weight)
    assert np.median(weight[street.seen]) > 0.999
    assert np.quantile(weight[street.seen], 0.05) > 0.9
    assert np.median(weight[street.hidden]) < 0.5
    # A car that drives 0.5 m away from where the camera's motion would put it: less, not nothing.
    pair = comparison(traffic)
    inside = pair.visible[0, 0].numpy()
    driving = forward_half(pair.weight)[traffic.moving & inside]
    static = forward_half(pair.weight)[traffic.seen]
    assert len(driving) > 500
    assert (np.sort(static).searchsorted(driving) / len(static)).mean() < 0.2


@pytest.mark.parametrize("occlusion", ["weight", "depth", "none"])
def test_occlusion_settings(occlusion: str, street: StreetPair) -> None:
    pair = comparison(street)
    weight = forward_half(occlusion_weight(pair, occlusion))
    expected = {
        "weight": forward_half(pair.weight),
        "depth": forward_half(pair.depth_difference) < 0.2,
        "none": np.ones_like(weight),
    }
    assert np.array_equal(weight, expected[occlusion])


def test_the_truth_has_a_lower_loss_than_wrong_depth_or_motion(street: StreetPair) -> None:
    truth = to_disparity(street.depths).clamp(1e-4, 1)

    def loss(disparity: Tensor, views: Views = street.views, **changes: Any) -> float:
        phi = F.avg_pool2d(torch.cat([views.target, *views.sources]), 4)
        return cbw_loss([disparity], views, settings(**changes), noise(), [phi]).total.item()

    still = Views(
        street.views.target,
        street.views.sources,
        street.views.intrinsics,
        [torch.eye(4).double()[None]],
    )
    for changes in ({}, {"automask": False}, {"cbw.occlusion": "depth"}, {"border": 3}):
        options: dict[str, Any] = (
            {"cbw": {"occlusion": "depth"}} if "cbw.occlusion" in changes else changes
        )
        right = loss(truth, **options)
        for factor in (0.6, 0.8, 1.25, 1.7):
            assert loss(factor * truth, **options) > 1.1 * right
        assert loss(truth.flip(-1), **options) > 1.5 * right
    # Standing still explains nothing where the auto-mask does not take everything out.
    assert loss(truth, still, automask=False) > 1.5 * loss(truth, automask=False)


# Closed forms


def simple() -> tuple[Views, list[Tensor], Tensor]:
    """A batch of two with one source; disparities at two scales and phi, with gradient."""
    motion = torch.tensor([[0.1, 0.02, -0.2], [-0.1, 0.0, 0.3]]).double().requires_grad_()
    k = torch.tensor([[[36.0, 0, 22.7], [0, 34.0, 16.2], [0, 0, 1]]]).double().repeat(2, 1, 1)
    pose = pose_matrix(torch.full((2, 3), 0.01).double(), motion)
    views = Views(random(2, 3, 32, 48), [random(2, 3, 32, 48, seed=1)], k, [pose])
    disparities = [
        (0.01 + 0.03 * random(4, 1, 32 // s, 48 // s, seed=s)).requires_grad_() for s in (1, 2)
    ]
    return views, disparities, random(4, 5, 8, 12, seed=7).requires_grad_()


def by_hand(views: Views, disparity: Tensor, phi: Tensor) -> float:
    """The formula of the module's docstring for one scale, pair by pair and term by term."""
    total = 0.0
    batch = len(views.target)
    images = torch.cat([views.target, views.sources[0]])
    depth = disparity_to_depth(disparity)
    small = views.resized(*phi.shape[-2:])
    small_depth = disparity_to_depth(F.interpolate(disparity, phi.shape[-2:], mode="area"))
    rms = [phi[[i, i + batch]].square().mean().sqrt() for i in range(batch)]
    phi = phi / torch.stack(rms * 2).view(-1, 1, 1, 1)
    poses = views.poses[0], torch.linalg.inv(views.poses[0])
    v, u = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
    grid = torch.stack([u, v])
    for a, b, pose, other in ((0, 1, *poses), (1, 0, *poses[::-1])):
        ours, theirs = (slice(end * batch, (end + 1) * batch) for end in (a, b))
        pixels, z = project_to_source(depth[ours], views.intrinsics, pose)
        back, _ = project_to_source(depth[theirs], views.intrinsics, other)
        seen = sample(depth[theirs], pixels)
        apart = (z - seen).abs() / (z + seen)
        there = pixels.permute(0, 3, 1, 2) - grid
        returned = sample(back.permute(0, 3, 1, 2) - grid, pixels)
        lengths = there.norm(dim=1) + returned.norm(dim=1) + 1
        flow = (there + returned).norm(dim=1) / lengths
        mask = in_view(pixels, z, 32, 48).double()
        weight = mask * (1 - apart) * torch.exp(-flow)[:, None]
        error = photometric_error(sample(images[theirs], pixels), images[ours])
        small_pixels, _ = project_to_source(small_depth[ours], small.intrinsics, pose)
        features = (phi[ours] - sample(phi[theirs], small_pixels)).abs().mean(1, keepdim=True)
        small_weight = F.interpolate(weight, features.shape[-2:], mode="area")
        term = (weight * error).sum() / weight.sum()
        term = term + 0.1 * (small_weight * features).sum() / small_weight.sum()
        term = term + 0.1 * (mask * apart).sum() / mask.sum()
        term = term + 1e-3 * smoothness(disparity[ours], images[ours])
        total += term.item() / 2
    return total


def test_formula() -> None:
    views, disparities, phi = simple()
    loss = cbw_loss(disparities[:1], views, settings(automask=False), noise(), [phi])
    assert loss.total.item() == pytest.approx(by_hand(views, disparities[0], phi), rel=1e-9)


def test_scales_are_averaged() -> None:
    views, disparities, _ = simple()
    options = settings(automask=False, smoothness_weight=0)
    both = cbw_loss(disparities, views, options, noise()).total
    full = F.interpolate(disparities[1], (32, 48), mode="bilinear", align_corners=False)
    each = [cbw_loss([d], views, options, noise()).total for d in (disparities[0], full)]
    torch.testing.assert_close(both, (each[0] + each[1]) / 2)
    at_scale = options.model_copy(update={"warp_at": "scale"})
    small = cbw_loss(disparities[1:], views.resized(16, 24), options, noise()).total
    found = cbw_loss(disparities, views, at_scale, noise()).total
    torch.testing.assert_close(found, (each[0] + small) / 2)
    # Coarse smoothness counts less, as in monodepth2.
    images = torch.cat([views.target, *views.sources])
    rough = [
        smoothness(d, F.avg_pool2d(images, s)) / s for s, d in zip((1, 2), disparities, strict=True)
    ]
    found = cbw_loss(disparities, views, options, noise()).smoothness
    torch.testing.assert_close(found, (rough[0] + rough[1]) / 2)


@pytest.mark.parametrize("occlusion", ["weight", "depth", "none"])
def test_swapping_the_pair_changes_nothing(occlusion: str) -> None:
    views, disparities, phi = simple()
    options = settings(automask=False, cbw={"occlusion": occlusion}, border=2)
    swapped = Views(
        views.sources[0], [views.target], views.intrinsics, [invert_pose(views.poses[0])]
    )
    here = cbw_loss(disparities, views, options, noise(), [phi])
    exchanged = [torch.cat(d.chunk(2)[::-1]) for d in disparities]
    there = cbw_loss(exchanged, swapped, options, noise(), [torch.cat(phi.chunk(2)[::-1])])
    torch.testing.assert_close(here.total, there.total)
    assert not torch.allclose(here.error, there.error)


def test_two_sources_make_two_pairs() -> None:
    views, disparities, _ = simple()
    other = pose_matrix(torch.zeros(2, 3).double(), torch.tensor([[0.0, 0, 0.4]] * 2).double())
    second = random(2, 3, 32, 48, seed=9)
    d, d_second = disparities[0], 0.01 + 0.03 * random(2, 1, 32, 48, seed=8)
    options = settings(automask=False, cbw={"occlusion": "none", "consistency_weight": 0})
    triple = Views(views.target, [views.sources[0], second], views.intrinsics,
                   [views.poses[0], other])  # fmt: skip
    both = cbw_loss([torch.cat([d, d_second])], triple, options, noise())
    parts = [
        cbw_loss([d], views, options, noise()),
        cbw_loss(
            [torch.cat([d[:2], d_second])],
            Views(views.target, [second], views.intrinsics, [other]),
            options,
            noise(),
        ),
    ]
    torch.testing.assert_close(both.error, torch.minimum(parts[0].error, parts[1].error))
    assert torch.equal(both.visible, parts[0].visible | parts[1].visible)
    # Sums over both pairs are divided by the pixels of both: between the two means.
    low, high = sorted(part.photometric.item() for part in parts)
    assert low < both.photometric.item() < high
    expected = (parts[0].smoothness + parts[1].smoothness) / 2
    torch.testing.assert_close(both.smoothness, expected)


def test_what_is_static_or_out_of_view_does_not_count() -> None:
    views, disparities, _ = simple()
    standing = Views(views.target, [views.target], views.intrinsics, views.poses)
    options = settings(smoothness_weight=0)
    loss = cbw_loss(disparities, standing, options, noise())
    assert loss.automask_share < 0.01
    assert (
        loss.total
        < cbw_loss(
            disparities, standing, options.model_copy(update={"automask": False}), noise()
        ).total
    )
    beside = Views(views.target, views.sources, views.intrinsics, [
        pose_matrix(torch.zeros(2, 3).double(), torch.tensor([[5e3, 0, 0]] * 2).double())
    ])  # fmt: skip
    nothing = cbw_loss(disparities, beside, options, noise())
    assert nothing.total == 0
    assert not nothing.visible.any()


def test_border() -> None:
    views, disparities, _ = simple()
    loss = cbw_loss(disparities[:1], views, settings(border=4), noise())
    assert not loss.visible[..., :4, :].any() and not loss.visible[..., -4:].any()
    assert loss.visible[..., 4:-4, 4:-4].any()
    # What lies in the border of the target does not matter, beyond the reach of SSIM's windows.
    painted = views.target.clone()
    painted[..., :3, :] = 0
    options = settings(border=4, automask=False)
    a = cbw_loss([disparities[0]], views, options, noise())
    b = cbw_loss(
        [disparities[0]],
        Views(painted, views.sources, views.intrinsics, views.poses),
        options,
        noise(),
    )
    torch.testing.assert_close(a.error[..., 4:-4, 4:-4], b.error[..., 4:-4, 4:-4])


def test_the_ego_vehicle_does_not_count() -> None:
    """A pixel of the vehicle gives no gradient, in target and sources alike."""
    views, disparities, _ = simple()
    world = torch.ones_like(views.target[:, :1], dtype=torch.bool)
    world[..., -6:, :] = False
    options = settings(automask=False, smoothness_weight=0, cbw={"consistency_weight": 0})
    finest = disparities[0].detach().requires_grad_()
    marked = Views(views.target, views.sources, views.intrinsics, views.poses, world)
    loss = cbw_loss([finest], marked, options, noise())
    assert not loss.visible[..., -6:, :].any() and loss.visible[..., :-6, :].any()
    loss.total.backward()
    assert finest.grad is not None
    # SSIM of the row above reaches one row into the vehicle.
    assert finest.grad[..., -5:, :].count_nonzero() == 0
    assert finest.grad[..., :-5, :].count_nonzero() > 0


# Gradients


def test_gradient_reaches_both_depths_the_motion_and_the_features() -> None:
    views, disparities, phi = simple()
    motion = torch.full((2, 3), 0.05).double().requires_grad_()
    pose = pose_matrix(torch.zeros(2, 3).double(), motion)
    views = Views(views.target, views.sources, views.intrinsics, [pose])
    cbw_loss(disparities, views, settings(automask=False), noise(), [phi]).total.backward()
    for leaf in (*disparities, motion, phi):
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    for d in disparities:
        assert d.grad is not None
        assert all(half.abs().max() > 0 for half in d.grad.chunk(2))
    assert phi.grad is not None and phi.grad.abs().max() > 0


def test_weight_takes_no_gradient() -> None:
    views, disparities, _ = simple()
    pair = compare(directed_pairs(views), disparity_to_depth(disparities[0]), 0.85)
    assert pair.depth_difference.requires_grad
    assert not pair.weight.requires_grad and not pair.flow_difference.requires_grad
    assert not occlusion_weight(pair, "depth").requires_grad
    # A flat world has no photometric error; without the consistency term nothing is left to learn,
    # although the weights depend on the depths.
    grey = torch.full_like(views.target, 0.5)
    flat = Views(grey, [grey], views.intrinsics, views.poses)
    options = settings(automask=False, smoothness_weight=0, cbw={"consistency_weight": 0})
    loss = cbw_loss(disparities[:1], flat, options, noise())
    assert loss.parts["weight"] > 0.1
    loss.total.backward()
    assert disparities[0].grad is not None
    assert disparities[0].grad.abs().max() < 1e-12


def test_normalisation_takes_no_gradient_and_removes_scale() -> None:
    phi = random(4, 3, 5, 6).requires_grad_()
    found = normalised(phi, 2)
    for i in range(2):
        assert found[[i, i + 2]].square().mean().item() == pytest.approx(1)
    torch.testing.assert_close(normalised(100 * phi, 2), found)
    # d(phi / c) / d phi = 1 / c where c is a constant.
    found.sum().backward()
    rms = torch.stack([phi[[i, i + 2]].square().mean().sqrt() for i in (0, 1, 0, 1)]).detach()
    assert phi.grad is not None
    torch.testing.assert_close(phi.grad, (1 / rms).view(4, 1, 1, 1).expand(4, 3, 5, 6))


def test_gradient_against_differences() -> None:
    """Finite differences, where the weight is constant: W takes no gradient by design."""
    views, *_ = simple()
    options = settings(automask=False, cbw={"occlusion": "none"}, ssim_weight=0)
    small = Views(
        views.target[:1, :, :6, :8], [views.sources[0][:1, :, :6, :8]],
        views.intrinsics[:1] * torch.tensor([0.2, 0.2, 1]).double().view(3, 1),
        [pose_matrix(torch.zeros(1, 3).double(), torch.tensor([[0.03, 0.01, 0.02]]).double())],
    )  # fmt: skip
    d = (0.03 + 0.01 * random(2, 1, 6, 8, seed=3)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d: cbw_loss([d], small, options, noise()).total, (d,), eps=1e-7, atol=1e-5
    )


# Networks


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_early_features_are_the_map_at_stride_four(kind: str) -> None:
    network: torch.nn.Module = (
        SmallDepth(width=0.25) if kind == "student" else HQDecV2(width=0.1, depth=0.1)
    )
    images = random(2, 3, 64, 96).float()
    with early_features(network, kind) as phi:
        network(images)
    assert len(phi) == 1
    assert phi[0].shape[0] == 2 and tuple(phi[0].shape[-2:]) == (16, 24)
    assert phi[0].requires_grad
    with early_features(network, None) as none:
        network(images)
    assert none == [] and len(phi) == 1


def test_weight_is_logged() -> None:
    views, disparities, phi = simple()
    parts = cbw_loss(disparities, views, settings(), noise(), [phi]).parts
    assert set(parts) == {"consistency", "weight", "features"}
    assert all(math.isfinite(value) and not value.requires_grad for value in parts.values())
    assert "features" not in cbw_loss(disparities, views, settings(), noise()).parts


# Training


class Teacher:
    """Stands for `TeacherTargets`: the same noise for every frame, all of it reliable."""

    def batch(self, index: Tensor, _flipped: Tensor) -> tuple[Tensor, Tensor]:
        maps = (0.02 + 0.1 * random(1, 1, *SIZE)).float().expand(len(index), -1, -1, -1)
        return maps, torch.ones_like(maps)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Training]:
    """A training with `loss.base: cbw`, not begun, with a stub of a teacher."""
    manifest = tiny_manifest(tmp_path)

    def make_training(kind: Kind = "student", **changes: Any) -> Training:
        config = tiny_config(tmp_path, loss__base="cbw", **changes)
        identity = Identity("c", "d", "e")
        training = Training(Job("run", kind, config, 1, identity, tmp_path, manifest, tmp_path))
        training.targets = Teacher() if kind == "student" else None  # type: ignore[assignment]
        training.networks.train()
        return training

    return make_training


@pytest.mark.parametrize("jitter", [True, False])
def test_each_image_is_inferred_once(jitter: bool, make: Callable[..., Training]) -> None:
    training = make(loss__pyramid__enabled=True, loss__pyramid__jitter=jitter)
    seen: list[Tensor] = []
    training.networks.depth.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = next(training.batches(0))
    training.losses(batch, 0)
    # As with md2: clean images where the pyramid loss brings the jitter.
    target, sources = ("target", "sources") if jitter else ("target_input", "source_inputs")
    expected = torch.cat([batch[target], batch[sources][:, 0], batch[sources][:, 1]])
    assert len(seen) == 1 + 2  # two levels of the pyramid, of the targets
    assert torch.equal(seen[0], expected)
    assert all(len(view) == 2 for view in seen[1:])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("student", {}),
        ("student", {"loss__pyramid__enabled": True, "loss__warp_at": "full"}),
        ("student", {"loss__pyramid__enabled": True, "loss__pyramid__kind": "features"}),
        ("teacher", {}),
    ],
)
def test_it_trains_with_pyramid_and_apx(
    kind: Kind, changes: dict[str, Any], make: Callable[..., Training]
) -> None:
    training = make(kind, **changes)
    losses = training.losses(next(training.batches(0)), 6)
    parts = {"photometric", "cbw/consistency", "cbw/features", "cbw/weight", "automask_share"}
    if kind == "student":
        parts |= {"apx/value", "apx/slope"}
    if changes:
        parts |= {"pyramid/photometric", "pyramid/consistency"}
    assert parts <= set(losses)
    assert all(bool(value.isfinite()) for value in losses.values())
    losses["total"].backward()
    reached = {n for n, p in training.networks.named_parameters() if p.grad is not None}
    assert {"depth", "pose"} == {name.split(".")[0] for name in reached}


def test_other_losses_see_the_targets_only(
    make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make(loss__pyramid__enabled=True)
    handed: list[Tensor] = []
    monkeypatch.setattr(
        training, "_add_pyramid", lambda _, __, reference, *___: handed.append(reference.disparity)
    )
    monkeypatch.setattr(
        training, "_add_apx", lambda _, disparities, *__: handed.extend(disparities)
    )
    batch = next(training.batches(0))
    with torch.no_grad():
        training.losses(batch, 0)
        images = torch.cat([batch["target"], *batch["sources"].unbind(1)])
        every = training.networks.depth(images)
    for found, expected in zip(handed, [every[0], *every], strict=True):
        torch.testing.assert_close(found, expected[:2])


def test_while_apx_is_alone_only_the_pose_net_learns_from_images(
    make: Callable[..., Training],
) -> None:
    training = make(loss__apx={"enabled": False, "alone_epochs": 1.0, "weight": 0.0})
    training.apx = True
    training.losses(next(training.batches(0)), 0)["total"].backward()

    def largest(network: torch.nn.Module) -> float:
        grads = [p.grad.abs().max().item() for p in network.parameters() if p.grad is not None]
        return max(grads, default=0.0)

    assert largest(training.networks.depth) == 0
    assert largest(training.networks.pose) > 0
