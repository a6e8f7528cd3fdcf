"""Commands that show runs in MLflow."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli.common import RUNS, STORE, Override, Presets, load_studies, set_up_logging
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.study import Study

log = logging.getLogger(__name__)

Store = Annotated[
    str,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow tracking store: sqlite:///FILE, http://HOST:PORT, postgresql://...",
    ),
]


def track(
    store: Store = STORE,
    preset: Presets = None,
    override: Override = "{}",
    everything: Annotated[bool, typer.Option("--all", help="every folder of runs/")] = False,
    links: Annotated[
        Path | None, typer.Option(help="file for the runs' addresses; with it nothing here fails")
    ] = None,
    log_file: Annotated[Path | None, typer.Option("--log")] = None,
) -> None:
    """Mirror runs/ into MLflow; any number of times, the result is the same."""
    from fadepth.execution.track import track_and_link, track_runs

    set_up_logging("track", log_file)
    if links:
        track_and_link(load_studies(preset, override).values(), RUNS, store, links)
    else:
        studies = _known(preset, override) if everything else load_studies(preset, override)
        track_runs(studies.values(), RUNS, store, everything=everything)


def _known(preset: Presets, override: Override) -> dict[str, "Study"]:
    """Studies, which give runs their order and labels; runs can be shown without."""
    try:
        return load_studies(preset, override)
    except FadepthError as error:
        log.warning("runs are shown without the order of their tables: %s", error)
        return {}


def ui(
    store: Store = STORE,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="port on the loopback address")
    ] = 5000,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Bring MLflow up to date, then serve its pages on this machine.

    A store that is a server shows its own pages: their addresses are printed.
    """
    from fadepth.tracking import is_server
    from fadepth.ui import print_links, serve

    try:
        track(store=store, preset=preset, override=override, everything=True)
    except FadepthError as error:
        # What was mirrored before can be looked at all the same.
        log.warning("MLflow is not up to date: %s", error)
    if is_server(store):
        print_links(store)
    else:
        serve(store, port)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    for command in (track, ui):
        app.command()(command)
