"""The documentation: generated pages are what the code says, and the site builds without a warning.

Pages are written for GitHub and for the site, whose Markdown differs in lists, tables and anchors.
What the site shows is compared with markdown-it, a parser of GitHub's kind.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fadepth.config import Config, Settings
from fadepth.evaluation.protocols import Protocol
from fadepth.study_file import StudyFile

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

#: Markdown that both GitHub and the site show: docs/, the front page, and some that they link to.
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "ablations" / "README.md")
    if path != DOCS / "README.md"
)


def module(name: str) -> ModuleType:
    """A file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


HOOKS = module("hooks")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as `make docs` does; a dead link or anchor is an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    # Not --quiet: what is not said does not count as a warning.
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


# Generated pages


@pytest.mark.parametrize("name", ["configuration.md", "command-line.md"])
def test_generated_page_is_what_the_code_says(name: str) -> None:
    page = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert page == module("generate").PAGES[name](), "call: python docs/generate.py"


def settings_below(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Every dotted key below a class of settings, with its description."""
    for name, field in model.model_fields.items():
        yield prefix + name, field.description
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, Settings):
                yield from settings_below(part, f"{prefix}{name}.")


@pytest.mark.parametrize("model", [Config, StudyFile, Protocol])
def test_every_key_is_described_in_the_reference(model: type[Settings]) -> None:
    page = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = Counter(re.split(r"[.\]]", row[0].strip("| `").partition("`")[0])[-1] for row in rows)
    for key, _ in settings_below(model):
        assert told[key.rpartition(".")[2]], key
    assert not [row[0] for row in rows if len(row) == 4 and row[3].strip(" |") == ""]


def test_every_command_is_in_the_reference() -> None:
    import typer

    from fadepth.cli import app

    def names(command: Any, path: str) -> Iterator[str]:
        yield path
        for name, inner in getattr(command, "commands", {}).items():
            yield from names(inner, f"{path} {name}")

    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^#+ `(fadepth [a-z -]+)`$", page, flags=re.MULTILINE)) | {"fadepth"}
    assert told == set(names(typer.main.get_command(app), "fadepth"))


# The site


class Shown(HTMLParser):
    """What a page of the site holds: elements of its article, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.loaded: list[str] = []
        self.text: list[str] = []
        self._article = self._code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._article += tag == "article"
        self._code += tag in ("code", "pre", "math")
        if self._article:
            self.elements[tag] += 1
        if tag in ("script", "img", "iframe", "source"):
            self.loaded.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.append(given.get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        self._article -= tag == "article"
        self._code -= tag in ("code", "pre", "math")

    def handle_data(self, data: str) -> None:
        if self._article and not self._code:
            self.text.append(data)


def shown_page(site: Path, source: str) -> Shown:
    """The page of the site that shows a Markdown file of the repository."""
    page = re.sub(r"README\.md$", "index.md", str(HOOKS.site_uri(source)))
    return Shown((site / page).with_suffix(".html"))


def test_nothing_comes_from_the_network(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > len(PAGES)
    outside = re.compile(r"(https?:)?//")
    for page in pages:
        assert not [url for url in Shown(page).loaded if outside.match(url)], page
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"url\(([^)]*)\)|@import", sheet.read_text(encoding="utf-8"))
        assert not [url for url in urls if outside.match(url.strip("'\""))], sheet


def as_github_shows(path: Path) -> Counter[str]:
    """Lists, tables, blocks of code and pictures in the eyes of a parser of GitHub's kind."""
    opened: Counter[str] = Counter()

    def count(tokens: list[Token]) -> None:
        for token in tokens:
            if token.type == "fence":
                opened["pre"] += 1
            elif token.type in ("html_block", "html_inline"):
                opened.update(re.findall(r"<([a-z0-9]+)", token.content))
            elif token.nesting == 1 or token.type == "image":
                opened[token.tag] += 1
            count(token.children or [])

    count(MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8")))
    return opened


@pytest.mark.parametrize("source", PAGES)
def test_page_has_the_same_lists_tables_and_code_as_on_github(site: Path, source: str) -> None:
    expected, found = as_github_shows(ROOT / source), shown_page(site, source).elements
    for tag in ("ul", "ol", "li", "tr", "pre", "img", "h1", "h2", "h3"):
        assert found[tag] == expected[tag], tag


@pytest.mark.parametrize("source", PAGES)
def test_no_mark_of_markdown_or_tex_is_left_over(site: Path, source: str) -> None:
    text = "".join(shown_page(site, source).text)
    assert not re.findall(r"```|\*\*|\]\(|\\[a-zA-Z]+|\\\(|\$\$", text)


def test_formulas_are_drawn_without_a_script(site: Path) -> None:
    source = (DOCS / "method.md").read_text(encoding="utf-8")
    formulas = len(re.findall(r"\$\$.+?\$\$|(?<![\$\w`])\$[^$`]+\$", source, flags=re.DOTALL))
    assert shown_page(site, "docs/method.md").elements["math"] == formulas > 100


def test_links_to_the_source_lead_to_it(site: Path) -> None:
    page = (site / "method.html").read_text(encoding="utf-8")
    assert 'href="repository/fadepth/models/etm.py.html"' in page
    shown = (site / "repository" / "fadepth" / "models" / "etm.py.html").read_text(encoding="utf-8")
    assert "EtmConv2d" in shown
    front = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="method.html"' in front and 'href="docs/' not in front


def test_only_links_that_leave_docs_are_led_elsewhere() -> None:
    kept = (
        "[a](absent.py) [b](data.md#lists) `[c](../README.md)`\n~~~ text\n[d](../README.md)\n~~~\n"
    )
    assert HOOKS.with_site_links(kept, "page.md") == kept
    for link, expected in {
        "../README.md#presets": "index.md#presets",
        "../config/quick.yaml": "repository/config/quick.yaml.md",
        "../ablations": "repository/ablations/README.md",
        "../tests/models": "repository/tests/models/index.md",
        "../docs/data.md": "data.md",
    }.items():
        assert HOOKS.with_site_links(f"[`x`]({link})", "page.md") == f"[`x`]({expected})"
    for path in ("README.md", "docs/data.md", "ablations/README.md", "tests/models", "Makefile"):
        assert HOOKS.origin(HOOKS.site_uri(path)) in (path, f"{path}/README.md")


def test_a_missing_file_or_anchor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    validation = config[config.index("validation:") :]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\nplugins: []\n{validation}")
    for link, sound in (("#head", True), ("#other", False), ("absent.md", False)):
        (tmp_path / "docs" / "index.md").write_text(f"# Head\n\n[a]({link})\n")
        built = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict"],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        assert (built.returncode == 0) is sound, link
