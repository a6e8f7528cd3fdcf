"""Peak memory of preparing and of evaluating does not grow with the number of frames.

Each measurement is a process of its own, at 1, 4 and 16 times the frames.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

FRAMES = (20, 80, 320)
SIZE = (188, 621)
DAY = "2011_09_26"
DRIVE = f"{DAY}/{DAY}_drive_0001_sync"
#: Growth from the least to the most frames that is none, MB and share. A decoded image of SIZE is
#: 0.35 MB and its ground truth 0.47 MB, so keeping either of all frames would take 100 MB or more.
LIMIT = 20.0, 0.15

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc"
    ),
]

# `ru_maxrss` would not do: a new process starts from the peak of the one that has started it.
MEASURE = """
import sys
from pathlib import Path
from fadepth.config import DataSettings
from fadepth.data.prepare import prepare_data

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

task, root, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
lists = root / f"lists_{count}"
manifest = lists / "manifest.jsonl"
"""
PREPARE = """
settings = DataSettings(root=str(root), splits=str(lists))
done = prepare_data(settings, manifest, base=root, workers=2)
assert len(done.splits["train"]) == count
"""
EVALUATE = """
import torch
from fadepth.data.manifest import Manifest
from fadepth.evaluation.evaluate import NetworkPredictor, evaluate
from fadepth.evaluation.protocols import find_protocol

torch.set_num_threads(1)
protocol = find_protocol("kitti_eigen_raw")
network = torch.nn.Conv2d(3, 1, 3, padding=1)
torch.nn.init.constant_(network.weight, 0.01)
torch.nn.init.constant_(network.bias, 0.02)
kept = []

batches = NetworkPredictor(torch.inference_mode()(network), root, (94, 310), protocol, 4)

def keep(frame):
    kept.append(batches(frame))
    return kept[-1]

frames = Manifest.read(manifest).splits["test"]
table, _ = evaluate(frames, root, keep if task == "keep" else batches, protocol, workers=2)
assert len(table) == count
"""
TELL = "print(peak())"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drive in the KITTI layout whose frames are one image and one scan under many names."""
    folder = tmp_path_factory.mktemp("memory")
    height, width = SIZE
    (folder / DAY).mkdir()
    projection = f"360 0 {width / 2} 0 0 360 {height / 2} 0 0 0 1 0"
    (folder / DAY / "calib_cam_to_cam.txt").write_text(
        f"S_rect_02: {width} {height}\nP_rect_02: {projection}\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
    )
    (folder / DAY / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n")
    rng = np.random.default_rng(0)
    scan = rng.uniform([4, -5, -2, 0], [70, 5, 1, 1], (10_000, 4)).astype("<f4")
    small = Image.fromarray(rng.integers(0, 255, (12, 40, 3), dtype=np.uint8))
    for part, suffix in (("image_02", "jpg"), ("velodyne_points", "bin")):
        (folder / DRIVE / part / "data").mkdir(parents=True)
        first = folder / DRIVE / part / "data" / f"{0:010d}.{suffix}"
        if suffix == "jpg":
            small.resize((width, height), Image.Resampling.BICUBIC).save(first)
        else:
            first.write_bytes(scan.tobytes())
        for number in range(1, max(FRAMES) + 2):
            os.link(first, first.with_name(f"{number:010d}.{suffix}"))
    for count in FRAMES:
        lists = folder / f"lists_{count}"
        lists.mkdir()
        lines = "".join(f"{DRIVE} {number} l\n" for number in range(1, count + 1))
        for name in ("train", "test"):
            (lists / f"{name}_files.txt").write_text(lines)
        (lists / "val_files.txt").write_text(f"{DRIVE} 1 l\n")
    return folder


def peak(task: Literal["prepare", "evaluate", "keep"], root: Path, count: int) -> float:
    """Peak of resident memory, MB, of a process that does the task."""
    script = MEASURE + (PREPARE if task == "prepare" else EVALUATE) + TELL
    result = subprocess.run(
        [sys.executable, "-c", script, task, str(root), str(count)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(result.stdout)


@pytest.fixture(scope="module")
def prepared(root: Path) -> list[float]:
    """Peaks of preparing, which leaves the manifests to evaluate."""
    return [peak("prepare", root, count) for count in FRAMES]


def assert_flat(peaks: list[float]) -> None:
    print("frames", FRAMES, "peak MB", [round(value, 1) for value in peaks])
    least = peaks[0]
    for value in peaks[1:]:
        assert value - least < min(LIMIT[0], LIMIT[1] * least), peaks


def test_preparing_takes_no_more_memory_for_more_frames(prepared: list[float]) -> None:
    assert_flat(prepared)


def test_evaluating_takes_no_more_memory_for_more_frames(prepared: list[float], root: Path) -> None:
    peaks = [peak("evaluate", root, count) for count in FRAMES]
    assert_flat(peaks)
    # What this could miss: that it would have shown is seen where every prediction is kept.
    assert peak("keep", root, FRAMES[-1]) - peaks[-1] > 2 * LIMIT[0]
