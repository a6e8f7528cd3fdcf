"""The method's figures: what they print against the networks, and how they look as files."""

import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fadepth.cli import app
from fadepth.config import Config, LossSettings
from fadepth.errors import FadepthError
from fadepth.losses.apx import STEPS
from fadepth.losses.photometric import base_loss
from fadepth.models import fold
from fadepth.models.efficientnetv2 import EfficientNetV2
from fadepth.models.hqdec import GlobalMap, HQDecV2
from fadepth.models.smalldepth import SmallDepth
from fadepth.report.method import FILES, adacoeff, apx, drawings, global_map, material, pyramid
from fadepth.report.method.style import LARGEST, SMALL
from fadepth.training import build_depth_network

ROOT = Path(__file__).parents[2]
TIGHT = 0.5  # pixels of the page


@pytest.fixture(scope="module")
def networks():
    return material.prepare(Path("runs"), fit=False)


@pytest.fixture(scope="module")
def drawn(networks):
    """All figures with untrained networks, not yet written."""
    return {drawing.name: drawing for drawing in drawings(networks)}


def words_of(drawing):
    return "\n".join(text.get_text() for text in drawing.texts())


# ---------------------------------------------------------------------------------- as pictures


def test_every_figure_is_drawn_and_known_to_the_workflow(drawn):
    assert tuple(drawn) == FILES
    rule = (
        (ROOT / "workflow/rules/figures.smk").read_text().partition("rule draw_method_figures")[2]
    )
    assert tuple(re.findall(r'"(\w+\.(?:png|svg))"', rule)) == FILES
    assert {path.name for path in (ROOT / "docs/figures").iterdir()} >= set(FILES)


def boxes_of(drawing):
    """Words and bounding box, in pixels of the page, of every label."""
    figure = drawing.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    scale = figure.dpi / 100
    height = figure.bbox.height / scale
    for text in drawing.texts():
        box = text.get_window_extent(canvas.get_renderer())
        left, right = box.x0 / scale, box.x1 / scale
        yield text, left, height - box.y1 / scale, right, height - box.y0 / scale


@pytest.mark.parametrize("name", FILES)
def test_no_label_leaves_the_page_or_covers_another(drawn, name):
    figure = drawn[name].figure
    width, height = (100 * side for side in figure.get_size_inches())
    assert width == 800
    boxes = list(boxes_of(drawn[name]))
    assert len(boxes) > 5
    for text, left, top, right, bottom in boxes:
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        assert inside, f"'{text.get_text()}' leaves the page"
        assert text.get_fontsize() >= 0.72 * SMALL - 1e-9, f"'{text.get_text()}' is too small"
    for (one, *a), (other, *b) in combinations(boxes, 2):
        across = min(a[2], b[2]) - max(a[0], b[0])
        down = min(a[3], b[3]) - max(a[1], b[1])
        assert min(across, down) <= TIGHT, f"'{one.get_text()}' covers '{other.get_text()}'"


@pytest.mark.slow  # draws and packs nine figures twice, to compare their bytes
def test_two_drawings_have_the_same_bytes(drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = str(torch.get_num_threads())  # sums have one order for one number of threads
    arguments = ["figures", "--output", "again", "--no-fit", "--threads", threads]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("again").iterdir()} == set(FILES)
    for name, drawing in drawn.items():
        first = drawing.write(tmp_path / "first")
        content = first.read_bytes()
        assert content == (tmp_path / "again" / name).read_bytes(), name
        assert len(content) < 400_000 and LARGEST < 400_000
        if first.suffix == ".png":
            image = Image.open(first).convert("RGB")
            assert image.width == 1280
            assert {image.getpixel((x, 1)) for x in (1, image.width - 2)} == {(255, 255, 255)}
        else:
            assert b"<dc:date>" not in content and b"<text" not in content


# ------------------------------------------------------------------------------ what is printed


def test_smalldepth_shows_the_folded_network(drawn):
    facts = drawn["smalldepth.svg"].facts
    layers = facts["layers"]
    convs = [m for m in fold(SmallDepth("ac")).modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == len(convs) == 35
    assert sum(conv.weight.numel() + conv.bias.numel() for conv in convs) == facts["parameters"]
    by_hand = 0
    for layer, conv in zip(layers, convs, strict=True):
        height, width = 192 // layer.stride, 640 // layer.stride
        assert (layer.size, layer.channels) == ((height, width), conv.out_channels)
        assert layer.groups == conv.groups
        assert layer.macs == conv.weight.numel() * height * width
        by_hand += layer.macs
    assert facts["macs"] == by_hand
    strides = [layer.stride for layer in layers]
    assert strides[:29] == sorted(strides[:29]) and strides[29:] == [32, 16, 8, 4, 2, 2]
    shares = {name: share for name, (_, _, share) in facts["designs"].items()}
    assert shares == pytest.approx(
        {
            "dense": 1,
            "group32": 32 / 160,
            "group16": 16 / 160,
            "depthwise": 1 / 160,
            "pconv": 1 / 16,
        }
    )
    words = words_of(drawn["smalldepth.svg"])
    assert f"of {facts['parameters']:,}" in words and f"{by_hand / 1e9:.3f}" in words
    for parameters, count, share in facts["designs"].values():
        assert f"{parameters / 1e6:.3f} M, {count} conv." in words
        assert f"{100 * share:.3g} % of the kernel" in words


def test_etm_branches_add_up_to_the_folded_kernel(drawn):
    facts = drawn["etm.png"].facts
    kernels = {name: np.array(kernel) for name, kernel in facts["kernels"].items()}
    folded, bias = kernels.pop("folded 3×3"), facts["biases"].pop("folded 3×3")
    assert set(kernels) == {"3×3", "1×1", "identity", "1×3", "3×1"}
    np.testing.assert_allclose(sum(kernels.values()), folded, atol=1e-6)
    assert sum(facts["biases"].values()) == pytest.approx(bias, abs=1e-6)
    # Each kind has the taps that its name says.
    taps = {name: np.argwhere(kernel).tolist() for name, kernel in kernels.items()}
    assert taps["1×1"] == taps["identity"] == [[1, 1]]
    assert taps["1×3"] == [[1, 0], [1, 1], [1, 2]] and taps["3×1"] == [[0, 1], [1, 1], [2, 1]]
    assert 0 < facts["difference_unit"] < 1e-4
    assert facts["difference_disparity"] < 1e-5
    assert facts["parameters"] == (2_841_915, 1_949_697)
    words = words_of(drawn["etm.png"])
    assert "2,841,915" in words and "1,949,697" in words
    mantissa, exponent = f"{facts['difference_unit']:.1e}".split("e")
    assert f"${mantissa} \\times 10^{{{int(exponent)}}}$ after this unit" in words


def test_receptive_field_is_where_gradients_reach(drawn):
    """With weights of one nothing cancels: the gradient's support is the receptive field."""
    network = fold(SmallDepth("off"))
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.ones_(conv.weight)
            nn.init.zeros_(conv.bias)
    image = torch.ones(1, 3, 160, 160, requires_grad=True)
    x = image
    for stage in list(network.get_submodule("encoder"))[: pyramid.STAGE]:
        x = stage(x)
    x[0, 0, 10, 10].backward()
    rows, columns = torch.nonzero(image.grad[0, 0], as_tuple=True)
    side = int(rows.max() - rows.min()) + 1
    assert side == int(columns.max() - columns.min()) + 1
    facts = drawn["pyramid.png"].facts
    assert facts["receptive_fields"] == [side, 2 * side, 4 * side]
    assert facts["sizes"] == [(192, 640), (96, 320), (48, 160)]
    assert set(facts["flipped"]) == {True, False}
    words = words_of(drawn["pyramid.png"])
    assert all(f"{n}×{n}" in words for n in facts["receptive_fields"])
    assert words.count("mirrored\n") >= 1


def test_hqdecv2_shapes_follow_from_strides_and_channels(drawn):
    facts = drawn["hqdecv2.svg"].facts
    encoder = EfficientNetV2()
    channels = encoder.channels
    assert facts["encoder"] == sum(p.numel() for p in encoder.parameters())
    expected = {f"f{j}": (channels[j], 192 >> (j + 1), 640 >> (j + 1)) for j in range(5)}
    expected |= {f"b{j}": expected[f"f{j}"] for j in range(4)}
    expected |= {f"u{j}": expected[f"f{j - 1}"] for j in range(1, 5)}
    expected["u0"] = (channels[0], 192, 640)
    expected |= {f"d{j}": (1, 192 >> j, 640 >> j) for j in range(3)}
    assert facts["shapes"] == expected
    words = words_of(drawn["hqdecv2.svg"])
    for shape in expected.values():
        assert "×".join(map(str, shape)) in words
    assert f"{facts['parameters'] / 1e6:.1f} M parameters" in words


@torch.no_grad()
def test_maps_of_the_upsampler_are_those_it_adds():
    """base + lambda * detail is what it returns, and |lambda| stays below 2 |gamma|."""
    torch.manual_seed(0)
    network = HQDecV2(0.1, 0.1).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            parameter.uniform_(-0.5, 0.5)
    outputs = []
    upsampler = network.get_submodule(adacoeff.UPSAMPLER)
    upsampler.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    maps = adacoeff.decoder_maps(network, torch.rand(1, 3, 64, 96))
    weight = maps[f"{adacoeff.UPSAMPLER}.coeff"]
    whole = maps[f"{adacoeff.UPSAMPLER}.base"] + weight * maps["detail"]
    torch.testing.assert_close(whole, outputs[0])
    bound = 2 * network.get_parameter(f"{adacoeff.UPSAMPLER}.coeff.gamma").abs()
    assert (weight.abs() <= bound).all() and weight.abs().max() > 0.1
    before = network(torch.ones(1, 3, 64, 96))  # the network is as it was
    assert "detail" not in vars(upsampler) and before.isfinite().all()


@torch.no_grad()
def test_attention_reproduces_the_module(networks):
    """Values weighed by the attention that is drawn are the module's own output."""
    network = networks.teacher.module
    module = network.get_submodule(global_map.MODULE)
    assert isinstance(module, GlobalMap)
    kept = {}
    handles = [
        module.read.register_forward_hook(lambda _m, _i, out: kept.update(read=out)),
        module.register_forward_hook(lambda _m, _i, out: kept.update(out=out)),
    ]
    attention = global_map.attention_of(network, torch.rand(1, 3, 96, 160))
    for handle in handles:
        handle.remove()
    assert attention.shape[:2] == (3, 5)
    torch.testing.assert_close(attention.sum((0, 1)), torch.ones(attention.shape[2:]))
    values = kept["read"].chunk(2, dim=2)[1][0]
    read = torch.einsum("nhw,ne->ehw", attention.flatten(0, 1), values)
    torch.testing.assert_close(read[None], kept["out"])


def test_patches_leave_a_grid_and_tokens_do_not(drawn):
    facts = drawn["global_map.png"].facts
    assert facts["tokens"] == (6, 20)
    # Strides 2 and a sixteenth of 192x640: 12x40 pixels, 8 of them each way.
    assert (facts["patch"], facts["patches"]) == ((12, 40), (8, 8))
    _, waves, template, painted, read = global_map.global_features((192, 640))
    assert template.shape[2:] == facts["patch"] and painted.shape == waves.shape
    for key, maps in (("patches", painted), ("global map", read)):
        # A second way: the mean over all periods keeps exactly the harmonics.
        rows = maps[0].double() - maps[0].double().mean(-1, keepdim=True)
        periodic = rows.unflatten(-1, (-1, 40)).mean(-2).repeat(1, 1, 8)
        share = periodic.square().sum((1, 2)) / rows.square().sum((1, 2))
        assert facts["harmonic_shares"][key] == pytest.approx(float(share.mean()), abs=1e-6)
    assert facts["harmonic_shares"]["patches"] > 5 * facts["flat"]
    assert facts["harmonic_shares"]["global map"] < 0.01
    assert f"{facts['harmonic_shares']['patches']:.3f}" in words_of(drawn["global_map.png"])


def test_apx_prints_the_loss(drawn):
    """The panels' terms are what the loss returns, and slopes of a ramp are its steps' mean."""
    facts = drawn["apx.png"].facts
    assert facts["loss_parts"]["value"] == pytest.approx(facts["value"], rel=1e-5)
    assert facts["loss_parts"]["slope"] == pytest.approx(facts["slope"], rel=1e-5)
    words = words_of(drawn["apx.png"])
    assert f"{facts['value']:.3f}" in words and f"{facts['slope']:.3f}" in words
    ramp = 0.1 * torch.arange(40.0).expand(1, 1, 30, 40)
    inner = apx.slopes(ramp)[..., :20, :20]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.1 * sum(STEPS) / 8))


def test_base_loss_agrees_with_the_training_loss(drawn):
    facts = drawn["base_loss.png"].facts
    views = material.street_views(material.FULL)
    inverse = 1 / material.rendered(material.SHOWN, material.FULL).depth
    disparity = (inverse - 0.01) / (10 - 0.01)
    noise = torch.Generator().manual_seed(0)
    loss = base_loss([disparity], views, LossSettings(), noise)
    assert facts["error"] == pytest.approx(float(loss.error.mean()), abs=1e-4)
    assert facts["kept"] == pytest.approx(float(loss.automask_share), abs=0.01)
    assert facts["error"] < facts["identity_error"] / 2  # true depth explains the street
    words = words_of(drawn["base_loss.png"])
    assert f"leaves out {100 * (1 - facts['kept']):.1f} %" in words


def test_overview_takes_weights_from_the_settings(drawn):
    words = words_of(drawn["overview.png"])
    loss = LossSettings()
    assert f"{loss.pyramid.weight:g}\\,L_{{pyr}} + {loss.apx.weight:g}\\,L_{{APX}}" in words
    assert "35 convolutions" in words and "1,949,697 parameters" in words
    for name in ("overview", "etm", "pyramid", "adacoeff_upsampler", "global_map", "apx"):
        assert f"untrained weights, seed {material.SEED}" in words_of(drawn[f"{name}.png"])


# ------------------------------------------------------------------------- networks that are shown


def test_fitting_is_repeatable_and_never_sees_the_shown_frame(monkeypatch):
    seen = []
    original = material.rendered
    monkeypatch.setattr(
        material, "rendered", lambda frame, size: seen.append(frame) or original(frame, size)
    )
    monkeypatch.setattr(material, "STUDENT_SIZES", [(32, 104)] * 12)
    first, second = (material._own(SmallDepth, True) for _ in range(2))
    assert set(seen) == set(material.FITTED) and material.SHOWN not in seen
    assert "12 steps on rendered depth" in first.label and "not a result" in first.label
    for a, b in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(a, b)
    truth = original(material.SHOWN, (32, 104))
    untrained = material._own(SmallDepth, False)
    errors = [
        float(
            (material.log_inverse(n.disparity(truth.image)) - truth.log_inverse_depth).abs().mean()
        )
        for n in (untrained, first)
    ]
    assert errors[1] < errors[0]


def write_run(runs, name, kind, **settings):
    config = Config.model_validate({"seeds": [1], **settings})
    network = build_depth_network(config, kind)
    (runs / name).mkdir()
    content = {"config": config.model_dump(), "kind": kind, "depth": network.state_dict()}
    torch.save(content, runs / name / "model.pt")
    return network


def test_named_runs_are_shown(tmp_path):
    student = write_run(tmp_path, "s6-s1", "student", student={"width": 0.25})
    teacher = write_run(tmp_path, "hq-s1", "teacher", teacher={"width": 0.1, "depth": 0.1})
    shown = material.prepare(tmp_path, ["s6-s1", "hq-s1"], fit=False)
    for network, original, name in (
        (shown.student, student, "s6-s1"),
        (shown.teacher, teacher, "hq-s1"),
    ):
        assert network.label == f"run {name}, kitti"
        key, value = next(iter(original.state_dict().items()))
        assert torch.equal(network.module.state_dict()[key], value)
    # That student has no branches to show: the ETM figure keeps its own network.
    assert shown.unfolded.label.startswith("untrained") and not shown.unfolded.module.training


def test_wrong_runs_are_told(tmp_path):
    write_run(tmp_path, "a", "student", student={"width": 0.25})
    write_run(tmp_path, "b", "student", student={"width": 0.25})
    with pytest.raises(FadepthError, match="two networks of the kind SmallDepth"):
        material.prepare(tmp_path, ["a", "b"], fit=False)
    with pytest.raises(FadepthError, match=r"c/model\.pt does not exist"):
        material.prepare(tmp_path, ["c"], fit=False)


def test_street_is_at_true_scale():
    """Between the shown frame and its neighbours the camera moves by what the poses say."""
    views = material.street_views(material.HALF)
    for pose, source in zip(views.poses, material.SOURCES, strict=True):
        here, there = (material.rendered(f, material.HALF).pose for f in (material.SHOWN, source))
        moved = float((there[:3, 3] - here[:3, 3]).norm())
        assert math.isclose(float(pose[0, :3, 3].norm()), moved, rel_tol=1e-5)
        assert 0.3 < moved < 2
