"""Drives on disk, in the layout of the KITTI raw data. [derived]"""

import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from fadepth.data.synthetic.camera import intrinsics
from fadepth.data.synthetic.rendering import render_frame
from fadepth.data.synthetic.scene import make_scene
from fadepth.data.synthetic.street import Array
from fadepth.errors import FadepthError
from fadepth.files import write_atomic

DATE = "2000_01_01"
SPLITS = ("train", "val", "test")
MAX_DEPTH = 255.0  # the largest depth a uint16 of 1/256 m can hold, rounded down

# Part of every completion marker: raise it whenever the same seed gives other pixels.
GENERATOR_VERSION = 1
# Drive numbers are fixed per split, so that more scenes in one split leave the others as they are.
_FIRST_DRIVE = {"train": 1, "val": 4001, "test": 6001}
_LAST_DRIVE = {"train": 4000, "val": 6000, "test": 9999}


class _Job(NamedTuple):
    """One scene to write."""

    root: Path
    seed: int
    drive: int
    frames: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"{DATE}_drive_{self.drive:04d}_sync"

    @property
    def folder(self) -> Path:
        return self.root / DATE / self.name

    @property
    def marker(self) -> Path:
        return self.folder / "complete.json"

    def files(self, frame: int) -> tuple[Path, Path]:
        """Paths of the image and of the depth map of `frame`."""
        name = f"{frame:010d}.png"
        depth = self.folder / "proj_depth" / "groundtruth" / "image_02"
        return self.folder / "image_02" / "data" / name, depth / name

    def parameters(self) -> str:
        values: dict[str, int] = {"renderer": GENERATOR_VERSION} | self._asdict()
        del values["root"]
        return json.dumps(values, sort_keys=True) + "\n"

    def complete(self) -> bool:
        """Whether the marker holds these parameters and no file has gone since."""
        try:
            same = self.marker.read_text(encoding="utf-8") == self.parameters()
        except FileNotFoundError:
            return False
        files = [path for frame in range(self.frames) for path in self.files(frame)]
        return same and all(p.is_file() for p in [*files, self.folder / "poses.txt"])


def render_street(
    root: Path,
    *,
    seed: int,
    scenes: Mapping[str, int],
    frames: Mapping[str, int],
    height: int,
    width: int,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write synthetic drives in the KITTI raw layout, split by scene. [derived]

    Under `root`: `2000_01_01/calib_cam_to_cam.txt` and `calib_velo_to_cam.txt`; for every scene
    `2000_01_01/2000_01_01_drive_NNNN_sync/` with `image_02/data/%010d.png` (RGB, 8 bit),
    `proj_depth/groundtruth/image_02/%010d.png` (uint16, camera z in 1/256 m at integer pixel
    centres, 0 for sky or beyond 255 m) and `poses.txt` (per frame the 12 numbers of the 3x4
    camera-to-world matrix, as in KITTI odometry; see the module for the frames, the first pose is
    not the identity); and `splits/{train,val,test}_files.txt`, whose targets have both neighbours.

    A scene is a function of `seed`, its drive number and its number of frames. Scenes that are
    already there with the same parameters are kept; the rest is rendered, so a call that was cut
    short is repeated at the cost of what is missing. Scenes of an earlier, larger call stay on
    disk but leave the split lists.

    Args:
        root: folder to write to; made if missing.
        seed: integer >= 0.
        scenes: number of scenes for "train", "val" and "test".
        frames: frames per scene for the same keys, at least 3.
        height, width: image size in pixels, at least 16 each.
        workers: processes; the bytes written do not depend on it.
        progress: called with (scenes done, scenes in all) at the start and after each scene.

    Raises:
        FadepthError: if an argument is out of range.
    """
    root = Path(root)
    by_split = _jobs(root, seed, scenes, frames, (height, width))
    every = [job for split in SPLITS for job in by_split[split]]
    missing = [job for job in every if not job.complete()]
    for name, text in _calibration(height, width).items():
        write_atomic(root / DATE / name, text)
    report = progress or (lambda done, total: None)
    done = len(every) - len(missing)
    report(done, len(every))
    for now, _ in enumerate(_run(missing, workers), done + 1):
        report(now, len(every))
    for split, jobs in by_split.items():
        lines = [
            f"{DATE}/{job.name} {frame:010d} l\n"
            for job in jobs
            for frame in range(1, job.frames - 1)
        ]
        write_atomic(root / "splits" / f"{split}_files.txt", "".join(lines))


def _jobs(
    root: Path,
    seed: int,
    scenes: Mapping[str, int],
    frames: Mapping[str, int],
    size: tuple[int, int],
) -> dict[str, list[_Job]]:
    """The scenes of each split, after a check of the request."""
    for name, value in (("scenes", scenes), ("frames", frames)):
        if set(value) != set(SPLITS):
            raise FadepthError(
                f"render_street: `{name}` has the keys {sorted(value)}; give train, val and test."
            )
    if seed < 0:
        raise FadepthError(f"render_street: `seed` is {seed}; give an integer >= 0.")
    if min(size) < 16:
        raise FadepthError(
            f"render_street: {size[0]}x{size[1]} (height x width) is too small; "
            "give at least 16 pixels each way."
        )
    for split in SPLITS:
        limit = _LAST_DRIVE[split] - _FIRST_DRIVE[split] + 1
        if not 0 <= scenes[split] <= limit:
            raise FadepthError(
                f"render_street: `scenes[{split}]` is {scenes[split]}; give 0 to {limit}."
            )
        if scenes[split] and frames[split] < 3:
            raise FadepthError(
                f"render_street: `frames[{split}]` is {frames[split]}; give at least 3, since "
                "a target needs a frame before and one after it."
            )
    return {
        split: [
            _Job(root, seed, _FIRST_DRIVE[split] + i, frames[split], *size)
            for i in range(scenes[split])
        ]
        for split in SPLITS
    }


def _run(jobs: list[_Job], workers: int) -> Iterator[None]:
    """Write the scenes, yielding after each."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            _write_scene(job)
            yield
        return
    # Spawned, not forked: the caller may hold threads (torch) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(_write_scene, job) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_scene(job: _Job) -> None:
    """Render one scene into its folder; the marker goes first and comes back last."""
    job.marker.unlink(missing_ok=True)
    for folder in {path.parent for path in job.files(0)}:
        for old in folder.glob("*.png"):
            if old.stem.isdigit() and int(old.stem) >= job.frames:
                old.unlink()
    scene = make_scene(job.seed, job.drive, job.frames)
    for frame in range(job.frames):
        image, depth, _ = render_frame(scene, frame, job.height, job.width)
        seen = np.where(depth <= MAX_DEPTH, depth, 0)
        for path, array in zip(
            job.files(frame), (image, np.rint(seen * 256).astype(np.uint16)), strict=True
        ):
            write_atomic(path, _png(array))
    rows = (" ".join(f"{x:.9e}" for x in pose.ravel()) for pose in scene.poses)
    write_atomic(job.folder / "poses.txt", "\n".join(rows) + "\n")
    write_atomic(job.marker, job.parameters())


def _calibration(height: int, width: int) -> dict[str, str]:
    """The two calibration files, with the keys and the notation of the KITTI raw data.

    Image 02 is the reference camera, so P_rect_02 has no shift; image 03, which is not rendered,
    stands 0.54 m to its right as on KITTI's car. The laser's frame is x forward, y left, z up.
    """
    k = intrinsics(height, width)
    lines = ["calib_time: 01-Jan-2000 00:00:00", "corner_dist: 9.950000e-02"]
    for camera, shift in (("00", 0.0), ("01", 0.54), ("02", 0.0), ("03", 0.54)):
        size = _numbers([width, height])
        translation = np.array([-shift, 0, 0])
        projection = k @ np.column_stack([np.eye(3), translation])
        lines += [
            f"S_{camera}: {size}",
            f"K_{camera}: {_numbers(k)}",
            f"D_{camera}: {_numbers(np.zeros(5))}",
            f"R_{camera}: {_numbers(np.eye(3))}",
            f"T_{camera}: {_numbers(translation)}",
            f"S_rect_{camera}: {size}",
            f"R_rect_{camera}: {_numbers(np.eye(3))}",
            f"P_rect_{camera}: {_numbers(projection)}",
        ]
    rotation = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    laser = [
        "calib_time: 01-Jan-2000 00:00:00",
        f"R: {_numbers(rotation)}",
        f"T: {_numbers([0, -0.08, -0.27])}",
        f"delta_f: {_numbers([0, 0])}",
        f"delta_c: {_numbers([0, 0])}",
    ]
    return {
        "calib_cam_to_cam.txt": "\n".join(lines) + "\n",
        "calib_velo_to_cam.txt": "\n".join(laser) + "\n",
    }


def _png(array: Array) -> bytes:
    """PNG bytes of (H, W, 3) uint8 or (H, W) uint16."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", compress_level=3)
    return buffer.getvalue()


def _numbers(values: Any) -> str:
    """KITTI's notation: 7.215377e+02, separated by spaces."""
    return " ".join(f"{value:.6e}" for value in np.asarray(values, float).ravel())
