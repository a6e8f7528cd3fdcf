r"""Tables as LaTeX that needs booktabs only.

pandas' `Styler.to_latex` picks the best before rounding and escapes either everything or nothing
(a header `$\delta_1$` beside a label `a_b` is out of its reach), hence an own writer.
"""

import re
import unicodedata

from fadepth.report import layout
from fadepth.report.table import Column, Mark, Table, TableRow, marks

MISSING = "--"
_SWITCH = {"on": r"$\bullet$", "off": r"$\circ$"}
_STYLE: dict[Mark, str] = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
#: From this many printed columns on, a table needs a smaller size to fit a page.
_WIDE = 9

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
    # What pdflatex does not set from UTF-8 by itself, or only with further packages or fonts.
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "\u2018": "`",  # left single quotation mark
    "\u2019": "'",  # right single quotation mark
    "“": "``",
    "”": "''",
    "„": "''",
    "•": r"\textbullet{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "©": r"\copyright{}",
    "£": r"\pounds{}",
    "€": "EUR",
    "¿": r"\textquestiondown{}",
    "¡": r"\textexclamdown{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "\u0131": r"\i{}",  # dotless i
    "\u2010": "-",  # hyphen
    "\u2011": "-",  # non-breaking hyphen
    "\u2044": "/",  # fraction slash
}
_MATHS = {
    "±": r"\pm",
    "∓": r"\mp",
    "×": r"\times",
    "÷": r"\div",
    "·": r"\cdot",
    "−": "-",
    "∗": "*",
    "¬": r"\neg",
    "°": r"^{\circ}",
    "≤": r"\leq",
    "≥": r"\geq",
    "≪": r"\ll",
    "≫": r"\gg",
    "«": r"\ll",
    "»": r"\gg",
    "≈": r"\approx",
    "≠": r"\neq",
    "≡": r"\equiv",
    "∝": r"\propto",
    "\u223c": r"\sim",  # tilde operator
    "∞": r"\infty",
    "→": r"\rightarrow",
    "←": r"\leftarrow",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "↔": r"\leftrightarrow",
    "⇒": r"\Rightarrow",
    "∂": r"\partial",
    "∇": r"\nabla",
    "√": r"\surd",
    "∑": r"\sum",
    "∏": r"\prod",
    "∫": r"\int",
    "∈": r"\in",
    "\u222a": r"\cup",  # union
    "∩": r"\cap",
    "∅": r"\emptyset",
    "∥": r"\parallel",
    "‖": r"\|",
    "†": r"\dagger",
    "‡": r"\ddagger",
    "\u2032": r"^{\prime}",  # prime
    "″": r"^{\prime\prime}",
    "★": r"\star",
    "●": r"\bullet",
    "○": r"\circ",
    "✓": r"\surd",
    "✔": r"\surd",
    "✗": r"\times",
    "✘": r"\times",
    "µ": r"\mu",
}
_GREEK = """
alpha α beta β gamma γ delta δ varepsilon ε zeta ζ eta η theta θ kappa κ lambda λ mu μ
nu ν xi ξ pi π rho ρ varsigma ς sigma σ tau τ varphi φ chi χ psi ψ omega ω
Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Phi Φ Psi Ψ Omega Ω
"""
_MATHS |= {letter: f"\\{name}" for name, letter in re.findall(r"(\w+) (\w)", _GREEK)}
#: Combining signs that every font encoding has.
_ACCENTS = dict(
    zip(
        "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030b\u030c\u0323\u0327",
        "`'^~=u.\"Hvdc",
        strict=True,
    )
)


def escape_latex(text: str) -> str:
    """Escape plain text for LaTeX.

    What LaTeX's standard fonts cannot print becomes `?`: visible, and never an error.
    """
    plain = re.sub(r"\s", " ", unicodedata.normalize("NFC", text))
    # Two hyphens in a row would be printed as a dash.
    return "".join(map(_character, plain)).replace("--", "-{}-").replace("--", "-{}-")


def _character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character in _MATHS:
        return f"${_MATHS[character]}$"
    if " " <= character <= "~":
        return character
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""  # joins or varies its neighbours, and has no shape of its own
    return _decomposed(character)


def _decomposed(character: str) -> str:
    """Print an accented letter, a raised or lowered sign or a ligature by its parts."""
    tag, *codes = unicodedata.decomposition(character).split() or [""]
    if tag in ("<super>", "<sub>"):
        inner = "".join(_character(chr(int(code, 16))) for code in codes)
        return f"${'^' if tag == '<super>' else '_'}{{{inner.replace('$', '')}}}$"
    if tag.startswith("<"):  # compatible, wide, a fraction
        return "".join(_character(chr(int(code, 16))) for code in codes)
    parts = unicodedata.normalize("NFD", character)
    letter, signs = parts[0], parts[1:]
    if not (signs and letter.isascii() and letter.isalpha()):
        return "?"
    if character <= "ÿ":
        return character  # Latin-1 is set by itself; everything else is safer as a command
    known = len(signs) == 1 and signs in _ACCENTS
    return f"\\{_ACCENTS[signs]}{{{letter}}}" if known else letter


#: Maths of a header: letters, signs that `escape_latex` itself writes, and plain indices of them. A
#: study may name columns, and `$\input{...}$` or `$^^5cinput$` would read the user's files.
_NAMES = {name for sign in _MATHS.values() for name in re.findall(r"\\([A-Za-z]+)", sign)}
_ATOM = rf"(?:\\(?:{'|'.join(sorted(_NAMES))})(?![A-Za-z])|[A-Za-z0-9 ,.()<>=+-])"
_HEADER_MATHS = re.compile(rf"(\$(?:{_ATOM}(?:[_^](?:[A-Za-z0-9]|\{{[A-Za-z0-9]+\}}))?)+\$)")


def escape_latex_header(text: str) -> str:
    r"""Escape what lies outside of plain maths: `a_b $\delta_1$` -> `a\_b $\delta_1$`."""
    parts = _HEADER_MATHS.split(text)
    return "".join(part if index % 2 else escape_latex(part) for index, part in enumerate(parts))


def latex_text(table: Table) -> str:
    """Write a `table` environment that needs booktabs only; the caption holds the warning.

    A wide table is a `table*`, which goes over both columns of a page where there are two, and is
    made smaller where it would not fit even there; for that it needs graphicx as well.
    Companions follow as environments of their own.
    """
    columns = [column for column in table.columns if column.latex is not None]
    wide = len(columns) >= _WIDE
    environment = "table*" if wide else "table"
    lines = [
        r"% \usepackage{booktabs,graphicx}" if wide else r"% \usepackage{booktabs}",
        rf"\begin{{{environment}}}",
        r"\centering",
        rf"\caption{{{_caption(table)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', table.name)}}}",
        *_size(columns),
        *([r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{{''.join(_alignments(table, columns))}}}",
        r"\toprule",
        *_heads(columns),
        r"\midrule",
        *_body(table, columns),
        r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""),
    ]
    notes = (*layout.notes(table, columns), layout.origin(table))
    printed = " ".join(escape_latex(layout.sentence(note)) for note in notes)
    lines += ["", rf"\par\medskip\parbox{{\linewidth}}{{\footnotesize {printed}}}"]
    lines.append(rf"\end{{{environment}}}")
    return "\n".join(["\n".join(lines) + "\n", *map(latex_text, table.companions)])


def _caption(table: Table) -> str:
    caption = escape_latex(layout.sentence(table.title))
    if table.warning:
        caption += rf" \textbf{{{escape_latex(layout.sentence(table.warning))}}}"
    return caption


def _size(columns: list[Column]) -> list[str]:
    if len(columns) < _WIDE:
        return []
    size = r"\small" if len(columns) == _WIDE else r"\footnotesize"
    return [size, r"\setlength{\tabcolsep}{4pt}"]


def _alignments(table: Table, columns: list[Column]) -> list[str]:
    """Numbers stand right, switches in the middle, words left."""
    return [
        "r" if column.decimals is not None else "c" if layout.is_switch(table, column) else "l"
        for column in columns
    ]


def _heads(columns: list[Column]) -> list[str]:
    """One line of headers, under one of headings over columns where there are any."""
    names = [escape_latex_header(column.latex or "") for column in columns]
    if not any(column.group for column in columns):
        return [_end(names)]
    cells, rules, first = [], [], 1
    for group, width in layout.column_groups(columns):
        if group:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(group)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        else:
            cells += [""] * width
        first += width
    return [_end(cells), " ".join(rules), _end(names)]


def _body(table: Table, columns: list[Column]) -> list[str]:
    marked = marks(table)
    lines: list[str] = []
    for group in layout.row_groups(table):
        if lines:
            lines.append(r"\midrule")
        if group.heading:
            heading = rf"\emph{{{escape_latex(group.heading)}}}"
            lines.append(_end([rf"\multicolumn{{{len(columns)}}}{{l}}{{{heading}}}"]))
        for index, row in group.rows:
            lines.append(_end([_cell(row, c, marked.get((index, c.key))) for c in columns]))
    return lines


def _end(cells: list[str]) -> str:
    line = " & ".join(cells) + r" \\"
    # LaTeX would read a bracket or star after `\\` as its argument.
    return ("{}" if line.startswith(("[", "*")) else "") + line


def _cell(row: TableRow, column: Column, mark: Mark | None) -> str:
    printed = layout.number(row, column)
    if printed is not None:
        text = r" $\pm$ ".join(_minus(part) for part in printed if part is not None)
        return _STYLE[mark].format(text) if mark else text
    words = layout.text(row, column)
    if words is None:
        return MISSING
    return _SWITCH.get(words) or escape_latex(words)


def _minus(number: str) -> str:
    return number.replace("-", "$-$")
