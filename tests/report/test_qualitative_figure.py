"""Predictions beside each other: the pixels are the numbers given, in colours that can be read."""

import dataclasses
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fadepth.errors import FadepthError
from fadepth.report.figure_style import TEXT
from fadepth.report.qualitative_figure import (
    DEPTH_MAP,
    ERROR_MAP,
    PAGE,
    QualitativeFrame,
    draw_qualitative,
    inverse_range,
    qualitative,
    relative_error,
)
from tests.report.figure_checks import STAMP, artist, assert_clean, assert_same_files, words

METHODS = ("SmallDepth", "HQDecv2", "SmallDepth without the teacher's targets", "mean disparity")


def frame_of(label="street 1, frame 3", size=(24, 80), methods=METHODS[:2], share=0.9):
    """Random depths; truth on a share of the pixels, 0 and NaN elsewhere."""
    rng = np.random.default_rng([*size, len(methods)])
    truth = rng.uniform(3, 60, size)
    predictions = {m: truth * rng.uniform(0.7, 1.6, size) for m in methods}
    gone = rng.random(size) >= share
    truth[gone] = np.where(rng.random(size) < 0.5, 0, np.nan)[gone]
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    return QualitativeFrame(
        label, image, truth, predictions, {m: 0.1 + n / 100 for n, m in enumerate(methods)}
    )


def figure_of(frames, stamp=STAMP):
    return qualitative(frames, title="Predictions", stamp=stamp)


def luminance(rgb):
    """CIE L* of sRGB colours (..., 3) in [0, 1] (IEC 61966-2-1, CIE 1976)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, y * (29 / 3) ** 3)


@pytest.mark.parametrize("colours", [DEPTH_MAP, ERROR_MAP], ids=["depth", "error"])
def test_maps_can_be_read_in_grey(colours):
    values = luminance(np.array(colours(np.arange(colours.N)))[:, :3])
    steps = np.diff(values)
    assert (steps > 0).all() and steps.max() < 3 * steps.mean()  # rises, and evenly
    # Black says "no truth" and nothing else.
    assert to_rgb(tuple(colours.get_bad()[:3])) == (0, 0, 0) and values[0] > 15
    assert values[-1] - values[0] > 55


def test_pixels_are_the_numbers_given():
    frame = frame_of()
    figure = figure_of([frame])
    known = frame.known
    assert known.sum() == np.nansum(np.nan_to_num(frame.truth) > 0) and 0.8 < known.mean() < 1
    shown = artist(figure, f"input:{frame.label}").get_array()
    assert np.array_equal(shown, frame.image)
    truth = artist(figure, f"truth:{frame.label}").get_array()
    assert np.array_equal(~np.ma.getmaskarray(truth), known)
    np.testing.assert_allclose(truth[known], 1 / frame.truth[known])
    for method, depth in frame.predictions.items():
        drawn = artist(figure, f"{method}:{frame.label}").get_array()
        np.testing.assert_allclose(drawn, 1 / depth)
        error = artist(figure, f"error of {method}:{frame.label}").get_array()
        assert np.array_equal(~np.ma.getmaskarray(error), known)
        for y, x in ((0, 3), (10, 50), (23, 79)):
            if known[y, x]:
                t, d = float(frame.truth[y, x]), float(depth[y, x])
                assert error[y, x] == pytest.approx(max(t - d, d - t) / t)
        assert np.isnan(relative_error(frame, method)[~known]).all()


def test_truth_and_predictions_of_a_frame_share_one_range_and_all_errors_another():
    near, far = frame_of("near"), frame_of("far", (30, 60))
    far = dataclasses.replace(
        far, truth=10 * far.truth, predictions={m: 10 * d for m, d in far.predictions.items()}
    )
    figure = figure_of([near, far])
    ranges = {}
    for frame in (near, far):
        names = ("truth", *METHODS[:2])
        found = {artist(figure, f"{name}:{frame.label}").get_clim() for name in names}
        (ranges[frame.label],) = found
        for method in METHODS[:2]:
            error = artist(figure, f"error of {method}:{frame.label}")
            assert error.get_clim() == (0, 0.5) and error.get_cmap() == ERROR_MAP
        low, high = inverse_range(frame)
        assert ranges[frame.label] == (low, high)
        maps = [1 / values for values in (frame.truth[frame.known], *frame.predictions.values())]
        below = [(values < low).mean() for values in maps]
        above = [(values > high).mean() for values in maps]
        # No map loses more than a hundredth of its pixels at an end; the widest loses just that.
        for shares in (below, above):
            assert max(shares) == pytest.approx(0.01, abs=0.001)
    assert ranges["near"][0] > 5 * ranges["far"][0]


def test_colour_bars_print_metres_at_inverse_depths():
    figure = figure_of([frame_of()])
    low, high = inverse_range(frame_of())
    bars = [a for a in figure.axes if a.get_xlim() == pytest.approx((low, high))]
    assert len(bars) == 1
    labels = [label.get_text() for label in bars[0].get_xticklabels()]
    assert len(labels) >= 4
    assert [1 / float(label) for label in labels] == pytest.approx(list(bars[0].get_xticks()))
    ramp = bars[0].images[0]
    assert ramp.get_cmap() == DEPTH_MAP and ramp.get_clim() == (low, high)
    assert np.all(np.diff(ramp.get_array()[0]) > 0)


def test_single_points_are_enlarged_and_keep_their_value():
    frame = frame_of(size=(375, 1242), share=0.03)
    figure = figure_of([frame])
    known = frame.known
    assert known.mean() < 0.05
    truth = artist(figure, f"truth:{frame.label}")
    assert truth.get_interpolation() == "nearest"
    shown = truth.get_array()
    np.testing.assert_allclose(shown[known], 1 / frame.truth[known])
    assert (~np.ma.getmaskarray(shown)).mean() > 5 * known.mean()
    assert set(shown.compressed()) <= set(1 / frame.truth[known])
    assert "points enlarged" in words(figure)
    assert "points enlarged" not in words(figure_of([frame_of()]))


def test_corners_print_the_errors_given():
    frame = frame_of(size=(40, 130), methods=METHODS)
    figure = figure_of([frame])
    for method in METHODS:
        axes = artist(figure, f"error of {method}:{frame.label}").axes
        assert [t.get_text() for t in axes.texts] == [f"Abs Rel {frame.abs_rel[method]:.3f}"]


SIZES = ((375, 1242), (38, 60), (37, 122), (64, 208), (40, 36), (48, 160))


@pytest.mark.parametrize("share", [0.05, 1.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("methods", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_any_number_of_frames_fits_on_a_page(count, methods, share):
    sizes = SIZES[-count:] if methods < 4 else SIZES[:count]
    frames = [
        frame_of(f"street {n}, frame {n + 3}", size, METHODS[:methods], share)
        for n, size in enumerate(sizes)
    ]
    stamp = dataclasses.replace(STAMP, scale=("smoke", "quick", "full")[count % 3])
    figure = figure_of(frames, stamp)
    width, height = figure.get_size_inches()
    assert width <= TEXT + 1e-6 and height < PAGE + 2
    assert_clean(figure)
    said = words(figure)
    assert stamp.sentence() in said
    assert ("not a result" in said) == (stamp.scale == "smoke")
    for name in METHODS[:methods]:
        assert name.replace(" ", "") in said.replace(" ", "")
    pictures = [a for a in figure.axes if a.images and a.images[0].get_gid()]
    assert len(pictures) == count * (2 + 2 * methods)
    sides = [a.get_position() for a in pictures]
    for a, b in itertools.combinations(sides, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        assert min(across, min(a.y1, b.y1) - max(a.y0, b.y0)) < 1e-9
    for axes, side in zip(pictures, sides, strict=True):
        rows, columns = axes.images[0].get_array().shape[:2]
        assert side.width * width / (side.height * height) == pytest.approx(columns / rows)


def test_the_same_frames_give_the_same_files(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.report.test_qualitative_figure import *; "
        "draw_qualitative(Path(sys.argv[1]), [frame_of()], title='Q', stamp=STAMP)"
    )
    first, second = tmp_path / "a" / "frames.png", tmp_path / "b" / "frames.png"
    draw_qualitative(first, [frame_of()], title="Q", stamp=STAMP)
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(second)], check=True, cwd=root)
    assert_same_files(first, second)


def changed(**change):
    return dataclasses.replace(frame_of(), **change)


ONE = np.ones((24, 80))


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ([], "0 frames"),
        ([frame_of()] * 7, "7 frames"),
        ([changed(predictions={})], "0 methods"),
        ([changed(predictions={str(n): ONE for n in range(5)})], "5 methods"),
        ([frame_of(), changed(predictions={"SmallDepth": ONE})], "not the methods"),
        ([changed(abs_rel={"SmallDepth": 0.1})], "Abs Rel of each"),
        ([changed(truth=ONE[:, :40])], r"truth of size \(24, 40\)"),
        ([changed(truth=0 * ONE)], "no ground truth"),
        ([changed(predictions={"SmallDepth": ONE, "HQDecv2": 0 * ONE})], "HQDecv2 that is not"),
        ([changed(abs_rel={"SmallDepth": 0.1, "HQDecv2": math.nan})], "HQDecv2 that is not"),
    ],
)
def test_frames_that_do_not_fit_are_refused(frames, match):
    with pytest.raises(FadepthError, match=match):
        figure_of(frames)
