"""`fadepth bench start-up`: what the workflow costs beside its work."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli.common import (
    DEFAULT_PRESET,
    Override,
    Presets,
    load_studies,
    parse_override,
    set_up_logging,
    write_report,
)

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.spread import Spread
    from fadepth.bench.workflow import WorkflowReport


def start_up(
    preset: Presets = None,
    override: Override = "{}",
    target: Annotated[str, typer.Option(help="what Snakemake plans")] = "reports/all",
    rounds: Annotated[int, typer.Option(min=1, help="turns of everything")] = 5,
    output: Annotated[Path | None, typer.Option("--json", help="also write JSON")] = None,
) -> None:
    """Measure the start of every rule's command, and Snakemake itself, in CPU seconds."""
    from rich.console import Console

    from fadepth.bench.workflow import measure_workflow, rule_commands
    from fadepth.config import merge
    from fadepth.execution.workflow import find_snakefile

    set_up_logging("bench start-up", None)
    presets, folder = [*map(str, preset or [DEFAULT_PRESET])], Path.cwd()
    changes = merge({}, parse_override(override))
    flags = [word for name in presets for word in ("--preset", name)]
    snakemake = ["--snakefile", str(find_snakefile(folder)), "--configfile", *presets]
    if changes:
        flags += ["--override", json.dumps(changes)]
        snakemake += ["--config", *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    commands = rule_commands(load_studies(preset, override), flags)
    report = measure_workflow(commands, folder, snakemake, target=target, rounds=rounds)
    for line in heading(report):
        typer.echo(line)
    for table in (commands_table(report), snakemake_table(report)):
        Console().print(table)
    if output:
        write_report(output, report.as_dict())


def heading(report: "WorkflowReport") -> list[str]:
    """What was measured on what, for the reader."""
    machine = report.machine
    return [
        f"{machine['processor']} · {machine['cores']} cores · Python {machine['python']} · "
        f"torch {machine['torch']} · numpy {machine['numpy']}",
        f"CPU seconds of a process with what it starts: median (smallest to largest) of "
        f"{report.rounds} rounds in turns",
    ]


def _told(seconds: "Spread") -> str:
    return f"{seconds.median:.2f} ({seconds.smallest:.2f} to {seconds.largest:.2f})"


def commands_table(report: "WorkflowReport") -> "Table":
    """Start and end of every command, as multiples of Python's own and of torch's import."""
    from rich.table import Table

    table = Table(title="commands, without their work")
    for column in ("command", "rules", "CPU s", "/ python", "/ import torch", "imports"):
        number = column[0] in "C/"
        fixed = number or column == "command"  # a narrow terminal breaks the lists instead
        table.add_column(column, justify="right" if number else "left", no_wrap=fixed)
    rows = [
        ("python -c pass", "", report.python, ""),
        ("import torch", "", report.torch, ""),
        ("fadepth --help", "", report.help, ""),
        *(
            (command.command, " ".join(command.rules), command.seconds, " ".join(command.heavy))
            for command in report.commands
        ),
    ]
    for name, rules, seconds, heavy in rows:
        ratios = (seconds.median / base.median for base in (report.python, report.torch))
        table.add_row(name, rules, _told(seconds), *(f"{ratio:.2f}" for ratio in ratios), heavy)
    return table


def snakemake_table(report: "WorkflowReport") -> "Table":
    """Snakemake itself."""
    from rich.table import Table

    cost = report.snakemake
    table = Table(title="Snakemake itself")
    table.add_column("what")
    table.add_column("CPU s", justify="right")
    each = cost.each_job
    table.add_row("start (--version)", _told(cost.start))
    table.add_row(f"plan {cost.target}, {cost.jobs} jobs (--dry-run)", _told(cost.plan))
    table.add_row(
        f"a job that does nothing, of {cost.jobs_tried}",
        f"{each.median:.3f} ({each.smallest:.3f} to {each.largest:.3f})",
    )
    return table
