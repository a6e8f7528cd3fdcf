"""`fadepth bench limits`: how near networks come to what the machine allows."""

from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli.common import JsonFile, Size, Threads, parse_size, set_up_logging
from fadepth.cli.terminal import Report

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.limits import LimitsReport

MODELS = "smalldepth-folded,smalldepth-folded:dense,monodepth2"


def limits(
    size: Size = "192x640",
    models: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME,...",
            show_default=False,
            help=f"Networks of this package; default: {MODELS.replace(',', ', ')}.",
        ),
    ] = MODELS,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns of every network.")] = 30,
    output: JsonFile = None,
    threads: Threads = 1,
) -> None:
    """Compare networks' time with what the CPU allows.

    That is their arithmetic and memory traffic at the peaks that this machine reaches.

    Examples:
        fadepth bench limits --rounds 5
    """
    from fadepth.bench.limits import measure_limits
    from fadepth.bench.models import own_network
    from fadepth.execution.train import set_threads

    set_up_logging("bench limits", None)
    set_threads(threads)
    height, width = parse_size(size)
    networks = {spec: own_network(spec).network for spec in models.split(",")}
    report = measure_limits(networks, height, width, rounds)
    told = Report(output)
    told.print(*heading(report), limits_table(report))
    told.write(report.as_dict())


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
