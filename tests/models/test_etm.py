"""ETM: folding is exact, and what cannot fold is refused."""

import contextlib
import copy
import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any, cast
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fadepth.errors import FadepthError
from fadepth.models.etm import (
    BRANCH_SETS,
    Branch,
    BranchFactory,
    Column,
    DepthwisePoint,
    Dilated,
    EtmConv2d,
    Identity,
    Layer,
    Mean,
    MirroredSquare,
    PaddingMode,
    Point,
    PointFilters,
    PointMean,
    PointSquare,
    Row,
    Scale,
    Space,
    Square,
    SquarePoint,
    TwoSquares,
    Window,
    compose,
    fold,
    kernels_summed_once,
    regroup,
)

PADDING_MODES: tuple[PaddingMode, ...] = ("zeros", "reflect", "replicate")
FIRST_WEIGHT = "branches.0.layers.0.weight"
SIZES = ((8, 10), (9, 11), (7, 12), (10, 9))
KINDS: list[type[Branch]] = [Square, *BRANCH_SETS["all"]]


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Give every norm statistics and weights far from their initial values."""

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator, dtype=like.dtype)

    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = draw(part.get_buffer("running_mean"), -0.5, 0.5)
            part.running_var = draw(part.get_buffer("running_var"), 0.5, 2.0)
            if part.affine:
                part.weight.data = draw(part.weight, -1.5, 1.5)
                part.bias.data = draw(part.bias, -1.0, 1.0)
        elif isinstance(part, Scale):
            part.weight.data = draw(part.weight, -1.5, 1.5)


def sum_of_branches(unit: EtmConv2d, x: Tensor) -> Tensor:
    """The unit's definition, branch by branch, whatever its space."""
    p = unit.window.padding
    mode = "constant" if unit.padding_mode == "zeros" else unit.padding_mode
    padded = F.pad(x, (p, p, p, p), mode) if p else x
    return unit.norm(sum(branch(padded, x) for branch in unit.branches))


def random_units(kernel: int, branches: str, space: Space) -> list[EtmConv2d]:
    """All strides and groupings; channel relations and padding modes in turn."""
    units: list[EtmConv2d] = []
    for stride, groups in itertools.product((1, 2), (1, 2, 4, 8)):  # 8 of 8: depthwise
        turn = len(units) + kernel // 2
        unit = EtmConv2d(
            8, (8, 16)[(turn + turn // 4) % 2], kernel, stride, groups,
            branches=branches, space=space, padding_mode=PADDING_MODES[turn % 3],
        )  # fmt: skip
        units.append(unit)
    return units


@pytest.mark.parametrize("space", ["activation", "kernel"])
@pytest.mark.parametrize("branches", BRANCH_SETS)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@torch.no_grad()
def test_folded_unit_equals_the_sum_of_its_branches(
    kernel: int, branches: str, space: Space
) -> None:
    torch.manual_seed(kernel)
    generator = torch.Generator().manual_seed(kernel)
    for index, unit in enumerate(random_units(kernel, branches, space)):
        randomise(unit, generator)
        unit.eval()
        x = torch.randn(2, 8, *SIZES[index % len(SIZES)], generator=generator)
        expected = sum_of_branches(unit, x)
        assert expected.std() > 0.05
        scale = expected.abs().max().item() if kernel == 7 else 1.0
        folded = unit.fold_unit()
        assert (folded(x) - expected).abs().max() <= 1e-5 * scale
        assert (folded(x) - unit(x)).abs().max() <= 1e-5 * scale

        precise, x64 = unit.double(), x.double()
        error = (precise.fold_unit()(x64) - sum_of_branches(precise, x64)).abs().max()
        assert error <= 1e-10, f"{unit.window}, {unit.padding_mode}"


def draw_unit(draw: random.Random) -> EtmConv2d:
    """A unit with one to all kinds of branches, some twice, each with groups of its own."""
    kernel, stride = draw.choice((1, 3, 5, 7)), draw.choice((1, 2))
    c_in = draw.choice((4, 6, 8, 12))
    c_out = draw.choice((c_in, c_in, 4, 8, 12, 18))
    common = math.gcd(c_in, c_out)
    divisors = [g for g in range(1, common + 1) if common % g == 0]
    groups = draw.choice(divisors)
    window = Window(c_in, c_out, kernel, stride, groups, "bn")
    possible = [kind for kind in KINDS if kind.obstacle(window) is None]
    kinds: list[BranchFactory] = [
        partial(kind, groups=draw.choice([g for g in divisors if g % groups == 0]))
        for kind in draw.choices(possible, k=draw.randint(1, len(possible)))
    ]
    return EtmConv2d(
        c_in, c_out, kernel, stride, groups, branches=kinds,
        space=draw.choice(("activation", "kernel")), padding_mode=draw.choice(PADDING_MODES),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
@torch.no_grad()
def test_random_units_fold_exactly(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        unit = draw_unit(draw).eval()
        randomise(unit, generator)
        for part in unit.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps = draw.choice((1e-5, 1e-3))
        x = torch.randn(2, unit.window.in_channels, *draw.choice(SIZES), generator=generator)
        expected = sum_of_branches(unit, x)
        scale = expected.abs().max().item() if unit.window.kernel_size == 7 else 1.0
        assert (unit.fold_unit()(x) - expected).abs().max() <= 1e-5 * scale, unit
        precise, x64 = unit.double(), x.double()
        error = (precise.fold_unit()(x64) - sum_of_branches(precise, x64)).abs().max()
        assert error <= 1e-10, unit


def test_every_kind_of_branch_is_in_the_set_all() -> None:
    kinds = {type(b) for b in EtmConv2d(4, 4, 5, branches="all").branches}
    # MirroredSquare contains the plain square.
    assert kinds == set(BRANCH_SETS["all"])
    assert {k for kinds in BRANCH_SETS.values() for k in kinds} - kinds == {Square}


@pytest.mark.parametrize("branches", BRANCH_SETS)
def test_folded_shape_does_not_depend_on_the_branches(branches: str) -> None:
    conv = EtmConv2d(8, 16, 3, 2, 4, branches=branches, padding_mode="reflect").fold_unit()
    plain = nn.Conv2d(8, 16, 3, 2, 1, groups=4, padding_mode="reflect")
    assert repr(conv) == repr(plain)
    assert {k: v.shape for k, v in conv.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }


@pytest.mark.parametrize("space", ["activation", "kernel"])
def test_off_is_convolution_and_batch_norm_while_training(space: Space) -> None:
    torch.manual_seed(0)
    unit = EtmConv2d(6, 4, 3, 2, branches="off", space=space).train()
    assert sum(p.numel() for p in unit.parameters()) == 4 * 6 * 9 + 2 * 4
    reference = nn.Sequential(nn.Conv2d(6, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)).train()
    reference.load_state_dict({"0.weight": unit.get_parameter(FIRST_WEIGHT)}, strict=False)
    x = torch.randn(3, 6, 9, 10)
    torch.testing.assert_close(unit(x), reference(x))


def test_kernel_space_is_the_sum_of_branches_in_training_too() -> None:
    torch.manual_seed(0)
    unit = EtmConv2d(8, 8, 5, groups=2, branches="all", space="kernel").double().train()
    randomise(unit, torch.Generator().manual_seed(0))
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(unit(x), sum_of_branches(unit, x), rtol=0, atol=1e-10)


def test_activation_space_adds_one_batch_norm_per_branch() -> None:
    torch.manual_seed(0)
    unit = EtmConv2d(4, 4, 3, branches=[Square, Identity]).train()
    x = torch.randn(5, 4, 6, 6)
    convolved = F.conv2d(x, unit.get_parameter(FIRST_WEIGHT), padding=1)
    expected = F.batch_norm(convolved, None, None, training=True)
    expected = expected + F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(unit(x), expected)


# ------------------------------------------------------------------------------- the algebra


def test_regroup_writes_the_same_map_with_fewer_groups() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 12, 5, 5, dtype=torch.float64)
    for groups, target in [(12, 1), (6, 3), (12, 4), (4, 4)]:
        kernel = torch.randn(24, 12 // groups, 3, 3, dtype=torch.float64)
        wide = regroup(kernel, groups, target)
        assert wide.shape == (24, 12 // target, 3, 3)
        torch.testing.assert_close(
            F.conv2d(x, wide, groups=target), F.conv2d(x, kernel, groups=groups)
        )


@pytest.mark.parametrize(("size1", "size2"), [(1, 3), (3, 1), (3, 3), (5, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_compose_equals_one_convolution_after_the_other(
    size1: int, size2: int, groups: int
) -> None:
    torch.manual_seed(0)
    first = (torch.randn(6, 4 // groups, size1, size1).double(), torch.randn(6).double())
    second = (torch.randn(8, 6 // groups, size2, size2).double(), torch.randn(8).double())
    x = torch.randn(2, 4, 9, 10).double()
    expected = F.conv2d(F.conv2d(x, *first, groups=groups), *second, groups=groups)
    torch.testing.assert_close(
        F.conv2d(x, *compose(first, second, groups), groups=groups), expected
    )


def test_closed_form_kernels() -> None:
    a, c = 1 / (1 + 1e-5) ** 0.5, 0.0  # a fresh batch norm in evaluation
    delta = torch.zeros(4, 2, 3, 3)
    for out_channel, in_channel in enumerate([0, 1, 0, 1]):  # i = o mod (C / g)
        delta[out_channel, in_channel, 1, 1] = a
    identity = EtmConv2d(4, 4, 3, groups=2, branches=[Identity]).fold_unit()
    torch.testing.assert_close(identity.weight.data, delta)
    torch.testing.assert_close(identity.state_dict()["bias"], torch.full((4,), c))

    mean = EtmConv2d(1, 1, 5, branches=[Mean]).fold_unit()
    torch.testing.assert_close(mean.weight.data, torch.full((1, 1, 5, 5), a / 25))

    mirrored = EtmConv2d(3, 2, 3, branches=[MirroredSquare]).fold_unit()
    torch.testing.assert_close(mirrored.weight.data, mirrored.weight.data.flip(-1))

    row = EtmConv2d(3, 2, 3, branches=[Row]).fold_unit()
    assert row.weight[:, :, 1].abs().min() > 0
    assert row.weight[:, :, [0, 2]].abs().max() == 0


def weight(branch: Branch, index: int = 0) -> Tensor:
    return branch.chain()[index].get_parameter("weight")


def filtered(branch: Branch, z: Tensor, stride: int) -> Tensor:
    """Each channel's mix of Sobel x / 4, Sobel y / 4, Laplace / 4 and itself, written out."""
    sobel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]).double() / 4
    laplace = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).double() / 4
    mix = branch.chain()[1].get_parameter("mix")[..., None, None]
    result = z[..., ::stride, ::stride] * mix[:, 3]
    for column, kernel in enumerate((sobel, sobel.T, laplace)):
        response = F.conv2d(z.flatten(0, 1)[:, None], kernel[None, None], None, stride, 1)
        result = result + response.view_as(result) * mix[:, column]
    return result


def two_squares(branch: Branch, x: Tensor, stride: int) -> Tensor:
    inner = F.conv2d(F.pad(x, (2, 2, 2, 2)), weight(branch))
    return F.conv2d(inner, weight(branch, 1), stride=stride)


def conv(x: Tensor, kernel: Tensor, stride: int = 1, padding: Any = 0, **options: int) -> Tensor:
    return F.conv2d(x, kernel, None, stride, padding, **options)


Definition = Callable[[Branch, Tensor, int], Tensor]
DEFINITIONS: dict[type[Branch], Definition] = {
    Square: lambda b, x, s: conv(x, weight(b), s, 2),
    MirroredSquare: lambda b, x, s: (
        conv(x, weight(b), s, 2) + conv(x.flip(-1), weight(b), 1, 2).flip(-1)[..., ::s, ::s]
    ),
    Point: lambda b, x, s: conv(x[..., ::s, ::s], weight(b)),
    Identity: lambda b, x, s: x,
    Row: lambda b, x, s: conv(x, weight(b), s, (0, 2)),
    Column: lambda b, x, s: conv(x, weight(b), s, (2, 0)),
    Mean: lambda b, x, s: F.avg_pool2d(x, 5, s, 2, count_include_pad=True),
    Dilated: lambda b, x, s: conv(x, weight(b), s, 2, dilation=2),
    PointSquare: lambda b, x, s: conv(conv(x, weight(b)), weight(b, 1), s, 2),
    PointMean: lambda b, x, s: F.avg_pool2d(conv(x, weight(b)), 5, s, 2),
    PointFilters: lambda b, x, s: filtered(b, conv(x, weight(b)), s),
    SquarePoint: lambda b, x, s: conv(conv(x, weight(b), s, 2), weight(b, 1)),
    DepthwisePoint: lambda b, x, s: conv(conv(x, weight(b), s, 2, groups=4), weight(b, 1)),
    TwoSquares: two_squares,
}
"""What each kind computes in a 5x5 unit of 4 channels without norms, in plain torch calls."""


@pytest.mark.parametrize(
    ("kind", "stride"),
    [(kind, stride) for kind in KINDS for stride in (1, 2) if (kind, stride) != (Identity, 2)],
)
@torch.no_grad()
def test_each_kind_computes_what_it_says(kind: type[Branch], stride: int) -> None:
    torch.manual_seed(0)
    unit = EtmConv2d(4, 4, 5, stride, branches=[kind], space="kernel").double().eval()
    x = torch.randn(2, 4, 9, 12, dtype=torch.float64)
    (branch,) = unit._kinds()
    expected = DEFINITIONS[kind](branch, x, stride) / (1 + 1e-5) ** 0.5  # a fresh batch norm
    assert expected.std() > 0.05
    torch.testing.assert_close(unit.fold_unit()(x), expected, rtol=0, atol=1e-12)


def test_padding_between_layers_would_not_fold() -> None:
    """Why units pad first: 1x1 + BN, zero padding and 3x3 is no 3x3 convolution at the border."""
    torch.manual_seed(0)
    unit = EtmConv2d(4, 4, 3, branches=[PointSquare]).double().eval()
    randomise(unit, torch.Generator().manual_seed(0))
    (branch,) = unit._kinds()
    point, square = branch.chain()
    x = torch.randn(1, 4, 8, 9, dtype=torch.float64)
    late = square(F.pad(point(x), (1, 1, 1, 1)))
    difference = (unit.fold_unit()(x) - late).abs()
    assert difference[..., 1:-1, 1:-1].max() <= 1e-10
    assert difference.max() > 0.1


def test_sparser_branches_fold_into_a_denser_unit() -> None:
    torch.manual_seed(0)
    kinds: list[BranchFactory] = [
        Square, partial(Point, groups=8), partial(SquarePoint, groups=4), DepthwisePoint
    ]  # fmt: skip
    unit = EtmConv2d(8, 8, 3, groups=2, branches=kinds).double().eval()
    randomise(unit, torch.Generator().manual_seed(0))
    x = torch.randn(1, 8, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(unit.fold_unit()(x), unit(x), rtol=0, atol=1e-10)


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", [Square, Point, Row, SquarePoint, TwoSquares])
def test_a_denser_branch_is_refused(kind: type) -> None:
    with pytest.raises(FadepthError, match="2 groups is denser than its unit with 4"):
        EtmConv2d(8, 8, 5, groups=4, branches=[Square, partial(kind, groups=2)])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 4, 3, 2), {"branches": [Identity]}, "needs stride 1"),
        ((4, 8, 3), {"branches": [Identity]}, "4 -> 8"),
        ((4, 8, 3), {"branches": [Mean]}, "4 -> 8"),
        ((4, 4, 3), {"branches": [TwoSquares]}, "needs a 5x5 kernel"),
        ((4, 4, 1), {"branches": [Point]}, "larger than 1x1"),
        ((8, 8, 3), {"branches": [partial(Point, groups=3)]}, "3 groups do not divide"),
        ((4, 4, 3), {"branches": []}, "at least one branch"),
        ((4, 4, 3), {"branches": "repvgg"}, "unknown ETM branch set 'repvgg'"),
        ((4, 4, 3), {"space": "kernels"}, "'activation' or 'kernel'"),
        ((4, 4, 3), {"padding_mode": "circular"}, "padding_mode"),
        ((4, 4, 4), {}, "kernel_size must be"),
        ((4, 4, 3, 3), {}, "stride must be"),
        ((4, 6, 3, 1, 4), {}, "4 does not divide 4 and 6"),
    ],
)
def test_what_cannot_fold_is_refused_in_one_sentence(
    arguments: tuple[int, ...], options: dict, message: str
) -> None:
    with pytest.raises(FadepthError, match=message) as error:
        EtmConv2d(*arguments, **options)
    assert "\n" not in str(error.value)


class Strided(Square):
    """Does not take its unit's stride."""

    def build(self, w: Window, groups: int) -> list[Layer]:
        return [Layer(w.ending, w.in_channels, w.out_channels, (3, 3), groups, stride=2)]


class StridedFirst(Branch):
    def build(self, w: Window, groups: int) -> list[Layer]:
        c = w.out_channels
        return [
            Layer(w.ending, w.in_channels, c, (3, 3), groups, stride=2),
            Layer(w.ending, c, c, (3, 3), groups),
        ]


class Large(Branch):
    def build(self, w: Window, groups: int) -> list[Layer]:
        return [Layer(w.ending, w.in_channels, w.out_channels, (5, 5), groups)]


class Even(Branch):
    def build(self, w: Window, groups: int) -> list[Layer]:
        return [Layer(w.ending, w.in_channels, w.out_channels, (3, 2), groups)]


class PerImage(Square):
    """Ends in a norm whose factor depends on the image."""

    def build(self, w: Window, groups: int) -> list[Layer]:
        layers = super().build(w, groups)
        layers[0].norm = nn.GroupNorm(1, w.out_channels)
        return layers


class PerBatch(Square):
    def build(self, w: Window, groups: int) -> list[Layer]:
        layers = super().build(w, groups)
        layers[0].norm = nn.BatchNorm2d(w.out_channels, track_running_stats=False)
        return layers


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "message"),
    [
        (Strided, 3, 1, "its stride is 2 and the unit's 1"),
        (Large, 5, 2, "its stride is 1 and the unit's 2"),
        (StridedFirst, 5, 2, "only 1x1 layers may follow one with a stride"),
        (Large, 3, 1, "sees 5x5 pixels, which cannot be centred in the unit's 3x3"),
        (Even, 3, 1, "sees 3x2 pixels"),
        (PerImage, 3, 1, "GroupNorm is no fixed affine map"),
        (PerBatch, 3, 1, "BatchNorm2d is no fixed affine map"),
    ],
)
@pytest.mark.parametrize("space", ["activation", "kernel"])
def test_an_own_kind_that_is_no_single_convolution_is_refused(
    kind: type[Branch], kernel: int, stride: int, message: str, space: Space
) -> None:
    with pytest.raises(FadepthError, match=message) as error:
        EtmConv2d(4, 4, kernel, stride, branches=[Square, kind], space=space)
    assert kind.__name__ in str(error.value)
    assert "\n" not in str(error.value)


def test_a_branch_of_another_unit_is_refused() -> None:
    other = Square(Window(4, 4, 3, 1, 1, "bn"))
    with pytest.raises(FadepthError, match="built for another unit"):
        EtmConv2d(4, 4, 5, branches=[lambda window: other])


def test_folding_is_done_in_double_precision() -> None:
    torch.manual_seed(0)
    unit = EtmConv2d(8, 8, 5, branches="all")
    randomise(unit, torch.Generator().manual_seed(0))
    conv, precise = unit.fold_unit(), copy.deepcopy(unit).double().fold_unit()
    assert conv.weight.dtype == torch.float32
    assert torch.equal(conv.weight, precise.weight.float())


# --------------------------------------------------------------------------------- fold(model)


class Net(nn.Module):
    training_only = ("extra",)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(EtmConv2d(3, 4, 3, branches="all"), nn.ReLU())
        self.twice = EtmConv2d(4, 4, 3, branches="rep", space="kernel")
        self.again = self.twice
        self.extra: nn.Module | None = nn.Conv2d(4, 1, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.drop(self.twice(self.body(x))))


def test_fold_leaves_a_model_in_training_as_it_was() -> None:
    torch.manual_seed(0)
    net = Net().train()
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    before = copy.deepcopy(net.state_dict())
    random_state = torch.get_rng_state()
    folded = fold(net)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in net.modules())
    assert net.extra is not None
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    owned = {p.data_ptr() for p in net.parameters()}
    assert owned.isdisjoint(p.data_ptr() for p in folded.parameters())


def test_fold_replaces_every_unit_and_drops_training_parts() -> None:
    torch.manual_seed(0)
    net = Net().double()
    randomise(net, torch.Generator().manual_seed(0))
    folded = fold(net)
    assert not any(isinstance(m, EtmConv2d | nn.BatchNorm2d | Scale) for m in folded.modules())
    assert not any(module.training for module in folded.modules())
    assert "extra" not in dict(folded.named_children())
    assert folded.twice is folded.again
    x = torch.rand(1, 3, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(folded(x), net.eval()(x), rtol=0, atol=1e-10)


def test_fold_of_a_single_unit_and_of_a_model_without_etm() -> None:
    assert type(fold(EtmConv2d(3, 4, 3))) is nn.Conv2d
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    folded = fold(plain)
    assert folded is not plain and not folded.training and plain.training
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(folded(x), copy.deepcopy(plain).eval()(x))


@pytest.mark.parametrize("channels", [3, 6, 16])
def test_strided_1x1_in_channels_last_has_the_same_gradient(channels: int) -> None:
    """Without the detour in `convolve` this corrupts memory for 3 and 6 channels (oneDNN 6035)."""
    torch.manual_seed(0)
    unit: Any = EtmConv2d(channels, 16, 3, 2, branches=[Point]).train()
    x = torch.rand(8, channels, 64, 208)
    weight = torch.rand(8, 16, 32, 104)
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        unit.to(memory_format=memory_format).zero_grad(set_to_none=True)
        (unit(x.to(memory_format=memory_format)) * weight).mean().backward()
        gradients.append(unit.get_parameter(FIRST_WEIGHT).grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_kernels_summed_once_changes_no_gradient_and_ends_with_its_block() -> None:
    torch.manual_seed(0)
    unit = EtmConv2d(4, 8, 3, branches="ac", space="kernel").double().train()
    images = [torch.rand(2, 4, 9, 8, dtype=torch.float64) for _ in range(3)]
    gradients: list[list[Tensor]] = []
    sums: list[int] = []
    for around in (contextlib.nullcontext, kernels_summed_once):
        unit.zero_grad(set_to_none=True)
        with (
            around(),
            mock.patch.object(
                EtmConv2d, "_sum_of_kernels", autospec=True, side_effect=EtmConv2d._sum_of_kernels
            ) as summed,
        ):
            loss = torch.stack([unit(image).square().mean() for image in images]).sum()
        sums.append(summed.call_count)
        loss.backward()
        gradients.append([cast(Tensor, p.grad).clone() for p in unit.parameters()])
    assert sums == [3, 1]
    for separate, shared in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, separate, rtol=1e-12, atol=1e-14)
    # The weights have moved: the next block must not see the old sum.
    with torch.no_grad():
        unit.get_parameter(FIRST_WEIGHT).mul_(2)
    with kernels_summed_once():
        after = unit._summed_kernel()
    assert torch.equal(after, unit._sum_of_branches()[0])


@pytest.mark.parametrize(
    "branches", ["rep", "ac", [Square, Square, Column], [Square, partial(Point, groups=4)]]
)
@pytest.mark.parametrize(("channels", "size", "stride", "groups"), [
    ((4, 8), 3, 1, 2), ((8, 8), 3, 1, 2), ((8, 8), 5, 1, 1), ((8, 8), 3, 2, 4), ((8, 8), 1, 1, 1),
])  # fmt: skip
def test_the_quick_sum_in_kernel_space_is_the_general_one(
    branches: Any, channels: tuple[int, int], size: int, stride: int, groups: int
) -> None:
    """Bit for bit in forward; in backward to rounding."""
    if size == 1 and not isinstance(branches, str):
        branches = [Square, Square]
    unit = EtmConv2d(*channels, size, stride, groups, branches=branches, space="kernel")
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    quick, (general, _) = unit._sum_of_kernels(), unit._sum_of_branches()
    assert torch.equal(quick, general)
    outer = torch.randn_like(quick)
    parameters = list(unit.branches.parameters())
    ours, expected = (torch.autograd.grad(kernel, parameters, outer) for kernel in (quick, general))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
