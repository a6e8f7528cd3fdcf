r"""Tables as CSV (raw numbers), Markdown and LaTeX.

pandas' `Styler.to_latex` picks the best before rounding and escapes either everything or nothing
(a header `$\delta_1$` beside a label `a_b` is out of its reach), hence own writers.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

from fadepth.files import write_atomic
from fadepth.report.table import Cell, Column, Mark, Table, TableRow, marks, rounded

MISSING = "--"

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    # What pdflatex does not set from UTF-8 by itself, or only with further packages.
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": "$-$",
    "–": "--",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "δ": r"$\delta$",
    "λ": r"$\lambda$",
}
_SWITCH = {"markdown": {"on": "●", "off": "○"}, "latex": {"on": r"$\bullet$", "off": r"$\circ$"}}


def escape_latex(text: str) -> str:
    """Escape plain text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def escape_latex_header(text: str) -> str:
    r"""Escape what lies outside of `$...$`: `a_b $\delta_1$` -> `a\_b $\delta_1$`."""
    parts = re.split(r"(\$[^$]*\$)", text)
    return "".join(part if index % 2 else escape_latex(part) for index, part in enumerate(parts))


def escape_markdown(text: str) -> str:
    """Escape plain text for a cell of a Markdown table."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def csv_text(table: Table) -> str:
    """Write every column under its key, numbers as Python prints them, missing ones empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([column.key for column in table.columns])
    for row in table.rows:
        writer.writerow([_raw(row.cells.get(column.key)) for column in table.columns])
    return stream.getvalue()


def _raw(value: Cell) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _number(row: TableRow, column: Column, plus_minus: str) -> str | None:
    assert column.decimals is not None
    value = rounded(row.cells.get(column.key), column.decimals)
    if value is None:
        return None
    spread = rounded(row.cells.get(column.spread), column.decimals) if column.spread else None
    return f"{value}" if spread is None else f"{value}{plus_minus}{spread}"


def markdown_text(table: Table) -> str:
    """Write a GitHub-flavoured table: best bold, second underlined, stamp and notes below."""
    marked = marks(table)
    shown = [column for column in table.columns if column.markdown is not None]
    style: dict[Mark, str] = {"best": "**{}**", "second": "<ins>{}</ins>"}

    def cell(index: int, row: TableRow, column: Column) -> str:
        if column.decimals is not None:
            text = _number(row, column, " ± ")
            mark = marked.get((index, column.key))
            return MISSING if text is None else style[mark].format(text) if mark else text
        return _text(row.cells.get(column.key), escape_markdown, _SWITCH["markdown"])

    lines = [f"### {escape_markdown(table.title)}", ""]
    if table.warning:
        lines += [f"> **{escape_markdown(table.warning)}**", ""]
    lines.append("| " + " | ".join(str(column.markdown) for column in shown) + " |")
    rules = ["---" if column.decimals is None else "---:" for column in shown]
    lines.append("| " + " | ".join(rules) + " |")
    for index, row in enumerate(table.rows):
        lines.append("| " + " | ".join(cell(index, row, column) for column in shown) + " |")
    lines.append("")
    lines += [f"- {escape_markdown(note)}" for note in (*table.notes, _origin(table))]
    return "\n".join(lines) + "\n"


def latex_text(table: Table) -> str:
    """Write a `table` environment that needs booktabs only; the caption holds the warning."""
    marked = marks(table)
    shown = [column for column in table.columns if column.latex is not None]
    style: dict[Mark, str] = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}

    def cell(index: int, row: TableRow, column: Column) -> str:
        if column.decimals is not None:
            text = _number(row, column, r" $\pm$ ")
            mark = marked.get((index, column.key))
            return MISSING if text is None else style[mark].format(text) if mark else text
        return _text(row.cells.get(column.key), escape_latex, _SWITCH["latex"])

    caption = escape_latex(table.title.rstrip(".")) + "."
    if table.warning:
        caption += rf" \textbf{{{escape_latex(table.warning)}.}}"
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', table.name)}}}",
        rf"\begin{{tabular}}{{{''.join(_alignment(column) for column in shown)}}}",
        r"\toprule",
        " & ".join(escape_latex_header(column.latex or "") for column in shown) + r" \\",
        r"\midrule",
    ]
    for index, row in enumerate(table.rows):
        if index and row.group != table.rows[index - 1].group:
            lines.append(r"\midrule")
        cells = " & ".join(cell(index, row, column) for column in shown)
        # LaTeX would read a bracket or star after `\\` as its argument.
        lines.append(("{}" if cells.startswith(("[", "*")) else "") + cells + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = " ".join(escape_latex(_sentence(note)) for note in (*table.notes, _origin(table)))
    lines += ["", rf"\par\medskip\parbox{{\linewidth}}{{\footnotesize {notes}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _alignment(column: Column) -> str:
    if column.decimals is not None:
        return "r"
    return "l" if column.key == "row" else "c"


def _text(value: Cell, escape: Callable[[str], str], switch: dict[str, str]) -> str:
    if value is None or value == "":
        return MISSING
    text = str(value)
    return switch.get(text) or escape(text)


def _sentence(note: str) -> str:
    return note if note.endswith(".") else note + "."


def _origin(table: Table) -> str:
    return f"Made from: {table.stamp.sentence()}"


def write_table(table: Table, csv: Path, markdown: Path, latex: Path) -> None:
    """Write all three formats and, where known, `<csv stem>.provenance.json` beside the CSV.

    Each file appears at once or not at all.
    """
    write_atomic(markdown, markdown_text(table))
    write_atomic(latex, latex_text(table))
    if table.provenance is not None:
        text = json.dumps(table.provenance, indent=1, ensure_ascii=False) + "\n"
        write_atomic(csv.with_suffix(".provenance.json"), text)
    # Last: who sees the CSV finds the others.
    write_atomic(csv, csv_text(table))
