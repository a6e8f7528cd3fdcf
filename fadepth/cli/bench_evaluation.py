"""`fadepth bench evaluation`: images a second of an evaluation, and what takes its time."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fadepth.cli import completing
from fadepth.cli.common import (
    JsonFile,
    Override,
    Threads,
    load_preset,
    machine_line,
    set_up_logging,
)
from fadepth.cli.terminal import Report

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.evaluation import EvaluationReport, Task
    from fadepth.bench.spread import Spread

#: Parts of the time, as people say them.
NAMES = {
    "read": "read images",
    "ground_truth": "ground truth",
    "resize_input": "resize input",
    "network": "network",
    "resize_output": "resize output",
    "metrics": "metrics",
    "other": "other",
}


def evaluation(
    preset: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            autocompletion=completing.presets,
            help="Settings whose evaluation split to use; may be repeated; default: generated "
            "frames.",
        ),
    ] = None,
    override: Override = "{}",
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="List of the preset's files; default: the workflow's, or a temporary one.",
        ),
    ] = None,
    model: Annotated[
        Literal["smalldepth", "hqdecv2"],
        typer.Option(help="Network; hqdecv2 is about 30 times as slow: take fewer --images."),
    ] = "smalldepth",
    images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images to evaluate; KITTI has 697.")
    ] = 697,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns of both ways.")] = 7,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images through the network at once; default: as the workflow does.",
        ),
    ] = None,
    output: JsonFile = None,
    threads: Threads = 1,
) -> None:
    """Compare an evaluation in batches with one by one.

    Images a second, and which part takes the time: reading, network, resizing, metrics.

    Examples:
        fadepth bench evaluation --images 50 --rounds 3
    """
    from tempfile import TemporaryDirectory

    from fadepth.bench.evaluation import generated_task, measure_evaluation, untrained
    from fadepth.execution.evaluate import readers
    from fadepth.execution.train import set_threads
    from fadepth.training import choose_device

    set_up_logging("bench evaluation", None)
    set_threads(threads)
    device = choose_device("auto")
    with TemporaryDirectory(prefix="fadepth-bench-") as name:
        scratch = Path(name)
        if preset:
            task = _task_of(preset, override, manifest, scratch, threads)
        else:
            task = generated_task(scratch)
        network = untrained(model).to(device)
        report = measure_evaluation(
            network, model, task, images=images, rounds=rounds, batch=batch,
            workers=readers(threads), device=device,
        )  # fmt: skip
    told = Report(output)
    told.print(*heading(report), parts_table(report), verdict(report))
    told.write(report.as_dict())


def _task_of(
    preset: list[Path], override: str, manifest: Path | None, scratch: Path, threads: int
) -> "Task":
    from fadepth.bench.evaluation import Task
    from fadepth.cli.bench import _manifest_of
    from fadepth.config import parse_config
    from fadepth.data.manifest import Manifest
    from fadepth.evaluation.protocols import find_protocol
    from fadepth.execution.data import data_root

    config = parse_config(*load_preset(preset, override))
    found = Manifest.read(manifest or _manifest_of(config, scratch, threads))
    split = config.evaluation.split
    return Task(
        title=f"{config.data.name}, split {split}",
        frames=found.splits[split],
        root=data_root(config.data),
        files=found.files,
        protocol=find_protocol(config.evaluation.protocol),
        size=(config.data.height, config.data.width),
    )


def heading(report: "EvaluationReport") -> list[str]:
    """What was measured on what, in lines."""
    task = report.task
    height, width = task["ground_truth"]
    again = task["images"] - task["distinct_images"]
    rotation = ", in rotation and so from the page cache" if again else ""
    return [
        machine_line(report.machine, "numpy", "Pillow"),
        f"{task['network']}, folded, random weights, {'x'.join(map(str, task['input']))} · "
        f"{task['data']}, {height}x{width}: {task['images']} images, "
        f"{task['distinct_images']} of them distinct{rotation} · {task['protocol']} · "
        f"{task['rounds']} rounds in turns",
    ]


def _speed(speed: "Spread", digits: int = 1) -> str:
    low, high = (f"{value:.{digits}f}" for value in (speed.smallest, speed.largest))
    return f"{speed.median:.{digits}f} ({low} to {high})"


def parts_table(report: "EvaluationReport") -> "Table":
    """Milliseconds of an image and shares, by part, of both ways."""
    from rich.table import Table

    task, ours, theirs = report.task, report.evaluation, report.one_by_one
    table = Table(title="evaluation: time of an image by part")
    table.add_column("part")
    for title in (f"batches of {task['batch']}", "share", "one by one", "share"):
        table.add_column(title, justify="right")
    for part, name in NAMES.items():
        row = [
            text
            for way in (ours, theirs)
            for text in (f"{way.milliseconds[part]:.2f} ms", f"{way.shares[part]:.1%}")
        ]
        table.add_row(name, *row)
    table.add_section()
    table.add_row("images/s", _speed(ours.speed), "", _speed(theirs.speed), "")
    return table


def verdict(report: "EvaluationReport") -> str:
    """The ratio, what limits it, and whether the results agree."""
    ahead = report.task["workers"]
    reading = f" with {ahead} thread(s) reading ahead" if ahead else ""
    return (
        f"evaluation{reading} / one by one: {_speed(report.ratio, 2)} in images/s · most time goes "
        f"to: {NAMES[report.evaluation.slowest]} · mean metrics differ by at most "
        f"{report.difference:.0e}"
    )
