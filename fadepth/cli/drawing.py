"""Commands that draw what needs no results: masks, ground truth, the method's figures."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fadepth.cli import completing
from fadepth.cli.commands import REPORTS, add_command
from fadepth.cli.common import RUNS, Log, Threads, heavy_imports, log, set_up_logging

PicturedName = Literal["street", "kitti", "ddad"]

Frames = Annotated[
    PicturedName,
    typer.Argument(
        metavar="FRAMES", help="street: synthetic; kitti or ddad: real, from the folder --data."
    ),
]
Png = Annotated[Path, typer.Option(metavar="FILE", help="The .png file to write.")]
RealFrames = Annotated[
    str, typer.Option(metavar="FOLDER", help="Folder that holds kitti_mini/ and ddad_mini/.")
]
REAL_FRAMES = "${FADEPTH_TEST_DATA:-../shared}"


def masks(
    name: Frames,
    output: Png,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_ID",
            autocompletion=completing.run_ids,
            help="A trained run that gives depth and motion; default: the true ones.",
        ),
    ] = None,
    data: RealFrames = REAL_FRAMES,
    log_file: Log = None,
) -> None:
    """Draw what each mask of the loss leaves out.

    Examples:
        fadepth masks street --output masks.png
    """
    with heavy_imports():
        from fadepth.config import expand
        from fadepth.report.mask_figure import draw_masks

    set_up_logging(f"masks {name}", log_file)
    draw_masks(name, output, Path(expand(data)), RUNS / run / "model.pt" if run else None)
    log.warning("figure written: %s", output)


def lidar(
    name: Frames,
    output: Png,
    data: RealFrames = REAL_FRAMES,
    log_file: Log = None,
) -> None:
    """Draw ground truth over the frames that it belongs to.

    Examples:
        fadepth lidar street --output lidar.png
    """
    from fadepth.config import expand
    from fadepth.report.lidar_figure import draw_lidar

    set_up_logging(f"lidar {name}", log_file)
    draw_lidar(name, output, Path(expand(data)))
    log.warning("figure written: %s", output)


def figures(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")] = Path(
        "docs/figures"
    ),
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN_ID",
            autocompletion=completing.run_ids,
            help="A trained student or teacher to show; may be repeated; default: own networks.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A figure, without its ending; may be repeated; default: all."
        ),
    ] = None,
    fit: Annotated[
        bool,
        typer.Option(help="First fit own networks to rendered depth, which takes half a minute."),
    ] = True,
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Draw the figures of docs/method.md from the networks.

    Examples:
        fadepth figures --output /tmp/figures --only overview --no-fit
    """
    with heavy_imports():
        from fadepth.execution.train import set_threads
        from fadepth.report.method import draw_method_figures

    set_up_logging("figures", log_file)
    set_threads(threads)
    paths = draw_method_figures(output, RUNS, run or (), fit=fit, only=only or ())
    log.warning("%d figures written to %s", len(paths), output)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    for command in (masks, lidar, figures):
        kept = "figures that were there before are as they were, or drawn anew as a whole"
        add_command(app, command, REPORTS, kept=kept)
