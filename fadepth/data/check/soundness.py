"""Whether a file is what it should be: by a look at its ends, or by reading all of it."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from fadepth.errors import FadepthError

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TAIL = 64


def reason_of(error: FadepthError, path: Path) -> str:
    """What an error says about `path`, without its name and what to do, which the report tells."""
    said = str(error)
    about = said.partition(str(path))[2] or said
    return (about.rpartition(": ")[0] or about).strip(" :,")


def look(path: Path) -> str | None:
    """What is wrong with a file as far as its size, start and end tell; None if nothing.

    Which ends are right depends on the suffix. JSON is read as a whole, and of other kinds only
    those that are empty are found.
    """
    try:
        size = path.stat().st_size
        if not size:
            return "is empty"
        with path.open("rb") as file:
            return _LOOKS.get(path.suffix.lower(), _anything)(file, size)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(size - _TAIL, 0))
    return file.read(_TAIL)


def _anything(file: BinaryIO, size: int) -> str | None:
    return None


def _png(file: BinaryIO, size: int) -> str | None:
    if file.read(len(_PNG_START)) != _PNG_START:
        return "is no PNG"
    return None if _tail(file, size).endswith(_PNG_END) else "is a PNG without its end: truncated"


def _jpeg(file: BinaryIO, size: int) -> str | None:
    if file.read(len(_JPEG_START)) != _JPEG_START:
        return "is no JPEG"
    # Some cameras fill up with zeros.
    whole = _tail(file, size).rstrip(b"\0").endswith(_JPEG_END)
    return None if whole else "is a JPEG without its end: truncated"


def _velodyne(file: BinaryIO, size: int) -> str | None:
    if size % 16:
        return f"has {size} bytes, no multiple of 16 (four float32 per point): truncated"
    return None


def _zip(file: BinaryIO, size: int) -> str | None:
    return None if zipfile.is_zipfile(file) else "is a zip file without its end: truncated"


def _mat(file: BinaryIO, size: int) -> str | None:
    """Matlab 5: a head of 128 bytes, then elements with their sizes (MAT-File Format)."""
    head = file.read(128)
    if not head.startswith(b"MATLAB 5.0"):
        return "is no Matlab 5 file"
    tag = struct.Struct(">II" if head[126:128] == b"MI" else "<II")
    position = len(head)
    while position < size:
        file.seek(position)
        content = file.read(tag.size)
        if len(content) < tag.size:
            break
        position += tag.size + tag.unpack(content)[1]
    return None if position == size and size > len(head) else "ends within a variable: truncated"


def _json(file: BinaryIO, size: int) -> str | None:
    try:
        json.load(file)
    except ValueError:  # no JSON, no text
        return "is not readable JSON"
    return None


_LOOKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    ".png": _png,
    ".jpg": _jpeg,
    ".bin": _velodyne,
    ".npz": _zip,
    ".mat": _mat,
    ".json": _json,
}


def decode(path: Path, kind: str, size: tuple[int, int] | None) -> str | None:
    """What is wrong with a file when all of it is read; None if nothing.

    JPEG has no checksums: bytes that changed within one mostly decode to a wrong picture.

    Args:
        path: the file.
        kind: of `fadepth.data.check.walk`, which decides upon the reader.
        size: (height, width) that an image or map must have; None if unknown.
    """
    try:
        found = _DECODERS[kind](path) if kind in _DECODERS else None
    except FadepthError as error:
        return reason_of(error, path)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if size is not None and found is not None and found != size:
        return f"is {found[1]} x {found[0]} pixels, expected {size[1]} x {size[0]}"
    return None


def _decode_image(path: Path) -> tuple[int, int]:
    from fadepth.data.kitti import read_image

    width, height = read_image(path).size
    return height, width


def _decode_scan(path: Path) -> None:
    if path.suffix == ".npz":
        from fadepth.data.ddad import read_point_cloud

        read_point_cloud(path)
    else:
        from fadepth.data.kitti import read_velodyne

        read_velodyne(path)


def _decode_depth_png(path: Path) -> tuple[int, int]:
    from fadepth.data.kitti import read_depth_png

    height, width = read_depth_png(path).shape
    return height, width


def _decode_grid(path: Path) -> None:
    from fadepth.data.make3d import read_depth

    read_depth(path)


def _decode_disparity(path: Path) -> tuple[int, int]:
    from fadepth.data.cityscapes import read_disparity

    height, width = read_disparity(path).shape
    return height, width


_DECODERS: dict[str, Callable[[Path], tuple[int, int] | None]] = {
    "images": _decode_image,
    "lidar scans": _decode_scan,
    "improved ground truth": _decode_depth_png,
    "depth grids": _decode_grid,
    "disparity maps": _decode_disparity,
}
