"""The manifest: every frame of every split, checked once, with the hashes of all files behind it.

Training and evaluation read the manifest and never search the disk, so that a run's data are
exactly those whose hash it records.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fadepth.config import Split
from fadepth.data.kitti import FrameId, Intrinsics
from fadepth.errors import FadepthError
from fadepth.files import write_atomic
from fadepth.paths import leads_out

T = TypeVar("T")

SPLITS: tuple[Split, ...] = ("train", "val", "test")
#: Training frames whose ground truth the baselines are fitted to: bounds their memory.
FITTED_FRAMES = 500
FORMAT = 1


@dataclass(frozen=True)
class Frame:
    """One target frame; all paths are relative to the data root, with `/`.

    Attributes:
        drive: `<date>/<drive>` as in split lists; for DDAD the scene's folder.
        frame: number within the drive.
        side: `l` or `r`; for DDAD the camera.
        image: the target image.
        neighbours: offset -> image; empty for test frames, which are evaluated one by one.
        intrinsics: (fx, fy, cx, cy) in pixels at native size, integer pixel centres; None for
            Make3D, whose camera is not calibrated.
        height, width: native size.
        velodyne: lidar scan, None where there is none.
        depth_png: ground truth as uint16 PNG, None where there is none.
        lidar_to_camera: DDAD only: motion (3, 4) from the scan to the camera at the exposure, row
            by row, metres.
        depth_file: Make3D and Cityscapes only: the file of the ground truth.
        camera_file: Cityscapes only: its camera.
    """

    drive: str
    frame: int
    side: str
    image: str
    neighbours: dict[int, str]
    intrinsics: Intrinsics | None
    height: int
    width: int
    velodyne: str | None
    depth_png: str | None
    lidar_to_camera: tuple[float, ...] | None = None
    depth_file: str | None = None
    camera_file: str | None = None

    @property
    def id(self) -> FrameId:
        """The frame as a split list names it."""
        return FrameId(self.drive, self.frame, self.side)

    def __str__(self) -> str:
        single = self.depth_file is not None  # Make3D and Cityscapes have no drives
        return self.drive if single else f"{self.drive} {self.frame:010d} {self.side}"


@dataclass(frozen=True)
class Manifest:
    """A checked data set.

    Attributes:
        dataset: label, `data.name`.
        root: absolute folder at the time of checking; for readers only, not hashed.
        splits: frames of `train`, `val` and `test`, in the order of the lists.
        files: path relative to the root -> sha256, of calibration, images, scans, depth maps.
    """

    dataset: str
    root: str
    splits: dict[Split, list[Frame]]
    files: dict[str, str]

    @cached_property
    def content_hash(self) -> str:
        """10 hex digits of the sha256 over everything but the root."""
        return short_hash("\n".join(self._lines()).encode())

    def write(self, path: Path) -> None:
        """Write as JSON, one frame and one file per line, atomically."""
        head = {"format": FORMAT, "root": self.root, "content_hash": self.content_hash}
        start = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        write_atomic(path, "\n".join(["{", *start, *self._lines(), "}", ""]))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest and compare its content with its own hash.

        Raises:
            FadepthError: absent, cut short, no JSON, another format, changed by hand, or naming
                files that are not below the data root.
        """
        remedy = "delete it and run the workflow again, which prepares the data anew"
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text)
        except FileNotFoundError:
            raise FadepthError(f"manifest {path} does not exist: prepare the data first") from None
        except UnicodeDecodeError:
            raise FadepthError(f"manifest {path} is not a text file: {remedy}") from None
        except json.JSONDecodeError as error:
            # A cut inside a string is reported at the string's start, hence the whole last line.
            cut = "\n" not in text[error.pos :].strip()
            what = "ends early at" if cut else "is not readable JSON in"
            raise FadepthError(f"manifest {path} {what} line {error.lineno}: {remedy}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise FadepthError(f"{path} is no manifest of format {FORMAT}: {remedy}")
        try:
            splits = {s: [_frame(line) for line in content["splits"][s]] for s in SPLITS}
            manifest = cls(content["dataset"], content["root"], splits, content["files"])
            intact = manifest.content_hash == content["content_hash"]
            strange = next(manifest._strange_paths(), None)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FadepthError(f"manifest {path} lacks parts of its content: {remedy}") from None
        if not intact:
            raise FadepthError(f"manifest {path} does not match its own content_hash: {remedy}")
        if strange:
            where, name = strange
            raise FadepthError(
                f"manifest {path}, {where}: {name[:80]!r} is no path below the data root: {remedy}"
            )
        return manifest

    def _strange_paths(self) -> Iterator[tuple[str, str]]:
        """Where paths lead out of the root, and which: by their text, since links are the user's.

        Drive and side are parts of paths, too: calibration is found by them.
        """
        for split in SPLITS:
            for number, frame in enumerate(self.splits[split], start=1):
                names = [frame.drive, frame.side, frame.image, *frame.neighbours.values()]
                more = (frame.velodyne, frame.depth_png, frame.depth_file, frame.camera_file)
                names += [name for name in more if name is not None]
                for name in filter(leads_out, names):
                    yield f"{split} frame {number}", name
        for name in filter(leads_out, self.files):
            yield "files", name

    def _lines(self) -> Iterator[str]:
        yield f'"dataset": {json.dumps(self.dataset)},'
        yield '"splits": {'
        for number, split in enumerate(SPLITS):
            frames = [json.dumps(_content(frame)) for frame in self.splits[split]]
            yield f'"{split}": ['
            yield from _with_commas(frames)
            yield "]," if number < len(SPLITS) - 1 else "]"
        yield "},"
        yield '"files": {'
        yield from _with_commas(
            [f"{json.dumps(name)}: {json.dumps(self.files[name])}" for name in sorted(self.files)]
        )
        yield "}"


def _with_commas(lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        yield line + "," * (number < len(lines))


def _content(frame: Frame) -> dict[str, Any]:
    content = asdict(frame)
    for key in ("lidar_to_camera", "depth_file", "camera_file"):
        if content[key] is None:
            # Manifests of other data keep their lines, and with them their hash.
            del content[key]
    return content


def _frame(content: dict[str, Any]) -> Frame:
    changes: dict[str, Any] = {
        "intrinsics": content["intrinsics"] and _four(*content["intrinsics"]),
        "neighbours": {int(offset): path for offset, path in content["neighbours"].items()},
    }
    if "lidar_to_camera" in content:
        changes["lidar_to_camera"] = tuple(content["lidar_to_camera"])
    return Frame(**{**content, **changes})


def _four(fx: float, fy: float, cx: float, cy: float) -> Intrinsics:
    return fx, fy, cx, cy


def evenly_spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` of the items, spread evenly over the whole list."""
    positions = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[position] for position in positions]


def short_hash(data: bytes) -> str:
    """First 10 hex digits of the sha256."""
    return hashlib.sha256(data).hexdigest()[:10]
