"""Videos: frames as they were filmed, upright; refusal of what is none, and of torn ones."""

import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fadepth.data.video import VIDEO_SUFFIXES, read_video, video_info, video_writer
from fadepth.errors import FadepthError

SIZE = (48, 80)


def scene(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Soft colours that move, and a white corner at the upper left."""
    noise = np.random.default_rng(number // 10).integers(40, 200, (4, 6, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)).copy()
    picture[: size[0] // 3, : size[1] // 3] = 255
    return picture


def film(path: Path, count: int = 60, codec: str = "libx264", **options: str) -> Path:
    """A video written by PyAV without our code."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(30000, 1001))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "known"),
    [
        ("a.mp4", "libx264", True),
        ("a.mov", "mpeg4", True),
        ("a.mkv", "libx264", False),
        ("a.avi", "mpeg4", True),
        ("a.webm", "libvpx-vp9", False),
    ],
)
def test_frames_are_those_that_were_filmed(
    tmp_path: Path, name: str, codec: str, known: bool
) -> None:
    path = film(tmp_path / name, 12, codec)
    info = video_info(path)
    frames = list(read_video(path))
    assert path.suffix in VIDEO_SUFFIXES
    assert (info.frames, info.size) == (12 if known else None, SIZE)
    assert info.rate == pytest.approx(30000 / 1001, rel=1e-3)
    assert len(frames) == 12
    for number, frame in enumerate(frames):
        assert frame.shape == (*SIZE, 3) and frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - scene(number)).mean() < 6  # 4:2:0, compressed


def test_every_other_frame(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 7)
    frames = list(read_video(path))
    assert np.array_equal(np.stack(list(read_video(path, every=3))), np.stack(frames[::3]))


def _turned(path: Path, matrix: tuple[int, ...]) -> None:
    """Put a matrix into the track's head (`tkhd`, QuickTime File Format)."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", content[place : place + 36])[0] == 1 << 16, "the identity so far"
    content[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "corner"),
    [
        # (x, y) is shown at (a x + c y, b x + d y), y downwards, so the corner at the upper left
        # goes with a quarter turn clockwise to the upper right, and so on.
        (0, 1, -1, 0, "upper right"),
        (-1, 0, 0, -1, "lower right"),
        (0, -1, 1, 0, "lower left"),
        (1, 0, 0, 1, "upper left"),
    ],
)
def test_upright_as_a_player_shows_it(
    tmp_path: Path, a: int, b: int, c: int, d: int, corner: str
) -> None:
    path = film(tmp_path / "phone.mp4", 2)
    one = 1 << 16
    _turned(path, (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30))
    frame = next(read_video(path)).astype(int)
    size = SIZE if a else SIZE[::-1]
    assert frame.shape[:2] == size == video_info(path).size
    rows, columns = (slice(0, 8), slice(-8, None))
    corners = {
        "upper left": frame[rows, rows],
        "upper right": frame[rows, columns],
        "lower left": frame[columns, rows],
        "lower right": frame[columns, columns],
    }
    assert max(corners, key=lambda name: corners[name].mean()) == corner


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4"])
def test_torn_video_gives_its_frames_and_then_says_so(tmp_path: Path, name: str) -> None:
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    path = film(tmp_path / name, 90, codec, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    frames: list[NDArray[np.uint8]] = []
    with pytest.raises(FadepthError, match=rf"{name} is damaged or truncated after \d+ frames"):
        frames.extend(read_video(path))  # keeps what came before the error
    assert 0 < len(frames) < 90
    for number, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - scene(number)).mean() < 6


def test_without_its_index_an_mp4_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", 20)  # the index is at the end
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(FadepthError, match=r"a\.mp4 is no video .* truncated"):
        next(read_video(path))


def _text(path: Path) -> None:
    path.write_text("a film of its letters\n" * 100)


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _picture(path: Path) -> None:
    Image.fromarray(scene(0)).save(path, format="PNG")


def _playlist(path: Path) -> None:
    film(path.with_name("other.ts"), 5)
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.ts\n#EXT-X-ENDLIST\n")


def _sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize("content", [_text, _nothing, _picture, _playlist, _sound])
def test_what_is_no_video_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "film.mp4"
    content(path)
    for look in (video_info, lambda path: next(read_video(path))):
        with pytest.raises(FadepthError, match=r"film\.mp4 is no video that can be read"):
            look(path)


def test_absent_file_and_absent_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FadepthError, match=r"video .*none\.mp4 does not exist"):
        video_info(tmp_path / "none.mp4")
    path = film(tmp_path / "a.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(FadepthError, match=r"pip install -e '\.\[video\]'"):
        next(read_video(path))


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mp4", 3).rename(tmp_path / "concat:b.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(read_video(Path("concat:b.mp4")))) == 3


# Writing


@pytest.mark.parametrize("size", [SIZE, (49, 81)])
def test_written_frames_are_read_back(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.mp4"
    with video_writer(path, 29.97) as write:
        for number in range(0, 40, 5):
            write(scene(number, size))
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(str(path)) as container:  # another reader than the package's
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == Fraction(2997, 100)
    assert len(frames) == 8
    for number, frame in zip(range(0, 40, 5), frames, strict=True):
        shown = frame[: size[0], : size[1]].astype(int)
        assert np.abs(shown - scene(number, size)).mean() < 5


def test_nothing_is_left_of_a_video_that_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")

    def interrupted() -> None:
        with video_writer(path, 25) as write:
            write(scene(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {file.name for file in tmp_path.iterdir()} == {"out.mp4"}
    assert path.read_bytes() == b"older"
