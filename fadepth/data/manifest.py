"""The manifest: every frame of every split, checked once, with the hashes of all files behind it.

Training and evaluation read the manifest and never search the disk, so that a run's data are
exactly those whose hash it records.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from fadepth.config import DataSettings, Split, expand
from fadepth.data import ddad, kitti, synthetic
from fadepth.data.kitti import DAMAGED_IMAGE, Camera, FrameId, Intrinsics
from fadepth.errors import FadepthError
from fadepth.files import write_atomic

#: Called with (files done, files in all).
Progress = Callable[[int, int], None]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
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
        intrinsics: (fx, fy, cx, cy) in pixels at native size, integer pixel centres.
        height, width: native size.
        velodyne: lidar scan, None where there is none.
        depth_png: ground truth as uint16 PNG, None where there is none.
        lidar_to_camera: DDAD only: motion (3, 4) from the scan to the camera at the exposure, row
            by row, metres.
    """

    drive: str
    frame: int
    side: str
    image: str
    neighbours: dict[int, str]
    intrinsics: Intrinsics
    height: int
    width: int
    velodyne: str | None
    depth_png: str | None
    lidar_to_camera: tuple[float, ...] | None = None

    @property
    def id(self) -> FrameId:
        """The frame as a split list names it."""
        return FrameId(self.drive, self.frame, self.side)

    def __str__(self) -> str:
        return f"{self.drive} {self.frame:010d} {self.side}"


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
        return _short_hash("\n".join(self._lines()).encode())

    def write(self, path: Path) -> None:
        """Write as JSON, one frame and one file per line, atomically."""
        head = {"format": FORMAT, "root": self.root, "content_hash": self.content_hash}
        start = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        write_atomic(path, "\n".join(["{", *start, *self._lines(), "}", ""]))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest and compare its content with its own hash.

        Raises:
            FadepthError: absent, cut short, no JSON, another format, or changed by hand.
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
        except (KeyError, TypeError, ValueError, AttributeError):
            raise FadepthError(f"manifest {path} lacks parts of its content: {remedy}") from None
        if not intact:
            raise FadepthError(f"manifest {path} does not match its own content_hash: {remedy}")
        return manifest

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
    if frame.lidar_to_camera is None:
        # Manifests of other data keep their lines, and with them their hash.
        del content["lidar_to_camera"]
    return content


def _frame(content: dict[str, Any]) -> Frame:
    fx, fy, cx, cy = content["intrinsics"]
    changes: dict[str, Any] = {
        "intrinsics": (fx, fy, cx, cy),
        "neighbours": {int(offset): path for offset, path in content["neighbours"].items()},
    }
    if "lidar_to_camera" in content:
        changes["lidar_to_camera"] = tuple(content["lidar_to_camera"])
    return Frame(**{**content, **changes})


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:10]


# Identity


def data_identity(config: DataSettings, base: Path) -> str:
    """Return 10 hex digits that name the frames of a data set without opening any of them.

    KITTI: the label and the bytes of the three split lists. DDAD: the label, the bytes of the scene
    list, and which cameras and scenes of it are used. Synthetic: what the pixels depend on, i.e.
    the generator's settings and version. `base` is the folder that relative paths in the settings
    start from.

    Raises:
        FadepthError: a split list is absent.
    """
    if config.source == "synthetic":
        parts_of_pixels = [synthetic.GENERATOR_VERSION, config.synthetic.model_dump(mode="json")]
        return _short_hash(json.dumps(parts_of_pixels, sort_keys=True).encode())
    if config.source == "ddad":
        chosen = json.dumps(config.ddad.model_dump(mode="json"), sort_keys=True)
        scenes = hashlib.sha256(_scene_list_bytes(config, base)).digest()
        return _short_hash(b"\0".join([config.name.encode(), scenes, chosen.encode()]))
    folder = base / expand(config.splits)
    parts = [config.name.encode()]
    for split in SPLITS:
        path = folder / f"{split}_files.txt"
        try:
            parts.append(hashlib.sha256(path.read_bytes()).digest())
        except (FileNotFoundError, NotADirectoryError):
            raise FadepthError(
                f"split list {path} does not exist: set {_where('splits', config.splits)} to the "
                "folder that holds train_files.txt, val_files.txt and test_files.txt (Eigen-Zhou: "
                "the first two from splits/eigen_zhou, the last from splits/eigen of "
                "https://github.com/nianticlabs/monodepth2)"
            ) from None
    return _short_hash(b"\0".join(parts))


def _scene_list_bytes(config: DataSettings, base: Path) -> bytes:
    path = base / expand(config.splits)
    try:
        return path.read_bytes()
    except OSError:
        raise FadepthError(
            f"scene list {path} does not exist: set {_where('splits', config.splits)} to the file "
            "ddad.json of DDAD (https://github.com/TRI-ML/DDAD)"
        ) from None


def _where(key: str, value: str) -> str:
    """Name a setting and the environment variables that it reads."""
    names = re.findall(r"\$\{(\w+)", value)
    return f"'data.{key}'" + (f" or the environment variable {names[0]}" if names else "")


# Preparation


class _Listed(NamedTuple):
    """A frame of a split list with the files found for it."""

    id: FrameId
    image: str
    neighbours: dict[int, str]


class _Check(NamedTuple):
    """A file to be read: `size` (height, width) for images and depth maps, else None."""

    path: str
    size: tuple[int, int] | None
    size_from: str = "its day's calib_cam_to_cam.txt (S_rect)"


def prepare_data(
    config: DataSettings,
    output: Path,
    *,
    base: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> Manifest:
    """Find, decode and hash every file that the split lists call for, and write the manifest.

    A synthetic data set is rendered into `data.root` first. The splits of DDAD are told in
    `_list_ddad`. The result does not depend on `workers`; on an error an older `output` stays as it
    was.

    Args:
        config: the data settings.
        output: the manifest's path.
        base: folder that relative paths in the settings start from.
        workers: threads (decoding and hashing release Python's lock).
        progress: called with (files done, files in all).

    Raises:
        FadepthError: the root, a list, a frame, a neighbour of a training or validation frame or
            a calibration file is absent, or a file is damaged or of another size than its
            calibration says.
    """
    root = Path(os.path.abspath(base / expand(config.root)))
    splits = base / expand(config.splits)
    if config.source == "synthetic":
        _render(config, root, workers, progress)
        splits = root / "splits"
    if not root.is_dir():
        holds = "DDAD's scenes (000000 and so on)"
        if config.source != "ddad":
            holds = "the recording days (2011_09_26 and so on)"
        raise FadepthError(
            f"data folder {root} does not exist: set {_where('root', config.root)} to the folder "
            f"that holds {holds}"
        )
    list_frames = _list_ddad if config.source == "ddad" else _list_kitti
    frames, checks = list_frames(config, root, splits)
    files: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        digests = pool.map(lambda check: _inspect(root, check), checks)
        for done, (check, digest) in enumerate(zip(checks, digests, strict=True), start=1):
            files[check.path] = digest
            if progress:
                progress(done, len(checks))
    manifest = Manifest(config.name, str(root), frames, files)
    manifest.write(output)
    return manifest


def _list_kitti(
    config: DataSettings, root: Path, splits: Path
) -> tuple[dict[Split, list[Frame]], list[_Check]]:
    """All frames of the lists in the folder `splits`, and the files behind them."""
    listed = {
        split: _locate(root, splits / f"{split}_files.txt", split, config.source_frames)
        for split in SPLITS
    }
    cameras = _cameras(root, listed)
    frames = {
        split: [
            _complete(root, item, cameras[item.id.date, item.id.side]) for item in listed[split]
        ]
        for split in SPLITS
    }
    return frames, _checks(root, [frame for split in SPLITS for frame in frames[split]])


def _list_ddad(
    config: DataSettings, root: Path, scene_list: Path
) -> tuple[dict[Split, list[Frame]], list[_Check]]:
    """All frames of DDAD's scenes, and the files behind them.

    `test` is DDAD's validation split, every sample of it: published numbers are on that, since the
    ground truth of DDAD's own test images is not public. `train` is DDAD's training split without
    `held_out_scenes` whole scenes, which make `val` [derived]; there a sample needs its neighbours,
    as in DGP.
    """
    scenes = ddad.read_scene_list(scene_list)
    train, val = ddad.hold_out(scenes[ddad.TRAINING], config.ddad.held_out_scenes)
    files: dict[Split, list[str]] = {
        "train": train, "val": val, "test": scenes[ddad.VALIDATION],
    }  # fmt: skip
    frames: dict[Split, list[Frame]] = {split: [] for split in SPLITS}
    checks: dict[str, _Check] = {}
    for split in SPLITS:
        offsets = config.source_frames if split != "test" else ()
        for name in files[split]:
            scene = ddad.DdadScene(root / name)
            for camera in config.ddad.cameras:
                frames[split] += _ddad_frames(root, scene.frames(camera), offsets)
            described = [_relative(root, path) for path in scene.description]
            checks.update({path: _Check(path, None) for path in described})
    for frame in (frame for split in SPLITS for frame in frames[split]):
        for path in (frame.image, *frame.neighbours.values()):
            checks[path] = _Check(path, (frame.height, frame.width), "its scene file")
        if frame.velodyne is not None:
            checks[frame.velodyne] = _Check(frame.velodyne, None)
    return frames, [checks[path] for path in sorted(checks)]


def _ddad_frames(
    root: Path, listed: Sequence[ddad.DdadFrame], offsets: Sequence[int]
) -> list[Frame]:
    """Those of a camera's frames that have all their neighbours."""
    result = []
    for number, frame in enumerate(listed):
        if not all(0 <= number + offset < len(listed) for offset in offsets):
            continue
        motion = frame.T_lidar_to_camera
        result.append(
            Frame(
                drive=_relative(root, frame.image.parents[2]),
                frame=frame.number,
                side=frame.camera,
                image=_relative(root, frame.image),
                neighbours={o: _relative(root, listed[number + o].image) for o in offsets},
                intrinsics=frame.intrinsics,
                height=frame.height,
                width=frame.width,
                velodyne=_relative(root, frame.lidar) if frame.lidar else None,
                depth_png=None,
                lidar_to_camera=None if motion is None else tuple(motion[:3].ravel().tolist()),
            )
        )
    return result


def _render(config: DataSettings, root: Path, workers: int, progress: Progress | None) -> None:
    street = config.synthetic
    synthetic.render_street(
        root,
        seed=street.seed,
        scenes={split: street.scenes[split] for split in SPLITS},
        frames={split: street.frames[split] for split in SPLITS},
        height=street.height,
        width=street.width,
        workers=workers,
        progress=progress,
    )


def _locate(root: Path, path: Path, split: Split, offsets: Sequence[int]) -> list[_Listed]:
    """Find the images of a split; all absent ones are counted before complaining."""
    found: list[_Listed] = []
    absent: list[FrameId] = []
    lonely: list[FrameId] = []
    for frame in kitti.read_split(path):
        image = kitti.image_path(root, frame)
        if image is None:
            absent.append(frame)
            continue
        neighbours = {}
        for offset in offsets if split != "test" else ():
            neighbour = kitti.image_path(root, frame, offset)
            if neighbour is not None:
                neighbours[offset] = _relative(root, neighbour)
            elif not lonely or lonely[-1] != frame:
                lonely.append(frame)
        found.append(_Listed(frame, _relative(root, image), neighbours))
    if absent:
        raise FadepthError(
            f"{_examples(absent)} of {path} have no image below {root}: download the missing "
            "drives or remove the frames from the list"
        )
    if lonely:
        named = ", ".join(f"{offset:+d}" for offset in offsets)
        raise FadepthError(
            f"{_examples(lonely)} of {path} lack a neighbour (offsets {named}) below {root}: "
            "remove them from the list or complete the drives"
        )
    return found


def _examples(frames: Sequence[FrameId]) -> str:
    first = ", ".join(f"{f.drive} {f.number:010d} {f.side}" for f in frames[:3])
    return f"{len(frames)} frames ({first}{', ...' if len(frames) > 3 else ''})"


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _cameras(root: Path, listed: dict[Split, list[_Listed]]) -> dict[tuple[str, str], Camera]:
    """Read each camera of each day once."""
    cameras: dict[tuple[str, str], Camera] = {}
    for items in listed.values():
        for item in items:
            key = item.id.date, item.id.side
            if key not in cameras:
                cameras[key] = kitti.read_camera(root, item.id)
    return cameras


def _complete(root: Path, item: _Listed, camera: Camera) -> Frame:
    scan = kitti.velodyne_path(root, item.id)
    depth = kitti.depth_png_path(root, item.id)
    return Frame(
        drive=item.id.drive,
        frame=item.id.number,
        side=item.id.side,
        image=item.image,
        neighbours=item.neighbours,
        intrinsics=camera.intrinsics,
        height=camera.height,
        width=camera.width,
        velodyne=_relative(root, scan) if scan.is_file() else None,
        depth_png=_relative(root, depth) if depth.is_file() else None,
    )


def _checks(root: Path, frames: Sequence[Frame]) -> list[_Check]:
    """All files behind the frames, each once, sorted by path."""
    checks: dict[str, _Check] = {}
    projected: set[FrameId] = set()
    for frame in frames:
        size = frame.height, frame.width
        for path in (frame.image, *frame.neighbours.values(), frame.depth_png):
            if path is not None:
                checks[path] = _Check(path, size)
        calibrations = [f"{frame.id.date}/calib_cam_to_cam.txt"]
        if frame.velodyne is not None:
            checks[frame.velodyne] = _Check(frame.velodyne, None)
            calibrations.append(f"{frame.id.date}/calib_velo_to_cam.txt")
            day = FrameId(frame.id.date, 0, frame.side)
            if day not in projected:
                projected.add(day)
                kitti.read_velodyne_to_image(root, day)
        checks.update({path: _Check(path, None) for path in calibrations})
    return [checks[path] for path in sorted(checks)]


def _inspect(root: Path, check: _Check) -> str:
    """Read a file once: decode it where it is an image, and return its sha256."""
    path = root / check.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FadepthError(f"{path} cannot be read ({error.strerror}): restore it") from None
    if check.path.endswith(".bin") and (not data or len(data) % 16):
        kitti.read_velodyne(path)  # tells what is wrong
    if check.path.endswith(".npz"):
        ddad.read_point_cloud(path)
    if check.size is not None:
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                width, height = image.size
        except DAMAGED_IMAGE:
            raise FadepthError(f"image {path} is damaged: restore it from the archive") from None
        if (height, width) != check.size:
            raise FadepthError(
                f"image {path} is {width} x {height} pixels but {check.size_from} says "
                f"{check.size[1]} x {check.size[0]}: use the image as recorded"
            )
    return hashlib.sha256(data).hexdigest()
