"""All tables of a study in one PDF, from the snippets that papers include."""

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fadepth.errors import FadepthError
from fadepth.files import write_atomic
from fadepth.report.latex import escape_latex

log = logging.getLogger(__name__)

_TEMPLATE = Path(__file__).parent / "templates" / "tables.tex"
_PACKAGES = "texlive-latex-base texlive-latex-recommended"
_HINT = f"install Debian's packages {_PACKAGES}; everything else is made without LaTeX"
_MARK = "fadepth-snippet:"
_SECONDS = 600


def find_latex() -> str | None:
    """Path of pdflatex; None where it is not installed."""
    return shutil.which("pdflatex")


def tables_pdf(
    snippets: Sequence[Path], output: Path, *, title: str, warning: str | None, stamp: str
) -> None:
    """Set snippets of `latex_text` as one document: a list of the tables, then the tables.

    A table wider than the line or higher than the page is made smaller until it fits. The same
    snippets give the same bytes on the same LaTeX.

    Args:
        snippets: .tex files, each with one or several `table` environments.
        output: the PDF.
        title: of the document, plain text.
        warning: what the numbers must not be used for.
        stamp: where the numbers are from.

    Raises:
        FadepthError: there is no pdflatex, no snippet, or LaTeX cannot read one of them.
    """
    latex = find_latex()
    if latex is None:
        raise FadepthError(f"{output} needs pdflatex, which is not on the PATH: {_HINT}")
    if not snippets:
        raise FadepthError(f"{output} has no tables to show: name at least one .tex file")
    with tempfile.TemporaryDirectory(prefix="fadepth-pdf-") as name:
        folder = Path(name)
        for number, snippet in enumerate(snippets):
            # Under a plain name: paths may hold signs that mean something to LaTeX.
            (folder / f"table-{number}.tex").write_text(_read(snippet), encoding="utf-8")
        source = _document(len(snippets), title, warning, stamp)
        (folder / "tables.tex").write_text(source, encoding="utf-8")
        for _ in range(2):  # the second time with the list of tables that the first has written
            printed = _run(latex, folder, snippets, output)
        for line in re.findall(r"^Overfull .*", printed, flags=re.MULTILINE):
            log.warning("%s: something is wider than its page: %s", output, line)
        write_atomic(output, (folder / "tables.pdf").read_bytes())


def _read(snippet: Path) -> str:
    try:
        return snippet.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise FadepthError(
            f"{snippet} cannot be read as a LaTeX table ({reason}): make the tables again"
        ) from None


def _document(count: int, title: str, warning: str | None, stamp: str) -> str:
    parts = {
        "FADEPTHTITLE": escape_latex(title),
        "FADEPTHWARNING": rf"\textbf{{{escape_latex(warning)}}}\par\medskip" if warning else "",
        "FADEPTHSTAMP": escape_latex(stamp),
        # The log tells by these lines which snippet was being read when something went wrong.
        "FADEPTHTABLES": "\n".join(
            rf"\typeout{{{_MARK} {number}}}\input{{table-{number}.tex}}\typeout{{{_MARK} -}}"
            for number in range(count)
        ),
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    return re.sub("|".join(parts), lambda match: parts[match.group()], text)


def _run(latex: str, folder: Path, snippets: Sequence[Path], output: Path) -> str:
    """Run pdflatex once in `folder`; return what it prints."""
    command = [latex, "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape"]
    try:
        done = subprocess.run(
            [*command, "tables.tex"],
            cwd=folder,
            env={
                **os.environ,
                "SOURCE_DATE_EPOCH": "0",
                "FORCE_SOURCE_DATE": "1",
                # A table reads and writes nothing outside of its own folder.
                "openin_any": "p",
                "openout_any": "p",
                "max_print_line": "1000",  # messages are not broken into lines of 79 letters
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FadepthError(f"{output}: {latex} did not run to its end ({error}): {_HINT}") from None
    printed = done.stdout.decode("utf-8", errors="replace")
    if done.returncode or not (folder / "tables.pdf").is_file():
        raise FadepthError(_failure(printed, snippets, output))
    return printed


def _failure(printed: str, snippets: Sequence[Path], output: Path) -> str:
    found = re.search(r"^! *(.*)", printed, flags=re.MULTILINE)
    message = found.group(1).strip() if found else "no message"
    before = printed[: found.start()] if found else printed
    marks = re.findall(rf"^{_MARK} (\d+|-)", before, flags=re.MULTILINE)
    if marks and marks[-1] != "-":
        return f"{snippets[int(marks[-1])]}: LaTeX cannot set this table ({message}): correct it"
    return f"{output}: LaTeX stopped ({message}): {_HINT}"
