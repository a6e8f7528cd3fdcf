"""Ego masks from frames, and frames that could not be evaluated."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fadepth.config import BenchmarkSettings
from fadepth.data.manifest import Frame, Manifest, evenly_spread
from fadepth.data.prepare import benchmark_identity
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol
from fadepth.execution.data import EGO_FRAMES, estimate_ego_masks, require_truths
from fadepth.training import load_world_masks
from tests.data.fixtures import write_make3d
from tests.tiny import tiny_config

HEIGHT, WIDTH = 64, 96


def drive(root: Path, frames: int) -> Path:
    """Noise that changes, over a bonnet that does not: its left camera sees more of it."""
    rng = np.random.default_rng(0)
    listed, files = [], {}
    for number in range(frames):
        for side, top in (("l", 44), ("r", 54)):
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            pixels[top:] = 40
            name = f"{side}{number}.png"
            Image.fromarray(pixels).save(root / name)
            files[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
            listed.append(
                Frame(
                    "day/drive", number, side, name, {}, (60.0, 60.0, 47.0, 31.0), HEIGHT, WIDTH,
                    None, None,
                )
            )  # fmt: skip
    path = root / "manifest.jsonl"
    Manifest("tiny", str(root), {"train": listed, "val": [], "test": []}, files).write(path)
    return path


def test_each_camera_gets_the_mask_of_its_own_view(tmp_path: Path) -> None:
    manifest = drive(tmp_path, 12)
    estimate_ego_masks(tiny_config(tmp_path), manifest, tmp_path / "ego")
    for side, top in (("l", 44), ("r", 54)):
        mask = np.asarray(Image.open(tmp_path / "ego" / f"{side}.png"))
        assert mask.shape == (HEIGHT, WIDTH)
        assert (mask[:top] == 255).all()
        assert (mask[top:] == 0).all()
        seen = Image.open(tmp_path / "ego" / f"{side}_seen.png")
        assert seen.size == (WIDTH, HEIGHT)
    # What was written is what a training reads.
    config = tiny_config(tmp_path, loss__ego_mask=str(tmp_path / "ego" / "{camera}.png"))
    worlds = load_world_masks(config, ["l", "r"])
    assert worlds.shape == (2, 1, HEIGHT, WIDTH)
    assert worlds[0].sum() == 44 * WIDTH
    assert worlds[1].sum() == 54 * WIDTH


def test_too_few_frames_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    manifest = drive(tmp_path, 3)
    with pytest.raises(FadepthError, match=r"camera l has 3 training frames in .*at least 8"):
        estimate_ego_masks(tiny_config(tmp_path), manifest, tmp_path / "ego")
    assert not (tmp_path / "ego").exists()


def test_frames_are_spread_over_the_whole_list() -> None:
    frames = [Frame("d", n, "l", "", {}, None, 1, 1, None, None) for n in range(1000)]
    chosen = [frame.frame for frame in evenly_spread(frames, EGO_FRAMES)]
    assert len(chosen) == EGO_FRAMES
    assert chosen[0] == 0
    assert chosen[-1] == 999
    assert max(np.diff(chosen)) - min(np.diff(chosen)) <= 1


def test_frames_without_ground_truth_are_told_before_anything_is_hashed(tmp_path: Path) -> None:
    """Days of training later the evaluation would fail."""
    frame = Frame(
        "2011_09_26/2011_09_26_drive_0001_sync", 5, "l", "i.png", {}, None, 1, 1, None, None
    )
    protocol = find_protocol("kitti_eigen_improved")
    with pytest.raises(FadepthError, match=r"^2 of 3 frames to evaluate have no ground truth.*pro"):
        require_truths([frame, replace(frame, depth_png="d.png"), frame], tmp_path, protocol)
    require_truths([replace(frame, depth_png="d.png")], tmp_path, protocol)


def test_a_download_that_went_on_is_another_benchmark(tmp_path: Path) -> None:
    settings = BenchmarkSettings(source="make3d", root="make3d", protocol="make3d")
    write_make3d(tmp_path / "make3d", 2)
    before = benchmark_identity(settings, tmp_path)
    assert benchmark_identity(settings, tmp_path) == before
    write_make3d(tmp_path / "make3d", 3)
    assert benchmark_identity(settings, tmp_path) != before
