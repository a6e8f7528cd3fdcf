"""The command line: what the workflow's rules call, and what people call beside Snakemake.

Heavy libraries are imported inside the commands, so that `fadepth --help` answers at once.
"""

import atexit
import gc
from pathlib import Path
from typing import Annotated

import typer

from fadepth.cli import (
    bench,
    data,
    describing,
    drawing,
    exporting,
    planning,
    predicting,
    reports,
    studies,
    telling,
    tracking,
)
from fadepth.cli.commands import DATA, NETWORKS, UNFINISHED, WORKFLOW, Group, add_command, as_help
from fadepth.cli.common import (
    RUNS,
    Log,
    Manifest,
    Override,
    Presets,
    RunId,
    TableName,
    Threads,
    find_run,
    find_study,
    heavy_imports,
    load_preset,
    set_up_logging,
)
from fadepth.cli.ending import own_code_for_interrupts, run_to_the_end
from fadepth.cli.terminal import never_fail_on_a_sign
from fadepth.survival import end_with_workflow

__all__ = ["app", "load_preset", "main"]


class _Everything(Group):
    """`fadepth`: what people ask every day first, what only the workflow calls last."""

    order = (
        *("runs", "status", "plan", "why", "why-rerun", "diff", "lint", "ui", "gc"),
        *("predict", "export", "describe", "bench"),
        *("table", "effects", "report", "pdf", "qualitative", "pareto", "forest"),
        *("masks", "lidar", "figures", "data"),
        *("train", "predict-targets", "evaluate", "benchmark", "odometry", "robustness", "grid"),
        *("costs", "track"),
    )


app = typer.Typer(
    cls=_Everything,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="'fadepth COMMAND --help' tells more of each. Exit codes: 0 done; 1 something is wrong "
    "with what was looked at (lint, data check, predict); 2 wrong input; 130 Ctrl-C.",
)

TrainedOn = Annotated[
    Path, typer.Option(metavar="FILE", help="Manifest of the data that the run was trained on.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from fadepth.cli.version import version

        typer.echo(version())
        raise typer.Exit


@app.callback(
    help=as_help(
        """Repeat the ablation study of FA-Depth, and ask what came out.

        `snakemake --cores 8 reports/table_ablation.csv` runs the study; these commands are its
        parts, and what looks at its results.
        """
    )
)
def fadepth(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print versions of fadepth and torch, and the commit.",
        ),
    ] = False,
) -> None:
    """What comes before every command."""


def train(
    run_id: RunId,
    manifest: Manifest,
    targets: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The teacher's predictions, for runs with APX."),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Train one run, or go on where it was interrupted.

    Writes runs/RUN_ID/: settings, losses, checkpoint, and model.pt at the end. Ctrl-C or SIGTERM
    save a checkpoint first.

    Examples:
        fadepth train RUN_ID --manifest data/NAME/manifest.jsonl
    """
    with heavy_imports():
        from fadepth.execution.train import train_run

    set_up_logging(run_id, log_file)
    with own_code_for_interrupts():
        train_run(find_run(run_id, preset, override), RUNS, manifest, targets, threads)


def predict_targets(
    run_id: RunId,
    manifest: Manifest,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The .npy file to write.")],
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Predict every training frame by a teacher, for APX.

    Writes one array of disparities, and a .json beside it that says what it is of.

    Examples:
        fadepth predict-targets RUN_ID --manifest data/NAME/manifest.jsonl \
--output runs/RUN_ID/targets.npy
    """
    with heavy_imports():
        from fadepth.execution.train import predict_teacher

    set_up_logging(f"predict {run_id}", log_file)
    predict_teacher(find_run(run_id, preset, override), RUNS, manifest, output, threads)


def evaluate(
    run_id: RunId,
    manifest: Manifest,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Compare a run's depth with ground truth.

    Writes runs/RUN_ID/metrics.json, per_image.csv and panels/ (pictures of some frames).

    Examples:
        fadepth evaluate RUN_ID --manifest data/NAME/manifest.jsonl
    """
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_run

    set_up_logging(f"evaluate {run_id}", log_file)
    evaluate_run(find_run(run_id, preset, override), RUNS, manifest, threads)


def benchmark(
    run_id: RunId,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A key of the preset's 'benchmarks'.")
    ],
    manifest: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="List of the benchmark's files, made by 'fadepth data benchmark'."
        ),
    ],
    trained_on: TrainedOn,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Evaluate a run on another data set, such as Make3D.

    Writes runs/RUN_ID/benchmarks/NAME/: metrics.json, per_image.csv and panels/.

    Examples:
        fadepth benchmark RUN_ID make3d --manifest data/benchmarks/make3d-PLACE.jsonl \
--trained-on data/NAME/manifest.jsonl --preset config/kitti.yaml
    """
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_benchmark

    set_up_logging(f"benchmark {name} {run_id}", log_file)
    run = find_run(run_id, preset, override)
    evaluate_benchmark(run, name, RUNS, manifest, trained_on, threads)


def odometry(
    run_id: RunId,
    sequence: Annotated[
        str, typer.Argument(metavar="SEQUENCE", help="Sequence of KITTI odometry, 00 to 10.")
    ],
    trained_on: TrainedOn,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Compare a run's camera poses with those of KITTI odometry.

    Writes runs/RUN_ID/odometry/SEQUENCE/: metrics.json, per_snippet.csv and the trajectory.

    Examples:
        fadepth odometry RUN_ID 09 --trained-on data/NAME/manifest.jsonl --preset config/kitti.yaml
    """
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_odometry

    set_up_logging(f"odometry {sequence} {run_id}", log_file)
    evaluate_odometry(find_run(run_id, preset, override), sequence, RUNS, trained_on, threads)


def robustness(
    run_id: RunId,
    manifest: Manifest,
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A teacher's model.pt, to compare the student with."),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Evaluate a run on mirrored, dark, bright and small frames.

    Writes runs/RUN_ID/robustness.json and robustness_per_image.csv.

    Examples:
        fadepth robustness RUN_ID --manifest data/NAME/manifest.jsonl
    """
    with heavy_imports():
        from fadepth.execution.evaluate import measure_robustness

    set_up_logging(f"robustness {run_id}", log_file)
    measure_robustness(find_run(run_id, preset, override), RUNS, manifest, teacher, threads)


def grid(
    run_id: RunId,
    threads: Threads = 1,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Measure the traces of a grid in a run's disparity.

    Writes runs/RUN_ID/grid.json.

    Examples:
        fadepth grid RUN_ID
    """
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_grid

    set_up_logging(f"grid {run_id}", log_file)
    evaluate_grid(find_run(run_id, preset, override), RUNS, threads)


def costs(
    name: TableName,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The .json file to write.")],
    threads: Threads = 1,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Count and time the networks of a table, side by side.

    Parameters, MACs and milliseconds of each; nothing else should run meanwhile. Writes JSON.

    Examples:
        fadepth costs table_complexity --output costs.json
    """
    with heavy_imports():
        from fadepth.devices import hold_device
        from fadepth.execution.costs import measure_costs

    set_up_logging(f"costs {name}", log_file)
    hold_device("auto", f"costs {name}")
    measure_costs(find_study(name, preset, override), RUNS, output, threads)


telling.add_to(app)
planning.add_to(app)
studies.add_to(app)
predicting.add_to(app)
exporting.add_to(app)
describing.add_to(app)
app.add_typer(bench.app, name="bench", rich_help_panel=NETWORKS)
reports.add_to(app)
drawing.add_to(app)
app.add_typer(data.app, name="data", rich_help_panel=DATA)
add_command(
    app,
    train,
    WORKFLOW,
    kept="the last checkpoint, if there is one, is kept; the same command goes on from it",
)
for command in (predict_targets, evaluate, benchmark, odometry, robustness, grid, costs):
    add_command(app, command, WORKFLOW, kept=UNFINISHED)
tracking.add_to(app)


def main() -> None:
    """Entry point: `fadepth`."""
    end_with_workflow()
    # At its end Python looks for garbage in all that was imported: 0.3 s with torch. Nothing waits
    # for that, the memory goes back to the system anyway.
    atexit.register(gc.freeze)
    never_fail_on_a_sign()
    run_to_the_end(app)
