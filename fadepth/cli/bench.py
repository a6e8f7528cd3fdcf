"""`fadepth bench ...`: how fast networks and parts of a training are on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli import (
    bench_evaluation,
    bench_latency,
    bench_limits,
    bench_start_up,
    bench_summary,
    bench_training,
)
from fadepth.cli.commands import Group, add_command, as_help
from fadepth.cli.common import (
    JsonFile,
    Override,
    Presets,
    Threads,
    load_preset,
    machine_line,
    set_up_logging,
)
from fadepth.cli.terminal import Report
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.loader import LoaderReport
    from fadepth.bench.spread import Spread
    from fadepth.config import Config

app = typer.Typer(cls=Group, no_args_is_help=True)


@app.callback(
    help=as_help(
        """Measure how fast networks and trainings are.

        All as ratios of things timed in turns, so that they mean the same on a busy machine.
        'make bench' runs all of these; docs/performance.md tells how to read them.
        """
    )
)
def bench() -> None:
    """What comes before every benchmark."""


def loader(
    preset: Presets = None,
    override: Override = "{}",
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="List of the data's files; default: the workflow's, or a temporary one.",
        ),
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="N,N,...", help="Numbers of loading processes to try.")
    ] = "0,1,2",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns of every way.")] = 5,
    frames: Annotated[
        int, typer.Option(min=1, metavar="N", help="Training frames to use, at most.")
    ] = 256,
    output: JsonFile = None,
    threads: Threads = 1,
) -> None:
    """Compare how fast images load and are trained on.

    Images a second of the loader, for every cache and number of processes, and of training steps.

    Examples:
        fadepth bench loader --preset config/smoke.yaml --rounds 3
    """
    from tempfile import TemporaryDirectory

    from fadepth.bench.loader import Budget, measure_loader
    from fadepth.config import parse_config
    from fadepth.data.manifest import Manifest
    from fadepth.execution.data import data_root
    from fadepth.execution.train import set_threads

    set_up_logging("bench loader", None)
    set_threads(threads)
    numbers = _numbers(workers)
    config = parse_config(*load_preset(preset, override))
    with TemporaryDirectory(prefix="fadepth-bench-") as scratch:
        path = manifest or _manifest_of(config, Path(scratch), threads)
        report = measure_loader(
            config, Manifest.read(path), data_root(config.data), workers=numbers,
            budget=Budget(rounds=rounds, frames=frames),
        )  # fmt: skip
    told = Report(output)
    told.print(*_heading(report), _loading_table(report), _training_table(report))
    told.write(report.as_dict())


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise FadepthError(f"--workers is '{text}': write distinct numbers such as 0,1,2")
    return numbers


def _manifest_of(config: "Config", scratch: Path, threads: int) -> Path:
    """The workflow's manifest where there is one, else a new one in `scratch`."""
    from fadepth.data.prepare import data_identity
    from fadepth.execution.data import prepare_data_of

    identity = data_identity(config.data, Path.cwd())
    path = Path("data") / f"{config.data.name}-{identity}" / "manifest.jsonl"
    if not path.exists():
        path = scratch / "manifest.jsonl"
        prepare_data_of(config, path, threads)
    return path


def _heading(report: "LoaderReport") -> list[str]:
    task = report.task
    height, width = task["size"]
    return [
        machine_line(report.machine, "numpy", "Pillow"),
        f"{task['data']}: {task['frames']} frames · {height}x{width} · batches of "
        f"{task['batch_size']} samples of {task['images_per_sample']} images · median "
        f"(smallest to largest) of {task['rounds']} rounds in turns",
        "An image is one that is decoded or read from a cache, and batched; files are in the "
        "page cache.",
    ]


def _speed(speed: "Spread") -> str:
    return f"{speed.median:.0f} ({speed.smallest:.0f} to {speed.largest:.0f})"


def _loading_table(report: "LoaderReport") -> "Table":
    from rich.table import Table

    table = Table(title="loader alone")
    for column in ("cache", "workers", "images/s", "loader / training"):
        table.add_column(column, justify="left" if column == "cache" else "right")
    for way in report.loading:
        table.add_row(way.cache, str(way.workers), _speed(way.speed), f"{way.ratio:.1f}")
    return table


def _training_table(report: "LoaderReport") -> "Table":
    from rich.table import Table

    table = Table(title="training steps of the student")
    for column in ("batches", "workers", "images/s", "of a training that never waits"):
        table.add_column(column, justify="left" if column == "batches" else "right")
    for step in report.training:
        name = "one, repeated" if step.cache is None else f"cache: {step.cache}"
        count = "-" if step.cache is None else str(step.workers)
        share = step.speed.median / report.repeated.median
        table.add_row(name, count, _speed(step.speed), f"{share:.0%}")
    return table


for command in (
    bench_latency.latency,
    bench_limits.limits,
    bench_training.training,
    bench_evaluation.evaluation,
    loader,
    bench_start_up.start_up,
    bench_summary.summary,
):
    add_command(app, command, kept="nothing was measured to the end, and nothing was written")
