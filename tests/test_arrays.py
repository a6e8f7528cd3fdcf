"""Arrays that somebody else has written: numbers, or a sentence."""

import io
import random
from pathlib import Path

import numpy as np
import pytest

from fadepth.arrays import mapped_array
from fadepth.errors import FadepthError


def test_numbers_come_back(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", numbers)
    array = mapped_array(tmp_path / "a.npy", "save it")
    assert isinstance(array, np.memmap)
    assert np.array_equal(array, numbers)


def test_what_is_no_array_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "archive.npz", a=np.ones(3))
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    (tmp_path / "empty.npy").touch()
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    for name in ("archive.npz", "objects.npy", "empty.npy", "broken.npz", "absent.npy", "."):
        with pytest.raises(FadepthError) as error:
            mapped_array(tmp_path / name, "save it")
        assert str(error.value) == f"{tmp_path / name} is no array of numpy's (.npy): save it"


def test_no_damage_to_the_head_is_more_than_a_sentence(tmp_path: Path) -> None:
    """numpy parses the head as Python, which fails in many ways."""
    whole = io.BytesIO()
    np.save(whole, np.ones((3, 4, 5), np.float32))
    draw, path, told = random.Random(0), tmp_path / "a.npy", 0
    for _ in range(2000):
        damaged = bytearray(whole.getvalue())
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(128)] = draw.choice([draw.randrange(256), *b"90-L('"])
        path.write_bytes(damaged[: draw.randrange(1, 2 * len(damaged))])
        try:
            mapped_array(path, "save it")
        except FadepthError:
            told += 1
    assert 1000 < told < 2000
