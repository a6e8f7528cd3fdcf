"""Ratios of latencies as a figure: where dots and intervals are, what can be read."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fadepth.errors import FadepthError
from fadepth.report.latency_figure import RatioLine, draw_ratios, ratio_ticks, ratios
from tests.report.figure_checks import artist, assert_clean, assert_same_files, drawn, ids, words

LINES = (
    RatioLine("smalldepth-folded", "eager", "fp32", 0.107, 0.105, 0.112, 20.31),
    RatioLine("smalldepth-folded", "onnxruntime", "int8", 0.041, 0.035, 0.044, 8.2),
    RatioLine("a peer with a name of some length", "eager", "bf16", 2.5, 2.1, 3.0, 410),
    RatioLine("monodepth2", "eager", "fp32", 1.0, None, None, 190.0),
)  # fmt: skip
WORDS = {
    "title": "Latency in terms of monodepth2, 192×640, batch 1",
    "axis": "time over that of monodepth2 in the same round, log scale",
    "foot": "A processor; 2 cores; 1 thread; torch 2.13; 30 rounds",
}


def test_dots_and_intervals_are_where_the_numbers_say() -> None:
    figure = ratios(LINES, **WORDS)
    heights = []
    for line in LINES:
        name = f"{line.model}, {line.backend}, {line.precision}"
        (x,), (y,) = drawn(figure, f"ratio:{name}")
        assert x == line.ratio
        heights.append(y)
        if line.low is not None:
            assert drawn(figure, f"interval:{name}") == [[line.low, line.high], [y, y]]
        else:
            assert f"interval:{name}" not in ids(figure)
    assert heights == sorted(heights)  # downwards
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    left, right = axes.get_xlim()
    assert left < 0.035
    assert right > 3.0
    assert drawn(figure, "yardstick")[0] == [1, 1]
    assert artist(figure, "yardstick").get_visible()


def test_what_can_be_read() -> None:
    told = words(ratios(LINES, **WORDS))
    for said in (*WORDS.values(), "0.107", "0.105 to 0.112", "20.3 ms", "onnxruntime, int8",
                 "smalldepth-folded", "fp32: median", "int8: median", "95 % interval"):  # fmt: skip
        assert said in told
    assert told.count("smalldepth-folded") == 1
    # Only what is there has a name.
    alone = words(ratios([LINES[3]], **WORDS))
    assert "int8" not in alone
    assert alone.count("95 % interval") == 1  # the column's head


def test_no_label_covers_another() -> None:
    assert_clean(ratios(LINES, **WORDS))
    many = [
        dataclasses.replace(LINES[0], model=f"net {n // 5}", backend=f"backend {n % 5}")
        for n in range(40)
    ]
    assert_clean(ratios(many, **WORDS))


def test_a_name_of_any_length_is_cut() -> None:
    figure = ratios([dataclasses.replace(LINES[0], model=word) for word in ("n" * 300, "n " * 300)],
                    **WORDS)  # fmt: skip
    assert_clean(figure)
    assert words(figure).count("…") == 2


@pytest.mark.parametrize("span", [(0.9, 1.1), (0.03, 3.0), (0.0005, 700.0), (0.99, 1.01)])
def test_ticks_are_round_numbers_within_the_axis(span: tuple[float, float]) -> None:
    low, high = span
    ticks, labels = ratio_ticks(low, high, 3.0)
    assert 1 in ticks
    assert all(low <= tick <= high for tick in ticks)
    assert [float(label) for label in labels] == pytest.approx(ticks)


def test_the_same_lines_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        draw_ratios(tmp_path / name / "speed.png", LINES, **WORDS)
    assert_same_files(tmp_path / "one" / "speed.png", tmp_path / "other" / "speed.png")


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"high": float("nan")}, {"latency_ms": -1.0}])
def test_numbers_that_cannot_be_drawn(wrong: dict[str, Any], tmp_path: Path) -> None:
    line = dataclasses.replace(LINES[0], **wrong)
    with pytest.raises(FadepthError, match="not positive and finite"):
        draw_ratios(tmp_path / "speed.png", [line], **WORDS)
    with pytest.raises(FadepthError, match="has no lines"):
        draw_ratios(tmp_path / "speed.png", [], **WORDS)
