"""How many bytes trainings will take: as much as their like did, else by their parameters."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fadepth.execution.plan.progress import TrainingImages
from fadepth.execution.plan.times import StepTimes, cost_key, costs_of
from fadepth.run import Run

#: Files that a training of the teacher does not write itself (rule `predict_teacher`).
_PREDICTIONS = ("targets.npy", "targets.json")
_FLOAT16, _FLOAT32 = 2, 4
#: What `torch.save` adds to each tensor, measured with torch 2.13.
_CONTAINER = 300


def bytes_of(folder: Path, without: Iterable[str] = ()) -> int:
    """Bytes that a folder takes on its disk, links not followed; files named `without` left out."""
    total, left_out = 0, {*without}
    for place, _, names in os.walk(folder):
        for name in names:
            if name not in left_out:
                try:
                    total += os.lstat(os.path.join(place, name)).st_blocks * 512
                except OSError:
                    continue  # deleted meanwhile
    return total


@dataclass(frozen=True)
class Needed:
    """Bytes that are still to be written.

    Attributes:
        runs: weights, checkpoints, results of runs.
        predictions: of teachers, for APX.
        caches: of images.
        measured: how many of the runs are judged by finished ones like them.
        computed: how many by their parameters: weights and checkpoint alone.
        unknown: what cannot be told, for want of the data or of a run like it.
    """

    runs: int
    predictions: int
    caches: int
    measured: int
    computed: int
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All of it."""
        return self.runs + self.predictions + self.caches


def needed_bytes(
    trainings: Iterable[Run],
    predictions: Iterable[Run],
    images: Mapping[str, TrainingImages | None],
    times: StepTimes,
    data: Path,
) -> Needed:
    """What new trainings and predictions will take.

    Args:
        trainings: runs to be trained.
        predictions: teachers that are to predict.
        images: data folder -> what a training reads there.
        times: knows finished runs of each cost.
        data: `data/`.
    """
    like: dict[str, tuple[int, bool]] = {}
    total = measured = computed = 0
    unknown: dict[str, None] = {}
    caches: dict[Path, int] = {}
    for run in trainings:
        key = cost_key(costs_of(run))
        if key not in like:
            like[key] = _of_one(run, times.newest_like(run))
        size, by_like = like[key]
        if run.own_code and not by_like:
            # To count its weights would be to run it.
            unknown[f"weights of {run.own_code.spec}, of which no run has finished"] = None
        # What an interrupted training has written is there already.
        total += max(0, size - bytes_of(times.runs / run.id, _PREDICTIONS))
        measured, computed = measured + by_like, computed + (not by_like)
        settings = run.config.data
        if settings.cache != "disk":
            continue
        path = data / run.data_folder / f"images-{settings.height}x{settings.width}.npy"
        known = images[run.data_folder]
        if known is None:
            unknown[f"the cache of images of {run.data_folder}"] = None
        elif not path.exists():
            caches[path] = known.images * 3 * settings.height * settings.width
    predicted = 0
    for teacher in predictions:
        known, settings = images[teacher.data_folder], teacher.config.data
        if known is None:
            unknown[f"predictions of {teacher.id}"] = None
        elif not (times.runs / teacher.id / "targets.npy").exists():
            predicted += known.targets * 2 * settings.height * settings.width * _FLOAT16
    return Needed(total, predicted, sum(caches.values()), measured, computed, tuple(unknown))


def _of_one(run: Run, like: list[Path]) -> tuple[int, bool]:
    """Bytes of a run when it has finished; whether they were measured on others."""
    if like:
        return max(bytes_of(folder, _PREDICTIONS) for folder in like), True
    return computed_bytes(run), False


def computed_bytes(run: Run) -> int:
    """`model.pt` and the checkpoint, which holds two moments of every parameter beside the state.

    Networks are built without memory for their weights; one's own is not counted.
    """
    import torch

    from fadepth.models.posenet import PoseNet
    from fadepth.training import build_depth_network

    assert run.kind == "student" or run.kind == "teacher", "others are only evaluated"
    teacher = run.config.teacher.model_copy(update={"encoder_weights": None})
    config = run.config.model_copy(update={"teacher": teacher})
    with torch.device("meta"):
        networks: list[torch.nn.Module] = [PoseNet(config.pose.width)]
        if not run.own_code:
            networks.append(build_depth_network(config, run.kind))
    state = [t for network in networks for t in network.state_dict().values()]
    weights = [p.numel() for network in networks for p in network.parameters()]
    tensors = 2 * len(state) + 3 * len(weights)  # AdamW also counts the steps of each
    return 2 * sum(t.nbytes for t in state) + 2 * _FLOAT32 * sum(weights) + _CONTAINER * tensors
