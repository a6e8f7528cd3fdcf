"""Tables on disk: CSV (raw numbers), Markdown, LaTeX and HTML."""

import csv as csv_module
import io
import json
from pathlib import Path

from fadepth.errors import FadepthError
from fadepth.files import write_atomic
from fadepth.report import layout
from fadepth.report.html import html_document
from fadepth.report.latex import escape_latex, escape_latex_header, latex_text
from fadepth.report.markdown import escape_markdown, markdown_text
from fadepth.report.table import Table

__all__ = [
    "csv_text",
    "escape_latex",
    "escape_latex_header",
    "escape_markdown",
    "html_document",
    "latex_text",
    "markdown_text",
    "write_table",
]


def csv_text(table: Table) -> str:
    """Write every column under its key, numbers as Python prints them, missing ones empty."""
    stream = io.StringIO()
    writer = csv_module.writer(stream, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    for row in table.rows:
        writer.writerow([layout.raw(row.cells.get(column.key)) for column in table.columns])
    return stream.getvalue()


def write_table(table: Table, csv: Path) -> None:
    """Write `csv` and, beside it under the same stem, .md, .tex and .html with all companions.

    Each companion's numbers stand in `<name>.csv` in the same folder. Where it is known, where the
    cells are from is told in `<stem>.provenance.json`. Each file appears at once or not at all.

    Raises:
        FadepthError: two of the tables would be written to the same CSV.
    """
    companions = [(csv.with_name(f"{t.name}.csv"), t) for t in list(layout.tables_of(table))[1:]]
    paths = [csv, *(path for path, _ in companions)]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise FadepthError(f"{twice[0]}: two tables have this name, give each one its own")
    for path, companion in companions:
        _write_provenance(companion, path)
        write_atomic(path, csv_text(companion))
    write_atomic(csv.with_suffix(".md"), markdown_text(table))
    write_atomic(csv.with_suffix(".tex"), latex_text(table))
    write_atomic(csv.with_suffix(".html"), html_document(table))
    _write_provenance(table, csv)
    # Last: who sees the CSV finds the others.
    write_atomic(csv, csv_text(table))


def _write_provenance(table: Table, csv: Path) -> None:
    if table.provenance is not None:
        text = json.dumps(table.provenance, indent=1, ensure_ascii=False) + "\n"
        write_atomic(csv.with_suffix(".provenance.json"), text)
