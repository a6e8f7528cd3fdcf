"""Verdicts and scores against numbers computed by hand; the companion table of a filled file."""

import csv
import dataclasses
import io
import statistics
from pathlib import Path

import numpy as np
import pytest

from fadepth.errors import FadepthError
from fadepth.report.comparison import (
    Ours,
    compare_cell,
    comparison_table,
    noise_interval,
    reproduction_score,
)
from fadepth.report.reference import applicable, read_references
from fadepth.report.table import Column, Stamp, Table, marks

PAPER = Path(__file__).parents[2] / "ablations" / "paper"
#: Three seeds: t = 4.302653 (any table of Student's distribution), sqrt(1 + 1/3) = 1.154701.
THREE = 4.302653 * 1.154701


def judge(ours, paper, base_ours=None, base_paper=None, is_baseline=False, decimals=3):
    return compare_cell(
        ours,
        paper,
        baseline_ours=base_ours,
        baseline_paper=base_paper,
        is_baseline=is_baseline,
        decimals=decimals,
    )


# Verdicts


def test_noise_is_the_prediction_interval_of_one_more_training():
    assert noise_interval(Ours(0.11, 0.001, 3)) == pytest.approx(0.001 * THREE, rel=1e-5)
    # Two seeds: t = 12.7062, sqrt(3/2) = 1.224745.
    assert noise_interval(Ours(0.11, 0.001, 2)) == pytest.approx(0.0155619, rel=1e-4)
    assert noise_interval(Ours(0.11, None, 1)) is None


def test_noise_holds_95_percent_of_further_trainings():
    """By simulation: a fourth training of the same normal distribution is within."""
    draws = np.random.default_rng(7).normal(0.11, 0.002, (4000, 4))
    within = 0
    for *seeds, further in draws.tolist():
        ours = Ours(statistics.fmean(seeds), statistics.stdev(seeds), 3)
        within += judge(ours, further, is_baseline=True, decimals=9) == "within noise"
    assert within / len(draws) == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


@pytest.mark.parametrize(
    ("paper", "verdict"),
    [
        # Half width 0.0049683, and 0.0005 for the third digit.
        (0.110, "within noise"),
        (0.115, "within noise"),
        (0.1154, "within noise"),
        (0.1156, "different"),
        (0.1046, "within noise"),
        (0.1044, "different"),
    ],
)
def test_within_noise(paper, verdict):
    assert judge(Ours(0.110, 0.001, 3), paper, is_baseline=True) == verdict


def test_rounding_counts_even_without_noise():
    ours = Ours(0.1104, 0.0, 3)
    assert judge(ours, 0.110, is_baseline=True) == "within noise"
    assert judge(ours, 0.110, is_baseline=True, decimals=4) == "different"


@pytest.mark.parametrize(
    ("ours", "base", "paper", "base_paper", "verdict"),
    [
        (0.120, 0.130, 0.100, 0.105, "same direction"),
        (0.130, 0.120, 0.105, 0.100, "same direction"),
        (0.130, 0.120, 0.100, 0.105, "different"),
        # At the paper's digits ours are equal, the paper's are not.
        (0.1201, 0.1204, 0.100, 0.101, "different"),
        (0.1201, 0.1204, 0.101, 0.101, "same direction"),
        (0.120, 0.130, 0.101, 0.101, "different"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_direction(ours, base, paper, base_paper, verdict, seeds):
    std = None if seeds == 1 else 1e-4
    assert judge(Ours(ours, std, seeds), paper, Ours(base, std, seeds), base_paper) == verdict


def test_one_seed_is_never_within_noise():
    one = Ours(0.110, None, 1)
    assert judge(one, 0.110, is_baseline=True) == "no verdict"
    assert judge(one, 0.110) == "no verdict"
    assert judge(one, 0.110, Ours(0.12, None, 1), 0.12) == "same direction"
    assert judge(one, 0.110, Ours(0.12, None, 1), None) == "no verdict"
    assert judge(one, 0.110, None, 0.12) == "no verdict"


# Score


def test_score_counts_orderings():
    # Pairs of the paper: 1-2 (0.115 > 0.112), 1-3, 1-4, 2-3, 2-4 apart; 3-4 tie.
    paper = [0.115, 0.112, 0.110, 0.110]
    same = [0.125, 0.121, 0.118, 0.119]
    assert reproduction_score(list(zip(same, paper, strict=True)), 3) == (5, 5)
    # The second is now the best: it stands wrong to both of those that the paper puts below it.
    other = [0.125, 0.117, 0.118, 0.119]
    assert reproduction_score(list(zip(other, paper, strict=True)), 3) == (3, 5)
    reverse = [-value for value in same]
    assert reproduction_score(list(zip(reverse, paper, strict=True)), 3) == (0, 5)


def test_score_at_the_papers_digits():
    pairs = [(0.1201, 0.112), (0.1199, 0.110)]
    assert reproduction_score(pairs, 3) == (0, 1), "0.120 is not above 0.120"
    assert reproduction_score(pairs, 4) == (1, 1)
    assert reproduction_score(pairs, 1) == (0, 0), "both print 0.1"
    assert reproduction_score([], 3) == (0, 0)


# Table


def filled(tmp_path, numbers, table="table_ablation"):
    """Copy a shipped file without the paper's numbers and fill cells: (row, column) -> text."""
    lines = list(csv.DictReader((PAPER / f"{table}.csv").read_text(encoding="utf-8").splitlines()))
    for line in lines:
        if line["kind"] == "paper":
            line |= dict.fromkeys(list(line)[6:], "")
        for (row, column), text in numbers.items():
            if line["row"] == row:
                line |= {column: text, "source": "arXiv 2405.10885, table 6"}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    path = tmp_path / f"{table}.csv"
    path.write_text(stream.getvalue(), encoding="utf-8")
    return read_references(path)


def ours_table(scale="full"):
    return Table(
        name="table_ablation",
        title="Components",
        columns=(
            Column("row", "Row", "Row"),
            Column("abs_rel", "Abs Rel ↓", r"Abs Rel $\downarrow$", "lower", 3),
            Column("delta_1", "δ₁ ↑", r"$\delta_1$ $\uparrow$", "higher", 3, group="Plain"),
        ),
        rows=(),
        stamp=Stamp(scale, (1, 2, 3), "kitti", "kitti_eigen_raw", "abc"),
    )


OURS = {
    "SmallDepth": {"abs_rel": Ours(0.1210, 0.001, 3), "delta_1": Ours(0.860, 0.002, 3)},
    "+ ETM": {"abs_rel": Ours(0.1190, 0.0001, 3)},
    "+ APX": {"abs_rel": Ours(0.1230, 0.0001, 3)},
    "a row of ours only": {"abs_rel": Ours(0.2, 0.1, 3)},
}
NUMBERS = {
    ("SmallDepth", "abs_rel"): "0.120",
    ("SmallDepth", "delta_1"): "0.861",
    ("+ ETM", "abs_rel"): "0.115",
    ("+ APX", "abs_rel"): "0.11",
    ("+ pyramid loss", "abs_rel"): "0.105",
}


def test_filled_cells_give_a_table(tmp_path):
    references = filled(tmp_path, NUMBERS)
    found = comparison_table(ours_table(), references, OURS, baseline="SmallDepth")
    assert found is not None
    assert found.name == "table_ablation_paper"
    assert found.stamp == ours_table().stamp
    shown = [
        tuple(row.cells[key] for key in ("row", "metric", "ours", "paper", "verdict", "seeds"))
        for row in found.rows
    ]
    assert shown == [
        ("SmallDepth", "Abs Rel", 0.1210, "0.120", "within noise", 3),
        ("SmallDepth", "Plain: δ₁", 0.860, "0.861", "within noise", 3),
        ("+ ETM", "Abs Rel", 0.1190, "0.115", "same direction", 3),
        ("+ APX", "Abs Rel", 0.1230, "0.11", "different", 3),
    ]
    differences = [row.cells["difference"] for row in found.rows]
    assert differences == pytest.approx([0.001, -0.001, 0.004, 0.013])
    assert [row.cells["ours_std"] for row in found.rows] == [0.001, 0.002, 0.0001, 0.0001]
    # The paper: SmallDepth > ETM > APX. Ours: APX > SmallDepth > ETM; one of three holds.
    assert found.notes[0] == "1 of 3 orderings hold"
    assert any("table 6" in note for note in found.notes)
    assert any("'SmallDepth'" in note for note in found.notes)
    second = {**NUMBERS, ("+ ETM", "delta_1"): "0.870"}
    ours = {**OURS, "+ ETM": {**OURS["+ ETM"], "delta_1": Ours(0.865, 0.001, 3)}}
    both = comparison_table(ours_table(), filled(tmp_path, second), ours, baseline="SmallDepth")
    assert both is not None
    assert both.notes[0] == "2 of 4 orderings hold (Abs Rel 1 of 3, Plain: δ₁ 1 of 1)"
    assert marks(found) == {}, "a comparison has no best"


def test_a_zero_lost_in_a_spreadsheet_does_not_widen_the_digits(tmp_path):
    """0.11 in a column of three decimals: with two, any value to 0.115 would be rounding."""
    ours = {"+ APX": {"abs_rel": Ours(0.114, 0.0001, 3)}}
    references = filled(tmp_path, NUMBERS)
    found = comparison_table(ours_table(), references, ours, baseline="SmallDepth")
    assert found is not None
    assert found.rows[0].cells["verdict"] == "different"


def test_no_table_without_numbers_of_the_paper(tmp_path):
    for name in ("table_ablation", "table_kitti", "table_complexity"):
        shipped = read_references(PAPER / f"{name}.csv")
        # What users have typed in meanwhile, aside.
        shipped = [r for r in shipped if r.kind == "reported" or "abstract" in r.source]
        ours = {
            r.row: {key: Ours(0.1, 0.001, 3) for key in (*r.values, "abs_rel")} for r in shipped
        }
        assert comparison_table(ours_table(), shipped, ours, baseline="SmallDepth") is None
    references = filled(tmp_path, NUMBERS)
    others = applicable(references, data="kitti", protocol="kitti_eigen_improved")
    assert comparison_table(ours_table(), others, OURS, baseline="SmallDepth") is None


@pytest.mark.parametrize("scale", ["smoke", "quick", "full, quick"])
def test_no_verdict_below_full_scale(tmp_path, scale):
    references = filled(tmp_path, NUMBERS)
    assert comparison_table(ours_table(scale), references, OURS, baseline="SmallDepth") is None


def test_another_size_of_the_paper_is_left_out(tmp_path):
    references = [
        dataclasses.replace(r, size="320x1024") if r.row == "+ ETM" else r
        for r in filled(tmp_path, NUMBERS)
    ]
    found = comparison_table(ours_table(), references, OURS, baseline="SmallDepth", size="192x640")
    assert found is not None
    assert {row.cells["row"] for row in found.rows} == {"SmallDepth", "+ APX"}


def test_two_numbers_for_one_cell_are_refused(tmp_path):
    references = filled(tmp_path, NUMBERS)
    twice = [*references, dataclasses.replace(references[0], size="320x1024")]
    with pytest.raises(FadepthError, match="'SmallDepth' has two numbers in column 'abs_rel'"):
        comparison_table(ours_table(), twice, OURS, baseline="SmallDepth")


def test_both_data_sets_of_generalisation(tmp_path):
    """Rows of two protocols under one label, each with its own columns."""
    text = (PAPER / "table_generalisation.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(text.splitlines()))
    for line in lines:
        if line["row"] == "SmallDepth":
            line |= {f"{line['data']}.abs_rel": "0.300", "source": "arXiv 2405.10885, table 11"}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    path = tmp_path / "table_generalisation.csv"
    path.write_text(stream.getvalue(), encoding="utf-8")
    references = read_references(path)
    both = [
        reference
        for name in ("make3d", "cityscapes")
        for reference in applicable(references, data=name, protocol=name)
    ]
    cell = Ours(0.31, 0.01, 3)
    ours = {"SmallDepth": {"make3d.abs_rel": cell, "cityscapes.abs_rel": cell}}
    found = comparison_table(ours_table(), both, ours, baseline="SmallDepth")
    assert found is not None
    assert [row.cells["metric"] for row in found.rows] == ["make3d.abs_rel", "cityscapes.abs_rel"]
