"""Commands that make tables, figures and the report of what runs have measured."""

from pathlib import Path
from typing import Annotated

import typer

from fadepth.cli.common import (
    RUNS,
    Override,
    Presets,
    Threads,
    find_run,
    find_study,
    heavy_imports,
    load_all_studies,
    set_up_logging,
    snakemake_call,
)

Log = Annotated[Path | None, typer.Option("--log")]
TableName = Annotated[str, typer.Argument(help="name of the table, such as table_ablation")]
Png = Annotated[Path, typer.Option(help="the .png file to write; a .pdf lies beside it")]

#: Where partial tables go, so that Snakemake's own stay as they are.
PARTIAL = Path("reports") / "partial"


def table(
    name: TableName,
    output: Annotated[
        Path | None, typer.Option(help="the .csv file; .md, .tex and .html lie beside it")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="take what has finished, and say what is missing")
    ] = False,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Write a study's table from the results of its runs.

    Default output: reports/NAME.csv, or reports/partial/NAME.csv with --partial.
    """
    from fadepth.execution.tables import render_table

    set_up_logging(name, log_file)
    output = output or (PARTIAL if partial else PARTIAL.parent) / f"{name}.csv"
    render_table(find_study(name, preset, override), RUNS, output, partial)


def effects(
    name: TableName,
    output: Annotated[Path, typer.Option(help="the .csv file; .md, .tex and .html lie beside it")],
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Write what each factor of a study changes, with its spread over seeds."""
    from fadepth.execution.tables import render_effects

    set_up_logging(f"effects {name}", log_file)
    render_effects(find_study(name, preset, override), RUNS, output)


def why(
    name: TableName,
    row: Annotated[str, typer.Argument(help='a row of it, such as "+ ETM"')],
    metric: Annotated[str, typer.Argument(help="a column of its CSV, such as abs_rel")],
    folder: Annotated[Path, typer.Option(help="where the table lies")] = Path("reports"),
) -> None:
    """Tell where a cell's number comes from: runs, seeds, commit, configuration, data, weights."""
    from rich.console import Console

    from fadepth.execution.why import explain

    Console(soft_wrap=True, highlight=False).print(explain(folder, name, row, metric), markup=False)


def pdf(
    tables: Annotated[list[Path], typer.Argument(help=".tex files of tables")],
    output: Annotated[Path, typer.Option(help="the .pdf file to write")],
    log_file: Log = None,
) -> None:
    """Set tables as one PDF; needs pdflatex."""
    from fadepth.execution.tables import compile_tables

    set_up_logging("pdf", log_file)
    compile_tables(tables, output)


def report(
    output: Annotated[Path, typer.Option(help="the .html file to write")],
    figure: Annotated[list[Path] | None, typer.Option(help="a .png of the report")] = None,
    links: Annotated[Path | None, typer.Option(help="addresses of runs in MLflow, JSON")] = None,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Gather tables and figures on one page that needs no network."""
    from fadepth.execution.report import render_report

    set_up_logging("report", log_file)
    studies, left_out = load_all_studies(preset, override)
    command = snakemake_call("reports/all", preset, override)
    render_report(studies, left_out, RUNS, figure or [], links, output, command)


def qualitative(
    run_ids: Annotated[list[str], typer.Argument(help="one to four trained runs")],
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    output: Png,
    frames: Annotated[int, typer.Option(min=1, max=6, help="how many frames")] = 3,
    threads: Threads = 1,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Draw input, ground truth, predictions and errors of a few frames."""
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
    """Draw accuracy against latency."""
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
    """Draw what each factor of a study changes, with its 95 % interval."""
    from fadepth.execution.figures import draw_effects

    set_up_logging("forest", log_file)
    draw_effects(find_study(name, preset, override), RUNS, output)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    for command in (table, effects, why, pdf, report, qualitative, pareto, forest):
        app.command()(command)
