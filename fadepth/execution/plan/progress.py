"""How far a training is, and how many steps it has; nothing here loads torch or a checkpoint."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fadepth.config import Config, expand
from fadepth.data.kitti import read_split
from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.files import json_object
from fadepth.run import Run
from fadepth.survival import process_lives


@dataclass(frozen=True)
class TrainingImages:
    """How much a training reads: its targets, and all images that these and their sources are."""

    targets: int
    images: int


def training_images(config: Config, manifest: Path) -> TrainingImages | None:
    """Counted from settings or lists where these tell, else from the manifest; None: unknown."""
    data = config.data
    if data.source == "synthetic":
        scenes, frames = data.synthetic.scenes["train"], data.synthetic.frames["train"]
        # The first and the last frame of a scene lack a neighbour.
        return TrainingImages(scenes * (frames - 2), scenes * frames)
    if data.source in ("kitti", "video"):
        ids = read_split(Path.cwd() / expand(data.splits) / "train_files.txt")
        offsets = (0, *data.source_frames)
        images = {(f.drive, f.number + offset, f.side) for f in ids for offset in offsets}
        return TrainingImages(len(ids), len(images))
    try:
        listed = Manifest.read(manifest).splits["train"]
    except FadepthError:
        return None
    paths = {path for frame in listed for path in (frame.image, *frame.neighbours.values())}
    return TrainingImages(len(listed), len(paths))


def steps_in_epoch(run: Run, images: TrainingImages | None) -> int | None:
    """Steps of an epoch of a training; None where the number of frames is not known."""
    training = run.config.training
    if training.steps_per_epoch:
        return training.steps_per_epoch
    return images.targets // training.batch_size if images else None


def epochs_of(run: Run) -> int:
    """Epochs of a training; the teacher may have its own number."""
    own = run.config.teacher.epochs if run.kind == "teacher" else None
    return own or run.config.training.epochs


@dataclass(frozen=True)
class Checkpoint:
    """What a training left behind.

    Attributes:
        state: `running`: a process of this host is at it; `resumable`: it would go on from here;
            `outdated`: the code has changed since, so it would start from the beginning.
        step: of the checkpoint, or a little less, never more.
        steps: in all.
    """

    state: Literal["running", "resumable", "outdated"]
    step: int
    steps: int


def find_checkpoint(run: Run, folder: Path) -> Checkpoint | None:
    """The checkpoint in a run's folder, as its progress and manifest tell; None: there is none."""
    manifest = json_object(folder / "manifest.json")
    progress = json_object(folder / "progress.json")
    step, steps, epochs = (int(progress.get(key, 0)) for key in ("step", "steps", "epochs"))
    if is_alive(manifest):
        return Checkpoint("running", step, steps)
    written = _written(folder / "ckpt" / "last.pt")
    if written is None:
        return None
    if written < (_written(folder / "progress.json") or 0):
        # Told after the checkpoint was written, which is of the last step that has one.
        every, in_epoch = run.config.training.checkpoint_every, steps // max(1, epochs) or 1
        step = max(step - step % every, step - step % in_epoch)
    same = manifest.get("code_hash") == run.code_hash
    return Checkpoint("resumable" if same else "outdated", step, steps)


def _written(path: Path) -> int | None:
    """When a file was written, ns; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def is_alive(manifest: Mapping[str, Any]) -> bool:
    """Whether a run's manifest says that it is running, by a process of this host that lives."""
    running = manifest.get("status") == "running" and manifest.get("host") == platform.node()
    pid = manifest.get("pid")
    return running and isinstance(pid, int) and process_lives(pid)
