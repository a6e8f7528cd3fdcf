"""Images of any origin: found in a folder, and decoded as a person sees them."""

import re
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fadepth.data.kitti import DAMAGED_IMAGE
from fadepth.errors import FadepthError

#: Names of files that are taken for images, in lower case.
PHOTO_SUFFIXES: frozenset[str] = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)

#: Pillow's modes that hold numbers rather than colours: depth maps and the like.
_NUMBERS = ("I", "F")


def find_photos(folder: Path) -> list[Path]:
    """The images of a folder without its subfolders, `frame_2` before `frame_10`.

    Raises:
        FadepthError: there is none.
    """
    photos = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
    ]
    if not photos:
        raise FadepthError(
            f"{folder} holds no image ({', '.join(sorted(PHOTO_SUFFIXES))}): name a folder that "
            "does; subfolders are not searched"
        )
    return sorted(photos, key=_natural)


def _natural(path: Path) -> tuple[list[int | str], str]:
    # Words and numbers alternate, so that like is compared with like.
    words = re.split(r"(\d+)", path.name.casefold())
    return [int(word) if word.isdecimal() else word for word in words], path.name


def short_names(photos: Iterable[Path]) -> dict[str, Path]:
    """A name of its own for each image: without ending, or `street_png` where two share that."""
    photos = list(photos)
    count = Counter(path.stem for path in photos)
    return {
        path.stem if count[path.stem] == 1 else path.name.replace(".", "_"): path for path in photos
    }


def read_photo(path: Path) -> Image.Image:
    """An image as a person sees it: RGB of 8 bits, turned as the camera notes (EXIF).

    Grey and palette images become RGB, transparency is dropped, of 16 bits the upper 8 are used, of
    several pages the first.

    Raises:
        FadepthError: the file is absent, damaged, no image, or holds numbers of 32 bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode in _NUMBERS:
                raise FadepthError(
                    f"image {path} holds numbers of 32 bits, not colours: save it with 8 or 16 "
                    "bits a channel"
                )
            image.load()
            return _rgb(_turned(image))
    except FileNotFoundError:
        raise FadepthError(f"image {path} does not exist: check the name") from None
    except Image.DecompressionBombError:
        raise FadepthError(f"image {path} is too large to be decoded: make it smaller") from None
    except DAMAGED_IMAGE as error:
        reason = getattr(error, "strerror", None)  # the system's, such as a lack of rights
        told = f" ({reason})" if reason else ""
        raise FadepthError(
            f"{path} is damaged, or no image that can be read{told}: expected PNG, JPEG, TIFF, BMP "
            "or WebP"
        ) from None


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (*DAMAGED_IMAGE, struct.error, TypeError, KeyError, ZeroDivisionError):
        return image  # the note is damaged, the image is not


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow itself would cut all values above 255.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
