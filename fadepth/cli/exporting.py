"""The command that writes a run's network for programs without fadepth."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fadepth.cli.common import RUNS, RunId, Threads, heavy_imports, set_up_logging

#: `fadepth.export.Format`, which cannot be imported here: it comes with torch.
ExportFormat = Literal["torchscript", "onnx", "openvino"]


def export(
    run_id: RunId,
    format: Annotated[ExportFormat, typer.Option(help="which kind of file")],
    output: Annotated[
        Path | None,
        typer.Option(help="the file to write; default runs/<id>/export/<id>.pt, .onnx or .xml"),
    ] = None,
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Write a run's network for other programs, and compare the file with PyTorch.

    Needs runs/<id>/model.pt alone. docs/export.md tells how to use the files.
    """
    with heavy_imports():
        from fadepth.execution.train import set_threads
        from fadepth.export import export_run
        from fadepth.files import readable_bytes

    set_up_logging(f"export {run_id}", log_file)
    set_threads(threads)
    made = export_run(run_id, RUNS, format, output)
    typer.echo(f"{made.path}: {readable_bytes(made.size)}, {made.use}")
    typer.echo(f"disparity differs from PyTorch's by at most {made.difference:.1e}")


def add_to(app: typer.Typer) -> None:
    """Add this command to the `fadepth` command."""
    app.command()(export)
