"""Kernels of a network, counted by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fadepth.evaluation.operators import count_operators
from fadepth.models import SmallDepth, fold
from fadepth.models.monodepth2 import Monodepth2


class Small(nn.Module):
    """Two convolutions, a norm, two activations, a sum, an enlargement; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(image)))
        x = x + F.relu(self.second(x.flatten(2).unflatten(2, image.shape[2:])), inplace=True)
        return F.interpolate(x[:, :1], scale_factor=2.0)


def test_counted_by_hand() -> None:
    network = Small()
    found = count_operators(network, 8, 8)
    assert found.convolutions == 2
    assert found.launches == 2 + 1 + 2 + 1 + 1
    assert network.training
    assert network.norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("sparsity", "convolutions"),
    [("dense", 18), ("group32", 35), ("group16", 43), ("depthwise", 47), ("pconv", 41)],
)
def test_smalldepth_runs_the_convolutions_that_its_table_tells(
    sparsity: str, convolutions: int
) -> None:
    assert count_operators(fold(SmallDepth(sparsity=sparsity)), 64, 96).convolutions == convolutions


def test_yardstick_by_hand() -> None:
    """ResNet-18: 1 + 16 convolutions and 3 shortcuts; decoder: 2 on each of 5 levels, one head."""
    assert count_operators(Monodepth2(), 64, 96).convolutions == 1 + 16 + 3 + 10 + 1


def test_the_size_does_not_matter() -> None:
    network = fold(SmallDepth(width=0.25))
    with torch.no_grad():
        assert count_operators(network, 64, 96) == count_operators(network, 32, 64)
