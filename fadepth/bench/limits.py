"""What the machine allows: a network's time against its arithmetic and its memory traffic.

A roofline (Williams, Waterman and Patterson, 2009): each layer needs at least as long as the
machine takes for its multiply-accumulates at the highest rate it was seen at, and as it takes to
read and write its maps and weights once at the highest bandwidth it was seen at. The larger of
both, summed over the layers, is a time that no implementation of the same layers on this machine
undercuts, unless it merges layers or computes with other arithmetic.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fadepth.bench.machine import machine
from fadepth.evaluation.latency import random_image, stopwatch_of, take_turns

Clock = Callable[[], float]


@dataclass(frozen=True)
class Peak:
    """The best this machine did here, with the threads it was given.

    Attributes:
        macs: multiply-accumulates a second, float32, of the fastest of some products and
            convolutions.
        bandwidth: bytes a second of copying a tensor far larger than the caches, read and written.
        cached_bandwidth: the same of one that fits into a second-level cache.
    """

    macs: float
    bandwidth: float
    cached_bandwidth: float


@dataclass(frozen=True)
class Layer:
    """One layer without children: what it has to do for one image.

    Attributes:
        name: dotted path.
        macs: multiply-accumulates.
        bytes: of its inputs, outputs and weights, each once.
    """

    name: str
    macs: int
    bytes: int


@dataclass(frozen=True)
class Limit:
    """A network's time and its bounds.

    Attributes:
        milliseconds: measured, median.
        arithmetic: of its MACs at the peak rate, milliseconds.
        traffic: of its bytes at the cached bandwidth, milliseconds.
        roofline: sum over layers of the larger of both, milliseconds.
        gmacs, megabytes: what they were computed from.
    """

    milliseconds: float
    arithmetic: float
    traffic: float
    roofline: float
    gmacs: float
    megabytes: float

    @property
    def reached(self) -> float:
        """Roofline over measured time, in (0, 1] up to the noise of both."""
        return self.roofline / self.milliseconds


@dataclass(frozen=True)
class LimitsReport:
    """Peaks of the machine, and the limits of networks on it."""

    machine: dict[str, Any]
    task: dict[str, Any]
    peak: Peak
    limits: dict[str, Limit]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.inference_mode()
def measure_peak(repeats: int = 10, clock: Clock = time.perf_counter) -> Peak:
    """Rates of this machine with torch's present number of threads; takes seconds."""
    products = [_product(side) for side in (512, 1024, 2048)]
    convolutions = [_convolution(channels) for channels in (64, 128, 256)]
    rate = max(macs / _fastest(call, repeats, clock) for macs, call in (*products, *convolutions))
    large, small = 64 * 2**20, 128 * 2**10  # elements of four bytes: 256 MB, 512 kB
    return Peak(rate, _copied(large, 1, repeats, clock), _copied(small, 50, repeats, clock))


def _product(side: int) -> tuple[int, Callable[[], object]]:
    a, b = torch.rand(side, side), torch.rand(side, side)
    out = torch.empty(side, side)
    return side**3, lambda: torch.mm(a, b, out=out)


def _convolution(channels: int) -> tuple[int, Callable[[], object]]:
    height, width = 48, 160
    layer = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    return 9 * channels**2 * height * width, lambda: layer(x)


def _copied(elements: int, times: int, repeats: int, clock: Clock) -> float:
    source, target = torch.rand(elements), torch.empty(elements)

    def copy_often() -> None:
        for _ in range(times):
            target.copy_(source)

    return 8 * elements * times / _fastest(copy_often, repeats, clock)


def _fastest(call: Callable[[], object], repeats: int, clock: Clock) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def layers_of(network: nn.Module, height: int, width: int) -> list[Layer]:
    """What each module without children does for one image (1, 3, height, width), in its order.

    Operations between modules (the sums of skips, resizing) are not seen: the bound is lower for
    it, and stays a bound. ReLU in place of its convolution's output costs no traffic of its own.
    """
    network = copy.deepcopy(network).eval()
    found: list[Layer] = []
    names = {module: name for name, module in network.named_modules()}

    def note(module: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        if getattr(module, "inplace", False):
            return
        tensors = [x for x in (*inputs, output, *module.parameters()) if isinstance(x, Tensor)]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        found.append(Layer(names[module], _macs(module, output), size))

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(random_image(1, height, width))
    return found


def _macs(module: nn.Module, output: Any) -> int:
    if isinstance(module, nn.Conv2d):
        window = math.prod(module.kernel_size) * module.in_channels // module.groups
        return window * int(output.numel())
    if isinstance(module, nn.Linear):
        return module.in_features * int(output.numel())
    return 0


def limit_of(layers: Sequence[Layer], peak: Peak, milliseconds: float) -> Limit:
    """The bounds of a network whose layers are these and which took `milliseconds`."""
    arithmetic = [1000 * layer.macs / peak.macs for layer in layers]
    traffic = [1000 * layer.bytes / peak.cached_bandwidth for layer in layers]
    return Limit(
        milliseconds=milliseconds,
        arithmetic=sum(arithmetic),
        traffic=sum(traffic),
        roofline=sum(map(max, arithmetic, traffic)),
        gmacs=sum(layer.macs for layer in layers) / 1e9,
        megabytes=sum(layer.bytes for layer in layers) / 1e6,
    )


def measure_limits(
    networks: Mapping[str, nn.Module], height: int, width: int, rounds: int = 30
) -> LimitsReport:
    """Peaks of the CPU, and each network's time in channels_last against its roofline.

    Args:
        networks: by name, made of convolutions; in evaluation mode, on the CPU.
        height, width: of the image, pixels.
        rounds: turns of each network.
    """
    layout = torch.channels_last
    image = random_image(1, height, width).contiguous(memory_format=layout)
    moved = {
        name: copy.deepcopy(network).eval().to(memory_format=layout)  # type: ignore[call-overload]
        for name, network in networks.items()
    }
    calls = {name: (lambda network=network: network(image)) for name, network in moved.items()}
    peak = measure_peak()
    turns = take_turns(
        calls, stopwatch_of(torch.device("cpu")), rounds=rounds, threads=torch.get_num_threads()
    )
    limits = {
        name: limit_of(layers_of(network, height, width), peak, turns.latency(name).median)
        for name, network in networks.items()
    }
    task = {"size": [height, width], "rounds": rounds, "clean": turns.share}
    return LimitsReport(machine(), task, peak, limits)
