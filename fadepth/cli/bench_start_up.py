"""`fadepth bench start-up`: what the workflow costs beside its work."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli.common import (
    DEFAULT_PRESET,
    JsonFile,
    Override,
    Presets,
    load_studies,
    parse_override,
    set_up_logging,
)
from fadepth.cli.terminal import Report, console

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.spread import Spread
    from fadepth.bench.workflow import WorkflowReport


def start_up(
    preset: Presets = None,
    override: Override = "{}",
    target: Annotated[
        str, typer.Option(metavar="TARGET", help="What Snakemake plans.")
    ] = "reports/all",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns of everything.")] = 5,
    output: JsonFile = None,
) -> None:
    """Measure what the workflow costs beside its work.

    CPU seconds from the start of every rule's command until its work would begin, and of Snakemake
    itself.

    Examples:
        fadepth bench start-up --rounds 1 --preset config/smoke.yaml
    """
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
    told = Report(output)
    wide = console().width >= _WIDE
    told.print(*heading(report), commands_table(report, rules=wide), snakemake_table(report))
    told.write(report.as_dict())


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


#: Columns of a terminal that has room for the names of the rules.
_WIDE = 130


def commands_table(report: "WorkflowReport", *, rules: bool = True) -> "Table":
    """Start and end of every command, as multiples of Python's own and of torch's import."""
    from rich import box
    from rich.table import Table

    title = "commands, without their work; ratios to python -c pass and to import torch"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("command", no_wrap=True)
    for column in ("CPU s", "/ python", "/ torch"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("imports")
    if rules:
        table.add_column("rules")
    rows = [
        ("python -c pass", report.python, "", ""),
        ("import torch", report.torch, "", ""),
        ("fadepth --help", report.help, "", ""),
        *(
            (command.command, command.seconds, " ".join(command.heavy), " ".join(command.rules))
            for command in report.commands
        ),
    ]
    for name, seconds, *lists in rows:
        ratios = (seconds.median / base.median for base in (report.python, report.torch))
        numbers = (f"{ratio:.2f}" for ratio in ratios)
        table.add_row(name, _told(seconds), *numbers, *lists[: 1 + rules])
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
