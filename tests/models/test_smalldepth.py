"""SmallDepth: the layer table, the cost after folding, and the interface of a depth network."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fadepth.errors import FadepthError
from fadepth.models.etm import BRANCH_SETS, Space, fold
from fadepth.models.smalldepth import INITIAL_DISPARITY, SmallDepth

VARIANTS = [*itertools.product(BRANCH_SETS, ["activation"]), ("ac", "kernel"), ("dbb", "kernel")]


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, height: int, width: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() // 2


def convolutions(model: nn.Module) -> list[str]:
    return [repr(m) for m in model.modules() if isinstance(m, nn.Conv2d)]


class Recorder(TorchDispatchMode):
    """Collects the names of the operations that a model runs, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name != "detach":  # bookkeeping of autograd: no work
            self.names.append(name.removesuffix("_"))
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module) -> list[str]:
    image = torch.zeros(1, 3, 64, 96)
    with torch.no_grad(), Recorder() as recorder:
        model(image)
    return recorder.names


@pytest.fixture(scope="module")
def small() -> SmallDepth:
    torch.manual_seed(0)
    return SmallDepth("off")


@pytest.fixture(scope="module")
def folded(small: SmallDepth) -> nn.Module:
    return fold(small)


def test_layer_table(folded: nn.Module) -> None:
    """Parameters per stage: table 3.3 of the design, computed there by another implementation."""
    expected = {
        "encoder.0": 448, "encoder.1": 13_888, "encoder.2": 92_352, "encoder.3": 452_320,
        "encoder.4": 1_268_960, "up5": 51_360, "up4": 92_224, "up3": 18_464, "up2": 4_624,
        "up1": 2_320, "head": 145,
    }  # fmt: skip
    assert {name: parameters(folded.get_submodule(name)) for name in expected} == expected
    assert parameters(folded) == sum(expected.values()) == 1_997_105
    assert len(convolutions(folded)) == 37
    assert macs(folded, 192, 640) == pytest.approx(860.8e6, abs=0.05e6)


@pytest.mark.parametrize(
    ("sparsity", "millions", "convs", "gmacs"),
    [
        ("dense", 1.965, 20, 0.874),
        ("group16", 1.979, 45, 0.852),
        ("depthwise", 2.001, 49, 0.790),
    ],
)
def test_other_designs(sparsity: str, millions: float, convs: int, gmacs: float) -> None:
    model = fold(SmallDepth("off", sparsity))
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert len(convolutions(model)) == convs
    assert macs(model, 192, 640) / 1e9 == pytest.approx(gmacs, abs=5e-4)


@pytest.mark.parametrize("sparsity", ["group32", "depthwise"])
@pytest.mark.parametrize(("etm", "space"), VARIANTS)
def test_etm_does_not_change_the_inference_net(etm: str, space: Space, sparsity: str) -> None:
    plain = fold(SmallDepth("off", sparsity, width=0.25))
    model = fold(SmallDepth(etm, sparsity, etm_space=space, width=0.25))
    assert parameters(model) == parameters(plain)
    assert convolutions(model) == convolutions(plain)
    assert operations(model) == operations(plain)
    assert macs(model, 64, 96) == macs(plain, 64, 96)


@pytest.mark.parametrize("space", ["activation", "kernel"])
def test_default_etm_at_full_width(space: Space, small: SmallDepth, folded: nn.Module) -> None:
    model = SmallDepth(etm_space=space)
    assert parameters(model) > 1.4 * parameters(small)
    assert parameters(fold(model)) == 1_997_105
    assert convolutions(fold(model)) == convolutions(folded)


def test_only_plain_operations_at_inference(folded: nn.Module) -> None:
    names = operations(folded)
    assert set(names) == {
        "convolution", "relu", "add", "sigmoid", "upsample_nearest2d", "upsample_bilinear2d"
    }  # fmt: skip
    assert names.count("convolution") == 37
    assert names.count("relu") == 36
    assert names[-2:] == ["sigmoid", "upsample_bilinear2d"]


@pytest.mark.parametrize(("etm", "space"), VARIANTS)
def test_folding_keeps_the_disparity(etm: str, space: Space) -> None:
    torch.manual_seed(0)
    model = SmallDepth(etm, etm_space=space, width=0.25).double()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # running statistics of the data after one pass
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.3)
    nn.init.normal_(model.head.weight, std=0.5)  # a disparity that varies over the image
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        model.train()(image)
        expected = model.eval()(image)
        assert expected.std() > 0.01
        assert (fold(model)(image) - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("size", [(192, 640), (64, 208), (48, 160), (33, 47), (180, 600)])
def test_any_size(size: tuple[int, int], folded: nn.Module, small: SmallDepth) -> None:
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        disparity = folded(image)
        assert disparity.shape == (1, 1, *size)
        assert disparity.min() > 0 and disparity.max() < 1
        shapes = [tuple(d.shape) for d in small.train()(image.expand(2, -1, -1, -1))]
    height, width = size
    assert shapes == [
        (2, 1, height, width),
        (2, 1, -(-height // 4), -(-width // 4)),
        (2, 1, -(-height // 8), -(-width // 8)),
    ]


@pytest.mark.parametrize(("etm", "space"), VARIANTS)
def test_gradient_reaches_every_parameter(etm: str, space: Space) -> None:
    torch.manual_seed(0)
    model = SmallDepth(etm, etm_space=space, width=0.25).train()
    disparities = model(torch.rand(4, 3, 64, 96))
    target = [torch.rand_like(d) for d in disparities]
    sum((d * t).sum() for d, t in zip(disparities, target, strict=True)).backward()
    largest = {
        name: 0.0 if p.grad is None else p.grad.abs().max().item()
        for name, p in model.named_parameters()
    }
    assert not {name for name, value in largest.items() if value < 1e-6}


def test_first_disparity_is_moderate() -> None:
    means = []
    for seed in range(3):
        torch.manual_seed(seed)
        disparities: list[Tensor] = SmallDepth("ac").train()(torch.rand(2, 3, 64, 208))
        means += [d.mean().item() for d in disparities]
    assert all(INITIAL_DISPARITY / 2.5 < mean < INITIAL_DISPARITY * 2.5 for mean in means)


def test_same_seed_same_weights() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(SmallDepth("all", width=0.25).state_dict())
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_width_scales_and_keeps_the_group_width() -> None:
    quarter = fold(SmallDepth("ac", width=0.25))
    assert parameters(quarter) < 0.2 * 1_997_105
    for conv in quarter.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups > 1:
            assert conv.in_channels // conv.groups == 32
    assert quarter(torch.rand(1, 3, 40, 50)).shape == (1, 1, 40, 50)
    SmallDepth("ac", width=0.01)


def test_refusals(folded: nn.Module) -> None:
    with pytest.raises(FadepthError, match="'pconv' is not built yet"):
        SmallDepth(sparsity="pconv")
    with pytest.raises(FadepthError, match="unknown sparsity 'group8'"):
        SmallDepth(sparsity="group8")
    with pytest.raises(FadepthError, match="unknown ETM branch set"):
        SmallDepth("none")
    with pytest.raises(FadepthError, match="width must be positive"):
        SmallDepth(width=0)
    with pytest.raises(FadepthError, match="not 31x64"):
        folded(torch.rand(1, 3, 31, 64))
    trainee = fold(SmallDepth("off", width=0.25)).train()
    with pytest.raises(FadepthError, match="train the unfolded model"):
        trainee(torch.rand(2, 3, 32, 32))
