"""The PDF of all tables, read back as text."""

import csv
import dataclasses
import logging
import re
import shutil
import subprocess
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from fadepth.errors import FadepthError
from fadepth.report.pdf import find_latex, tables_pdf
from fadepth.report.table import Cell, Column, Noise, Stamp, Table, TableRow
from fadepth.report.writers import write_table

NASTY = r"[a_b] 50% & #1 {x} ~y^2 $5 \cmd <z> |k| δ±· 深 😀 --seed"
METRICS = ["abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3"]

needs_latex = pytest.mark.skipif(find_latex() is None, reason="pdflatex is not installed")
needs_poppler = pytest.mark.skipif(
    shutil.which("pdftotext") is None, reason="pdftotext (poppler-utils) is not installed"
)


def wide_table(**changes) -> Table:
    """Twelve printed columns, seven of them with a spread; numbers that need rounding."""
    columns = [Column("row", "Row", "Row")]
    columns += [Column(name, name, name) for name in ("etm", "apx")]
    columns.append(Column("seeds", "Seeds", "Seeds", decimals=0))
    columns += [
        Column(key, key, key, "higher" if "delta" in key else "lower", 3, f"{key}_std", "Errors")
        for key in METRICS
    ]
    columns.append(Column("params_m", "Params (M)", "Params (M)", decimals=2))
    columns += [Column(f"{key}_std") for key in METRICS]
    rows = []
    for i, label in enumerate(["Base", "+ ETM", "+ APX", "Full model of both"]):
        cells: dict[str, Cell] = {
            "row": label,
            "etm": "on",
            "apx": "off",
            "seeds": 3,
            "params_m": 3.075 + i,
        }
        for j, key in enumerate(METRICS):
            cells |= {key: (j + 1) / (7 + i) - 0.3, f"{key}_std": (j + 1) / 777}
        rows.append(TableRow(cells, group="ours"))
    rows.append(TableRow({"row": "Printed", "abs_rel": 0.0125}, "reported", "theirs"))
    table = Table(
        name="wide",
        title="Twelve columns",
        columns=tuple(columns),
        rows=tuple(rows),
        stamp=Stamp("quick", (1, 2, 3), "synthetic", "kitti_eigen_raw", "abc123"),
        notes=("mean ± sample standard deviation over seeds",),
        headings={"ours": "Trained here", "theirs": "Printed elsewhere"},
        noise=Noise(0, {key: {1: 0.01, 2: 0.01, 3: 0.01} for key in METRICS}),
    )
    return dataclasses.replace(table, **changes)


def make_pdf(folder: Path, *tables: Table) -> Path:
    for table in tables:
        write_table(table, folder / f"{table.name}.csv")
    snippets = [folder / f"{table.name}.tex" for table in tables]
    output = folder / "out" / "tables.pdf"
    tables_pdf(snippets, output, title="Tables of a_b", warning="not a result", stamp="scale x_y")
    return output


def pdf_text(path: Path) -> str:
    done = subprocess.run(
        ["pdftotext", "-layout", str(path), "-"], capture_output=True, text=True, check=True
    )
    return done.stdout.replace("\N{MINUS SIGN}", "-")


def as_printed(raw: str, places: str) -> str:
    return str(Decimal(raw).quantize(Decimal(places), rounding=ROUND_HALF_UP))


@needs_latex
@needs_poppler
def test_numbers_of_the_pdf_are_those_of_the_csv(tmp_path: Path):
    text = pdf_text(make_pdf(tmp_path, wide_table()))
    with (tmp_path / "wide.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows[:4]:
        expected = [row["seeds"]]
        for key in METRICS:
            expected += [as_printed(row[key], "0.001"), as_printed(row[f"{key}_std"], "0.001")]
        expected.append(as_printed(row["params_m"], "0.01"))
        line = next(x for x in text.splitlines() if re.match(rf"\s*{re.escape(row['row'])}\s", x))
        assert re.findall(r"-?\d+(?:\.\d+)?", line) == expected
    printed = next(x for x in text.splitlines() if x.strip().startswith("Printed  "))
    assert re.findall(r"\d\.\d+", printed) == ["0.013"]
    # What pdftotext gives for a dash: Printed has two switches, seeds, six metrics and the size.
    assert len(re.findall("–", printed)) == 10


@needs_latex
@needs_poppler
def test_the_document_says_what_it_is_and_lists_its_tables(tmp_path: Path):
    other = wide_table(name="other", title="Another title")
    pages = pdf_text(make_pdf(tmp_path, wide_table(companions=(other,)), wide_table(name="third")))
    assert re.match(r"\s*Tables of a_b\s+not a result\s+scale x_y\s+List of Tables", pages)
    # Three in the list, three as captions: the first run knows of none, the second of all.
    assert len(re.findall(r"\d\s+Twelve columns\.|: Twelve columns\.", pages)) == 4
    assert len(re.findall(r"\d\s+Another title\.|: Another title\.", pages)) == 2
    numbers = [page.strip().splitlines()[-1].split()[-1] for page in pages.split("\f")[:-1]]
    assert numbers == [str(i + 1) for i in range(len(numbers))]


@needs_latex
@needs_poppler
def test_any_text_can_be_set(tmp_path: Path):
    rows = (TableRow({"row": NASTY, "abs_rel": 0.25}, group=NASTY), TableRow({"row": "*b"}))
    changes = {"title": NASTY, "notes": (NASTY,), "headings": {NASTY: NASTY}, "noise": None}
    table = wide_table(rows=rows, **changes)
    text = pdf_text(make_pdf(tmp_path, table))
    assert text.count("[a_b] 50% & #1 {x}") >= 4
    assert "--seed" in text


@needs_latex
def test_nothing_is_wider_than_its_page(tmp_path: Path, caplog):
    much = wide_table(
        name="much",
        notes=tuple(f"{'a_long_name_of_a_run_' * 3}{i}" for i in range(30)),
        columns=tuple(
            dataclasses.replace(column, key=f"{column.key}", latex=f"{column.latex} {copy}")
            for copy in range(3)
            for column in wide_table().columns
            if column.latex is not None
        ),
    )
    tall = wide_table(name="tall", rows=wide_table().rows * 20)
    with caplog.at_level(logging.WARNING):
        make_pdf(tmp_path, wide_table(), much, tall)
    assert caplog.text == ""
    (tmp_path / "rule.tex").write_text(r"\hbox to\linewidth{\rule{2\linewidth}{1pt}}")
    with caplog.at_level(logging.WARNING):
        tables_pdf([tmp_path / "rule.tex"], tmp_path / "r.pdf", title="", warning=None, stamp="")
    assert "Overfull" in caplog.text


@needs_latex
@needs_poppler
def test_a_table_higher_than_the_page_is_not_cut(tmp_path: Path):
    rows = tuple(TableRow({"row": f"line {i} of many", "seeds": i}) for i in range(90))
    text = pdf_text(make_pdf(tmp_path, wide_table(rows=rows)))
    assert re.findall(r"line (\d+) of many", text) == [str(i) for i in range(90)]


@needs_latex
def test_same_tables_give_the_same_bytes(tmp_path: Path):
    first = make_pdf(tmp_path / "a", wide_table()).read_bytes()
    second = make_pdf(tmp_path / "some other folder", wide_table()).read_bytes()
    assert first.startswith(b"%PDF")
    assert first == second
    assert make_pdf(tmp_path / "c", wide_table(title="Else")).read_bytes() != first


def test_without_latex_one_sentence_names_the_packages(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_latex() is None
    with pytest.raises(FadepthError) as caught:
        make_pdf(tmp_path, wide_table())
    assert "texlive-latex-base texlive-latex-recommended" in str(caught.value)
    assert "everything else is made without LaTeX" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_latex
def test_error_of_latex_names_the_snippet(tmp_path: Path):
    write_table(wide_table(), tmp_path / "wide.csv")
    good, bad, old = tmp_path / "wide.tex", tmp_path / "b_d.tex", tmp_path / "old.pdf"
    bad.write_text(good.read_text().replace("Seeds", r"\nosuchthing"))
    old.write_bytes(b"old")
    with pytest.raises(FadepthError) as caught:
        tables_pdf([good, bad, good], old, title="x", warning=None, stamp="x")
    assert re.match(r".*/b_d\.tex: .*\(Undefined control sequence\.\)", str(caught.value))
    assert "\n" not in str(caught.value)
    assert old.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".pdf") == ["old.pdf"]


@needs_latex
@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_snippet_that_cannot_be_read_is_named(tmp_path: Path, content):
    snippet = tmp_path / "gone.tex"
    if content is not None:
        snippet.write_bytes(content)
    with pytest.raises(FadepthError, match=r"gone\.tex cannot be read as a LaTeX table"):
        tables_pdf([snippet], tmp_path / "x.pdf", title="x", warning=None, stamp="x")


@needs_latex
def test_no_tables_are_no_document(tmp_path: Path):
    with pytest.raises(FadepthError, match=r"x\.pdf has no tables to show"):
        tables_pdf([], tmp_path / "x.pdf", title="x", warning=None, stamp="x")
