"""What commands print: for people at a terminal, for pipes, for scripts.

Results go to stdout, all that is said about the work to stderr: with `--json`, stdout is JSON
alone.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Columns of what is no terminal: no row is cut or folded there, so that `grep` finds it whole.
_NO_END = 10_000


def console(*, stderr: bool = False, soft_wrap: bool = False) -> "Console":
    """Where tables are printed: as wide as the terminal, as wide as they are in a file or a pipe.

    Colours are for terminals; `NO_COLOR` and `FORCE_COLOR` say otherwise, as everywhere.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream and stream.isatty() else _NO_END
    return Console(width=width, stderr=stderr, soft_wrap=soft_wrap, highlight=False)


def say(sentence: str, style: str = "") -> None:
    """One line to stderr, as from `fadepth` itself."""
    from rich.text import Text

    console(stderr=True, soft_wrap=True).print(Text(f"fadepth: {sentence}", style))


def print_json(content: Any) -> None:
    """`--json`: the content, and nothing else, on stdout."""
    print(_json(content, plain=not _takes_unicode(sys.stdout.encoding)))


class Report:
    """What a benchmark prints, and `--json FILE`; `-` is stdout, for which people are told nothing.

    Attributes:
        output: the file, if one is wanted.
    """

    def __init__(self, output: Path | None) -> None:
        self.output = output

    def print(self, *parts: "str | Table") -> None:
        """Print lines as they are, which the terminal folds, and tables as wide as it is."""
        if self.output == STDOUT:
            return
        for part in parts:
            if isinstance(part, str):
                print(part, flush=True)
            else:
                console().print(part)

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the file, if one is wanted."""
        if self.output == STDOUT:
            print_json(content)
        elif self.output:
            from fadepth.files import write_atomic

            write_atomic(self.output, _json(content) + "\n")
            logging.getLogger("fadepth").warning("written: %s", self.output)


#: `--json -`
STDOUT = Path("-")


def _json(content: Any, *, plain: bool = False) -> str:
    return json.dumps(content, indent=1, ensure_ascii=plain)


def _takes_unicode(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").startswith("utf")


def never_fail_on_a_sign() -> None:
    """A terminal that cannot show `δ₁` or `→` gets a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and not _takes_unicode(stream.encoding):
            stream.reconfigure(errors="replace")


def nobody_reads(descriptor: int) -> bool:
    """Whether a descriptor is a pipe whose reader has gone, or was, until rich turned it away."""
    import select

    try:
        if os.path.samestat(os.fstat(descriptor), os.stat(os.devnull)):
            return True
        poll = select.poll()
        poll.register(descriptor, 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except OSError:
        return False


def write_to_nobody(descriptor: int) -> None:
    """What is still to be written goes nowhere: Python flushes its buffers once more at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
