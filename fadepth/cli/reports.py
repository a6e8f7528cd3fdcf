"""Commands that make tables, figures and the report of what runs have measured."""

from pathlib import Path
from typing import Annotated

import typer

from fadepth.cli import completing
from fadepth.cli.commands import ASK, REPORTS, UNFINISHED, add_command
from fadepth.cli.common import (
    RUNS,
    Json,
    Log,
    Manifest,
    Override,
    Presets,
    TableName,
    Threads,
    find_run,
    find_study,
    heavy_imports,
    load_all_studies,
    set_up_logging,
    snakemake_call,
)
from fadepth.cli.terminal import console, print_json

Png = Annotated[
    Path, typer.Option(metavar="FILE", help="The .png file to write; a .pdf lies beside it.")
]

#: Where partial tables go, so that Snakemake's own stay as they are.
PARTIAL = Path("reports") / "partial"


def table(
    name: TableName,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The .csv file, beside which .md, .tex and .html lie; default: reports/TABLE.csv, "
            "with --partial reports/partial/TABLE.csv.",
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what has finished, and say what is missing.")
    ] = False,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Write a table from the results of its runs.

    All runs must have finished; with --partial the table says what is missing.

    Examples:
        fadepth table table_ablation --partial
        fadepth table table_etm --preset config/smoke.yaml --output /tmp/etm.csv
    """
    from fadepth.execution.tables import render_table

    set_up_logging(name, log_file)
    study = find_study(name, preset, override)
    output = output or (PARTIAL if partial else PARTIAL.parent) / f"{study.file.table}.csv"
    render_table(study, RUNS, output, partial)


def effects(
    name: TableName,
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The .csv file; .md, .tex and .html lie beside it."),
    ],
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Write what each factor of a study changes.

    With its spread over seeds; for factorial studies, whose results must all be there.

    Examples:
        fadepth effects table_ablation --output reports/effects_ablation.csv
    """
    from fadepth.execution.tables import render_effects

    set_up_logging(f"effects {name}", log_file)
    render_effects(find_study(name, preset, override), RUNS, output)


def why(
    name: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            autocompletion=completing.made_tables,
            help="Name of the table, such as table_ablation.",
        ),
    ],
    row: Annotated[str, typer.Argument(metavar="ROW", help='A row of it, such as "+ ETM".')],
    metric: Annotated[
        str,
        typer.Argument(
            metavar="COLUMN",
            autocompletion=completing.columns,
            help="A column of its CSV, such as abs_rel.",
        ),
    ],
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the table lies.")] = Path(
        "reports"
    ),
    as_json: Json = False,
) -> None:
    """Say where a number in a table comes from.

    Runs, seeds, commit, configuration, data and weights behind the cell.

    Examples:
        fadepth why table_ablation "+ ETM + APX" abs_rel
        fadepth why table_ablation "+ ETM" abs_rel --folder reports/partial
    """
    from fadepth.execution.why import explain, find_cell

    if as_json:
        print_json(find_cell(folder, name, row, metric).as_json())
        return
    console(soft_wrap=True).print(explain(folder, name, row, metric), markup=False)


def pdf(
    tables: Annotated[list[Path], typer.Argument(metavar="FILE", help=".tex files of tables.")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The .pdf file to write.")],
    log_file: Log = None,
) -> None:
    """Set tables as one PDF, with pdflatex.

    Examples:
        fadepth pdf reports/table_*.tex --output reports/tables.pdf
    """
    from fadepth.execution.tables import compile_tables

    set_up_logging("pdf", log_file)
    compile_tables(tables, output)


def report(
    output: Annotated[Path, typer.Option(metavar="FILE", help="The .html file to write.")],
    figure: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A .png to show; may be repeated; default: none."),
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Addresses of runs in MLflow, from 'track --links'."),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Gather tables and figures on one page.

    The page needs no network; a click on a number tells where it comes from.

    Examples:
        fadepth report --output /tmp/index.html --preset config/smoke.yaml
    """
    from fadepth.execution.report import render_report

    set_up_logging("report", log_file)
    studies, left_out = load_all_studies(preset, override)
    command = snakemake_call("reports/all", preset, override)
    render_report(studies, left_out, RUNS, figure or [], links, output, command)


def qualitative(
    run_ids: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_ID", autocompletion=completing.run_ids, help="One to four trained runs."
        ),
    ],
    manifest: Manifest,
    output: Png,
    frames: Annotated[
        int, typer.Option(min=1, max=6, metavar="N", help="How many frames, 1 to 6.")
    ] = 3,
    threads: Threads = 1,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Draw a few frames: input, truth, predictions, errors.

    Examples:
        fadepth qualitative RUN_ID OTHER_RUN_ID --manifest data/NAME/manifest.jsonl \
--output qualitative.png
    """
    with heavy_imports():
        from fadepth.execution.qualitative import draw_comparison

    set_up_logging("qualitative", log_file)
    runs = [find_run(run_id, preset, override) for run_id in run_ids]
    draw_comparison(runs, RUNS, manifest, output, frames, threads)


def pareto(
    output: Png,
    name: TableName = "table_complexity",
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Draw accuracy against latency.

    Examples:
        fadepth pareto --output pareto.png
    """
    from fadepth.execution.figures import draw_costs

    set_up_logging("pareto", log_file)
    draw_costs(find_study(name, preset, override), RUNS, output)


def forest(
    name: TableName,
    output: Png,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Draw what each factor changes, with 95 % intervals.

    Examples:
        fadepth forest table_ablation --output effects.png
    """
    from fadepth.execution.figures import draw_effects

    set_up_logging("forest", log_file)
    draw_effects(find_study(name, preset, override), RUNS, output)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    add_command(app, why, ASK)
    for command in (table, effects, report, pdf, qualitative, pareto, forest):
        add_command(app, command, REPORTS, kept=UNFINISHED)
