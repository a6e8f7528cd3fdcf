"""`fadepth data fetch-splits` and `fadepth data prepare`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from fadepth.cli.common import progress_bar
from fadepth.errors import FadepthError

SPLITS = Path("data/splits")


def fetch_splits(
    output: Annotated[Path, typer.Option(help="folder of the lists")] = SPLITS,
) -> None:
    """Download KITTI's published split lists, and check each by its MD5."""
    from fadepth.data.kitti import read_split
    from fadepth.data.kitti_splits import LAYOUT, benchmark_index, check_benchmark_index, fetch

    fetched = fetch(output)
    benchmark = output / "eigen_benchmark"
    check_benchmark_index(
        read_split(output / "eigen" / "test_files.txt"),
        read_split(benchmark / "test_files.txt"),
        benchmark_index(benchmark / "eigen_to_benchmark_ids.npy"),
    )
    print(
        f"{output} holds {len(LAYOUT)} published lists: {len(fetched)} fetched, "
        f"{len(LAYOUT) - len(fetched)} there before"
    )


def prepare(
    root: Annotated[Path, typer.Option(help="KITTI raw, holds 2011_09_26 and so on")],
    output: Annotated[Path, typer.Option(help="folder of the copy")],
    name: Annotated[str, typer.Argument(help="data set: kitti")] = "kitti",
    splits: Annotated[
        Path, typer.Option(help="folder of train_files.txt, val_files.txt and test_files.txt")
    ] = SPLITS / "eigen_zhou",
    workers: Annotated[
        int | None, typer.Option(min=1, help="threads; default: all processors")
    ] = None,
    lidar: Annotated[
        Literal["needed", "test", "all", "none"],
        typer.Option(
            help="lidar scans to take over: of test frames, with 500 of training frames for the "
            "baselines that are fitted to them; of test frames alone; of all; none"
        ),
    ] = "needed",
    keep_png: Annotated[
        bool, typer.Option("--keep-png", help="take PNGs as they are; five times as large")
    ] = False,
) -> None:
    """Make a slim copy of KITTI raw, images as JPEG; started again, it goes on where it was."""
    if name != "kitti":
        raise FadepthError(
            f"'{name}' needs no preparation: only 'kitti' is converted, the other data sets are "
            "used as they lie"
        )
    from fadepth.data.convert import prepare_kitti
    from fadepth.files import readable_bytes

    with progress_bar(f"prepare {name}") as progress:
        done = prepare_kitti(
            root,
            output,
            splits,
            workers=workers or os.cpu_count() or 1,
            lidar=lidar,
            copy_png=keep_png,
            progress=progress,
        )
    print(
        f"{output} is complete: {done.converted} images converted, {done.taken} files taken over, "
        f"{done.kept} kept from before; {readable_bytes(done.size)}, of which "
        f"{readable_bytes(done.linked)} are shared with {root} by hard links"
    )
