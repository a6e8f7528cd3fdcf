"""Where the archives of each data set are, and where to unpack them.

Sizes are told where a source gives them. None of the data are part of this project; each set has
terms of its own.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: KITTI's own store. Raw drives and calibration: `splits/kitti_archives_to_download.txt` of
#: https://github.com/nianticlabs/monodepth2; improved ground truth: `prepare_kitti_data.sh` of
#: https://github.com/mattpoggi/mono-uncertainty; odometry: `data/data_prep.sh` of
#: https://github.com/ybkurt/VIFT (poses, color) and `scripts/download_datasets.sh` of
#: https://github.com/mrpossoms/visual-odometry (calib).
KITTI_STORE = "https://s3.eu-central-1.amazonaws.com/avg-kitti"

#: https://github.com/TRI-ML/DDAD, `README.md`; size and MD5 are told there, too.
DDAD_TAR = "https://tri-ml-public.s3.amazonaws.com/github/DDAD/datasets/DDAD.tar"

#: `matlab/evaluateMake3D.m` of https://github.com/irolaina/FCRN-DepthPrediction, with the sizes and
#: the folder Gridlaserdata that the second archive unpacks to.
MAKE3D_STORE = "http://www.cs.cornell.edu/~asaxena/learningdepth"

#: The page and the archives' names: `README.md` of
#: https://github.com/sakaridis/fog_simulation-SFSU_synthetic; that it needs a login:
#: `tensorflow_datasets/image/cityscapes.py` of https://github.com/tensorflow/datasets.
CITYSCAPES_PAGE = "https://www.cityscapes-dataset.com/downloads/"

_DRIVE = re.compile(r"(?P<date>\d{4}_\d{2}_\d{2})/(?P<name>(?P=date)_drive_\d{4})_sync")
_DATE = re.compile(r"\d{4}_\d{2}_\d{2}")


@dataclass(frozen=True, order=True)
class Archive:
    """One archive to download.

    Attributes:
        url: of the file; for `login` of the page that leads to it.
        folder: where to unpack it.
        name: of the file.
        note: what else has to be known or done; empty if nothing.
        login: whether a person has to log in, so that no tool can fetch it.
    """

    url: str
    folder: str
    name: str
    note: str = ""
    login: bool = False


def _archive(url: str, folder: Path, note: str = "") -> Archive:
    return Archive(url, str(folder), url.rsplit("/", 1)[1], note)


def kitti_drive(root: Path, drive: str) -> Archive | None:
    """Images and scans of `<date>/<drive>_sync`; None if KITTI names no drive like that."""
    match = _DRIVE.fullmatch(drive)
    if match is None:
        return None
    return _archive(f"{KITTI_STORE}/raw_data/{match['name']}/{match['name']}_sync.zip", root)


def kitti_calibration(root: Path, date: str) -> Archive | None:
    """Calibration of a recording day; None if KITTI names no day like that."""
    if not _DATE.fullmatch(date):
        return None
    return _archive(f"{KITTI_STORE}/raw_data/{date}_calib.zip", root)


def kitti_improved(root: Path) -> Archive:
    """The improved ground truth of all drives, which has to be merged into them by hand."""
    note = (
        "it holds train/ and val/ with <drive>/proj_depth/, which belong into <date>/<drive>/; "
        f"in bash, where it was unpacked: {merge_command(root)}"
    )
    return _archive(f"{KITTI_STORE}/data_depth_annotated.zip", root, note)


def merge_command(root: Path) -> str:
    """A line for bash that moves the unpacked improved ground truth to where the readers look."""
    target = f'{shlex.quote(str(root.resolve()))}/"${{n:0:10}}/$n"'
    return (
        'for d in {train,val}/*_sync; do n="${d##*/}"; [ ! -d "$d/proj_depth" ] || '
        f'{{ mkdir -p {target} && mv -n "$d/proj_depth" {target}/; }}; done'
    )


def kitti_odometry(root: Path, part: Literal["poses", "calib", "color"]) -> Archive:
    """One archive of KITTI odometry; each unpacks to a folder `dataset/`.

    The folder: `modules/datasets/doc/slam_kitti.rst` of https://github.com/opencv/opencv_contrib.
    The size: `README.md` of https://github.com/nianticlabs/monodepth2.
    """
    notes = ["65 GB"] if part == "color" else []
    folder = root.resolve()
    if folder.name == "dataset":
        folder = folder.parent
    else:
        notes.append("it unpacks to dataset/, which is then the --root")
    return _archive(f"{KITTI_STORE}/data_odometry_{part}.zip", folder, "; ".join(notes))


def ddad(root: Path) -> Archive:
    """All of DDAD that has public ground truth."""
    note = "257 GB, MD5 c0da97967f76da80f86d6f97d0d98904; ddad.json has to lie in the folder"
    return _archive(DDAD_TAR, root, note)


def make3d_images(root: Path) -> Archive:
    """The 134 test photographs."""
    return _archive(f"{MAKE3D_STORE}/Test134.tar.gz", root, "about 190 MB; gives Test134/")


def make3d_depth(root: Path) -> Archive:
    """The laser grids of the test photographs."""
    note = "about 22 MB; gives Gridlaserdata/"
    return _archive(f"{MAKE3D_STORE}/Test134Depth.tar.gz", root, note)


def cityscapes(root: Path, kind: str) -> Archive:
    """`kind` is `leftImg8bit`, `disparity` or `camera`; with all of train, val and test."""
    name = f"{kind}_trainvaltest.zip"
    return Archive(CITYSCAPES_PAGE, str(root), name, "needs a login", login=True)
