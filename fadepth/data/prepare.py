"""From a data set's own files to its manifest: find the listed frames, check and hash files."""

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from fadepth.config import BenchmarkSettings, DataSettings, Split, SyntheticSettings, expand
from fadepth.data import cityscapes, ddad, kitti, kitti_splits, make3d, synthetic
from fadepth.data.kitti import DAMAGED_IMAGE, Camera, FrameId
from fadepth.data.manifest import SPLITS, Frame, Manifest, short_hash
from fadepth.data.parallel import Progress, in_order
from fadepth.errors import FadepthError
from fadepth.files import json_object, told_when_unwritable
from fadepth.paths import require_below

#: Beside the frames of own videos, names what they were made from (`fadepth.data.own_video`).
PREPARED = "prepared.json"

#: Called with the frames of every split and the folder that their paths start from.
Approve = Callable[[dict[Split, list[Frame]], Path], None]


# Identity


def data_identity(config: DataSettings, base: Path) -> str:
    """Return 10 hex digits that name the frames of a data set without opening any of them.

    KITTI: the label and the bytes of the three split lists. Own videos: these and the note of what
    the frames were made from. DDAD: the label, the bytes of the scene list, and which cameras and
    scenes of it are used. Synthetic: what the pixels depend on, i.e. the generator's settings and
    version. `base` is the folder that relative paths in the settings start from.

    Raises:
        FadepthError: a split list is absent.
    """
    if config.source == "synthetic":
        return short_hash(_pixels_of(config.synthetic))
    if config.source == "ddad":
        chosen = json.dumps(config.ddad.model_dump(mode="json"), sort_keys=True)
        scenes = hashlib.sha256(_scene_list_bytes(config, base)).digest()
        return short_hash(b"\0".join([config.name.encode(), scenes, chosen.encode()]))
    folder = base / expand(config.splits)
    parts = [config.name.encode()]
    if config.source == "video":
        parts.append(_made_from(config, base))
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
    return short_hash(b"\0".join(parts))


def _made_from(config: DataSettings, base: Path) -> bytes:
    """Digest of what tells of the frames of own videos."""
    path = base / expand(config.root) / PREPARED
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        raise FadepthError(
            f"{path} does not exist: make frames of your videos with 'fadepth data prepare video', "
            f"and set {_where('root', config.root)} to their folder"
        ) from None


def missing_truth(config: DataSettings, base: Path) -> str | None:
    """Why frames cannot be compared with ground truth; None where they can, as far as is known.

    Only own videos may come without any; of other data, absent files are told frame by frame.
    """
    if config.source != "video":
        return None
    root = expand(config.root)
    if json_object(base / root / PREPARED).get("test_depths"):
        return None
    return (
        f"{root} has no depth to compare with: add depth maps by 'fadepth data prepare video "
        "--depth', or let a study be 'evaluated_on' other data (docs/how-to/your-own-video.md)"
    )


def benchmark_place(settings: BenchmarkSettings, base: Path) -> str:
    """Return 6 hex digits for where a benchmark's files are, part of its manifest's name.

    Another protocol is no other place: the same manifest serves both. What lies in the project has
    the same place after the project was moved.
    """
    home = os.path.abspath(base)
    places = [
        f"{os.path.abspath(base / expand(text))}/".removeprefix(f"{home}/")
        for text in (settings.root, settings.frames or "")
    ]
    chosen = _choice(settings)
    return short_hash("\0".join([*places, chosen]).encode())[:6]


def benchmark_identity(settings: BenchmarkSettings, base: Path) -> str:
    """Return 10 hex digits that name the frames of a benchmark without opening any of them.

    Raises:
        FadepthError: the list of frames is absent.
    """
    parts = [_choice(settings).encode()]
    if settings.synthetic:
        parts.append(_pixels_of(settings.synthetic))
    elif not settings.frames:
        # Without a list all that is there counts: a download that went on is another benchmark.
        root = base / expand(settings.root)
        # Endings jpg, png and mat:
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.[jpm][pna][gt]"))
        parts.append("\n".join(names).encode())
    else:
        path = base / expand(settings.frames)
        try:
            parts.append(hashlib.sha256(path.read_bytes()).digest())
        except OSError:
            raise FadepthError(
                f"list of frames {path} does not exist: set 'benchmarks.*.frames'"
                f"{_variable(settings.frames)} to it ('fadepth data fetch-splits' fetches KITTI's)"
            ) from None
    return short_hash(b"\0".join(parts))


def _choice(settings: BenchmarkSettings) -> str:
    """Which frames of what lies at a place, as JSON; a title is no choice."""
    left_out = {"root", "frames", "protocol", "title"}
    return settings.model_dump_json(exclude=left_out | ({"synthetic"} - settings.model_fields_set))


def _pixels_of(street: SyntheticSettings) -> bytes:
    """What the pixels of a rendered street depend on."""
    parts = [synthetic.GENERATOR_VERSION, street.model_dump(mode="json")]
    return json.dumps(parts, sort_keys=True).encode()


def data_root(settings: DataSettings, base: Path) -> Path:
    """Folder of the raw data; a synthetic data set has one of its own for each identity."""
    root = Path(os.path.abspath(base / expand(settings.root)))
    return root / data_identity(settings, base) if settings.source == "synthetic" else root


def benchmark_root(settings: BenchmarkSettings, base: Path) -> Path:
    """Folder of a benchmark's files; a rendered street has one of its own for each identity."""
    root = Path(os.path.abspath(base / expand(settings.root)))
    return root / short_hash(_pixels_of(settings.synthetic)) if settings.synthetic else root


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
    return f"'data.{key}'" + _variable(value)


def _variable(value: str) -> str:
    names = re.findall(r"\$\{(\w+)", value)
    return f" or the environment variable {names[0]}" if names else ""


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
    depth: bool = False  # a depth or disparity map, which is a 16-bit grey PNG


def prepare_data(
    config: DataSettings,
    output: Path,
    *,
    base: Path,
    workers: int = 1,
    progress: Progress | None = None,
    approve: Approve | None = None,
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
        approve: called with the frames found, before files are read; raises where it refuses them.

    Raises:
        FadepthError: the root, a list, a frame, a neighbour of a training or validation frame or
            a calibration file is absent, a file is damaged or of another size than its
            calibration says, or `output` cannot be written (told before the work where possible).
    """
    _require_writable(output)
    root = Path(os.path.abspath(base / expand(config.root)))
    splits = base / expand(config.splits)
    if config.source == "synthetic":
        _render(config.synthetic, root, workers, progress)
        splits = root / "splits"
    if not root.is_dir():
        holds = "DDAD's scenes (000000 and so on)"
        if config.source == "video":
            holds = f"the frames of 'fadepth data prepare video', with {PREPARED}"
        elif config.source != "ddad":
            holds = "the recording days (2011_09_26 and so on)"
        raise FadepthError(
            f"data folder {root} does not exist: set {_where('root', config.root)} to the folder "
            f"that holds {holds}"
        )
    list_frames = _list_ddad if config.source == "ddad" else _list_kitti
    frames, checks = list_frames(config, root, splits)
    if approve:
        approve(frames, root)
    files = _check_files(root, checks, workers, progress)
    manifest = Manifest(config.name, str(root), frames, files)
    with told_when_unwritable(output):
        manifest.write(output)
    return manifest


def prepare_benchmark(
    name: str,
    settings: BenchmarkSettings,
    output: Path,
    *,
    base: Path,
    workers: int = 1,
    progress: Progress | None = None,
    approve: Approve | None = None,
) -> Manifest:
    """As `prepare_data` for frames that runs are only evaluated on: the manifest's `test`.

    Raises:
        FadepthError: the root, the list or a listed frame is absent, a file is damaged, or
            `output` cannot be written.
    """
    _require_writable(output)
    root = benchmark_root(settings, base)
    where = f"'benchmarks.{name}.root'" + _variable(settings.root)
    if settings.synthetic:
        _render(settings.synthetic, root, workers, progress)
    if not root.is_dir():
        raise FadepthError(f"data folder {root} does not exist: set {where} to the data's folder")
    listed = base / expand(settings.frames) if settings.frames else None
    if settings.source in ("kitti", "synthetic"):
        if settings.synthetic:
            listed = root / "splits" / "test_files.txt"
        assert listed is not None, "the settings have looked"
        found = _locate(root, listed, "test", ())
        cameras = _cameras(root, {"test": found})
        frames = [_complete(root, item, cameras[item.id.date, item.id.side]) for item in found]
        checks = _checks(root, frames)
    elif settings.source == "ddad":
        assert listed is not None, "the settings have looked"
        scenes = ddad.read_scene_list(listed)[ddad.VALIDATION]
        frames, checks = _scenes(root, listed, scenes, settings.cameras, ())
    elif settings.source == "make3d":
        frames, checks = _list_make3d(root, listed)
    else:
        frames, checks = _list_cityscapes(root, settings.folder, listed)
    if not frames:
        raise FadepthError(f"{root} holds no frame of {settings.source}: set {where} to its folder")
    if approve:
        approve({"train": [], "val": [], "test": frames}, root)
    files = _check_files(root, checks, workers, progress)
    manifest = Manifest(name, str(root), {"train": [], "val": [], "test": frames}, files)
    with told_when_unwritable(output):
        manifest.write(output)
    return manifest


def _require_writable(output: Path) -> None:
    """Refuse a folder that cannot be written to before hours of hashing, not after them."""
    folder = Path(os.path.abspath(output)).parent
    while not folder.exists():
        folder = folder.parent
    with told_when_unwritable(output), tempfile.TemporaryFile(dir=folder):
        pass


def _check_files(
    root: Path, checks: Sequence[_Check], workers: int, progress: Progress | None
) -> dict[str, str]:
    """Path -> sha256 of all files, each read and decoded once."""
    files: dict[str, str] = {}
    digests = in_order(checks, partial(_inspect, root), max(1, workers))
    with closing(digests):
        for check, digest in zip(checks, digests, strict=True):
            files[check.path] = digest
            if progress:
                progress(len(files), len(checks))
    return files


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
    frames: dict[Split, list[Frame]] = {}
    checks: dict[str, _Check] = {}
    for split in SPLITS:
        offsets = config.source_frames if split != "test" else ()
        frames[split], of_split = _scenes(
            root, scene_list, files[split], config.ddad.cameras, offsets
        )
        checks.update({check.path: check for check in of_split})
    return frames, [checks[path] for path in sorted(checks)]


def _scenes(
    root: Path,
    scene_list: Path,
    names: Sequence[str],
    cameras: Sequence[str],
    offsets: Sequence[int],
) -> tuple[list[Frame], list[_Check]]:
    """Frames of DDAD's scenes (their files below the root), and the files behind them."""
    frames: list[Frame] = []
    checks: dict[str, _Check] = {}
    for name in names:
        scene = ddad.DdadScene(root / require_below(name, scene_list, "scene_splits"))
        described = [_named_by(scene.path, root, path) for path in scene.description]
        for camera in cameras:
            frames += _ddad_frames(root, scene.path, scene.frames(camera), offsets)
        checks.update({path: _Check(path, None) for path in described})
    for frame in frames:
        for path in (frame.image, *frame.neighbours.values()):
            checks[path] = _Check(path, (frame.height, frame.width), "its scene file")
        if frame.velodyne is not None:
            checks[frame.velodyne] = _Check(frame.velodyne, None)
    return frames, [checks[path] for path in sorted(checks)]


def _ddad_frames(
    root: Path, scene: Path, listed: Sequence[ddad.DdadFrame], offsets: Sequence[int]
) -> list[Frame]:
    """Those of a camera's frames that have all their neighbours; `scene` is the file's path."""
    result = []
    for number, frame in enumerate(listed):
        if not all(0 <= number + offset < len(listed) for offset in offsets):
            continue
        motion = frame.T_lidar_to_camera
        image = _named_by(scene, root, frame.image)
        result.append(
            Frame(
                drive=_named_by(scene, root, frame.image.parents[2]),
                frame=frame.number,
                side=frame.camera,
                image=image,
                neighbours={o: _named_by(scene, root, listed[number + o].image) for o in offsets},
                intrinsics=frame.intrinsics,
                height=frame.height,
                width=frame.width,
                velodyne=_named_by(scene, root, frame.lidar) if frame.lidar else None,
                depth_png=None,
                lidar_to_camera=None if motion is None else tuple(motion[:3].ravel().tolist()),
            )
        )
    return result


def _list_make3d(root: Path, listed: Path | None) -> tuple[list[Frame], list[_Check]]:
    frames, checks = [], []
    if listed:
        for number, name in make3d.read_lines(listed):
            require_below(name, listed, f"line {number}")
    for item in make3d.list_frames(root, listed):
        height, width = kitti.image_size(item.image)
        image, depth = _relative(root, item.image), _relative(root, item.depth)
        frames.append(
            Frame(
                drive=item.name, frame=0, side="-", image=image, neighbours={}, intrinsics=None,
                height=height, width=width, velodyne=None, depth_png=None, depth_file=depth,
            )
        )  # fmt: skip
        checks += [_Check(image, make3d.IMAGE_SIZE, "Make3D's protocol"), _Check(depth, None)]
    return frames, checks


def _list_cityscapes(
    root: Path, folder: str, listed: Path | None
) -> tuple[list[Frame], list[_Check]]:
    frames, checks = [], []
    for item in cityscapes.list_frames(root, folder, listed):
        height, width = kitti.image_size(item.image)
        image, depth, camera = (
            _relative(root, path) for path in (item.image, item.disparity, item.camera)
        )
        frames.append(
            Frame(
                drive=item.name, frame=0, side="l", image=image, neighbours={},
                intrinsics=cityscapes.read_camera(item.camera).intrinsics,
                height=height, width=width, velodyne=None, depth_png=None, depth_file=depth,
                camera_file=camera,
            )
        )  # fmt: skip
        checks += [
            _Check(image, (height, width), "its head"),
            _Check(depth, (height, width), "its colour image", depth=True),
            _Check(camera, None),
        ]
    return frames, checks


def _render(street: SyntheticSettings, root: Path, workers: int, progress: Progress | None) -> None:
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
    for frame in kitti_splits.read_frames(path):
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


def _named_by(file: Path, root: Path, path: Path) -> str:
    """A path that `file` names, relative to the root; it must stay below it."""
    below = path.is_relative_to(root)
    return require_below(_relative(root, path) if below else str(path), file, "an entry")


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
        for path in (frame.image, *frame.neighbours.values()):
            checks[path] = _Check(path, size)
        if frame.depth_png is not None:
            checks[frame.depth_png] = _Check(frame.depth_png, size, depth=True)
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


#: Files that are more than bytes, and no images.
_READERS: dict[str, Callable[[Path], object]] = {
    ".bin": kitti.read_velodyne,
    ".npz": ddad.read_point_cloud,
    ".mat": make3d.read_depth,
}


def _inspect(root: Path, check: _Check) -> str:
    """Read a file once: decode it where it is an image, and return its sha256."""
    path = root / check.path
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FadepthError(f"{path} cannot be read ({error.strerror}): restore it") from None
    if reader := _READERS.get(path.suffix):
        reader(path)  # tells what is wrong
    if check.size is not None:
        _inspect_image(path, data, check, check.size)
    return hashlib.sha256(data).hexdigest()


def _inspect_image(path: Path, data: bytes, check: _Check, size: tuple[int, int]) -> None:
    what = "depth map" if check.depth else "image"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            (width, height), mode = image.size, image.mode
    except DAMAGED_IMAGE:
        raise FadepthError(f"{what} {path} is damaged: restore it from the archive") from None
    if check.depth and not mode.startswith("I"):
        raise FadepthError(f"{what} {path} is not a 16-bit grey PNG: restore it from the archive")
    if (height, width) != size:
        raise FadepthError(
            f"{what} {path} is {width} x {height} pixels but {check.size_from} says "
            f"{size[1]} x {size[0]}: use the {what} as recorded"
        )
