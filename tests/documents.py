"""Commands of the README and the docs, as a reader would copy them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```", re.M | re.S
)
_TITLE = re.compile(r'title="(?P<name>[^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is written in, the file that it stands for, its text."""

    language: str
    title: str | None
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """One line of shell, without its comment, and where it stands."""

    text: str
    line: int


def pages(repository: Path) -> list[Path]:
    """The documents that a reader may copy commands from."""
    found = [*repository.glob("*.md"), *repository.glob("[!.]*/README.md")]
    found += repository.glob("docs/**/*.md")
    return sorted({path for path in found if path.name != "CHANGELOG.md"})


def blocks(text: str) -> Iterator[Block]:
    """All fenced blocks of a page, in order."""
    for match in _FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = _TITLE.search(rest)
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.M)
        line = text.count("\n", 0, match.start()) + 2
        yield Block(language, title["name"] if title else None, body, line)


def commands(block: Block) -> Iterator[Command]:
    """The lines of a block of shell; one that ends in a backslash goes on in the next."""
    started: int | None = None
    collected = ""
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        started = number if started is None else started
        if line.endswith("\\"):
            collected += line[:-1]
            continue
        text = _without_comment(collected + line)
        if text:
            yield Command(text, started)
        started, collected = None, ""


def _without_comment(line: str) -> str:
    """Cut at the first # that begins a word outside quotes."""
    quote = ""
    for index, sign in enumerate(line):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "#" and (index == 0 or line[index - 1].isspace()):
            return line[:index].strip()
    return line.strip()
