"""Costs of networks, against closed forms and the layer table of docs/method.md."""

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from fadepth.cli import app
from fadepth.errors import FadepthError
from fadepth.evaluation.complexity import count_macs, count_parameters, describe_network
from fadepth.models import HQDecV2, SmallDepth, fold


def test_one_grouped_convolution_in_closed_form() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, (3, 1), groups=2))
    first, second = describe_network(net, 10, 12, depth=1)
    assert (first.shape, first.parameters, first.macs) == (
        (8, 5, 6), 8 * 3 * 9 + 8, 5 * 6 * 8 * 3 * 9,
    )  # fmt: skip
    assert (second.shape, second.parameters, second.macs) == (
        (6, 3, 6), 6 * 4 * 3 + 6, 3 * 6 * 6 * 4 * 3,
    )  # fmt: skip
    assert second.kind == "conv 3x1, 2 groups"


def test_macs_of_a_network_are_those_of_its_parts() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, (3, 1), groups=2))
    assert count_macs(net, 10, 12) == 5 * 6 * 8 * 3 * 9 + 3 * 6 * 6 * 4 * 3
    # The layer table of docs/method.md, folded: 681.6 million.
    assert count_macs(fold(SmallDepth("ac").eval()), 192, 640) == pytest.approx(681.6e6, rel=1e-3)


def test_a_part_is_not_split_where_it_works_by_itself() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.weight = nn.Parameter(torch.rand(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) @ self.weight

    rows = describe_network(nn.Sequential(Own()), 2, 4, depth=3)
    assert [(row.name, row.parameters, row.macs) for row in rows] == [("0", 36, 2 * 3 * 2 * 16)]


def test_layer_table_of_smalldepth() -> None:
    """MMAC of the layer table in docs/method.md, computed by another implementation."""
    rows = describe_network(fold(SmallDepth("off")), 192, 640)
    expected = [13.3, 35.4, 106.2, 216.3, 151.8, 6.1, 44.2, 35.4, 35.4, 35.4, 2.2]
    assert [row.macs / 1e6 for row in rows] == pytest.approx(expected, abs=0.06)
    assert len(describe_network(fold(SmallDepth("off")), 192, 640, depth=3)) == 35


@pytest.mark.parametrize("depth", [1, 2, 3, 20])
def test_parts_add_up_and_the_network_stays_as_it_was(depth: int) -> None:
    for net in (SmallDepth("ac", width=0.25), HQDecV2(width=0.1, depth=0.1)):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        rows = describe_network(net, 64, 96, depth)
        whole = describe_network(nn.ModuleDict({"net": net}).get_submodule("net"), 64, 96, 1)
        assert sum(row.parameters for row in rows) == count_parameters(net)
        assert sum(row.macs for row in rows) == sum(row.macs for row in whole) > 0
        assert net.training
        assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_depth_is_checked() -> None:
    with pytest.raises(FadepthError, match="depth must be 1 or more"):
        describe_network(nn.Conv2d(3, 3, 3), 8, 8, 0)


def test_describe_prints_both_forms() -> None:
    result = CliRunner().invoke(app, ["describe", "smalldepth"], env={"COLUMNS": "120"})
    assert result.exit_code == 0
    training, folded = result.stdout.split("folded, for inference, 192x640")
    assert "2,841,915" in training
    assert "1,949,697" in folded and "681.6" in folded
    assert "conv 3x3, stride 2" in folded


def test_describe_takes_settings_and_refuses_a_wrong_size() -> None:
    small = ["--override", '{"teacher.width": 0.25, "teacher.depth": 0.33}', "--size", "64x208"]
    result = CliRunner().invoke(app, ["describe", "hqdecv2", *small], env={"COLUMNS": "120"})
    assert result.exit_code == 0 and "688,594" in result.stdout
    result = CliRunner().invoke(app, ["describe", "hqdecv2", "--size", "640"])
    assert isinstance(result.exception, FadepthError)
    assert "--size is '640'" in str(result.exception)
