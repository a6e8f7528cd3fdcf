"""Rows as points: every number where it belongs, intervals by hand, letters apart."""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fadepth.errors import FadepthError
from fadepth.execution.rows import draw_table_rows
from fadepth.report.rows_figure import RowPoints, draw_rows, rows_figure
from fadepth.report.small_png import small_png
from tests.report.fakes import study_of, write_runs
from tests.report.figure_checks import (
    STAMP,
    assert_clean,
    assert_same_files,
    drawn,
    ids,
    words,
)

ROWS = (
    RowPoints("constant depth", "baseline", (0.48,)),
    RowPoints("median depth per pixel", "baseline", (0.33,)),
    RowPoints("SmallDepth", "variant", (0.28, 0.29, 0.30)),
    RowPoints("+ ETM + pyramid loss + APX", "variant", (0.26, 0.27, 0.25)),
    RowPoints("HQDecv2 (teacher)", "teacher", (0.267,)),
)


def figure_of(rows):
    return rows_figure(rows, title="Components", axis="Abs Rel (smaller is better)", stamp=STAMP)


def test_means_seeds_and_intervals_are_where_they_belong():
    figure = figure_of(ROWS)
    assert drawn(figure, "mean:SmallDepth")[0] == pytest.approx([0.29])
    assert drawn(figure, "seeds:SmallDepth")[0] == [0.28, 0.29, 0.30]
    # Student's t with two degrees of freedom, from any table: 4.302653.
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert drawn(figure, "interval:SmallDepth")[0] == pytest.approx([0.29 - half, 0.29 + half])
    assert "interval:HQDecv2 (teacher)" not in ids(figure)
    assert drawn(figure, "best baseline")[0] == [0.33, 0.33]
    assert "0.290 ± 0.010" in words(figure)
    assert "says nothing about the paper" in words(figure)


def test_rows_of_a_kind_stand_together_below_each_other():
    """Students first, then the teacher, then what does not look at the image."""
    figure = figure_of(ROWS)
    heights = {row.label: drawn(figure, f"mean:{row.label}")[1][0] for row in ROWS}
    order = sorted(heights, key=lambda label: heights[label])
    assert order == [ROWS[2].label, ROWS[3].label, ROWS[4].label, ROWS[0].label, ROWS[1].label]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        ROWS[2:3],
        (RowPoints("one", "variant", (0.3,)), RowPoints("two", "variant", (0.3,))),
        tuple(RowPoints(f"a row with a rather long name, number {n}", "variant", (n / 7, n / 9))
              for n in range(1, 30)),
    ],
)  # fmt: skip
def test_no_label_is_cut_or_covered(rows):
    figure = figure_of(rows)
    assert_clean(figure)
    (axes,) = (a for a in figure.axes if a.get_xlim() != (0, 1))
    low, high = axes.get_xlim()
    for row in rows:
        assert all(low < value < high for value in row.values)


def test_files_are_the_same_twice(tmp_path: Path):
    paths = [tmp_path / name / "rows.png" for name in "ab"]
    for path in paths:
        draw_rows(path, ROWS, title="Components", axis="Abs Rel", stamp=STAMP)
    assert_same_files(*paths)


def test_rows_without_numbers_are_refused(tmp_path: Path):
    for rows, told in (
        ((), "no rows"),
        ((RowPoints("x", "variant", ()),), "'x' has no finite number"),
        ((RowPoints("x", "variant", (math.nan,)),), "'x' has no finite number"),
    ):  # fmt: skip
        with pytest.raises(FadepthError, match=told):
            draw_rows(tmp_path / "rows.png", rows, title="", axis="", stamp=STAMP)
    assert not list(tmp_path.iterdir())


def test_a_table_is_drawn_from_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = study_of(seeds=[1, 2])
    values = {"student": 0.3, "teacher": 0.25, "baseline": 0.4}
    write_runs(study, tmp_path / "runs", lambda run: values[run.kind] + 0.01 * run.seed)
    given: list[RowPoints] = []

    def kept(path, rows, **words):
        given.extend(rows)
        assert words["axis"] == "Abs Rel of test images (smaller is better)"

    monkeypatch.setattr("fadepth.execution.rows.draw_rows", kept)
    draw_table_rows(study, tmp_path / "runs", tmp_path / "rows.png")
    assert [row.label for row in given] == [row.label for row in study.rows]
    assert given[0].values == pytest.approx((0.31, 0.32))
    assert [given[n].kind for n in (0, 8, 9)] == ["variant", "teacher", "baseline"]


def test_small_png_keeps_all_colours_where_they_fit():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    whole = small_png(image)
    assert np.array_equal(np.asarray(Image.open(BytesIO(whole))), noise)
    few = small_png(image, limit=len(whole) - 1)
    assert len(few) < len(whole)
    assert Image.open(BytesIO(few)).size == (80, 60)
