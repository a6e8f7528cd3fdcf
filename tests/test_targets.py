"""The teacher's predictions on disk: what is damaged or foreign is found, and mended once."""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fadepth import targets as targets_module
from fadepth.config import DataSettings
from fadepth.data.dataset import TrainingFrames
from fadepth.errors import FadepthError
from fadepth.targets import (
    TargetsKey,
    TeacherTargets,
    checked_targets,
    make_targets,
    predict_targets,
)
from tests.tiny import SIZE, tiny_config, tiny_manifest

KEY = TargetsKey("hqdecv2-s1-0123456789", "a" * 64, "b" * 64, 5, 16, 24)


class Predictor:
    """Writes the same maps at each call, and counts its calls."""

    def __init__(self, seed: int = 0) -> None:
        self.calls = 0
        self.seed = seed

    def __call__(self, path: Path) -> None:
        self.calls += 1
        rng = np.random.default_rng(self.seed)
        maps = rng.random((KEY.count, 2, KEY.height, KEY.width)).astype(np.float16)
        with path.open("wb") as file:
            np.save(file, maps)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A file of predictions in order, written an hour ago as far as its time tells."""
    path = tmp_path / KEY.teacher / "targets.npy"
    make_targets(path, KEY, Predictor())
    earlier = path.stat().st_mtime_ns - 3600 * 10**9
    os.utime(path, ns=(earlier, earlier))
    assert checked_targets(path, KEY) == sha256(path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def label_of(path: Path) -> Path:
    return path.with_name("targets.json")


# What is in the file


class Sided(nn.Module):
    """Brighter pixels are nearer, and so is the right side."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(0, 0.1, image.shape[-1])
        return 0.02 + 0.3 * image.mean(1, keepdim=True) + ramp


def test_predictions_of_both_orientations_frame_by_frame(tmp_path: Path) -> None:
    manifest = tiny_manifest(tmp_path, frames=9)  # more than one batch of predictions
    settings = tiny_config(tmp_path).data
    frames = TrainingFrames(manifest.splits["train"], tmp_path, settings, seed=1)
    predict_targets(Sided(), frames, tmp_path / "t.npy", torch.device("cpu"))
    maps = np.load(tmp_path / "t.npy")
    assert (maps.shape, maps.dtype) == ((9, 2, *SIZE), np.float16)
    ramp = np.linspace(0, 0.1, SIZE[1])
    for number in range(9):
        grey = frames.clean(number).mean(0).numpy()
        expected = np.stack([0.02 + 0.3 * grey + ramp, 0.02 + 0.3 * grey + ramp[::-1]])
        np.testing.assert_allclose(maps[number], expected, rtol=1e-3)

    read = TeacherTargets(tmp_path / "t.npy", 9)
    index, flipped = torch.tensor([4, 7]), torch.tensor([False, True])
    disparity, reliability = read.batch(index, flipped)
    torch.testing.assert_close(disparity[0, 0], torch.from_numpy(maps[4, 0]).float())
    torch.testing.assert_close(disparity[1, 0], torch.from_numpy(maps[7, 0]).float().flip(-1))
    q = 0.01 + 9.99 * maps[7].astype(np.float64)
    ratio = np.minimum(q[0] / q[1], q[1] / q[0])
    np.testing.assert_allclose(reliability[1, 0].numpy(), (ratio**10)[:, ::-1], rtol=1e-4)


# A file in order


def test_a_file_is_hashed_once_in_each_state(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    whole = targets_module._sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        return whole(path)

    monkeypatch.setattr(targets_module, "_sha256", counted)
    for _ in range(3):
        assert checked_targets(made, KEY) == sha256(made)
    assert hashed == []
    # A copy (as from a backup) is another file in another state.
    shutil.copy2(made, made.with_name("copy"))
    (made.with_name("copy")).replace(made)
    for _ in range(3):
        assert checked_targets(made, KEY) == sha256(made)
    assert hashed == [made]


def test_the_teachers_model_may_be_gone(made: Path) -> None:
    assert checked_targets(made, replace(KEY, weights=None)) == sha256(made)


# A file that is not


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    with path.open("r+b") as file:  # in place: the same inode
        file.write(content)


def flip_a_bit_behind_our_back(path: Path) -> None:
    """The same size, inode and modification time."""
    before = path.stat()
    flip_a_bit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace_by_another(path: Path) -> None:
    Predictor(seed=1)(path)


def remove(path: Path) -> None:
    path.unlink()


def remove_label(path: Path) -> None:
    label_of(path).unlink()


def spoil_label(path: Path) -> None:
    label_of(path).write_text(label_of(path).read_text()[:40])


def label_of_another_format(path: Path) -> None:
    content = json.loads(label_of(path).read_text())
    label_of(path).write_text(json.dumps({**content, "format": 0}))


DAMAGE: dict[Callable[[Path], None], str] = {
    truncate: "bytes instead of",
    flip_a_bit: "does not match its checksum",
    flip_a_bit_behind_our_back: "does not match its checksum",
    replace_by_another: "does not match its checksum",
    remove: "does not exist",
    remove_label: "has no readable targets.json",
    spoil_label: "has no readable targets.json",
    label_of_another_format: "has no readable targets.json",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_told_and_mended_as_if_it_had_not_been(
    damage: Callable[[Path], None], made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content, modified = made.read_bytes(), made.stat().st_mtime_ns
    damage(made)
    predict = Predictor()
    with caplog.at_level(logging.WARNING):
        digest = checked_targets(made, KEY, predict)
    assert DAMAGE[damage] in caplog.text
    assert "the teacher predicts all frames again" in caplog.text
    assert predict.calls == 1
    assert made.read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()
    # Snakemake would train all other students of a file that looks new.
    assert made.stat().st_mtime_ns == modified
    assert checked_targets(made, KEY, predict) == digest
    assert predict.calls == 1
    names = {path.name for path in made.parent.iterdir()}
    assert names == {"targets.npy", "targets.json", ".targets.npy.lock"}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_without_the_teacher_damage_is_an_error_and_nothing_is_written(
    damage: Callable[[Path], None], made: Path
) -> None:
    damage(made)
    before = made.read_bytes() if made.exists() else None
    with pytest.raises(FadepthError, match=DAMAGE[damage]) as told:
        checked_targets(made, KEY)
    assert KEY.teacher in str(told.value)
    assert (made.read_bytes() if made.exists() else None) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": "hqdecv2-s2-0123456789"}, "other teacher"),
        ({"weights": "c" * 64}, "other weights of the teacher"),
        ({"frames": "c" * 64}, "other training frames"),
        ({"count": 6}, "other count"),
        ({"height": 32}, "other height"),
        ({"width": 48}, "other width"),
    ],
)
def test_predictions_for_something_else_are_refused(
    changes: dict[str, Any], words: str, made: Path
) -> None:
    key = replace(KEY, **changes)
    with pytest.raises(FadepthError, match=words):
        checked_targets(made, key)
    predict = Predictor()
    checked_targets(made, key, predict)
    assert predict.calls == 1
    assert checked_targets(made, key) == sha256(made)


def test_other_predictions_than_before_look_new_and_are_told(
    made: Path, caplog: pytest.LogCaptureFixture
) -> None:
    modified = made.stat().st_mtime_ns
    truncate(made)
    with caplog.at_level(logging.WARNING):
        digest = checked_targets(made, KEY, Predictor(seed=2))
    assert digest == sha256(made)
    assert "differ from the earlier ones" in caplog.text
    assert made.stat().st_mtime_ns > modified


def test_two_students_mend_it_once(made: Path) -> None:
    digest = sha256(made)
    flip_a_bit(made)
    start = threading.Barrier(2)
    found: list[str] = []

    class Slow(Predictor):
        def __call__(self, path: Path) -> None:
            super().__call__(path)
            # The other one has come to the lock by now, or comes later: both ways are right.
            threading.Event().wait(0.2)

    predict = Slow()

    def student() -> None:
        start.wait()
        found.append(checked_targets(made, KEY, predict))

    threads = [threading.Thread(target=student) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [digest] * 2
    assert predict.calls == 1
    assert sha256(made) == digest


def test_a_prediction_that_fails_leaves_everything_as_it_was(made: Path) -> None:
    truncate(made)
    content, label = made.read_bytes(), label_of(made).read_text()

    def fail(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        checked_targets(made, KEY, fail)
    assert made.read_bytes() == content
    assert label_of(made).read_text() == label
    assert len(list(made.parent.iterdir())) == 3


def test_what_a_killed_process_left_behind_is_removed(made: Path) -> None:
    made.with_name(".targets.npy.k1ll3d.npy").write_bytes(b"20 GB")
    make_targets(made, KEY, Predictor())
    assert not list(made.parent.glob("*k1ll3d*"))


# The key


def test_the_key_holds_what_predictions_depend_on(tmp_path: Path) -> None:
    manifest = tiny_manifest(tmp_path)
    model = tmp_path / "model.pt"
    settings = DataSettings(height=64, width=96)

    def key(**changes: Any) -> TargetsKey:
        return TargetsKey.of("t", model, replace(manifest, **changes), settings)

    assert key().weights is None
    model.write_bytes(b"weights")
    plain = key()
    assert plain.weights == hashlib.sha256(b"weights").hexdigest()
    assert (plain.count, plain.height, plain.width) == (6, 64, 96)
    train = manifest.splits["train"]
    # Where the files lie, and other splits, do not matter; order and content of the images do.
    assert key(root="/elsewhere", splits={**manifest.splits, "test": train[:1]}) == plain
    assert key(splits={**manifest.splits, "train": train[::-1]}).frames != plain.frames
    assert key(files={**manifest.files, "3.png": "0" * 64}).frames != plain.frames
    assert key(files={**manifest.files, "0.png": "0" * 64}) == plain  # a neighbour only
    model.write_bytes(b"other weights")
    assert plain.difference(key()) == "weights of the teacher"
