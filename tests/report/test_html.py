"""Tables as HTML: parsed, and laid out and sorted by a browser where there is one."""

import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fadepth.report.html import TABLE_CSS, TABLE_JS, html_document, html_fragment
from fadepth.report.table import Cell, Column, Direction, Noise, Stamp, Table, TableRow
from fadepth.report.writers import csv_text

EVIL = "<script>alert(\"x\")</script> & 'y'"
VOID = {"meta", "br", "img", "link", "hr", "input"}


def make_table(**changes) -> Table:
    """Two groups of rows and of columns; missing cells, words among numbers, noise, a switch."""
    metrics: list[tuple[str, str, Direction]] = [
        ("abs_rel", "Abs Rel ↓", "lower"),
        ("delta_1", "δ₁ ↑", "higher"),
    ]
    columns = [Column("row", "Row", "Row"), Column("kind"), Column("etm", "ETM", "ETM")]
    columns += [
        Column(f"{key}_{name}", title, title, direction, 3, f"{key}_std", f"{name} input")
        for name in ("clean", "dark")
        for key, title, direction in metrics
    ]
    columns += [Column("cost", "Cost", "Cost", decimals=1), Column("abs_rel_std")]
    costs: list[Cell] = ["about 2", 12.25, None, "> 500"]
    rows = []
    for i, label in enumerate(["Base", EVIL, "+ APX", "Full"]):
        cells: dict[str, Cell] = {"row": label, "kind": "variant", "etm": "on" if i % 2 else "off"}
        cells |= {"abs_rel_clean": 0.3 - i / 30, "delta_1_clean": 0.8 + i / 70}
        cells |= {"abs_rel_dark": 1 / (3 + i), "abs_rel_std": 0.0126}
        cells["cost"] = costs[i]
        missing = {"delta_1_dark": "not evaluated", "cost": "x"} if i == 2 else {}
        missing |= {"abs_rel_dark": '2/3 "seeds"'} if i == 1 else {}
        rows.append(TableRow(cells, group="ours", missing=missing))
    rows.append(TableRow({"row": "Printed", "abs_rel_clean": 0.5}, "reported", "theirs"))
    rows.append(TableRow({"row": "Weights", "abs_rel_clean": 0.1}, "official", "theirs"))
    table = Table(
        name="my_table",
        title=f"Title {EVIL}",
        columns=tuple(columns),
        rows=tuple(rows),
        stamp=Stamp("smoke", (1, 2), "kitti_x", "kitti_eigen_raw", "abc123"),
        notes=(f"note {EVIL}",),
        headings={"theirs": f"Printed by {EVIL}"},
        noise=Noise(0, {"abs_rel_clean": {1: 0.05, 2: 0.05, 3: 0.05}}),
    )
    return dataclasses.replace(table, **changes)


class Page(HTMLParser):
    """Checks that tags are balanced; keeps every tag, and cells with text, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[tuple[str, dict[str, str | None], str]]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append((tag, dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            tag, attrs, text = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (tag, attrs, text + data)

    def rows(self) -> list[list[tuple[str, dict[str, str | None], str]]]:
        """Rows of the first table that hold values."""
        return [row for row in self.tables[0] if any("data-sort" in cell[1] for cell in row)]


def test_every_row_covers_the_same_columns():
    lines = Page(html_fragment(make_table())).tables[0]
    assert len(lines) == 2 + 6 + 1
    covered: dict[int, int] = dict.fromkeys(range(len(lines)), 0)
    for index, line in enumerate(lines):
        for _, attrs, _ in line:
            for below in range(int(attrs.get("rowspan") or 1)):
                covered[index + below] += int(attrs.get("colspan") or 1)
    assert set(covered.values()) == {7}


def test_one_line_of_headers_where_no_columns_are_grouped():
    columns = tuple(dataclasses.replace(column, group="") for column in make_table().columns)
    page = Page(html_fragment(make_table(columns=columns)))
    head = page.tables[0][0]
    assert [text for _, _, text in head] == [c.markdown for c in columns if c.markdown]
    assert not any("rowspan" in attrs for _, attrs, _ in head)


def test_values_to_sort_by_are_those_of_the_csv():
    table = make_table()
    rows = Page(html_fragment(table)).rows()
    keys = [column.key for column in table.columns if column.markdown]
    for row, line in zip(rows, csv.DictReader(io.StringIO(csv_text(table))), strict=True):
        assert [attrs["data-sort"] for _, attrs, _ in row] == [line[key] for key in keys]


def test_text_is_never_markup():
    for text in (html_fragment(make_table()), html_document(make_table())):
        assert "alert(" in text
        assert "<script>alert" not in text
    page = Page(html_document(make_table()))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.rows()[1][0][2] == EVIL
    assert page.rows()[1][0][1]["data-sort"] == EVIL


def test_classes_titles_and_scopes():
    page = Page(html_fragment(make_table()))
    base, evil, apx, full, printed, _ = page.rows()
    classes = [[set((attrs["class"] or "").split()) for _, attrs, _ in row] for row in page.rows()]
    assert [cell[0] for cell in base] == ["th", *["td"] * 6]
    assert base[0][1]["scope"] == "row"
    assert classes[0][:2] == [{"text"}, {"switch"}]
    assert classes[0][2:] == [*[{"num"}] * 3, {"num", "missing"}, {"num", "text"}]
    assert classes[1][2] == {"num", "noise"}
    # 0.2 differs from 0.3 by more than 0.05, and so does 0.2333 (second of the variants).
    assert classes[3][2] == {"num", "best"}
    assert classes[2][2] == {"num", "second"}
    assert classes[1][4] == {"num", "partial"}
    assert evil[4][1]["title"] == '2/3 "seeds"'
    assert apx[5][1]["title"] == "not evaluated"
    assert (apx[5][2], apx[6][2]) == ("—", "—")
    assert (base[6][2], full[6][2], full[1][2]) == ("about 2", "> 500", "●")
    assert full[2][2] == "0.200 ± 0.013"
    assert printed[2][2] == "0.500"
    kinds = [attrs.get("class") for tag, attrs in page.tags if tag == "tr"]
    assert kinds == [None, None, *["variant"] * 4, "group", "reported", "official"]


def test_warning_stamp_notes_and_what_grey_means():
    text = html_fragment(make_table())
    assert '<section class="fadepth-table" id="my_table">' in text
    assert text.index("smoke: not a result") < text.index("<table>")
    assert "protocol kitti_eigen_raw; seeds 1, 2; code abc123" in text
    assert "differs from Base by no more than the noise" in text
    assert "Asterisk" in text
    plain = html_fragment(make_table(noise=None, rows=make_table().rows[:1]))
    assert "Grey" not in plain
    assert "Asterisk" not in plain
    full = Stamp("full", (1,), "kitti", "p", "c")
    assert "not a result" not in html_fragment(make_table(stamp=full))


def test_links_lead_where_the_caller_says():
    def link(row: str, key: str) -> str | None:
        return f'runs/"{row}"#{key}' if key == "abs_rel_clean" and row == "Full" else None

    text = html_fragment(make_table(), link=link)
    hrefs = [attrs["href"] for tag, attrs in Page(text).tags if tag == "a"]
    assert hrefs == ['runs/"Full"#abs_rel_clean']
    assert Page(text).rows()[3][2][2] == "0.200 ± 0.013"


def test_headings_go_down_by_one_a_level_and_names_make_anchors():
    inner = make_table(name="in ner")
    outer = make_table(companions=(make_table(name="mid", companions=(inner,)),))
    page = Page(html_fragment(outer))
    assert [tag for tag, _ in page.tags if re.match(r"h\d", tag)] == ["h2", "h3", "h4"]
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert ids == ["my_table", "mid", "in-ner"]
    assert len(page.tables) == 3


def test_document_stands_alone():
    text = html_document(make_table())
    assert not re.search(r"https?://|@import|url\(|//[a-z]", text.replace("// ", ""))
    for tag, attrs in Page(text).tags:
        assert tag not in ("link", "img", "iframe")
        assert not {"src", "srcset", "href"} & attrs.keys()
    assert TABLE_CSS in text
    assert TABLE_JS in text
    assert text.startswith("<!DOCTYPE html>")


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    *("--virtual-time-budget=3000", "--window-size=1400,900", "--dump-dom"),
]
needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")


def in_browser(folder: Path, page: str, script: str, width: int = 390) -> dict[str, object]:
    """Open `page` in a frame `width` pixels wide; return what `script` (an expression) gives."""
    wrapper = folder / "wrapper.html"
    report = (
        "<script>window.addEventListener('load', () => {"
        f"parent.postMessage(JSON.stringify({script}), '*')}})</script></body>"
    )
    (folder / "page.html").write_text(page.replace("</body>", report), encoding="utf-8")
    # Windows of a headless browser have a least width; frames have none.
    wrapper.write_text(
        "<script>addEventListener('message', (event) => { document.title = event.data; })</script>"
        f"<iframe src='page.html' style='width:{width}px;height:800px;border:0'></iframe>",
        encoding="utf-8",
    )
    command = [str(BROWSER), *SWITCHES, f"--user-data-dir={folder / 'profile'}", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"<title>(.*)</title>", done.stdout, flags=re.DOTALL)
    if found is None:
        pytest.skip(f"chromium does not run here: {done.stderr.strip()[-200:]}")
    result: dict[str, object] = json.loads(unescape(found.group(1)))
    return result


@needs_browser
def test_on_a_phone_only_the_table_scrolls(tmp_path: Path):
    script = (
        "(() => { const box = document.querySelector('.scroll');"
        "const cell = document.querySelector('tbody th[scope=row]');"
        "const before = cell.getBoundingClientRect().left; box.scrollLeft = 150;"
        "return {page: document.documentElement.scrollWidth, box: box.clientWidth,"
        "inside: box.scrollWidth, scrolled: box.scrollLeft,"
        "moved: cell.getBoundingClientRect().left - before}; })()"
    )
    found = in_browser(tmp_path, html_document(make_table()), script)
    assert found["page"] == 390
    assert found["inside"] > found["box"]  # type: ignore[operator]
    assert found["scrolled"] == 150
    assert found["moved"] == 0


SORTED = """(() => {
  const table = document.querySelector("table");
  const column = (n) => [...table.tBodies].map(
    (body) => [...body.rows].map((row) => row.classList.contains("group") ? "heading" :
      row.cells[n].dataset.sort));
  const button = (name) => [...table.querySelectorAll("thead button")].filter(
    (one) => one.textContent.startsWith(name))[0];
  const press = (name, n) => {
    button(name).click();
    return [column(n), button(name).closest("th").getAttribute("aria-sort"),
            table.querySelectorAll("[aria-sort]").length];
  };
  return { cost: [press("Cost", 6), press("Cost", 6), press("Cost", 6)],
           delta: press("δ₁", 3), etm: press("ETM", 0),
           buttons: table.querySelectorAll("thead button").length };
})()"""


@needs_browser
def test_headers_sort_within_groups(tmp_path: Path):
    found = in_browser(tmp_path, html_document(make_table()), SORTED, width=1280)
    theirs = ["heading", "", ""]
    printed = ["about 2", "12.25", "", "> 500"]
    assert found["cost"] == [
        [[["about 2", "12.25", "> 500", ""], theirs], "ascending", 1],
        [[["> 500", "12.25", "about 2", ""], theirs], "descending", 1],
        [[printed, theirs], None, 0],
    ]
    # Higher is better: the best comes first.
    values = [repr(0.8 + i / 70) for i in range(4)]
    assert found["delta"] == [[values[::-1], theirs], "descending", 1]
    # off before on; equal rows keep the order in which they are printed.
    labels = ["Base", "+ APX", EVIL, "Full"]
    assert found["etm"] == [[labels, ["heading", "Printed", "Weights"]], "ascending", 1]
    assert found["buttons"] == 7
