"""AdamW without torch's compiler takes torch's steps."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from fadepth.optimizer import AdamW

_TRAIN = """
import sys, torch
from fadepth.optimizer import AdamW
layer = torch.nn.Linear(3, 2)
optimizer = AdamW(layer.parameters(), fused=True)
for _ in range(2):
    optimizer.zero_grad()
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
print([name for name in ("sympy", "torch._dynamo", "torch._inductor") if name in sys.modules])
"""


def _trained(kind: type[torch.optim.AdamW], *, fused: bool, resumed: bool) -> list[torch.Tensor]:
    """Weights and moments after five steps, the learning rate set anew for each."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    optimizer = kind(network.parameters(), lr=1e-3, weight_decay=1e-2, fused=fused)
    for number in range(5):
        if resumed and number == 3:
            state = optimizer.state_dict()
            optimizer = kind(network.parameters(), lr=1e-3, weight_decay=1e-2, fused=fused)
            optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 / (1 + number)
        optimizer.zero_grad()
        network(torch.rand(2, 3, 9, 9)).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.01)
        optimizer.step()
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "step")]
    return [*(weights.detach() for weights in network.parameters()), *moments]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("resumed", [True, False])
def test_steps_are_torchs(fused: bool, resumed: bool) -> None:
    ours = _trained(AdamW, fused=fused, resumed=resumed)
    torchs = _trained(torch.optim.AdamW, fused=fused, resumed=resumed)
    assert len(ours) == len(torchs) == 18
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


def test_scaler_skips_steps_that_overflow() -> None:
    """The scaler of float16 calls `step` itself, or not."""
    layer = nn.Linear(2, 1)
    optimizer = AdamW(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = layer.weight.detach().clone()
    scaler.scale(layer(torch.full((1, 2), float("inf"))).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer.weight, before)
    optimizer.zero_grad()
    scaler.scale(layer(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    assert not torch.equal(layer.weight, before)


def test_nothing_of_the_compiler_is_imported() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _TRAIN], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
