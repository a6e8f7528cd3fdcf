"""PoseNet: shapes, small first motions, and no hidden symmetry or coupling."""

import pytest
import torch

from fadepth.errors import FadepthError
from fadepth.geometry import invert_pose, pose_matrix
from fadepth.models.posenet import PoseNet


@pytest.fixture
def net() -> PoseNet:
    torch.manual_seed(0)
    return PoseNet()


def test_size_stated_in_the_docstring(net: PoseNet) -> None:
    parameters = sum(p.numel() for p in net.parameters())
    assert f"{parameters / 1e6:.2f} M parameters" in (PoseNet.__doc__ or "")


@pytest.mark.parametrize("size", [(64, 208), (192, 640), (33, 47)])
def test_shapes_and_small_first_motion(size: tuple[int, int], net: PoseNet) -> None:
    with torch.no_grad():
        axis_angle, translation = net(torch.rand(2, 6, *size))
    assert axis_angle.shape == translation.shape == (2, 3)
    for motion in (axis_angle, translation):
        assert 0 < motion.abs().max() < 0.05


def test_order_of_frames_matters_and_reversal_is_not_built_in(net: PoseNet) -> None:
    first, second = torch.rand(2, 1, 3, 64, 96)
    forward = torch.cat(net(torch.cat([first, second], 1)), 1)
    backward = torch.cat(net(torch.cat([second, first], 1)), 1)
    assert (forward - backward).abs().max() > 1e-5
    assert (forward + backward).abs().max() > 1e-5


def test_trained_pose_does_not_depend_on_the_batch(net: PoseNet) -> None:
    """Batch norm mixes the pairs of a batch in training; afterwards each stands for itself."""
    pairs = torch.rand(3, 6, 64, 96)
    net.train()(pairs)
    together = net.eval()(pairs)[1]
    alone = net(pairs[:1])[1]
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-6)


def test_gradient_reaches_every_parameter(net: PoseNet) -> None:
    axis_angle, translation = net(torch.rand(2, 6, 64, 96))
    (axis_angle.square().sum() + translation.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_output_is_a_rigid_motion_and_takes_the_gradient_of_its_inverse(net: PoseNet) -> None:
    """Also for an earlier source, whose predicted motion is inverted."""
    pose = pose_matrix(*net(torch.rand(2, 6, 64, 96)))
    rotation = pose[:, :3, :3]
    eye = torch.eye(3).expand(2, 3, 3)
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), eye, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(2), rtol=0, atol=1e-6)
    invert_pose(pose)[:, :3].square().sum().backward()
    weight = net.head.weight.grad
    assert weight is not None
    assert weight.isfinite().all()
    assert weight.abs().max() > 0


def test_width_scales() -> None:
    assert sum(p.numel() for p in PoseNet(0.25).parameters()) < 150_000
    assert PoseNet(0.01)(torch.rand(2, 6, 64, 64))[0].shape == (2, 3)


def test_refusals(net: PoseNet) -> None:
    with pytest.raises(FadepthError, match=r"pairs \(B, 6, H, W\)"):
        net(torch.rand(1, 3, 64, 96))
    with pytest.raises(FadepthError, match="width must be positive"):
        PoseNet(-1)
