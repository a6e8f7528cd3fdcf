"""`fadepth bench training`: images a second of training steps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli import completing
from fadepth.cli.common import (
    JsonFile,
    Override,
    Size,
    Threads,
    load_preset,
    machine_line,
    parse_size,
    set_up_logging,
)
from fadepth.cli.terminal import Report

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.training import TrainingReport


def training(
    preset: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            autocompletion=completing.presets,
            help="Settings; may be repeated; default: those of full scale.",
        ),
    ] = None,
    override: Override = "{}",
    size: Size = "192x640",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Target images of a step.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns of every training.")] = 6,
    output: JsonFile = None,
    threads: Threads = 1,
) -> None:
    """Compare training steps with monodepth2's.

    SmallDepth's losses switched on one by one, against a monodepth2-style step on the same batch.
    Height and width must be multiples of 32.

    Examples:
        fadepth bench training --size 96x320 --batch 2 --rounds 3
    """
    from fadepth.bench.training import measure_training
    from fadepth.config import merge, parse_config
    from fadepth.execution.train import set_threads

    set_up_logging("bench training", None)
    set_threads(threads)
    height, width = parse_size(size)
    content, name = load_preset(preset, override) if preset else ({"scale": "full"}, "defaults")
    chosen = {"data": {"height": height, "width": width}, "training": {"batch_size": batch}}
    config = parse_config(merge(content, chosen), name)
    report = measure_training(config, rounds=rounds)
    told = Report(output)
    told.print(*heading(report), speed_table(report), parts_table(report))
    told.write(report.as_dict())


def heading(report: "TrainingReport") -> list[str]:
    """What was measured on what, for the reader."""
    task = report.task
    height, width = task["size"]
    return [
        machine_line(report.machine),
        f"{height}x{width} · batches of {task['batch_size']} targets with {task['sources']} "
        f"sources · warps at {task['warp_at']} size · amp {task['amp']} · median of "
        f"{task['rounds']} rounds in turns, {report.clean:.0%} of the turns undisturbed",
    ]


def speed_table(report: "TrainingReport") -> "Table":
    """Steps of every training, and how many times the reference's speed."""
    from rich.table import Table

    table = Table(title="training steps")
    for column in ("training", "s/step", "images/s", "speed / monodepth2 style", "95 %"):
        table.add_column(column, justify="left" if column == "training" else "right")
    for name, speed in report.steps.items():
        ratio = speed.speed_up
        interval = "" if ratio.low is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
        table.add_row(
            name, f"{speed.step.median / 1000:.3f}", f"{speed.images_per_second:.2f}",
            f"{ratio.median:.2f}", interval,
        )  # fmt: skip
    return table


def parts_table(report: "TrainingReport") -> "Table":
    """Where a step's time goes."""
    from rich.table import Table

    table = Table(title="share of a step")
    table.add_column("part (forward; all gradients are one part)")
    names = list(dict.fromkeys(part for parts in report.parts.values() for part in parts))
    for variant in report.parts:
        table.add_column(variant, justify="right")
    for name in names:
        shares = [
            f"{parts[name] / sum(parts.values()):.0%}" if name in parts else "-"
            for parts in report.parts.values()
        ]
        table.add_row(name, *shares)
    return table
