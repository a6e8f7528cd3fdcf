"""Batches, reading ahead and picked pixels change nothing in the numbers."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError
from fadepth.evaluation import evaluate as module
from fadepth.evaluation.evaluate import (
    NetworkPredictor,
    Stage,
    batch_for,
    depth_at,
    depth_at_pixels,
    evaluate,
    image_function,
    predict_disparity,
)
from fadepth.evaluation.metrics import pixel_metrics, scaled_metrics
from fadepth.evaluation.protocols import (
    Protocol,
    TruePixels,
    find_protocol,
    true_pixels,
    valid_pixels,
)

NATIVE, INPUT = (60, 200), (32, 96)
RAW = find_protocol("kitti_eigen_raw")
IMPROVED = find_protocol("kitti_eigen_improved")


@pytest.fixture
def frames(tmp_path: Path) -> list[Frame]:
    """Seven frames of noise, with known depth at 3 % of the pixels."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(7):
        small = Image.fromarray(rng.integers(0, 255, (6, 20, 3), dtype=np.uint8))
        small.resize(NATIVE[::-1], Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
        depth = rng.uniform(3, 70, NATIVE) * (rng.random(NATIVE) < 0.03)
        Image.fromarray((depth * 256).astype(np.uint16)).save(tmp_path / f"d{number}.png")
        found.append(
            Frame("d", number, "l", f"{number}.png", {}, None, *NATIVE, None, f"d{number}.png")
        )
    return found


class Network(nn.Module):
    """A small convolutional network with random weights; notes the size of every batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(16, 1, 3, 1, 1), nn.Upsample(scale_factor=2), nn.Sigmoid(),
        )  # fmt: skip
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        result: Tensor = self.layers(images)
        return result


@pytest.fixture
def network() -> Network:
    return Network().eval()


def predictor(
    network: nn.Module, root: Path, protocol: Protocol = IMPROVED, batch: int = 4
) -> NetworkPredictor:
    function = image_function(network, torch.device("cpu"))
    return NetworkPredictor(function, root, INPUT, protocol, batch)


@pytest.mark.parametrize("post_process", [False, True])
def test_a_batch_gives_what_single_images_give(
    post_process: bool, frames: list[Frame], network: Network, tmp_path: Path
) -> None:
    protocol = IMPROVED.model_copy(update={"post_process": post_process})
    together = predictor(network, tmp_path, protocol)

    def alone(frame: Frame) -> NDArray[np.float64]:
        return predict_disparity(together.network, frame, tmp_path, INPUT, protocol)

    one, one_mean = evaluate(frames, tmp_path, alone, protocol)
    assert set(network.batches) == {1}
    network.batches.clear()
    four, four_mean = evaluate(frames, tmp_path, together, protocol)
    assert set(network.batches) == {4}
    pd.testing.assert_frame_equal(one, four, rtol=1e-5)
    assert four_mean == pytest.approx(one_mean, rel=1e-5)
    # Frames differ, else a batch in the wrong order would not be seen.
    assert one["abs_rel"].round(4).nunique() == len(frames)


def test_a_result_does_not_depend_on_what_comes_after(
    frames: list[Frame], network: Network, tmp_path: Path
) -> None:
    whole, _ = evaluate(frames, tmp_path, predictor(network, tmp_path), IMPROVED)
    for count in (1, 3, 5):
        part, _ = evaluate(frames[:count], tmp_path, predictor(network, tmp_path), IMPROVED)
        pd.testing.assert_frame_equal(part, whole[:count], check_exact=True)
    assert set(network.batches) == {4}


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_ahead_changes_no_bit(
    workers: int, frames: list[Frame], network: Network, tmp_path: Path
) -> None:
    done: list[tuple[int, int]] = []
    predict = predictor(network, tmp_path)
    plain, mean = evaluate(frames, tmp_path, predict, IMPROVED)
    ahead, same = evaluate(
        frames, tmp_path, predict, IMPROVED, lambda *pair: done.append(pair), workers=workers
    )
    pd.testing.assert_frame_equal(plain, ahead, check_exact=True)
    assert mean == same
    assert done == [(number, 7) for number in range(1, 8)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_changed_is_named_before_it_is_used(
    workers: int, frames: list[Frame], network: Network, tmp_path: Path
) -> None:
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    predict = predictor(network, tmp_path)
    evaluate(frames, tmp_path, predict, IMPROVED, files=files, workers=workers)
    (tmp_path / "5.png").write_bytes(b"no image")
    with pytest.raises(FadepthError, match=r"5\.png has changed since the data were prepared"):
        evaluate(frames, tmp_path, predict, IMPROVED, files=files, workers=workers)


def test_a_diverged_network_names_its_frame_within_a_batch(
    frames: list[Frame], tmp_path: Path
) -> None:
    class Breaks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            maps = images.mean(1, keepdim=True) + 0.1
            maps[2] = torch.nan
            return maps

    with pytest.raises(FadepthError, match=r"^frame d 0000000002 l: .*diverged"):
        evaluate(frames, tmp_path, predictor(Breaks(), tmp_path), IMPROVED)


def test_every_part_of_the_work_is_told_to_the_timer(
    frames: list[Frame], network: Network, tmp_path: Path
) -> None:
    seen: list[Stage] = []

    def timer(stage: Stage) -> AbstractContextManager[object]:
        seen.append(stage)
        return nullcontext()

    evaluate(frames, tmp_path, predictor(network, tmp_path), IMPROVED, timer=timer)
    counts = {stage: seen.count(stage) for stage in seen}
    assert counts.pop("network") == 2  # batches of 4 and 3
    names = {"read", "ground_truth", "resize_input", "resize_output", "metrics"}
    assert counts == dict.fromkeys(names, 7)


def test_batches_are_of_as_many_images_as_stay_in_the_caches() -> None:
    sizes = [(64, 208), (192, 640), (320, 1024), (2000, 3000)]
    assert [batch_for(size) for size in sizes] == [8, 2, 1, 1]


# Pixels that count


def sparse_truth(size: tuple[int, int], share: float = 0.03) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    depth = rng.uniform(1, 90, size) * (rng.random(size) < share)
    # The outermost pixels, where neighbours repeat.
    depth[[0, 0, -1, -1], [0, -1, 0, -1]] = 5
    return depth.astype(np.float32)


@pytest.mark.parametrize("size", [(375, 1242), (370, 1226), (48, 160), (1216, 1936), (37, 41)])
@pytest.mark.parametrize("corners", ["half_pixel", "aligned"])
@pytest.mark.parametrize("quantity", ["disparity", "depth"])
def test_picked_pixels_are_those_of_the_whole_resize(
    quantity: str,
    corners: Literal["half_pixel", "aligned"],
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Larger and smaller than the prediction (48, 160), and of its own size."""
    disparity = np.random.default_rng(0).uniform(0.1, 1, (48, 160))
    resize = IMPROVED.resize.model_copy(update={"quantity": quantity, "corners": corners})
    protocol = IMPROVED.model_copy(update={"resize": resize, "min_depth": 0, "max_depth": None})
    truth = true_pixels(sparse_truth(size), protocol)
    assert truth.size == size
    whole = depth_at(disparity, size, protocol)
    expected = whole[valid_pixels(sparse_truth(size), protocol)]

    def refuse(*_: object) -> None:
        raise AssertionError("the whole map was resized")

    monkeypatch.setattr(module, "resize_map", refuse)
    picked = depth_at_pixels(disparity, truth, protocol)
    assert len(picked) == len(expected) > 40
    np.testing.assert_allclose(picked, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "share"), [("kitti_eigen_raw", 0.5), ("make3d", 0.01), ("synthetic_70m", 0.01)]
)
def test_dense_truth_and_nearest_resize_take_the_whole_map(name: str, share: float) -> None:
    """To the last bit."""
    protocol = find_protocol(name).model_copy(update={"crop": None})
    depth = sparse_truth((60, 200), share)
    disparity = np.random.default_rng(0).uniform(0.1, 1, (24, 80))
    expected = depth_at(disparity, depth.shape, protocol)[valid_pixels(depth, protocol)]
    found = depth_at_pixels(disparity, true_pixels(depth, protocol), protocol)
    assert np.array_equal(found, expected)


def test_metrics_of_picked_pixels_are_those_of_the_maps() -> None:
    depth = sparse_truth((375, 1242))
    disparity = np.random.default_rng(2).uniform(0.02, 0.3, (96, 320)).astype(np.float32)
    truth = true_pixels(depth, RAW)
    assert 0.005 < len(truth.places) / depth.size < 0.03  # within the crop
    whole, ratio = scaled_metrics(depth, depth_at(disparity, depth.shape, RAW), RAW)
    picked, same = pixel_metrics(truth.depth, depth_at_pixels(disparity, truth, RAW), RAW)
    assert picked == pytest.approx(whole, rel=1e-12)
    assert same == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("spoil", [0.0, -1.0, np.nan, np.inf])
def test_an_unusable_prediction_is_refused_where_pixels_are_picked(spoil: float) -> None:
    disparity = np.full((24, 80), spoil)
    truth = true_pixels(sparse_truth((375, 1242)), RAW)
    with pytest.raises(FadepthError, match="not positive and finite"):
        pixel_metrics(truth.depth, depth_at_pixels(disparity, truth, RAW), RAW)


def test_no_pixel_that_counts_is_told() -> None:
    nothing = TruePixels((60, 200), np.zeros(0, np.intp), np.zeros(0, np.float32))
    with pytest.raises(FadepthError, match="no ground truth pixel between"):
        pixel_metrics(nothing.depth, depth_at_pixels(np.ones((8, 8)), nothing, RAW), RAW)
