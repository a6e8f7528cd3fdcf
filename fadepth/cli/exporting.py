"""The command that writes a run's network for programs without fadepth."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fadepth.cli.commands import NETWORKS, UNFINISHED, add_command
from fadepth.cli.common import RUNS, Json, Log, RunId, Threads, heavy_imports, set_up_logging
from fadepth.cli.terminal import print_json

#: `fadepth.export.Format`, which cannot be imported here: it comes with torch.
ExportFormat = Literal["torchscript", "onnx", "openvino"]


def export(
    run_id: RunId,
    format: Annotated[ExportFormat, typer.Option(help="Which kind of file.")],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file to write; default: RUN_ID.pt, .onnx or .xml in runs/RUN_ID/export/.",
        ),
    ] = None,
    as_json: Json = False,
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Write a run's network for other programs.

    One file (OpenVINO: two), compared with PyTorch before it is kept. Needs runs/RUN_ID/model.pt
    alone; 'pip install -e ".[export]"' for ONNX and OpenVINO. docs/export.md tells how to use
    the files.

    Examples:
        fadepth export RUN_ID --format onnx
        fadepth export RUN_ID --format openvino --output depth.xml
    """
    with heavy_imports():
        from fadepth.execution.train import set_threads
        from fadepth.export import export_run
        from fadepth.files import readable_bytes

    set_up_logging(f"export {run_id}", log_file)
    set_threads(threads)
    made = export_run(run_id, RUNS, format, output)
    if as_json:
        print_json(
            {
                "path": str(made.path),
                "weights": None if made.weights is None else str(made.weights),
                "bytes": made.size,
                "free_axes": made.free,
                "difference": made.difference,
            }
        )
        return
    typer.echo(f"{made.path}: {readable_bytes(made.size)}, {made.use}")
    typer.echo(f"disparity differs from PyTorch's by at most {made.difference:.1e}")


def add_to(app: typer.Typer) -> None:
    """Add this command to the `fadepth` command."""
    add_command(app, export, NETWORKS, kept=UNFINISHED)
