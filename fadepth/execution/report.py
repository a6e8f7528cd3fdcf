"""What rule `render_report` of workflow/rules/report.smk does: the page of everything."""

import json
import logging
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from fadepth.execution.tables import REFERENCES
from fadepth.report import NO_LATEX, in_order
from fadepth.report.effects import INTERACTIONS, MEASURES, effects_table
from fadepth.report.measures import primary_of
from fadepth.report.page import Page, PageFigure, PageTable, write_page
from fadepth.report.pdf import find_latex
from fadepth.report.study_table import (
    DATA_SETS,
    data_sentence,
    signed,
    spoken_name,
    study_table,
)
from fadepth.report.table import Table
from fadepth.study import Study, missing_benchmark

log = logging.getLogger(__name__)

#: Title and caption of each picture, by the beginning of its file's name.
FIGURES = {
    "overview": (
        "Training",
        "What is trained with what: SmallDepth with ETM, pyramid loss and APX, taught by HQDecv2. "
        "Drawn by the networks; the paper's Figure 1 has the same subject [paper].",
    ),
    "adacoeff_upsampler": (
        "AdaCoeff and DAdaNRSUv2",
        "Two modules of the teacher. Names are the paper's (Figure 2) [paper]; how they work is "
        "our reading [derived].",
    ),
    "global_map": (
        "Global feature maps",
        "How the teacher sees the whole image. The name is the paper's (Figure 3) [paper]; how it "
        "works is our reading [derived].",
    ),
    "masks": (
        "Masks",
        "What each mask of the loss leaves out. The paper's Figure 4 shows 'the mask on KITTI and "
        "DDAD' [paper]; which mask is not known.",
    ),
    "qualitative": (
        "Predictions",
        "Input, ground truth, and depth and error of each network on the same frames.",
    ),
    "pareto": ("Accuracy against latency", "Up is worse, right is slower; one device, one run."),
    "effects": (
        "Effects of the components",
        "What each component changes in Abs Rel over all combinations of the others, and what "
        "components change together, with 95 % intervals.",
    ),
}


def render_report(
    studies: Mapping[str, Study],
    left_out: Mapping[str, str],
    runs: Path,
    figures: Sequence[Path],
    links: Path | None,
    output: Path,
    command: str,
) -> None:
    """Rule `render_report`: one page with all tables and figures; `command` makes it again."""
    reasons = dict(left_out)
    tables: dict[str, Table] = {}
    for name, study in studies.items():
        if reason := missing_benchmark(study, Path.cwd()):
            reasons[name] = reason
        else:
            tables[name] = study_table(study, runs, REFERENCES)
    shown = [PageTable(table, _files(name)) for name, table in _ordered(tables)]
    factorial = [name for name in in_order(tables) if studies[name].file.is_factorial]
    effects = {name: effects_table(studies[name], runs) for name in factorial}
    shown += [PageTable(t, _files(t.name, provenance=False)) for t in effects.values()]
    scale = ", ".join(sorted({study.config.scale for study in studies.values()}))
    origins = [run for t in tables.values() for run in (t.provenance or {})["runs"].values()]
    missing = [f"{name}: {reason}" for name, reason in reasons.items()]
    if not find_latex():
        missing.append(f"tables.pdf: {NO_LATEX}")
    page = Page(
        title="The ablation study of FA-Depth, repeated",
        scale=scale,
        data=_data(studies, tables),
        tables=shown,
        figures=[_figure(path) for path in figures],
        environment=_environment(runs, tables),
        supports=list(_supports(studies, tables, effects)),
        refuses=_refuses(scale),
        missing=missing,
        run_links=json.loads(links.read_text()) if links else {},
        commit=", ".join(sorted({str(run["commit"] or "without commit") for run in origins})),
        dirty=any(run["dirty"] for run in origins),
        command=command,
    )
    write_page(page, output)
    log.warning("report of %d tables and %d figures: %s", len(tables), len(figures), output)


def _ordered(tables: Mapping[str, Table]) -> list[tuple[str, Table]]:
    return [(name, tables[name]) for name in in_order(tables)]


def _files(name: str, provenance: bool = True) -> dict[str, str]:
    formats = {format_: f"{name}.{format_}" for format_ in ("csv", "md", "tex", "html")}
    return formats | ({"provenance": f"{name}.provenance.json"} if provenance else {})


def _figure(path: Path) -> PageFigure:
    name = next((n for n in FIGURES if path.stem.startswith(n)), path.stem)
    title, caption = FIGURES.get(name, (path.stem, ""))
    if name == "masks":
        title += f": {path.stem.removeprefix('masks_')}"
    vector = path.with_suffix(".pdf")
    return PageFigure(path.stem, title, caption, path, vector if vector.exists() else None)


def _data(studies: Mapping[str, Study], tables: Mapping[str, Table]) -> str:
    found = dict.fromkeys(data_sentence(studies[name]) for name in tables)
    return "; ".join(found)


def _environment(runs: Path, tables: Mapping[str, Table]) -> dict[str, str]:
    """Versions and machines of the trainings, and of this page."""
    found: dict[str, Counter[str]] = {}
    for table in tables.values():
        for run_id in (table.provenance or {})["runs"]:
            try:
                manifest = json.loads((runs / run_id / "manifest.json").read_text())
            except (OSError, ValueError):
                continue
            for key, value in (manifest.get("environment") or {}).items():
                found.setdefault(key, Counter())[str(value)] += 1
    said = {key: ", ".join(sorted(values)) for key, values in found.items()}
    packages = {name: version(name) for name in ("snakemake", "mlflow", "numpy", "pandas")}
    return said | packages | {"page made with": f"Python {platform.python_version()}"}


def _supports(
    studies: Mapping[str, Study], tables: Mapping[str, Table], effects: Mapping[str, Table]
) -> Iterator[str]:
    """Sentences that the numbers bear out, made from the numbers."""
    config = next(iter(studies.values())).config
    yield (
        f"The whole chain ran: {len(tables)} tables from "
        f"{len({r for t in tables.values() for r in (t.provenance or {})['runs']})} runs."
    )
    if config.scale == "smoke":
        return
    for name, table in effects.items():
        yield from _effects(studies[name], table)
    for name, table in _ordered(tables):
        primary = primary_of(studies[name]).column
        told = [r.cells for r in table.rows if str(r.cells.get("verdict", "")).startswith("better")]
        if told:
            rows = ", ".join(f"'{cells['row']}' ({cells['difference_95']})" for cells in told)
            base = studies[name].baseline.label
            title = spoken_name(primary)
            yield f"{name}: beyond the noise of seeds, {title} is better than '{base}' for {rows}."


def _effects(study: Study, effects: Table) -> Iterator[str]:
    """Main effects on Abs Rel that several seeds tell from zero."""
    for row in effects.rows:
        cells = row.cells
        main = row.group != INTERACTIONS and cells["measure"] == MEASURES[0].column.markdown
        if not main or cells["verdict"] not in ("better", "worse"):
            continue
        effect, low, high = (signed(float(str(cells[k]))) for k in ("effect", "low", "high"))
        yield (
            f"{cells['row']} makes Abs Rel {cells['verdict']}: {effect} [{low}, {high}] over "
            f"{cells['seeds']} seeds, on {DATA_SETS[study.config.data.source]}."
        )


def _refuses(scale: str) -> list[str]:
    refused = [
        "That any number here is the paper's: we worked without its body, and networks and losses "
        "are our readings of the abstract."
    ]
    if "smoke" in scale:
        refused.append(
            "Anything on accuracy or speed: a few steps on a few tiny frames of small networks. "
            "Rows differ by chance."
        )
    elif "quick" in scale:
        refused += [
            "Anything on KITTI, DDAD or another real street: the frames are rendered or few, the "
            "images small, the trainings short and far from converged.",
            "That a component is useless: at this budget an effect may not have begun to show.",
        ]
    else:
        refused.append(
            "A comparison with published rows that were trained with other data, initial weights "
            "or budgets: the source column names them."
        )
    return refused
