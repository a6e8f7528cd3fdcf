"""HQDec's own forms: its sizes and costs, and closed forms of its parts."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from fadepth.cli import app
from fadepth.config import identity_settings, parse_config
from fadepth.evaluation.complexity import count_parameters
from fadepth.models.hqdec import (
    AxialSampler,
    ConvBlock,
    Forms,
    HQDecV2,
    Level,
    UpsamplerV1,
)
from fadepth.models.hqdec_v1 import (
    CoefficientMap,
    MapAttention,
    PatchGate,
    PatchTransformer,
    patch_grid,
)
from fadepth.training import build_depth_network

OFF = {"adacoeff": False, "upsampler_v2": False, "global_map": False}


def test_patches_at_hqdecs_size_are_hqdecs() -> None:
    """Sizes and token counts of the public code's default configuration."""
    grids = {stride: patch_grid((256, 832), stride) for stride in (1, 2, 4, 8, 16, 32)}
    patches = [grid.patch for grid in grids.values()]
    assert patches == [(16, 52)] * 5 + [(8, 26)]
    assert [math.prod(grid.tokens) for grid in grids.values()] == [256, 64, 16, 4, 1, 1]


@pytest.mark.parametrize("image", [(192, 640), (64, 208), (33, 47), (180, 600), (375, 1242)])
def test_patches_cover_the_feature_and_none_lies_outside(image: tuple[int, int]) -> None:
    for stride in (1, 2, 4, 8, 16, 32):
        grid = patch_grid(image, stride)
        for size, patch, tokens in zip(image, *grid, strict=True):
            feature = math.ceil(size / stride)
            assert patch * (tokens - 1) < feature <= patch * tokens
            assert patch == min(math.ceil(size / 16), feature)


def test_size_of_the_decoder_is_hqdecs() -> None:
    """Against the public code, measured at 256x832 (design, 2.4), without reconstruction heads.

    The rest of 0.3 % are the biases before batch norms and AdaRM's inner width at two strides.
    """
    with torch.device("meta"):  # shapes only: nothing is computed
        decoder = HQDecV2(**OFF, size=(256, 832)).decoder
        channels = (24, 48, 64, 160, 256)
        features = [torch.empty(1, c, 256 >> i, 832 >> i) for i, c in enumerate(channels, 1)]
        with FlopCounterMode(display=False) as counter:
            disparities = decoder(features, (256, 832))
    assert [tuple(d.shape[2:]) for d in disparities] == [(256, 832), (128, 416), (64, 208)]
    macs = counter.get_total_flops() / 2

    def millions(*kinds: type[nn.Module]) -> float:
        return sum(count_parameters(m) for m in decoder.modules() if isinstance(m, kinds)) / 1e6

    assert millions(AxialSampler) == pytest.approx(1.194, abs=5e-4)
    assert millions(ConvBlock) == pytest.approx(1.046, abs=5e-4)
    assert millions(UpsamplerV1) == pytest.approx(3.483, abs=4e-3)
    assert count_parameters(decoder.heads) / 1e6 == pytest.approx(0.480, abs=5e-4)
    assert count_parameters(decoder.coeffs) / 1e6 == pytest.approx(1.464, abs=5e-4)
    maps = [
        m.map.numel() for m in decoder.modules() if isinstance(m, CoefficientMap | MapAttention)
    ]
    heads_of_images = 256 * 832 + 128 * 416 + 64 * 208  # their attention maps, which we leave out
    other = sum(maps) - count_parameters(decoder.coeffs) + heads_of_images
    assert other / 1e6 == pytest.approx(1.886, abs=5e-4)
    assert count_parameters(decoder) / 1e6 == pytest.approx(12.85 - 0.482, rel=3e-3)
    assert macs / 1e9 == pytest.approx(7.91 - 0.209, rel=5e-3)


def by_hand(tokens: Any, x: Tensor) -> Any:
    """PatchTokens with sums over patches, (B, C, rows, columns)."""
    (height, width), (rows, columns) = tokens.grid
    below, right = rows * height - x.shape[2], columns * width - x.shape[3]
    edges = ((0, 0), (0, 0), (0, below), (0, right))
    padded = torch.from_numpy(np.pad(x.numpy(), edges, mode="edge"))
    cut = padded.reshape(*x.shape[:2], rows, height, columns, width)
    sums = torch.einsum("bcrhqw,chw->bcrq", cut, tokens.sums.weight[:, 0])
    sums = sums + tokens.sums.bias.view(1, -1, 1, 1)
    values = tokens.embed(sums).flatten(2).transpose(1, 2) + tokens.position
    values = tokens.norm(tokens.blocks(values)) @ tokens.project.weight.T + tokens.project.bias
    return values.transpose(1, 2).reshape(*x.shape[:2], rows, columns)


@torch.no_grad()
@pytest.mark.parametrize("image", [(256, 832), (90, 150)])
def test_patch_transformer_paints_each_token_through_one_template(image):
    torch.manual_seed(0)
    grid = patch_grid(image, 4)
    module = PatchTransformer(8, grid, 16, 4, 1.0).double()
    assert module.tokens.position.std() > 0
    size = math.ceil(image[0] / 4), math.ceil(image[1] / 4)
    x = torch.randn(2, 8, *size, dtype=torch.double)
    painted = torch.einsum("bcrq,chw->bcrhqw", by_hand(module.tokens, x), module.paint.weight[:, 0])
    painted = painted.flatten(4).flatten(2, 3)[:, :, : size[0], : size[1]]
    painted = painted + module.paint.bias.view(1, -1, 1, 1)
    norm, mix = module.mix[1], module.mix[0]
    mixed = torch.einsum("bchw,dc->bdhw", painted, mix.weight[:, :, 0, 0])
    mixed = mixed + mix.bias.view(1, -1, 1, 1)
    groups = mixed.reshape(2, norm.num_groups, -1)
    mean, var = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True)
    normed = ((groups - mean) / (var + norm.eps).sqrt()).view_as(mixed)
    torch.testing.assert_close(module(x), F.elu(normed))


@torch.no_grad()
def test_patch_gate_sums_the_channels_templates():
    torch.manual_seed(0)
    module = PatchGate(8, patch_grid((33, 64), 1), 16, 4, 1.0).double()
    x = torch.randn(2, 8, 33, 64, dtype=torch.double)
    painted = torch.einsum("bcrq,chw->brhqw", by_hand(module.tokens, x), module.paint.weight[:, 0])
    expected = painted.flatten(3).flatten(1, 2)[:, None, :33, :64]
    torch.testing.assert_close(module(x), expected)


@torch.no_grad()
def test_map_attention_is_the_weighted_mean_formula() -> None:
    torch.manual_seed(0)
    block, x = MapAttention(24, (5, 6)), torch.randn(2, 24, 5, 6)
    kernel = block.mix.weight.view(1, 1, -1)
    assert kernel.shape[2] == 3
    assert torch.equal(block.map, torch.ones(1, 1, 5, 6))  # the plain mean at start
    block.map.normal_()
    v = torch.einsum("bchw,hw->bc", x, block.map[0, 0]) / 30
    gate = torch.sigmoid(F.conv1d(v[:, None], kernel, padding=1))[:, 0]
    torch.testing.assert_close(block(x), x * gate[:, :, None, None])


@torch.no_grad()
def test_upsampler_adds_a_weighted_sub_pixel_map():
    torch.manual_seed(0)
    forms = Forms(**OFF, size=(64, 96), widths=(8, 16, 16, 40, 64))
    up = UpsamplerV1(Level(channels=8, inner=8, heads=2, depth=1.0), 4, forms).eval()
    assert up.refine.base.num_features == 32
    assert up.refine.reduce[0].out_channels == 8  # 4C / 4
    assert up.coeff.map.shape == (1, 1, 32, 48)
    for module in up.norms:
        nn.init.uniform_(module.running_var, 0.5, 2.0)
    x = torch.randn(1, 8, 16, 24)

    def norm(index, y):
        return F.batch_norm(y, up.norms[index].running_mean, up.norms[index].running_var)

    wide = norm(0, F.elu(F.conv2d(x, up.expand.weight)))
    wide = norm(1, F.elu(up.refine(wide)))
    phases = wide.view(1, 8, 2, 2, 16, 24).permute(0, 1, 4, 2, 5, 3)
    detail = norm(2, phases.reshape(1, 8, 32, 48))
    bilinear = F.interpolate(x, (32, 48), mode="bilinear", align_corners=False)
    base = up.base(bilinear)
    assert torch.equal(up(x, (32, 48)), base)  # zero at start
    up.coeff.map.normal_()
    torch.testing.assert_close(up(x, (32, 48)), base + up.coeff.map * detail)


def test_settings_reach_the_network() -> None:
    settings = {"teacher": {"width": 0.1, "depth": 0.1, **OFF}, "data": {"height": 64, "width": 96}}
    config = parse_config(settings, "test")
    assert identity_settings(config.teacher) == settings["teacher"]
    network = build_depth_network(config, "teacher").eval()
    assert network(torch.rand(1, 3, 64, 96)).shape == (1, 1, 64, 96)
    assert any(isinstance(module, PatchGate) for module in network.modules())
    assert any(isinstance(module, UpsamplerV1) for module in network.modules())


def test_describe_builds_the_forms_for_its_size() -> None:
    override = '{"teacher.width": 0.1, "teacher.depth": 0.1, "teacher.adacoeff": false}'
    for size in ("64x96", "96x128"):
        command = ["describe", "hqdecv2", "--override", override, "--size", size]
        result = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
        assert result.exit_code == 0
        height, width = map(int, size.split("x"))
        network = HQDecV2(0.1, 0.1, adacoeff=False, size=(height, width))
        assert f"{count_parameters(network):,}" in result.stdout
