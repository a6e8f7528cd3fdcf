"""The command line: what the workflow's rules call, and what people call beside Snakemake.

Heavy libraries are imported inside the commands, so that `fadepth --help` answers at once.
"""

import atexit
import errno
import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fadepth.cli import (
    bench,
    data,
    exporting,
    figures_lidar,
    planning,
    reports,
    studies,
    telling,
    tracking,
)
from fadepth.cli.common import (
    RUNS,
    Override,
    Presets,
    RunId,
    Threads,
    find_run,
    find_study,
    heavy_imports,
    load_preset,
    log,
    parse_override,
    parse_size,
    set_up_logging,
)
from fadepth.errors import FadepthError, out_of_memory
from fadepth.survival import end_with_workflow

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from fadepth.evaluation.complexity import Part

__all__ = ["app", "load_preset", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reproduce the ablation study of FA-Depth. `snakemake --cores 8 "
    "reports/table_ablation.csv` runs everything; these are its parts.",
)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command()(figures_lidar.lidar)
reports.add_to(app)
planning.add_to(app)
studies.add_to(app)
telling.add_to(app)
tracking.add_to(app)
exporting.add_to(app)

#: A disk that is full or may not be written to.
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)

NetworkName = Literal["smalldepth", "hqdecv2"]
PicturedName = Literal["street", "kitti", "ddad"]


@app.command()
def train(
    run_id: RunId,
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    targets: Annotated[Path | None, typer.Option(help="the teacher's predictions")] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Train one run, or go on where it was interrupted."""
    with heavy_imports():
        from fadepth.execution.train import train_run

    set_up_logging(run_id, log_file)
    train_run(find_run(run_id, preset, override), RUNS, manifest, targets, threads)


@app.command()
def predict_targets(
    run_id: RunId,
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    output: Annotated[Path, typer.Option(help="file to write, .npy")],
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Write a teacher's predictions for every training frame, for APX."""
    with heavy_imports():
        from fadepth.execution.train import predict_teacher

    set_up_logging(f"predict {run_id}", log_file)
    predict_teacher(find_run(run_id, preset, override), RUNS, manifest, output, threads)


@app.command()
def evaluate(
    run_id: RunId,
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Compare a run's depth with ground truth: metrics.json, per_image.csv, panels/."""
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_run

    set_up_logging(f"evaluate {run_id}", log_file)
    evaluate_run(find_run(run_id, preset, override), RUNS, manifest, threads)


@app.command()
def benchmark(
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="a key of the preset's 'benchmarks'")],
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data benchmark`")],
    trained_on: Annotated[Path, typer.Option(help="manifest that the run was trained on")],
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Evaluate a run on other frames, such as Make3D: runs/<id>/benchmarks/<name>/."""
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_benchmark

    set_up_logging(f"benchmark {name} {run_id}", log_file)
    run = find_run(run_id, preset, override)
    evaluate_benchmark(run, name, RUNS, manifest, trained_on, threads)


@app.command()
def odometry(
    run_id: RunId,
    sequence: Annotated[str, typer.Argument(help="sequence of KITTI odometry, 00 to 10")],
    trained_on: Annotated[Path, typer.Option(help="manifest that the run was trained on")],
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Compare a run's poses with KITTI odometry: runs/<id>/odometry/<sequence>/."""
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_odometry

    set_up_logging(f"odometry {sequence} {run_id}", log_file)
    evaluate_odometry(find_run(run_id, preset, override), sequence, RUNS, trained_on, threads)


@app.command()
def robustness(
    run_id: RunId,
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    teacher: Annotated[Path | None, typer.Option(help="model.pt to compare with")] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Evaluate a run on mirrored, dark, bright and small frames: robustness.json."""
    with heavy_imports():
        from fadepth.execution.evaluate import measure_robustness

    set_up_logging(f"robustness {run_id}", log_file)
    measure_robustness(find_run(run_id, preset, override), RUNS, manifest, teacher, threads)


@app.command()
def grid(
    run_id: RunId,
    threads: Threads = 1,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Measure the traces of a grid in a run's disparity: grid.json."""
    with heavy_imports():
        from fadepth.execution.evaluate import evaluate_grid

    set_up_logging(f"grid {run_id}", log_file)
    evaluate_grid(find_run(run_id, preset, override), RUNS, threads)


@app.command()
def costs(
    name: Annotated[str, typer.Argument(help="name of the table, such as table_complexity")],
    output: Annotated[Path, typer.Option(help="the .json file to write")],
    threads: Threads = 1,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Count parameters and MACs of a table's networks, and time them side by side."""
    with heavy_imports():
        from fadepth.devices import hold_device
        from fadepth.execution.costs import measure_costs

    set_up_logging(f"costs {name}", log_file)
    hold_device("auto", f"costs {name}")
    measure_costs(find_study(name, preset, override), RUNS, output, threads)


@app.command()
def masks(
    name: Annotated[PicturedName, typer.Argument(help="which frames")],
    output: Annotated[Path, typer.Option(help="the .png file to write")],
    run: Annotated[
        str | None, typer.Option(help="id of a trained run; default: true depth and motion")
    ] = None,
    data: Annotated[
        str, typer.Option(help="folder that holds kitti_mini/ and ddad_mini/")
    ] = "${FADEPTH_TEST_DATA:-../shared}",
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Draw what each mask leaves out, on a few frames of the street, KITTI or DDAD."""
    with heavy_imports():
        from fadepth.config import expand
        from fadepth.report.mask_figure import draw_masks

    set_up_logging(f"masks {name}", log_file)
    draw_masks(name, output, Path(expand(data)), RUNS / run / "model.pt" if run else None)
    log.warning("figure written: %s", output)


@app.command()
def figures(
    output: Annotated[Path, typer.Option(help="folder to write to")] = Path("docs/figures"),
    run: Annotated[
        list[str] | None,
        typer.Option(help="id of a trained student or teacher to show; default: own networks"),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="name of a figure, without its ending; default: all")
    ] = None,
    fit: Annotated[
        bool, typer.Option(help="fit own networks to rendered depth first, half a minute")
    ] = True,
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Draw the figures of docs/method.md from the networks themselves."""
    with heavy_imports():
        from fadepth.execution.train import set_threads
        from fadepth.report.method import draw_method_figures

    set_up_logging("figures", log_file)
    set_threads(threads)
    paths = draw_method_figures(output, RUNS, run or (), fit=fit, only=only or ())
    log.warning("%d figures written to %s", len(paths), output)


@app.command()
def describe(
    network: Annotated[NetworkName, typer.Argument(help="which network")],
    size: Annotated[str, typer.Option(help="height x width of the image, pixels")] = "192x640",
    depth: Annotated[int, typer.Option(min=1, help="how far parts are split")] = 3,
    etm: Annotated[str, typer.Option(help="SmallDepth's branches while training")] = "ac",
    preset: Annotated[
        list[Path] | None,
        typer.Option(help="settings file(s), later ones on top; default: the full-size networks"),
    ] = None,
    override: Override = "{}",
) -> None:
    """List a network's parts with parameters and MACs, SmallDepth's before and after folding."""
    from rich.console import Console

    from fadepth.config import merge, parse_config
    from fadepth.evaluation.complexity import describe_network
    from fadepth.models import fold
    from fadepth.training import build_depth_network

    height, width = parse_size(size)
    settings, origin = load_preset(preset) if preset else ({}, "the defaults")
    # Some forms of HQDecv2 are built for one size of images.
    sized = {"data.height": height, "data.width": width}
    for changes in ({"student.etm.branches": etm}, parse_override(override), sized):
        settings = merge(settings, changes)
    origin += " + --etm + --override + --size"
    kind: Literal["student", "teacher"] = "student" if network == "smalldepth" else "teacher"
    model = build_depth_network(parse_config(settings, origin), kind)
    if kind == "student":
        forms = {"in training": model, "folded, for inference": fold(model)}
    else:
        forms = {"for inference": model.eval()}
    for title, form in forms.items():
        parts = describe_network(form, height, width, depth)
        Console().print(_parts_table(f"{network}, {title}, {height}x{width}", parts))


def _parts_table(title: str, parts: list["Part"]) -> "RichTable":
    from rich.table import Table as RichTable

    view = RichTable(title=title, show_footer=True)
    total = sum(part.parameters for part in parts), sum(part.macs for part in parts)
    view.add_column("part", "total")
    view.add_column("kind")
    view.add_column("output", justify="right")
    view.add_column("parameters", f"{total[0]:,}", justify="right")
    view.add_column("MMAC", f"{total[1] / 1e6:,.1f}", justify="right")
    for part in parts:
        shape = "x".join(str(side) for side in part.shape or ())
        view.add_row(part.name, part.kind, shape, f"{part.parameters:,}", f"{part.macs / 1e6:,.1f}")
    return view


def main() -> None:
    """Entry point: one sentence and exit code 2 for bad input, a full disk and full memory."""
    end_with_workflow()
    # At its end Python looks for garbage in all that was imported: 0.3 s with torch. Nothing waits
    # for that, the memory goes back to the system anyway.
    atexit.register(gc.freeze)
    try:
        app()
        return
    except FadepthError as error:
        sentence = str(error)
    except (OSError, MemoryError, RuntimeError) as error:
        told = _refusal(error) or out_of_memory(error)
        if not told:
            raise
        sentence = told
    # Outside of the handlers: there the traceback would still hold all that fills the memory.
    _fail(sentence)


def _refusal(error: BaseException) -> str | None:
    """One sentence for a disk that is full or may not be written to."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return None
    where = error.filename2 or error.filename or "a file"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{where} may not be read or written ({error.strerror}): ask its owner, or choose "
            "another folder; what was finished before is kept"
        )
    return (
        f"{where} cannot be written ({error.strerror}): make room or choose a folder that you "
        "may write to, then call again; what was finished before is kept"
    )


def _fail(sentence: str) -> None:
    if logging.getLogger().handlers:
        log.error("%s", sentence, extra={"file_only": True})
    typer.secho(f"fadepth: {sentence}", fg="red", err=True)
    raise SystemExit(2) from None
