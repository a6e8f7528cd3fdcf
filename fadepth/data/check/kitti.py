"""KITTI raw against split lists: images with their neighbours, scans, depth maps, calibration."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fadepth.data import archives, kitti, kitti_splits
from fadepth.data.archives import Archive
from fadepth.data.check.inventory import Images, check_folder
from fadepth.data.check.report import Total
from fadepth.data.check.soundness import reason_of
from fadepth.data.check.walk import Key, Need, Walked
from fadepth.data.kitti import CAMERAS, FrameId
from fadepth.errors import FadepthError

CAM_TO_CAM, VELO_TO_CAM = "calib_cam_to_cam.txt", "calib_velo_to_cam.txt"

#: Drives from which on the size of all of them is told; it is that of the 61 drives and 5 days of
#: calibration in `splits/kitti_archives_to_download.txt` (monodepth2, `README.md`).
_MANY = 30

#: Folders that the archive of the improved ground truth unpacks to.
_UNMERGED = ("train", "val", "data_depth_annotated/train", "data_depth_annotated/val")


Role = Literal["train", "val", "test", "benchmark"]


@dataclass(frozen=True)
class Listed:
    """One split list.

    Attributes:
        name: `<folder>/<file>`.
        published: which published list it is, by its MD5; None for others.
        role: what its frames are for: `train` and `val` need the neighbours -1 and +1, `test` the
            lidar scans, `benchmark` the improved ground truth.
        frames: in the list's order.
    """

    name: str
    published: str | None
    role: Role
    frames: tuple[FrameId, ...]

    @classmethod
    def read(cls, path: Path) -> "Listed":
        """Read a list. Its name tells its role, the published one if it is published.

        `train*` and `val*` are what they say, a list in a folder `eigen_benchmark` is a
        benchmark, all others are test lists.
        """
        frames = tuple(kitti_splits.read_frames(path))
        published = kitti_splits.identify(path)
        name = f"{path.resolve().parent.name}/{path.name}"
        folder, file = (published.name if published else name).split("/")
        role: Role = "test"
        if folder == "eigen_benchmark":
            role = "benchmark"
        elif file.startswith("train"):
            role = "train"
        elif file.startswith("val"):
            role = "val"
        return cls(name, published.name if published else None, role, frames)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Of the frame itself and the neighbours that it needs."""
        return (0, -1, 1) if self.role in ("train", "val") else (0,)


def numbers_by_drive(lists: Iterable[Listed]) -> dict[tuple[str, str], set[int]]:
    """(drive, side) -> numbers of all images of the lists, neighbours too.

    Numbers and no objects, so that 100 000 frames take little memory.
    """
    result: dict[tuple[str, str], set[int]] = {}
    for listed in lists:
        for drive, number, side in listed.frames:
            numbers = (number + offset for offset in listed.offsets)
            result.setdefault((drive, side), set()).update(n for n in numbers if n >= 0)
    return result


def read_lists(folder: Path, more: Sequence[Path] = ()) -> list[Listed]:
    """Read the lists of a folder, those of the three that there are, and further ones.

    Raises:
        FadepthError: there are none, or one is damaged.
    """
    present = [
        path for split in ("train", "val", "test")
        if (path := folder / f"{split}_files.txt").is_file()
    ]  # fmt: skip
    if not present:
        raise FadepthError(
            f"{folder} holds none of train_files.txt, val_files.txt and test_files.txt: run "
            "'fadepth data fetch-splits', or name the folder of your lists as --splits"
        )
    return [Listed.read(path) for path in (*present, *more)]


def _image_key(frame: FrameId, offset: int = 0) -> Key:
    return frame.drive, "images", (f"image_0{CAMERAS[frame.side]}", frame.number + offset)


def _scan_key(frame: FrameId) -> Key:
    return frame.drive, "lidar scans", ("velodyne", frame.number)


def _improved_key(frame: FrameId) -> Key:
    return frame.drive, "improved ground truth", (f"image_0{CAMERAS[frame.side]}", frame.number)


class KittiInventory:
    """KITTI raw as the lists ask for it.

    Args:
        root: holds 2011_09_26 and so on.
        lists: as from `read_lists`.
        size: (height, width) of the training images, for the estimate.

    Raises:
        FadepthError: the root is no folder.
    """

    dataset = "kitti"

    def __init__(self, root: Path, lists: Sequence[Listed], size: tuple[int, int]) -> None:
        check_folder(root, "2011_09_26 and so on")
        self.root = root
        self.size = size
        self._lists = lists
        self._images = numbers_by_drive(lists)
        self._scans: dict[str, set[int]] = {}
        self._improved: dict[tuple[str, str], set[int]] = {}
        for listed in lists:
            for drive, number, side in listed.frames:
                if listed.role == "test":
                    self._scans.setdefault(drive, set()).add(number)
                elif listed.role == "benchmark":
                    self._improved.setdefault((drive, side), set()).add(number)

    @property
    def count(self) -> int:
        """Number of needed files but calibration."""
        kinds = (self._images.values(), self._scans.values(), self._improved.values())
        return sum(len(numbers) for kind in kinds for numbers in kind)

    def needs(self) -> Iterator[Need]:
        """Calibration of each day, then images, scans and depth maps of its drives."""
        for day in sorted({drive.split("/")[0] for drive, _ in self._images}):
            yield from self._calibration(day)
            sizes = {side: self._size(day, side) for side in CAMERAS}
            of_day = [pair for pair in sorted(self._images) if pair[0].startswith(f"{day}/")]
            for drive, side in of_day:
                yield from self._camera(drive, side, sizes[side])
            for drive in sorted({drive for drive, _ in of_day}):
                for number in sorted(self._scans.get(drive, ())):
                    frame = FrameId(drive, number, "l")
                    yield Need(*_scan_key(frame), (kitti.velodyne_path(self.root, frame),))

    def _calibration(self, day: str) -> Iterator[Need]:
        sides = {side for drive, side in self._images if drive.startswith(f"{day}/")}
        scans = any(drive.startswith(f"{day}/") for drive in self._scans)
        values = {f"S_rect_0{CAMERAS[side]}": 2 for side in sorted(sides)}
        values |= {f"P_rect_0{CAMERAS[side]}": 12 for side in sorted(sides)}
        if scans:
            values["R_rect_00"] = 9
        for name, keys in ((CAM_TO_CAM, values), (VELO_TO_CAM, {"R": 9, "T": 3} if scans else {})):
            if keys:
                problem = partial(calibration_problem, keys=keys)
                yield Need(day, "calibration", name, (self.root / day / name,), problem=problem)

    def _size(self, day: str, side: str) -> tuple[int, int] | None:
        try:
            camera = kitti.read_camera(self.root, FrameId(day, 0, side))
        except (FadepthError, OSError):  # told of the calibration itself
            return None
        return camera.height, camera.width

    def _camera(self, drive: str, side: str, size: tuple[int, int] | None) -> Iterator[Need]:
        folder = self.root / drive / f"image_0{CAMERAS[side]}" / "data"
        for number in sorted(self._images[drive, side]):
            paths = tuple(folder / f"{number:010d}{end}" for end in kitti.IMAGE_SUFFIXES)
            yield Need(*_image_key(FrameId(drive, number, side)), paths, size)
        for number in sorted(self._improved.get((drive, side), ())):
            frame = FrameId(drive, number, side)
            path = kitti.depth_png_path(self.root, frame)
            yield Need(*_improved_key(frame), (path,), size)

    def totals(self, walked: Walked) -> list[Total]:
        """Per list: whole frames (with their neighbours), and the ground truth it needs."""
        totals = []
        for listed in self._lists:
            frames = listed.frames
            what = "images with neighbours" if len(listed.offsets) > 1 else "images"
            whole = sum(self._whole(frame, listed.offsets, walked) for frame in frames)
            counts = {what: (whole, len(frames))}
            if listed.role == "test":
                sound = sum(_scan_key(frame) not in walked.bad for frame in frames)
                counts["lidar scans"] = (sound, len(frames))
            elif listed.role == "benchmark":
                sound = sum(_improved_key(frame) not in walked.bad for frame in frames)
                counts["improved ground truth"] = (sound, len(frames))
            totals.append(Total(listed.name, listed.published, counts))
        return totals

    @staticmethod
    def _whole(frame: FrameId, offsets: tuple[int, ...], walked: Walked) -> bool:
        return all(
            frame.number + offset >= 0 and _image_key(frame, offset) not in walked.bad
            for offset in offsets
        )

    def archives(self, walked: Walked) -> set[Archive]:
        """One per drive and day that lacks something; one for all improved ground truth."""
        drives = walked.bad_groups("images", "lidar scans")
        found = [archives.kitti_drive(self.root, drive) for drive in drives]
        days = walked.bad_groups("calibration")
        found += [archives.kitti_calibration(self.root, day) for day in days]
        if walked.bad_groups("improved ground truth"):
            found.append(archives.kitti_improved(self.root))
        return {archive for archive in found if archive is not None}

    def notes(self, walked: Walked) -> list[str]:
        """Lists that cannot be whole, folders that are not where they should be."""
        return [*self._of_lists(walked), *self._of_folders(walked)]

    def _of_lists(self, walked: Walked) -> Iterator[str]:
        for listed in self._lists:
            first = sum(frame.number + min(listed.offsets) < 0 for frame in listed.frames)
            if first:
                yield (
                    f"{listed.name} has {first} frames with number 0, which have no predecessor: "
                    "take them off the list"
                )
        gone = walked.bad_groups("images", "lidar scans")
        if len(gone) >= _MANY:
            yield (
                f"{len(gone)} drives are not complete; the archives of all 61 that monodepth2 "
                "lists weigh about 175 GB (its README.md), to which comes room for unpacking them"
            )
        strange = [drive for drive in gone if archives.kitti_drive(self.root, drive) is None]
        if strange:
            yield f"{len(strange)} drives, such as {strange[0]}, have no archive: KITTI has none"

    def _of_folders(self, walked: Walked) -> Iterator[str]:
        days = {drive.split("/")[0] for drive, _ in self._images}
        if not any((self.root / day).is_dir() for day in days):
            children = [path for path in sorted(self.root.iterdir()) if path.is_dir()]
            for folder in (self.root.resolve().parent, *children):
                if any((folder / day).is_dir() for day in days):
                    yield f"{self.root} holds no recording day, but {folder} does: name that"
        for name in _UNMERGED:
            if walked.bad_groups("improved ground truth") and (self.root / name).is_dir():
                yield (
                    f"{self.root / name} looks like unpacked improved ground truth that was not "
                    f"merged; in bash, in {(self.root / name).parent}: "
                    f"{archives.merge_command(self.root)}"
                )

    def images(self) -> Images:
        """All images are copied, those of training lists cached."""
        cached = numbers_by_drive(listed for listed in self._lists if listed.role == "train")
        return Images(
            sum(map(len, self._images.values())), sum(map(len, cached.values())), self.size
        )


def calibration_problem(path: Path, keys: dict[str, int]) -> str | None:
    """What is wrong with the values of a calibration file; None if nothing.

    Args:
        path: the file.
        keys: the needed keys -> how many numbers each has.
    """
    problems = []
    for key, count in keys.items():
        try:
            kitti.calibration_values(path, key, count)
        except FadepthError as error:
            problems.append(reason_of(error, path))
    return ", ".join(dict.fromkeys(problems)) or None
