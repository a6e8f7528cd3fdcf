"""Robustness against networks whose behaviour under each alteration is known in closed form."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fadepth.data.manifest import Frame
from fadepth.evaluation.evaluate import evaluate
from fadepth.evaluation.protocols import find_protocol
from fadepth.evaluation.robustness import (
    CONDITIONS,
    altered_predictions,
    evaluate_robustness,
    log_difference,
    summary,
)
from fadepth.geometry import disparity_to_inverse_depth

SIZE = (64, 96)
PROTOCOL = find_protocol("synthetic_dense")


@pytest.fixture
def frames(tmp_path):
    """Two frames of noise with a dense depth ramp."""
    rng = np.random.default_rng(0)
    result = []
    for number in range(2):
        name = f"{number}.png"
        pixels = rng.integers(20, 160, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        depth = np.tile(np.linspace(4, 40, SIZE[1]), (SIZE[0], 1)) + number
        Image.fromarray((depth * 256).astype(np.uint16)).save(tmp_path / f"d{name}")
        result.append(Frame("d", number, "l", name, {}, (50, 50, 47, 31), *SIZE, None, f"d{name}"))
    return result


def blur(image):
    return F.avg_pool2d(image.mean(1, keepdim=True), 7, 1, 3) + 0.05


def column(image):
    """Inverse depth that depends on the place in the image alone: blind to its content."""
    return torch.linspace(0.1, 1, image.shape[-1]).expand(len(image), 1, *image.shape[-2:])


def test_mirror_is_undone(frames, tmp_path):
    """A network that works pixel by pixel does not change under mirroring, one bound to the
    left side does, by the mirrored map."""
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    maps = altered_predictions(blur, image)
    np.testing.assert_allclose(maps["flipped"], maps["clean"], rtol=1e-6)
    maps = altered_predictions(column, image)
    np.testing.assert_allclose(maps["flipped"], maps["clean"][:, ::-1])


def test_conditions_of_one_size_share_a_batch_and_keep_their_maps():
    """Each map is that of its own altered image alone."""
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    seen = []

    def predict(images):
        seen.append(tuple(images.shape))
        return blur(images) * column(images)

    maps = altered_predictions(predict, image)
    assert list(maps) == list(CONDITIONS)
    assert sorted(seen) == [(1, 3, 32, 48), (4, 3, *SIZE)]
    for name, condition in CONDITIONS.items():
        alone = condition.undo(predict(condition.alter(image)))[0, 0].double().numpy()
        np.testing.assert_allclose(maps[name], alone, rtol=1e-6)
    assert not np.allclose(maps["dark"], maps["bright"], rtol=0.1)


def test_reading_ahead_changes_no_bit(frames, tmp_path):
    plain = evaluate_robustness(frames, tmp_path, blur, SIZE, PROTOCOL)
    ahead = evaluate_robustness(frames, tmp_path, blur, SIZE, PROTOCOL, workers=2)
    pd.testing.assert_frame_equal(plain, ahead, check_exact=True)


def test_changes_are_the_logs_of_the_light_factors(frames, tmp_path):
    """A network that returns brightness changes by exactly log 2 in the dark."""
    table = evaluate_robustness(
        frames, tmp_path, lambda image: image.mean(1, keepdim=True), SIZE, PROTOCOL
    )
    result = summary(table)
    assert list(result) == list(CONDITIONS)
    assert result["clean"]["change"] == 0
    assert result["flipped"]["change"] == pytest.approx(0, abs=1e-6)
    assert result["dark"]["change"] == pytest.approx(np.log(2), rel=1e-5)
    # No pixel is above 160, so that 1.5 x does not clip.
    assert result["bright"]["change"] == pytest.approx(np.log(1.5), rel=1e-5)
    # A common factor is taken out by median scaling: same accuracy in any light.
    for name in ("dark", "bright"):
        assert result[name]["abs_rel"] == pytest.approx(result["clean"]["abs_rel"], rel=1e-5)


def test_clean_condition_is_the_evaluation(frames, tmp_path):
    """Same metrics as `evaluate`, frame by frame."""

    def of_frame(frame):
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / frame.image)))
        return blur(pixels.permute(2, 0, 1)[None].float() / 255)[0, 0].double().numpy()

    expected, _ = evaluate(frames, tmp_path, of_frame, PROTOCOL)
    table = evaluate_robustness(frames, tmp_path, blur, SIZE, PROTOCOL)
    clean = table[table["condition"] == "clean"]
    np.testing.assert_allclose(clean["abs_rel"], expected["abs_rel"], rtol=1e-6)


def test_half_size_reaches_the_network_and_comes_back(frames, tmp_path):
    """The network sees half the size; its map is compared at full size."""
    seen = []

    def predict(image):
        seen.append(tuple(image.shape[-2:]))
        return column(image)

    table = evaluate_robustness(frames[:1], tmp_path, predict, SIZE, PROTOCOL)
    assert (32, 48) in seen and SIZE in seen
    # A ramp resized is nearly the same ramp.
    assert summary(table)["half"]["change"] < 0.02


def test_teacher_distance_ignores_scale(frames, tmp_path):
    """A teacher of another scale is no distance; another shape is."""
    near = evaluate_robustness(
        frames, tmp_path, blur, SIZE, PROTOCOL, lambda image: 3 * blur(image)
    )
    assert summary(near)["clean"]["teacher_distance"] == pytest.approx(0, abs=1e-6)
    far = evaluate_robustness(frames, tmp_path, blur, SIZE, PROTOCOL, column)
    assert summary(far)["clean"]["teacher_distance"] > 0.1


def test_log_difference_in_closed_form():
    """Two maps whose logs differ by 1 on a quarter of the pixels."""
    a, b = np.ones((4, 4)), np.ones((4, 4))
    a[0] = np.e
    assert log_difference(np.log(a), np.log(b)) == pytest.approx(0.25)
    assert log_difference(np.log(5 * a), np.log(b), aligned=True) == pytest.approx(0.25)
    assert disparity_to_inverse_depth(torch.tensor(0.0)) > 0, "inverse depth has a logarithm"
