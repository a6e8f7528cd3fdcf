"""What the rules of workflow/rules/train.smk do: train, and predict for APX."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from fadepth.arrays import mapped_array
from fadepth.checkpoint import Identity
from fadepth.data.cache import CacheKey, ImageCache, present_cache
from fadepth.data.dataset import TrainingFrames
from fadepth.data.manifest import Manifest
from fadepth.devices import hold_device
from fadepth.evaluation.complexity import count_parameters
from fadepth.execution.data import data_root, images_for
from fadepth.files import write_atomic
from fadepth.models import fold
from fadepth.models.own import OwnNetwork, check_own_network
from fadepth.provenance import RunManifest
from fadepth.run import Run
from fadepth.survival import sole_writer
from fadepth.targets import TargetsKey, checked_targets, make_targets, predict_targets
from fadepth.training import (
    Interrupted,
    Job,
    Training,
    build_depth_network,
    choose_device,
    load_depth_network,
)

log = logging.getLogger(__name__)


def set_threads(threads: int) -> None:
    """Torch uses exactly the threads that the workflow granted."""
    torch.set_num_threads(threads)


def train_run(
    run: Run, runs: Path, manifest_path: Path, targets: Path | None, threads: int
) -> None:
    """Rules `train_teacher` and `train_student`: what `runs/<id>/` holds of one."""
    set_threads(threads)
    manifest = Manifest.read(manifest_path)
    with sole_writer(runs / run.id):
        _train(run, runs, manifest, manifest_path, targets, threads)


def _train(
    run: Run,
    runs: Path,
    manifest: Manifest,
    manifest_path: Path,
    targets: Path | None,
    threads: int,
) -> None:
    hold_device(run.config.training.device, f"train {run.id}")
    assert run.kind == "student" or run.kind == "teacher", "others are only evaluated"
    folder = runs / run.id
    record = RunManifest(run, folder, manifest.content_hash, threads)
    record.started_earlier()
    write_settings(run, folder)
    record.write()
    try:
        data = run.config.data
        images = images_for(data, manifest, manifest_path, threads)
        digest = checked_targets_of(run, runs, manifest, targets, images) if targets else None
        identity = Identity(run.config_hash, manifest.content_hash, run.code_hash, digest)
        record.write(targets_hash=digest)
        job = Job(
            run.id, run.kind, run.config, run.seed, identity, folder, manifest,
            data_root(data), targets, images,
        )  # fmt: skip
        if run.own_code:
            keep_own_code(run, folder)
            try_own_network(run)
        training = Training(job)
        record.write(parameters_training=count_parameters(training.networks.depth))
        training.run()
    except Interrupted as interruption:
        log.warning("%s", interruption)
        record.write(status="interrupted")
        raise SystemExit(143) from None
    except KeyboardInterrupt:
        record.write(status="interrupted")
        raise
    except BaseException:
        record.write(status="failed", ended=time.time())
        raise
    record.write(
        status="finished",
        ended=time.time(),
        parameters_inference=count_parameters(fold(training.networks.depth)),
    )
    log.warning("trained; results are in %s", folder)


def write_settings(run: Run, folder: Path) -> None:
    """`config.yaml`: all settings of the run, defaults included."""
    content = {"run_id": run.id, "seed": run.seed, "settings": run.config.model_dump(mode="json")}
    write_atomic(folder / "config.yaml", yaml.safe_dump(content, sort_keys=True))


def keep_own_code(run: Run, folder: Path) -> None:
    """`network/`: the user's own source as it was trained. Weights are of no use without it."""
    files = run.own_code.files if run.own_code else {}
    for name, path in files.items():
        write_atomic(folder / "network" / name, path.read_bytes())


def try_own_network(run: Run) -> None:
    """One pass of the user's own network at every size, before hours are spent.

    Raises:
        FadepthError: it fails, or its output is none that can be trained or evaluated.
    """
    data, pyramid = run.config.data, run.config.loss.pyramid
    levels = range(1, pyramid.levels) if pyramid.enabled and pyramid.kind == "inputs" else ()
    smaller = [(round(data.height / 2**n), round(data.width / 2**n)) for n in levels]
    torch.manual_seed(run.seed)
    network = build_depth_network(run.config, "student")
    assert isinstance(network, OwnNetwork), "fadepth's own need no trial"
    check_own_network(network, (data.height, data.width), smaller)


def predict_teacher(run: Run, runs: Path, manifest_path: Path, output: Path, threads: int) -> None:
    """Rule `predict_teacher`: the teacher's disparities for all training frames."""
    set_threads(threads)
    hold_device(run.config.training.device, f"predict {run.id}")
    manifest = Manifest.read(manifest_path)
    data = run.config.data
    key = CacheKey.of(manifest, data)
    images = present_cache(manifest_path, key) if data.cache == "disk" else None
    make_targets(output, *targets_of(run, runs, manifest, images))


def targets_of(
    teacher: Run, runs: Path, manifest: Manifest, images: ImageCache | None = None
) -> tuple[TargetsKey, Callable[[Path], None]]:
    """The key of a teacher's predictions, and what writes them to a path."""
    model, data = runs / teacher.id / "model.pt", teacher.config.data

    def predict(path: Path) -> None:
        network, _ = load_depth_network(model)
        # Every image is read once: nothing to keep in memory.
        settings = data.model_copy(update={"cache": "off"})
        # A study may vary the students' size.
        fitting = images if images and images.size == (data.height, data.width) else None
        train, root = manifest.splits["train"], data_root(data)
        frames = TrainingFrames(train, root, settings, teacher.seed, fitting)
        predict_targets(network, frames, path, choose_device(teacher.config.training.device))

    return TargetsKey.of(teacher.id, model, manifest, data), predict


def checked_targets_of(
    run: Run, runs: Path, manifest: Manifest, path: Path, images: ImageCache | None = None
) -> str | None:
    """sha256 of the predictions that a student is given; None for a run without teacher.

    Predictions in the teacher's own folder are made anew where they are not in order; a file from
    elsewhere is only read.

    Raises:
        FadepthError: the file is another teacher's, damaged, or for other frames.
    """
    if run.teacher is None:
        return None
    key, predict = targets_of(run.teacher, runs, manifest, images)
    own = path.resolve() == (runs / run.teacher.id / "targets.npy").resolve()
    digest = checked_targets(path, key, predict if own else None)
    # Who forges a file can forge its label: it must be an array, and not run anything.
    mapped_array(path, "delete it and run the workflow again")
    return digest
