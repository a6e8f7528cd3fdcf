"""`fadepth bench limits`: how near networks come to what the machine allows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli.common import Threads, parse_size, set_up_logging, write_report

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.limits import LimitsReport


def limits(
    size: Annotated[str, typer.Option(help="height x width of the image")] = "192x640",
    models: Annotated[
        str, typer.Option(help="networks of this package, with commas")
    ] = "smalldepth-folded,smalldepth-folded:dense,monodepth2",
    rounds: Annotated[int, typer.Option(min=1, help="turns of every network")] = 30,
    output: Annotated[Path | None, typer.Option("--json", help="also write JSON")] = None,
    threads: Threads = 1,
) -> None:
    """Compare networks' time on the CPU with their arithmetic and memory traffic at its peaks."""
    from rich.console import Console

    from fadepth.bench.limits import measure_limits
    from fadepth.bench.models import own_network
    from fadepth.execution.train import set_threads

    set_up_logging("bench limits", None)
    set_threads(threads)
    height, width = parse_size(size)
    networks = {spec: own_network(spec).network for spec in models.split(",")}
    report = measure_limits(networks, height, width, rounds)
    for line in heading(report):
        typer.echo(line)
    Console().print(limits_table(report))
    if output:
        write_report(output, report.as_dict())


def heading(report: "LimitsReport") -> list[str]:
    """Machine and peaks, for the reader."""
    machine, task, peak = report.machine, report.task, report.peak
    height, width = task["size"]
    return [
        f"{machine['processor']} · {machine['cores']} cores · {machine['torch_threads']} torch "
        f"thread(s) · torch {machine['torch']}",
        f"peaks: {peak.macs / 1e9:.0f} GMAC/s, {peak.bandwidth / 1e9:.0f} GB/s in memory, "
        f"{peak.cached_bandwidth / 1e9:.0f} GB/s in cache (float32)",
        f"{height}x{width}, batch 1, channels_last · median of {task['rounds']} rounds in turns, "
        f"{task['clean']:.0%} of the turns undisturbed",
    ]


def limits_table(report: "LimitsReport") -> "Table":
    """Measured times beside their bounds."""
    from rich.table import Table

    table = Table(title="time and its bounds, ms")
    for column in (
        "network", "GMAC", "MB moved", "measured", "arithmetic", "traffic", "roofline", "reached"
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, limit in report.limits.items():
        table.add_row(
            name, f"{limit.gmacs:.2f}", f"{limit.megabytes:.0f}", f"{limit.milliseconds:.1f}",
            f"{limit.arithmetic:.1f}", f"{limit.traffic:.1f}", f"{limit.roofline:.1f}",
            f"{limit.reached:.0%}",
        )  # fmt: skip
    return table
