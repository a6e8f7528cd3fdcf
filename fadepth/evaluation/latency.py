"""How long networks take for one image, measured side by side.

Times of separate calls drift with the machine's load and clock, so the networks take turns: every
round times each of them once, and what is compared is medians of the same rounds.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

#: Rounds before the clock counts: libraries choose their kernels in the first ones.
WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image, over the rounds.

    Attributes:
        median: of all rounds.
        low, high: first and ninth decile.
    """

    median: float
    low: float
    high: float


@torch.inference_mode()
def measure_latencies(
    networks: Mapping[str, nn.Module],
    height: int,
    width: int,
    device: torch.device,
    rounds: int = 30,
) -> dict[str, Latency]:
    """Time networks in turn on one image (1, 3, H, W), float32, as they are.

    Args:
        networks: by name; in evaluation mode, on the CPU.
        height, width: of the image, pixels.
        device: where they run.
        rounds: how often each is timed.
    """
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    moved = {name: network.eval().to(device) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in moved}
    for number in range(WARM_UP + rounds):
        for name, network in moved.items():
            seconds = _timed(network, image, device)
            if number >= WARM_UP:
                times[name].append(1000 * seconds)
    return {
        name: Latency(*(float(np.quantile(values, q)) for q in (0.5, 0.1, 0.9)))
        for name, values in times.items()
    }


def _timed(network: nn.Module, image: Tensor, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    network(image)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    # A GPU works on after the call has returned.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
