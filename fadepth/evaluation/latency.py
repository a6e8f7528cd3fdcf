"""How long calls take, measured side by side: the clock behind every latency that we print.

Times of separate calls drift with the machine's load and clock, so what is compared takes turns:
every round times each call once, and ratios are those of calls in the same round. Orders of the
rounds are balanced, so that nothing always runs in the wake of the same neighbour.

A turn begins with a call that does not count: what is timed is one frame after another, with the
weights where the frame before has left them. Without it a small network is charged for the large
one that ran before it. `settle` tells how many such calls there are.

On a CPU a turn is *clean* if the process got its cores: with one thread, processor time is at least
`CLEAN` of the time that passed. With more, no network keeps all cores busy all the time, so a turn
is held against the ninth decile of the same call's turns. Only clean turns count, if at least half
of the rounds are clean; else all count, and `share` tells that the machine was not quiet.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

#: Rounds before the clock counts: libraries choose their kernels in the first ones.
WARM_UP = 3

#: Uncounted calls before each that counts.
SETTLE = 1

#: Share of its cores that a process must have got for a turn to be clean.
CLEAN = 0.94

#: Fewer rounds have no 95 % interval of a median, and are too few to throw others away for.
FEWEST = 6

Call = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Turn:
    """One timed call.

    Attributes:
        seconds: that passed.
        cpu: processor seconds of the process meanwhile; None on a GPU.
    """

    seconds: float
    cpu: float | None = None


class Stopwatch(Protocol):
    """Times one call."""

    def __call__(self, call: Call) -> Turn: ...


@dataclass(frozen=True)
class CpuWatch:
    """Stopwatch of calls that have done their work when they return."""

    wall: Clock = time.perf_counter
    cpu: Clock = time.process_time

    def __call__(self, call: Call) -> Turn:
        wall, cpu = self.wall(), self.cpu()
        call()
        return Turn(self.wall() - wall, self.cpu() - cpu)


@dataclass(frozen=True)
class CudaWatch:
    """Stopwatch of calls that leave work to a GPU: between two events of its stream."""

    device: torch.device

    def __call__(self, call: Call) -> Turn:
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            end.synchronize()
            return Turn(start.elapsed_time(end) / 1000)


def stopwatch_of(device: torch.device) -> Stopwatch:
    """What times calls on a device."""
    return CudaWatch(device) if device.type == "cuda" else CpuWatch()


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call, over the turns that count.

    Attributes:
        median: of the time that passed.
        low, high: its first and ninth decile.
        cpu: median of the processor time; None on a GPU.
        turns: how many count.
    """

    median: float
    low: float
    high: float
    cpu: float | None = None
    turns: int = 0


@dataclass(frozen=True)
class Ratio:
    """Time of one call in terms of another's in the same round.

    Attributes:
        median: over the rounds.
        low, high: `median_interval`.
    """

    median: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Turns:
    """Turns of several calls in the same rounds.

    Attributes:
        by_name: of each call, round by round.
        threads: that each call may use.
    """

    by_name: Mapping[str, Sequence[Turn]]
    threads: int = 1
    _clean: dict[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False, compare=False)

    def clean(self, name: str) -> NDArray[np.bool_]:
        """Whether each turn of a call had the processor to itself; on a GPU all had."""
        if name not in self._clean:
            self._clean[name] = _clean(self.by_name[name], self.threads)
        return self._clean[name]

    @property
    def share(self) -> float:
        """Share of clean turns among all."""
        return float(np.mean([self.clean(name) for name in self.by_name]))

    def latency(self, name: str) -> Latency:
        """Median and deciles of a call."""
        turns = self.by_name[name]
        counts = _counting(self.clean(name))
        seconds = np.array([turn.seconds for turn in turns])[counts]
        cpu = [turn.cpu for turn, counted in zip(turns, counts, strict=True) if counted]
        known = [value for value in cpu if value is not None]
        median, low, high = (float(1000 * np.quantile(seconds, q)) for q in (0.5, 0.1, 0.9))
        processor = 1000 * float(np.median(known)) if known else None
        return Latency(median, low, high, processor, len(seconds))

    def ratio(self, name: str, reference: str) -> Ratio:
        """Time of a call over the reference's, both in one round."""
        counts = _counting(self.clean(name) & self.clean(reference))
        ours, theirs = (
            np.array([turn.seconds for turn in self.by_name[call]])[counts]
            for call in (name, reference)
        )
        ratios = ours / theirs
        return Ratio(float(np.median(ratios)), *median_interval(ratios))


def median_interval(values: NDArray[np.floating]) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of a median; None for fewer than six values, which have none.

    The k-th smallest and k-th largest value, k such that tossing n coins gives fewer than k heads
    in at most 2.5 % of cases: nothing is assumed on how values are distributed (Conover, Practical
    Nonparametric Statistics, section 3.2).
    """
    if len(values) < FEWEST:
        return None, None
    k = int(binom.ppf(0.025, len(values), 0.5))
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[-k])


def _clean(turns: Sequence[Turn], threads: int) -> NDArray[np.bool_]:
    if any(turn.cpu is None for turn in turns):
        return np.ones(len(turns), dtype=bool)
    got = np.array([(turn.cpu or 0.0) / turn.seconds for turn in turns])
    whole = 1.0 if threads == 1 else float(np.quantile(got, 0.9))
    return np.asarray(got >= CLEAN * whole)


def _counting(clean: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The clean rounds if there are enough, else all."""
    enough = clean.sum() >= max(FEWEST, len(clean) / 2)
    return clean if enough else np.ones_like(clean)


def balanced_orders(count: int) -> list[list[int]]:
    """Orders of 0 to `count` - 1: over all, each follows each other one equally often.

    A Williams design (Williams 1949, Australian Journal of Scientific Research A 2, page 149):
    `count` orders, twice as many for an odd count.
    """
    zigzag = [(step + 1) // 2 * (1 if step % 2 else -1) for step in range(count)]
    orders = [[(first + step) % count for step in zigzag] for first in range(count)]
    return orders if count % 2 == 0 else orders + [order[::-1] for order in orders]


@torch.inference_mode()
def take_turns(
    calls: Mapping[str, Call],
    stopwatch: Stopwatch,
    *,
    rounds: int = 30,
    warm_up: int = WARM_UP,
    settle: int = SETTLE,
    threads: int = 1,
) -> Turns:
    """Time every call once a round.

    Args:
        calls: by name; they run without gradients.
        stopwatch: times a call.
        rounds: that count.
        warm_up: rounds before those.
        settle: uncounted calls before each that counts.
        threads: that each call may use, for the judgement of what is clean.
    """
    names, orders = list(calls), balanced_orders(len(calls))
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    with _garbage_waits():
        for number in range(warm_up + rounds):
            for index in orders[number % len(orders)]:
                call = calls[names[index]]
                for _ in range(settle):
                    call()
                turn = stopwatch(call)
                if number >= warm_up:
                    turns[names[index]].append(turn)
    return Turns(turns, threads)


@contextmanager
def _garbage_waits() -> Iterator[None]:
    # As timeit does: a collection takes as long as a small network and hits whoever has its turn.
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def random_image(batch: int, height: int, width: int) -> Tensor:
    """Images (B, 3, H, W) of uniform noise in [0, 1]; the same ones every time."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def time_networks(
    networks: Mapping[str, nn.Module],
    height: int,
    width: int,
    device: torch.device,
    *,
    layout: torch.memory_format = torch.channels_last,
    rounds: int = 30,
    stopwatch: Stopwatch | None = None,
) -> Turns:
    """Time networks in turn on one float32 image (1, 3, H, W).

    Args:
        networks: by name; in evaluation mode. They are moved to the device and layout.
        height, width: of the image, pixels.
        device: where they run.
        layout: of the image and the weights.
        rounds: how often each is timed.
        stopwatch: the device's own if None.
    """
    image = random_image(1, height, width).to(device, memory_format=layout)
    calls: dict[str, Call] = {}
    for name, network in networks.items():
        moved = network.eval().to(device).to(memory_format=layout)  # type: ignore[call-overload]
        calls[name] = partial(moved, image)
    return take_turns(
        calls,
        stopwatch or stopwatch_of(device),
        rounds=rounds,
        threads=torch.get_num_threads(),
    )


@torch.inference_mode()
def captured(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call as a CUDA graph: one launch for all of its kernels; its tensor is overwritten.

    The call must read and write the same memory every time, and may not wait for the GPU. It runs
    three times on a stream of its own first, as libraries allocate then
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
