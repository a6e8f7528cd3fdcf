"""How much disk a data set takes and will take, and how long its preparation: estimates."""

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fadepth.data.check.report import Space
from fadepth.data.check.walk import Walked
from fadepth.data.convert import encode_jpeg
from fadepth.data.kitti import read_image, resize_image
from fadepth.data.parallel import in_order
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.data.check.inventory import Images


def measure(root: Path, walked: Walked, images: "Images | None", workers: int) -> Space:
    """Disk in use, and what preparing would take, from the images that the walk drew.

    Times are those of `workers` threads on this machine, with files that were just read; from a
    slow disk it takes longer.
    """
    free = shutil.disk_usage(root).free
    if images is None:
        return Space(walked.used, free)
    height, width = images.size
    sample = sorted(walked.sample)
    png = [path for path in sample if path.suffix == ".png"]
    copy = copy_seconds = cache_seconds = None
    if sample:
        seconds, encoded = timed(png, workers, encoded_size)
        total = sum(encoded) + sum(path.stat().st_size for path in sample if path not in png)
        if images.copied:
            copy = round(images.copied * total / len(sample))
        if images.copied and png:
            copy_seconds = images.copied * seconds / len(sample)
        resize = partial(resized_size, height=height, width=width)
        cache_seconds = images.cached * timed(sample, workers, resize)[0] / len(sample)
    return Space(
        walked.used,
        free,
        images=images.copied,
        copy=copy,
        copy_seconds=copy_seconds,
        cached_images=images.cached,
        size=images.size,
        cache=images.cached * height * width * 3,
        cache_seconds=cache_seconds,
        sample=len(sample),
        workers=workers,
    )


def encoded_size(path: Path) -> int:
    """Bytes of an image as JPEG, as in the copy of `fadepth data prepare`."""
    try:
        return len(encode_jpeg(path))
    except FadepthError:  # damaged within, which only --decode tells
        return 0


def resized_size(path: Path, height: int, width: int) -> int:
    """Bytes that an image takes in the cache of decoded images."""
    try:
        return resize_image(read_image(path), height, width).nbytes
    except FadepthError:
        return 0


def timed(
    paths: Sequence[Path], workers: int, work: Callable[[Path], int]
) -> tuple[float, list[int]]:
    """Seconds that the work takes on all paths, in threads, and the sizes it gives."""
    start = time.perf_counter()
    sizes = list(in_order(paths, work, workers))
    return time.perf_counter() - start, sizes
