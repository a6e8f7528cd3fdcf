"""The yardstick against published figures, closed forms and a second implementation."""

import math

import pytest
import torch
from torch import Tensor, nn

from fadepth.errors import FadepthError
from fadepth.evaluation.complexity import count_macs, count_parameters
from fadepth.models.monodepth2 import Monodepth2, Monodepth2Pose, ResNet18

CLASSIFIER = 512 * 1000 + 1000  # of ResNet-18, which the public code carries along


@pytest.fixture
def depth() -> Monodepth2:
    torch.manual_seed(0)
    return Monodepth2()


@pytest.fixture
def pose() -> Monodepth2Pose:
    torch.manual_seed(0)
    return Monodepth2Pose()


# Size


def test_parameters_as_published(depth: Monodepth2, pose: Monodepth2Pose) -> None:
    """The public code's depth network has 14.84 M with the classifier, of which 14.33 M are used.

    torchvision's ResNet-18 has 11,689,512 with the classifier; the second image of a pair costs
    64 * 3 * 7 * 7 more. Decoder and pose head by the widths of the supplement.
    """
    encoder = 11_689_512 - CLASSIFIER
    widths = {4: (512, 256, 256), 3: (256, 128, 128), 2: (128, 64, 64), 1: (64, 32, 64)}
    levels = [*widths.values(), (32, 16, 0)]
    decoder = sum(
        9 * c_in * c_out + c_out + 9 * (c_out + skip) * c_out + c_out
        for c_in, c_out, skip in levels
    )
    # One channel from 16, 32, 64 and 128, for the four scales.
    decoder += sum(9 * c + 1 for c in (16, 32, 64, 128))
    assert count_parameters(depth) == encoder + decoder == 14_329_236
    assert round((count_parameters(depth) + CLASSIFIER) / 1e6, 2) == 14.84
    head = (512 * 256 + 256) + 2 * (9 * 256 * 256 + 256) + (256 * 12 + 12)
    assert count_parameters(pose) == encoder + 64 * 3 * 49 + head
    assert round(count_parameters(pose) / 1e6, 1) == 12.5


def test_macs_at_192x640(depth: Monodepth2) -> None:
    """8.00 G were counted on the public code with the finest scale alone."""
    assert count_macs(depth, 192, 640) / 1e9 == pytest.approx(8.00, abs=0.005)


# Depth


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 320)])
def test_shapes_and_ranges(depth: Monodepth2, size: tuple[int, int]) -> None:
    height, width = size
    image = torch.rand(2, 3, height, width)
    scales = depth.train()(image)
    assert [tuple(scale.shape) for scale in scales] == [
        (2, 1, height // 2**s, width // 2**s) for s in range(4)
    ]
    finest = depth.eval()(image)
    assert isinstance(finest, Tensor)
    assert finest.shape == (2, 1, height, width)
    for disparity in (*scales, finest):
        assert disparity.min() > 0
        assert disparity.max() < 1


def test_coarse_heads_do_not_run_in_evaluation(depth: Monodepth2) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a coarse head ran")

    for head in list(depth.heads)[1:]:
        head.register_forward_hook(fail)
    depth.eval()(torch.rand(1, 3, 64, 64))
    with pytest.raises(AssertionError, match="a coarse head ran"):
        depth.train()(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (65, 64), (64, 80), (0, 64)])
def test_sizes_refused(depth: Monodepth2, size: tuple[int, int]) -> None:
    with pytest.raises(FadepthError, match="multiples of 32, from 64 on, not"):
        depth(torch.rand(1, 3, *size))


def test_input_is_standardised_as_in_the_public_code(depth: Monodepth2) -> None:
    seen: list[Tensor] = []
    depth.encoder.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    depth.eval()(torch.full((1, 3, 64, 64), 0.9))
    torch.testing.assert_close(seen[0], torch.full((1, 3, 64, 64), (0.9 - 0.45) / 0.225))


def convolved(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution of x with mirrored borders, tap by tap."""
    height, width = x.shape[-2:]
    rows, columns = (
        torch.tensor([1, *range(n), n - 2]) for n in (height, width)
    )  # the border itself is not repeated
    padded = x[:, :, rows][:, :, :, columns]
    weight, bias = conv.weight, conv.bias
    assert bias is not None
    taps = [
        torch.einsum(
            "oi,bihw->bohw", weight[:, :, i, j], padded[:, :, i : i + height, j : j + width]
        )
        for i in range(3)
        for j in range(3)
    ]
    return sum(taps, torch.zeros(())) + bias[:, None, None]


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.exp(x) - 1)


def test_decoder_against_a_second_implementation(depth: Monodepth2) -> None:
    """Each level: convolve, ELU, double each pixel, put the skip behind, convolve, ELU."""
    depth = depth.double().train()
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    features = depth.encoder(image)
    assert [tuple(f.shape[1:]) for f in features] == [
        (64, 32, 48), (64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3),
    ]  # fmt: skip
    depth.encoder.register_forward_hook(lambda *_: list(features))
    x, expected = features[4], {}
    for level in (4, 3, 2, 1, 0):
        x = elu(convolved(x, depth.before[level]))  # type: ignore[arg-type]
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if level:
            x = torch.cat([x, features[level - 1]], 1)
        x = elu(convolved(x, depth.after[level]))  # type: ignore[arg-type]
        if level < 4:
            expected[level] = 1 / (1 + torch.exp(-convolved(x, depth.heads[level])))  # type: ignore[arg-type]
    for level, disparity in enumerate(depth(image)):
        torch.testing.assert_close(disparity, expected[level])


def test_borders_are_mirrored(depth: Monodepth2) -> None:
    """A constant image stays constant along rows and columns: no border darkens as with zeros."""
    for conv in (*depth.before, *depth.after, *depth.heads):
        x = torch.ones(1, conv.in_channels, 5, 7)
        out = conv(x)
        assert (out - out[:, :, 2:3, 3:4]).abs().max() < 1e-5
        assert conv.kernel_size == (3, 3)


# Encoder


def test_block_is_the_residual_one() -> None:
    """With its last norm at zero a block of equal sizes passes what is positive."""
    torch.manual_seed(0)
    block = ResNet18().eval().layers[0][0]  # type: ignore[index]
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(1, 64, 6, 8)
    torch.testing.assert_close(block(x), x.clamp(min=0))


def test_strides_and_blocks_of_resnet18() -> None:
    encoder = ResNet18().eval()
    convs = [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 1 + 16 + 3
    assert sum(conv.stride == (2, 2) for conv in convs) == 1 + 3 + 3
    assert all(conv.bias is None for conv in convs)
    # He et al.: weights by fan-out and for ReLU.
    first = encoder.conv1.weight
    assert first.std().item() == pytest.approx(math.sqrt(2 / (64 * 49)), rel=0.05)


# Pose


def test_pose_shapes_and_small_motions(pose: Monodepth2Pose) -> None:
    pair = torch.rand(2, 6, 64, 96)
    axis_angle, translation = pose.eval()(pair)
    assert axis_angle.shape == translation.shape == (2, 3)
    assert 0 < axis_angle.abs().max() < 0.1
    assert 0 < translation.abs().max() < 0.1


def test_pose_is_a_hundredth_of_the_mean_over_pixels(pose: Monodepth2Pose) -> None:
    seen: list[Tensor] = []
    pose.head.register_forward_hook(lambda _m, _i, output: seen.append(output))
    motions = torch.cat(pose.eval()(torch.rand(1, 6, 64, 96)), 1)
    assert seen[0].shape == (1, 12, 2, 3)
    expected = torch.stack([seen[0][0, c].flatten().sum() / 6 / 100 for c in range(6)])[None]
    torch.testing.assert_close(motions, expected)


def test_order_of_frames_matters(pose: Monodepth2Pose) -> None:
    first, second = torch.rand(2, 1, 3, 64, 96)
    one, other = (
        torch.cat(pose.eval()(torch.cat(pair, 1)), 1) for pair in ((first, second), (second, first))
    )
    assert (one - other).abs().max() > 1e-6


# Learning


def test_depth_learns(depth: Monodepth2) -> None:
    torch.manual_seed(1)
    dark_and_bright = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1)
    image = dark_and_bright + 0.1 * torch.randn(2, 3, 64, 64)
    targets = [dark_and_bright.expand(2, 1, 64 >> s, 64 >> s) for s in range(4)]
    optimiser = torch.optim.Adam(depth.parameters(), 3e-4)
    losses: list[float] = []
    for _ in range(10):
        loss = torch.stack(
            [(d - t).abs().mean() for d, t in zip(depth.train()(image), targets, strict=True)]
        ).sum()
        optimiser.zero_grad()
        loss.backward()
        if not losses:
            assert all(p.grad is not None and p.grad.abs().max() > 0 for p in depth.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_pose_learns(pose: Monodepth2Pose) -> None:
    torch.manual_seed(1)
    pairs = torch.rand(2, 6, 64, 64)
    target = torch.tensor([[0.01, -0.02, 0.005, 0.1, 0.0, -0.1], [-0.01, 0.02, 0.0, 0.0, 0.1, 0.1]])
    optimiser = torch.optim.Adam(pose.parameters(), 1e-3)
    losses: list[float] = []
    for _ in range(12):
        loss = (torch.cat(pose.train()(pairs), 1) - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.7 * losses[0]
