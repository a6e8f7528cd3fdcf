"""A slim copy of KITTI raw: what the split lists call for, images as JPEG.

Published numbers were made from JPEGs of quality 92 with halved chroma
(https://github.com/nianticlabs/monodepth2, `README.md`); the PNGs of the archives are five times
as large and slower to decode.
"""

import errno
import io
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from fadepth.config import Split
from fadepth.data import kitti, kitti_splits
from fadepth.data.kitti import CAMERAS, DAMAGED_IMAGE, FrameId
from fadepth.data.kitti_odometry import SEQUENCES
from fadepth.data.manifest import FITTED_FRAMES, SPLITS, evenly_spread
from fadepth.data.parallel import Progress, in_order
from fadepth.errors import FadepthError
from fadepth.files import atomic_path, readable_bytes, told_when_unwritable, write_atomic

log = logging.getLogger(__name__)

#: Sequences of KITTI odometry that poses are evaluated on.
ODOMETRY = ("09", "10")

QUALITY = 92
SUBSAMPLING = "4:2:0"
OFFSETS = (-1, 1)

LidarChoice = Literal["needed", "test", "all", "none"]
Kind = Literal["convert", "jpeg", "file"]
Outcome = Literal["converted", "taken", "kept", "failed"]

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAMPLES = 8

#: Temporary files of `fadepth.files.atomic_path` that a killed process left over.
_LEFT_OVER = re.compile(r"\..+\.(part\d+|[a-z0-9_]{8})\.\w+")


# One image


def encode_jpeg(path: Path) -> bytes:
    """Decode an image and encode it as JPEG 92 with 4:2:0 chroma (sampling 2x2,1x1,1x1).

    16-bit grey, which Pillow would cut off at 255, is scaled to 8 bits [derived].

    Raises:
        FadepthError: the file is absent or damaged.
    """
    try:
        with Image.open(path) as image:
            deep = image.mode.startswith("I")
            grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if deep else image
            picture = grey.convert("RGB")
    except FileNotFoundError:
        raise FadepthError(f"image {path} does not exist: restore it") from None
    except DAMAGED_IMAGE:
        raise FadepthError(f"image {path} is damaged: restore it from the archive") from None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return buffer.getvalue()


def is_whole_jpeg(path: Path) -> bool:
    """Whether the file is there and has JPEG's start and end markers."""
    try:
        with path.open("rb") as file:
            if file.read(2) != _JPEG_START:
                return False
            file.seek(-2, os.SEEK_END)
            return file.read(2) == _JPEG_END
    except OSError:
        return False


# Many images


class Job(NamedTuple):
    """One file of the copy; `source` is None where the original is absent."""

    kind: Kind
    source: Path | None
    target: Path
    wanted: str = ""  # what is absent, for the error


class Done(NamedTuple):
    """What became of a job; `size` in bytes, `linked` if they take no room of their own."""

    outcome: Outcome
    size: int = 0
    linked: bool = False
    error: str = ""


def run_job(job: Job) -> Done:
    """Make one file of the copy, unless it is there; a broken original is told, not raised.

    Raises:
        OSError: the target cannot be written, which no other job could mend.
    """
    try:
        return _run(job)
    except FadepthError as error:
        return Done("failed", error=str(error))


def _run(job: Job) -> Done:
    if job.source is None:
        raise FadepthError(f"{job.wanted} does not exist: restore it from the archive")
    if job.kind == "convert":
        if is_whole_jpeg(job.target):
            return Done("kept", job.target.stat().st_size)
        data = encode_jpeg(job.source)
        write_atomic(job.target, data)
        return Done("converted", len(data))
    try:
        size = job.source.stat().st_size
    except OSError as error:
        raise FadepthError(f"{job.source} cannot be read ({error.strerror}): restore it") from None
    if job.kind == "jpeg" and not is_whole_jpeg(job.source):
        raise FadepthError(f"image {job.source} is damaged: restore it from the archive")
    whole = job.kind == "file" or is_whole_jpeg(job.target)
    if whole and job.target.is_file() and job.target.stat().st_size == size:
        return Done("kept", size, os.path.samefile(job.source, job.target))
    return Done("taken", size, _take(job.source, job.target))


def _take(source: Path, target: Path) -> bool:
    """Link or copy a file byte for byte; whether it could be linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        # A symbolic link would depend on what it points to; the copy is to stand for itself.
        os.link(source.resolve(), target)
        return True
    except OSError:
        pass  # another file system, or one that has no links
    try:
        data = source.open("rb")
    except OSError as error:
        raise FadepthError(f"{source} cannot be read ({error.strerror}): restore it") from None
    with data, atomic_path(target) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(data, file)
    return False


# KITTI


@dataclass(frozen=True)
class Prepared:
    """What `prepare_kitti` did.

    Attributes:
        converted: images encoded now.
        taken: files linked or copied now.
        kept: files that were finished before.
        size: bytes of all of them.
        linked: those of the bytes that are shared with the original by hard links.
    """

    converted: int
    taken: int
    kept: int
    size: int
    linked: int


@dataclass(frozen=True)
class _Plan:
    """What to make where; the frames are kept by drive, so that 100 000 of them take little."""

    root: Path
    output: Path
    copy_png: bool
    images: dict[tuple[str, str], set[int]]  # targets and their neighbours
    needed: dict[tuple[str, str], set[int]]  # those that must be there
    listed: dict[tuple[str, str], set[int]]
    scans: dict[str, dict[int, bool]]  # drive -> number -> must it be there

    def jobs(self) -> Iterator[Job]:
        """Every file of the copy, found on the disk as the iterator goes."""
        for day in sorted({drive.split("/")[0] for drive, _ in self.images}):
            yield from self._calibration(day)
        for drive, side in sorted(self.images):
            for number in sorted(self.images[drive, side]):
                yield from self._image(FrameId(drive, number, side))
            for number in sorted(self.listed[drive, side]):
                depth = kitti.depth_png_path(self.root, FrameId(drive, number, side))
                if depth.is_file():
                    yield self._file(depth)
        for drive in sorted(self.scans):
            for number in sorted(self.scans[drive]):
                scan = kitti.velodyne_path(self.root, FrameId(drive, number, "l"))
                if self.scans[drive][number] or scan.is_file():
                    yield self._file(scan, f"lidar scan {scan}")

    def _calibration(self, day: str) -> Iterator[Job]:
        with_scans = any(drive.startswith(f"{day}/") for drive in self.scans)
        for name, must in (
            ("calib_cam_to_cam.txt", True),
            ("calib_velo_to_cam.txt", with_scans),
            ("calib_imu_to_velo.txt", False),
        ):
            path = self.root / day / name
            if must or path.is_file():
                yield self._file(path, f"calibration file {path}")

    def _file(self, path: Path, wanted: str = "") -> Job:
        target = self.output / path.relative_to(self.root)
        return Job("file", path if path.is_file() else None, target, wanted)

    def _image(self, frame: FrameId) -> Iterator[Job]:
        source = kitti.image_path(self.root, frame)
        folder = Path(frame.drive) / f"image_0{CAMERAS[frame.side]}" / "data"
        name = f"{frame.number:010d}"
        if source is None:
            if frame.number in self.needed[frame.drive, frame.side]:
                wanted = f"image {self.root / folder / name}.png (or .jpg)"
                yield Job("convert", None, self.output / folder / f"{name}.jpg", wanted)
            return
        if source.suffix != ".png":
            yield Job("jpeg", source, self.output / folder / f"{name}.jpg")
            return
        jpeg, png = (self.output / folder / f"{name}{suffix}" for suffix in (".jpg", ".png"))
        # Both would be found, and readers take the PNG.
        if (mixed := jpeg if self.copy_png else png).exists():
            raise FadepthError(
                f"{mixed} is from a copy made with images of the other format: use another output "
                "folder or empty this one"
            )
        yield Job("file", source, png) if self.copy_png else Job("convert", source, jpeg)


def prepare_kitti(
    root: Path,
    output: Path,
    lists: Path,
    *,
    workers: int = 1,
    lidar: LidarChoice = "needed",
    copy_png: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Write a slim, self-contained copy of KITTI raw, in the same layout, and its split lists.

    It holds, for the frames of all three lists: images and their neighbours (offsets -1 and +1;
    those of test frames only where there are any) as JPEG, calibration, lidar scans, and depth
    PNGs where there are any. JPEGs of the original and all other files are hard links to it where
    the file system can, else copies. The lists go to `splits/<name of their folder>/`. From the
    published Eigen-Zhou lists (a folder of the name `eigen_zhou`, whose files are verified),
    `splits/eigen_zhou_drives/` is made, with validation by whole drives.

    Interrupted, it goes on where it was: a file that is there is kept, a JPEG if it has its end
    marker, another one if it has the original's size. The result does not depend on `workers`.

    Args:
        root: KITTI raw, holds 2011_09_26 and so on; is only read.
        output: folder of the copy; nothing is written outside of it.
        lists: folder of train_files.txt, val_files.txt and test_files.txt.
        workers: threads.
        lidar: whose scans to take: of the test list (all must be there), and with `needed` those
            of `FITTED_FRAMES` training frames; of all lists (those of the test list must be
            there); or none.
        copy_png: take PNGs as they are instead of converting them.
        progress: called with (files done, files in all).

    Raises:
        FadepthError: a folder or list is not as said; the copy does not fit on the disk or is
            being written by another process; or, after all the rest is done, how many files are
            absent or damaged, and the first three.
    """
    root, output = root.resolve(), output.resolve()
    _check_folders(root, output)
    frames = {split: kitti.read_split(lists / f"{split}_files.txt") for split in SPLITS}
    if lists.resolve().name == "eigen_zhou":
        _verify(lists)
    with only_preparer(output):
        plan = _plan(root, output, frames, lidar, copy_png)
        _check_targets(plan)
        _write_lists(lists, output, frames)
        del frames  # the plan holds what is needed of them, in less memory
        return _carry_out(plan, workers, progress)


@contextmanager
def only_preparer(output: Path) -> Iterator[None]:
    """Make an output folder and hold its lock.

    Raises:
        FadepthError: another process holds it, or the folder cannot be written.
    """
    with told_when_unwritable(output):
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".prepare.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise FadepthError(
                f"another process is preparing {output}: wait for its end or use another folder"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _check_folders(root: Path, output: Path) -> None:
    if not root.is_dir():
        raise FadepthError(
            f"data folder {root} does not exist: name the folder that holds the recording days "
            "(2011_09_26 and so on)"
        )
    if output.is_relative_to(root):
        raise FadepthError(
            f"output folder {output} lies in the original, {root}: choose one outside of it"
        )


def _verify(lists: Path) -> None:
    for name, published in kitti_splits.LAYOUT.items():
        folder, file = name.split("/")
        if folder == "eigen_zhou":
            kitti_splits.verify(lists / file, published)


def _plan(
    root: Path,
    output: Path,
    frames: dict[Split, list[FrameId]],
    lidar: LidarChoice,
    copy_png: bool,
) -> _Plan:
    plan = _Plan(root, output, copy_png, {}, {}, {}, {})
    # Baselines that are fitted to ground truth read no more (`fit_baseline`).
    spread = evenly_spread(frames["train"], FITTED_FRAMES) if lidar == "needed" else []
    fitted = set(spread)
    for split in SPLITS:
        for frame in frames[split]:
            key = frame.drive, frame.side
            neighbours = {frame.number + offset for offset in OFFSETS} - {-1}
            images = plan.images.setdefault(key, set())
            needed = plan.needed.setdefault(key, set())
            images |= neighbours | {frame.number}
            needed.add(frame.number)
            if split != "test":
                needed |= {frame.number + offset for offset in OFFSETS}
                images |= needed
            plan.listed.setdefault(key, set()).add(frame.number)
            of_test = split == "test" and lidar != "none"
            if lidar == "all" or of_test or frame in fitted:
                scans = plan.scans.setdefault(frame.drive, {})
                scans[frame.number] = scans.get(frame.number, False) or split == "test"
    for sequence in ODOMETRY:
        # Whole, where the lists call for the drive: they leave out frames without neighbours.
        drive = SEQUENCES[sequence]
        if (drive.folder, "l") in plan.images:
            plan.images[drive.folder, "l"] |= set(range(drive.first, drive.last + 1))
    return plan


def _check_targets(plan: _Plan) -> None:
    """Refuse folders that lead out of the copy; clear what a killed process left in the others."""
    cameras = [f"{drive}/image_0{CAMERAS[side]}/data" for drive, side in plan.images]
    depths = [
        f"{drive}/proj_depth/groundtruth/image_0{CAMERAS[side]}" for drive, side in plan.images
    ]
    scans = [f"{drive}/velodyne_points/data" for drive in plan.scans]
    days = sorted({drive.split("/")[0] for drive, _ in plan.images})
    for name in (*days, *cameras, *depths, *scans, "splits"):
        folder = plan.output / name
        if not folder.resolve().is_relative_to(plan.output):
            raise FadepthError(
                f"{folder} leads out of the output folder, to {folder.resolve()}: remove the link "
                "or the line of the split list that names it"
            )
        if folder.is_dir():
            with told_when_unwritable(folder):
                for path in folder.glob(".*"):
                    if _LEFT_OVER.fullmatch(path.name):
                        path.unlink()


def _write_lists(lists: Path, output: Path, frames: dict[Split, list[FrameId]]) -> None:
    name = lists.resolve().name
    copies = {f"{name}/{split}_files.txt": lists / f"{split}_files.txt" for split in SPLITS}
    if name == "eigen_zhou":
        drives = output / "splits" / "eigen_zhou_drives"
        train, val = kitti_splits.hold_out_drives(frames["train"], frames["val"])
        kitti_splits.write_split(drives / "train_files.txt", train)
        kitti_splits.write_split(drives / "val_files.txt", val)
        copies["eigen_zhou_drives/test_files.txt"] = lists / "test_files.txt"
    for target, source in copies.items():
        data = source.read_bytes()
        with told_when_unwritable(output / "splits" / target):
            write_atomic(output / "splits" / target, data)


def _carry_out(plan: _Plan, workers: int, progress: Progress | None) -> Prepared:
    need = _estimate(plan)
    free = shutil.disk_usage(plan.output).free
    if need.size > free:
        raise FadepthError(
            f"the copy needs about {readable_bytes(need.size)} in {plan.output} but only "
            f"{readable_bytes(free)} are free there: make room or choose a folder on another disk"
        )
    counts: Counter[Outcome] = Counter()
    size = linked = written = 0
    errors: list[str] = []
    try:
        with closing(in_order(plan.jobs(), run_job, workers)) as results:
            for done, result in enumerate(results, start=1):
                counts[result.outcome] += 1
                size += result.size
                linked += result.size if result.linked else 0
                written += 0 if result.linked or result.outcome == "kept" else result.size
                if result.outcome == "failed":
                    log.warning("%s", result.error)  # all of them; the error names three
                    errors += [result.error] * (len(errors) < 3)
                if progress:
                    progress(done, need.files)
    except OSError as error:
        raise _stopped(plan.output, error, need.size - written) from None
    if failed := counts["failed"]:
        raise FadepthError(
            f"{failed} of {counts.total()} files could not be made, the others are in "
            f"{plan.output} (mend these and start again): {'; '.join(errors)}"
            f"{'; ...' if failed > len(errors) else ''}"
        )
    return Prepared(counts["converted"], counts["taken"], counts["kept"], size, linked)


def _stopped(output: Path, error: OSError, missing: int) -> FadepthError:
    """The sentence for a copy that cannot be written."""
    kept = "what is done is kept, start the same command again to go on"
    if error.errno in _FULL:
        free = readable_bytes(shutil.disk_usage(output).free)
        return FadepthError(
            f"the disk of {output} is full ({free} free, about {readable_bytes(max(missing, 0))} "
            f"more needed): make room; {kept}"
        )
    return FadepthError(
        f"{error.filename or output} cannot be written ({error.strerror or error}): make {output} "
        f"writable; {kept}"
    )


class _Need(NamedTuple):
    files: int
    size: int


def _estimate(plan: _Plan) -> _Need:
    """Files of the copy, and the bytes it still needs, from the sizes of a few of each kind."""
    linkable = plan.root.stat().st_dev == plan.output.stat().st_dev
    files = 0
    absent: Counter[str] = Counter()
    samples: dict[str, list[Path]] = {}
    for job in plan.jobs():
        files += 1
        if job.source is None or job.target.exists() or (linkable and job.kind != "convert"):
            continue
        key = job.kind + job.source.suffix
        absent[key] += 1
        chosen = samples.setdefault(key, [])
        # Every time the count has doubled: spread over the drives, without a list of all files.
        if absent[key].bit_count() == 1:
            chosen.append(job.source)
            del chosen[:-_SAMPLES]
    total = 0
    for key, paths in samples.items():
        sizes = [size for path in paths if (size := _size(path, key.startswith("convert")))]
        total += round(absent[key] * sum(sizes) / len(sizes)) if sizes else 0
    return _Need(files, total)


def _size(path: Path, converted: bool) -> int:
    """Bytes that the file will take in the copy; 0 if it cannot be read, which is told later."""
    try:
        return len(encode_jpeg(path)) if converted else path.stat().st_size
    except (FadepthError, OSError):
        return 0
