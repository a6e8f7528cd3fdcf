"""What `fadepth predict` does: depth of anybody's images and videos, by a trained network.

Images are squeezed to the size of the training, whatever their proportions, as in evaluations, and
the inverse depth that comes out is stretched back to the image's size.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fadepth.data.kitti import resize_image
from fadepth.data.manifest import evenly_spread
from fadepth.data.parallel import in_order
from fadepth.data.photos import find_photos, read_photo, short_names
from fadepth.data.video import VideoInfo, read_video, video_info, video_writer
from fadepth.depth_files import (
    disparity_picture,
    npy_bytes,
    png_bytes,
    png_values,
    point_cloud,
)
from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import batch_for, resize_map, to_input
from fadepth.execution.prediction_record import RECORD, Colours, Record, Wish
from fadepth.execution.trained import Trained
from fadepth.files import write_atomic
from fadepth.survival import sole_writer

log = logging.getLogger(__name__)

#: Ends of the colours are found on so many images of a folder or frames of a video.
_SAMPLED = 16
#: In a video that does not tell its length: every so many frames of its beginning.
_EVERY = 30
#: Rate of a video that does not tell its own, frames/s.
_RATE = 25.0
#: Proportions that differ from the training's by more than this factor are told.
_SQUEEZE = 1.6


@dataclass
class Summary:
    """What came of it.

    Attributes:
        output: the folder.
        run, label: of the network.
        is_video: whether the source was one.
        images: predicted now, or frames.
        skipped: that were there already.
        video: that was written; None where none was.
        unreadable: one sentence for each input that could not be read, or not to its end.
        without_value: share of pixels that do not go into the depth PNG.
    """

    output: Path
    run: str
    label: str
    is_video: bool = False
    images: int = 0
    skipped: int = 0
    video: Path | None = None
    unreadable: list[str] = field(default_factory=list)
    without_value: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        video = str(self.video) if self.video else None
        record = str(self.output / RECORD)
        return {**vars(self), "output": str(self.output), "video": video, "record": record}


class Shot(NamedTuple):
    """An image that was read.

    `pixels` are (H, W, 3) uint8 RGB, `small` the same at the network's size, (3, h, w).
    """

    name: str
    pixels: NDArray[np.uint8]
    small: NDArray[np.uint8]


#: A shot and its inverse depth (h, w), 1/metres up to scale.
Predicted = tuple[Shot, NDArray[np.float64]]
#: Called with (done, in all or None).
Progress = Callable[[int, int | None], None]


def predict(wish: Wish, trained: Trained, progress: Progress | None = None) -> Summary:
    """Predict the depth of images or of a video, and write it.

    What is there already, newer than its input and made with the same settings, is left as it is:
    an interrupted call goes on. Files appear whole or not at all.

    Args:
        wish: what, and where to.
        trained: the network.
        progress: called with (done, in all or None).

    Raises:
        FadepthError: the source is absent, no image or video, or a folder without images; the size
            does not suit the network; or files in the output folder are of other inputs or
            settings.
    """
    work = _Work(wish, trained)
    with sole_writer(wish.output):
        return work.run(progress or (lambda done, total: None))


class _Work:
    """One call: its network, its plan, and what has come of it so far."""

    def __init__(self, wish: Wish, trained: Trained) -> None:
        self.wish, self.trained = wish, trained
        self.size = _fitting_size(wish, trained)
        self._told = False
        self.summary = Summary(wish.output, trained.name, trained.label, wish.is_video)
        self.info: VideoInfo | None = None
        self.photos: dict[str, Path] = {}
        if wish.is_video:
            self.info = video_info(wish.source)
        elif wish.source.is_dir():
            self.photos = short_names(find_photos(wish.source))
        else:
            self.photos = short_names([wish.source])
            read_photo(wish.source)  # the only one: nothing is begun if it cannot be read
        if wish.output.resolve() == wish.source.resolve():
            raise FadepthError(
                f"{wish.output} holds the images themselves: choose another folder by --output"
            )
        count = self.info.frames if self.info else len(self.photos)
        # Of one size, so that a result does not depend on how many images are left to do.
        most = batch_for(self.size) if "batch" in trained.free else 1
        self.batch = most if count is None else min(most, count)

    def run(self, progress: Progress) -> Summary:
        """Do it all."""
        wish, summary = self.wish, self.summary
        record = Record(wish, self.trained, self.size)
        record.claim(self.photos)
        colours = record.colours() or self._colours()
        record.begin(colours)
        video = self._video_to_write()
        if self.info and not video and not wish.files(""):
            return self._all_there(record)
        shots = self._frames(whole=video is not None) if self.info else self._images()
        total = self.info.frames if self.info else len(self.photos)
        finished = partial(self._finished, colours=colours or (0, 1), draw=video is not None)
        pixels = unfit = 0
        with ExitStack() as stack:
            rate = (self.info.rate if self.info else None) or _RATE
            write = stack.enter_context(video_writer(video, rate)) if video else None
            for picture, all_pixels, lost in in_order(
                self._predicted(shots), finished, wish.threads
            ):
                if write and picture is not None:
                    write(picture)
                summary.images += 1
                pixels, unfit = pixels + all_pixels, unfit + lost
                progress(summary.images + summary.skipped + len(summary.unreadable), total)
        summary.video = video
        summary.without_value = unfit / max(pixels, 1)
        record.end(summary.unreadable)
        return summary

    def _all_there(self, record: Record) -> Summary:
        """A video that was made earlier, and nothing else is wanted."""
        self.summary.skipped = (self.info.frames if self.info else None) or 0
        self.summary.unreadable = record.unreadable()
        record.end(self.summary.unreadable)
        return self.summary

    # Reading

    def _images(self) -> Iterator[Shot]:
        """Images that are to be predicted; those that cannot be read are told."""
        todo = []
        for name, path in self.photos.items():
            if self._is_there(self.wish.files(name), path):
                self.summary.skipped += 1
            else:
                todo.append((name, path))
        for shot in in_order(todo, self._read, self.wish.threads):
            if isinstance(shot, Shot):
                yield shot
            else:
                self.summary.unreadable.append(str(shot))

    def _read(self, job: tuple[str, Path]) -> Shot | FadepthError:
        name, path = job
        try:
            return self._shot(name, read_photo(path))
        except FadepthError as error:
            return error

    def _shot(self, name: str, image: Image.Image) -> Shot:
        return Shot(name, np.asarray(image), resize_image(image, *self.size))

    def _frames(self, *, whole: bool) -> Iterator[Shot]:
        """Frames of the video, all of them or those that are missing; a torn end is told."""
        stem = self.wish.source.stem
        try:
            for number, pixels in enumerate(read_video(self.wish.source)):
                name = f"{stem}_{number:06d}"
                if not whole and self._is_there(self.wish.files(name), self.wish.source):
                    self.summary.skipped += 1
                else:
                    yield self._shot(name, Image.fromarray(pixels))
        except FadepthError as error:
            # The first frame could be read when the work began, so some frames have come out.
            self.summary.unreadable.append(str(error))

    def _is_there(self, files: Sequence[Path], source: Path) -> bool:
        """Whether all files are there, none older than its source."""
        if self.wish.overwrite:
            return False
        try:
            changed = source.stat().st_mtime
            return all(file.stat().st_mtime >= changed for file in files)
        except OSError:
            return False

    def _video_to_write(self) -> Path | None:
        video = self.wish.video
        return None if video is None or self._is_there([video], self.wish.source) else video

    # Predicting

    def _predicted(self, shots: Iterable[Shot]) -> Iterator[Predicted]:
        shots = iter(shots)
        while batch := list(islice(shots, self.batch)):
            self._tell_squeezed(batch[0])
            filled = [*batch, *[batch[-1]] * (self.batch - len(batch))]
            inverse = self.trained.predict(to_input([shot.small for shot in filled]))
            maps = inverse[:, 0].double().cpu().numpy()
            yield from zip(batch, maps[: len(batch)], strict=True)

    def _tell_squeezed(self, shot: Shot) -> None:
        """Say once if images have other proportions than those of the training."""
        height, width = shot.pixels.shape[:2]
        factor = (width / height) / (self.size[1] / self.size[0])
        if not self._told and max(factor, 1 / factor) > _SQUEEZE:
            self._told = True
            log.warning(
                "images of %dx%d are squeezed to %dx%d, other proportions than in the training: "
                "expect less, or cut them to about %.1f:1, or try --size",
                height, width, *self.size, self.trained.size[1] / self.trained.size[0],
            )  # fmt: skip

    def _colours(self) -> Colours | None:
        """Ends of the colours, the same for all images of the call, 1/metres up to scale.

        Of 16 images spread over the whole, the 1st and 99th percentile; of these, so that an odd
        image has no say, the 10th and 90th [derived].
        """
        if not {"disparity", "video"} & self.wish.save:
            return None
        maps = [values for _, values in self._predicted(self._sample())]
        if not maps:
            return None  # all that was looked at is unreadable
        ends = np.percentile(np.stack(maps), (1, 99), axis=(1, 2))
        return float(np.percentile(ends[0], 10)), float(np.percentile(ends[1], 90))

    def _sample(self) -> Iterator[Shot]:
        if self.info is None:
            for job in evenly_spread(list(self.photos.items()), _SAMPLED):
                if isinstance(shot := self._read(job), Shot):
                    yield shot
            return
        every = math.ceil(self.info.frames / _SAMPLED) if self.info.frames else _EVERY
        frames = islice(read_video(self.wish.source, every), _SAMPLED)
        try:
            for pixels in frames:
                yield self._shot("", Image.fromarray(pixels))
        except FadepthError:
            return  # told when the frames themselves are read

    # Writing

    def _finished(
        self, predicted: Predicted, colours: Colours, draw: bool
    ) -> tuple[NDArray[np.uint8] | None, int, int]:
        """Write all files of one image.

        Returns:
            the video's frame where one is drawn, the pixels, and how many of them have no value in
            the depth PNG.
        """
        shot, small = predicted
        wish = self.wish
        height, width = shot.pixels.shape[:2]
        inverse = resize_map(small, height, width)
        depth = wish.factor / inverse
        lost = 0
        drawn = disparity_picture(inverse, *colours) if draw or "disparity" in wish.save else None
        for file in wish.files(shot.name):
            if file.name.endswith("_disparity.png"):
                assert drawn is not None
                write_atomic(file, png_bytes(drawn))
            elif file.suffix == ".png":
                values = png_values(depth)
                lost = int((values == 0).sum())
                write_atomic(file, png_bytes(values))
            elif file.suffix == ".npy":
                write_atomic(file, npy_bytes(depth))
            else:
                assert wish.intrinsics
                write_atomic(file, point_cloud(depth, shot.pixels, wish.intrinsics))
        if not draw or drawn is None:
            return None, depth.size, lost
        # One above the other on a street, beside each other where a phone stood upright.
        return np.concatenate([shot.pixels, drawn], axis=int(height > width)), depth.size, lost


def _fitting_size(wish: Wish, trained: Trained) -> tuple[int, int]:
    size = wish.size or trained.size
    if size != trained.size and "height" not in trained.free:
        raise FadepthError(
            f"{trained.name} takes images of {trained.size[0]}x{trained.size[1]} only: leave out "
            "--size, or give --run a run or its model.pt"
        )
    return size
