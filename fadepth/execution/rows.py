"""Draws the rows of a table as points."""

import logging
from pathlib import Path

from fadepth.report.measures import measures_of, primary_of
from fadepth.report.results import make_stamp, read_results
from fadepth.report.rows_figure import KINDS, RowPoints, draw_rows
from fadepth.report.study_table import data_sentence
from fadepth.study import Study

log = logging.getLogger(__name__)


def draw_table_rows(study: Study, runs: Path, output: Path) -> None:
    """Draw the measure that a study's rows are compared by: its trainings, row by row.

    Args:
        study: whose rows.
        runs: folder of the run folders.
        output: PNG to write; a PDF is written beside it.

    Raises:
        FadepthError: a result is absent or damaged.
    """
    primary = primary_of(study)
    # All measures: what the table says of seeds that were not evaluated alike holds here, too.
    results = read_results(study, measures_of(study), runs)
    rows = [
        RowPoints(row.label, row.row.kind, tuple(row.values(primary.key).values()))
        for row in results.rows
        if row.row.kind in KINDS
    ]
    name = primary.column.markdown or primary.key
    draw_rows(
        output,
        rows,
        title=f"{study.file.title}: {data_sentence(study)}",
        axis=f"{name.rstrip(' ↓')} of test images (smaller is better)",
        stamp=make_stamp(results),
    )
    log.warning("figure written: %s (also .pdf)", output)
