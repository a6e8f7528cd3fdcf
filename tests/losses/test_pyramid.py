"""Pyramid loss: flips are undone, gradients and statistics stay where they belong, weights add."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fadepth.config import JitterSettings, PyramidSettings, parse_config
from fadepth.data import augment
from fadepth.errors import FadepthError
from fadepth.geometry import disparity_to_depth, pose_matrix
from fadepth.losses.photometric import Views, warped_error
from fadepth.losses.pyramid import (
    FEATURE_STAGES,
    AlteredView,
    Reference,
    altered_views,
    consistency,
    encoder_features,
    feature_agreement,
    frozen_running_statistics,
    pyramid_loss,
    unaltered,
)
from fadepth.models import SmallDepth

SIZE = (64, 96)  # level 1 is then the smallest picture that SmallDepth takes
K = torch.tensor([[[72.0, 0, 45.7], [0, 68.0, 32.2], [0, 0, 1]]])


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(**changes: Any) -> PyramidSettings:
    return PyramidSettings.model_validate({"enabled": True, **changes})


#: Neither jitter nor photometric term: the loss is the consistency alone.
BARE: dict[str, Any] = {
    "jitter": False,
    "photometric": False,
    "warmup_epochs": 0,
    "consistency_weight": 1,
}


class Spy(nn.Module):
    """Remembers its inputs; predicts as `rule` says, at 1, 1/2 and 1/4 of the size."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        self.inputs.append(x)
        d = self.rule(x)
        return [d] + [F.interpolate(d, scale_factor=0.5**s, mode="area") for s in (1, 2)]


def mirrored_equally(x: Tensor) -> Tensor:
    """A function of the picture that knows no left and right."""
    return 0.02 + 0.1 * x.mean(1, keepdim=True)


def ramp(x: Tensor) -> Tensor:
    """A function of the place, blind to the picture: near on the right."""
    width = x.shape[-1]
    place = (torch.arange(width, device=x.device) + 0.5) / width
    return (0.02 + 0.1 * place).expand(len(x), 1, *x.shape[-2:])


def views(batch: int = 2) -> Views:
    motion = torch.tensor([[0.1, 0.0, -0.1]]).repeat(batch, 1).requires_grad_()
    pose = pose_matrix(torch.zeros(batch, 3), motion)
    sources = [images(batch, 3, *SIZE, seed=s) for s in (1, 2)]
    intrinsics = K.repeat(batch, 1, 1)
    return Views(images(batch, 3, *SIZE), sources, intrinsics, [pose, pose])


def loss_of(
    model: nn.Module,
    reference: Tensor | Reference,
    options: PyramidSettings,
    *,
    scene: Views | None = None,
    visible: Tensor | None = None,
    warp_at: str = "full",
    automask: bool = False,
    epoch: float = 10,
    seed: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    scene = scene or views()
    ones = torch.ones(len(scene.target), 1, *SIZE, dtype=torch.bool)
    return pyramid_loss(
        model,
        scene.target,
        Reference(reference) if isinstance(reference, Tensor) else reference,
        ones if visible is None else visible,
        scene,
        options,
        jitter=JitterSettings(),
        ssim_weight=0.85,
        warp_at=warp_at,
        automask=automask,
        epoch=epoch,
        generator=seeded(seed),
    )


def seed_with(flips: list[bool]) -> int:
    """A generator seed whose first draws flip as asked."""
    for seed in range(100):
        generator = seeded(seed)
        if [bool(torch.rand((), generator=generator) < 0.5) for _ in flips] == flips:
            return seed
    raise AssertionError


# Altered views


def test_one_view_per_level_half_the_size_each() -> None:
    image = images(2, 3, 48, 84)
    for levels in (1, 2, 4):
        found = altered_views(image, settings(levels=levels), JitterSettings(), seeded())
        assert [view.level for view in found] == list(range(levels))
        sizes = [tuple(view.image.shape) for view in found]
        assert sizes == [(2, 3, 48, 84), (2, 3, 24, 42), (2, 3, 12, 21), (2, 3, 6, 10)][:levels]
        assert all(view.image.min() >= 0 and view.image.max() <= 1 for view in found)


def test_without_switches_a_view_is_the_smaller_picture() -> None:
    image = images(2, 3, 32, 48)
    found = altered_views(image, settings(flip=False, jitter=False), JitterSettings(), seeded())
    assert torch.equal(found[0].image, image)
    torch.testing.assert_close(found[1].image, F.avg_pool2d(image, 2))
    torch.testing.assert_close(found[2].image, F.avg_pool2d(image, 4))
    assert not any(view.flipped for view in found)


def test_half_of_the_views_are_mirrored_and_marked() -> None:
    image = images(1, 3, 8, 8)
    generator = seeded()
    options = settings(levels=1, jitter=False)
    flips = 0
    for _ in range(400):
        (view,) = altered_views(image, options, JitterSettings(), generator)
        assert torch.equal(view.image, image.flip(-1) if view.flipped else image)
        flips += view.flipped
    assert 160 < flips < 240  # four standard deviations


def test_relit_views_keep_their_geometry() -> None:
    image = images(2, 3, 32, 48)
    found = altered_views(image, settings(flip=False), JitterSettings(), seeded())
    assert all((view.image - F.avg_pool2d(image, 2**level)).abs().mean() > 0.005
               for level, view in enumerate(found))  # fmt: skip
    grey = image.mean(1).flatten()
    relit = found[0].image.mean(1).flatten()
    assert torch.corrcoef(torch.stack([grey, relit]))[0, 1] > 0.9


def test_draws_come_from_the_generator_alone() -> None:
    image = images(2, 3, 32, 48)
    torch.manual_seed(0)
    first = altered_views(image, settings(), JitterSettings(), seeded(3))
    torch.manual_seed(1)
    again = altered_views(image, settings(), JitterSettings(), seeded(3))
    other = altered_views(image, settings(), JitterSettings(), seeded(4))
    assert all(torch.equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a.image, b.image) for a, b in zip(first, other, strict=True))


def test_flip_and_size_are_undone() -> None:
    image = torch.zeros(1, 3, 32, 48)
    image[..., 8:16, 4:12] = 1
    seed = seed_with([True, False])
    options = settings(levels=2, jitter=False)
    for view in altered_views(image, options, JitterSettings(), seeded(seed)):
        assert view.flipped == (view.level == 0)
        back = unaltered(view, view.image[:, :1], image)
        assert back.shape == (1, 1, 32, 48)
        # The square is where it was; bilinear upsampling only blurs its edges.
        assert back[..., 10:14, 6:10].min() == 1
        assert back[..., 18:, :].max() == 0
        assert back[..., 16:].max() == 0


STEADY = JitterSettings(brightness=0, contrast=0, saturation=0, hue=0)


def luma(images: Tensor) -> Tensor:
    return (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(-3)


def test_gamma_is_drawn_between_0_8_and_1_2_for_each_image() -> None:
    image = 0.1 + 0.8 * images(200, 3, 4, 6)
    (view,) = altered_views(image, settings(levels=1, flip=False), STEADY, seeded())
    gamma = (view.image.log() / image.log()).flatten(1)
    assert (gamma - gamma[:, :1]).abs().max() < 1e-4  # one draw for the whole image
    assert 0.8 <= gamma.min() < 0.82
    assert 1.18 < gamma.max() <= 1.2


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_are_drawn_within_their_range(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "GAMMA", (1.0, 1.0))
    image = 0.35 + 0.3 * images(200, 3, 4, 6)
    jitter = STEADY.model_copy(update={name: 0.2})
    (view,) = altered_views(image, settings(levels=1, flip=False), jitter, seeded())
    pivots = {
        "brightness": torch.zeros(200, 1, 1, 1),
        "contrast": luma(image).mean((1, 2)).view(-1, 1, 1, 1),
        "saturation": luma(image)[:, None],
    }
    pivot = pivots[name]
    # By least squares over the image: pixels at the pivot say nothing.
    before, after = (image - pivot).flatten(1), (view.image - pivot).flatten(1)
    factor = (before * after).sum(1) / before.square().sum(1)
    assert (after - factor[:, None] * before).abs().max() < 1e-5
    assert 0.8 - 1e-5 <= factor.min() < 0.82
    assert 1.18 < factor.max() <= 1.2 + 1e-5


# Consistency


def test_consistency_closed_form() -> None:
    q = torch.tensor([[0.5, 2.0], [1.0, 4.0]], dtype=torch.float64).view(1, 1, 2, 2)
    factor = torch.tensor([[2.0, 0.5], [1.0, 1.1]], dtype=torch.float64).view(1, 1, 2, 2)
    d, r = ((inverse - 0.01) / 9.99 for inverse in (q * factor, q))
    everywhere = torch.ones_like(q)
    expected = ((factor.log() ** 2 + 1e-4).sqrt() - 0.01).mean()
    torch.testing.assert_close(consistency(d, r, everywhere), expected)
    mask = torch.tensor([[True, False], [True, False]]).view(1, 1, 2, 2)
    expected = ((factor.log() ** 2 + 1e-4).sqrt() - 0.01)[..., 0].mean()
    torch.testing.assert_close(consistency(d, r, mask), expected)
    assert consistency(r, r, everywhere) == 0


def test_a_model_without_left_and_right_agrees_with_itself() -> None:
    model = Spy(mirrored_equally)
    scene = views()
    reference = mirrored_equally(scene.target)
    for flips in ([True], [False]):
        options = settings(levels=1, **BARE)
        loss, _ = loss_of(model, reference, options, scene=scene, seed=seed_with(flips))
        assert loss < 1e-6
        assert torch.equal(model.inputs[-1], scene.target.flip(-1) if flips[0] else scene.target)


def test_a_model_that_looks_at_the_side_disagrees_when_mirrored() -> None:
    scene = views()
    reference = ramp(scene.target)
    options = settings(levels=1, **BARE)
    straight, _ = loss_of(Spy(ramp), reference, options, scene=scene, seed=seed_with([False]))
    mirrored, _ = loss_of(Spy(ramp), reference, options, scene=scene, seed=seed_with([True]))
    assert straight == 0
    q = 0.01 + 9.99 * reference.double()
    error = q.flip(-1).log() - q.log()
    expected = ((error**2 + 1e-4).sqrt() - 0.01).mean()
    assert mirrored.item() == pytest.approx(expected.item(), rel=1e-5)


def by_level(x: Tensor) -> Tensor:
    """Inverse depth 1, 2, 4, ... at full size, half of it, ..."""
    q = SIZE[0] / x.shape[-2]
    return torch.full((len(x), 1, *x.shape[-2:]), (q - 0.01) / 9.99)


def test_levels_weigh_less_and_less() -> None:
    reference = by_level(images(2, 3, *SIZE))
    loss, parts = loss_of(Spy(by_level), reference, settings(levels=3, **BARE))
    log2 = torch.tensor(2.0).log()
    rho = [((k * log2) ** 2 + 1e-4).sqrt().item() - 0.01 for k in range(3)]
    expected = (rho[0] + rho[1] / 2 + rho[2] / 4) / 1.75
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert parts["consistency"].item() == pytest.approx(expected, rel=1e-5)
    assert parts["photometric"] == 0


def rows(x: Tensor) -> Tensor:
    """A function of the row alone: neither a mirror nor other light changes it."""
    height = x.shape[-2]
    place = (torch.arange(height) + 0.5) / height
    return (0.02 + 0.1 * place)[:, None].expand(len(x), 1, *x.shape[-2:])


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
@pytest.mark.parametrize("flips", [[False], [True]])
def test_an_invariant_network_has_no_consistency_loss(kind: str, flips: list[bool]) -> None:
    """Mirrored and relit, full size; the other outputs are its averages, coarse in steps."""
    scene, model = views(), Spy(rows)
    options = settings(**{**BARE, "kind": kind, "levels": 1, "jitter": True})
    loss, _ = loss_of(model, rows(scene.target), options, scene=scene, seed=seed_with(flips))
    assert loss < 1e-8
    flipped = scene.target.flip(-1) if flips[0] else scene.target
    assert (model.inputs[-1] - flipped).abs().mean() > 0.005  # it was relit


def pixelwise(x: Tensor) -> Tensor:
    """Depends on each pixel's own colour, without symmetry in the colours."""
    return 0.02 + 0.1 * (0.6 * x[:, :1] ** 2 + 0.3 * x[:, 1:2] * x[:, 2:])


def test_flips_are_undone_to_the_bit() -> None:
    image = images(2, 3, *SIZE)
    options = settings(levels=1, jitter=False)
    (view,) = altered_views(image, options, JitterSettings(), seeded(seed_with([True])))
    assert view.flipped
    assert torch.equal(unaltered(view, pixelwise(view.image), image), pixelwise(image))


def test_consistency_grows_over_the_warm_up() -> None:
    reference = by_level(images(2, 3, *SIZE))
    options = {**BARE, "warmup_epochs": 2, "consistency_weight": 0.3, "levels": 2}
    whole = loss_of(Spy(by_level), reference, settings(**{**BARE, "levels": 2}))[0]
    for epoch, share in ((0.0, 0.0), (0.5, 0.25), (2.0, 1.0), (7.0, 1.0)):
        loss, _ = loss_of(Spy(by_level), reference, settings(**options), epoch=epoch)
        torch.testing.assert_close(loss, 0.3 * share * whole)


def test_consistency_counts_visible_pixels_only() -> None:
    visible = torch.zeros(2, 1, *SIZE, dtype=torch.bool)
    options = settings(levels=1, **BARE)
    reference = ramp(images(2, 3, *SIZE))
    seed = seed_with([True])
    visible[..., 47:49] = True  # next to the mirror's axis the ramp differs least
    middle, _ = loss_of(Spy(ramp), reference, options, visible=visible, seed=seed)
    everywhere, _ = loss_of(Spy(ramp), reference, options, seed=seed)
    assert middle < 0.1 * everywhere
    nowhere, _ = loss_of(Spy(ramp), reference, options, visible=visible & False, seed=seed)
    assert nowhere == 0


# Photometric term


@pytest.mark.parametrize("flips", [[False, False], [True, False], [False, True]])
def test_photometric_term_compares_clean_pictures_at_full_size(flips: list[bool]) -> None:
    scene = views()
    options = settings(levels=2, jitter=False, consistency_weight=0)
    model = Spy(mirrored_equally)
    seed = seed_with(flips)
    loss, parts = loss_of(model, mirrored_equally(scene.target), options, scene=scene, seed=seed)
    expected, levels = 0.0, []
    for level, flip in enumerate(flips):
        picture = F.avg_pool2d(scene.target, 2) if level else scene.target
        outputs = Spy(mirrored_equally)(picture.flip(-1) if flip else picture)
        outputs = [o.flip(-1) if flip else o for o in outputs]
        errors = []
        for output in outputs[: 1 if level else 3]:
            full = F.interpolate(output, SIZE, mode="bilinear", align_corners=False)
            errors.append(warped_error(scene, disparity_to_depth(full), 0.85)[0].mean().item())
        weights = [1, 0.5, 0.25][: len(errors)]
        mean = sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)
        levels.append(mean)
    expected = (levels[0] + levels[1] / 2) / 1.5
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert parts["photometric"].item() == pytest.approx(expected, rel=1e-4)


def test_cameras_and_motions_stay_those_of_the_frame() -> None:
    """A pixelwise network mirrored is the network: with cx off the centre, a camera that was
    mirrored with the view would warp by another one.
    """
    scene = views()
    before = scene.intrinsics.clone(), [pose.detach().clone() for pose in scene.poses]
    assert abs(K[0, 0, 2] - (SIZE[1] - 1) / 2) > 1
    options = settings(levels=1, jitter=False, consistency_weight=0)
    losses = [
        loss_of(Spy(pixelwise), pixelwise(scene.target), options, scene=scene, seed=seed)[0]
        for seed in (seed_with([False]), seed_with([True]))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    assert torch.equal(scene.intrinsics, before[0])
    assert all(torch.equal(a, b) for a, b in zip(scene.poses, before[1], strict=True))
    # The test would notice: a mirrored camera gives another loss.
    mirrored = scene.intrinsics.clone()
    mirrored[:, 0, 2] = SIZE[1] - 1 - mirrored[:, 0, 2]
    other = Views(scene.target, scene.sources, mirrored, scene.poses)
    found, _ = loss_of(Spy(pixelwise), pixelwise(scene.target), options, scene=other,
                       seed=seed_with([True]))  # fmt: skip
    assert (found - losses[0]).abs() > 1e-5


def test_at_own_size_a_level_is_compared_with_small_pictures() -> None:
    scene = views()
    options = settings(levels=2, jitter=False, flip=False, consistency_weight=0)
    reference = mirrored_equally(scene.target)
    model = Spy(mirrored_equally)
    loss, _ = loss_of(model, reference, options, scene=scene, warp_at="scale")
    errors = []
    for level in range(2):
        own = scene.resized(SIZE[0] // 2**level, SIZE[1] // 2**level)
        # The finest output has the level's size, but goes there by way of the full one.
        d = mirrored_equally(own.target)
        d = F.interpolate(d, SIZE, mode="bilinear", align_corners=False)
        d = F.interpolate(d, own.target.shape[-2:], mode="bilinear", align_corners=False)
        errors.append(warped_error(own, disparity_to_depth(d), 0.85)[0].mean().item())
    assert loss.item() == pytest.approx((errors[0] + errors[1] / 2) / 1.5, rel=1e-4)


@pytest.mark.parametrize("warp_at", ["full", "scale"])
def test_photometric_term_counts_visible_pixels_only(warp_at: str) -> None:
    scene = views()
    # The hidden half is flat in all pictures and costs next to nothing.
    for image in (scene.target, *scene.sources):
        image[..., :48] = 0.5
    options = settings(levels=2, jitter=False, flip=False, consistency_weight=0)
    reference = mirrored_equally(scene.target)
    visible = torch.zeros(2, 1, *SIZE, dtype=torch.bool)
    visible[..., 48:] = True
    errors = []
    for level in range(2):
        own = scene.resized(SIZE[0] // 2**level, SIZE[1] // 2**level)
        seen = own if warp_at == "scale" else scene
        depth = disparity_to_depth(torch.full_like(seen.target[:, :1], 0.05))
        error, _ = warped_error(seen, depth, 0.85)
        errors.append(error[..., error.shape[-1] // 2 :].mean().item())
    constant = Spy(lambda x: torch.full((len(x), 1, *x.shape[-2:]), 0.05))
    loss, _ = loss_of(constant, reference, options, scene=scene, visible=visible, warp_at=warp_at)
    assert loss.item() == pytest.approx((errors[0] + errors[1] / 2) / 1.5, rel=1e-4)
    everywhere, _ = loss_of(constant, reference, options, scene=scene, warp_at=warp_at)
    assert everywhere < 0.8 * loss


def test_model_sees_relit_pictures_but_the_loss_does_not() -> None:
    scene = views()
    constant = Spy(lambda x: torch.full((len(x), 1, *x.shape[-2:]), 0.05))
    options: dict[str, Any] = {"consistency_weight": 0, "levels": 2}
    reference = constant(scene.target)[0]
    relit, _ = loss_of(constant, reference, settings(**options), scene=scene)
    seen = constant.inputs[-2]
    clean, _ = loss_of(constant, reference, settings(jitter=False, **options), scene=scene)
    assert (seen - constant.inputs[-2]).abs().max() > 0.01
    torch.testing.assert_close(relit, clean)


# A real student: gradients and running statistics


@pytest.fixture
def student() -> SmallDepth:
    torch.manual_seed(0)
    return SmallDepth("ac", etm_space="activation", width=0.25).train()


def test_gradient_reaches_the_model_and_nothing_else(student: SmallDepth) -> None:
    motion = torch.tensor([[0.1, 0.0, -0.1]]).repeat(2, 1).requires_grad_()
    scene = views()
    pose = pose_matrix(torch.zeros(2, 3), motion)
    scene = Views(scene.target, scene.sources, scene.intrinsics, [pose, pose])
    reference = (0.05 * images(2, 1, *SIZE, seed=9)).requires_grad_()
    loss, parts = loss_of(student, reference, settings(levels=2), scene=scene)
    loss.backward()
    assert motion.grad is None
    assert reference.grad is None
    assert not any(part.requires_grad for part in parts.values())
    dead = [n for n, p in student.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_consistency_alone_teaches_the_model(student: SmallDepth) -> None:
    reference = 0.05 * images(2, 1, *SIZE, seed=9)
    loss, _ = loss_of(student, reference, settings(levels=2, **BARE))
    loss.backward()
    reached = [p.grad is not None and bool(p.grad.any()) for p in student.parameters()]
    assert sum(reached) > 0.8 * len(reached)


@pytest.mark.parametrize("space", ["activation", "kernel"])
def test_running_statistics_come_from_clean_pictures_only(space: Any) -> None:
    torch.manual_seed(0)
    model = SmallDepth("ac", etm_space=space, width=0.25).train()
    model(images(2, 3, *SIZE))
    statistics = {n: b.clone() for n, b in model.named_buffers() if "running" in n}
    assert statistics
    reference = 0.05 * images(2, 1, *SIZE, seed=9)
    loss_of(model, reference, settings(levels=2))
    after = dict(model.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in statistics.items())
    # ... and clean pictures still count afterwards.
    model(images(2, 3, *SIZE, seed=3))
    assert not any(torch.equal(value, after[name]) for name, value in statistics.items())


def test_altered_views_are_normalised_by_their_own_statistics() -> None:
    norm = nn.BatchNorm2d(3).train()
    with frozen_running_statistics(norm):
        out = norm(5 + 3 * images(4, 3, 8, 8))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert norm.running_mean is not None
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("momentum", [0.1, None])
def test_not_even_an_infinite_activation_reaches_the_statistics(momentum: float | None) -> None:
    norm = nn.BatchNorm2d(3, momentum=momentum).train()
    image = images(4, 3, 8, 8)
    image[0, 0, 0, 0] = torch.inf
    with frozen_running_statistics(norm):
        norm(image)
    expected = nn.BatchNorm2d(3, momentum=momentum).train()
    for layer in (norm, expected):
        layer(images(4, 3, 8, 8, seed=2))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), expected.buffers(), strict=True))


def test_tracking_comes_back_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(RuntimeError), frozen_running_statistics(model):
        raise RuntimeError
    assert [layer.track_running_stats for layer in model] == [True, False]


def test_same_generator_same_loss(student: SmallDepth) -> None:
    reference = 0.05 * images(2, 1, *SIZE, seed=9)
    losses = [loss_of(student, reference, settings(levels=2), seed=s)[0].item() for s in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


# kind: outputs


def by_scale(x: Tensor) -> list[Tensor]:
    """Inverse depth 1, 2 and 4 on the three output scales."""
    size = x.shape[-2:]
    return [
        torch.full((len(x), 1, size[0] // 2**s, size[1] // 2**s), (2.0**s - 0.01) / 9.99)
        for s in range(3)
    ]


class Outputs(nn.Module):
    """Predicts `by_scale`, and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> list[Tensor]:
        self.inputs.append(x)
        return by_scale(x)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_each_output_scale_agrees_alone(levels: int) -> None:
    model = Outputs()
    reference = by_scale(images(2, 3, *SIZE))[0]
    loss, _ = loss_of(model, reference, settings(kind="outputs", **{**BARE, "levels": levels}))
    assert [tuple(x.shape) for x in model.inputs] == [(2, 3, *SIZE)]  # one view, of full size
    rho = [math.hypot(k * math.log(2), 0.01) - 0.01 for k in range(levels)]
    weights = [1, 0.5, 0.25][:levels]
    expected = sum(w * r for w, r in zip(weights, rho, strict=True)) / sum(weights)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("warp_at", ["full", "scale"])
def test_each_output_scale_explains_the_clean_images_alone(warp_at: str) -> None:
    scene = views()
    options = settings(kind="outputs", consistency_weight=0)
    loss, _ = loss_of(Outputs(), scene.target[:, :1], options, scene=scene, warp_at=warp_at)
    errors = []
    for scale in range(3):
        size = [side // 2**scale for side in SIZE] if warp_at == "scale" else SIZE
        seen = scene.resized(*size)
        depth = torch.full((2, 1, *size), 0.5**scale)  # inverse depth 2^s
        errors.append(warped_error(seen, depth, 0.85)[0].mean().item())
    expected = (errors[0] + errors[1] / 2 + errors[2] / 4) / 1.75
    assert loss.item() == pytest.approx(expected, rel=1e-4)


# kind: features


class Encoder(nn.Module):
    """Five stages of stride 2 that average; with `sided`, channels tell left from right."""

    def __init__(self, sided: bool = False) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.AvgPool2d(2) for _ in range(5))
        self.sided = sided

    def forward(self, x: Tensor) -> list[Tensor]:
        disparity = mirrored_equally(x)
        if self.sided:
            left, right = torch.ones_like(x), torch.ones_like(x)
            left[:, 1:], right[:, :2] = 0, 0
            half = x.shape[-1] // 2
            x = torch.cat([left[..., :half], right[..., half:]], -1)
        for stage in self.encoder:
            x = stage(x)
        return [disparity]


def reference_of(model: nn.Module, image: Tensor) -> Reference:
    with encoder_features(model, wanted=True) as features:
        disparities = model(image)
    return Reference(disparities[0], features)


def test_features_of_the_chosen_stages_are_collected_and_hooks_removed() -> None:
    model, image = Encoder(), images(2, 3, *SIZE)
    features = reference_of(model, image).features
    expected = [F.avg_pool2d(image, 2 ** (stage + 1)) for stage in FEATURE_STAGES]
    for found, average in zip(features, expected, strict=True):
        torch.testing.assert_close(found, average)
    before = len(features)
    model(image)
    assert len(features) == before
    with encoder_features(Spy(ramp), wanted=False) as nothing:
        assert nothing == []


def test_agreement_is_one_minus_the_cosine_over_visible_pixels() -> None:
    """Angles of 0 and 60 degrees, lengths without effect; zero vectors agree."""
    plain = AlteredView(0, torch.empty(0), flipped=False)
    clean = torch.tensor([[2.0, 3.0], [0.0, 0.0]]).view(1, 2, 1, 2)  # two pixels, both along x
    altered = torch.tensor([[5.0, 0.5], [0.0, math.sqrt(0.75)]]).view(1, 2, 1, 2)
    mask = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    found = feature_agreement(plain, [altered], [clean], mask)
    assert found.item() == pytest.approx(0.25)  # mean of 0 and 1 - cos 60 degrees
    mask[..., 1] = False
    assert feature_agreement(plain, [altered], [clean], mask).item() == pytest.approx(0)
    zero = torch.zeros_like(clean)
    assert feature_agreement(plain, [zero], [zero], mask) == 0
    # Stages count alike, whatever their size.
    mask[:] = True
    both = feature_agreement(plain, [altered, clean], [clean, clean], mask)
    assert both.item() == pytest.approx(0.125)


@pytest.mark.parametrize("flips", [[False, False], [True, True]])
def test_an_equivariant_encoder_agrees_with_itself(flips: list[bool]) -> None:
    scene, model = views(), Encoder()
    options = settings(kind="features", **{**BARE, "levels": 1})
    reference = reference_of(model, scene.target)
    loss, parts = loss_of(model, reference, options, scene=scene, seed=seed_with(flips))
    assert loss < 1e-6
    assert parts["consistency"] == loss


def test_an_encoder_that_knows_the_side_disagrees_when_mirrored() -> None:
    scene, model = views(), Encoder(sided=True)
    options = settings(kind="features", **{**BARE, "levels": 1})
    reference = reference_of(model, scene.target)
    straight, _ = loss_of(model, reference, options, scene=scene, seed=seed_with([False]))
    mirrored, _ = loss_of(model, reference, options, scene=scene, seed=seed_with([True]))
    # Left pixels lie along one channel, right ones along another: at right angles everywhere, but
    # for the coarsest stage, whose 3 columns have the border in the middle one.
    assert straight == 0
    assert mirrored.item() == pytest.approx((1 + 1 + 2 / 3) / 3, rel=1e-5)


def test_features_of_a_small_view_are_brought_to_the_clean_ones_size() -> None:
    """Averages of a picture that is constant are the same at any size."""
    scene = views()
    flat = Views(scene.target * 0 + 0.4, scene.sources, scene.intrinsics, scene.poses)
    options = settings(kind="features", **{**BARE, "levels": 2})
    model = Encoder()
    loss, _ = loss_of(model, reference_of(model, flat.target), options, scene=flat)
    assert loss < 1e-10


# The reference


def test_post_processed_reference_is_the_mean_of_both_orientations() -> None:
    """A network that sees a ramp everywhere: the mean with its mirror image is flat."""
    scene, model = views(), Spy(ramp)
    options = settings(reference="post_processed", **{**BARE, "levels": 1})
    seed = seed_with([False])
    loss, _ = loss_of(model, ramp(scene.target), options, scene=scene, seed=seed)
    assert torch.equal(model.inputs[0], scene.target.flip(-1))
    q = 0.01 + 9.99 * ramp(scene.target).double()
    flat = 0.01 + 9.99 * (0.02 + 0.1 * 0.5)
    expected = (((q / flat).log() ** 2 + 1e-4).sqrt() - 0.01).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_post_processing_leaves_no_trace(student: SmallDepth) -> None:
    scene = views()
    reference = student(scene.target)[0]
    before = {name: value.clone() for name, value in student.named_buffers()}
    options = settings(reference="post_processed", levels=2)
    loss, _ = loss_of(student, reference, options, scene=scene)
    assert all(torch.equal(value, before[name]) for name, value in student.named_buffers())
    plain, _ = loss_of(student, reference, settings(levels=2), scene=scene)
    assert (loss - plain).abs() > 1e-6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "outputs", "levels": 4}, "levels must be at most 3"),
        ({"kind": "features", "reference": "post_processed"}, "reference must be clean"),
        ({"kind": "windows"}, "'inputs', 'outputs' or 'features'"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FadepthError, match=words):
        parse_config({"loss": {"pyramid": changes}}, "here")


# Every kind

KINDS: list[dict[str, Any]] = [
    {"kind": "inputs"},
    {"kind": "outputs"},
    {"kind": "features"},
    {"kind": "inputs", "reference": "post_processed"},
]


@pytest.mark.parametrize("changes", KINDS)
def test_no_gradient_goes_through_the_reference(
    changes: dict[str, Any], student: SmallDepth
) -> None:
    """The gradient is that for a reference of numbers, without a graph behind it."""
    scene = views()
    options = settings(levels=2, warmup_epochs=0, consistency_weight=1.0, **changes)
    gradients = []
    for detached in (False, True):
        student.zero_grad(set_to_none=True)
        reference = reference_of(student, scene.target)
        if detached:
            features = [f.detach() for f in reference.features]
            reference = Reference(reference.disparity.detach(), features)
        loss_of(student, reference, options, scene=scene)[0].backward()
        gradients.append([p.grad for p in student.parameters()])
    reached = 0
    for one, other in zip(*gradients, strict=True):
        if one is None or other is None:  # a head that two levels do not use
            assert one is None and other is None
            continue
        assert torch.equal(one, other)
        reached += 1
    assert reached > 0.9 * len(gradients[0])


@pytest.mark.parametrize("changes", KINDS)
def test_no_kind_touches_running_statistics(changes: dict[str, Any], student: SmallDepth) -> None:
    scene = views()
    reference = reference_of(student, scene.target)
    before = {name: value.clone() for name, value in student.named_buffers()}
    assert any("num_batches_tracked" in name for name in before)
    loss_of(student, reference, settings(levels=2, **changes), scene=scene)
    assert all(torch.equal(value, before[name]) for name, value in student.named_buffers())


@pytest.mark.parametrize("changes", KINDS)
def test_the_loss_falls_when_it_is_followed(changes: dict[str, Any], student: SmallDepth) -> None:
    scene = views()
    fixed = Views(scene.target, scene.sources, scene.intrinsics, [p.detach() for p in scene.poses])
    options = settings(levels=2, warmup_epochs=0, consistency_weight=1.0, **changes)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    target = reference_of(student, fixed.target)
    losses = []
    for _ in range(6):
        loss, parts = loss_of(student, target, options, scene=fixed, seed=seed_with([True, False]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((loss.item(), parts["consistency"].item()))
    assert losses[-1][0] < 0.95 * losses[0][0]
    assert losses[-1][1] < 0.9 * losses[0][1]


# Auto-mask


@pytest.mark.parametrize("warp_at", ["full", "scale"])
def test_what_stands_still_costs_nothing_with_the_automask(warp_at: str) -> None:
    """Neighbours equal to the target: the motion is wrong everywhere, the unwarped ones explain."""
    moving = views()
    still = Views(moving.target, [moving.target] * 2, moving.intrinsics, moving.poses)
    reference = ramp(still.target)
    options = settings(levels=2, consistency_weight=0.0)
    masked, _ = loss_of(Spy(ramp), reference, options, scene=still, warp_at=warp_at, automask=True)
    plain, _ = loss_of(Spy(ramp), reference, options, scene=still, warp_at=warp_at)
    assert float(masked) < 1e-6 < 1e-2 < float(plain)
