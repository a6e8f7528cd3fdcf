"""One's own driving videos: frames, intrinsics and split lists in the layout of KITTI raw.

A training needs three images of one camera, taken on the way, and the camera's intrinsics. So every
k-th frame of a video is taken, cropped, resized and numbered anew; a frame that has hardly moved
against a neighbour is no target; and the intrinsics go through the same crop and resize. What is
written is read as `data.source: video`, by the reader of KITTI raw:

    <camera>/<video>/image_02/data/0000000000.jpg
    <camera>/<video>/proj_depth/groundtruth/image_02/0000000000.png   where there is depth
    <camera>/calib_cam_to_cam.txt
    <camera>/<video>.json       what was made of the video, and of what
    splits/train_files.txt      and val_files.txt, test_files.txt
    prepared.json               all of it, part of the data's identity
"""

import io
import itertools
import json
import re
import shutil
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fadepth.config import Split
from fadepth.data.convert import only_preparer
from fadepth.data.kitti import (
    Camera,
    FrameId,
    depth_png_path,
    read_image,
    read_png16,
    resize_image,
)
from fadepth.data.kitti_splits import write_split
from fadepth.data.manifest import short_hash
from fadepth.data.motion import motion_picture, picture_motion
from fadepth.data.own_camera import (
    CameraFile,
    check_camera,
    frame_intrinsics,
    read_camera_file,
    resample_depth,
)
from fadepth.data.parallel import Progress
from fadepth.data.prepare import PREPARED
from fadepth.data.video import VIDEO_SUFFIXES, read_video, video_info
from fadepth.errors import FadepthError
from fadepth.files import file_digest, json_object, told_when_unwritable, write_atomic

FORMAT = 1
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
#: Of the only video, this share at its end is held out [derived].
HELD_OUT = 0.2
#: Frames that a video must give: a target and its two neighbours.
FEWEST = 3
SMALLEST = 32  # pixels, as the settings' height and width
#: JPEG with whole chroma: pictures are small, and their videos were compressed before [derived].
QUALITY = 95


# What is made of a video


@dataclass(frozen=True)
class Choice:
    """What is made of every video.

    Attributes:
        every: every so-manieth frame is taken.
        size: (H, W) of the frames, pixels; None: `width` wide, and as high as is in proportion.
        width: pixels; a narrower picture stays as it is. Not read where `size` is given.
        crop: rows that are cut off at the top and at the bottom, pixels of the video.
        still: motion (`picture_motion`) below which two neighbours are near-still.
        png: write PNG, without loss and several times as large.
    """

    every: int = 1
    size: tuple[int, int] | None = None
    width: int = 640
    crop: tuple[int, int] = (0, 0)
    still: float = 0.3
    png: bool = False


def picture_size(native: tuple[int, int], choice: Choice, source: Path) -> tuple[int, int]:
    """(H, W) of the frames made of pictures of the size `native` (h, w).

    Raises:
        FadepthError: too little is left after the crop, or `choice.size` is larger than that.
    """
    height, width = native[0] - sum(choice.crop), native[1]
    if min(choice.crop) < 0 or height < SMALLEST or width < SMALLEST:
        raise FadepthError(
            f"{source} has {native[1]} x {native[0]} pixels, of which --crop "
            f"{choice.crop[0]},{choice.crop[1]} leaves {height} rows: {SMALLEST} rows and columns "
            "are needed"
        )
    if choice.size is None:
        across = min(choice.width, width)
        size = max(1, round(height * across / width)), across
    else:
        size = choice.size
    if min(size) < SMALLEST:
        raise FadepthError(
            f"frames of {source} would have {size[0]}x{size[1]} pixels (height x width): at least "
            f"{SMALLEST}x{SMALLEST} are needed, choose a larger --size or --width"
        )
    if size[0] > height or size[1] > width:
        raise FadepthError(
            f"--size is {size[0]}x{size[1]} but after the crop {source} has only {height}x{width} "
            "pixels (height x width): enlarged pictures show no more, choose a smaller --size"
        )
    return size


# One video


@dataclass(frozen=True)
class Source:
    """A video or a folder of frames, and where its frames go.

    Attributes:
        path: of the video or folder.
        name: the folder of its frames, and of its depth maps.
        camera: its camera.
        camera_path: file of that.
        camera_name: the folder that holds the frames of all its videos.
        native: (h, w), pixels.
        count: of the frames before any is chosen; None: nobody knows yet.
        depth: folder of its depth maps.
    """

    path: Path
    name: str
    camera: CameraFile
    camera_path: Path
    camera_name: str
    native: tuple[int, int]
    count: int | None
    depth: Path | None

    def pictures(self, every: int) -> Iterator[tuple[str, Image.Image]]:
        """Every so-manieth frame, and what it is called: a file's name or the frame's number."""
        if self.path.is_dir():
            for path in folder_images(self.path)[::every]:
                yield path.stem, read_image(path)
            return
        for number, picture in enumerate(read_video(self.path)):
            if number % every == 0:
                yield str(number), Image.fromarray(picture)

    def depth_maps(self) -> dict[str, Path]:
        """Frame's name -> its depth map; numbers of a video's frames without leading zeros."""
        found = sorted(self.depth.glob("*.png")) if self.depth else []
        if self.path.is_dir():
            return {path.stem: path for path in found}
        strange = next((path for path in found if not path.stem.isdecimal()), None)
        if strange:
            raise FadepthError(
                f"depth map {strange} must be called by the number of its frame in {self.path}, "
                "the first being 0, such as 0000000012.png"
            )
        return {str(int(path.stem)): path for path in found}


def folder_images(folder: Path) -> list[Path]:
    """PNG and JPEG images of a folder, frame 2 before frame 10."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]

    def key(path: Path) -> list[tuple[int, str]]:
        return [(int(p) if p.isdecimal() else 0, p) for p in re.split(r"(\d+)", path.stem)]

    return sorted((p for p in paths if not p.name.startswith(".")), key=key)


@dataclass(frozen=True)
class Clip:
    """What has become of a stretch of a video: the content of a drive.

    Attributes:
        drive: `<camera>/<video>`, as split lists name it.
        picked: frames taken of the video.
        still: those that are no targets since they are near-still.
        targets: numbers of the targets.
        depths: numbers of the frames with a depth map.
        motion: median over the picked frames of `picture_motion` to the frame before.
    """

    drive: str
    picked: int
    still: int
    targets: tuple[int, ...]
    depths: tuple[int, ...]
    motion: float

    def listed(self, numbers: Sequence[int]) -> list[FrameId]:
        """Lines of a split list."""
        return [FrameId(self.drive, number, "l") for number in numbers]


class _Making:
    """One video on its way to frames; at most three pictures are held.

    Args:
        source: the video.
        choice: what is made of it.
        root: folder of all frames.
        cut: number of the picked frame with which a second drive begins; None: none does.
    """

    def __init__(self, source: Source, choice: Choice, root: Path, cut: int | None) -> None:
        self.source, self.choice, self.root, self.cut = source, choice, root, cut
        self.size = picture_size(source.native, choice, source.path)
        self.maps = source.depth_maps()
        self.drive = f"{source.camera_name}/{source.name}"

    def run(self, tell: "_Tell") -> list[Clip]:
        """Write the frames of the video's drives.

        Raises:
            FadepthError: the video or a depth map is damaged, of another size than the first
                frame, or too short.
        """
        pictures = enumerate(self.source.pictures(self.choice.every))
        clips = [self._drive(self.drive, pictures, self.cut, tell)]
        if self.cut is not None:
            clips.append(self._drive(f"{self.drive}_end", pictures, None, tell))
        for clip in clips:
            if clip.picked < FEWEST:
                raise FadepthError(
                    f"{self.source.path} gives {sum(clip.picked for clip in clips)} frames with "
                    f"--every {self.choice.every}: {_needed(self.cut)} are needed, since a frame "
                    "is trained with both of its neighbours; lower --every or take a longer video"
                )
        if self.maps and not any(clip.depths for clip in clips):
            raise FadepthError(
                f"none of the {len(self.maps)} depth maps in {self.source.depth} is of a frame "
                f"that was taken (--every {self.choice.every}) and has values within the crop: "
                "they must be called as the images of a folder, or by the number of a video's "
                "frame, from 0"
            )
        return clips

    def _drive(
        self,
        drive: str,
        pictures: Iterator[tuple[int, tuple[str, Image.Image]]],
        end: int | None,
        tell: "_Tell",
    ) -> Clip:
        held: dict[int, Image.Image] = {}  # not yet written, of the last three
        targets: list[int] = []
        depths: list[int] = []
        motions: list[float] = []
        before: NDArray[np.float32] | None = None
        picked = still = 0
        while end is None or picked < end:
            try:
                number, (name, whole) = next(pictures)
            except StopIteration:
                break
            picked += 1
            tell.one()
            image = self._cropped(whole, name)
            held[number] = image
            grey = motion_picture(image)
            if before is not None:
                motions.append(picture_motion(before, grey))
            before = grey
            if name in self.maps and self._write_depth(drive, number, self.maps[name], whole.size):
                depths.append(number)
                self._write(drive, number, held)
            if len(motions) >= 2:
                if min(motions[-2:]) < self.choice.still:
                    still += 1
                else:
                    targets.append(number - 1)
                    for one in (number - 2, number - 1, number):
                        self._write(drive, one, held)
            held.pop(number - 2, None)
        motion = statistics.median(motions) if motions else 0.0
        return Clip(drive, picked, still, tuple(targets), tuple(depths), round(motion, 3))

    def _cropped(self, image: Image.Image, name: str) -> Image.Image:
        height, width = self.source.native
        if (image.height, image.width) != (height, width):
            raise FadepthError(
                f"frame {name} of {self.source.path} has {image.width} x {image.height} pixels but "
                f"the first has {width} x {height}: all need the size that the intrinsics are for"
            )
        top, bottom = self.choice.crop
        return image.crop((0, top, width, height - bottom)) if top or bottom else image

    def _write(self, drive: str, number: int, held: dict[int, Image.Image]) -> None:
        """Write a frame if it is still held, i.e. unless it was written before."""
        image = held.pop(number, None)
        if image is None:
            return
        small = Image.fromarray(resize_image(image, *self.size).transpose(1, 2, 0))
        buffer = io.BytesIO()
        if self.choice.png:
            small.save(buffer, "PNG")
        else:
            small.save(buffer, "JPEG", quality=QUALITY, subsampling="4:4:4")
        suffix = ".png" if self.choice.png else ".jpg"
        folder = self.root / drive / "image_02" / "data"
        write_atomic(folder / f"{number:010d}{suffix}", buffer.getvalue())

    def _write_depth(self, drive: str, number: int, path: Path, size: tuple[int, int]) -> bool:
        """Write a frame's depth map; whether anything is left of it after the crop."""
        depth = read_png16(
            path, "depth map", "expected uint16, metres x 256, 0 where there is none"
        )
        if depth.shape != (size[1], size[0]):
            raise FadepthError(
                f"depth map {path} has {depth.shape[1]} x {depth.shape[0]} pixels but its frame "
                f"has {size[0]} x {size[1]}: depth maps must fit the frames as recorded"
            )
        small = resample_depth(depth, self.choice.crop, self.size)
        if not small.any():
            return False
        buffer = io.BytesIO()
        Image.fromarray(small).save(buffer, "PNG")
        write_atomic(depth_png_path(self.root, FrameId(drive, number, "l")), buffer.getvalue())
        return True


def _needed(cut: int | None) -> int:
    return FEWEST if cut is None else 2 * FEWEST


# All videos


@dataclass(frozen=True)
class Prepared:
    """What `prepare_videos` made.

    Attributes:
        clips: of every video, in the order given.
        made: videos that were read now; the others were finished before.
        frames: number of frames in each split list.
        sizes: (H, W) of the frames, pixels; one for each camera that differs.
        test_depths: frames of the test list that have a depth map.
        train_depths: training frames that have one.
    """

    clips: tuple[Clip, ...]
    made: int
    frames: Mapping[Split, int]
    sizes: tuple[tuple[int, int], ...]
    test_depths: int
    train_depths: int


class _Stopped(Exception):
    """Another video, or Ctrl-C, has ended the call."""


class _Tell:
    """Counts frames of all threads, says how many there are, and stops the threads."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total = progress, total
        self.done, self.stopped, self.lock = 0, False, threading.Lock()

    def one(self, count: int = 1) -> None:
        """So many more frames are done.

        Raises:
            _Stopped: the call is ending.
        """
        if self.stopped:
            raise _Stopped
        with self.lock:
            self.done += count
            if self.progress and self.total:
                self.progress(min(self.done, self.total), self.total)

    def stop(self) -> None:
        """Let every thread end at its next frame."""
        self.stopped = True


def prepare_videos(
    paths: Sequence[Path],
    cameras: Sequence[Path],
    output: Path,
    choice: Choice,
    *,
    hold_out: Sequence[str] = (),
    depth: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Prepared:
    """Make the frames, calibration and split lists of one's own videos.

    Held out of training are the videos that `hold_out` names, else the last; of a single video its
    last fifth, as a drive of its own, `<video>_end`. Their targets are the validation list. The
    test list is their frames with a depth map, or, where no frame has one, the same targets. The
    lists are written again at each call; a video that was finished is kept, and one that was
    interrupted begins anew. The result does not depend on `workers`.

    Args:
        paths: videos, and folders of images; each becomes a drive.
        cameras: one file for all of them, or one for each.
        output: folder to write to; nothing is written outside of it.
        choice: what is made of each.
        hold_out: names of videos, without their endings.
        depth: folder that holds, for each video of which there is depth, a folder of its name with
            16-bit PNGs of the frames' size, metres x 256, 0 where there is none. They are called as
            the frames of a folder are, or by the number of a video's frame, from 0.
        workers: videos read at once.
        progress: called with (frames done, frames in all).

    Raises:
        FadepthError: a video, camera file or depth map is absent, damaged or does not fit; too
            little is left to train or to hold out; `output` was made with other settings or is
            being written. Videos that are finished by then are kept.
    """
    output = output.resolve()
    sources = _sources(paths, cameras, depth)
    held_out = _held_out(sources, hold_out)
    sizes = _sizes(sources, choice)
    tell = _Tell(progress, sum(_picked(source, choice) for source in sources))
    with told_when_unwritable(output), only_preparer(output):
        for source in sources:
            _write_calibration(output, source, choice, sizes[source.camera_name])

        def make(source: Source) -> tuple[list[Clip], bool] | FadepthError:
            try:
                return _made(source, choice, output, _cut(sources, choice), tell)
            except FadepthError as error:
                return error  # told at the end: a broken video stops no other

        with ThreadPoolExecutor(workers) as pool:
            pending = [pool.submit(make, source) for source in sources]
            try:
                results = [future.result() for future in pending]
            except BaseException:
                tell.stop()  # else Ctrl-C would wait for the end of long videos
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        errors = [str(result) for result in results if isinstance(result, FadepthError)]
        if errors:
            raise FadepthError(
                f"{len(errors)} of {len(sources)} videos could not be made, the others are kept "
                f"(mend these or leave them out, and start again): {'; '.join(errors)}"
                if len(sources) > 1
                else errors[0]
            )
        made = [result for result in results if not isinstance(result, FadepthError)]
        clips = [clip for found, _ in made for clip in found]
        held = [
            clip
            for source, (found, _) in zip(sources, made, strict=True)
            # Of a single video, the end.
            for clip in (found if source.name in held_out else found[1:])
        ]
        lists = _lists([clip for clip in clips if clip not in held], held)
        for split, frames in lists.items():
            write_split(output / "splits" / f"{split}_files.txt", frames)
        with_depth = {frame for clip in clips for frame in clip.listed(clip.depths)}
        depths = {split: len(with_depth & set(frames)) for split, frames in lists.items()}
        _write_prepared(output, sources, depths["test"])
    return Prepared(
        tuple(clips),
        sum(new for _, new in made),
        {split: len(frames) for split, frames in lists.items()},
        tuple(dict.fromkeys(sizes.values())),
        depths["test"],
        depths["train"],
    )


def _sources(paths: Sequence[Path], cameras: Sequence[Path], depth: Path | None) -> list[Source]:
    """The videos with their cameras, before anything is written."""
    if len(cameras) not in (1, len(paths)):
        raise FadepthError(
            f"{len(cameras)} files of --intrinsics for {len(paths)} videos: give one for all of "
            "them, or one for each, in the same order"
        )
    if depth and not depth.is_dir():
        raise FadepthError(f"--depth {depth} is no folder: it must hold a folder for each video")
    files: dict[str, Path] = {}
    sources: list[Source] = []
    for path, file in zip(paths, itertools.cycle(cameras), strict=False):
        camera, name = read_camera_file(file), _folder_name(path)
        if files.setdefault(_folder_name(file), file) != file:
            raise FadepthError(
                f"{file} and {files[_folder_name(file)]} would have one folder: give cameras "
                "different names"
            )
        if any(name == other.name for other in sources):
            raise FadepthError(f"two videos are called {name}: rename one of them")
        native, count = _looked_at(path)
        check_camera(camera, file, native, path)
        maps = depth / (path.name if path.is_dir() else path.stem) if depth else None
        found = maps if maps and maps.is_dir() else None
        sources.append(Source(path, name, camera, file, _folder_name(file), native, count, found))
    if depth and not any(source.depth for source in sources):
        wanted = ", ".join(source.name for source in sources[:3])
        raise FadepthError(
            f"{depth} holds no folder of depth maps that is called as one of the videos ({wanted})"
        )
    return sources


def _folder_name(path: Path) -> str:
    """A file's name as part of paths and of split lists, which know no spaces."""
    stem = path.resolve().name if path.is_dir() else path.stem
    return re.sub(r"[^\w.+-]", "_", stem).lstrip(".") or "video"


def _looked_at(path: Path) -> tuple[tuple[int, int], int | None]:
    """Size of a video's or folder's frames, and their number where it is known."""
    if path.is_dir():
        images = folder_images(path)
        if not images:
            raise FadepthError(f"folder {path} holds no image: expected .png or .jpg files")
        first = read_image(images[0])
        return (first.height, first.width), len(images)
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        raise FadepthError(
            f"{path} is no video by its name: expected a folder of images or one of "
            f"{', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    info = video_info(path)
    return info.size, info.frames


def _held_out(sources: Sequence[Source], names: Sequence[str]) -> set[str]:
    """Names of the videos that are held out; none where the end of the only one is."""
    known = [source.name for source in sources]
    if not names:
        return {known[-1]} if len(known) > 1 else set()
    found = {re.sub(r"[^\w.+-]", "_", name) for name in names}
    if strange := sorted(found - set(known)):
        raise FadepthError(
            f"--hold-out {strange[0]} is none of the videos: there are {', '.join(known)}"
        )
    if len(found) == len(known):
        raise FadepthError(
            "--hold-out names every video: one at least has to be trained on (of a single video "
            "the end is held out without being asked for)"
        )
    return found


def _sizes(sources: Sequence[Source], choice: Choice) -> dict[str, tuple[int, int]]:
    """(H, W) of each camera's frames."""
    sizes: dict[str, tuple[int, int]] = {}
    first: dict[str, Source] = {}
    for source in sources:
        other = first.setdefault(source.camera_name, source)
        if other.native != source.native:
            raise FadepthError(
                f"{source.path} has {source.native[1]} x {source.native[0]} pixels but {other.path}"
                f" {other.native[1]} x {other.native[0]}: one camera file cannot be for both, give "
                "each its own --intrinsics"
            )
        sizes[source.camera_name] = picture_size(source.native, choice, source.path)
    return sizes


def _picked(source: Source, choice: Choice) -> int:
    return -(-(source.count or 0) // choice.every)


def _cut(sources: Sequence[Source], choice: Choice) -> int | None:
    """Number of the picked frame from which on a single video is held out."""
    if len(sources) > 1:
        return None
    source = sources[0]
    # Matroska and transport streams do not say how many frames there are.
    count = source.count or sum(1 for _ in read_video(source.path))
    picked = -(-count // choice.every)
    return min(max(FEWEST, round(picked * (1 - HELD_OUT))), max(FEWEST, picked - FEWEST))


def _made(
    source: Source, choice: Choice, root: Path, cut: int | None, tell: _Tell
) -> tuple[list[Clip], bool]:
    """The clips of a video, and whether they were made now and not before."""
    record = root / source.camera_name / f"{source.name}.json"
    drives = [record.with_suffix("")]
    drives += [record.with_name(f"{source.name}_end")] if cut is not None else []
    made_from = _made_from(source, choice, cut)
    before = json_object(record)
    if before.get("finished") and before.get("format") == FORMAT:
        _refuse_other(record, before["made_from"], made_from)
        tell.one(_picked(source, choice))
        return [_clip(content) for content in before["clips"]], False
    for folder in drives:
        if folder.exists() and not before:
            raise FadepthError(
                f"{folder} exists and was not made by this command: choose another output folder"
            )
        shutil.rmtree(folder, ignore_errors=True)  # of an interrupted call
    content: dict[str, Any] = {"format": FORMAT, "made_from": made_from, "finished": False}
    write_atomic(record, json.dumps(content, indent=1) + "\n")
    clips = _Making(source, choice, root, cut).run(tell)
    content |= {"finished": True, "clips": [asdict(clip) for clip in clips]}
    write_atomic(record, json.dumps(content, indent=1) + "\n")
    return clips, True


def _made_from(source: Source, choice: Choice, cut: int | None) -> dict[str, Any]:
    """All that decides the frames, as JSON has it."""
    content: dict[str, Any] = {
        "video": _digest(source.path),
        "depth": _digest(source.depth) if source.depth else None,
        "camera": source.camera.model_dump(mode="json"),
        **asdict(choice),
        "second_drive_from": cut,
    }
    same: dict[str, Any] = json.loads(json.dumps(content))
    return same


def _digest(path: Path) -> str:
    """sha256 of a video; of a folder, its names and lengths in bytes, which take no time."""
    if path.is_file():
        return file_digest(path)
    names = sorted((p.name, p.stat().st_size) for p in path.iterdir() if p.is_file())
    return short_hash(json.dumps(names).encode())


def _refuse_other(record: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        key = changed[0]
        said = f"{key} was {before.get(key)}, now {now[key]}"
        raise FadepthError(
            f"{record.with_suffix('')} was made otherwise ({said[:150]}): choose another output "
            f"folder, or delete this one and {record.name} beside it"
        )


def _clip(content: Mapping[str, Any]) -> Clip:
    lists = {key: tuple(content[key]) for key in ("targets", "depths")}
    return Clip(**{**content, **lists})


def _write_calibration(root: Path, source: Source, choice: Choice, size: tuple[int, int]) -> None:
    """`calib_cam_to_cam.txt` as KITTI's: size and projection of the frames as written."""
    fx, fy, cx, cy = frame_intrinsics(source.camera.intrinsics, source.native, choice.crop, size)
    camera = Camera(*size, (fx, fy, cx, cy))
    values = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    text = f"S_rect_02: {camera.width} {camera.height}\n"
    text += f"P_rect_02: {' '.join(repr(value) for value in values)}\n"
    write_atomic(root / source.camera_name / "calib_cam_to_cam.txt", text)


def _lists(trained: Sequence[Clip], held: Sequence[Clip]) -> dict[Split, list[FrameId]]:
    """The split lists.

    Raises:
        FadepthError: nothing moves, or no held-out frame has depth although others have.
    """
    train = [frame for clip in trained for frame in clip.listed(clip.targets)]
    val = [frame for clip in held for frame in clip.listed(clip.targets)]
    for name, frames, clips in (("training", train, trained), ("held-out", val, held)):
        if not frames:
            motion = max(clip.motion for clip in clips)
            raise FadepthError(
                f"no {name} frame moves against both of its neighbours (median motion {motion:g}): "
                "raise --every, lower --still, or give videos in which the car drives"
            )
    test = [frame for clip in held for frame in clip.listed(clip.depths)]
    if not test and any(clip.depths for clip in trained):
        raise FadepthError(
            "there is depth, but for no held-out frame, and evaluation is on these: name a video "
            "that has depth with --hold-out"
        )
    return {"train": train, "val": val, "test": test or val}


def _write_prepared(output: Path, sources: Sequence[Source], test_depths: int) -> None:
    """What the data are made of; part of their identity (`fadepth.data.prepare`)."""
    made = {
        f"{source.camera_name}/{source.name}": json_object(
            output / source.camera_name / f"{source.name}.json"
        )["made_from"]
        for source in sources
    }
    content = {"format": FORMAT, "test_depths": test_depths, "videos": made}
    write_atomic(output / PREPARED, json.dumps(content, indent=1) + "\n")
