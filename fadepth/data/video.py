"""Videos: decoding to RGB frames, and writing predictions as one.

PyAV, which brings FFmpeg's libraries in its wheel, does the work. It is an optional package, the
extra `video`, and imported where it is needed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fadepth.errors import FadepthError
from fadepth.files import atomic_path

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Names of files that are taken for videos, in lower case.
VIDEO_SUFFIXES: frozenset[str] = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg",
     ".mpeg", ".wmv", ".flv"}
)  # fmt: skip

#: FFmpeg's formats behind these names. All others are refused whatever a file is called: FFmpeg
#: would also take a text for a film of its letters, and fetch what a playlist names.
_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv",
    "protocol_whitelist": "file",
}

#: A video that ends earlier than its head says, by this share and this many seconds, is truncated.
_SHORT, _SHORT_SECONDS = 0.02, 0.5


@dataclass(frozen=True)
class VideoInfo:
    """What a video's head says.

    Attributes:
        frames: how many; None where the file does not say (MKV, WebM, TS).
        rate: frames/s on average; None where the file does not say.
        size: (H, W) of the frames in display orientation, pixels.
    """

    frames: int | None
    rate: float | None
    size: tuple[int, int]


def video_info(path: Path) -> VideoInfo:
    """Number of frames, rate and size of a video, whose first frame is decoded for that.

    Raises:
        FadepthError: as `read_video`.
    """
    with _opened(path) as (container, stream):
        first = next(_decoded(path, container, stream))
        rate = stream.average_rate or stream.guessed_rate
        height, width = _upright(first).shape[:2]
        return VideoInfo(stream.frames or None, float(rate) if rate else None, (height, width))


def read_video(path: Path, every: int = 1) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video, one after the other: (H, W, 3) uint8 RGB in display orientation.

    `every` is 1 for all frames, 2 for the first, third, fifth and so on.

    A phone's note that a video is to be turned by 90, 180 or 270 degrees is followed, one that it
    is to be mirrored is not. Pixels are as stored, also where the file says that they are not
    square. Decoding takes one thread and holds one frame at a time.

    Raises:
        FadepthError: with the first frame, PyAV is not installed, or the file is absent or not a
            video; later, after all frames that could be read, the video is damaged or truncated.
    """
    with _opened(path) as (container, stream):
        for frame in islice(_decoded(path, container, stream), 0, None, every):
            yield _upright(frame)


@contextmanager
def video_writer(path: Path, rate: float) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Write frames (H, W, 3) uint8 RGB of one size as a video, H.264 in MP4.

    The file appears in one step when the block ends; where an exception ends it, an older one
    stays. Odd heights and widths are filled up by repeating the last row and column, since H.264
    halves the resolution of colours.

    Args:
        path: the file, .mp4.
        rate: frames/s.

    Yields:
        The function that takes the next frame.

    Raises:
        FadepthError: PyAV is not installed.
    """
    av = _pyav()
    exact = Fraction(rate).limit_denominator(1001)  # 30000/1001 is usual
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        # 18 of 51: next to no visible loss, https://trac.ffmpeg.org/wiki/Encode/H.264
        stream = container.add_stream("libx264", rate=exact, options={"crf": "18"})
        stream.pix_fmt = "yuv420p"
        matrix = av.video.reformatter.Colorspace.ITU709
        stream.codec_context.colorspace = matrix

        def write(picture: NDArray[np.uint8]) -> None:
            height, width = picture.shape[:2]
            if height % 2 or width % 2:
                padding = ((0, height % 2), (0, width % 2), (0, 0))
                picture = np.pad(picture, padding, mode="edge")
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode())


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise FadepthError(
            "videos are read and written by PyAV, which is not installed: pip install "
            "-e '.[video]', or use a folder of images"
        ) from None
    return av


@contextmanager
def _opened(path: Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """The file and its first stream of pictures."""
    av = _pyav()
    if not path.is_file():
        raise FadepthError(f"video {path} does not exist: name a file such as drive.mp4")
    try:
        # An absolute path: FFmpeg takes names with a colon for an address.
        container = av.open(str(path.absolute()), options=_OPTIONS)
    except (av.FFmpegError, ValueError) as error:
        raise _no_video(path, error) from None
    with container:
        if not container.streams.video:
            raise _no_video(path, None)
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        yield container, stream


def _decoded(
    path: Path, container: "InputContainer", stream: "VideoStream"
) -> "Iterator[VideoFrame]":
    av = _pyav()
    count, end = 0, 0.0
    try:
        for frame in container.decode(stream):
            yield frame
            count += 1
            end = max(end, frame.time or 0.0)
    except av.FFmpegError as error:
        raise (_damaged(path, count) if count else _no_video(path, error)) from None
    if not count:
        raise _no_video(path, None)
    if _ends_early(stream, container, count, end):
        raise _damaged(path, count)


def _ends_early(stream: "VideoStream", container: "InputContainer", count: int, end: float) -> bool:
    """Whether a video has fewer frames, or a shorter time, than its head says.

    Args:
        stream, container: the opened video.
        count: frames that came out.
        end: when the last one is shown, seconds on the video's clock.
    """
    if stream.frames:
        # Not all: players cut a video short by a list in its head, and the head counts all frames.
        missing = 1 - count / stream.frames
        rate = float(stream.average_rate or 25)
        short = missing * stream.frames / rate
    elif container.duration and not container.streams.audio:
        length = container.duration / 1e6
        short = length - (end - (container.start_time or 0) / 1e6)
        missing = short / length
    else:
        return False  # sound may well be longer than the pictures
    return missing > _SHORT and short > _SHORT_SECONDS


def _upright(frame: "VideoFrame") -> NDArray[np.uint8]:
    """(H, W, 3) RGB, turned as the file says."""
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy's
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns), dtype=np.uint8)


def _no_video(path: Path, error: BaseException | None) -> FadepthError:
    reason = getattr(error, "strerror", None) or "it holds no pictures"
    return FadepthError(
        f"{path} is no video that can be read ({reason}): expected MP4, MOV, MKV, WebM, AVI or "
        "MPEG; if it is one, it is truncated: copy it again"
    )


def _damaged(path: Path, count: int) -> FadepthError:
    return FadepthError(
        f"video {path} is damaged or truncated after {count} frames: copy it again, or go on with "
        "what could be read"
    )
