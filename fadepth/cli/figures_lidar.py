"""`fadepth lidar`."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from fadepth.cli.common import set_up_logging

log = logging.getLogger("fadepth")


def lidar(
    name: Annotated[Literal["street", "kitti", "ddad"], typer.Argument(help="which frames")],
    output: Annotated[Path, typer.Option(help="the .png file to write")],
    data: Annotated[
        str, typer.Option(help="folder that holds kitti_mini/ and ddad_mini/")
    ] = "${FADEPTH_TEST_DATA:-../shared}",
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Draw ground truth over a few frames of the street, KITTI or DDAD."""
    from fadepth.config import expand
    from fadepth.report.lidar_figure import draw_lidar

    set_up_logging(f"lidar {name}", log_file)
    draw_lidar(name, output, Path(expand(data)))
    log.warning("figure written: %s", output)
