"""`fadepth bench summary`: every benchmark's ratios in one table."""

from pathlib import Path
from typing import Annotated

import typer

from fadepth.cli.common import log, set_up_logging
from fadepth.cli.terminal import console


def summary(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Of the JSON files that 'make bench' writes."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="FILE", help="Also write the table as Markdown."),
    ] = None,
) -> None:
    """Show the benchmarks of before as one table.

    Examples:
        fadepth bench summary reports/bench
    """
    from rich.table import Table

    from fadepth.bench.summary import markdown, summarise
    from fadepth.files import write_atomic

    set_up_logging("bench summary", None)
    found = summarise(folder)
    for line in found.heading:
        typer.echo(line)
    table = Table(title="ratios")
    for column in ("ratio", "value", "interval", "aim", ""):
        table.add_column(column, justify="right" if column == "value" else "left")
    signs = {None: "", True: "met", False: "MISSED"}
    for figure in found.figures:
        table.add_row(figure.what, figure.value, figure.interval, figure.aim, signs[figure.met])
    console().print(table)
    if output:
        write_atomic(output, markdown(found))
        log.warning("written: %s", output)
