"""The teacher's predictions on disk, which every APX student reads: made once, checked before use.

`runs/<teacher>/targets.npy` is float16 (N, 2, H, W) for the N training frames in the manifest's
order: channel 0 is the disparity of the clean image, channel 1 that of the mirrored image, mirrored
back. `targets.json` beside it (the label) says whose predictions they are and holds the sha256 of
the file. The label is written last, so a crash between the two leaves a pair that does not match.

For all of KITTI the file holds 20 GB, too much to hash at the start of every student. A file is
hashed once in every state (`fadepth.filestate`), which the label remembers.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fadepth.config import DataSettings
from fadepth.data.augment import mirrored_where
from fadepth.data.dataset import TrainingFrames
from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.files import atomic_path, write_atomic
from fadepth.filestate import FileState, only_one
from fadepth.losses.apx import flip_reliability

log = logging.getLogger(__name__)

#: Raise it when the same teacher would write other bytes (another resize, another type).
FORMAT = 1
_BATCH = 8


@dataclass(frozen=True)
class TargetsKey:
    """What predictions depend on; a file with another key is foreign.

    Attributes:
        teacher: id of the run that predicted.
        weights: sha256 of its `model.pt`; None where that file is gone, then it is not compared.
        frames: sha256 over paths and file hashes of the training images, in their order.
        count: number of those frames.
        height, width: size of the maps, pixels.
    """

    teacher: str
    weights: str | None
    frames: str
    count: int
    height: int
    width: int

    @classmethod
    def of(
        cls, teacher: str, model: Path, manifest: Manifest, settings: DataSettings
    ) -> "TargetsKey":
        """The key of the predictions of run `teacher` for a manifest's training frames."""
        frames = manifest.splits["train"]
        lines = "".join(f"{frame.image} {manifest.files[frame.image]}\n" for frame in frames)
        weights = _sha256(model) if model.exists() else None
        digest = hashlib.sha256(lines.encode()).hexdigest()
        return cls(teacher, weights, digest, len(frames), settings.height, settings.width)

    def difference(self, other: "TargetsKey") -> str | None:
        """The first thing in which two keys differ, in words; None where they agree."""
        words = {"weights": "weights of the teacher", "frames": "training frames"}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            unknown = field.name == "weights" and None in (mine, theirs)
            if mine != theirs and not unknown:
                return words.get(field.name, field.name)
        return None


@dataclass(frozen=True)
class _Label:
    """Content of `targets.json`: key, checksum, and the state of the file that had it."""

    key: TargetsKey
    sha256: str
    state: FileState

    @staticmethod
    def path_of(targets: Path) -> Path:
        return targets.with_suffix(".json")

    @classmethod
    def read(cls, targets: Path) -> "_Label | None":
        """The label of a file of predictions; None where there is none or it is damaged."""
        try:
            content = json.loads(cls.path_of(targets).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                return None
            key, state = TargetsKey(**content["key"]), FileState(**content["state"])
            return cls(key, content["sha256"], state)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, targets: Path) -> None:
        content: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        write_atomic(self.path_of(targets), json.dumps(content, indent=1) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _measured(path: Path) -> tuple[str, FileState]:
    """sha256 of a file, and the state in which it has it."""
    while True:
        state = FileState.settled(path)
        digest = _sha256(path)
        if FileState.of(path) == state:
            return digest, state


def problem_of(path: Path, key: TargetsKey) -> str | None:
    """What is wrong with a file of predictions, as the end of a sentence; None: it is `key`'s.

    The file is hashed unless it is in the state in which it was hashed last.
    """
    label = _Label.read(path)
    if not path.exists():
        return "does not exist"
    if label is None:
        return f"has no readable {_Label.path_of(path).name} beside it"
    if difference := label.key.difference(key):
        return f"is for other {difference}"
    state = FileState.of(path)
    if state == label.state:
        return None
    if state.size != label.state.size:
        return f"holds {state.size} bytes instead of {label.state.size}"
    log.info("%s is new here: comparing it with its checksum", path)
    digest, state = _measured(path)
    if digest != label.sha256:
        return "does not match its checksum"
    _Label(label.key, digest, state).write(path)
    return None


def checked_targets(
    path: Path, key: TargetsKey, predict: Callable[[Path], None] | None = None
) -> str:
    """Make sure that `path` holds the predictions of `key`; return their sha256.

    Args:
        path: the file of predictions.
        key: whose they have to be.
        predict: writes the predictions anew to a path; it is called where the file is not in order.

    Raises:
        FadepthError: the file is not in order, and `predict` is not given.
    """
    with only_one(path):
        problem = problem_of(path, key)
        if problem and predict is None:
            raise FadepthError(
                f"{path} {problem}, but these have to be the predictions of {key.teacher} for "
                f"{key.count} frames of {key.height}x{key.width}: pass "
                f"runs/{key.teacher}/targets.npy, which is made anew where it is damaged"
            )
        if problem and predict:
            log.warning("%s %s: the teacher predicts all frames again", path, problem)
            _replace(path, key, predict)
        label = _Label.read(path)
        assert label is not None
        return label.sha256


def make_targets(path: Path, key: TargetsKey, predict: Callable[[Path], None]) -> None:
    """Write predictions and their label, whatever is there."""
    with only_one(path):
        _replace(path, key, predict)


def _replace(path: Path, key: TargetsKey, predict: Callable[[Path], None]) -> None:
    """Write predictions anew; equal bytes keep their time.

    The workflow trains students again whose targets are newer than they are. A file that is only
    mended must not look new, so it gets back the time at which these bytes were last seen here.
    """
    for left_behind in path.parent.glob(f".{path.name}.*{path.suffix}"):
        left_behind.unlink()  # of a process that was killed; nobody else writes now
    old = _Label.read(path)
    if old and old.key.difference(key):
        old = None
    with atomic_path(path) as temporary:
        predict(temporary)
        digest = _sha256(temporary)
        seen = _earlier_time(path, old, digest)
        if seen is not None:
            os.utime(temporary, ns=(seen, seen))
    if old and old.sha256 != digest:
        log.warning(
            "the new predictions of %s differ from the earlier ones (another machine or library?): "
            "students of the earlier ones do not compare with those of the new ones",
            key.teacher,
        )
    digest, state = _measured(path)
    _Label(key, digest, state).write(path)


def _earlier_time(path: Path, old: _Label | None, digest: str) -> int | None:
    """When bytes with this digest were last written here, ns; None where they never were."""
    if old and old.sha256 == digest:
        return old.state.mtime_ns
    if path.exists() and _sha256(path) == digest:  # only the label is lost
        return path.stat().st_mtime_ns
    return None


class TeacherTargets:
    """The teacher's disparities for every training frame, read from `predict_targets`' file."""

    def __init__(self, path: Path, frames: int) -> None:
        self.maps = np.load(path, mmap_mode="r")
        if len(self.maps) != frames:
            raise FadepthError(
                f"{path} holds {len(self.maps)} frames but the manifest lists {frames}: delete it "
                "and run the workflow again"
            )

    def batch(self, index: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor]:
        """Disparity and reliability r_T (B, 1, H, W) of frames, mirrored where the input is."""
        maps = torch.from_numpy(self.maps[index.numpy()].astype(np.float32))
        disparity, of_flipped = maps[:, :1], maps[:, 1:]
        reliability = flip_reliability(disparity, of_flipped)
        return mirrored_where(disparity, flipped), mirrored_where(reliability, flipped)


@torch.inference_mode()
def predict_targets(
    network: nn.Module, frames: TrainingFrames, path: Path, device: torch.device
) -> None:
    """Write the teacher's disparities to `path` (.npy), see the module; batch by batch.

    Computed once per teacher, and the same for every student.
    """
    size = frames.settings.height, frames.settings.width
    maps = np.lib.format.open_memmap(path, "w+", np.float16, (len(frames), 2, *size))
    network = network.to(device)
    for start in range(0, len(frames), _BATCH):
        stop = min(start + _BATCH, len(frames))
        image = torch.stack([frames.clean(index) for index in range(start, stop)]).to(device)
        both = torch.cat([network(image), network(image.flip(-1)).flip(-1)], 1)
        maps[start:stop] = both.to(torch.float16).cpu().numpy()
        if start // _BATCH % 20 == 0:
            log.info("teacher predictions: %d of %d frames", stop, len(frames))
    maps.flush()
