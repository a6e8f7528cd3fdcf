"""Decoded, resized training images in one file, made once and shared by every training.

`images-<H>x<W>.npy` beside the manifest is uint8 (N, 3, H, W): one row for each image that the
training frames name (targets and neighbours), sorted by path. `images-<H>x<W>.json` (the label)
holds the path, the source file's sha256 and the row's own sha256 of every row, and the state in
which the file had them (`fadepth.filestate`). Rows are the very bytes that `read_image` and
`resize_image` give, so a training with the cache is one without it.

While a cache is made it lies in `.images-<H>x<W>.npy.partial`, with a journal of the rows that are
done. A process that was killed goes on from there, and rows of an earlier cache whose source is the
same are copied. A row is taken over only if its bytes have the sha256 that was noted.

Rows are written by `pwrite`: on a full disk it fails with an error, a memory map with a signal.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray

from fadepth.config import DataSettings
from fadepth.data.kitti import read_image, resize_image
from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.files import readable_bytes, write_atomic
from fadepth.filestate import FileState, only_one
from fadepth.fingerprint import code_fingerprint

log = logging.getLogger(__name__)

#: Raise it when the same images would give other bytes.
FORMAT = 1
#: Other versions may decode or round differently; then rows would differ from uncached images.
RESIZE = f"Pillow {PIL.__version__} LANCZOS"
#: Rows that are handed to the threads at once: bounds memory, whatever the number of images.
_CHUNK = 256
#: Seconds between two lines of progress.
_TELL_EVERY = 5.0
_ROOM_FOR_LABEL = 512  # bytes a row, in label and journal


@dataclass(frozen=True)
class CacheKey:
    """What a cache has to hold; one with another key is foreign.

    Attributes:
        height, width: size of the images, pixels.
        resize: how they were made.
        sources: path relative to the data root -> sha256 of that file, in the order of the rows.
    """

    height: int
    width: int
    resize: str
    sources: dict[str, str]

    @classmethod
    def of(cls, manifest: Manifest, settings: DataSettings) -> "CacheKey":
        """All images behind a manifest's training frames, at the size of the settings."""
        frames = manifest.splits["train"]
        paths = {path for f in frames for path in (f.image, *f.neighbours.values())}
        sources = {path: manifest.files[path] for path in sorted(paths)}
        # The functions that make the pixels are in kitti.py.
        resize = f"{RESIZE}, {code_fingerprint(('data/kitti.py',))}"
        return cls(settings.height, settings.width, resize, sources)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, 3, H, W)."""
        return len(self.sources), 3, self.height, self.width

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return 3 * self.height * self.width

    @cached_property
    def digest(self) -> str:
        """sha256 over all of it."""
        return hashlib.sha256(json.dumps([FORMAT, asdict(self)]).encode()).hexdigest()

    def path_beside(self, manifest: Path) -> Path:
        """Where the cache of a manifest lies."""
        return manifest.with_name(f"images-{self.height}x{self.width}.npy")


@dataclass(frozen=True)
class _Label:
    """Content of the label: the key, the sha256 of every row, and the file's state with them."""

    key: CacheKey
    rows: tuple[str, ...]
    state: FileState

    @staticmethod
    def path_of(cache: Path) -> Path:
        return cache.with_suffix(".json")

    @classmethod
    def read(cls, cache: Path) -> "_Label | None":
        """The label of a cache; None where there is none or it is damaged."""
        try:
            content = json.loads(cls.path_of(cache).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                return None
            sources = {path: source for path, source, _ in content["rows"]}
            key = CacheKey(content["height"], content["width"], content["resize"], sources)
            rows = tuple(digest for _, _, digest in content["rows"])
            label = cls(key, rows, FileState(**content["state"]))
            return label if len(rows) == len(sources) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, cache: Path) -> None:
        key = self.key
        head: dict[str, Any] = {
            "format": FORMAT, "height": key.height, "width": key.width, "resize": key.resize,
            "state": asdict(self.state),
        }  # fmt: skip
        items = zip(key.sources.items(), self.rows, strict=True)
        rows = ",\n".join(json.dumps([*source, row]) for source, row in items)
        text = json.dumps(head, indent=1)[:-2]  # all but the closing brace, for a row a line
        write_atomic(self.path_of(cache), f'{text},\n "rows": [\n{rows}\n]}}\n')


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _data_offset(path: Path, shape: tuple[int, ...]) -> int | None:
    """Where the rows begin in an .npy file; None if it is no uint8 array of that shape."""
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(rows, np.memmap) and rows.shape == shape and rows.dtype == np.uint8
    return int(rows.offset) if fits and rows.flags.c_contiguous else None


class ImageCache:
    """Rows of a cache that is in order; each process maps the file when it reads first.

    The pages are the system's: loading processes share them, and a pickled cache is only a path.

    Args:
        path: the `.npy` file.
        key: what it holds.
    """

    def __init__(self, path: Path, key: CacheKey) -> None:
        self.path = path
        self.size = key.height, key.width
        self._shape = key.shape
        self._rows = {image: row for row, image in enumerate(key.sources)}
        status = path.stat()
        self._file = status.st_size, status.st_ino
        self._map: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def __getitem__(self, image: str) -> NDArray[np.uint8]:
        """A copy of the image's row, (3, H, W) uint8.

        Raises:
            FadepthError: the cache has no such image, or was replaced since it was checked.
        """
        if image not in self._rows:
            raise FadepthError(f"{self.path} has no image {image}: delete it and make it again")
        if self._map is None:
            self._map = self._opened()
        return np.array(self._map[self._rows[image]])

    def _opened(self) -> NDArray[np.uint8]:
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_ino) != self._file:
                raise FadepthError(
                    f"{self.path} was replaced while a training used it: start the training again, "
                    "it goes on from its checkpoint"
                )
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            return np.memmap(file, np.uint8, "r", file.tell(), self._shape)


def present_cache(manifest: Path, key: CacheKey) -> ImageCache | None:
    """The cache beside a manifest if it is in order, told by label and state of the file alone."""
    path = key.path_beside(manifest)
    label = _Label.read(path)
    if label is None or not path.exists():
        return None
    in_order = label.key == key and list(label.key.sources) == list(key.sources)
    return ImageCache(path, key) if in_order and FileState.of(path) == label.state else None


def checked_cache(manifest: Path, key: CacheKey, root: Path, workers: int = 1) -> ImageCache:
    """The cache beside a manifest, made or mended where it is not in order.

    Only rows whose source or whose own bytes differ are decoded again. The bytes do not depend on
    `workers` nor on how often the making was interrupted.

    Args:
        manifest: the manifest's path.
        key: what the cache has to hold.
        root: folder that the images' paths start from.
        workers: threads (decoding, resizing and hashing release Python's lock).

    Raises:
        FadepthError: an image is absent, damaged or not that of the manifest; the disk is full or
            read-only.
    """
    # Without the lock, which cannot be taken where the folder is read-only.
    if cache := present_cache(manifest, key):
        return cache
    path = key.path_beside(manifest)
    with _told(path, key), only_one(path):
        problem = problem_of(path, key, workers)
        if problem:
            log.warning("%s %s: caching %d images", path, problem, len(key.sources))
            _Making(path, key, root, workers).run()
        for name in _partial(path), _journal(path):
            name.unlink(missing_ok=True)
    return ImageCache(path, key)


def problem_of(path: Path, key: CacheKey, workers: int = 1) -> str | None:
    """What is wrong with a cache, as the end of a sentence; None: it holds what `key` says.

    Rows are hashed unless the file is in the state in which it was hashed last.
    """
    label = _Label.read(path)
    if not path.exists():
        return "does not exist"
    if label is None:
        return f"has no readable {_Label.path_of(path).name} beside it"
    if label.key.shape[2:] != key.shape[2:]:
        return f"is for images of {label.key.height}x{label.key.width}"
    if label.key.resize != key.resize:
        return f"was made by {label.key.resize}, this is {key.resize}"
    if list(label.key.sources.items()) != list(key.sources.items()):
        return "is for other images"
    state = FileState.settled(path)
    if state == label.state:
        return None
    if state.size != label.state.size:
        return f"holds {state.size} bytes instead of {label.state.size}"
    log.info("%s is new here: comparing its rows with their checksums", path)
    damaged = _damaged_rows(path, label, workers)
    if damaged is None:
        return "is not the array that its label tells of"
    if damaged:
        return f"does not match its checksums in {damaged} of {len(label.rows)} rows"
    if FileState.of(path) == state:
        _Label(key, label.rows, state).write(path)
    return None


def _damaged_rows(path: Path, label: _Label, workers: int) -> int | None:
    """Number of rows whose bytes are not those of the label; None if the array is another one."""
    offset, size = _data_offset(path, label.key.shape), label.key.row_bytes
    if offset is None:
        return None
    with path.open("rb") as file, ThreadPoolExecutor(max(1, workers)) as pool:

        def intact(number: int) -> bool:
            row = os.pread(file.fileno(), size, offset + number * size)
            return _sha256(row) == label.rows[number]

        return sum(not good for rows in _chunks(len(label.rows)) for good in pool.map(intact, rows))


def _chunks(count: int) -> Iterator[range]:
    for start in range(0, count, _CHUNK):
        yield range(start, min(start + _CHUNK, count))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


@contextmanager
def _told(path: Path, key: CacheKey) -> Iterator[None]:
    """A disk that is full or may not be written to, in one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            size = readable_bytes(key.shape[0] * key.row_bytes)
            raise FadepthError(
                f"the disk of {path.parent} is full, {path.name} takes {size} there: free some "
                "space and call it again (rows that are done are kept), or set data.cache to 'off'"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise FadepthError(
                f"{path} cannot be written ({error.strerror}): make the folder writable, or set "
                "data.cache to 'memory' or 'off'"
            ) from None
        raise


class _Making:
    """One making of a cache: rows from the journal, from an earlier cache, or from their source."""

    def __init__(self, path: Path, key: CacheKey, root: Path, workers: int) -> None:
        self.path, self.key, self.root, self.workers = path, key, root, max(1, workers)
        self.partial, self.journal = _partial(path), _journal(path)
        self.items = list(key.sources.items())
        self.taken = 0  # rows that needed no decoding

    def run(self) -> None:
        """Write the cache and its label."""
        done = self._resumed()
        self._demand_room()
        if done is None:
            done = self._begun()
        offset = _data_offset(self.partial, self.key.shape)
        assert offset is not None
        with self.partial.open("r+b") as self.file, self._earlier() as self.old:
            self.offset, self.done = offset, done
            # Before any row: a disk that fills up midway would cost all the time until then.
            os.posix_fallocate(self.file.fileno(), 0, offset + len(self.items) * self.key.row_bytes)
            digests = self._rows()
            os.fsync(self.file.fileno())
        # The label first: after a crash in between, the rows are compared with it once.
        _Label(self.key, digests, FileState.of(self.partial)).write(self.path)
        os.replace(self.partial, self.path)
        _Label(self.key, digests, FileState.settled(self.path)).write(self.path)

    def _resumed(self) -> dict[int, str] | None:
        """Rows that an interrupted making finished, with their sha256; None: begin anew."""
        try:
            lines = self.journal.read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, UnicodeDecodeError):
            return None
        whole = _data_offset(self.partial, self.key.shape) is not None
        if not whole or not lines or lines[0] != self.key.digest:
            return None
        rows = [line.split(" ") for line in lines[1:]]
        done = {int(row[0]): row[1] for row in rows if len(row) == 2 and row[0].isdigit()}
        log.info("going on after %d of %d images", len(done), len(self.items))
        return done

    def _begun(self) -> dict[int, str]:
        """Begin a partial file and its journal."""
        self.journal.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)
        np.lib.format.open_memmap(self.partial, "w+", np.uint8, self.key.shape)
        self.journal.write_text(self.key.digest + "\n", encoding="utf-8")
        return {}

    def _demand_room(self) -> None:
        """Refuse to start on a disk that does not have the space."""
        need = len(self.items) * (self.key.row_bytes + _ROOM_FOR_LABEL)
        if self.partial.exists():
            need -= self.partial.stat().st_blocks * 512
        free = shutil.disk_usage(self.path.parent).free
        if need > free:
            raise FadepthError(
                f"{self.path} needs {readable_bytes(need)} for {len(self.items)} images but "
                f"{self.path.parent} has only {readable_bytes(free)} free: free some space, or set "
                "data.cache to 'off'"
            )

    @contextmanager
    def _earlier(self) -> "Iterator[_Earlier | None]":
        """The rows of the cache that is to be replaced, where its label can be read."""
        label = _Label.read(self.path)
        usable = label and label.key.shape[2:] == self.key.shape[2:]
        usable = usable and label and label.key.resize == self.key.resize
        offset = _data_offset(self.path, label.key.shape) if label and usable else None
        if label is None or offset is None:
            yield None
            return
        with self.path.open("rb") as file:
            yield _Earlier(file, offset, label)

    def _rows(self) -> tuple[str, ...]:
        """Fill all rows; their sha256."""
        digests: list[str] = []
        progress = _Progress(len(self.items))
        with (
            self.journal.open("a", encoding="utf-8", buffering=1) as journal,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            for chunk in _chunks(len(self.items)):
                for number, digest in zip(chunk, pool.map(self._row, chunk), strict=True):
                    digests.append(digest)
                    if self.done.get(number) != digest:
                        journal.write(f"{number} {digest}\n")
                    progress.tell(len(digests))
        log.info("%d images cached, %d taken over", len(digests), self.taken)
        return tuple(digests)

    def _row(self, number: int) -> str:
        """Fill one row; its sha256."""
        size = self.key.row_bytes
        start = self.offset + number * size
        name, source = self.items[number]
        noted = self.done.get(number)
        if noted and _sha256(os.pread(self.file.fileno(), size, start)) == noted:
            self.taken += 1
            return noted
        row = self.old.row(name, source) if self.old else None
        if row is None:
            row = self._decoded(name, source)
        else:
            self.taken += 1
        written = 0
        while written < size:
            written += os.pwrite(self.file.fileno(), row[written:], start + written)
        return _sha256(row)

    def _decoded(self, name: str, source: str) -> bytes:
        path = self.root / name
        image = read_image(path)
        # The label tells of the manifest's files, so it must not be another one.
        if _sha256(path.read_bytes()) != source:
            raise FadepthError(
                f"image {path} is not the one in the manifest: restore it, or delete the manifest "
                "so that the data are prepared again"
            )
        return resize_image(image, self.key.height, self.key.width).tobytes()


class _Earlier:
    """Rows of a cache that is being replaced, by image and source."""

    def __init__(self, file: BinaryIO, offset: int, label: _Label) -> None:
        self.file, self.offset, self.size = file, offset, label.key.row_bytes
        sources = enumerate(label.key.sources.items())
        self.rows = {source: (number, label.rows[number]) for number, source in sources}

    def row(self, name: str, source: str) -> bytes | None:
        """The image's row, if it is there and has its sha256."""
        if (name, source) not in self.rows:
            return None
        number, digest = self.rows[name, source]
        row = os.pread(self.file.fileno(), self.size, self.offset + number * self.size)
        return row if _sha256(row) == digest else None


class _Progress:
    """A line now and then: how many images, how fast, how long still."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.began = self.told = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if done < self.total and now - self.told < _TELL_EVERY:
            return
        self.told = now
        rate = done / max(now - self.began, 1e-9)
        left = divmod(round((self.total - done) / rate), 60)
        log.info("images: %d of %d · %.0f/s · %d:%02d left", done, self.total, rate, *left)
