"""Checkpoints: what is saved comes back, and what belongs elsewhere or is broken does not."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from fadepth.checkpoint import Identity, Resumed, load_checkpoint, save_checkpoint
from fadepth.errors import FadepthError

IDENTITY = Identity(config_hash="c" * 10, data_hash="d" * 10, code_hash="e" * 10)


def training(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    return network, torch.optim.AdamW(network.parameters(), lr=0.01)


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    network, optimizer = training(0)
    steps(network, optimizer, 0, 3)
    path = tmp_path / "ckpt" / "last.pt"
    resumed = Resumed(3, 120, {"train/loss/total": torch.tensor(1.25, dtype=torch.float64)}, 2)
    save_checkpoint(path, network, optimizer, resumed, IDENTITY)
    return path


def test_interrupted_training_ends_like_an_uninterrupted_one(saved: Path) -> None:
    whole, optimizer = training(0)
    steps(whole, optimizer, 0, 6)

    other, other_optimizer = training(1)
    resumed = load_checkpoint(saved, other, other_optimizer, IDENTITY)
    assert resumed is not None
    steps(other, other_optimizer, resumed.step, 6)

    expected, found = whole.state_dict(), other.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    moments = [o.state_dict()["state"] for o in (optimizer, other_optimizer)]
    for index, values in moments[0].items():
        assert all(torch.equal(values[name], moments[1][index][name]) for name in values)


def test_position_and_sums_come_back(saved: Path) -> None:
    resumed = load_checkpoint(saved, *training(1), IDENTITY)
    assert resumed is not None
    assert (resumed.step, resumed.log_bytes, resumed.count) == (3, 120, 2)
    assert resumed.sums.keys() == {"train/loss/total"}
    assert resumed.sums["train/loss/total"].dtype == torch.float64
    assert resumed.sums["train/loss/total"].item() == 1.25


def test_random_state_comes_back(tmp_path: Path) -> None:
    network, optimizer = training(0)
    torch.manual_seed(11)
    save_checkpoint(tmp_path / "last.pt", network, optimizer, Resumed(), IDENTITY)
    expected = torch.rand(3)
    torch.manual_seed(12)
    assert load_checkpoint(tmp_path / "last.pt", network, optimizer, IDENTITY) == Resumed()
    assert torch.equal(torch.rand(3), expected)


def test_saving_again_leaves_one_file(saved: Path) -> None:
    save_checkpoint(saved, *training(0), Resumed(7), IDENTITY)
    assert list(saved.parent.iterdir()) == [saved]
    resumed = load_checkpoint(saved, *training(1), IDENTITY)
    assert resumed is not None
    assert resumed.step == 7


def spoil(network: nn.Module, optimizer: torch.optim.Optimizer, what: str) -> None:
    if what == "statistics":
        dict(network.named_buffers())["1.running_var"][0] = torch.inf
    elif what == "weight":
        with torch.no_grad():
            dict(network.named_parameters())["2.weight"].view(-1)[-1] = torch.nan
    else:
        optimizer.state[next(network.parameters())]["exp_avg_sq"].view(-1)[0] = torch.inf


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("statistics", r"1\.running_var"),
        ("weight", r"2\.weight"),
        ("moments", "optimizer state 0, exp_avg_sq"),
    ],
)
def test_a_state_that_is_not_finite_never_replaces_a_good_one(
    what: str, name: str, saved: Path
) -> None:
    """An infinite variance gives finite losses: each input divided by it is zero."""
    content = saved.read_bytes()
    network, optimizer = training(0)
    steps(network, optimizer, 0, 4)
    spoil(network, optimizer, what)
    with pytest.raises(FadepthError, match=rf"after step 4, {name} holds NaN or Inf") as told:
        save_checkpoint(saved, network, optimizer, Resumed(4), IDENTITY)
    assert str(saved) in str(told.value)
    assert saved.read_bytes() == content
    assert list(saved.parent.iterdir()) == [saved]


def test_the_scale_of_half_precision_comes_back(tmp_path: Path) -> None:
    """After an overflow that halved it, with the count of steps since then."""
    network, optimizer = training(0)
    scaler = GradScaler("cpu", init_scale=2.0**120)
    for number, factor in enumerate((2.0**20, 1.0, 1.0)):
        images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        scaler.scale(factor * network(images).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**119
    save_checkpoint(tmp_path / "last.pt", network, optimizer, Resumed(3), IDENTITY, scaler)
    other = GradScaler("cpu")
    assert load_checkpoint(tmp_path / "last.pt", *training(1), IDENTITY, other) == Resumed(3)
    assert other.state_dict() == scaler.state_dict()
    assert other.state_dict()["_growth_tracker"] == 2
    # One that is switched off has no state, and takes none.
    off = GradScaler("cpu", enabled=False)
    assert load_checkpoint(tmp_path / "last.pt", *training(1), IDENTITY, off) == Resumed(3)
    assert off.get_scale() == 1


def untouched(path: Path, identity: Identity) -> None:
    """Loading gives None, and changes neither network, optimizer nor torch's random state."""
    network, optimizer = training(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    assert load_checkpoint(path, network, optimizer, identity) is None
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert optimizer.state_dict()["state"] == {}
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("part", ["config", "data", "code", "targets"])
def test_checkpoint_of_something_else_is_refused_and_named(
    part: str, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        untouched(saved, replace(IDENTITY, **{f"{part}_hash": "0" * 10}))
    assert f"belongs to other {part}: starting from step 0" in caplog.text
    assert str(saved) in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_told_and_ignored(
    share: float, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with caplog.at_level(logging.WARNING):
        untouched(saved, IDENTITY)
    assert "cannot be read: the training starts from the beginning" in caplog.text


def test_other_bytes_are_told_and_ignored(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved.write_bytes(b"not a checkpoint at all\n" * 40)
    with caplog.at_level(logging.WARNING):
        untouched(saved, IDENTITY)
    assert "cannot be read" in caplog.text


def test_absent_file_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        untouched(tmp_path / "last.pt", IDENTITY)
    assert caplog.text == ""
