"""KITTI's published split lists: fetched, told apart by MD5, and held out by whole drives.

The lists are those of https://github.com/nianticlabs/monodepth2 (folder `splits/`); other code
carries the same bytes. They are not part of this project: the user has them, or fetches them.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fadepth.data.kitti import FrameId, read_split
from fadepth.errors import FadepthError
from fadepth.files import told_when_unwritable, write_atomic
from fadepth.paths import require_below

BASE_URL = "https://raw.githubusercontent.com/nianticlabs/monodepth2/master/splits/"
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Published:
    """One published file, known by its MD5.

    Attributes:
        name: such as `eigen/test`.
        entries: frames it lists (for the index: its numbers).
        size: bytes.
        md5: of the file as published, with LF line endings.
        path: below `splits/` of monodepth2's repository.
    """

    name: str
    entries: int
    size: int
    md5: str
    path: str

    def url(self, base_url: str = BASE_URL) -> str:
        """Where it is fetched from."""
        return base_url.rstrip("/") + "/" + self.path


EIGEN_TEST = Published(
    "eigen/test", 697, 35_547, "53d6e3dd982d33e1f80580b96b6ca40b", "eigen/test_files.txt"
)
EIGEN_BENCHMARK_TEST = Published(
    "eigen_benchmark/test",
    652,
    28_471,
    "72743fc50f99603e0adbbc2c92c20428",
    "eigen_benchmark/test_files.txt",
)
EIGEN_BENCHMARK_INDEX = Published(
    "eigen_benchmark/index",
    652,
    5_344,
    "53c89a5484e269683d89ae1cfa590b93",
    "benchmark/eigen_to_benchmark_ids.npy",
)
EIGEN_ZHOU_TRAIN = Published(
    "eigen_zhou/train",
    39_810,
    1_762_076,
    "7dab315a3a4a265fa444cfb134e9124b",
    "eigen_zhou/train_files.txt",
)
EIGEN_ZHOU_VAL = Published(
    "eigen_zhou/val",
    4_424,
    195_800,
    "5ff31eadb58699ce7d13c85f979e9ac8",
    "eigen_zhou/val_files.txt",
)
PUBLISHED = (
    EIGEN_TEST,
    EIGEN_BENCHMARK_TEST,
    EIGEN_BENCHMARK_INDEX,
    EIGEN_ZHOU_TRAIN,
    EIGEN_ZHOU_VAL,
)

#: What `fetch` writes below its folder. `eigen_zhou/` is what `data.splits` of config/kitti.yaml
#: names: Zhou's training and validation frames, tested on Eigen's 697.
LAYOUT = {
    "eigen_zhou/train_files.txt": EIGEN_ZHOU_TRAIN,
    "eigen_zhou/val_files.txt": EIGEN_ZHOU_VAL,
    "eigen_zhou/test_files.txt": EIGEN_TEST,
    "eigen/test_files.txt": EIGEN_TEST,
    "eigen_benchmark/test_files.txt": EIGEN_BENCHMARK_TEST,
    "eigen_benchmark/eigen_to_benchmark_ids.npy": EIGEN_BENCHMARK_INDEX,
}


# Reading a list


def read_frames(path: Path) -> list[FrameId]:
    """As `kitti.read_split`, for a list that anybody may have written.

    The check is not in `kitti`, whose code every training's identity holds.

    Raises:
        FadepthError: as there; or a line names a drive that is not below the data's folder.
    """
    frames = read_split(path)
    for frame in frames:
        require_below(frame.drive, path, f"frame {frame.number} {frame.side}")
    return frames


# Which list is it?


def identify(path: Path) -> Published | None:
    """Return which published file `path` is, byte for byte; None for any other.

    Raises:
        FadepthError: the file is absent or cannot be read.
    """
    md5 = _md5(_read(path))
    return next((published for published in PUBLISHED if published.md5 == md5), None)


def identify_frames(frames: Sequence[FrameId]) -> Published | None:
    """Return which published list holds exactly these frames in this order; None for any other."""
    for digits in (10, 0):  # test lists pad their numbers, training lists do not
        text = "\n".join(f"{f.drive} {f.number:0{digits}d} {f.side}" for f in frames)
        for end in ("", "\n"):
            md5 = _md5((text + end).encode())
            if found := next((one for one in PUBLISHED if one.md5 == md5), None):
                return found
    return None


def verify(path: Path, published: Published) -> None:
    """Check that `path` is the published file, byte for byte.

    Raises:
        FadepthError: it is another one; the sentence tells what was found, and whether only the
            line endings differ.
    """
    if wrong := _difference(_read(path), published):
        raise FadepthError(f"{path} {wrong}: remove it and run 'fadepth data fetch-splits'")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FadepthError(
            f"{path} does not exist: run 'fadepth data fetch-splits' or copy it from "
            "https://github.com/nianticlabs/monodepth2 (folder splits)"
        ) from None
    except OSError as error:
        raise FadepthError(f"{path} cannot be read ({error.strerror}): restore it") from None


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _difference(data: bytes, published: Published) -> str:
    """What tells the content from the published one; empty if nothing does."""
    md5 = _md5(data)
    if md5 == published.md5:
        return ""
    if published.path.endswith(".npy"):
        found, expected = f"{len(data)} bytes", f"{published.size} bytes"
    else:
        lines = sum(1 for line in data.splitlines() if line.strip())
        found, expected = f"{lines} entries", f"{published.entries}"
    text = (
        f"is not the published list {published.name} (found {found} and MD5 {md5}, "
        f"expected {expected} and {published.md5})"
    )
    if _md5(data.replace(b"\r\n", b"\n")) == published.md5:
        text += ", only its line endings were changed from LF to CRLF"
    return text


# Fetching


def fetch(folder: Path, base_url: str = BASE_URL) -> list[Path]:
    """Write the published lists below `folder` as in `LAYOUT`; return the files that were absent.

    A file that is there and right is left alone. Each is checked before it is put in place.

    Raises:
        FadepthError: a file is there and wrong, cannot be downloaded, is another one than
            published, or cannot be written. Files put in place before stay.
    """
    absent = {}
    for name, published in LAYOUT.items():
        if (folder / name).exists():
            verify(folder / name, published)
        else:
            absent[folder / name] = published
    fetched: dict[Published, bytes] = {}
    for path, published in absent.items():
        if published not in fetched:
            fetched[published] = _download(published, base_url, path)
        with told_when_unwritable(path):
            write_atomic(path, fetched[published])
    return list(absent)


def _download(published: Published, base_url: str, path: Path) -> bytes:
    """The checked content of a published file; `path` is only named in errors."""
    url = published.url(base_url)
    by_hand = f"fetch {published.url()} by hand and put it at {path}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            # One byte more than expected is enough to see that it is something else.
            data: bytes = answer.read(published.size + 1)
    except urllib.error.HTTPError as error:
        reason = f"the server answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
    else:
        if not (wrong := _difference(data, published)):
            return data
        raise FadepthError(f"what {url} gave {wrong}: {by_hand}")
    raise FadepthError(f"{url} could not be downloaded ({reason}): {by_hand}")


# Improved ground truth


def benchmark_index(path: Path) -> NDArray[np.int64]:
    """Read which of Eigen's 697 test frames have improved ground truth: (652,), increasing.

    Raises:
        FadepthError: the file is absent or damaged, or holds something else.
    """
    try:
        index = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FadepthError(
            f"{path} does not exist: run 'fadepth data fetch-splits' or copy it from "
            f"{EIGEN_BENCHMARK_INDEX.url()}"
        ) from None
    except (OSError, ValueError, EOFError):
        raise FadepthError(f"{path} is not a readable .npy file: restore it") from None
    count, below = EIGEN_BENCHMARK_INDEX.entries, EIGEN_TEST.entries
    if not isinstance(index, np.ndarray) or index.shape != (count,) or index.dtype != np.int64:
        raise FadepthError(f"{path} does not hold {count} int64 numbers: restore it")
    if index[0] < 0 or index[-1] >= below or not (np.diff(index) > 0).all():
        raise FadepthError(
            f"{path} does not hold increasing positions from 0 to {below - 1}: restore it"
        )
    return index


def check_benchmark_index(
    eigen: Sequence[FrameId], benchmark: Sequence[FrameId], index: NDArray[np.int64]
) -> None:
    """Check that the benchmark's i-th frame is Eigen's test frame `index[i]`, for all i.

    Raises:
        FadepthError: it is not; the first disagreement is named.
    """
    if len(index) != len(benchmark):
        raise FadepthError(
            f"the benchmark index has {len(index)} positions for {len(benchmark)} frames: "
            "fetch both again"
        )
    for position, (frame, at) in enumerate(zip(benchmark, index.tolist(), strict=True)):
        if not 0 <= at < len(eigen) or eigen[at] != frame:
            raise FadepthError(
                f"entry {position + 1} of the benchmark list ({frame.drive} {frame.number} "
                f"{frame.side}) is not entry {at + 1} of Eigen's test list, as the index says: "
                "fetch the lists and the index again"
            )


# Validation by whole drives


def hold_out_drives(
    train: Sequence[FrameId], val: Sequence[FrameId], share: float = 0.05
) -> tuple[list[FrameId], list[FrameId]]:
    """Split the frames of both lists anew, so that no drive is in both [derived].

    In the Eigen-Zhou lists every validation drive is a training drive, too, and validation frames
    are neighbours of training frames, so that the error there says little about new streets.

    The rule: `share` of all frames (of both lists) is the aim. Recording days take turns in order
    of date, and each holds out the longest of its drives that still fits, until none does. A drive
    fits if it does not lead beyond the aim, is no more than a third of it (so that no drive makes
    up validation alone) and is not the last one that its day has left for training (days have
    different calibrations). Of drives of the same length the first by name is taken.

    All frames of a held-out drive, from either list, become validation frames; validation frames
    of other drives are dropped, as they are neighbours of training frames.

    On the Eigen-Zhou lists (44 234 frames, 32 drives, 5 days) 5 % holds out 5 drives of 2 days:
    2011_09_26 0014, 0017, 0035 and 0091, and 2011_09_29 0004. They give 2 204 validation frames
    (4.98 %); 37 857 training frames of 27 drives remain of 39 810.

    Returns:
        Training frames in the order of `train`, and validation frames sorted.

    Raises:
        FadepthError: fewer than two drives, or drives of one day only, would be held out.
    """
    length = Counter(frame.drive for frame in (*train, *val))
    held = _choose_drives(length, share * length.total())
    days = {drive.split("/")[0] for drive in held}
    if len(held) < 2 or len(days) < 2:
        raise FadepthError(
            f"of {len(length)} drives in the lists no {share:.0%} of the frames can be held out "
            "as whole drives of more than one day: use longer lists or a larger share"
        )
    return (
        [frame for frame in train if frame.drive not in held],
        sorted({frame for frame in (*train, *val) if frame.drive in held}),
    )


def _choose_drives(length: Counter[str], aim: float) -> set[str]:
    """The drives to hold out, given the frames of each; the rule is in `hold_out_drives`."""
    left: dict[str, list[str]] = {}
    for drive in sorted(length, key=lambda drive: (-length[drive], drive)):
        left.setdefault(drive.split("/")[0], []).append(drive)
    held: set[str] = set()
    room = aim
    while True:
        before = len(held)
        for day in sorted(left):
            fitting = [drive for drive in left[day] if length[drive] <= min(aim / 3, room)]
            if fitting and len(left[day]) > 1:
                held.add(fitting[0])
                left[day].remove(fitting[0])
                room -= length[fitting[0]]
        if len(held) == before:
            return held


def write_split(path: Path, frames: Sequence[FrameId]) -> None:
    """Write a list in the published format, `<date>/<drive> <frame> l|r`, frames not zero-padded.

    Raises:
        FadepthError: the file cannot be written.
    """
    lines = [f"{frame.drive} {frame.number} {frame.side}\n" for frame in frames]
    with told_when_unwritable(path):
        write_atomic(path, "".join(lines))
