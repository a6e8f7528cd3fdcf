"""Arrays in files that somebody else may have written."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fadepth.errors import FadepthError


def mapped_array(path: Path, remedy: str) -> NDArray[Any]:
    """An array of numbers in a `.npy` file, mapped into memory; only the head is read.

    Raises:
        FadepthError: the file is absent or something else, such as a pickle, which would run what
            its author likes; `remedy` tells what to do.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # a damaged head makes numpy raise whatever Python's parser does
        array = None
    if not isinstance(array, np.ndarray):  # an archive, .npz, is none
        raise FadepthError(f"{path} is no array of numpy's (.npy): {remedy}")
    return array
