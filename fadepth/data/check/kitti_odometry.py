"""KITTI odometry 09 and 10: poses, and images from its own archives or from the raw drives."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fadepth.data import archives
from fadepth.data.archives import Archive
from fadepth.data.check.inventory import Images, check_folder
from fadepth.data.check.kitti import CAM_TO_CAM, calibration_problem
from fadepth.data.check.report import Total
from fadepth.data.check.soundness import reason_of
from fadepth.data.check.walk import Need, Walked
from fadepth.data.kitti import IMAGE_SUFFIXES
from fadepth.data.kitti_odometry import SEQUENCES, read_poses
from fadepth.errors import FadepthError

#: Those that depth networks are evaluated on.
NAMES = ("09", "10")


class OdometryInventory:
    """The two sequences that depth networks are evaluated on.

    Args:
        root: holds poses/, and sequences/ if the images are not those of the raw drives.
        raw_root: holds 2011_09_30, asked where there is no sequences/<number>; None for `root`.

    Raises:
        FadepthError: a folder is none.
    """

    dataset = "kitti_odometry"

    def __init__(self, root: Path, raw_root: Path | None = None) -> None:
        check_folder(root, "poses/ and sequences/")
        if raw_root is not None:
            check_folder(raw_root, "2011_09_30 (as --raw-root)")
        self.root = root
        self._raw_root = raw_root or root
        self._raw = {
            name: not (root / "sequences" / name / "image_2").is_dir()
            and (raw_root is not None or (root / _drive(name)).is_dir())
            for name in NAMES
        }

    @property
    def count(self) -> int:
        """Number of needed files."""
        return sum(len(_numbers(name)) + 2 for name in NAMES)

    def needs(self) -> Iterator[Need]:
        """Per sequence poses, calibration and images."""
        for name in NAMES:
            path = self.root / "poses" / f"{name}.txt"
            problem = partial(poses_problem, frames=len(_numbers(name)))
            yield Need(name, "poses", path.name, (path,), problem=problem)
            yield from self._raw_files(name) if self._raw[name] else self._own_files(name)

    def _raw_files(self, name: str) -> Iterator[Need]:
        drive = self._raw_root / _drive(name)
        keys = {"S_rect_02": 2, "P_rect_02": 12}
        yield self._calibration(name, drive.parent / CAM_TO_CAM, keys)
        for number in _numbers(name):
            stem = drive / "image_02" / "data" / f"{number:010d}"
            paths = tuple(stem.with_suffix(end) for end in IMAGE_SUFFIXES)
            yield Need(name, "images", ("image_02", number), paths)

    def _own_files(self, name: str) -> Iterator[Need]:
        folder = self.root / "sequences" / name
        yield self._calibration(name, folder / "calib.txt", {"P2": 12})
        for number in range(len(_numbers(name))):
            stem = folder / "image_2" / f"{number:06d}"
            paths = tuple(stem.with_suffix(end) for end in IMAGE_SUFFIXES)
            yield Need(name, "images", ("image_2", number), paths)

    @staticmethod
    def _calibration(name: str, path: Path, keys: dict[str, int]) -> Need:
        problem = partial(calibration_problem, keys=keys)
        return Need(name, "calibration", path.name, (path,), problem=problem)

    def totals(self, walked: Walked) -> list[Total]:
        """Images per sequence."""
        totals = []
        for name in NAMES:
            frames = len(_numbers(name))
            bad = sum(key[:2] == (name, "images") for key in walked.bad)
            totals.append(Total(f"sequence {name}", None, {"images": (frames - bad, frames)}))
        return totals

    def archives(self, walked: Walked) -> set[Archive]:
        """Of the odometry set, or of the raw data where those are used."""
        found: set[Archive | None] = set()
        if walked.bad_groups("poses"):
            found.add(archives.kitti_odometry(self.root, "poses"))
        for name in walked.bad_groups("images"):
            raw = archives.kitti_drive(self._raw_root, _drive(name))
            found.add(raw if self._raw[name] else archives.kitti_odometry(self.root, "color"))
        for name in walked.bad_groups("calibration"):
            day = archives.kitti_calibration(self._raw_root, _drive(name).split("/")[0])
            found.add(day if self._raw[name] else archives.kitti_odometry(self.root, "calib"))
        return {archive for archive in found if archive is not None}

    def notes(self, walked: Walked) -> list[str]:
        """Where the images are taken from, and folders that are one too deep."""
        notes = []
        for folder in ("sequences", "poses"):
            nested = self.root / "dataset" / folder
            if nested.is_dir() and not (self.root / folder).is_dir():
                notes.append(f"{folder}/ lies in {nested.parent}: name that as --root")
        if any(self._raw.values()):
            raw = ", ".join(name for name, is_raw in self._raw.items() if is_raw)
            notes.append(
                f"images of sequence {raw} are those of the raw drives in {self._raw_root}"
            )
        elif walked.bad_groups("images"):
            notes.append(
                "the raw drives 2011_09_30_drive_0033 and 0034 of KITTI have the same images: name "
                "their root as --raw-root, and only the poses have to be downloaded"
            )
        return notes

    def images(self) -> Images | None:
        """Nobody trains on it."""
        return None


def _drive(name: str) -> str:
    """The raw drive of a sequence, as split lists name it."""
    drive = SEQUENCES[name].drive
    return f"{drive[:10]}/{drive}_sync"


def _numbers(name: str) -> range:
    """The raw frames of a sequence."""
    return range(SEQUENCES[name].first, SEQUENCES[name].last + 1)


def poses_problem(path: Path, frames: int) -> str | None:
    """What is wrong with a file of poses, which must be `frames`; None if nothing."""
    try:
        found = len(read_poses(path))
    except FadepthError as error:
        return reason_of(error, path)
    return None if found == frames else f"has {found} poses, expected {frames}"
