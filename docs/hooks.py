"""What mkdocs does beside its own when it builds the site (`mkdocs.yml`).

Pages are written for two readers, of the repository and of the site. A link to a file outside of
docs/ leads on the site to a page that shows this file; the front page is the main README; formulas
in TeX become MathML, which browsers draw without a script; the pages of the API are made of the
package's modules.
"""

import html
import logging
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# A warning of this logger fails `mkdocs build --strict`.
log = logging.getLogger("mkdocs.plugins.fadepth")

ROOT = Path(__file__).resolve().parent.parent

#: Pages of the API, and the modules or packages of fadepth on each.
API = {
    "models": ("models",),
    "losses": ("losses",),
    "geometry": ("geometry",),
    "data": ("data",),
    "training": ("training", "checkpoint", "targets"),
    "evaluation": ("evaluation",),
    "stats": ("stats",),
    "export": ("export",),
    "tracking": ("tracking",),
}

#: Path of a link, without its anchor, or of a picture.
_LINK = re.compile(r'(?<=\]\()[^()\s#:]+(?=(?:#[^()\s]*)?\))|(?<= src=")[^"\s:]+(?=")')
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_OPERATOR = r"\\(?:log|exp|cos|sin|min|max|mathrm\{mean\})(?![A-Za-z])"
_LANGUAGES = {
    ".py": "python",
    ".smk": "python",
    "Snakefile": "python",
    ".yaml": "yaml",
    ".toml": "toml",
    ".sh": "sh",
    "Makefile": "make",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/, and write out the stars of the navigation."""
    for name, modules in API.items():
        uri = f"reference/api/{name}.md"
        files.append(File.generated(config, uri, content=api_page(name, modules)))
    waiting = ["README.md", *_outside(file for file in files if file.is_documentation_page())]
    while waiting:
        path = waiting.pop()
        uri = site_uri(path)
        if files.get_file_from_path(uri):
            continue
        content = file_page(path)
        files.append(File.generated(config, uri, content=content))
        waiting += links_outside(content, origin(uri))
    config.nav = _without_stars(config.nav, sorted(files.src_uris))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lead links to the pages that show the files, and indent lists as this Markdown wants it."""
    return with_wide_lists(with_site_links(markdown, page.file.src_uri))


def on_page_content(content: str, *, page: Page, **_: Any) -> str:
    """Write formulas as MathML."""

    def mathml(match: re.Match[str]) -> str:
        tex = html.unescape(match[2]).strip()
        drawn = convert(_spaced(tex), display="inline" if match[1] == "span" else "block")
        if "\\" in html.unescape(drawn):
            log.warning("%s: latex2mathml does not know all of: %s", page.file.src_uri, tex)
        return drawn if match[1] == "span" else f'<div class="formula">{drawn}</div>'

    return _FORMULA.sub(mathml, content)


def _spaced(tex: str) -> str:
    """TeX with the thin spaces beside `log` and the like that latex2mathml leaves out."""
    tex = re.sub(rf"(?<=[\w}}])\s*({_OPERATOR})", r"\\,\1", tex)
    after = r"\s*(?=[A-Za-z]|\\(?!left|right|[^A-Za-z]))"
    tex = re.sub(rf"(\\(?:log|exp|cos|sin)\b){after}", r"\1\\,", tex)
    return re.sub(rf"(\\underset\{{[^{{}}]*\}}\{{{_OPERATOR}\}}){after}", r"\1\\,", tex)


def origin(uri: str) -> str:
    """Path in the repository of what a page of the site shows; the inverse of `site_uri`."""
    if uri == "index.md":
        return "README.md"
    if not uri.startswith("repository/"):
        return f"docs/{uri}"
    path = uri.removeprefix("repository/")
    if (ROOT / path).is_file():
        return path
    return posixpath.dirname(path) if path.endswith("/index.md") else path.removesuffix(".md")


def site_uri(path: str) -> str:
    """Page of the site, as a path below docs/, that shows a file or folder of the repository."""
    if (ROOT / path / "README.md").is_file():
        path = posixpath.join(path, "README.md")
    if path in ("README.md", "docs/README.md"):
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".md"):
        return f"repository/{path}"
    return f"repository/{path}/index.md" if (ROOT / path).is_dir() else f"repository/{path}.md"


def links_outside(markdown: str, source: str) -> list[str]:
    """Files and folders of the repository outside of docs/ that a Markdown file links to."""
    targets: list[str] = []

    def note(link: str) -> str:
        target = _target(link, source)
        if target and not target.startswith("docs/"):
            targets.append(target)
        return link

    _with_links(markdown, note)
    return targets


def with_site_links(markdown: str, uri: str) -> str:
    """The same Markdown with links that hold on the site, for the page at `uri`."""
    here, source = posixpath.dirname(uri), origin(uri)

    def on_site(link: str) -> str:
        target = _target(link, source)
        return posixpath.relpath(site_uri(target), here or ".") if target else link

    return _with_links(markdown, on_site)


def with_wide_lists(markdown: str) -> str:
    """The same Markdown with lists as Python-Markdown wants them.

    It takes four spaces a level where GitHub takes two or three, and a blank line before the next
    item where an item has several paragraphs.
    """
    lines: list[str] = []
    fence, shift, in_list, paragraphs = "", 0, False, False
    for line in markdown.split("\n"):
        text = line.lstrip(" ")
        width = len(line) - len(text)
        if fence:
            fence = "" if text.rstrip() == fence else fence
        elif not text:
            paragraphs = True
        else:
            if not width:
                in_list = bool(re.match(r"([-*+]|\d+[.)]) ", text))
                if in_list and paragraphs and lines and lines[-1].startswith(" "):
                    lines.append("")
                paragraphs = False
            shift = 4 * -(-width // 3) - width if in_list else 0
            mark = re.match(r"`{3,}|~{3,}", text)
            fence = mark[0] if mark else ""
        lines.append(" " * shift + line if text else line)
    return "\n".join(lines)


def file_page(path: str) -> str:
    """Markdown that shows a file or a folder of the repository."""
    file = ROOT / path
    if file.suffix == ".md":
        return file.read_text(encoding="utf-8")
    head = f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {path}\n\n"
    if file.is_dir():
        names = sorted(entry.name for entry in file.iterdir() if entry.name[0] not in "._")
        return head + "\n".join(f"- [{name}]({name})" for name in names)
    language = _LANGUAGES.get(file.suffix or file.name, "text")
    fence = "~" * 8
    text = file.read_text(encoding="utf-8")
    return f'{head}{fence} {language} linenums="1"\n{text}{fence}\n'


def api_page(name: str, modules: tuple[str, ...]) -> str:
    """Markdown that asks mkdocstrings for the documentation of modules and their members."""
    lines = [f"# fadepth.{name}"]
    for module in modules:
        for path in _python_files(ROOT / "fadepth" / module):
            place = path.relative_to(ROOT).as_posix()
            dotted = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            lines.append(f"## {dotted.removeprefix('fadepth.')}")
            lines.append(f"[{place}](../../../{place})")
            lines.append(f"::: {dotted}")
    return "\n\n".join(lines) + "\n"


def _python_files(module: Path) -> list[Path]:
    if not module.is_dir():
        return [module.with_suffix(".py")]
    return [path for path in sorted(module.rglob("*.py")) if path != module / "__init__.py"]


def _outside(pages: Iterator[File]) -> Iterator[str]:
    for page in pages:
        yield from links_outside(page.content_string, origin(page.src_uri))


def _target(link: str, source: str) -> str | None:
    """The file or folder of the repository that a link in `source` means, if there is one."""
    base = source if (ROOT / source).is_dir() else posixpath.dirname(source)
    path = posixpath.normpath(posixpath.join(base, link))
    inside = not path.startswith("..") and path != "."
    return path if inside and os.path.exists(ROOT / path) else None


def _with_links(markdown: str, changed: Callable[[str], str]) -> str:
    """The same Markdown with the path of each link changed; code stays as it is."""
    lines, fence = [], ""
    for line in markdown.split("\n"):
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif mark:
            fence = mark[1]
        else:
            pieces = re.split(r"(`[^`]*`)", line)
            pieces[::2] = [_LINK.sub(lambda link: changed(link[0]), piece) for piece in pieces[::2]]
            line = "".join(pieces)
        lines.append(line)
    return "\n".join(lines)


def _without_stars(nav: Any, uris: list[str]) -> Any:
    """The navigation with patterns such as `decisions/*` replaced by the pages they stand for."""
    if isinstance(nav, dict):
        return {title: _without_stars(entry, uris) for title, entry in nav.items()}
    if not isinstance(nav, list):
        return nav
    entries: list[Any] = []
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            entries += [uri for uri in uris if fnmatch(uri, entry) and uri.endswith(".md")]
        else:
            entries.append(_without_stars(entry, uris))
    return entries
