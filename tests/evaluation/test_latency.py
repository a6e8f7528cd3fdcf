"""Calls take turns on the clock; how long they take is no test's business. All clocks are fake."""

import gc
import itertools
from collections import Counter
from collections.abc import Callable
from math import comb
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fadepth.evaluation.latency import (
    CpuWatch,
    CudaWatch,
    Ratio,
    Turn,
    Turns,
    balanced_orders,
    captured,
    median_interval,
    stopwatch_of,
    take_turns,
    time_networks,
)


class World:
    """Time that only passes while something runs, and who ran."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.ran: list[str] = []

    def takes(self, name: str, seconds: Callable[[int], float], cores: float = 1.0) -> Any:
        """A call whose n-th run, from 0, takes `seconds(n)`."""
        numbers = itertools.count()

        def call() -> None:
            spent = seconds(next(numbers))
            self.now += spent
            self.cpu += spent * cores
            self.ran.append(name)

        return call

    @property
    def watch(self) -> CpuWatch:
        return CpuWatch(lambda: self.now, lambda: self.cpu)


def of(*seconds: float, got: float = 1.0) -> list[Turn]:
    return [Turn(s, s * got) for s in seconds]


# Turns


def test_warm_up_and_uncounted_calls_do_not_count() -> None:
    world = World()

    def slow_at_first(seconds: float) -> Callable[[int], float]:
        """In the two rounds of warm-up, and in each turn's first call."""
        return lambda n: seconds * (100 if n < 4 else 10 if n % 2 == 0 else 1)

    calls = {
        name: world.takes(name, slow_at_first(seconds))
        for name, seconds in {"a": 1.0, "b": 2.0, "c": 3.0}.items()
    }
    turns = take_turns(calls, world.watch, rounds=5, warm_up=2, settle=1)
    assert {name: [t.seconds for t in found] for name, found in turns.by_name.items()} == {
        "a": [1.0] * 5, "b": [2.0] * 5, "c": [3.0] * 5,
    }  # fmt: skip
    assert turns.latency("b").median == turns.latency("b").low == turns.latency("b").high == 2000
    assert turns.latency("b").cpu == 2000
    assert turns.share == 1.0


@pytest.mark.parametrize("settle", [0, 1, 2])
def test_every_round_has_each_call_once(settle: int) -> None:
    world = World()
    calls = {name: world.takes(name, lambda _: 1.0) for name in "abcd"}
    take_turns(calls, world.watch, rounds=7, warm_up=1, settle=settle)
    a_round = 4 * (1 + settle)
    assert len(world.ran) == 8 * a_round
    for start in range(0, len(world.ran), a_round):
        order = [name for name, _ in itertools.groupby(world.ran[start : start + a_round])]
        assert sorted(order) == list("abcd")


@pytest.mark.parametrize("count", range(1, 10))
def test_everyone_follows_everyone_equally_often(count: int) -> None:
    orders = balanced_orders(count)
    assert all(sorted(order) == list(range(count)) for order in orders)
    pairs = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert len(pairs) == count * (count - 1)
    assert set(pairs.values()) <= {1 if count % 2 == 0 else 2}
    # And everyone has every place equally often.
    for place in range(count):
        assert len(set(Counter(order[place] for order in orders).values())) == 1


def test_rounds_go_through_the_orders() -> None:
    world = World()
    calls = {str(number): world.takes(str(number), lambda _: 1.0) for number in range(4)}
    take_turns(calls, world.watch, rounds=6, warm_up=1, settle=0)
    orders = balanced_orders(4)
    expected = [str(i) for number in range(7) for i in orders[number % len(orders)]]
    assert world.ran == expected


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    world = World()
    drift = lambda n: 1.0 + n  # noqa: E731
    calls = {
        "ours": world.takes("ours", lambda n: 3 * drift(n)),
        "theirs": world.takes("theirs", lambda n: 8 * drift(n)),
    }
    turns = take_turns(calls, world.watch, rounds=12, warm_up=0, settle=0)
    assert turns.ratio("ours", "theirs") == Ratio(0.375, 0.375, 0.375)
    assert turns.latency("ours").low < turns.latency("ours").median < turns.latency("ours").high


def test_a_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    ours, theirs = of(1, 2, 9), of(2, 1, 3)
    assert Turns({"a": ours, "b": theirs}).ratio("a", "b") == Ratio(2.0, None, None)


def test_deciles() -> None:
    found = Turns({"a": of(*np.arange(11.0)[::-1] + 1)}).latency("a")
    assert (found.low, found.median, found.high) == (2000, 6000, 10_000)
    assert found.turns == 11


@pytest.mark.parametrize("count", [6, 7, 11, 30, 100])
def test_interval_of_a_median_covers_it_in_95_percent(count: int) -> None:
    """Tossing coins: how many of n values fall below the true median."""
    low, high = median_interval(np.arange(1.0, count + 1)[::-1])
    assert low is not None
    assert high is not None
    assert low + high == count + 1
    below = sum(comb(count, heads) for heads in range(int(low))) / 2**count
    assert below <= 0.025  # the interval misses above
    assert below + comb(count, int(low)) / 2**count > 0.025  # a shorter one would miss too often


def test_interval_as_tables_have_it() -> None:
    assert median_interval(np.arange(1.0, 31)) == (10, 21)
    assert median_interval(np.arange(1.0, 6)) == (None, None)


# Clean turns


def test_turns_in_which_others_had_the_processor_do_not_count() -> None:
    disturbed = [Turn(30.0, 1.0)] * 3
    ours = of(*[1.0] * 7) + disturbed
    turns = Turns({"ours": ours, "theirs": of(*[2.0] * 10)})
    assert turns.latency("ours").high == 1000
    assert turns.latency("ours").turns == 7
    assert turns.ratio("ours", "theirs") == Ratio(0.5, 0.5, 0.5)
    assert turns.share == 17 / 20


def test_all_turns_count_where_few_are_clean() -> None:
    """Else a median would be that of the few lucky rounds."""
    ours = of(*[1.0] * 9) + [Turn(3.0, 1.0)] * 11
    turns = Turns({"ours": ours})
    assert turns.share == 9 / 20
    assert turns.latency("ours").median == 3000
    assert turns.latency("ours").turns == 20


def test_the_limit_is_94_percent_of_one_core() -> None:
    turns = Turns({"a": [Turn(1.0, 0.939), Turn(1.0, 0.941), Turn(1.0, 1.0)]})
    assert turns.clean("a").tolist() == [False, True, True]


def test_with_more_threads_a_call_is_held_against_itself() -> None:
    """A network that keeps 1.5 of two cores busy is not disturbed."""
    turns = Turns({"a": of(*[1.0] * 9, got=1.5) + of(2.0, got=0.75)}, threads=2)
    assert turns.clean("a").tolist() == [True] * 9 + [False]


def test_a_gpu_has_no_processor_time() -> None:
    turns = Turns({"a": [Turn(1.0), Turn(2.0), Turn(3.0)]})
    assert turns.share == 1
    assert turns.latency("a").cpu is None


# What is called


class Noted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen = 0

    def forward(self, image: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        assert not gc.isenabled()
        assert image.shape == (1, 3, 6, 8)
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        self.seen += 1
        return self.conv(image)


def test_networks_run_for_inference_in_the_layout() -> None:
    networks = {"a": Noted().train(), "b": Noted()}
    turns = time_networks(networks, 6, 8, torch.device("cpu"), rounds=4)
    assert [len(turns.by_name[name]) for name in networks] == [4, 4]
    assert [network.seen for network in networks.values()] == [2 * (3 + 4)] * 2
    assert gc.isenabled()


# GPUs, as far as can be said without one


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of torch.cuda, in order; the GPU takes 2 ms for everything."""
    told: list[str] = []

    class Context:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            told.append(f"in {self.name}")

        def __exit__(self, *_: object) -> None:
            told.append(f"out {self.name}")

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            told.append("record")

        def synchronize(self) -> None:
            told.append("wait for event")

        def elapsed_time(self, end: "Event") -> float:
            assert end is not self
            return 2.0

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            told.append(f"{self.name} waits for {other.name}")

    fake = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: told.append("replay")),
        "current_stream": lambda: Stream("main"),
        "device": lambda device: Context(str(device)),
        "stream": lambda stream: Context(f"stream {stream.name}"),
        "graph": lambda graph: Context("capture"),
        "synchronize": lambda: told.append("synchronize"),
    }
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return told


def test_a_gpu_is_timed_between_events_of_its_stream(cuda: list[str]) -> None:
    watch = stopwatch_of(torch.device("cuda:1"))
    assert isinstance(watch, CudaWatch)
    assert watch(lambda: cuda.append("call")) == Turn(0.002)
    assert cuda == [
        "in cuda:1", "synchronize", "record", "call", "record", "wait for event", "out cuda:1",
    ]  # fmt: skip
    assert isinstance(stopwatch_of(torch.device("cpu")), CpuWatch)


def test_a_graph_is_captured_once_after_warming_up_and_then_replayed(cuda: list[str]) -> None:
    output = torch.ones(1)

    def call() -> Tensor:
        cuda.append("call")
        return output

    replay = captured(call)
    assert cuda == [
        "side waits for main", "in stream side", "call", "call", "call", "out stream side",
        "main waits for side", "in capture", "call", "out capture",
    ]  # fmt: skip
    cuda.clear()
    assert replay() is output
    assert cuda == ["replay"]
