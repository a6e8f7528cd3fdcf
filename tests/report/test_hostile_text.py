"""Text of users and strangers is printed as text: in HTML, Markdown, LaTeX and CSV, end to end.

A study, its benchmark, published values and run folders carry a hostile text wherever they may
carry one. What comes out is compared with what comes out of plain words: the same elements,
attributes, tokens and commands in the same order, so that none can be of the text's making.
"""

import csv
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from fadepth.config import load_yaml, merge
from fadepth.errors import FadepthError
from fadepth.report.effects import effects_table
from fadepth.report.latex import escape_latex, escape_latex_header
from fadepth.report.page import Page, PageFigure, PageTable, render_page
from fadepth.report.pdf import find_latex, tables_pdf
from fadepth.report.study_table import study_table
from fadepth.report.table import Table
from fadepth.report.writers import html_document, latex_text, markdown_text, write_table
from fadepth.study import resolve_study
from tests.report.fakes import ROOT, write_run

PLAIN = "plain"
PAPER = "https://arxiv.org/abs/2405.10885"
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)' x='",
    "</script><!--<script>",
    "</title></style></textarea><svg/onload=alert(1)>",
    "&lt;b&gt; &amp; &#x3c;i&#62; & &copy;",
    "javascript:alert(1)",
    "{{ 7 * 7 }} {% raw %} ${x} #{y}",
    "a | b ` c `` d | e",
    "[x](javascript:alert(1)) ![y](http://z/p.png) <http://z> **b** __u__ ~~s~~",
    "# heading",
    "1. item",
    "- [ ] > quote",
    "```\ncode\n```",
    "two\nlines\r\nthree\u2028four",
    r"\input{/etc/passwd}",
    r"\immediate\write18{touch PWNED} \openout5=x",
    r"$\input{/etc/passwd}$ $^^5cinput{/etc/passwd}$",
    r"$\csname input\endcsname{/etc/passwd}$ \\ \end{tabular}",
    r"% # _ ^ ~ { } $ & \ ^^41 $$ }{ \verb|x|",
    "=cmd|' /C calc'!A0",
    "\x1b]0;title\x07 \x00 \x7f",
]

STUDY: dict[str, Any] = {
    "name": "x",
    "table": "table_x",
    "columns": ["metrics", "conditions", "parameters"],
    "benchmarks": ["improved"],
    "baselines": ["constant"],
}
PEER = "row,kind,data,protocol,size,supervision,params_m,abs_rel,note,source"


@dataclass(frozen=True)
class Made:
    """What a study that says `text` wherever it may becomes."""

    text: str
    folder: Path
    table: Table
    effects: Table
    partial: Table

    @property
    def tables(self) -> list[Table]:
        return [self.table, self.effects, self.partial]

    @property
    def page(self) -> str:
        return page_of(self.folder, self.text, [self.table, self.effects])


def make(folder: Path, text: str) -> Made:
    folder.mkdir()
    write_inputs(folder, text)
    improved = {
        "source": "kitti", "root": "x", "frames": "x", "protocol": "kitti_eigen_improved",
        "title": f"benchmark {text}",
    }  # fmt: skip
    preset = merge(
        load_yaml(ROOT / "config" / "kitti.yaml"),
        {"data.splits": str(folder), "benchmarks": {"improved": improved}, "seeds": [1, 2]},
    )
    study, runs = resolve_study(folder / "study.yaml", preset, "kitti.yaml"), folder / "runs"
    for number, run in enumerate(study.runs):
        words = dict.fromkeys(("commit", "dataset", "host", "command", "code_hash"), text)
        write_run(run, runs, 0.3 + number / 100, is_published_list=True, **words)
    # Without results on the benchmark: the reasons are part of the table.
    partial = study_table(study, runs, folder, partial=True)
    for run in study.students:
        shutil.copytree(runs / run.id, runs / run.id / "benchmarks" / "improved")
    table = study_table(study, runs, folder)
    return Made(text, folder, table, effects_table(study, runs), partial)


def write_inputs(folder: Path, text: str) -> None:
    """The study, its data's lists, and a published row."""
    for split in ("train", "val", "test"):
        (folder / f"{split}_files.txt").write_text("day/drive 5 l\n")
    with (folder / "table_x.csv").open("w", newline="", encoding="utf-8") as file:
        cells = ["reported", "kitti", "kitti_eigen_improved", "192x640", text, "2.5", "0.123"]
        row = [f"peer {text}", *cells, f"note {text}", f"https://z/{text}"]
        csv.writer(file).writerows([PEER.split(","), row])
    levels = {"off": {}, "on": {"student.width": 0.5}}
    study = STUDY | {
        "title": f"title {text}",
        "base_label": f"base {text}",
        "factors": {"width": {"label": f"label {text}", "levels": levels}},
        "shown": {f"shown {text}": "data.height"},
        "notes": [f"note {text}", text],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))


def page_of(folder: Path, text: str, tables: list[Table]) -> str:
    image = folder / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    page = Page(
        title=text,
        scale="full",
        data=text,
        tables=[PageTable(table, {"csv": f"{table.name}.csv"}) for table in tables],
        figures=[PageFigure("a", text, text, image, folder / "b c:d.pdf")],
        environment={text: text},
        supports=[text],
        refuses=[text],
        missing=[text],
        run_links={text: "http://127.0.0.1:5000/#/experiments/1"},
        commit=text,
        dirty=True,
        command=text,
    )
    return render_page(page, folder=folder)


class Elements(HTMLParser):
    """Elements with the names of their attributes, in order; their values; the text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.shape: list[Any] = []
        self.values: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, [name for name, _ in attrs]))
        self.values += [(tag, name, value or "") for name, value in attrs]
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.shape.append(tag)
        self.inside = ""

    def handle_comment(self, data: str) -> None:
        self.shape.append("comment")

    def handle_data(self, data: str) -> None:
        self.texts.append((self.inside, data))

    @property
    def text(self) -> str:
        return "".join(text for tag, text in self.texts if tag not in ("script", "style"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """What a text becomes, made once."""
    return functools.cache(lambda text: make(tmp_path_factory.mktemp("made") / "a", text))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_element_or_attribute_is_of_a_texts_making(
    text: str, made: Callable[[str], Made]
) -> None:
    hostile, plain = made(text), made(PLAIN)
    pairs = [(hostile.page, plain.page)]
    for one, other in zip(hostile.tables, plain.tables, strict=True):
        pairs.append((html_document(one), html_document(other)))
    for page, tame in pairs:
        found = Elements(page)
        assert found.shape == Elements(tame).shape
        assert text in found.text
        for tag, name, value in found.values:
            assert not name.startswith("on")
            if name in ("href", "src", "action", "style"):
                scheme = urlsplit(value).scheme
                assert scheme in ("", "data") or value == PAPER
                assert scheme != "data" or (tag, name) in (("img", "src"), ("link", "href"))


def as_read(text: str) -> str:
    """A cell of the published values, which are read line by line."""
    return "".join(text.splitlines())


@pytest.mark.parametrize("text", HOSTILE)
def test_data_in_a_page_are_what_they_were(text: str, made: Callable[[str], Made]) -> None:
    page = Elements(made(text).page)
    *data, _ = [body for tag, body in page.texts if tag == "script"]
    assert "<" not in "".join(data)
    provenance, labels = map(json.loads, data)
    assert provenance["cells"][f"peer {as_read(text)}"]["abs_rel"]["source"] == (
        f"https://z/{as_read(text)}"
    )
    assert {run["command"] for run in provenance["runs"].values()} == {text}
    assert list(labels["run_links"]) == [text]


@pytest.mark.parametrize("text", HOSTILE)
def test_links_of_cells_stay_on_the_page(text: str, made: Callable[[str], Made]) -> None:
    """The only addresses that a text has a part in."""
    links = [v for _, name, v in Elements(made(text).page).values if name == "href"]
    cells = [unquote(link) for link in links if link.startswith("#") and link.count("/") == 2]
    assert f"#table_x/peer {as_read(text)}/abs_rel" in cells
    assert "b%20c%3Ad.pdf" in links


def page_with(link: str, made: Callable[[str], Made]) -> str:
    entry = PageTable(made(PLAIN).table, {"csv": link})
    return render_page(Page("", "full", "", [entry], [], {}, [], [], [], {}, "", False))


@pytest.mark.parametrize("link", ["javascript:alert(1)", "\tjavascript:x", "//z/x", "/x", "data:,"])
def test_a_link_with_a_scheme_is_refused(link: str, made: Callable[[str], Made]) -> None:
    with pytest.raises(FadepthError, match="expected a path relative to the page"):
        page_with(link, made)


def test_a_link_that_a_browser_could_take_for_a_scheme_is_none(made: Callable[[str], Made]) -> None:
    page = Elements(page_with('a b:"c".csv', made))
    assert ("a", "href", "a%20b%3A%22c%22.csv") in page.values


# ---------------------------------------------------------------------------------------- Markdown


def markdown_shape(text: str) -> tuple[list[Any], str]:
    """Kinds of all tokens, and the text in them, by a parser that lets HTML through."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

    def inner(token: Any) -> Iterator[Any]:
        yield token.type
        for child in token.children or ():
            yield from inner(child)

    tokens = parser.parse(text)
    kinds = [kind for token in tokens for kind in inner(token) if kind != "text_special"]
    words = [c.content for token in tokens for c in token.children or ()]
    # Text that an escape has cut into pieces is one text.
    kinds = [kind for i, kind in enumerate(kinds) if kind != "text" or kinds[i - 1] != "text"]
    return kinds, "".join(words)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_token_of_markdown_is_of_a_texts_making(text: str, made: Callable[[str], Made]) -> None:
    for table, tame in zip(made(text).tables, made(PLAIN).tables, strict=True):
        kinds, words = markdown_shape(markdown_text(table))
        assert kinds == markdown_shape(markdown_text(tame))[0]
        assert " ".join(text.split()).replace("\0", "\ufffd") in words


# ------------------------------------------------------------------------------------------- LaTeX


def commands(text: str) -> set[str]:
    return set(re.findall(r"\\(?:[A-Za-z]+|[^A-Za-z])|\^\^", text))


ESCAPES = {
    *(r"\textbackslash", r"\textasciicircum", r"\textasciitilde", r"\&", r"\%", r"\$", r"\#"),
    *(r"\_", r"\{", r"\}"),
}


@pytest.mark.parametrize("text", HOSTILE)
def test_no_command_of_latex_is_of_a_texts_making(text: str, made: Callable[[str], Made]) -> None:
    for table, tame in zip(made(text).tables, made(PLAIN).tables, strict=True):
        assert commands(latex_text(table)) <= commands(latex_text(tame)) | ESCAPES
        assert latex_text(table).count("\n") == latex_text(tame).count("\n")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (r"$\delta_1$ $\uparrow$", r"$\delta_1$ $\uparrow$"),
        (r"$\Delta$ a_b [95 %]", r"$\Delta$ a\_b [95 \%]"),
        (r"$x^{2}$, $\lambda_{pyr} < 3$", r"$x^{2}$, $\lambda_{pyr} < 3$"),
    ],
)
def test_maths_of_a_header_stays(header: str, expected: str) -> None:
    assert escape_latex_header(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        r"$\input{/etc/passwd}$",
        r"$\inputx$",
        r"$\deltax$",
        "$^^5cinput$",
        "$a^^b$",
        "$a_b_c$",
        "$}{$",
        "$a{b$",
        r"$\delta\write18{x}$",
        "$a%$",
        "$#1$",
        "$&$",
        r"$\\$",
        "$$",
    ],
)
def test_other_maths_is_text(header: str) -> None:
    assert escape_latex_header(header) == escape_latex(header)


needs_latex = pytest.mark.skipif(find_latex() is None, reason="pdflatex is not installed")


@needs_latex
@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="pdftotext is not installed")
def test_a_pdf_of_hostile_texts_prints_them_and_runs_nothing(
    tmp_path: Path, made: Callable[[str], Made]
) -> None:
    snippets = []
    for number, text in enumerate(HOSTILE):
        write_table(made(text).table, tmp_path / f"{number}.csv")
        snippets.append(tmp_path / f"{number}.tex")
    everything = " ".join(HOSTILE)
    tables_pdf(snippets, tmp_path / "a.pdf", title=everything, warning=everything, stamp=everything)
    done = subprocess.run(
        ["pdftotext", "-layout", str(tmp_path / "a.pdf"), "-"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert r"\input{/etc/passwd}" in done.stdout
    assert r"\immediate\write18{touch PWNED}" in done.stdout
    assert Path("/etc/passwd").read_text().splitlines()[0] not in done.stdout
    assert not list(tmp_path.rglob("PWNED"))


@needs_latex
@pytest.mark.parametrize("place", ["/etc/passwd", "../secret.tex", "{folder}/secret.tex"])
def test_a_snippet_reads_and_writes_nothing_elsewhere(place: str, tmp_path: Path) -> None:
    """A `.tex` that somebody has changed is LaTeX, and may say what it likes."""
    place = place.format(folder=tmp_path)
    (tmp_path / "secret.tex").write_text("secret")
    bad = tmp_path / "bad.tex"
    bad.write_text(rf"\input{{{place}}}")
    with pytest.raises(FadepthError, match=r"bad\.tex: LaTeX cannot set this table"):
        tables_pdf([bad], tmp_path / "a.pdf", title="", warning=None, stamp="")
    bad.write_text(rf"\newwrite\w\immediate\openout\w={tmp_path}/PWNED x")
    with pytest.raises(FadepthError, match=r"bad\.tex: LaTeX cannot set this table"):
        tables_pdf([bad], tmp_path / "a.pdf", title="", warning=None, stamp="")
    bad.write_text(rf"\immediate\write18{{touch {tmp_path}/PWNED}}x")
    tables_pdf([bad], tmp_path / "a.pdf", title="", warning=None, stamp="")
    assert not (tmp_path / "PWNED").exists()


# --------------------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize("text", HOSTILE)
def test_a_csv_gives_back_what_went_in(
    text: str, tmp_path: Path, made: Callable[[str], Made]
) -> None:
    write_table(made(text).table, tmp_path / "table_x.csv")
    with (tmp_path / "table_x.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["row"] == f"base {text}"
    assert rows[1]["row"] == f"+ label {text}"
    assert rows[-1]["source"] == f"https://z/{as_read(text)}"
    assert f"shown {text}" in rows[0]
