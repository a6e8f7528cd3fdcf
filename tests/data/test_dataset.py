"""Training samples: determinism, one draw per sample, the flip's geometry, order of an epoch."""

import hashlib
import os
import pickle
import socket
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from fadepth.config import DataSettings, JitterSettings
from fadepth.data.cache import CacheKey, checked_cache
from fadepth.data.dataset import (
    EpochBatches,
    TrainingBatches,
    TrainingFrames,
    collate,
    load_batches,
)
from fadepth.data.manifest import Frame, Manifest
from fadepth.errors import FadepthError

NATIVE = (60, 100)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Frame]]:
    """Six images of one drive and the four targets among them."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for number in range(6):
        small = rng.integers(0, 255, (6, 10, 3), dtype=np.uint8)
        Image.fromarray(small).resize(NATIVE[::-1], Image.Resampling.BICUBIC).save(
            root / f"{number}.png"
        )
    targets = [
        Frame(
            drive="day/drive",
            frame=n,
            side="l",
            image=f"{n}.png",
            neighbours={-1: f"{n - 1}.png", 1: f"{n + 1}.png"},
            intrinsics=(80.0, 70.0, 45.0, 31.0),
            height=NATIVE[0],
            width=NATIVE[1],
            velodyne=None,
            depth_png=None,
        )
        for n in range(1, 5)
    ]
    return root, targets


def settings(**changes) -> DataSettings:
    return DataSettings(height=48, width=80, **changes)


def dataset(frames, seed: int = 1, **changes) -> TrainingFrames:
    root, targets = frames
    return TrainingFrames(targets, root, settings(**changes), seed)


PLAIN: dict[str, Any] = {"flip_probability": 0.0, "jitter": JitterSettings(probability=0.0)}
JITTERED: dict[str, Any] = {"flip_probability": 0.0, "jitter": JitterSettings(probability=1.0)}


def test_plain_sample_is_the_resized_files(frames) -> None:
    item = dataset(frames, **PLAIN)[0, 2]
    root = frames[0]
    for tensor, name in [
        (item["target"], "3.png"),
        (item["sources"][0], "2.png"),
        (item["sources"][1], "4.png"),
    ]:
        with Image.open(root / name) as image:
            expected = np.asarray(image.resize((80, 48), Image.Resampling.LANCZOS)) / 255
        np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert torch.equal(item["target_input"], item["target"])
    assert torch.equal(item["source_inputs"], item["sources"])
    assert item["index"].item() == 2
    assert not item["flipped"]
    expected_k = [[64, 0, 45.5 * 0.8 - 0.5], [0, 56, 31.5 * 0.8 - 0.5], [0, 0, 1]]
    torch.testing.assert_close(item["intrinsics"], torch.tensor(expected_k))


def test_source_order_is_that_of_the_settings(frames) -> None:
    forward = dataset(frames, **PLAIN)[0, 0]["sources"]
    backward = dataset(frames, source_frames=(1, -1), **PLAIN)[0, 0]["sources"]
    assert torch.equal(forward, backward.flip(0))


def test_flip_mirrors_all_images_and_the_camera(frames) -> None:
    plain = dataset(frames, **PLAIN)[0, 1]
    mirrored = dataset(frames, **{**PLAIN, "flip_probability": 1.0})[0, 1]
    assert mirrored["flipped"]
    for key in ("target", "sources", "target_input", "source_inputs"):
        assert torch.equal(mirrored[key], plain[key].flip(-1))
    # A point seen at column u is seen at W - 1 - u: its mirrored ray must have the opposite slope.
    u = torch.arange(80.0)
    slope = (u - plain["intrinsics"][0, 2]) / plain["intrinsics"][0, 0]
    mirror_slope = (79 - u - mirrored["intrinsics"][0, 2]) / mirrored["intrinsics"][0, 0]
    torch.testing.assert_close(mirror_slope, -slope)


def test_jitter_is_one_draw_for_all_images_of_a_sample(frames) -> None:
    root, targets = frames
    same = replace(targets[0], neighbours={-1: targets[0].image, 1: targets[0].image})
    item = TrainingFrames([same], root, settings(**JITTERED), seed=5)[3, 0]
    assert torch.equal(item["source_inputs"][0], item["target_input"])
    assert torch.equal(item["source_inputs"][1], item["target_input"])
    assert (item["target_input"] - item["target"]).abs().mean() > 1e-3
    assert torch.equal(item["target"], dataset(frames, **PLAIN)[0, 0]["target"])
    assert 0 <= item["target_input"].min() <= item["target_input"].max() <= 1


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_samples_depend_on_seed_epoch_and_index_alone(frames) -> None:
    keys = [(epoch, index) for epoch in range(2) for index in range(4)]
    forward = {key: dataset(frames)[key] for key in keys}
    data = dataset(frames)
    for key in reversed(keys):
        torch.rand(3)
        np.random.default_rng().random()
        assert equal(data[key], forward[key])
    jittered = dataset(frames, **JITTERED)
    first = jittered[0, 0]["target_input"]
    assert not torch.equal(first, jittered[1, 0]["target_input"])
    assert not torch.equal(first, dataset(frames, seed=2, **JITTERED)[0, 0]["target_input"])


@pytest.fixture
def on_disk(frames, tmp_path: Path) -> TrainingFrames:
    """The data set with its images in a cache on disk."""
    root, targets = frames
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.glob("*.png")}
    manifest = Manifest("six", str(root), {"train": targets, "val": [], "test": []}, files)
    key = CacheKey.of(manifest, settings())
    images = checked_cache(tmp_path / "manifest.jsonl", key, root)
    return TrainingFrames(targets, root, settings(cache="disk"), 1, images)


KEYS = [[(0, 3), (0, 1)], [(0, 2), (0, 0)], [(1, 1), (1, 2)]]


def test_cache_and_worker_processes_change_nothing(frames, on_disk: TrainingFrames) -> None:
    plain = [collate([dataset(frames)[key] for key in batch]) for batch in KEYS]
    for cached in (dataset(frames), dataset(frames, cache="memory"), on_disk):
        for workers in (0, 2):
            batches = list(load_batches(cached, KEYS, workers))
            assert all(equal(a, b) for a, b in zip(batches, plain, strict=True))
    assert plain[0]["index"].tolist() == [3, 1]
    assert plain[0]["sources"].shape == (2, 2, 3, 48, 80)
    assert plain[0]["intrinsics"].shape == (2, 3, 3)
    assert plain[0]["flipped"].dtype == torch.bool


def test_spawned_processes_map_the_cache_themselves(frames, on_disk: TrainingFrames) -> None:
    """Also where the map is open when they start; the pickled data set holds no image."""
    plain = [collate([dataset(frames)[key] for key in batch]) for batch in KEYS]
    assert torch.equal(on_disk.clean(0), dataset(frames).clean(0))
    assert len(pickle.dumps(on_disk)) < 3 * 48 * 80
    loader = DataLoader(
        on_disk, batch_sampler=KEYS, num_workers=1, collate_fn=collate,
        multiprocessing_context="spawn",
    )  # fmt: skip
    assert all(equal(a, b) for a, b in zip(loader, plain, strict=True))


def test_a_cache_on_disk_has_to_be_given_and_to_fit(frames, on_disk: TrainingFrames) -> None:
    with pytest.raises(FadepthError, match="no cache of images was given"):
        dataset(frames, cache="disk")
    root, targets = frames
    other = DataSettings(height=64, width=80)
    with pytest.raises(FadepthError, match=r"holds images of 48x80 but the settings say 64x80"):
        TrainingFrames(targets, root, other, 1, on_disk.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_one_sentence_whichever_process_met_it(
    workers: int, frames, tmp_path: Path
) -> None:
    root, targets = frames
    for file in root.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "2.png").write_bytes((root / "2.png").read_bytes()[:500])
    data = TrainingFrames(targets, tmp_path, settings(), seed=1)
    with pytest.raises(FadepthError) as told:
        list(load_batches(data, KEYS, workers))
    path = tmp_path / "2.png"
    assert str(told.value) == f"image {path} is damaged: restore it from the archive"


def test_cached_images_are_read_once(frames, tmp_path: Path) -> None:
    root, targets = frames
    for file in root.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = TrainingFrames(targets, tmp_path, settings(cache="memory"), seed=1)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    assert equal(data[0, 0], dataset(frames)[0, 0])


def test_flips_and_jitter_come_at_their_rates(frames) -> None:
    data = dataset(frames, cache="memory")
    items = [data[epoch, index] for epoch in range(100) for index in range(4)]
    flips = np.mean([bool(item["flipped"]) for item in items])
    jitters = np.mean([not torch.equal(i["target"], i["target_input"]) for i in items])
    # 400 draws at one half: standard error 0.025
    assert abs(flips - 0.5) < 0.1
    assert abs(jitters - 0.5) < 0.1


def test_missing_neighbour_and_damaged_file_are_named(frames, tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"day/drive 0000000001 l has no neighbour at offset -2"):
        dataset(frames, source_frames=(-2, 1))[0, 0]
    root, targets = frames
    for file in root.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "2.png").write_bytes((root / "2.png").read_bytes()[:500])
    with pytest.raises(FadepthError, match=r"2\.png is damaged"):
        TrainingFrames(targets, tmp_path, settings(), seed=1)[0, 0]


def test_an_epoch_visits_every_frame_at_most_once() -> None:
    batches = list(EpochBatches(23, 5, seed=1, epoch=0))
    assert [len(batch) for batch in batches] == [5] * 4
    indices = list(chain(*batches))
    assert len(set(indices)) == 20
    assert set(indices) <= set(range(23))
    assert indices != sorted(indices)


def test_order_depends_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return list(EpochBatches(40, 4, seed=seed, epoch=epoch))

    assert order(1, 0) == order(1, 0)
    assert len({str(order(s, e)) for s in range(3) for e in range(3)}) == 9


def test_more_steps_than_one_pass_go_on_with_another_permutation() -> None:
    batches = list(EpochBatches(10, 3, seed=1, epoch=0, steps=8))
    assert len(batches) == len(EpochBatches(10, 3, seed=1, epoch=0, steps=8)) == 8
    passes = [list(chain(*batches[i : i + 3])) for i in (0, 3, 6)]
    assert [len(set(p)) for p in passes] == [9, 9, 6]
    assert passes[0] != passes[1]
    assert batches[:2] == list(EpochBatches(10, 3, seed=1, epoch=0, steps=2))
    assert batches[:3] == list(EpochBatches(10, 3, seed=1, epoch=0))


def test_too_few_frames_for_a_batch() -> None:
    with pytest.raises(FadepthError, match=r"3 training frames do not fill a batch of 4"):
        EpochBatches(3, 4, seed=0, epoch=0)


@pytest.mark.parametrize("steps", [3, 5])  # fewer than one pass over ten samples, and more
def test_all_epochs_in_one_go_from_any_step(steps: int) -> None:
    expected = [
        [(epoch, index) for index in batch]
        for epoch in range(4)
        for batch in EpochBatches(10, 3, seed=2, epoch=epoch, steps=steps)
    ]
    for first in range(4 * steps + 1):
        batches = TrainingBatches(10, 3, 2, epochs=4, steps_per_epoch=steps, first_step=first)
        assert list(batches) == expected[first:]
        assert len(batches) == len(expected) - first


def test_loading_processes_live_through_all_epochs(frames, monkeypatch) -> None:
    """One process a worker, not one an epoch: the number of processes that make items."""
    whole = TrainingFrames.__getitem__

    def with_process(self: TrainingFrames, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        return whole(self, key) | {"process": torch.tensor(os.getpid())}

    monkeypatch.setattr(TrainingFrames, "__getitem__", with_process)
    keys = TrainingBatches(4, 2, 1, epochs=5, steps_per_epoch=2)
    batches = list(load_batches(dataset(frames), keys, workers=2))
    processes = {number for batch in batches for number in batch["process"].tolist()}
    assert len(batches) == 10
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_a_temporary_folder_with_too_long_a_name_is_told(
    frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own limit: a socket of such a name cannot be bound, and torch would wait."""
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match="path too long"):
        one.bind(str(folder / "listener-abcdefgh"))
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: str(folder))
    with pytest.raises(FadepthError, match="is too long for loading processes: set TMPDIR"):
        next(load_batches(dataset(frames), [[(0, 0), (0, 1)]], workers=1))
    assert next(load_batches(dataset(frames), [[(0, 0), (0, 1)]], workers=0))
