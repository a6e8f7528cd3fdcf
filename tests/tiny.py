"""A data set of a few small pictures, and trainings on it that take a second or two."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fadepth.config import Config, merge, parse_config
from fadepth.data.manifest import Frame, Manifest

SIZE = (64, 96)
DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


def tiny_manifest(root: Path, frames: int = 6) -> Manifest:
    """Write a moving texture as PNG files below `root`; frames 1 to `frames` are for training."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (8, 24, 3), dtype=np.uint8))
    texture = np.asarray(noise.resize((SIZE[1] + 3 * frames, SIZE[0]), Image.Resampling.BICUBIC))
    files = {}
    for number in range(frames + 2):
        path = root / f"{number}.png"
        Image.fromarray(texture[:, 2 * number : 2 * number + SIZE[1]]).save(path)
        files[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    train = [
        Frame(
            drive=DRIVE,
            frame=n,
            side="l" if n % 2 else "r",
            image=f"{n}.png",
            neighbours={-1: f"{n - 1}.png", 1: f"{n + 1}.png"},
            intrinsics=(60.0, 60.0, 47.0, 31.0),
            height=SIZE[0],
            width=SIZE[1],
            velodyne=None,
            depth_png=None,
        )
        for n in range(1, frames + 1)
    ]
    return Manifest("tiny", str(root), {"train": train, "val": [], "test": []}, files)


def tiny_config(root: Path, **changes: Any) -> Config:
    """Small networks, 3 steps in each of 4 epochs, batches of 2; dotted keys with `__`."""
    settings: dict[str, Any] = {
        "scale": "smoke",
        "data": {"name": "tiny", "root": str(root), "height": SIZE[0], "width": SIZE[1]},
        "student": {"width": 0.25, "etm": {"space": "kernel"}},
        "teacher": {"width": 0.1, "depth": 0.1},
        "pose": {"width": 0.25},
        "loss": {"warp_at": "scale", "pyramid": {"levels": 2, "warmup_epochs": 0}},
        "training": {
            "epochs": 4,
            "steps_per_epoch": 3,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "log_every": 2,
            "checkpoint_every": 2,
            "device": "cpu",
        },
    }
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return parse_config(merge(settings, dotted), "tests/tiny.py")
