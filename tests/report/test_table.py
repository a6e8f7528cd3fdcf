"""Marks, rounding, escaping and the three formats of a table."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fadepth.report.table import Column, Stamp, Table, TableRow, marks, rounded
from fadepth.report.writers import (
    csv_text,
    escape_latex,
    escape_latex_header,
    latex_text,
    markdown_text,
    write_table,
)

NASTY = r"[a_b] 50% & #1 {x} ~y^2 $5 \cmd <z> |k| δ±·"


def make_table(values, *, scale="full", kinds=None, labels=None, decimals=3) -> Table:
    kinds = kinds or ["variant"] * len(values)
    labels = labels or [f"row {i}" for i in range(len(values))]
    return Table(
        name="my_table 1",
        title="Ablation of a_b",
        columns=(
            Column("row", "Row", "Row"),
            Column("apx", "APX", "APX"),
            Column(
                "abs_rel",
                "Abs Rel ↓",
                r"abs_rel $\downarrow$",
                direction="lower",
                decimals=decimals,
                spread="abs_rel_std",
            ),
            Column(
                "delta_1", "δ₁ ↑", r"$\delta_1$ $\uparrow$", direction="higher", decimals=decimals
            ),
            Column("abs_rel_std"),
        ),
        rows=tuple(
            TableRow(
                {
                    "row": label,
                    "apx": "on",
                    "abs_rel": value,
                    "delta_1": value,
                    "abs_rel_std": 0.0126 if value else None,
                },
                kind=kind,
                group=kind,
            )
            for label, value, kind in zip(labels, values, kinds, strict=True)
        ),
        stamp=Stamp(scale, (1, 2), "kitti_x", "kitti_eigen_raw", "abc123"),
        notes=("one seed: differences may be noise",),
    )


def test_ties_are_decided_on_the_printed_digits():
    # 0.1131 and 0.1129 both print 0.113: both are best, and 0.1144 is second.
    table = make_table([0.1131, 0.1129, 0.1144, 0.2])
    found = {index: mark for (index, key), mark in marks(table).items() if key == "abs_rel"}
    assert found == {0: "best", 1: "best", 2: "second"}


def test_direction_turns_the_ranking_round():
    found = marks(make_table([0.1, 0.2, 0.3]))
    assert found[0, "abs_rel"] == "best"
    assert found[2, "delta_1"] == "best"
    assert found[1, "delta_1"] == "second"


def test_reference_rows_do_not_compete():
    table = make_table([0.01, 0.3, 0.2], kinds=["teacher", "variant", "variant"])
    found = marks(table)
    assert (0, "abs_rel") not in found
    assert found[2, "abs_rel"] == "best"
    assert r"\textbf{0.010" not in latex_text(table)


def test_equal_variants_and_missing_values_are_not_marked():
    assert marks(make_table([0.1131, 0.1129])) == {}
    found = marks(make_table([None, float("nan"), 0.1, 0.2]))
    assert {index for index, _ in found} == {2, 3}


@pytest.mark.parametrize(
    ("value", "expected"),
    # 1.005 lies below the half in binary, 2.5 would round to even: readers expect the half up.
    [(0.1125, "0.113"), (1.0005, "1.001"), (2.5, "2.500"), (-0.0625, "-0.063"), (7, "7.000")],
)
def test_rounding_is_what_a_reader_does(value, expected):
    assert str(rounded(value, 3)) == expected


def test_csv_keeps_every_digit_and_leaves_missing_cells_empty():
    third = 1 / 3
    rows = list(
        csv.DictReader(io.StringIO(csv_text(make_table([third, None], labels=["a,b", "c"]))))
    )
    assert float(rows[0]["abs_rel"]) == third
    assert rows[0]["row"] == "a,b"
    assert rows[1]["abs_rel"] == ""
    assert list(rows[0]) == ["row", "apx", "abs_rel", "delta_1", "abs_rel_std"]


def test_missing_is_two_dashes_and_spread_follows_the_mean():
    text = latex_text(make_table([0.1, None]))
    assert r"0.100 $\pm$ 0.013" in text
    assert re.search(r"row 1 & \$\\bullet\$ & -- & -- \\\\", text)
    assert "| -- | -- |" in markdown_text(make_table([0.1, None]))


def test_latex_escapes_text_but_not_maths_of_headers():
    assert escape_latex_header(r"a_b $\delta_1$ 5%") == r"a\_b $\delta_1$ 5\%"
    assert escape_latex("a_b & 5% #1 {x}") == r"a\_b \& 5\% \#1 \{x\}"
    assert escape_latex("\\") == r"\textbackslash{}"
    text = latex_text(make_table([0.1, 0.2], labels=[NASTY, "plain"]))
    # `\\` followed by a bracket would be read as its optional argument.
    assert "\n{}[a\\_b]" in text
    assert r"\caption{Ablation of a\_b.}" in text
    assert r"\label{tab:my-table-1}" in text


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        ("smoke", "smoke: not a result"),
        ("quick", "quick: little data, low resolution; says nothing about the paper's numbers"),
    ],
)
def test_small_scales_say_that_they_are_no_evidence(scale, sentence):
    table = make_table([0.1, 0.2], scale=scale)
    assert sentence in markdown_text(table)
    caption = re.search(r"\\caption\{(.*)\}", latex_text(table))
    assert caption is not None
    assert sentence in caption.group(1)
    assert table.warning == sentence


def test_full_scale_has_no_warning_and_every_format_names_its_origin():
    table = make_table([0.1, 0.2])
    assert table.warning is None
    assert "not a result" not in latex_text(table) + markdown_text(table)
    assert r"protocol kitti\_eigen\_raw; seeds 1, 2; code abc123" in latex_text(table)
    assert r"protocol kitti\_eigen\_raw; seeds 1, 2; code abc123" in markdown_text(table)


def test_mixed_scales_count_as_the_least():
    assert make_table([0.1], scale="full, smoke").warning == "smoke: not a result"


def test_groups_are_parted_by_a_rule():
    text = latex_text(make_table([0.1, 0.2, 0.3], kinds=["variant", "variant", "teacher"]))
    assert text.count(r"\midrule") == 2
    assert text.index(r"\midrule", text.index("row 1")) < text.index("row 2")


def test_markdown_cells_cannot_break_the_table():
    text = markdown_text(make_table([0.1, 0.2], labels=["a|b\nc", "d"]))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    columns = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
    assert columns == {6}
    assert "**0.100 ± 0.013**" in text
    assert "<ins>0.200 ± 0.013</ins>" in text


def test_latex_is_balanced():
    text = latex_text(make_table([0.1, None, 0.3], labels=[NASTY, "b", "c"], scale="smoke"))
    bare = re.sub(r"\\[\\{}$&%#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == ["table", "tabular"]
    assert re.findall(r"\\end\{(\w+)\}", text) == ["tabular", "table"]
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert r"\begin{tabular}{lcrr}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_with_booktabs_alone(tmp_path: Path):
    table = make_table(
        [0.1, None, 0.3],
        labels=[NASTY, "*b", "ETM + APX"],
        scale="quick",
        kinds=["variant", "variant", "teacher"],
    )
    document = "\n".join(
        [
            r"\documentclass{article}",
            r"\usepackage{booktabs}",
            r"\begin{document}",
            latex_text(table),
            r"\end{document}",
        ]
    )
    (tmp_path / "t.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout


def test_write_table_writes_all_files(tmp_path: Path):
    table = make_table([0.1, 0.2])
    paths = [tmp_path / "reports" / f"t.{suffix}" for suffix in ("csv", "md", "tex")]
    write_table(table, *paths)
    texts = [path.read_text(encoding="utf-8") for path in paths]
    assert texts == [csv_text(table), markdown_text(table), latex_text(table)]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["t.csv", "t.md", "t.tex"]
