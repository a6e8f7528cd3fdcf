"""`fadepth data ...`: check, fetch, convert and list data."""

from pathlib import Path
from typing import Annotated

import typer

from fadepth.cli import data_check, data_prepare
from fadepth.cli.commands import UNFINISHED, Group, add_command
from fadepth.cli.common import (
    Json,
    Log,
    Manifest,
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
from fadepth.cli.terminal import print_json
from fadepth.errors import FadepthError


class _Data(Group):
    """`fadepth data`."""

    order = ("check", "fetch-splits", "prepare", "manifest", "verify", "cache")


app = typer.Typer(cls=_Data, no_args_is_help=True)

Output = Annotated[Path, typer.Option(metavar="FILE", help="The manifest to write.")]


@app.callback()
def data() -> None:
    """Check, fetch, convert and list data."""
    set_up_logging("data", None)


def manifest(
    output: Output,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Folder below data/ of a study's data; default: the data of the preset.",
        ),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Check or render a data set, and list its files.

    Writes a manifest: every file with its hash. Trainings read it, and begin anew when a file in it
    has changed. With data.cache: disk also the decoded images, beside the manifest.

    Examples:
        fadepth data manifest --output /tmp/street/manifest.jsonl --preset config/smoke.yaml
    """
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


def verify(
    manifest: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="List of the data's files, data/NAME/manifest.jsonl."),
    ],
    root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The data's folder, if it has moved since."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find files that have changed since they were listed.

    Files whose times have changed are read again: are they the same? Exit code 0 in either case.

    Examples:
        fadepth data verify data/NAME/manifest.jsonl
    """
    from fadepth.execution.data import verify_files

    changed = verify_files(manifest, root)
    if as_json:
        print_json({"manifest": str(manifest), "changed": changed})
        return
    for name in changed[:20]:
        typer.echo(f"changed or absent: {name}")
    if len(changed) > 20:
        typer.echo(f"... and {len(changed) - 20} more")
    typer.echo(
        f"{len(changed)} files have changed: what depends on {manifest} will be done again"
        if changed
        else f"all files are those of {manifest}"
    )


def cache(
    manifest: Manifest,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH", help="Size of the images, pixels; default: the preset's."
        ),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Decode every training image once, for faster training.

    Writes images-HEIGHTxWIDTH.npy beside the manifest; trainings with data.cache: disk use it.

    Examples:
        fadepth data cache --manifest data/NAME/manifest.jsonl --threads 2
    """
    from fadepth.config import parse_config
    from fadepth.execution.data import cache_images_of

    set_up_logging("cache", log_file)
    config = parse_config(*load_preset(preset, override))
    cache_images_of(config, manifest, threads, parse_size(size) if size else None)


def benchmark(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A key of the preset's 'benchmarks'.")
    ],
    output: Output,
    place: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="End of the manifest's name, where presets share a name."
        ),
    ] = None,
    preset: Presets = None,
    override: Override = "{}",
    threads: Threads = 1,
    log_file: Log = None,
) -> None:
    """Check the frames of a benchmark, and list its files.

    Examples:
        fadepth data benchmark make3d --output make3d.jsonl --preset config/kitti.yaml
    """
    from fadepth.config import parse_config
    from fadepth.execution.data import prepare_benchmark_of

    set_up_logging(f"prepare_benchmark {name}", log_file)
    if place:
        config = find_benchmark_config(name, place, preset, override)
    else:
        config = parse_config(*load_preset(preset, override))
    prepare_benchmark_of(config, name, output, threads)


def ego_mask(
    manifest: Manifest,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write CAMERA.png to.")],
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Find which pixels show the vehicle itself.

    One mask for each camera, estimated from frames of several drives; beside it a picture to check
    it by.

    Examples:
        fadepth data ego-mask --manifest data/NAME/manifest.jsonl --output masks
    """
    from fadepth.config import parse_config
    from fadepth.execution.data import estimate_ego_masks

    set_up_logging("ego-mask", None)
    config = parse_config(*load_preset(preset, override))
    estimate_ego_masks(config, manifest, output)


add_command(app, data_check.check)
app.add_typer(data_prepare.prepare, name="prepare")
add_command(app, data_prepare.fetch_splits, kept=data_prepare.PARTS_KEPT)
for command in (manifest, benchmark, cache, ego_mask):
    add_command(app, command, kept=UNFINISHED)
add_command(app, verify)
