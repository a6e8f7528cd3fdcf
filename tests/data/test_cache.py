"""The cache of images: the same pixels, made once, mended where wrong, whatever interrupts it."""

import errno
import hashlib
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fadepth.checkpoint import Identity
from fadepth.config import DataSettings
from fadepth.data import cache as cache_module
from fadepth.data.cache import (
    CacheKey,
    ImageCache,
    checked_cache,
    present_cache,
    problem_of,
)
from fadepth.data.manifest import Manifest
from fadepth.errors import FadepthError
from fadepth.execution.data import cache_images_of
from fadepth.execution.train import predict_teacher, train_run
from fadepth.run import Run
from fadepth.training import Job, Training
from tests.data.mounts import make_read_only, tmpfs
from tests.tiny import tiny_config, tiny_manifest

HEIGHT, WIDTH = 48, 80
SETTINGS = DataSettings(height=HEIGHT, width=WIDTH)
IMAGES = 8


@dataclass
class Data:
    """Six training frames with their neighbours, eight pictures, and a manifest."""

    root: Path
    manifest: Manifest
    path: Path

    @property
    def key(self) -> CacheKey:
        return CacheKey.of(self.manifest, SETTINGS)

    @property
    def cache(self) -> Path:
        return self.path.with_name(f"images-{HEIGHT}x{WIDTH}.npy")

    @property
    def label(self) -> Path:
        return self.cache.with_suffix(".json")

    def make(self, workers: int = 1) -> ImageCache:
        return checked_cache(self.path, self.key, self.root, workers)

    def repaint(self, name: str) -> None:
        """Another picture under the name, and the manifest that tells of it."""
        rng = np.random.default_rng(7)
        Image.fromarray(rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(self.root / name)
        digest = hashlib.sha256((self.root / name).read_bytes()).hexdigest()
        self.manifest = replace(self.manifest, files={**self.manifest.files, name: digest})


def data_in(folder: Path) -> Data:
    root = folder / "pictures"
    root.mkdir(parents=True)
    manifest = tiny_manifest(root)
    path = folder / "data" / "manifest.jsonl"
    manifest.write(path)
    return Data(root, manifest, path)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return data_in(tmp_path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are decoded, in their order."""
    names: list[str] = []
    whole = cache_module.read_image

    def counted(path: Path) -> Image.Image:
        names.append(path.name)
        return whole(path)

    monkeypatch.setattr(cache_module, "read_image", counted)
    return names


def pixels(path: Path) -> np.ndarray:
    """What Pillow makes of a file, (3, H, W)."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return np.moveaxis(np.array(small), 2, 0)


def expected(data: Data) -> np.ndarray:
    return np.stack([pixels(data.root / f"{number}.png") for number in range(IMAGES)])


def left_over(data: Data) -> set[str]:
    """Files beside the manifest, without the lock."""
    return {path.name for path in data.path.parent.iterdir() if path.suffix != ".lock"}


WHOLE = {"manifest.jsonl", f"images-{HEIGHT}x{WIDTH}.npy", f"images-{HEIGHT}x{WIDTH}.json"}


# What is in it


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_are_the_resized_files_each_once(workers: int, data: Data, decoded: list[str]) -> None:
    images = data.make(workers)
    array = np.load(data.cache)
    assert (array.dtype, array.shape) == (np.uint8, (IMAGES, 3, HEIGHT, WIDTH))
    np.testing.assert_array_equal(array, expected(data))
    for number in range(IMAGES):
        np.testing.assert_array_equal(images[f"{number}.png"], array[number])
    assert sorted(decoded) == [f"{number}.png" for number in range(IMAGES)]
    assert left_over(data) == WHOLE


def test_the_label_tells_of_every_row(data: Data) -> None:
    data.make()
    content = json.loads(data.label.read_text())
    assert (content["height"], content["width"]) == (HEIGHT, WIDTH)
    assert "LANCZOS" in content["resize"]
    for number, (name, source, row) in enumerate(content["rows"]):
        assert name == f"{number}.png"
        assert source == hashlib.sha256((data.root / name).read_bytes()).hexdigest()
        assert row == hashlib.sha256(np.load(data.cache)[number].tobytes()).hexdigest()


def test_grey_pictures_and_jpegs_are_cached_as_they_are_read(tmp_path: Path) -> None:
    data = data_in(tmp_path)
    with Image.open(data.root / "3.png") as image:
        image.convert("L").save(data.root / "3.png")
        image.save(data.root / "4.png", format="JPEG", quality=92)
    files = {
        name: hashlib.sha256((data.root / name).read_bytes()).hexdigest()
        for name in data.manifest.files
    }
    data.manifest = replace(data.manifest, files=files)
    data.make()
    np.testing.assert_array_equal(np.load(data.cache), expected(data))


def test_a_cache_in_order_is_left_alone(data: Data, decoded: list[str]) -> None:
    assert present_cache(data.path, data.key) is None
    data.make()
    before, label = data.cache.stat(), data.label.read_bytes()
    decoded.clear()
    data.make()
    after = data.cache.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert data.label.read_bytes() == label
    assert decoded == []
    found = present_cache(data.path, data.key)
    assert found is not None
    np.testing.assert_array_equal(found["5.png"], pixels(data.root / "5.png"))


# A cache that is not in order


def truncate(data: Data) -> None:
    os.truncate(data.cache, data.cache.stat().st_size - 100)


def flip_a_bit(data: Data) -> None:
    with data.cache.open("r+b") as file:  # in place: the same inode
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-5, os.SEEK_END)
        file.write(bytes([byte[0] ^ 4]))


def flip_a_bit_behind_our_back(data: Data) -> None:
    """The same size, inode and modification time."""
    before = data.cache.stat()
    flip_a_bit(data)
    os.utime(data.cache, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_another_array(data: Data) -> None:
    shape = (IMAGES, HEIGHT, WIDTH, 3)
    np.save(data.cache, np.zeros(shape, np.uint8))


def put_no_array(data: Data) -> None:
    data.cache.write_bytes(b"\0" * data.cache.stat().st_size)


def remove(data: Data) -> None:
    data.cache.unlink()


def remove_label(data: Data) -> None:
    data.label.unlink()


def spoil_label(data: Data) -> None:
    data.label.write_text(data.label.read_text()[:200])


def label_of(key: str, value: object) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        content = json.loads(data.label.read_text())
        data.label.write_text(json.dumps({**content, key: value}))

    change.__name__ = f"label_of_another_{key}"
    return change


# What is told, and how many images are decoded again.
DAMAGE: dict[Callable[[Data], None], tuple[str, int]] = {
    truncate: ("bytes instead of", IMAGES),  # no array that could be mapped
    flip_a_bit: (f"does not match its checksums in 1 of {IMAGES} rows", 1),
    flip_a_bit_behind_our_back: (f"does not match its checksums in 1 of {IMAGES} rows", 1),
    put_another_array: ("is not the array that its label tells of", IMAGES),
    put_no_array: ("is not the array that its label tells of", IMAGES),
    remove: ("does not exist", IMAGES),
    remove_label: ("has no readable images-48x80.json", IMAGES),
    spoil_label: ("has no readable images-48x80.json", IMAGES),
    label_of("format", 0): ("has no readable images-48x80.json", IMAGES),
    label_of("resize", "Pillow 1.0 LANCZOS"): ("was made by Pillow 1.0 LANCZOS", IMAGES),
    label_of("height", 64): ("is for images of 64x80", IMAGES),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_told_and_mended(
    damage: Callable[[Data], None],
    data: Data,
    decoded: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data.make()
    content = data.cache.read_bytes()
    damage(data)
    decoded.clear()
    assert present_cache(data.path, data.key) is None
    with caplog.at_level(logging.WARNING):
        data.make()
    words, again = DAMAGE[damage]
    assert words in caplog.text
    assert len(decoded) == again
    assert data.cache.read_bytes() == content
    assert left_over(data) == WHOLE
    assert present_cache(data.path, data.key) is not None


def test_a_copy_is_compared_with_its_checksums_and_kept(
    data: Data, tmp_path: Path, decoded: list[str]
) -> None:
    data.make()
    copy = tmp_path / "elsewhere"
    shutil.copytree(data.path.parent, copy)
    decoded.clear()
    data.path = copy / "manifest.jsonl"
    assert present_cache(data.path, data.key) is None
    data.make()
    assert decoded == []
    assert present_cache(data.path, data.key) is not None


def test_only_the_images_that_changed_are_decoded_again(data: Data, decoded: list[str]) -> None:
    data.make()
    before = np.load(data.cache)
    data.repaint("4.png")
    decoded.clear()
    images = data.make()
    assert decoded == ["4.png"]
    after = np.load(data.cache)
    np.testing.assert_array_equal(after, expected(data))
    assert [n for n in range(IMAGES) if not np.array_equal(before[n], after[n])] == [4]
    np.testing.assert_array_equal(images["4.png"], after[4])


def test_other_frames_take_over_the_rows_that_they_share(data: Data, decoded: list[str]) -> None:
    whole, data.manifest = (
        data.manifest,
        replace(data.manifest, splits={"train": data.manifest.splits["train"][2:4]}),
    )
    data.make()
    assert sorted(decoded) == ["2.png", "3.png", "4.png", "5.png"]
    decoded.clear()
    data.manifest = whole
    data.make()
    assert sorted(decoded) == ["0.png", "1.png", "6.png", "7.png"]
    np.testing.assert_array_equal(np.load(data.cache), expected(data))


def test_a_damaged_row_is_not_taken_over_from_an_earlier_cache(
    data: Data, decoded: list[str]
) -> None:
    data.make()
    flip_a_bit(data)  # in the last row
    data.repaint("4.png")
    decoded.clear()
    data.make()
    assert sorted(decoded) == ["4.png", "7.png"]
    np.testing.assert_array_equal(np.load(data.cache), expected(data))


# Interruptions

KILLED = """
import sys, time
from pathlib import Path
from fadepth.config import DataSettings
from fadepth.data import cache
from fadepth.data.manifest import Manifest

path, root = Path(sys.argv[1]), Path(sys.argv[2])
whole = cache.read_image

def slow(path):
    time.sleep(0.15)
    return whole(path)

cache.read_image = slow
key = cache.CacheKey.of(Manifest.read(path), DataSettings(height=48, width=80))
cache.checked_cache(path, key, root, workers=2)
"""


def journal_of(data: Data) -> Path:
    return data.cache.with_name(f".{data.cache.name}.journal")


def partial_of(data: Data) -> Path:
    return data.cache.with_name(f".{data.cache.name}.partial")


def noted(data: Data) -> int:
    """Whole lines of the journal after the first."""
    journal = journal_of(data)
    return max(0, journal.read_text().count("\n") - 1) if journal.exists() else 0


def make_until_killed(data: Data, rows: int) -> None:
    command = [sys.executable, "-c", KILLED, str(data.path), str(data.root)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    while process.poll() is None and noted(data) < rows:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture
def killed(data: Data) -> Data:
    """A making that SIGKILL ended after some rows."""
    make_until_killed(data, 3)
    assert 3 <= noted(data) < IMAGES
    assert left_over(data) == {"manifest.jsonl", partial_of(data).name, journal_of(data).name}
    return data


def test_a_killed_making_goes_on_and_ends_with_the_same_bytes(
    killed: Data, decoded: list[str], tmp_path: Path
) -> None:
    done = noted(killed)
    killed.make()
    assert len(decoded) == IMAGES - done
    other = data_in(tmp_path / "undisturbed")
    other.make()
    assert killed.cache.read_bytes() == other.cache.read_bytes()
    assert left_over(killed) == WHOLE


def test_rows_that_did_not_reach_the_disk_are_decoded_again(
    killed: Data, decoded: list[str]
) -> None:
    """As after a power cut: the journal tells of rows that the file does not hold."""
    done = noted(killed)
    size = partial_of(killed).stat().st_size
    with partial_of(killed).open("r+b") as file:
        file.seek(size - IMAGES * 3 * HEIGHT * WIDTH)
        file.write(b"\0" * 3 * HEIGHT * WIDTH)
    with journal_of(killed).open("a") as file:
        file.write("7 0123")  # a line that was cut
    killed.make()
    assert len(decoded) == IMAGES - done + 1
    np.testing.assert_array_equal(np.load(killed.cache), expected(killed))


def test_a_making_for_another_manifest_is_not_gone_on_with(
    killed: Data, decoded: list[str]
) -> None:
    killed.repaint("0.png")
    killed.make()
    assert len(decoded) == IMAGES
    np.testing.assert_array_equal(np.load(killed.cache), expected(killed))


@pytest.mark.parametrize("moment", ["before the rename", "before the last label"])
def test_a_crash_at_the_end_costs_no_decoding(
    moment: str, data: Data, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # `write_atomic` of the label renames elsewhere: `fadepth.files`.
        if moment == "before the rename":
            renaming = SimpleNamespace(**{**vars(os), "replace": crash})
            patch.setattr(cache_module, "os", renaming)
        else:
            patch.setattr(cache_module.FileState, "settled", crash)
            patch.setattr(cache_module, "problem_of", lambda *_: "does not exist")
        with pytest.raises(KeyboardInterrupt):
            data.make()
    decoded.clear()
    data.make()
    assert decoded == []
    np.testing.assert_array_equal(np.load(data.cache), expected(data))
    assert left_over(data) == WHOLE


def test_two_at_once_make_it_once(data: Data, decoded: list[str]) -> None:
    start = threading.Barrier(2)

    def training() -> None:
        start.wait()
        data.make()

    threads = [threading.Thread(target=training) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == IMAGES
    np.testing.assert_array_equal(np.load(data.cache), expected(data))


# Images and disks that fail


def cut_short(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:300])
    return "is damaged"


def take_away(path: Path) -> str:
    path.unlink()
    return "does not exist"


def exchange(path: Path) -> str:
    shutil.copy(path.with_name("1.png"), path)
    return "is not the one in the manifest"


@pytest.mark.parametrize("spoil", [cut_short, take_away, exchange])
def test_a_bad_image_is_named_and_the_rest_is_kept(
    spoil: Callable[[Path], str], data: Data, decoded: list[str]
) -> None:
    bad = data.root / "5.png"
    content = bad.read_bytes()
    words = spoil(bad)
    with pytest.raises(FadepthError, match=rf"5\.png {words}"):
        data.make()
    assert not data.cache.exists()
    assert not data.label.exists()
    bad.write_bytes(content)
    decoded.clear()
    data.make()
    assert "0.png" not in decoded
    assert "5.png" in decoded
    np.testing.assert_array_equal(np.load(data.cache), expected(data))


def test_a_disk_without_the_space_is_told_before_anything_is_written(
    data: Data, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = IMAGES * 3 * HEIGHT * WIDTH
    usage = SimpleNamespace(free=rows - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FadepthError, match=r"needs 96.3 kB for 8 images but .* free some space"):
        data.make()
    assert decoded == []
    assert left_over(data) == {"manifest.jsonl"}
    usage.free = 2 * rows
    data.make()


def test_a_disk_that_fills_up_midway_keeps_what_is_done(
    data: Data, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, left = os.pwrite, [3]

    def full(handle: int, content: bytes, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(handle, content, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(FadepthError, match=r"the disk of .* is full, images-48x80\.npy takes"):
            data.make()
    assert not data.cache.exists()
    decoded.clear()
    data.make()
    assert len(decoded) == IMAGES - 3
    np.testing.assert_array_equal(np.load(data.cache), expected(data))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    with tmpfs(tmp_path / "disk", "size=256k") as folder:
        yield folder


def test_a_small_disk_for_real(
    small_disk: Path, data: Data, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the first look at the free space; 92 kB of rows, 40 kB too many."""
    path = small_disk / "data" / "manifest.jsonl"
    data.manifest.write(path)
    data.path = path
    (small_disk / "other").write_bytes(b"\1" * 200_000)
    with pytest.raises(FadepthError, match="free some space"):
        data.make()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    with pytest.raises(FadepthError, match="is full"):
        data.make()
    assert decoded == []  # the space is claimed before the work
    assert not data.cache.exists()
    (small_disk / "other").unlink()
    data.make()
    np.testing.assert_array_equal(np.load(data.cache), expected(data))
    assert left_over(data) == WHOLE


def test_a_read_only_folder(small_disk: Path, data: Data) -> None:
    """A cache in order is used there; one that is missing is told in a sentence."""
    path = small_disk / "data" / "manifest.jsonl"
    data.manifest.write(path)
    data.path = path
    data.make()
    make_read_only(small_disk)
    np.testing.assert_array_equal(data.make()["2.png"], pixels(data.root / "2.png"))
    data.repaint("4.png")
    with pytest.raises(FadepthError, match=r"cannot be written \(Read-only file system\)"):
        data.make()


# Many processes and many images


def test_a_pickled_cache_is_a_path(data: Data) -> None:
    images = data.make()
    np.testing.assert_array_equal(images["3.png"], pixels(data.root / "3.png"))
    pickled = pickle.dumps(images)
    assert len(pickled) < 3 * HEIGHT * WIDTH / 4  # not even one row
    np.testing.assert_array_equal(pickle.loads(pickled)["3.png"], pixels(data.root / "3.png"))


def test_rows_are_copies(data: Data) -> None:
    images = data.make()
    images["3.png"][:] = 0
    np.testing.assert_array_equal(images["3.png"], pixels(data.root / "3.png"))
    assert problem_of(data.cache, data.key) is None


def test_a_cache_that_was_replaced_is_not_read_as_the_old_one(data: Data) -> None:
    opened, not_opened = data.make(), data.make()
    before = opened["4.png"]
    data.repaint("4.png")
    data.make()
    np.testing.assert_array_equal(opened["4.png"], before)
    with pytest.raises(FadepthError, match="was replaced while a training used it"):
        not_opened["4.png"]
    with pytest.raises(FadepthError, match=r"has no image 9\.png"):
        opened["9.png"]


PEAK = """
import sys
from pathlib import Path
from fadepth.data.cache import CacheKey, RESIZE, checked_cache

root, count, digest = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
key = CacheKey(128, 256, RESIZE, {f"{n:06d}.png": digest for n in range(count)})
checked_cache(root / str(count) / "manifest.jsonl", key, root, workers=2)
# ru_maxrss would be the parent's, where that had more.
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
"""


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Four times the rows, 98 kB each: 88 MB more in the file, next to nothing in memory."""
    Image.new("RGB", (16, 8), (9, 99, 199)).save(tmp_path / "one.png")
    digest = hashlib.sha256((tmp_path / "one.png").read_bytes()).hexdigest()
    for number in range(1200):
        os.link(tmp_path / "one.png", tmp_path / f"{number:06d}.png")
    peaks = []
    for count in (300, 1200):
        (tmp_path / str(count)).mkdir()
        command = [sys.executable, "-c", textwrap.dedent(PEAK), str(tmp_path), str(count), digest]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        result = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        )
        peaks.append(int(result.stdout) / 1024)
    assert (tmp_path / "1200" / "images-128x256.npy").stat().st_size > 117e6
    assert peaks[1] - peaks[0] < 12


# Trainings


def trained(data: Data, folder: Path, cache: str, workers: int) -> dict[str, Tensor]:
    """All weights after four steps."""
    config = tiny_config(
        data.root,
        data__cache=cache, data__height=64, data__width=96, training__workers=workers,
        training__epochs=2, training__steps_per_epoch=2,
    )  # fmt: skip
    folder.mkdir()
    key = CacheKey.of(data.manifest, config.data)
    images = checked_cache(data.path, key, data.root) if cache == "disk" else None
    job = Job(
        "run", "student", config, 3, Identity("c", "d", "e"), folder, data.manifest, data.root,
        images=images,
    )  # fmt: skip
    Training(job).run()
    content = torch.load(folder / "model.pt", weights_only=True)
    return {f"{net}/{name}": w for net in ("depth", "pose") for name, w in content[net].items()}


def test_trainings_with_and_without_it_end_with_the_same_weights(
    data: Data, tmp_path: Path
) -> None:
    plain = trained(data, tmp_path / "plain", "off", 0)
    for cache, workers in [("off", 2), ("memory", 1), ("disk", 0), ("disk", 2)]:
        other = trained(data, tmp_path / f"{cache}{workers}", cache, workers)
        assert plain.keys() == other.keys()
        assert all(torch.equal(plain[name], other[name]) for name in plain), (cache, workers)


def test_the_rules_command_makes_the_cache_at_each_size(
    data: Data, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(data.root, data__cache="disk", data__height=HEIGHT, data__width=WIDTH)
    assert cache_images_of(config, data.path, 2) == data.cache
    assert len(decoded) == IMAGES
    assert cache_images_of(config, data.path, 2) == data.cache
    assert len(decoded) == IMAGES
    small = cache_images_of(config, data.path, 1, size=(32, 64))
    assert np.load(small).shape == (IMAGES, 3, 32, 64)
    assert len(decoded) == 2 * IMAGES


def test_a_training_mends_the_cache_and_its_teacher_predicts_from_it(
    data: Data, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands themselves: weights and predictions are those without the cache."""
    monkeypatch.chdir(tmp_path)
    content = []
    for cache in ("off", "disk"):
        config = tiny_config(
            data.root, data__cache=cache, training__epochs=1, training__steps_per_epoch=1
        )
        run = Run("teacher", cache, cache, {}, 1, config, "0" * 10, "study", None)
        train_run(run, tmp_path / "runs", data.path, None, 1)
        targets = tmp_path / "runs" / run.id / "targets.npy"
        if cache == "disk":
            assert len(decoded) == IMAGES
            monkeypatch.setattr("fadepth.data.dataset.read_image", None)  # not called any more
        predict_teacher(run, tmp_path / "runs", data.path, targets, 1)
        model = torch.load(targets.with_name("model.pt"), weights_only=True)
        content.append((targets.read_bytes(), model["depth"]))
    (targets_off, weights_off), (targets_disk, weights_disk) = content
    assert targets_off == targets_disk
    assert all(torch.equal(weights_off[name], weights_disk[name]) for name in weights_off)


def test_real_kitti_images_are_cached_byte_by_byte(test_data: Path, tmp_path: Path) -> None:
    root = test_data / "kitti_mini" / "kitti"
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    found = sorted((root / drive / "image_02" / "data").glob("*"))[:3]
    if len(found) < 3:
        pytest.skip(f"no images of {drive} in {root}")
    names = [path.relative_to(root).as_posix() for path in found]
    sources = {n: hashlib.sha256((root / n).read_bytes()).hexdigest() for n in names}
    key = CacheKey(HEIGHT, WIDTH, cache_module.RESIZE, sources)
    images = checked_cache(tmp_path / "manifest.jsonl", key, root, 2)
    for name in names:
        np.testing.assert_array_equal(images[name], pixels(root / name))
