"""Marks, rounding, escaping; CSV, Markdown and LaTeX of a table (HTML: test_html.py)."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fadepth.errors import FadepthError
from fadepth.report.html import html_document
from fadepth.report.table import (
    Column,
    Direction,
    Noise,
    Stamp,
    Table,
    TableRow,
    marks,
    rounded,
    within_noise,
)
from fadepth.report.writers import (
    csv_text,
    escape_latex,
    escape_latex_header,
    escape_markdown,
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


def test_missing_is_a_dash_and_spread_follows_the_mean():
    text = latex_text(make_table([0.1, None]))
    assert r"0.100 $\pm$ 0.013" in text
    assert re.search(r"row 1 & \$\\bullet\$ & -- & -- \\\\", text)
    assert "| — | — |" in markdown_text(make_table([0.1, None]))


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


def compile_latex(folder: Path, body: str) -> str:
    """Set `body` with booktabs alone; return the log."""
    lines = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}"]
    document = "\n".join([*lines, body, r"\end{document}"])
    (folder / "t.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = done.stdout.decode("utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    return log


needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed"
)


@needs_latex
def test_latex_compiles_with_booktabs_alone(tmp_path: Path):
    table = make_table(
        [0.1, None, 0.3],
        labels=[NASTY, "*b", "ETM + APX"],
        scale="quick",
        kinds=["variant", "variant", "teacher"],
    )
    text = latex_text(dataclasses.replace(two_groups(), companions=(table,)))
    assert "Missing character" not in compile_latex(tmp_path, text)


@needs_latex
def test_no_character_stops_latex(tmp_path: Path):
    """All of Latin, Greek, Cyrillic, punctuation, signs, arrows, mathematics; CJK and emoji."""
    blocks = [
        range(0x20, 0x530),
        range(0x2000, 0x2800),
        range(0xFB00, 0xFB07),
        range(0xFF00, 0xFF61),
    ]
    everything = [chr(code) for block in blocks for code in block]
    everything += ["深度", "😀", "👨‍👩", "e\u0301", "x\u0304", "\x00", "a\n\nb"]
    log = compile_latex(tmp_path, "\n\n".join(f"x{escape_latex(text)}x" for text in everything))
    assert "Missing character" not in log


def test_what_latex_cannot_print_is_visible():
    assert escape_latex("深x😀") == "?x?"
    assert escape_latex("é è Å") == "é è Å"
    assert escape_latex("e\u0301") == "é"
    assert escape_latex("č ≈ — …") == r"\v{c} $\approx$ \textemdash{} \ldots{}"
    assert escape_latex("Δδ₁₂ m²") == r"$\Delta$$\delta$$_{1}$$_{2}$ m$^{2}$"
    assert escape_latex("--seed a---b") == "-{}-seed a-{}-{}-b"
    # No letter of the original lies below the sign that says "not".
    assert escape_latex("\u226e") == "?"


def two_groups(**changes) -> Table:
    """Clean and dark input, two groups of rows with headings; a cell of words among numbers."""
    metrics: list[tuple[str, str, Direction]] = [
        ("abs_rel", "Abs Rel ↓", "lower"),
        ("delta_1", "δ₁ ↑", "higher"),
    ]
    groups = ["clean input", "dark & wet"]
    columns = [Column("row", "Row", "Row")]
    columns += [
        Column(f"{key}_{index}", title, title, direction, 3, group=group)
        for index, group in enumerate(groups)
        for key, title, direction in metrics
    ]
    columns.append(Column("cost", "Cost", "Cost", decimals=1))
    keys = [column.key for column in columns[1:-1]]
    rows = [
        TableRow({"row": "Base", "cost": 3.25, **dict.fromkeys(keys, 0.5)}, group="ours"),
        TableRow(
            {"row": "+ ETM", "cost": "> 500", **dict.fromkeys(keys, 0.25)},
            group="ours",
            missing=dict.fromkeys(keys, "2/3 seeds"),
        ),
        TableRow(
            {"row": "+ APX", **dict.fromkeys(keys[:2], 0.75)},
            group="ours",
            missing=dict.fromkeys(keys[2:], "no dark frames") | {"cost": "not timed"},
        ),
        TableRow({"row": "Paper", keys[0]: 0.125, "cost": "about 2"}, "reported", "print"),
    ]
    return dataclasses.replace(
        Table(
            name="two_groups",
            title="Two groups",
            columns=tuple(columns),
            rows=tuple(rows),
            stamp=Stamp("full", (1, 2), "kitti_x", "kitti_eigen_raw", "abc123"),
            headings={"ours": "Trained here", "print": "Printed by [1] & others"},
        ),
        **changes,
    )


def latex_rows(text: str) -> list[str]:
    """Lines of the tabular that are rows."""
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    return [line for line in body.splitlines() if line.endswith(r"\\")]


def latex_width(row: str) -> int:
    """Columns that a row covers."""
    spans = [int(width) for width in re.findall(r"\\multicolumn\{(\d+)\}", row)]
    return len(re.findall(r"(?<!\\)&", row)) + 1 + sum(width - 1 for width in spans)


def test_latex_headings_span_their_columns():
    text = latex_text(two_groups())
    rows = latex_rows(text)
    assert {latex_width(row) for row in rows} == {6}
    assert r"\multicolumn{2}{c}{clean input} & \multicolumn{2}{c}{dark \& wet}" in rows[0]
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in text
    assert r"\multicolumn{6}{l}{\emph{Trained here}} \\" in rows
    assert r"\multicolumn{6}{l}{\emph{Printed by [1] \& others}} \\" in rows
    assert text.index("+ APX") < text.index("Printed by") < text.index("Paper")
    # One below the headers, one between the groups; none above the first heading.
    assert text.count(r"\midrule") == 2


def test_markdown_headings_stand_in_cells():
    lines = [line for line in markdown_text(two_groups()).splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {8}
    assert "| Abs Rel ↓ · dark & wet |" in lines[0]
    assert lines[2].startswith("| **Trained here** |")
    assert lines[6].startswith(r"| **Printed by \[1\] & others** |")


def test_words_in_a_column_of_numbers_are_printed_and_never_ranked():
    table = two_groups()
    assert "& $>$ 500 \\\\" in latex_text(table)
    assert "| about 2 |" in markdown_text(table)
    column = Column("cost", "Cost", "Cost", "lower", 1)
    ranked = dataclasses.replace(table, columns=(*table.columns[:-1], column))
    assert not any(key == "cost" for _, key in marks(ranked))


@pytest.mark.parametrize("write", [markdown_text, latex_text, html_document])
def test_reasons_of_missing_cells_are_told_once_a_row(write):
    text = write(two_groups())
    notes = re.sub(r"\\|\{\}", "", text[text.index("Paper") :])
    assert notes.count("2/3 seeds") == 1
    # All ranked columns lack seeds: no list; a whole group: its heading.
    assert re.search(r"\+ ETM: 2/3 seeds(\.|\n)", notes)
    assert re.search(r"\+ APX: no dark frames \(dark (&|&amp;) wet\)", notes)
    assert "+ APX: not timed (Cost)" in notes


def test_rows_that_lack_the_same_share_a_note():
    table = make_table([None, None, 0.1], labels=["a", "b", "c"])
    rows = [dataclasses.replace(row, missing={"abs_rel": "lost"}) for row in table.rows[:2]]
    table = dataclasses.replace(table, rows=(*rows, table.rows[2]))
    assert "- a, b: lost (Abs Rel)\n" in markdown_text(table)


def test_note_that_opens_with_a_plus_is_no_list():
    table = dataclasses.replace(make_table([0.1]), notes=("+ ETM: x", "1. y", "a ~b~"))
    assert {"- \\+ ETM: x", "- 1\\. y", "- a \\~b\\~"} <= set(markdown_text(table).splitlines())
    assert escape_markdown("+ ETM") == "+ ETM"


@pytest.mark.parametrize(("columns", "size"), [(8, None), (9, r"\small"), (12, r"\footnotesize")])
def test_wide_tables_are_set_smaller(columns, size):
    table = Table(
        "wide",
        "Wide",
        tuple(Column(f"c{i}", "x", "x", decimals=1) for i in range(columns)),
        (TableRow({}),),
        make_table([0.1]).stamp,
    )
    head = latex_text(table).split(r"\begin{tabular}")[0].splitlines()
    assert (size in head) if size else not {r"\small", r"\footnotesize"} & set(head)
    assert (r"\setlength{\tabcolsep}{4pt}" in head) == (size is not None)


def test_what_rounds_to_zero_has_no_sign():
    table = make_table([-0.0001, -0.25])
    assert "| 0.000 ± 0.013 |" in markdown_text(table).replace("*", "").replace(
        "<ins>", ""
    ).replace("</ins>", "")
    assert "$-$0.250" in latex_text(table)


def test_noise_decides_on_marks_and_on_grey():
    table = dataclasses.replace(
        make_table([0.2, 0.195, 0.15]),
        noise=Noise(0, {"abs_rel": {1: 0.01, 2: 0.01}, "delta_1": {1: 0.01, 2: 0.01}}),
    )
    assert marks(table) == {(2, "abs_rel"): "best"}
    assert within_noise(table) == {(1, "abs_rel"), (1, "delta_1")}


def test_companions_follow_with_their_own_stamp():
    other = dataclasses.replace(make_table([0.1], scale="smoke"), name="beside", title="Beside")
    table = dataclasses.replace(make_table([0.1, 0.2]), companions=(other,))
    markdown = markdown_text(table)
    below = markdown[markdown.index("#### Beside") :]
    assert "smoke: not a result" in below
    assert "smoke" not in markdown[: markdown.index("#### Beside")]
    latex = latex_text(table)
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    assert r"\label{tab:beside}" in latex


def test_write_table_writes_all_files(tmp_path: Path):
    beside = dataclasses.replace(make_table([0.3]), name="beside", provenance={"a": 1})
    table = dataclasses.replace(make_table([0.1, 0.2]), companions=(beside,), provenance={"é": 2})
    csv_path = tmp_path / "reports" / "t.csv"
    write_table(table, csv_path)
    expected = {
        "t.csv": csv_text(table),
        "t.md": markdown_text(table),
        "t.tex": latex_text(table),
        "t.html": html_document(table),
        "t.provenance.json": '{\n "é": 2\n}\n',
        "beside.csv": csv_text(beside),
        "beside.provenance.json": '{\n "a": 1\n}\n',
    }
    found = {path.name: path.read_text(encoding="utf-8") for path in csv_path.parent.iterdir()}
    assert found == expected


def test_tables_of_one_name_do_not_overwrite_each_other(tmp_path: Path):
    table = dataclasses.replace(make_table([0.1]), companions=(make_table([0.2]),), name="x")
    with pytest.raises(FadepthError, match=r"my_table 1\.csv: two tables have this name"):
        write_table(table, tmp_path / "my_table 1.csv")
    assert list(tmp_path.iterdir()) == []
