"""Anybody's images: in a person's order, upright, with the colours that a person sees."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fadepth.data.photos import find_photos, read_photo, short_names
from fadepth.errors import FadepthError


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)


def test_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["frame_10.png", "frame_2.JPG", "frame_1.png", "b.webp", "7.png", "12.png"]
    for name in [*names, "notes.txt", ".hidden.png", "drive.mp4"]:
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "other.png").touch()
    found = [path.name for path in find_photos(tmp_path)]
    assert found == ["7.png", "12.png", "b.webp", "frame_1.png", "frame_2.JPG", "frame_10.png"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FadepthError, match=r"holds no image .* subfolders are not searched"):
        find_photos(tmp_path)


def test_every_image_has_a_name_of_its_own() -> None:
    photos = [Path("a/street.png"), Path("a/street.jpg"), Path("a/road.v2.png")]
    assert short_names(photos) == {
        "street_png": photos[0],
        "street_jpg": photos[1],
        "road.v2": photos[2],
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_the_camera_notes(
    tmp_path: Path, picture: NDArray[np.uint8], orientation: int
) -> None:
    """The stored rows and columns, by the words of the EXIF standard, tag 274."""
    stored = {
        1: picture,  # row 0 top, column 0 left
        2: picture[:, ::-1],  # top, right
        3: picture[::-1, ::-1],  # bottom, right
        4: picture[::-1],  # bottom, left
        5: picture.transpose(1, 0, 2),  # left, top
        6: picture.transpose(1, 0, 2)[::-1],  # right, top
        7: picture[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: picture.transpose(1, 0, 2)[:, ::-1],  # left, bottom
    }
    if orientation == 6:
        # Row 0 of the file is the right side of the scene, column 0 its top.
        stored[6] = np.stack([picture[:, -1 - row] for row in range(picture.shape[1])])
    if orientation == 8:
        # Row 0 is the left side, column 0 the bottom.
        stored[8] = np.stack([picture[::-1, row] for row in range(picture.shape[1])])
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(path, exif=exif)
    assert np.array_equal(np.asarray(read_photo(path)), picture)


def test_kinds_of_pixels_become_rgb(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.png"
    grey = picture[..., 0]

    def shown(image: Image.Image) -> NDArray[np.uint8]:
        image.save(path)
        return np.asarray(read_photo(path))

    three = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(shown(Image.fromarray(grey)), three)
    assert np.array_equal(shown(Image.fromarray(grey.astype(np.uint16) * 257)), three)
    opacity = np.full((4, 6, 1), 9, np.uint8)
    assert np.array_equal(shown(Image.fromarray(np.concatenate([picture, opacity], 2))), picture)
    palette = Image.fromarray(picture).quantize(24)
    assert np.array_equal(shown(palette), picture)
    black_and_white = shown(Image.fromarray(grey > 127))
    assert np.array_equal(black_and_white[..., 0], np.where(grey > 127, 255, 0))


def test_what_is_no_image_is_refused(tmp_path: Path, picture: NDArray[np.uint8]) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(FadepthError, match=r"a\.png does not exist"):
        read_photo(path)
    path.write_text("no image")
    with pytest.raises(FadepthError, match=r"a\.png is damaged, or no image"):
        read_photo(path)
    Image.fromarray(np.tile(picture, (30, 30, 1))).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FadepthError, match=r"a\.png is damaged"):
        read_photo(path)
    numbers = tmp_path / "depth.tif"
    Image.fromarray(picture[..., 0].astype(np.float32)).save(numbers)
    with pytest.raises(FadepthError, match="numbers of 32 bits"):
        read_photo(numbers)
