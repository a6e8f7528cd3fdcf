"""What the rules of workflow/rules/tables.smk do: tables, effects and their PDF."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fadepth.report import in_order
from fadepth.report.table import scale_warning
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


def compile_tables(snippets: Sequence[Path], output: Path) -> None:
    """Rule `compile_tables`: all tables in one PDF, stamped with what they are made of."""
    from fadepth.report.pdf import tables_pdf

    places = {path.stem: path for path in snippets}
    ordered = [places[name] for name in in_order(places)]
    stamps = [stamp for path in ordered if (stamp := _stamp_of(path))]
    said = {
        key: ", ".join(sorted({part for s in stamps for part in str(s[key]).split(", ")}))
        for key in ("scale", "dataset", "commit")
    }
    tables_pdf(
        ordered,
        output,
        title="FA-Depth, repeated by fadepth: tables",
        warning=scale_warning(said["scale"]),
        stamp=f"scale {said['scale']}; data {said['dataset']}; code {said['commit']}",
    )
    log.warning("tables of %d files in %s", len(snippets), output)


def _stamp_of(snippet: Path) -> dict[str, Any] | None:
    """Stamp of a table, from the provenance beside its LaTeX; None where there is none."""
    try:
        content = json.loads(snippet.with_suffix(".provenance.json").read_text(encoding="utf-8"))
        stamp: dict[str, Any] = content["stamp"]
    except (OSError, ValueError, KeyError):
        return None
    return stamp
