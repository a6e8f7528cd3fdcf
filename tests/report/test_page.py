"""The report page: structure, escaping, provenance, and what a browser makes of it."""

import base64
import functools
import html
import json
import math
import re
import shlex
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from fadepth.errors import FadepthError
from fadepth.report.page import (
    Page,
    PageFigure,
    PageTable,
    cell_link,
    render_page,
    script_json,
    write_page,
)
from fadepth.report.table import Column, Stamp, Table, TableRow

PAPER = "https://arxiv.org/abs/2405.10885"
SCRIPT = '<script>alert("1")</script>'
QUOTES = "a\"b'c & $(x) `y` w/o ETM 100% #1 ?é"
OPTION = "- APX"
NASTY = ["plain", SCRIPT, QUOTES, OPTION, "</script><!--", "../up"]
VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
MLFLOW = "http://127.0.0.1:5000/#/experiments/1/runs/"


class Document(HTMLParser):
    """Elements with their attributes, text by element, and whether all were closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements = []  # (tag, attributes)
        self.texts = []  # (tag of the innermost element, its attributes, text)
        self.stack = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        opened, _ = self.stack.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data):
        if self.stack:
            self.texts.append((*self.stack[-1], data))

    def values(self, *names):
        return [a[name] for _, a in self.elements for name in names if a.get(name) is not None]

    def text(self, tag, **attributes):
        return [t for name, a, t in self.texts if name == tag and attributes.items() <= a.items()]


def make_table(name="table_ablation", labels=("base", "+ APX"), **changes):
    runs = {f"{name}-{i}-s{seed}": (i, seed) for i in range(len(labels)) for seed in (1, 2)}
    values = {run: 0.25 + i / 100 + seed / 1000 for run, (i, seed) in runs.items()}
    cells = {
        label: {
            "abs_rel": {
                "value": 0.2515 + i / 100,
                "std": 0.000707,
                "runs": {run: values[run] for run, (j, _) in runs.items() if j == i},
                "from": "metrics.json",
            }
        }
        for i, label in enumerate(labels)
    }
    provenance = {
        "table": name,
        "stamp": {"scale": "quick"},
        "cells": cells,
        "runs": {
            run: {
                "seed": seed,
                "row": labels[i],
                "commit": f"c0ffee{i}{seed}",
                "dirty": seed == 2,
                "config_hash": f"config{i}{seed}",
                "data_hash": "data00",
                "code_hash": "code00",
                "model_sha256": f"model{i}{seed}",
                "host": "host-7",
                "device": "cpu",
                "teacher": None,
                "started": 1_700_000_000,
                "ended": 1_700_000_600.5,
                "command": f"fadepth train {SCRIPT}",
                "later_key": "tells more",
            }
            for run, (i, seed) in runs.items()
        },
    }
    table = Table(
        name=name,
        title="Ablation <of> a & b",
        columns=(
            Column("row", "Row", "Row"),
            Column("abs_rel", "Abs Rel ↓", "x", direction="lower", decimals=3, spread="std"),
            Column("rmse", "RMSE ↓", "x", direction="lower", decimals=3, group="dark <input>"),
            Column("std"),
        ),
        rows=tuple(
            TableRow({"row": label, "abs_rel": 0.2515 + i / 100, "std": 0.0007, "rmse": 6.5 + i})
            for i, label in enumerate(labels)
        ),
        stamp=Stamp("quick", (1, 2), "synthetic <street>", "protocol", "c0ffee"),
        provenance=provenance,
    )
    return replace(table, **changes)


def make_page(folder, *tables, **changes):
    image = folder / "figures" / "a.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1200, 300), (90, 120, 150)).save(image)
    tables = tables or (make_table(labels=NASTY),)
    page = Page(
        title=f"Study {SCRIPT}",
        scale="quick",
        data="Synthetic <street>.",
        tables=[PageTable(t, {"csv": f"{t.name}.csv", "odd": f"{t.name}.odd"}) for t in tables],
        figures=[PageFigure("a", f"Figure {QUOTES}", SCRIPT, image, image.with_suffix(".pdf"))],
        environment={"<torch>": f"2.13 {SCRIPT}"},
        supports=[f"supported {SCRIPT}"],
        refuses=[f"refused {QUOTES}"],
        missing=["tables.pdf: no <LaTeX>"],
        run_links={"table_ablation-0-s1": MLFLOW + "1"},
        commit="c0ffee0",
        dirty=True,
    )
    return replace(page, **changes)


def rendered(folder, *tables, **changes):
    return render_page(make_page(folder, *tables, **changes), folder=folder)


def test_elements_close_in_order_and_ids_are_unique(tmp_path):
    document = Document(rendered(tmp_path))
    ids = Counter(document.values("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    assert Counter(tag for tag, _ in document.elements)["h1"] == 1
    assert [a["lang"] for tag, a in document.elements if tag == "html"] == ["en"]
    assert all(a["alt"] for tag, a in document.elements if tag == "img")


def test_contents_lead_to_parts_that_exist(tmp_path):
    document = Document(rendered(tmp_path, make_table("table_a"), make_table("table_b")))
    ids = set(document.values("id"))
    inner = [href for href in document.values("href") if href.startswith("#") and "/" not in href]
    assert {unquote(href[1:]) for href in inner} <= ids
    for part in ("table_a", "table_b", "figure-a", "section-supports", "section-environment"):
        assert inner.count(f"#{part}") == 2, "one contents list each for wide and narrow screens"


def test_nothing_is_fetched_from_a_network(tmp_path):
    text = rendered(tmp_path)
    document = Document(text)
    for source in document.values("src", "srcset", "poster", "data", "action"):
        assert source.startswith("data:image/png;base64,")
    for tag, attributes in document.elements:
        href = attributes.get("href", "")
        if tag == "link":
            assert href == "data:,"
        elif urlsplit(href).scheme or href.startswith("//"):
            assert (tag, href) == ("a", PAPER)
    assert re.findall(r"url\(|@import|\bfetch\(|XMLHttpRequest|\bimport\(", text) == []
    policy = next(a["content"] for _, a in document.elements if "http-equiv" in a)
    assert "default-src 'none'" in policy
    # Addresses of runs stand in the JSON only, and a script of ours makes links of them.
    assert re.findall(r"https?://[^\s\"'<]+", text) == [PAPER, MLFLOW + "1"]


def test_text_of_users_is_text(tmp_path):
    labels = NASTY
    document = Document(rendered(tmp_path, make_table(labels=labels, notes=(SCRIPT,))))
    scripts = [a.get("type") for tag, a in document.elements if tag == "script"]
    assert scripts == ["application/json", "application/json", None]
    assert {name for _, a in document.elements for name in a if name.startswith("on")} == set()
    assert "".join(document.text("h1")) == f"Study {SCRIPT}"
    everything = "".join(text for tag, _, text in document.texts if tag != "script")
    for label in labels:
        assert label in everything
    for text in (f"supported {SCRIPT}", f"refused {QUOTES}", "no <LaTeX>", f"2.13 {SCRIPT}"):
        assert text in everything
    assert [a["alt"] for tag, a in document.elements if tag == "img"] == [f"Figure {QUOTES}"]


def test_provenance_comes_back_as_it_went_in(tmp_path):
    tables = [make_table("table_a", labels=NASTY), make_table("table_b", provenance=None)]
    document = Document(rendered(tmp_path, *tables))
    texts = document.text("script", type="application/json", **{"data-table": "table_a"})
    assert len(texts) == 1
    assert json.loads(texts[0]) == tables[0].provenance
    assert "<" not in texts[0]
    assert document.text("script", **{"data-table": "table_b"}) == []


def test_script_json_is_json_that_cannot_end_its_element():
    value = {"</script>": ["<!--", "&amp;", "\u2028 é", {"n": [1.5, None, True]}], "t": (1, 2)}
    text = script_json(value)
    assert "<" not in text
    assert json.loads(text) == {**value, "t": [1, 2]}

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    bad = script_json({"a": math.nan, "b": [math.inf]})
    assert json.loads(bad, parse_constant=refuse) == {"a": "nan", "b": ["inf"]}


def test_every_cell_with_provenance_has_a_link_and_no_other(tmp_path):
    companion = make_table("table_paper", labels=["base"])
    table = make_table(labels=NASTY, companions=(companion,))
    document = Document(rendered(tmp_path, table))
    found = [
        tuple(map(unquote, href[1:].split("/")))
        for tag, a in document.elements
        if tag == "a" and (href := a.get("href", "")).count("/") == 2 and href.startswith("#")
    ]
    expected = {
        (t.name, row, key)
        for t in (table, companion)
        for row, cells in t.provenance["cells"].items()
        for key in cells
    }
    assert Counter(found) == Counter(expected)


def test_cell_link_can_be_taken_apart_again():
    parts = ("table_ablation", QUOTES, "delta/1")
    link = cell_link(*parts)
    assert link.count("/") == 2
    assert tuple(map(unquote, link[1:].split("/"))) == parts
    assert cell_link("t", "w/o ETM", "abs_rel") == "#t/w%2Fo%20ETM/abs_rel"


def test_same_input_gives_same_bytes(tmp_path):
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    write_page(make_page(tmp_path), first)
    write_page(make_page(tmp_path), second)
    assert first.read_bytes() == second.read_bytes()


def test_files_and_vector_pictures_are_linked_from_the_folder_of_the_page(tmp_path):
    document = Document(rendered(tmp_path))
    links = {"".join(document.text("a", href=h)): h for h in document.values("href")}
    assert links["CSV"] == "table_ablation.csv"
    assert links["odd"] == "table_ablation.odd"
    assert "figures/a.pdf" in document.values("href")
    page = make_page(tmp_path)
    text = render_page(page, folder=tmp_path / "elsewhere" / "deep")
    assert "../../figures/a.pdf" in Document(text).values("href")


def test_picture_is_embedded_with_its_size(tmp_path):
    page = make_page(tmp_path)
    document = Document(render_page(page, folder=tmp_path))
    (image,) = [a for tag, a in document.elements if tag == "img"]
    assert (image["width"], image["height"]) == ("1200", "300")
    assert base64.b64decode(image["src"].split(",")[1]) == page.figures[0].image.read_bytes()


@pytest.mark.parametrize(
    ("scale", "banner"), [("full", []), ("quick", ["quick"]), ("full, smoke", ["smoke"])]
)
def test_scale_warns_where_numbers_are_no_result(tmp_path, scale, banner):
    document = Document(rendered(tmp_path, scale=scale))
    found = [a["class"] for _, a in document.elements if a.get("role") == "note"]
    own = [name for name in found if "banner" in name.split()]
    assert own == [f"banner banner-{name}" for name in banner]


@pytest.mark.parametrize(
    ("commit", "command"), [("c0ffee0", "git checkout c0ffee0"), ("a, b; $(x)", None), ("", None)]
)
def test_only_a_commit_enters_a_command(tmp_path, commit, command):
    texts = Document(rendered(tmp_path, commit=commit)).text("code")
    lines = [line for text in texts for line in text.splitlines()]
    assert [line for line in lines if "git checkout" in line] == ([command] if command else [])


def test_uncommitted_changes_are_told(tmp_path):
    assert "uncommitted changes" in rendered(tmp_path, dirty=True).split("<dialog")[0]
    assert "uncommitted changes" not in rendered(tmp_path, dirty=False).split("<dialog")[0]


def test_a_page_without_anything_still_stands(tmp_path):
    empty = make_page(tmp_path, tables=[], figures=[], missing=[], environment={}, run_links={})
    text = render_page(replace(empty, supports=[], refuses=[]), folder=tmp_path)
    document = Document(text)
    assert "Nothing was left out." in "".join(document.text("p"))
    assert {"section-tables", "section-figures"}.isdisjoint(document.values("id"))


def bad_png(page, folder):
    path = folder / "no.png"
    path.write_text("no picture")
    return replace(page, figures=[PageFigure("b", "B", "", path, None)])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (bad_png, "no.png is no readable PNG"),
        (lambda p, f: replace(p, figures=[PageFigure("b", "B", "", f / "x.png")]), "x.png is no"),
        (lambda p, f: replace(p, tables=[*p.tables, *p.tables]), "'table_ablation': give each"),
        (lambda p, f: replace(p, figures=[*p.figures, *p.figures]), "called 'figure-a'"),
        (lambda p, f: replace(p, run_links={"r1": "javascript:alert(1)"}), "link of run r1 is"),
        (
            lambda p, f: replace(p, tables=[PageTable(make_table(), {"csv": "http://x/a.csv"})]),
            "expected a path relative to the page",
        ),
        (
            lambda p, f: replace(p, tables=[PageTable(make_table(), {"csv": "/etc/a.csv"})]),
            "expected a path relative to the page",
        ),
    ],
)
def test_what_a_page_cannot_hold_is_refused_in_one_sentence(tmp_path, change, sentence):
    page = change(make_page(tmp_path), tmp_path)
    with pytest.raises(FadepthError) as error:
        render_page(page, folder=tmp_path)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------- in a browser

# Opens and closes cells as a reader would and hands over what it saw. It waits for events, which
# the browser delivers after the script that caused them.
PROBE = """
<script>
(async () => {
  const pause = () => new Promise((done) => setTimeout(done, 100));
  const heard = (target, name) =>
    new Promise((done) => target.addEventListener(name, done, { once: true }));
  const root = document.documentElement;
  const panel = document.getElementById("cell-panel");
  const seen = () => ({
    open: panel.open,
    title: document.getElementById("cell-title").textContent,
    text: document.getElementById("cell-body").innerText,
    command: panel.querySelector(".copy code")?.textContent,
    links: [...panel.querySelectorAll("a")].map((link) => link.href),
    scripts: panel.querySelectorAll("script").length,
    inside: panel.scrollWidth <= panel.clientWidth,
    hash: location.hash,
  });
  const result = { cells: [] };
  await pause();
  result.start = seen();
  // What Esc does; headless Chromium delivers its own event with a frame, which may never come.
  panel.close();
  panel.dispatchEvent(new Event("close"));
  result.escaped = { hash: location.hash, focus: document.activeElement.textContent };
  result.width = [root.scrollWidth, root.clientWidth, document.body.scrollWidth];
  result.wide = [...document.querySelectorAll("main *")].filter((element) => {
    if (element.closest(".scroll > *, pre > *")) return false; // scrolls by itself
    return element.getBoundingClientRect().right > root.clientWidth + 1;
  }).map((element) => element.outerHTML.slice(0, 80));
  result.nav = [".contents-wide", ".contents-narrow"].map(
    (name) => getComputedStyle(document.querySelector(name)).display
  );
  for (const link of document.querySelectorAll('.fadepth-table td a[href*="/"]')) {
    link.focus();
    link.click();
    await pause();
    result.cells.push(seen());
    document.getElementById("cell-close").click();
    await pause();
    const last = result.cells.at(-1);
    last.closed = !panel.open;
    last.hashAfter = location.hash;
    last.focusBack = document.activeElement === link;
  }
  const cell = document.querySelector('.fadepth-table td a[href*="/"]').closest("td");
  getSelection().removeAllRanges();
  cell.click();
  await pause();
  result.box = seen();
  const moved = heard(window, "hashchange");
  history.back();
  await moved;
  result.back = seen();
  top.postMessage(JSON.stringify(result), "*");
})();
</script>
"""
CATCH = """
<script>
addEventListener("message", (event) => {
  document.documentElement.replaceChildren(document.createElement("body"));
  document.body.textContent = "RESULT" + btoa(unescape(encodeURIComponent(event.data))) + "END";
});
</script>
"""


def browse(folder, address):
    """What the probe in the page saw; skips without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync "
        "--virtual-time-budget=10000 --window-size=1280,900 --dump-dom"
    )
    command = [chromium, *flags.split(), f"--user-data-dir={folder / 'profile'}", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search("RESULT([A-Za-z0-9+/=]+)END", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(base64.b64decode(html.unescape(found[1])))


@pytest.fixture(scope="module")
def browsed(tmp_path_factory):
    """The page at 1280 pixels and in a frame of 390; each is looked at once."""
    folder = tmp_path_factory.mktemp("page")
    long = "w" * 300  # nowhere to break a line
    wide = make_table("table_wide", labels=[long], title=long, notes=(long,))
    wide.provenance["cells"][long]["rmse"] = {
        "value": "-0.1 to 0.2",
        "runs": {"run-a": None, "run-b": None},
        "from": "per image <both>",
    }
    many = tuple(Column(f"more_{i}", f"One more {i}", decimals=3) for i in range(30))
    page = make_page(
        folder,
        make_table(labels=NASTY),
        replace(wide, columns=wide.columns + many),
        title=long,
        data=long,
        environment={"torch": long, long: "2.13"},
        supports=[long],
        missing=[long],
        commit="c0ffee" * 6,
    )
    text = render_page(page, folder=folder).replace("</body>", PROBE + "</body>")
    (folder / "index.html").write_text(text.replace("</body>", CATCH + "</body>"))
    (folder / "framed.html").write_text(text)
    hash_ = cell_link("table_ablation", SCRIPT, "abs_rel")

    @functools.cache
    def look(width):
        if width == 1280:
            return browse(folder, f"{(folder / 'index.html').as_uri()}{hash_}")
        frame = f'<iframe src="framed.html{hash_}" width="{width}" height="800"></iframe>'
        (folder / "phone.html").write_text(f"<!DOCTYPE html><body>{frame}{CATCH}")
        return browse(folder, (folder / "phone.html").as_uri())

    return look


@pytest.mark.parametrize("width", [1280, 390])
def test_page_never_scrolls_sideways(browsed, width):
    seen = browsed(width)
    scroll, client, body = seen["width"]
    assert scroll <= client
    assert body <= client <= width
    assert seen["wide"] == []
    assert all(cell["inside"] for cell in seen["cells"])
    assert (seen["nav"][0] != "none", seen["nav"][1] != "none") == (width == 1280, width != 1280)


@pytest.mark.parametrize("width", [1280, 390])
def test_cell_tells_what_is_behind_it(browsed, width):
    cells = browsed(width)["cells"]
    provenance = make_table(labels=NASTY).provenance
    assert len(cells) == len(NASTY) + 2
    for label, cell in zip(NASTY, cells, strict=False):
        known = provenance["cells"][label]["abs_rel"]
        assert cell["open"]
        assert cell["scripts"] == 0
        assert cell["title"] == f"Abs Rel ↓ · {label}"
        for expected in (
            "Ablation <of> a & b",
            f"{known['value']:.6g} ± 0.000707",
            "mean of 2 runs",
            *(f"The value is from runs/{run}/metrics.json" for run in known["runs"]),
            "with uncommitted changes",
            "host-7",
            "2023-11-14 22:13:20 UTC",
            "2023-11-14 22:23:20 UTC (after 10 min)",
            f"fadepth train {SCRIPT}",
            "tells more",
            *(f"{value:.6g}" for value in known["runs"].values()),
            *known["runs"],
        ):
            assert expected in cell["text"]
        for run in known["runs"]:
            for key in ("commit", "config_hash", "data_hash", "code_hash", "model_sha256"):
                assert provenance["runs"][run][key] in cell["text"]


def test_command_line_of_a_cell_survives_a_shell(browsed):
    for label, cell in zip(NASTY, browsed(1280)["cells"], strict=False):
        words = shlex.split(cell["command"])
        assert words[:2] == ["fadepth", "why"]
        assert words[-3:] == ["table_ablation", label, "abs_rel"]
        # What starts with a dash must not be taken for an option.
        assert ("--" in words) == (label == OPTION)
        # A real shell, which would run $(x) and `y` outside of quotes.
        arguments = cell["command"].removeprefix("fadepth why ").removeprefix("-- ")
        done = subprocess.run(
            ["sh", "-c", f"printf '%s\\n' {arguments}"], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines() == ["table_ablation", label, "abs_rel"]


def test_only_runs_with_an_address_are_linked(browsed):
    links = [cell["links"] for cell in browsed(1280)["cells"]]
    assert links == [[MLFLOW + "1"]] + [[]] * (len(NASTY) + 1)
    assert "make ui" in browsed(1280)["cells"][0]["text"]


def test_value_that_is_no_mean_is_not_called_one(browsed):
    text = browsed(1280)["cells"][-1]["text"]
    assert "-0.1 to 0.2" in text
    assert "made from 2 runs together" in text
    assert "mean" not in text
    assert text.count("The value is from per image <both>") == 2


@pytest.mark.parametrize("width", [1280, 390])
def test_panel_opens_by_address_and_gives_back_the_focus(browsed, width):
    seen = browsed(width)
    assert seen["start"]["open"]
    assert seen["start"]["title"] == f"Abs Rel ↓ · {SCRIPT}"
    label = f"{make_table(labels=NASTY).rows[NASTY.index(SCRIPT)].cells['abs_rel']:.3f}"
    assert seen["escaped"]["hash"] == "#table_ablation"
    assert seen["escaped"]["focus"].startswith(label)
    for cell in seen["cells"]:
        assert cell["closed"]
        assert cell["focusBack"]
        assert cell["hash"].count("/") == 2
        assert cell["hashAfter"] == "#" + cell["hash"][1:].split("/")[0]
    # The whole box of a cell opens it, and the browser's way back closes it.
    assert seen["box"]["open"]
    assert seen["box"]["title"] == "Abs Rel ↓ · plain"
    assert not seen["back"]["open"]
