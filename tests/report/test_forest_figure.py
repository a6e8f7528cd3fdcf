"""The forest of effects: what is drawn is what was given, and it can be read."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image
from scipy import stats as scipy_stats

from fadepth.errors import FadepthError
from fadepth.report.figure_style import (
    COLUMN,
    apart,
    signed,
    text_width,
    wrapped,
    write_figure,
)
from fadepth.report.forest_figure import EffectLine, axis_range, draw_forest, forest
from fadepth.report.panels import thickened
from tests.report.figure_checks import (
    STAMP,
    artist,
    assert_clean,
    assert_same_files,
    drawn,
    ids,
    words,
)

AXIS = "change of Abs Rel (negative is better)"
NAMES = (
    "pyramid loss",
    "APX",
    "teacher's targets",
    "weighting by consistency",
    "AC blocks",
    "pyramid loss × APX",
    "APX × AC blocks of every resolution, trained with the teacher's targets",
    "an_identifier_that_is_much_longer_than_a_line_of_labels_may_be",
)


def interval(values):
    if len(values) < 2:
        return None, None
    found = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    return float(found.low), float(found.high)


def effects(seeds, spread=0.006):
    rng = np.random.default_rng(seeds)
    found = []
    for number, name in enumerate(NAMES):
        values = tuple(float(v) for v in rng.normal(0, 0.02) + rng.normal(0, spread, seeds))
        low, high = interval(values)
        group = "main effects" if number < 5 else "interactions"
        note = "one seed: these trainings only" if seeds == 1 else "p = 0.25"
        found.append(EffectLine(name, math.fsum(values) / seeds, low, high, group, note, values))
    return found


def figure_of(lines, noise=0.005, stamp=STAMP):
    return forest(lines, title="Effects", axis=AXIS, noise=noise, stamp=stamp)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_what_is_drawn_is_what_was_given(seeds):
    lines = effects(seeds)
    figure = figure_of(lines, noise=0.004)
    axes = figure.axes[0]
    left, right = axes.get_xlim()
    rows = []
    for line in lines:
        (x,), (y,) = drawn(figure, f"mean:{line.label}")
        assert x == line.mean and left < x < right
        seeds_x, seeds_y = drawn(figure, f"seeds:{line.label}")
        assert seeds_x == list(line.by_seed) and len(set(seeds_y)) == 1
        assert left < min(seeds_x) and max(seeds_x) < right
        assert seeds_y[0] > y  # y grows downwards
        rows.append((y, seeds_y[0]))
        if seeds == 1:
            assert f"interval:{line.label}" not in ids(figure)
        else:
            ends, _ = drawn(figure, f"interval:{line.label}")
            assert ends == [max(line.low, left), min(line.high, right)]
    assert axes.yaxis_inverted() and rows == sorted(rows)  # the order is kept
    zero, _ = drawn(figure, "zero")
    assert zero == [0, 0]
    band = artist(figure, "noise")
    assert isinstance(band, Rectangle)
    assert (band.get_x(), band.get_width()) == (-0.004, 0.008)
    assert "noise floor of repeated baselines" in words(figure)


def test_numbers_stand_beside_their_interval():
    lines = [
        EffectLine("a", -0.0211, -0.0352, -0.0068, "", "", ()),
        EffectLine("b", 0.0444, None, None, "", "", ()),
        EffectLine("c", 0.0, -0.0002, 0.0304, "", "", ()),
    ]
    figure = figure_of(lines)
    at = {t.get_text(): t.get_window_extent() for t in figure.texts}
    shown = ["−0.021 [−0.035, −0.007]", "+0.044", "0.000 [−0.000, +0.030]"]
    for line, text in zip(lines, shown, strict=True):
        _, (y,) = drawn(figure, f"mean:{line.label}")
        pixel = figure.axes[0].transData.transform((0, y))[1]
        assert abs((at[text].y0 + at[text].y1) / 2 - pixel) < 0.03 * figure.dpi


@pytest.mark.parametrize(
    ("low", "high", "marker"),
    [
        (-0.03, -0.001, "filled"),
        (0.001, 0.03, "filled"),
        (-0.03, 0.001, "open"),
        (-0.03, 0.0, "open"),
        (0.0, 0.03, "open"),
        (None, None, "cross"),
    ],
)
def test_the_marker_says_whether_the_interval_holds_zero(low, high, marker):
    line = EffectLine("a", 0.0 if low is None else (low + high) / 2, low, high, "", "", ())
    figure = figure_of([line], noise=None)
    mean = artist(figure, "mean:a")
    sign = mean.get_marker(), mean.get_markerfacecolor() == "white"
    assert sign == {"filled": ("o", False), "open": ("o", True), "cross": ("x", False)}[marker]
    named = {"filled": "leaves out zero", "open": "holds zero", "cross": "no interval"}
    assert [kind for kind, text in named.items() if text in words(figure)] == [marker]


def test_a_wide_interval_is_cut_and_ends_in_arrows():
    narrow = [EffectLine(f"n{i}", -0.01 * i, -0.01 * i - 0.004, -0.01 * i + 0.004, "", "", ())
              for i in range(1, 4)]  # fmt: skip
    both = EffectLine("both", -0.02, -0.4, 0.36, "", "", (-0.05, 0.01))
    right = EffectLine("right", -0.02, -0.03, 0.36, "", "", ())
    figure = figure_of([*narrow, both, right], noise=None)
    low, high = figure.axes[0].get_xlim()
    # The effects, 0.06 from end to end with the seeds, have at least a third of the axis.
    assert high - low < 0.18 and low < -0.05 and high > 0.01
    assert drawn(figure, "interval:both")[0] == [low, high]
    assert drawn(figure, "arrow<:both")[0] == [low] and drawn(figure, "arrow>:both")[0] == [high]
    assert artist(figure, "arrow<:both").get_marker() == "<"
    assert drawn(figure, "end<:right")[0] == [-0.03] and drawn(figure, "arrow>:right")[0] == [high]
    assert {i for i in ids(figure) if i.startswith("arrow")} == {
        "arrow<:both",
        "arrow>:both",
        "arrow>:right",
    }
    assert "goes on beyond the axis" in words(figure)
    assert "−0.020 [−0.400, +0.360]" in words(figure)
    whole = figure_of(narrow, noise=None)
    assert not [i for i in ids(whole) if i.startswith("arrow")]
    assert "goes on beyond" not in words(whole)


def test_axis_range_holds_all_that_must_be_seen():
    rng = np.random.default_rng(0)
    for _ in range(200):
        count = int(rng.integers(1, 6))
        means = rng.normal(0, 10.0 ** rng.uniform(-4, 1), count)
        half = abs(rng.normal(0, 10.0 ** rng.uniform(-4, 2), count))
        noise = None if rng.random() < 0.5 else float(abs(rng.normal(0, 0.1)))
        lines = [
            EffectLine("", float(m), float(m - h), float(m + h), "", "", (float(m), float(m)))
            for m, h in zip(means, half, strict=True)
        ]
        low, high = axis_range(lines, noise)
        must = [0.0, *means, -(noise or 0), noise or 0]
        assert low < min(must) and max(must) < high
        assert high - low <= 1.12 * 2.5 * (max(must) - min(must)) + 1e-12
    low, high = axis_range([EffectLine("", 0.0, None, None, "", "", ())], None)
    assert low < 0 < high
    # With one seed nothing but intervals tells of the uncertainty: they are not cut.
    low, high = axis_range([EffectLine("", 0.001, -3.0, 2.0, "", "", ())], None)
    assert low < -3
    assert high > 2


@pytest.mark.parametrize("scale", ["smoke", "quick", "full"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_every_label_can_be_read(seeds, scale):
    stamp = dataclasses.replace(STAMP, scale=scale, seeds=tuple(range(12)))
    figure = figure_of(effects(seeds), stamp=stamp)
    assert figure.get_size_inches()[0] == COLUMN
    assert_clean(figure)
    said = words(figure)
    assert stamp.sentence() in said
    warnings = {"smoke": "smoke: not a result", "quick": "says nothing about the paper's numbers"}
    assert [s for s, text in warnings.items() if text in said] == (
        [] if scale == "full" else [scale]
    )
    assert AXIS in said and all(group in said for group in ("main effects", "interactions"))
    for name in NAMES:
        assert name.replace(" ", "") in said.replace(" ", "")


def test_groups_stand_together():
    lines = [EffectLine(n, 0.0, None, None, g, "", ()) for n, g in ("ax", "by", "cx", "dy")]
    figure = figure_of(lines)
    order = sorted("abcd", key=lambda n: drawn(figure, f"mean:{n}")[1])
    assert order == ["a", "c", "b", "d"]


def test_the_same_effects_give_the_same_files(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.report.test_forest_figure import *; "
        "draw_forest(Path(sys.argv[1]), effects(3), title='Effects', axis=AXIS, noise=0.005, "
        "stamp=STAMP)"
    )
    first, second = tmp_path / "a" / "forest.png", tmp_path / "b" / "forest.png"
    draw_forest(first, effects(3), title="Effects", axis=AXIS, noise=0.005, stamp=STAMP)
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(second)], check=True, cwd=root)
    assert_same_files(first, second)
    with Image.open(first) as image:
        assert image.width == 1260


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"low": None}, "both ends"),
        ({"low": 0.5}, "the lower one first"),
        ({"mean": math.nan}, "not finite"),
        ({"by_seed": (math.inf,)}, "not finite"),
    ],
)
def test_half_an_interval_or_no_number_is_refused(change, match):
    line = EffectLine("APX", 0.0, -0.1, 0.1, "", "", (0.0,))
    with pytest.raises(FadepthError, match=match) as told:
        figure_of([dataclasses.replace(line, **change)])
    assert "APX" in str(told.value)


def test_an_empty_forest_and_another_format_are_refused(tmp_path):
    with pytest.raises(FadepthError, match="no lines"):
        figure_of([])
    with pytest.raises(FadepthError, match="noise floor"):
        figure_of(effects(1), noise=math.nan)
    with pytest.raises(FadepthError, match=r"forest\.svg must end in \.png"):
        write_figure(figure_of(effects(1)), tmp_path / "forest.svg")
    assert not list(tmp_path.iterdir())


# What all figures of results share


@pytest.mark.parametrize("width", [0.2, 0.5, 1.0, 3.0])
def test_wrapped_keeps_all_letters_within_the_width(width):
    text = "one seed: these_trainings_only, × $5 and $6\nnext line"
    result = wrapped(text, width, 6.5)
    assert result.replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert all(text_width(line, 6.5) <= width for line in result.split("\n"))
    assert wrapped(text, 9, 6.5) == text


def test_signed_and_apart():
    values = (0.0214, -0.0214, 0.0, -0.0001)
    assert [signed(v, 3) for v in values] == ["+0.021", "−0.021", "0.000", "−0.000"]
    wide = text_width("0.05", 6.0)
    assert apart([0, wide + 0.07], ["0.05", "0.05"]) and not apart([0, wide + 0.05], ["0.05"] * 2)


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_thickened_spreads_points_and_keeps_them(reach):
    rng = np.random.default_rng(reach)
    known = rng.random((20, 30)) < 0.02
    picture = np.where(known, rng.random((20, 30)), -1.0)
    result = thickened(picture, known, reach)
    for y in range(20):
        for x in range(30):
            window = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            if known[y, x]:
                assert result[y, x] == picture[y, x]
            elif known[window].any():
                assert result[y, x] in picture[window][known[window]]
            else:
                assert result[y, x] == -1
