"""Make3D test set, for zero-shot evaluation: photographs with a coarse grid of laser depth.

    Test134/img-<name>.jpg                     portrait, 1704 wide and 2272 high
    Gridlaserdata/depth_sph_corr-<name>.mat    `Position3DGrid` (55, 305, 4), Matlab 5 format

The folders are those of the archives Test134.tar.gz and Test134Depth.tar.gz of
http://make3d.cs.cornell.edu/data.html; the other names that are accepted are in `IMAGE_FOLDERS`
and `DEPTH_FOLDERS`. The data set's read-me counts the channels of the grid: vertical, horizontal,
projective depth z, and depth d, all in metres. Evaluations take d, `[:, :, 3]`, the distance along
the ray, though networks predict z (mrharicot in https://github.com/mrharicot/monodepth/issues/154
and https://github.com/nianticlabs/monodepth2/issues/89).

The protocol of the published rows ("C1"), from the code of monodepth2's author in
https://github.com/nianticlabs/monodepth2/issues/89:

- of the image rows 710 to 1561 (852 of 2272, a 2:1 strip), of the grid rows 17 to 37 (21 of 55);
  all columns;
- the strip is resized to the network's input. How is not said there: a maintainer in
  https://github.com/nianticlabs/monodepth2/issues/392 averages areas, nimbled
  (https://github.com/xapaxca/nimbled, `datasets/make3d/make3d_dataset.py`) uses Lanczos;
- depth, not disparity, is resized to (21, 305), to the nearest value: row i takes row
  floor(i · H / 21), as OpenCV's INTER_NEAREST does;
- cells count where 0 < g < 70; predictions are multiplied by median(g) / median(p) over these
  and then cut at 70 m, without a lower limit;
- abs_rel, sq_rel, rmse, and what tables call log10, sqrt(mean((log10 g - log10 p)²)); the mean
  over 134 images.

Evaluations such as nimbled's let Pillow load truncated images of this set; here one is an error.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fadepth.errors import FadepthError

#: Pairs in the test set (the archive's name says so); `list_frames` does not insist on it.
TEST_FRAMES = 134
#: Native sizes of image and grid, (height, width).
IMAGE_SIZE, GRID_SIZE = (2272, 1704), (55, 305)
#: Rows that evaluations keep, see the module.

#: The first of these below the root that holds test images; archives may bring their own folder.
IMAGE_FOLDERS = ("Test134", "Test134Img", "Test134/Test134", "Test134Img/Test134")
DEPTH_FOLDERS = (
    "Gridlaserdata",
    "Test134Depth",
    "Gridlaserdata/Gridlaserdata",
    "Test134Depth/Gridlaserdata",
)
IMAGE_PREFIX, DEPTH_PREFIX = "img-", "depth_sph_corr-"
DEPTH_KEY = "Position3DGrid"

#: What scipy raises on damaged `.mat` files beside its `MatReadError`, depending on the place of
#: the damage, and on files of Matlab 7.3, which are HDF5 (NotImplementedError).
DAMAGED_MAT = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    zlib.error,
)

_IMAGES_REMEDY = "unpack Test134.tar.gz of Make3D again"
_DEPTH_REMEDY = "unpack Test134Depth.tar.gz of Make3D again"


@dataclass(frozen=True)
class Make3dFrame:
    """One test image and its laser grid.

    Attributes:
        name: what both file names share, such as `10.21op2-p-015t000`.
        image: the photograph.
        depth: the `.mat` file, see `read_depth`.
    """

    name: str
    image: Path
    depth: Path


def list_frames(root: Path, list_file: Path | None = None) -> list[Make3dFrame]:
    """List the test frames in the order of the list file, without one sorted by name.

    The whole set has `TEST_FRAMES`. Any other number is accepted: a caller that reports numbers
    has to say how many images they are from.

    Args:
        root: the folder that holds one of `IMAGE_FOLDERS` and of `DEPTH_FOLDERS`.
        list_file: one frame a line, either its name (nimbled) or its image `img-<name>.jpg`
            (`make3d_test_files.txt` of monodepth2).

    Raises:
        FadepthError: there are no images or no grids, the list is absent or names no frame, or a
            frame lacks its image or its grid.
    """
    images = _find_folder(root, IMAGE_FOLDERS, f"{IMAGE_PREFIX}*.jpg", _IMAGES_REMEDY)
    depths = _find_folder(root, DEPTH_FOLDERS, f"{DEPTH_PREFIX}*.mat", _DEPTH_REMEDY)
    if list_file is None:
        files = sorted(path.name for path in images.glob(f"{IMAGE_PREFIX}*.jpg"))
    else:
        files = [line for _, line in read_lines(list_file)]
    names = [file.removeprefix(IMAGE_PREFIX).removesuffix(".jpg") for file in files]
    frames = [
        Make3dFrame(
            name,
            image=images / f"{IMAGE_PREFIX}{name}.jpg",
            depth=depths / f"{DEPTH_PREFIX}{name}.mat",
        )
        for name in names
    ]
    require_files([frame.image for frame in frames], "Make3D images", _IMAGES_REMEDY)
    require_files([frame.depth for frame in frames], "Make3D depth grids", _DEPTH_REMEDY)
    return frames


def read_depth(path: Path) -> NDArray[np.float32]:
    """Read a laser grid: (55, 305) float32 distance along the ray in metres, 0 = none.

    Raises:
        FadepthError: the file is absent, damaged or no `.mat` file, has no `Position3DGrid`, or
            one of another shape or with values that are not finite.
    """
    # Here, since all commands and Snakemake import this module, and few read such files.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        _check_streams(path.read_bytes())
        variables = loadmat(str(path), appendmat=False, variable_names=[DEPTH_KEY])
    except (FileNotFoundError, NotADirectoryError):
        raise FadepthError(f"depth grid {path} does not exist: {_DEPTH_REMEDY}") from None
    except (MatReadError, *DAMAGED_MAT):
        raise FadepthError(
            f"depth grid {path} is damaged or no Matlab 5 file: {_DEPTH_REMEDY}"
        ) from None
    if DEPTH_KEY not in variables:
        raise FadepthError(f"depth grid {path} has no variable '{DEPTH_KEY}': {_DEPTH_REMEDY}")
    grid = np.asarray(variables[DEPTH_KEY])
    if grid.shape != (*GRID_SIZE, 4) or grid.dtype.kind not in "fiu":
        raise FadepthError(
            f"depth grid {path} holds {grid.dtype} of shape {grid.shape} in '{DEPTH_KEY}', "
            f"expected numbers of shape {(*GRID_SIZE, 4)}: {_DEPTH_REMEDY}"
        )
    with np.errstate(over="ignore"):
        depth = grid[:, :, 3].astype(np.float32)
    if invalid := int((~np.isfinite(depth)).sum()):
        raise FadepthError(
            f"depth grid {path} has {invalid} of {depth.size} depths that are not finite: "
            f"{_DEPTH_REMEDY}"
        )
    return depth


def _check_streams(content: bytes) -> None:
    """Raise `zlib.error` if a compressed variable of a Matlab 5 file does not match its checksum.

    scipy looks at the checksum last, and some damaged streams make it crash before, with a
    segmentation fault that nobody can catch. Element tags: type, 15 for a compressed one, and
    number of bytes (MathWorks, MAT-File Format).
    """
    tag = struct.Struct(">II" if content[126:128] == b"MI" else "<II")
    position = 128
    while position + tag.size <= len(content):
        kind, size = tag.unpack_from(content, position)
        position += tag.size
        if kind == 15:
            zlib.decompress(content[position : position + size])
        position += size


def _find_folder(root: Path, choices: tuple[str, ...], pattern: str, remedy: str) -> Path:
    """Return the first folder with a file that fits."""
    for choice in choices:
        if any((root / choice).glob(pattern)):
            return root / choice
    raise FadepthError(f"no {pattern} in {root / choices[0]} (or {choices[1]}): {remedy}")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Read a list file: (line number from 1, text without blanks around it) of each line with text.

    Raises:
        FadepthError: the file is absent, not text, or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FadepthError(f"list of frames {path} does not exist: correct its path") from None
    except UnicodeDecodeError:
        raise FadepthError(f"list of frames {path} is not a text file: restore it") from None
    except OSError as error:
        raise FadepthError(
            f"list of frames {path} cannot be read ({error.strerror}): restore it"
        ) from None
    named = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not named:
        raise FadepthError(f"list of frames {path} names no frame: restore it")
    return named


def require_files(paths: Sequence[Path], what: str, remedy: str) -> None:
    """Do nothing if all files exist.

    Args:
        paths: files.
        what: the kind of files, plural, for the message.
        remedy: what to do.

    Raises:
        FadepthError: some are missing; names their count and the first.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FadepthError(
            f"{len(missing)} of {len(paths)} {what} missing, the first is {missing[0]}: {remedy}"
        )
