"""What the rules of workflow/rules/tables.smk do: tables and effects from the results of runs."""

import logging
from pathlib import Path

from fadepth.study import Study

log = logging.getLogger(__name__)

#: Published values, one file a table.
REFERENCES = Path("ablations") / "paper"


def render_table(study: Study, runs: Path, output: Path, partial: bool = False) -> None:
    """Rule `render_table`: CSV, Markdown, LaTeX, HTML and the provenance of every cell."""
    from fadepth.report.study_table import study_table
    from fadepth.report.writers import write_table

    table = study_table(study, runs, REFERENCES, partial=partial)
    write_table(table, output)
    missing = sum(1 for row in table.rows if row.missing)
    log.warning("table written: %s (also .md, .tex, .html)", output)
    if missing == len(table.rows):
        log.warning(
            "nothing of %s has run with this preset: is another meant, --preset?", table.name
        )
    elif missing:
        log.warning("%d of %d rows lack something: the table says what", missing, len(table.rows))


def render_effects(study: Study, runs: Path, output: Path) -> None:
    """Rule `render_effects`: what each factor changes, with its spread over seeds."""
    from fadepth.report.effects import effects_table
    from fadepth.report.writers import write_table

    write_table(effects_table(study, runs), output)
    log.warning("effects written: %s (also .md, .tex, .html)", output)
