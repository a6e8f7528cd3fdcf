"""Rows that others print, beside ours: which apply to a table, and what they are called there."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from fadepth.errors import FadepthError
from fadepth.report.reference import Reference, applicable, read_references
from fadepth.report.results import Results
from fadepth.report.table import Cell, TableRow
from fadepth.study import Study

REPORTED = "reported by their authors, not run here"
PRINTED = "printed by FA-Depth [paper]"


def checked_references(study: Study, folder: Path) -> list[Reference]:
    """All published rows of a table; what is mistyped is told at every scale.

    Raises:
        FadepthError: names file, line and column, or the row of the paper that the study lacks.
    """
    path = folder / f"{study.file.table}.csv"
    found = read_references(path)
    # A factorial's labels are its rows; rows that this preset leaves out are rows all the same.
    known = {row.label for row in study.rows} | {row.label for row in study.file.rows}
    for reference in found:
        if reference.kind == "paper" and reference.row not in known and reference.values:
            near = difflib.get_close_matches(reference.row, sorted(known), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known))}"
            raise FadepthError(f"{path} has numbers for '{reference.row}', no row of ours: {hint}")
    return found


def applicable_references(results: Results, found: Sequence[Reference]) -> list[Reference]:
    """Published rows on the same data, images and protocol; none beside smoke and quick tables."""
    study = results.study
    if study.config.scale != "full" or study.config.data.source == "synthetic":
        return []
    said = [e for r in results.runs for e in r.evaluations.values()]
    if any(evaluation.get("is_published_list") is False for evaluation in said):
        return []
    protocol = study.config.evaluation.protocol
    if study.file.evaluated_on:
        protocol = study.config.benchmarks[study.file.evaluated_on].protocol
    if study.file.benchmarks:
        # Keys say which benchmark a value is of (`make3d.abs_rel`).
        protocols = {study.config.benchmarks[name].protocol for name in study.file.benchmarks}
        return [r for r in found if r.protocol in protocols or not r.protocol]
    return applicable(found, data=study.config.data.source, protocol=protocol)


def _speaks_in_words(reference: Reference) -> bool:
    """Whether the paper's value is no number to compare with, such as "> 500" frames a second."""
    return reference.kind == "paper" and any(
        isinstance(value, str) for value in reference.values.values()
    )


def published_rows(published: Sequence[Reference]) -> list[TableRow]:
    """Rows that others print, each with a label of its own: cells are found by it."""
    shown = [r for r in published if r.kind == "reported" or _speaks_in_words(r)]
    names = [published_label(reference, shown) for reference in shown]
    return [_reported(r, name) for r, name in zip(shown, names, strict=True)]


def published_label(reference: Reference, among: Sequence[Reference]) -> str:
    """The row's name, with what tells it from others of that name; the paper's says so."""
    if reference.kind == "paper":
        return f"{reference.row} [paper]"
    alike = [r for r in among if r.row == reference.row and r.kind == reference.kind]
    if len(alike) == 1:
        return reference.row
    told = [reference.supervision, reference.size, str(reference.values.get("device", ""))]
    own = [
        text
        for place, text in enumerate(told)
        if len({(r.supervision, r.size, str(r.values.get("device", "")))[place] for r in alike}) > 1
    ]
    return f"{reference.row} ({', '.join(filter(None, own))})"


def _reported(reference: Reference, label: str) -> TableRow:
    group = REPORTED if reference.kind == "reported" else PRINTED
    cells: dict[str, Cell] = {"row": label, "kind": reference.kind}
    # How the paper trained is our reading [derived], and not printed as its own.
    trained = reference.supervision if reference.kind == "reported" else ""
    cells |= {"size": reference.size, "supervision": trained}
    cells |= dict(reference.values) | {"source": reference.source}
    return TableRow(cells, kind="reported", group=group)
