"""Cityscapes, for zero-shot evaluation: images, precomputed stereo disparity, calibration.

    leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_leftImg8bit.png    1024 x 2048
    disparity/<split>/<city>/<city>_<seq>_<frame>_disparity.png        16 bit, same size
    camera/<split>/<city>/<city>_<seq>_<frame>_camera.json

The layout and the coding of disparity are those of the read-me of
https://github.com/mcordts/cityscapesScripts. Each archive may also lie in a folder of its own name,
as in `camera_trainvaltest/camera/` (ManyDepth). Depth is that of semi-global matching, with its
gaps and errors, not of a laser.

The protocol of the published rows, from https://github.com/nianticlabs/manydepth
(`manydepth/evaluate_depth.py`, `manydepth/datasets/cityscapes_evaldataset.py`):

- the 1,525 images of the test split, listed in `splits/cityscapes/test_files.txt`;
- of the image the upper three quarters (rows 0 to 767: the rest shows the car's bonnet), resized
  with the Lanczos filter to the network's input, 512 x 192 there;
- ground truth is "converted from pixel disparities using intrinsics and the known baseline" (its
  read-me) and published as `gt_depths/<number>_depth.npy`, numbered from 000 in the list's order;
- disparity is resized to 768 x 2048 (bilinear, half-pixel centres, as `cv2.resize`), then inverted;
- rows 256 to 767 and columns 192 to 1855 count, where 0.001 < g < 80; predictions are multiplied
  by median(g) / median(p) over these pixels and clamped to [0.001, 80];
- the seven metrics of KITTI, the mean over images.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fadepth.data.kitti import Intrinsics, read_png16
from fadepth.data.make3d import read_lines, require_files
from fadepth.errors import FadepthError

#: Images with calibration and disparity, by split (the read-me of cityscapesScripts).
SPLIT_FRAMES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
#: Native size, (height, width).
IMAGE_SIZE = (1024, 2048)

_NAME = re.compile(r"(?P<city>[^\W_][^_\s/\\]*)_\d{6}_\d{6}")


@dataclass(frozen=True)
class CityscapesFrame:
    """One image with its disparity and calibration.

    Attributes:
        name: `<city>_<seq>_<frame>`.
        city: the folder it lies in.
        image: the left image.
        disparity: see `read_disparity`.
        camera: see `read_camera`.
    """

    name: str
    city: str
    image: Path
    disparity: Path
    camera: Path


@dataclass(frozen=True)
class CityscapesCamera:
    """Calibration of one image.

    Attributes:
        intrinsics: (fx, fy, cx, cy) in pixels at native size, taken as belonging to integer pixel
            centres [derived]: the read-me does not say which it means.
        baseline: distance of the two cameras in metres.
    """

    intrinsics: Intrinsics
    baseline: float


def list_frames(
    root: Path, split: str = "test", list_file: Path | None = None
) -> list[CityscapesFrame]:
    """List the frames of a split in the order of the list file, without one sorted by name.

    Without a list, an image or a disparity map that has no partner is an error: an archive was not
    unpacked to its end, and the frame would go missing without a word.

    Args:
        root: the folder that holds `leftImg8bit`, `disparity` and `camera`.
        split: `train`, `val`, `test` or `train_extra`.
        list_file: one frame a line, `<city>_<seq>_<frame>`, with or without the city and a blank
            before it (ManyDepth).

    Raises:
        FadepthError: there are no images, a line of the list is not a frame, or frames lack their
            image, disparity or calibration.
    """
    images, disparities, cameras = (
        _find_folder(root, kind, split) for kind in ("leftImg8bit", "disparity", "camera")
    )
    if list_file is None:
        names = sorted(_image_names(images) | _names(disparities, "_disparity.png"))
    else:
        names = _read_list(list_file)
    frames = []
    for name in names:
        city = name.split("_")[0]
        frames.append(
            CityscapesFrame(
                name,
                city,
                image=images / city / f"{name}_leftImg8bit.png",
                disparity=disparities / city / f"{name}_disparity.png",
                camera=cameras / city / f"{name}_camera.json",
            )
        )
    for paths, what, kind in (
        ([frame.image for frame in frames], "images", "leftImg8bit"),
        ([frame.disparity for frame in frames], "disparity maps", "disparity"),
        ([frame.camera for frame in frames], "camera files", "camera"),
    ):
        remedy = f"unpack {_archive(kind, split)}.zip of Cityscapes again"
        require_files(paths, f"Cityscapes {what} of split {split}", remedy)
    return frames


def _archive(kind: str, split: str) -> str:
    return f"{kind}_trainextra" if split == "train_extra" else f"{kind}_trainvaltest"


def _find_folder(root: Path, kind: str, split: str) -> Path:
    """Return the folder of a split's files, whether or not the archive has a folder of its own."""
    plain, own = root / kind / split, root / _archive(kind, split) / kind / split
    return own if own.is_dir() and not plain.is_dir() else plain


def _names(folder: Path, suffix: str) -> set[str]:
    """Return the names of the frames in a split's folder; other files are passed over."""
    names = set()
    for path in folder.glob(f"*/*{suffix}"):
        name = path.name.removesuffix(suffix)
        match = _NAME.fullmatch(name)
        if match and match["city"] == path.parent.name:
            names.add(name)
    return names


def _image_names(images: Path) -> set[str]:
    suffix = "_leftImg8bit.png"
    names = _names(images, suffix)
    if not names:
        raise FadepthError(
            f"no <city>/<city>_<seq>_<frame>{suffix} in {images}: unpack "
            f"{_archive('leftImg8bit', images.name)}.zip of Cityscapes and name the folder "
            "that holds leftImg8bit"
        )
    return names


def _read_list(path: Path) -> list[str]:
    names = []
    for number, line in read_lines(path):
        *city, name = line.split()
        match = _NAME.fullmatch(name)
        if match is None or city not in ([], [match["city"]]):
            raise FadepthError(
                f"{path}, line {number}: found '{line[:80]}', expected '<city>_<seq>_<frame>' or "
                "'<city> <city>_<seq>_<frame>'; correct or remove the line"
            )
        names.append(name)
    return names


def read_camera(path: Path) -> CityscapesCamera:
    """Read a camera file: `intrinsic` fx, fy, u0, v0 in pixels, `extrinsic` baseline in metres.

    Raises:
        FadepthError: the file is absent, no JSON, or gives no usable number for one of the five.
    """
    remedy = "unpack its archive of Cityscapes (camera_trainvaltest.zip) again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FadepthError(f"camera file {path} does not exist: {remedy}") from None
    except ValueError:  # no JSON, no text
        raise FadepthError(f"camera file {path} is not readable JSON: {remedy}") from None
    except OSError as error:
        raise FadepthError(
            f"camera file {path} cannot be read ({error.strerror}): {remedy}"
        ) from None

    def number(group: str, key: str, positive: bool = True) -> float:
        value = _entry(content, group, key)
        if value is None:
            raise FadepthError(f"camera file {path} gives no number '{group}.{key}': {remedy}")
        if not math.isfinite(value) or (positive and value <= 0):
            kind = "positive" if positive else "finite"
            raise FadepthError(
                f"camera file {path} gives {value} for '{group}.{key}', expected a {kind} number: "
                f"{remedy}"
            )
        return value

    fx, fy = number("intrinsic", "fx"), number("intrinsic", "fy")
    cx, cy = number("intrinsic", "u0", positive=False), number("intrinsic", "v0", positive=False)
    return CityscapesCamera((fx, fy, cx, cy), number("extrinsic", "baseline"))


def _entry(content: Any, group: str, key: str) -> float | None:
    """Return the number at `group.key`, None if there is none."""
    try:
        value = content[group][key]
        return float(value) if type(value) in (int, float) else None
    except (KeyError, TypeError, IndexError, OverflowError):
        return None


def read_disparity(path: Path) -> NDArray[np.float32]:
    """Read a disparity map: (H, W) float32 in pixels of the native image, 0 = none.

    A value p > 0 of the file means (p - 1) / 256 and 0 an invalid measurement (read-me of
    https://github.com/mcordts/cityscapesScripts). p = 1, no disparity at all, has no depth and
    counts as none too [derived].

    Raises:
        FadepthError: the file is absent, damaged or not a 16-bit grey PNG.
    """
    remedy = "unpack its archive of Cityscapes (disparity_trainvaltest.zip) again"
    values = read_png16(path, "disparity map", remedy)
    return np.maximum((values.astype(np.float32) - 1) / 256, 0)


def read_depth(disparity_path: Path, camera_path: Path) -> NDArray[np.float32]:
    """Compute depth from disparity and calibration: (H, W) float32 metres along z, 0 = none.

    depth = baseline · fx / disparity (an author of ManyDepth in
    https://github.com/nianticlabs/manydepth/issues/69). The least disparity, 1/256 pixel, makes
    more than 100 km: values have to be capped, as the protocol does.

    Raises:
        FadepthError: one of the files is absent or damaged.
    """
    camera = read_camera(camera_path)
    disparity = read_disparity(disparity_path)
    depth = np.zeros_like(disparity)
    np.divide(camera.baseline * camera.intrinsics[0], disparity, out=depth, where=disparity > 0)
    return depth
