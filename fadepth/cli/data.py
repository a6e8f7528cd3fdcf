"""`fadepth data ...`: check, fetch, convert and list data."""

from pathlib import Path
from typing import Annotated

import typer

from fadepth.cli import data_check, data_prepare
from fadepth.cli.common import (
    Override,
    Presets,
    Threads,
    find_benchmark_config,
    find_config,
    load_preset,
    log,
    parse_size,
    set_up_logging,
)
from fadepth.errors import FadepthError

app = typer.Typer(no_args_is_help=True, help="Check, fetch, convert and list data.")
app.command()(data_check.check)
app.command()(data_prepare.prepare)
app.command()(data_prepare.fetch_splits)


@app.callback()
def _to_terminal() -> None:
    """Logs go to the terminal."""
    set_up_logging("data", None)


@app.command()
def manifest(
    output: Annotated[Path, typer.Option(help="manifest file to write")],
    dataset: Annotated[
        str | None,
        typer.Option(help="folder below data/ of a study's data; default: the preset's data"),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Check (or render) the data, and list every file with its hash in a manifest."""
    from fadepth.config import parse_config
    from fadepth.execution.data import cache_images_of, prepare_data_of

    set_up_logging("prepare_data", log_file)
    if dataset:
        config = find_config(dataset, preset, override)
    else:
        config = parse_config(*load_preset(preset, override))
    prepare_data_of(config, output, threads)
    if config.data.cache == "disk":
        try:
            cache_images_of(config, output, threads)
        except FadepthError as error:
            # The manifest is whole, and a training makes the cache where it is absent.
            log.warning("no cache of images yet: %s", error)


@app.command()
def verify(
    manifest: Annotated[Path, typer.Argument(help="manifest of `fadepth data manifest`")],
    root: Annotated[
        Path | None, typer.Option(help="the data's folder, if it has moved since")
    ] = None,
) -> None:
    """Read the files of a manifest again whose times have changed: are they the same?"""
    from fadepth.execution.data import verify_files

    changed = verify_files(manifest, root)
    for name in changed[:20]:
        typer.echo(f"changed or absent: {name}")
    if len(changed) > 20:
        typer.echo(f"... and {len(changed) - 20} more")
    typer.echo(
        f"{len(changed)} files have changed: what depends on {manifest} will be done again"
        if changed
        else f"all files are those of {manifest}"
    )


@app.command()
def cache(
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    size: Annotated[str | None, typer.Option(help="height x width; default: the preset's")] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Decode and resize every training image once, into one file beside the manifest."""
    from fadepth.config import parse_config
    from fadepth.execution.data import cache_images_of

    set_up_logging("cache", log_file)
    config = parse_config(*load_preset(preset, override))
    cache_images_of(config, manifest, threads, parse_size(size) if size else None)


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help="a key of the preset's 'benchmarks'")],
    output: Annotated[Path, typer.Option(help="manifest file to write")],
    place: Annotated[
        str | None, typer.Option(help="end of the manifest's name, where presets share a name")
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Check the frames of a benchmark, and list every file with its hash in a manifest."""
    from fadepth.config import parse_config
    from fadepth.execution.data import prepare_benchmark_of

    set_up_logging(f"prepare_benchmark {name}", log_file)
    if place:
        config = find_benchmark_config(name, place, preset, override)
    else:
        config = parse_config(*load_preset(preset, override))
    prepare_benchmark_of(config, name, output, threads)


@app.command()
def ego_mask(
    manifest: Annotated[Path, typer.Option(help="manifest of `fadepth data manifest`")],
    output: Annotated[Path, typer.Option(help="folder to write <camera>.png to")],
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Estimate, for each camera, which pixels show the vehicle that carries it."""
    from fadepth.config import parse_config
    from fadepth.execution.data import estimate_ego_masks

    set_up_logging("ego-mask", None)
    config = parse_config(*load_preset(preset, override))
    estimate_ego_masks(config, manifest, output)
