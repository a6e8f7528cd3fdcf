"""SmallDepth: the layer table, the cost after folding, and the interface of a depth network."""

import copy
import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from fadepth.errors import FadepthError
from fadepth.models.etm import BRANCH_SETS, EtmConv2d, Space, fold
from fadepth.models.smalldepth import DESIGNS, INITIAL_DISPARITY, PartialBlock, SmallDepth

SPACES: tuple[Space, ...] = ("activation", "kernel")
VARIANTS: list[tuple[str, Space]] = list(itertools.product(BRANCH_SETS, SPACES))
# In kernel space nothing but the branches' sum differs from set to set.
FEWER: list[tuple[str, Space]] = [
    *((etm, "activation") for etm in BRANCH_SETS), ("ac", "kernel"), ("all", "kernel")
]  # fmt: skip
PLAIN_OPERATIONS = {
    "convolution", "relu", "add", "sigmoid", "upsample_nearest2d", "upsample_bilinear2d"
}  # fmt: skip


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, height: int, width: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() // 2


def convolutions(model: nn.Module) -> list[str]:
    return [repr(m) for m in model.modules() if isinstance(m, nn.Conv2d)]


def graph(model: nn.Module) -> list[str]:
    """The traced operations in order, each with what it reads, its attributes and its shape."""
    with torch.no_grad():
        traced = make_fx(model)(torch.zeros(1, 3, 64, 96))
    lines = []
    for node in traced.graph.nodes:
        value = node.meta.get("tensor_meta")
        shape = tuple(value.shape) if hasattr(value, "shape") else None
        lines.append(f"{node.name}: {node.target}{node.args}{node.kwargs or ''} -> {shape}")
    return lines


def operations(model: nn.Module) -> list[str]:
    """The names of the traced operations, in order."""
    with torch.no_grad():
        traced = make_fx(model)(torch.zeros(1, 3, 64, 96))
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    return [
        call.overloadpacket.__name__.removesuffix("_")
        for call in calls
        if isinstance(call, torch._ops.OpOverload)  # not the picking of one part of a split
    ]


@pytest.fixture(scope="module")
def small() -> SmallDepth:
    torch.manual_seed(0)
    return SmallDepth("off")


@pytest.fixture(scope="module")
def folded(small: SmallDepth) -> nn.Module:
    return fold(small)


def test_layer_table(folded: nn.Module) -> None:
    """Parameters per stage: the layer table, computed by another implementation."""
    expected = {
        "encoder.0": 448, "encoder.1": 4_640, "encoder.2": 55_424, "encoder.3": 452_320,
        "encoder.4": 1_268_960, "up5": 51_360, "up4": 92_224, "up3": 18_464, "up2": 4_624,
        "up1": 1_160, "head": 73,
    }  # fmt: skip
    assert {name: parameters(folded.get_submodule(name)) for name in expected} == expected
    assert parameters(folded) == sum(expected.values()) == 1_949_697
    assert len(convolutions(folded)) == 35
    assert macs(folded, 192, 640) == pytest.approx(681.6e6, abs=0.05e6)


@pytest.mark.parametrize(
    ("sparsity", "millions", "convs", "gmacs"),
    [
        ("dense", 1.917, 18, 0.695),
        ("group16", 1.931, 43, 0.673),
        ("depthwise", 1.954, 47, 0.611),
        ("pconv", 1.952, 41, 0.642),
    ],
)
def test_other_designs(sparsity: str, millions: float, convs: int, gmacs: float) -> None:
    """Figures counted by this module's own code, and the table in SmallDepth's own docstring."""
    model = fold(SmallDepth("off", sparsity))
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert len(convolutions(model)) == convs
    assert macs(model, 192, 640) / 1e9 == pytest.approx(gmacs, abs=5e-4)
    row = f"{sparsity} {parameters(model):,} {gmacs:.3f} {convs}"
    assert row in " ".join((SmallDepth.__doc__ or "").split())


@pytest.mark.parametrize(("etm", "space"), VARIANTS)
def test_etm_does_not_change_the_inference_net(etm: str, space: Space, folded: nn.Module) -> None:
    trained = SmallDepth(etm, etm_space=space)
    assert etm == "off" or parameters(trained) > 1.05 * parameters(folded)
    model = fold(trained)
    assert parameters(model) == parameters(folded) == 1_949_697
    assert convolutions(model) == convolutions(folded)
    assert graph(model) == graph(folded)
    assert macs(model, 192, 640) == macs(folded, 192, 640)


@pytest.fixture(scope="module", params=[name for name in DESIGNS if name != "group32"])
def narrow(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """The other designs' inference nets at a quarter of their width, with their names."""
    return request.param, fold(SmallDepth("off", request.param, width=0.25))


@pytest.mark.parametrize(("etm", "space"), FEWER)
def test_etm_does_not_change_the_other_designs(
    etm: str, space: Space, narrow: tuple[str, nn.Module]
) -> None:
    sparsity, plain = narrow
    model = fold(SmallDepth(etm, sparsity, etm_space=space, width=0.25))
    assert parameters(model) == parameters(plain)
    assert graph(model) == graph(plain)
    assert macs(model, 64, 96) == macs(plain, 64, 96)


def test_default_etm_costs_while_training(small: SmallDepth) -> None:
    assert parameters(SmallDepth()) > 1.4 * parameters(small)


def test_limits_of_the_default_design(folded: nn.Module) -> None:
    assert 1.9e6 <= parameters(folded) <= 2.10e6
    assert macs(folded, 192, 640) <= 1.1e9
    assert len(convolutions(folded)) <= 45


@pytest.mark.parametrize("sparsity", DESIGNS)
def test_only_plain_operations_at_inference(sparsity: str) -> None:
    model = fold(SmallDepth("ac", sparsity, width=0.25))
    count = Counter(operations(model))
    assert count["convolution"] == len(convolutions(model))
    assert operations(model)[-2:] == ["sigmoid", "upsample_bilinear2d"]
    blocks = sum(isinstance(module, PartialBlock) for module in model.modules())
    if sparsity == "pconv":
        assert set(count) == {*PLAIN_OPERATIONS, "split_with_sizes", "cat"}
        assert count["split_with_sizes"] == count["cat"] == blocks == 1 + 5 + 4
    else:
        assert set(count) == PLAIN_OPERATIONS
        assert blocks == 0
    # A ReLU after each convolution but the head, and in a partial block after one of three.
    assert count["relu"] == count["convolution"] - 1 - 2 * blocks
    assert count["add"] == 4 + blocks


def test_partial_block_is_fasternets() -> None:
    torch.manual_seed(0)
    model = fold(SmallDepth("ac", "pconv", width=0.25)).double()
    block = model.get_submodule("encoder.3.2")
    assert isinstance(block, PartialBlock)
    x = torch.randn(2, 32, 5, 6, dtype=torch.float64)
    spatial, first, second = (m for m in block.modules() if isinstance(m, nn.Conv2d))
    assert spatial.weight.shape == (8, 8, 3, 3)
    assert first.weight.shape == (64, 32, 1, 1)
    mixed = x.clone()
    mixed[:, :8] = spatial(x[:, :8])
    expected = x + second(first(mixed).clamp(min=0))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def standardise_logits(model: SmallDepth, image: Tensor) -> None:
    """Make the head's output vary by one, so that the sigmoid hides no difference."""
    logits: list[Tensor] = []
    hook = model.head.register_forward_hook(lambda module, inputs, output: logits.append(output))
    model(image)
    hook.remove()
    assert model.head.bias is not None
    model.head.weight /= logits[0].std()
    model.head.bias.copy_((model.head.bias - logits[0].mean()) / logits[0].std())


@pytest.mark.parametrize(
    ("sparsity", "etm", "space"),
    [
        *(("group32", *variant) for variant in VARIANTS),
        *(("pconv", *variant) for variant in VARIANTS),
        *((other, *variant) for other in ("dense", "group16", "depthwise") for variant in FEWER),
    ],
)
def test_folding_keeps_the_disparity(sparsity: str, etm: str, space: Space) -> None:
    torch.manual_seed(0)
    model = SmallDepth(etm, sparsity, etm_space=space, width=0.25).double()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # running statistics of the data after one pass
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.3)
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        model.train()(image)
        standardise_logits(model.eval(), image)
        expected = model(image)
        assert expected.std() > 0.1
        assert (fold(model)(image) - expected).abs().max() <= 1e-10


@pytest.fixture(scope="module")
def trainees() -> dict[str, SmallDepth]:
    torch.manual_seed(0)
    made = {name: SmallDepth("ac", name, width=0.25).train() for name in DESIGNS}
    with torch.no_grad():
        for network in made.values():
            for _ in range(10):  # without statistics of their own, deep designs overflow
                network(torch.rand(2, 3, 64, 96))
    return made


@pytest.mark.parametrize(
    "size", [(32, 32), (33, 47), (48, 160), (63, 65), (64, 208), (97, 32), (180, 600)]
)
@pytest.mark.parametrize("sparsity", DESIGNS)
def test_any_size(size: tuple[int, int], sparsity: str, trainees: dict[str, SmallDepth]) -> None:
    image = torch.rand(1, 3, *size)
    # Two equal images have no variance on a map of one pixel: statistics must not pile up.
    trainee = copy.deepcopy(trainees[sparsity])
    with torch.no_grad():
        disparity = fold(trainee)(image)
        assert disparity.shape == (1, 1, *size)
        assert disparity.min() > 0 and disparity.max() < 1
        shapes = [tuple(d.shape) for d in trainee(image.expand(2, -1, -1, -1))]
    height, width = size
    assert shapes == [
        (2, 1, height, width),
        (2, 1, -(-height // 4), -(-width // 4)),
        (2, 1, -(-height // 8), -(-width // 8)),
    ]


@pytest.mark.parametrize(
    ("sparsity", "etm", "space"),
    [
        *(("group32", *variant) for variant in VARIANTS),
        *itertools.product(["dense", "group16", "depthwise", "pconv"], ["all"], SPACES),
    ],
)
def test_gradient_reaches_every_parameter(sparsity: str, etm: str, space: Space) -> None:
    torch.manual_seed(0)
    model = SmallDepth(etm, sparsity, etm_space=space, width=0.25).double().train()
    disparities = model(torch.rand(4, 3, 64, 96, dtype=torch.float64))
    target = [torch.rand_like(d) for d in disparities]
    sum((d * t).sum() for d, t in zip(disparities, target, strict=True)).backward()
    largest = {
        name: 0.0 if p.grad is None else p.grad.abs().max().item()
        for name, p in model.named_parameters()
    }
    # A shift of a partial block's 3x3, or of the last block, is taken out by the BN of the 1x1 that
    # follows without a ReLU in between.
    linear = (".spatial.", "encoder.4.5.project.")
    idle = {
        name
        for name in largest
        if sparsity == "pconv" and name.endswith("norm.bias") and any(p in name for p in linear)
    }
    assert bool(idle) == (sparsity == "pconv")
    assert {name for name, value in largest.items() if value < 1e-6} == idle


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


@pytest.mark.parametrize("sparsity", DESIGNS)
def test_every_convolution_but_the_heads_is_an_etm_unit(sparsity: str) -> None:
    model = SmallDepth("rep", sparsity, width=0.25)
    units = [m for m in model.modules() if isinstance(m, EtmConv2d)]
    assert len(units) == len(convolutions(fold(model))) - 1
    assert {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)} == {
        "head", "head4", "head8"
    }  # fmt: skip


def test_width_scales_and_keeps_the_group_width() -> None:
    quarter = fold(SmallDepth("ac", width=0.25))
    assert parameters(quarter) < 0.2 * 1_949_697
    for conv in quarter.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups > 1:
            assert conv.in_channels // conv.groups == 32
    assert quarter(torch.rand(1, 3, 40, 50)).shape == (1, 1, 40, 50)
    for sparsity in DESIGNS:
        tiny = fold(SmallDepth("all", sparsity, width=0.01))
        assert tiny(torch.rand(1, 3, 32, 40)).shape == (1, 1, 32, 40)


def test_refusals(folded: nn.Module) -> None:
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
