"""What rules of workflow/rules/figures.smk do that draw numbers of tables."""

import logging
from pathlib import Path

from fadepth.errors import FadepthError
from fadepth.execution.tables import REFERENCES
from fadepth.report.effects import effect_lines
from fadepth.report.forest_figure import draw_forest
from fadepth.report.pareto_figure import ParetoPoint, draw_pareto
from fadepth.report.results import make_stamp
from fadepth.report.study_table import data_sentence, study_table
from fadepth.study import Study

log = logging.getLogger(__name__)


def draw_costs(study: Study, runs: Path, output: Path) -> None:
    """Rule `draw_pareto`: Abs Rel against milliseconds, of one table on one device."""
    table = study_table(study, runs, REFERENCES)
    # A GPU where there is one: it is what the paper's claim is about.
    keys = [c.key for c in table.columns if c.key.endswith(".latency_ms")]
    if not keys or "abs_rel" not in {c.key for c in table.columns}:
        raise FadepthError(
            f"{study.file.table} has no latencies or no Abs Rel: give its study 'columns: [costs, "
            "primary]', or name table_complexity"
        )
    device = keys[-1].removesuffix(".latency_ms")
    points = []
    for row in table.rows:
        cells = row.cells
        if f"{device}.latency_ms" not in cells or row.kind == "reported":
            continue
        points.append(
            ParetoPoint(
                str(cells["row"]),
                row.kind,
                _number(cells[f"{device}.latency_ms"]),
                _number(cells[f"{device}.latency_p10"]),
                _number(cells[f"{device}.latency_p90"]),
                _number(cells["abs_rel"]),
                _number(cells["abs_rel_std"]) if cells.get("abs_rel_std") is not None else None,
                _number(cells["params_m"]),
            )
        )
    group = next(c.group for c in table.columns if c.key == f"{device}.latency_ms")
    size = f"{study.config.data.height}×{study.config.data.width}"
    draw_pareto(
        output,
        points,
        title=f"Accuracy against latency: {data_sentence(study)}",
        device=f"{group}, {size}, batch 1, float32",
        stamp=table.stamp,
    )
    log.warning("figure written: %s (also .pdf)", output)


def _number(value: object) -> float:
    assert isinstance(value, (int, float)), "a measured row has all of its costs"
    return float(value)


def draw_effects(study: Study, runs: Path, output: Path) -> None:
    """Rule `draw_effects`: what each factor changes, and what factors change together."""
    # No band of noise: one for differences of two rows would be too wide for a main effect, which
    # averages several, and too narrow for an interaction. Each line has its interval.
    lines, results = effect_lines(study, runs)
    draw_forest(
        output,
        lines,
        title=f"{study.file.title}: {data_sentence(study)}",
        axis="change of Abs Rel (negative is better)",
        noise=None,
        stamp=make_stamp(results),
    )
    log.warning("figure written: %s (also .pdf)", output)
