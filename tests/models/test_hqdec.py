"""The teacher: closed forms of its parts, one set of weights at many sizes, a plain start."""

import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fadepth.errors import FadepthError
from fadepth.models.hqdec import (
    INITIAL_DISPARITY,
    AdaCoeff,
    AxialStep,
    ChannelAttention,
    DisparityHead,
    GlobalMap,
    HQDecV2,
    Level,
    Summary,
    UpsamplerV2,
)
from fadepth.models.hqdec_v1 import CoefficientMap, group_norm, reflect

LEVEL = Level(channels=8, inner=8, heads=2, depth=1.0)


@pytest.fixture
def small() -> HQDecV2:
    torch.manual_seed(0)
    return HQDecV2(0.25, 0.34)


def wake(model: nn.Module) -> None:
    """Give every coefficient a value, as training does."""
    for module in model.modules():
        if isinstance(module, AdaCoeff):
            nn.init.normal_(module.gamma, mean=0.5, std=0.1)
        if isinstance(module, CoefficientMap):
            nn.init.normal_(module.map, mean=0.5, std=0.1)


@pytest.mark.parametrize("size", [(32, 32), (48, 160), (64, 208), (180, 600), (33, 47)])
def test_three_scales_in_training_and_one_in_evaluation(small, size):
    height, width = size
    images = torch.rand(2, 3, height, width)
    wake(small)
    shapes = [tuple(d.shape) for d in small(images)]
    assert shapes == [(2, 1, math.ceil(height / s), math.ceil(width / s)) for s in (1, 2, 4)]
    with torch.no_grad():
        disparity = small.eval()(images)
    assert disparity.shape == (2, 1, height, width)
    assert disparity.min() > 0
    assert disparity.max() < 1


def test_full_width_at_192x640_and_the_same_weights_at_64x208():
    torch.manual_seed(0)
    model = HQDecV2().eval()
    other = HQDecV2().eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 192, 640)).shape == (1, 1, 192, 640)
        other.load_state_dict(model.state_dict())  # strict: a size kept anywhere would fail
        small_image = torch.rand(1, 3, 64, 208)
        assert torch.equal(other(small_image), model(small_image))


def plain_refine(block: Any, x: Tensor) -> Tensor:
    norm = block.base
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    x = (x - norm.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)
    return F.elu(x + norm.bias.view(1, -1, 1, 1))


def plain_path(pair: Any, x: Tensor) -> Tensor:
    conv = pair[0].conv
    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias)
    return plain_refine(pair[1], F.elu(x))


def plain_up(up: Any, x: Tensor) -> Any:
    size = (2 * x.shape[2], 2 * x.shape[3])
    return up.base(F.interpolate(x, size, mode="bilinear", align_corners=False))


def plain_disparity(model: Any, images: Tensor) -> Any:
    """The top-down decoder alone: no sampled paths, no branches, no detail."""
    features, decoder = model.encoder(images), model.decoder
    x = plain_up(decoder.bridge_up, plain_path(decoder.bridge, features[4]))
    for j in (3, 2, 1, 0):
        x = plain_path(decoder.lateral[j], features[j]) + x
        x = plain_up(decoder.up[j], plain_path(decoder.reduce[j], x))
    return decoder.heads[0](x)


SWITCHES = ("adacoeff", "upsampler_v2", "global_map")
FORMS = [dict(zip(SWITCHES, on, strict=True)) for on in itertools.product((True, False), repeat=3)]
every_form = pytest.mark.parametrize(
    "forms", FORMS, ids=lambda forms: "+".join(n for n, on in forms.items() if on) or "hqdec"
)


@every_form
def test_decoder_starts_as_a_plain_top_down_decoder(forms):
    torch.manual_seed(0)
    model = HQDecV2(0.25, 0.34, **forms, size=(64, 224))
    for module in model.modules():  # running statistics that differ from 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    model.eval()
    images = torch.rand(1, 3, 64, 224)
    with torch.no_grad():
        features = model.encoder(images)
        assert min(features[4].shape[-2:]) == 2  # so the plain reflection padding applies
        expected = plain_disparity(model, images)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)
        wake(model)
        assert (model(images) - expected).abs().max() > 1e-4


@every_form
def test_gradient_reaches_every_parameter_once_coefficients_are_not_zero(forms):
    torch.manual_seed(0)
    model = HQDecV2(0.25, 0.34, **forms, size=(64, 96))
    wake(model)
    loss = sum((d * torch.randn_like(d)).sum() for d in model(torch.rand(2, 3, 64, 96)))
    loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@every_form
def test_a_step_lowers_the_loss_as_its_gradient_says(forms):
    """Also a check of the gradient: in double precision, and with all coefficients still zero."""
    torch.manual_seed(0)
    model = HQDecV2(0.1, 0.1, **forms, size=(33, 96)).double()
    images = torch.rand(2, 3, 33, 96, dtype=torch.double)

    def loss() -> Tensor:
        return sum((d - 0.2).square().mean() for d in model(images))

    before = loss()
    before.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    slope = sum(g.square().sum() for g in grads)
    rate = 1e-3 * before.item() / slope  # the line that touches the loss falls by a thousandth
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= rate * p.grad
        assert (before - loss()) / (rate * slope) == pytest.approx(1, abs=0.05)


def test_at_start_only_gamma_learns_in_a_coefficient():
    torch.manual_seed(0)
    coeff = AdaCoeff(8, 8)
    base, injected = torch.randn(2, 8, 5, 6), torch.randn(2, 8, 5, 6)
    weight = coeff(Summary(base), Summary(injected))
    assert not weight.any()
    out = base + weight * injected
    out.square().sum().backward()
    assert coeff.gamma.grad.abs().min() > 0
    assert not coeff.spatial.weight.grad.any()


@pytest.mark.parametrize("outputs", [1, 8])
def test_coefficient_is_bounded_by_twice_gamma(outputs):
    torch.manual_seed(0)
    coeff = AdaCoeff(8, outputs)
    nn.init.normal_(coeff.gamma)
    bound = 2 * coeff.gamma.abs()
    for scale in (1.0, 1e4):
        x, y = scale * torch.randn(2, 2, 8, 5, 6)
        weight = coeff(Summary(x), Summary(y))
        assert weight.shape == (2, outputs, 5, 6)
        assert (weight.abs() <= bound).all()
    assert (weight.abs() > 0.99 * bound).any()  # large inputs reach the bound


def test_coefficient_depends_on_the_image():
    torch.manual_seed(0)
    coeff = AdaCoeff(8, 1)
    nn.init.ones_(coeff.gamma)
    x, y, z = (Summary(torch.randn(1, 8, 5, 6)) for _ in range(3))
    assert not torch.allclose(coeff(x, y), coeff(x, z))
    assert not torch.allclose(coeff(x, y), coeff(z, y))


def test_summary_is_mean_deviation_and_maximum():
    x = torch.randn(3, 4, 5, 6)
    summary = Summary(x)
    values = x.numpy()
    mean, std = values.mean((2, 3)), values.std((2, 3))
    torch.testing.assert_close(summary.channel[:, :4], torch.from_numpy(mean))
    torch.testing.assert_close(summary.channel[:, 4:], torch.from_numpy(std))
    torch.testing.assert_close(summary.spatial[:, 0], torch.from_numpy(values.mean(1)))
    torch.testing.assert_close(summary.spatial[:, 1], torch.from_numpy(values.max(1)))
    assert not Summary(torch.ones(2, 4, 1, 1)).channel[:, 4:].any()  # a single pixel is no NaN


def test_channel_attention_is_the_weighted_mean_formula():
    torch.manual_seed(0)
    block, x = ChannelAttention(24), torch.randn(2, 24, 5, 6)
    maps = torch.stack((x.mean(1), x.max(1).values), dim=1)
    a = torch.sigmoid(F.conv2d(maps, block.weight.weight, block.weight.bias, padding=2))
    v = (a * x).sum((2, 3)) / a.sum((2, 3))
    kernel = block.mix.weight.view(1, 1, -1)
    assert kernel.shape[2] == 3  # odd(|log2 24 + 1| / 2), at least 3
    gate = torch.sigmoid(F.conv1d(v[:, None], kernel, padding=1))[:, 0]
    torch.testing.assert_close(block(x), x * gate[:, :, None, None])
    assert ChannelAttention(256).mix.in_features == 5


def test_blur_removes_a_checkerboard_and_keeps_a_constant():
    up = UpsamplerV2(LEVEL, 2)
    rows, columns = torch.arange(12)[:, None], torch.arange(10)[None]
    checkerboard = (-1.0) ** (rows + columns)
    stripes = [(-1.0) ** rows.expand(12, 10), (-1.0) ** columns.expand(12, 10)]
    for pattern in (checkerboard, *stripes):
        assert torch.equal(up.blur(pattern.expand(1, 8, 12, 10)), torch.zeros(1, 8, 12, 10))
    constant = torch.full((1, 8, 12, 10), 3.0)
    assert torch.equal(up.blur(constant), constant)
    # Along one axis the response to frequency w is (1 + cos w) / 2: 1/2 at period 4.
    wave = torch.cos(torch.pi / 2 * torch.arange(12.0)).expand(1, 8, 10, 12)
    torch.testing.assert_close(up.blur(wave)[..., 1:-1], wave[..., 1:-1] / 2, atol=1e-6, rtol=0)


def test_sub_kernels_start_equal():
    torch.manual_seed(0)
    up = UpsamplerV2(LEVEL, 2)
    weight = up.expand.weight.view(8, 4, 8, 3, 3)
    assert torch.equal(weight, weight[:, :1].expand_as(weight))
    assert weight[:, 0].std() > 0
    shuffled = F.pixel_shuffle(up.expand(torch.randn(1, 8, 6, 7)), 2)
    nearest = F.interpolate(shuffled[:, :, ::2, ::2], scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(shuffled, nearest, rtol=0, atol=1e-6)


def test_detail_of_a_constant_map_is_zero_inside():
    torch.manual_seed(0)
    up = UpsamplerV2(LEVEL, 2).eval()
    detail = up.detail(torch.ones(1, 8, 16, 16))
    # The 3x3 convolutions' zero padding reaches a few pixels in, never the middle.
    assert detail[..., 12:20, 12:20].abs().max() < 1e-5
    assert detail.shape == (1, 8, 32, 32)


@pytest.mark.parametrize("vertical", [True, False])
def test_sub_rows_become_channels_without_loss(vertical):
    step = AxialStep(8, 4, 1.0, vertical=vertical)
    nn.init.normal_(step.index)
    x = torch.randn(2, 8, 12, 16)
    gathered = step.gather(x)
    assert gathered.shape == ((2, 32, 3, 16) if vertical else (2, 32, 12, 4))
    for k in range(4):
        part = x[:, :, k::4] if vertical else x[:, :, :, k::4]
        torch.testing.assert_close(gathered[:, 8 * k : 8 * k + 8], part + step.index[k])


@pytest.mark.parametrize(
    ("image", "stride", "expected"),
    [
        ((192, 640), 2, (6, 20)),
        ((192, 640), 32, (6, 20)),
        ((320, 1024), 1, (6, 20)),
        ((64, 208), 1, (2, 7)),
        ((64, 208), 32, (2, 7)),
        ((32, 32), 16, (1, 1)),
    ],
)
def test_tokens_are_one_per_32_pixels_at_most_6x20(image, stride, expected):
    module = GlobalMap(8, LEVEL, stride)
    size = torch.Size((1, 8, *(math.ceil(n / stride) for n in image)))
    assert module.grid(size) == expected


def test_global_map_reads_every_pixel_by_attention():
    torch.manual_seed(0)
    module = GlobalMap(8, LEVEL, 8).double()
    x = torch.randn(2, 8, 8, 12, dtype=torch.double)
    f = F.conv2d(x, module.embed.weight, module.embed.bias)
    grid = F.adaptive_avg_pool2d(f, (2, 3))
    tokens = (grid + module.position(grid)).flatten(2).transpose(1, 2)
    tokens = module.norm(module.blocks(tokens))
    k, v = (tokens @ module.read.weight.T + module.read.bias).split(module.width, dim=2)
    logits = torch.einsum("bchw,bnc->bhwn", f, k) / math.sqrt(module.width)
    expected = torch.einsum("bhwn,bnc->bchw", logits.softmax(-1), v)
    torch.testing.assert_close(module(x), expected)


def test_attention_block_is_pre_norm_multi_head_attention():
    torch.manual_seed(0)
    block = GlobalMap(8, LEVEL, 8).blocks[0]
    tokens = torch.randn(2, 6, 16)
    reference = nn.MultiheadAttention(16, 2, batch_first=True)
    reference.in_proj_weight.data = block.qkv.weight.data
    reference.in_proj_bias.data = block.qkv.bias.data
    reference.out_proj.load_state_dict(block.project.state_dict())
    normed = block.norm1(tokens)
    mixed = tokens + reference(normed, normed, normed)[0]
    expected = mixed + block.mlp(block.norm2(mixed))
    torch.testing.assert_close(block(tokens), expected, rtol=1e-5, atol=1e-5)


def test_disparity_starts_moderate(small):
    for disparity in small(torch.rand(2, 3, 64, 96)):
        assert 0.5 * INITIAL_DISPARITY < disparity.mean() < 2 * INITIAL_DISPARITY


def test_head_is_the_sigmoid_of_a_gated_convolution():
    torch.manual_seed(0)
    head = DisparityHead(LEVEL, 1)
    x = torch.randn(1, 8, 32, 64)
    attended = head.attention(x)
    a = F.conv2d(F.pad(attended, (1, 1, 1, 1), mode="reflect"), head.conv.weight, head.conv.bias)
    t = head.gate(head.global_map(attended)).sigmoid()
    torch.testing.assert_close(head(x), torch.sigmoid(a * t))


@pytest.mark.parametrize("channels", [2, 8, 16, 24, 32, 48, 160, 192])
def test_group_norm_adapts_and_keeps_two_channels_per_group(channels):
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert channels // groups >= 2
    assert channels < 32 or channels % 16 or groups == 16


def test_padding_of_a_single_row_repeats_it():
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert reflect(x)[0, 0].tolist() == [[1, 1, 2, 3, 3]] * 3
    tall = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert reflect(tall)[0, 0, 0].tolist() == [4, 3, 4, 3]


def test_width_scales_the_decoder_and_depth_the_fused_levels():
    sizes = [sum(p.numel() for p in HQDecV2(w, 0.34).decoder.parameters()) for w in (0.25, 0.5)]
    assert sizes[1] > 2 * sizes[0]
    nearest = {"0_to_1", "1_to_2", "2_to_3"}
    assert set(HQDecV2(0.25, 0.33).decoder.sampled) == nearest
    for depth in (1.0, 1.2):
        every = nearest | {"0_to_2", "0_to_3", "1_to_3"}
        assert set(HQDecV2(0.25, depth).decoder.sampled) == every


def shapes(**arguments: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes only
        model = HQDecV2(0.1, 0.1, **arguments)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_only_forms_that_bind_it_to_a_size_have_parameters_of_that_size():
    for forms in FORMS:
        small, large = shapes(**forms, size=(64, 96)), shapes(**forms, size=(96, 128))
        assert list(small) == list(large)
        free = forms["adacoeff"] and forms["global_map"]
        assert (small == large) == free
        # All that differs are maps, patch templates and positions; never their number of tokens.
        other = {name.rpartition(".")[2] for name in small if small[name] != large[name]}
        assert other <= {"map", "weight"}
        bound = {n for n in small if small[n] != large[n] and n.endswith("weight")}
        assert all(".sums." in name or ".paint." in name for name in bound)
        assert bool(bound) == (not forms["global_map"])


def test_each_switch_exchanges_its_own_parameters():
    every = {True: set(shapes())}
    for switch in SWITCHES:
        every[switch] = set(shapes(**{switch: False}, size=(64, 96)))
    new = {s: every[s] - every[True] for s in SWITCHES}
    gone = {s: every[True] - every[s] for s in SWITCHES}
    assert all(name.endswith(".map") for name in new["adacoeff"])
    gamma = re.compile(r"\.(gamma|(reduce|expand|spatial)\.(weight|bias)|weight\.(weight|bias))$")
    assert all(gamma.search(name) for name in gone["adacoeff"])
    assert all(".up." in name or ".bridge_up." in name for name in new["upsampler_v2"])
    assert all("global" in n or ".gate." in n for n in new["global_map"] | gone["global_map"])
    assert all(new.values())
    assert new["adacoeff"].isdisjoint(new["global_map"])


def test_another_size_is_refused_where_a_form_binds_it():
    images = torch.rand(1, 3, 64, 128)
    for switch in ("adacoeff", "global_map"):
        model = HQDecV2(0.1, 0.1, **{switch: False}, size=(64, 96)).eval()
        with pytest.raises(FadepthError, match=rf"\(64, 128\), but {switch}=False .*\(64, 96\)"):
            model(images)
        assert model(images[..., :96]).shape == (1, 1, 64, 96)
    # HQDec's upsampler by itself has no size.
    free = HQDecV2(0.1, 0.1, upsampler_v2=False).eval()
    assert free(images).shape == (1, 1, 64, 128)


@pytest.mark.parametrize("size", [None, (16, 96)])
def test_a_bound_form_needs_the_size(size):
    both = {"adacoeff": False, "global_map": False}
    with pytest.raises(FadepthError, match=r"adacoeff=False and global_map=False .*at least 32"):
        HQDecV2(0.1, 0.1, **both, size=size)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 31, 64), (1, 3, 64, 16)])
def test_wrong_images_are_refused(small, shape):
    with pytest.raises(FadepthError, match="at least 32"):
        small(torch.rand(shape))
