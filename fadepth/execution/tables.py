"""What the rules of workflow/rules/tables.smk do: tables and effects from the metrics of runs."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fadepth.study import Study

if TYPE_CHECKING:
    from fadepth.report.ablation import Row

log = logging.getLogger(__name__)


def report_rows(study: Study) -> list["Row"]:
    """The study's rows as the report knows them."""
    from fadepth.report.ablation import Row

    return [
        Row(row.label, row.kind, dict(row.factors), [run.id for run in row.runs])
        for row in study.rows
    ]


def render_effects(study: Study, runs: Path, output: Path) -> None:
    """Rule `render_effects`: what each factor changes, with its spread over seeds."""
    from fadepth.report.effects import effects_table
    from fadepth.report.writers import write_table

    table = effects_table(
        runs,
        report_rows(study),
        study.file.plain,
        name=output.stem,
        title=study.file.title,
        labels={name: factor.label for name, factor in study.file.factors.items()},
    )
    write_table(table, output, output.with_suffix(".md"), output.with_suffix(".tex"))
    log.warning("effects written: %s (also .md and .tex)", output)


def render_table(study: Study, runs: Path, output: Path) -> None:
    """Rule `render_table`: CSV, Markdown, LaTeX and the provenance of every cell."""
    from fadepth.report.ablation import ablation_table, read_records
    from fadepth.report.writers import write_table

    rows = report_rows(study)
    records = read_records(runs, [run_id for row in rows for run_id in row.run_ids])
    table = ablation_table(records, rows, name=study.file.table, title=study.file.title)
    write_table(table, output, output.with_suffix(".md"), output.with_suffix(".tex"))
    log.warning("table written: %s (also .md and .tex)", output)
