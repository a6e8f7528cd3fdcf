"""`fadepth data fetch-splits` and `fadepth data prepare`."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.data.convert import Progress

log = logging.getLogger("fadepth")

SPLITS = Path("data/splits")


def fetch_splits(
    output: Annotated[Path, typer.Option(help="folder of the lists")] = SPLITS,
) -> None:
    """Download KITTI's published split lists, and check each by its MD5."""
    from fadepth.data.kitti_splits import LAYOUT, fetch

    fetched = fetch(output)
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
) -> None:
    """Make a slim copy of KITTI raw, images as JPEG; started again, it goes on where it was."""
    if name != "kitti":
        raise FadepthError(
            f"'{name}' needs no preparation: only 'kitti' is converted, the other data sets are "
            "used as they lie"
        )
    from fadepth.data.convert import prepare_kitti, readable_bytes

    with _progress(f"prepare {name}") as progress:
        done = prepare_kitti(
            root,
            output,
            splits,
            workers=workers or os.cpu_count() or 1,
            lidar=lidar,
            progress=progress,
        )
    print(
        f"{output} is complete: {done.converted} images converted, {done.taken} files taken over, "
        f"{done.kept} kept from before; {readable_bytes(done.size)}, of which "
        f"{readable_bytes(done.linked)} are shared with {root} by hard links"
    )


@contextmanager
def _progress(title: str) -> Iterator["Progress"]:
    """A bar on a terminal, else a line in the log for every twentieth of the work."""
    if not sys.stderr.isatty():
        yield _log_twentieths(title)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _log_twentieths(title: str) -> "Progress":
    def tell(done: int, total: int) -> None:
        if 20 * done // total > 20 * (done - 1) // total:
            log.info("%s: %d of %d files", title, done, total)

    return tell
