"""`fadepth plan --calibrate`: a few steps of each training whose steps nobody has timed."""

import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fadepth.checkpoint import Identity
from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.execution.data import data_root
from fadepth.execution.plan.times import CALIBRATION, THREADS, cost_key, costs_of, this_device
from fadepth.execution.train import set_threads
from fadepth.files import json_object, write_atomic
from fadepth.run import Run
from fadepth.training import Job, Training

log = logging.getLogger(__name__)

#: Steps that count; one more goes first, in which memory is taken and kernels are chosen.
STEPS = 4


def calibrate(
    runs: Iterable[Run], folder: Path, data: Path, tell: Callable[[str], None] = log.info
) -> list[str]:
    """Time steps of each cost among the runs, one after the other, and note them in the folder.

    Args:
        runs: trainings to time one of each cost of.
        folder: `runs/`, which gets `.calibration.json`.
        data: `data/`, which holds the manifests.
        tell: called with a line for each that was timed.

    Returns:
        What could not be timed, a sentence each.
    """
    set_threads(THREADS)
    chosen: dict[str, Run] = {}
    for run in runs:
        chosen.setdefault(cost_key(costs_of(run)), run)
    problems: dict[str, None] = {}
    for run in chosen.values():
        try:
            seconds = time_steps(run, data / run.data_folder / "manifest.jsonl")
        except FadepthError as error:
            problems[str(error)] = None
            continue
        _note(run, seconds, folder)
        tell(f"{run.label}: {seconds:.3g} s a step ({run.id})")
    return list(problems)


def time_steps(run: Run, manifest_path: Path) -> float:
    """Median seconds of the last steps of an untrained network, with every loss on.

    Few frames are read, and kept in memory where the run has a cache: to fill a cache is no part of
    a step. The teacher's predictions are made up.

    Raises:
        FadepthError: the data are not there, or the training does not start.
    """
    if not manifest_path.exists():
        raise FadepthError(
            f"{manifest_path} does not exist: let snakemake make it, then steps on these data can "
            "be timed"
        )
    manifest = Manifest.read(manifest_path)
    config = run.config
    few = manifest.splits["train"][: config.training.batch_size * (STEPS + 1)]
    manifest = replace(manifest, splits={**manifest.splits, "train": few})
    if config.data.cache == "disk":
        cached = config.data.model_copy(update={"cache": "memory"})
        config = config.model_copy(update={"data": cached})
    with TemporaryDirectory(prefix="fadepth-plan-") as scratch:
        targets = _made_up_targets(Path(scratch), len(few), (config.data.height, config.data.width))
        assert run.kind == "student" or run.kind == "teacher", "others are only evaluated"
        job = Job(
            run.id, run.kind, config, run.seed, Identity("", "", ""), Path(scratch), manifest,
            data_root(config.data), targets,
        )  # fmt: skip
        return _timed(Training(job))


def _made_up_targets(folder: Path, frames: int, size: tuple[int, int]) -> Path:
    """Predictions of a road: near below, far above."""
    ramp = np.linspace(0.1, 0.9, size[0], dtype=np.float16)[:, None]
    np.save(folder / "targets.npy", np.broadcast_to(ramp, (frames, 2, *size)))
    return folder / "targets.npy"


def _timed(training: Training) -> float:
    training.networks.train()
    # The last steps: losses that join later have joined.
    first = max(0, training.steps - STEPS - 1)
    ends = []
    for step, batch in enumerate(training.batches(first), first):
        training.step(batch, step)
        if training.device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
    if len(ends) < 2:
        raise FadepthError(
            f"{training.job.run_id} has only {training.steps} step: there is nothing to time"
        )
    return statistics.median(after - before for before, after in pairwise(ends))


def _note(run: Run, seconds: float, folder: Path) -> None:
    """Replace what was noted of such a training on this device; others stay."""
    entry: dict[str, Any] = {
        "costs": costs_of(run),
        "seconds": seconds,
        "host": platform.node(),
        "device": this_device(run.config.training.device),
        "threads": THREADS,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    same = ("costs", "host", "device", "threads")
    others = [
        old
        for old in json_object(folder / CALIBRATION).get("measured", [])
        if any(old.get(key) != entry[key] for key in same)
    ]
    content = {"measured": [*others, entry]}
    write_atomic(folder / CALIBRATION, json.dumps(content, indent=1) + "\n")
