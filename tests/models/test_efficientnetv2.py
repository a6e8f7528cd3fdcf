"""The encoder against torchvision's published layout of efficientnet_v2_s."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fadepth.errors import FadepthError
from fadepth.models.efficientnetv2 import (
    IMAGENET_MEAN,
    EfficientNetV2,
    Pointwise,
    scale_blocks,
    scale_channels,
)

# torchvision's own table: block type, expand ratio, kernel, stride, inputs, outputs, layers.
TORCHVISION_S = (
    ("fused", 1, 3, 1, 24, 24, 2),
    ("fused", 4, 3, 2, 24, 48, 4),
    ("fused", 4, 3, 2, 48, 64, 4),
    ("mb", 4, 3, 2, 64, 128, 6),
    ("mb", 6, 3, 1, 128, 160, 9),
    ("mb", 6, 3, 2, 160, 256, 15),
)
TORCHVISION_PARAMETERS = 21_458_488  # https://docs.pytorch.org/vision (efficientnet_v2_s)
FEATURES_7 = 256 * 1280 + 2 * 1280
CLASSIFIER = 1280 * 1000 + 1000


def expected_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's features.0 to features.6, from its table alone."""
    layout: dict[str, tuple[int, ...]] = {}

    def conv_bn(name: str, outputs: int, inputs: int, kernel: int) -> None:
        layout[f"{name}.0.weight"] = (outputs, inputs, kernel, kernel)
        for key in ("weight", "bias", "running_mean", "running_var"):
            layout[f"{name}.1.{key}"] = (outputs,)
        layout[f"{name}.1.num_batches_tracked"] = ()

    conv_bn("features.0", 24, 3, 3)
    for stage, (kind, expand, kernel, _, first, outputs, layers) in enumerate(TORCHVISION_S, 1):
        for index in range(layers):
            inputs = first if index == 0 else outputs
            hidden, block = inputs * expand, f"features.{stage}.{index}.block"
            if kind == "fused" and expand == 1:
                conv_bn(f"{block}.0", outputs, inputs, kernel)
            elif kind == "fused":
                conv_bn(f"{block}.0", hidden, inputs, kernel)
                conv_bn(f"{block}.1", outputs, hidden, 1)
            else:
                conv_bn(f"{block}.0", hidden, inputs, 1)
                conv_bn(f"{block}.1", hidden, 1, kernel)
                squeezed = inputs // 4
                layout[f"{block}.2.fc1.weight"] = (squeezed, hidden, 1, 1)
                layout[f"{block}.2.fc1.bias"] = (squeezed,)
                layout[f"{block}.2.fc2.weight"] = (hidden, squeezed, 1, 1)
                layout[f"{block}.2.fc2.bias"] = (hidden,)
                conv_bn(f"{block}.3", outputs, hidden, 1)
    return layout


@pytest.fixture(scope="module")
def encoder() -> EfficientNetV2:
    torch.manual_seed(0)
    return EfficientNetV2().eval()


def test_state_dict_has_torchvisions_names_and_shapes(encoder):
    own = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    assert own == expected_layout()


def test_parameter_count_is_torchvisions_without_the_last_two_parts(encoder):
    own = sum(p.numel() for p in encoder.parameters())
    assert own == TORCHVISION_PARAMETERS - FEATURES_7 - CLASSIFIER


def test_batch_norm_and_activation_are_those_of_v2(encoder):
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {n.eps for n in norms} == {1e-3}
    last = encoder.features[6][0].block
    assert [isinstance(part[-1], nn.SiLU) for part in (last[0], last[1], last[3])] == [
        True,
        True,
        False,  # the projection of an inverted residual is linear
    ]


def test_five_features_at_192x640(encoder):
    with torch.no_grad():
        shapes = [tuple(f.shape) for f in encoder(torch.rand(1, 3, 192, 640))]
    assert shapes == [
        (1, 24, 96, 320),
        (1, 48, 48, 160),
        (1, 64, 24, 80),
        (1, 160, 12, 40),
        (1, 256, 6, 20),
    ]


def test_inputs_are_normalised_inside():
    encoder = EfficientNetV2(0.25, 0.1).eval()
    seen = []
    encoder.features[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean_image = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    encoder(mean_image)
    encoder(torch.ones(1, 3, 32, 32))
    assert seen[0].abs().max() < 1e-6
    # (1 - 0.485) / 0.229 and so on, worked out by hand.
    assert seen[1][0, :, 0, 0].tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-4)


def test_pointwise_is_a_1x1_convolution():
    torch.manual_seed(0)
    own, reference = Pointwise(5, 7), nn.Conv2d(5, 7, 1)
    reference.load_state_dict(own.state_dict())
    x = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(own(x), reference(x))


def test_shortcuts_only_where_shapes_allow(encoder):
    for stage, (*_, stride, inputs, outputs, layers) in enumerate(TORCHVISION_S, 1):
        shortcuts = [block.shortcut for block in encoder.features[stage]]
        assert shortcuts == [stride == 1 and inputs == outputs] + [True] * (layers - 1)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(24, 1.0, 24), (24, 0.25, 8), (48, 0.25, 16), (160, 0.5, 80), (24, 0.8, 24), (256, 2.0, 512)],
)
def test_scaled_channels_are_multiples_of_8(channels, width, expected):
    assert scale_channels(channels, width) == expected


@pytest.mark.parametrize(
    ("blocks", "depth", "expected"), [(15, 1.0, 15), (15, 0.34, 6), (2, 0.34, 1), (2, 0.01, 1)]
)
def test_scaled_blocks_round_up(blocks, depth, expected):
    assert scale_blocks(blocks, depth) == expected


def test_width_or_depth_of_zero_is_refused():
    with pytest.raises(FadepthError, match="width=0"):
        EfficientNetV2(width=0)


def test_official_file_loads_and_its_head_is_ignored(tmp_path: Path, encoder):
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    weights["features.7.0.weight"] = torch.zeros(1280, 256, 1, 1)
    weights["classifier.1.bias"] = torch.zeros(1000)
    torch.save(weights, tmp_path / "s.pth")
    other = EfficientNetV2()
    other.load_imagenet(tmp_path / "s.pth")
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name]), name


def test_mismatched_file_is_refused_in_one_sentence(tmp_path: Path):
    small = EfficientNetV2(0.25, 0.1)
    weights = small.state_dict()
    missing = {n: w for n, w in weights.items() if n != "features.0.0.weight"}
    torch.save(missing, tmp_path / "missing.pth")
    with pytest.raises(FadepthError, match=r"missing\.pth.*features\.0\.0\.weight is missing"):
        small.load_imagenet(tmp_path / "missing.pth")
    torch.save(weights | {"fc.bias": torch.zeros(1)}, tmp_path / "extra.pth")
    with pytest.raises(FadepthError, match=r"fc\.bias is unknown"):
        small.load_imagenet(tmp_path / "extra.pth")
    torch.save(weights, tmp_path / "small.pth")
    with pytest.raises(FadepthError, match=r"width=0\.5.*has shape \(8, 3, 3, 3\) instead of"):
        EfficientNetV2(0.5, 0.1).load_imagenet(tmp_path / "small.pth")


@pytest.mark.parametrize("content", [None, b"not a checkpoint", [1, 2]])
def test_absent_and_unreadable_files_are_refused(tmp_path: Path, content):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(FadepthError, match=r"weights\.pth: .*efficientnet_v2_s weights"):
        EfficientNetV2(0.25, 0.1).load_imagenet(path)
