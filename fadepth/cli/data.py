"""`fadepth data ...`: check, fetch, convert and list data."""

from pathlib import Path
from typing import Annotated

import typer

from fadepth.cli import data_prepare
from fadepth.cli.common import Override, Presets, Threads, load_preset, set_up_logging

app = typer.Typer(no_args_is_help=True, help="Check, fetch, convert and list data.")
app.command()(data_prepare.prepare)
app.command()(data_prepare.fetch_splits)


@app.callback()
def _to_terminal() -> None:
    """Logs go to the terminal."""
    set_up_logging("data", None)


@app.command()
def manifest(
    output: Annotated[Path, typer.Option(help="manifest file to write")],
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Check (or render) the data, and list every file with its hash in a manifest."""
    from fadepth.config import parse_config
    from fadepth.execution import prepare_data_of

    set_up_logging("prepare_data", log_file)
    settings, origin = load_preset(preset, override)
    prepare_data_of(parse_config(settings, origin), output, threads)


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="a key of the preset's 'benchmarks'")],
    output: Annotated[Path, typer.Option(help="manifest file to write")],
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Check the frames of a benchmark, and list every file with its hash in a manifest."""
    from fadepth.config import parse_config
    from fadepth.execution import prepare_benchmark_of

    set_up_logging(f"prepare_benchmark {name}", log_file)
    settings, origin = load_preset(preset, override)
    prepare_benchmark_of(parse_config(settings, origin), name, output, threads)


@app.command()
def ego_mask(
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    output: Annotated[Path, typer.Option(help="folder to write <camera>.png to")],
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Estimate, for each camera, which pixels show the vehicle that carries it."""
    from fadepth.config import parse_config
    from fadepth.execution import estimate_ego_masks

    set_up_logging("ego-mask", None)
    settings, origin = load_preset(preset, override)
    estimate_ego_masks(parse_config(settings, origin), manifest, output)
