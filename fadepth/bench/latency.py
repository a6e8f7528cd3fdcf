"""Which network is faster, on which backend? Latencies of one run, as ratios to a yardstick.

Every network on every backend is prepared first; then all take turns
(`fadepth.evaluation.latency`). A ratio is that of times in the same round, and is what may be
quoted: absolute times move with the machine, ratios hardly.

Before a network is timed its output is held against eager PyTorch's in float32. A backend that
computes something else in float32 gets no time: it would be that of another network.
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fadepth.bench.backends import BACKENDS, Prepared, Subject, Task, Unavailable, prepare
from fadepth.bench.machine import machine, versions_of
from fadepth.bench.models import Candidate
from fadepth.errors import FadepthError, one_line
from fadepth.evaluation.complexity import count_macs, count_parameters
from fadepth.evaluation.latency import (
    SETTLE,
    WARM_UP,
    Latency,
    Ratio,
    Stopwatch,
    Turns,
    stopwatch_of,
    take_turns,
)
from fadepth.evaluation.operators import count_operators

TOLERANCE = 1e-4
"""Largest difference of a disparity, which is in (0, 1), that float32 may have to eager's."""

RUNTIMES = ("onnx", "onnxruntime", "openvino")

Told = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        rounds: turns of every network on every backend.
        warm_up: rounds before those.
        settle: uncounted calls before each counted one. 1 is one frame after another; with 0 a
            network finds its weights where the one before it has pushed them.
    """

    rounds: int = 30
    warm_up: int = WARM_UP
    settle: int = SETTLE


@dataclass(frozen=True)
class Cost:
    """What a network is, in eager PyTorch and for one image.

    Attributes:
        model: its name.
        parameters: trainable numbers.
        macs: multiply-accumulates.
        convolutions: kernels that are convolutions.
        launches: all operators that compute or copy.
    """

    model: str
    parameters: int
    macs: int
    convolutions: int
    launches: int


@dataclass(frozen=True)
class Row:
    """A network on a backend in a precision.

    Attributes:
        model, backend, precision: which.
        latency: of one batch, ms; None where there is none, and `problem` says why.
        fps: images a second.
        ratio: time in terms of the yardstick's in eager PyTorch, float32, plain layout.
        same: in terms of the yardstick's on this backend in this precision.
        difference: largest absolute difference of the disparity to eager float32.
        problem: why there is no latency.
    """

    model: str
    backend: str
    precision: str
    latency: Latency | None = None
    fps: float | None = None
    ratio: Ratio | None = None
    same: Ratio | None = None
    difference: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class LatencyReport:
    """What was measured, on what.

    Attributes:
        machine: processor, cores, threads and versions.
        task: size, batch, threads, rounds, yardstick, share of clean turns (None on a GPU).
        costs: one for each network that runs at all.
        rows: networks in the order given, each on all backends.
    """

    machine: dict[str, Any]
    task: dict[str, Any]
    costs: list[Cost]
    rows: list[Row]

    def json(self) -> str:
        """For a file; `read_report` takes it back."""
        return _ADAPTER.dump_json(self, indent=1).decode() + "\n"


_ADAPTER = TypeAdapter(LatencyReport)


def read_report(path: Path) -> LatencyReport:
    """A report that was written before.

    Raises:
        FadepthError: the file is absent, or no such report.
    """
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise FadepthError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError:
        raise FadepthError(
            f"{path} is no report of `fadepth bench latency`: write one with --json"
        ) from None


def measure_latency(
    candidates: Sequence[Candidate],
    task: Task,
    *,
    reference: str,
    backends: Sequence[str],
    precisions: Sequence[str] = ("fp32",),
    budget: Budget = Budget(),
    stopwatch: Stopwatch | None = None,
    tell: Told = lambda _: None,
) -> LatencyReport:
    """Time networks on backends in turn.

    Args:
        candidates: with distinct names; the reference is one of them.
        task: images, device and threads.
        reference: name of the yardstick.
        backends: keys of `BACKENDS`.
        precisions: of `PRECISIONS`; a backend is asked for those that it has.
        budget: how much is measured.
        stopwatch: the device's own if None.
        tell: gets a line about what is being prepared.

    Raises:
        FadepthError: the reference does not take images of this size.
    """
    torch.set_num_threads(task.threads)
    # cuDNN may search for its fastest kernels, but float32 is not to be rounded to TF32.
    exact = torch.backends.cudnn.flags(
        enabled=True, benchmark=True, allow_tf32=False, fp32_precision="ieee"
    )
    with exact, tempfile.TemporaryDirectory(prefix="fadepth-bench-") as folder:
        rows, waiting = _prepare_all(
            candidates, task, Path(folder), _asked(backends, precisions), reference, tell
        )
        tell(f"{len(waiting)} ways in turns, {budget.warm_up} + {budget.rounds} rounds")
        turns = take_turns(
            {name: prepared.call for name, prepared in waiting.items()},
            stopwatch or stopwatch_of(task.device),
            rounds=budget.rounds,
            warm_up=budget.warm_up,
            settle=budget.settle,
            threads=task.threads,
        )
    runs = {row.model for row in rows if row.difference is not None}
    asked = _asked(backends, precisions)
    return LatencyReport(
        machine=machine() | versions_of(*RUNTIMES),
        task=_described(task, reference, budget, turns),
        costs=[_cost(c, task.images) for c in candidates if c.name in runs],
        rows=[
            _timed(row, turns, reference, len(task.images))
            for row in rows
            if (row.backend, row.precision) in asked
        ],
    )


def _asked(backends: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    return [(b, p) for b in backends for p in precisions if p in BACKENDS[b].precisions]


def _key(model: str, backend: str, precision: str) -> str:
    return f"{model} {backend} {precision}"


def _prepare_all(
    candidates: Sequence[Candidate],
    task: Task,
    folder: Path,
    asked: Sequence[tuple[str, str]],
    reference: str,
    tell: Told,
) -> tuple[list[Row], dict[str, Prepared]]:
    """Rows without times, and what waits for its turn; the yardstick runs in eager in any case."""
    rows: list[Row] = []
    waiting: dict[str, Prepared] = {}
    for number, candidate in enumerate(candidates):
        files = folder / str(number)
        files.mkdir()
        subject = Subject(candidate.network, task, files, export=candidate.export)
        truth, problem = _truth(candidate, task.images)
        wanted = list(asked)
        if candidate.name == reference:
            if problem:
                raise FadepthError(f"the reference '{reference}' does not run here: {problem}")
            wanted = list(dict.fromkeys([*wanted, ("eager", "fp32")]))
        for backend, precision in wanted:
            tell(f"prepare {_key(candidate.name, backend, precision)}")
            row, prepared = _prepare(subject, candidate.name, backend, precision, truth, problem)
            rows.append(row)
            if prepared is not None:
                waiting[_key(candidate.name, backend, precision)] = prepared
    return rows, waiting


@torch.inference_mode()
def _truth(candidate: Candidate, images: Tensor) -> tuple[Tensor | None, str | None]:
    """Eager float32 output, or why there is none."""
    try:
        found = candidate.network(images)
    except Exception as error:  # anybody's network
        return None, str(error) if isinstance(error, FadepthError) else one_line(error)
    return found, None


def _prepare(
    subject: Subject,
    model: str,
    backend: str,
    precision: str,
    truth: Tensor | None,
    problem: str | None,
) -> tuple[Row, Prepared | None]:
    if truth is None:
        return Row(model, backend, precision, problem=f"not available: {problem}"), None
    try:
        prepared = prepare(subject, backend, precision)
    except Unavailable as reason:
        return Row(model, backend, precision, problem=f"not available: {reason}"), None
    with torch.inference_mode():
        output = prepared.output(prepared.call())
    if output.shape != truth.shape:
        shapes = f"{tuple(output.shape)}, not {tuple(truth.shape)}"
        return Row(model, backend, precision, problem=f"wrong: gives {shapes}"), None
    difference = float((output - truth).abs().max())
    # Not "larger than": NaN is wrong, too.
    if precision == "fp32" and not difference <= TOLERANCE:
        text = f"wrong: differs from eager by {difference:.1e}, more than {TOLERANCE:.0e}"
        return Row(model, backend, precision, difference=difference, problem=text), None
    return Row(model, backend, precision, difference=difference), prepared


def _timed(row: Row, turns: Turns, reference: str, batch: int) -> Row:
    own = _key(row.model, row.backend, row.precision)
    if own not in turns.by_name:
        return row
    same = _key(reference, row.backend, row.precision)
    latency = turns.latency(own)
    return Row(
        row.model,
        row.backend,
        row.precision,
        latency=latency,
        fps=1000 * batch / latency.median,
        ratio=turns.ratio(own, _key(reference, "eager", "fp32")),
        same=turns.ratio(own, same) if same in turns.by_name else None,
        difference=row.difference,
    )


def _cost(candidate: Candidate, images: Tensor) -> Cost:
    height, width = images.shape[-2:]
    operators = count_operators(candidate.network, height, width)
    return Cost(
        candidate.name,
        count_parameters(candidate.network),
        count_macs(candidate.network, height, width),
        operators.convolutions,
        operators.launches,
    )


def _described(task: Task, reference: str, budget: Budget, turns: Turns) -> dict[str, Any]:
    gpu = task.device.type == "cuda"
    return {
        "size": list(task.images.shape[-2:]),
        "batch": len(task.images),
        "device": str(task.device),
        "threads": task.threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "reference": reference,
        "rounds": budget.rounds,
        "warm_up": budget.warm_up,
        "settle": budget.settle,
        "clean_share": None if gpu else turns.share,
    }


def unsupported(backends: Sequence[str], precisions: Sequence[str]) -> Mapping[str, list[str]]:
    """Precisions that were asked for -> backends that do not have them."""
    lacking = {p: [b for b in backends if p not in BACKENDS[b].precisions] for p in precisions}
    return {precision: names for precision, names in lacking.items() if names}
