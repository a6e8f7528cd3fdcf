"""Commands that show runs in MLflow."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli.commands import ASK, WORKFLOW, add_command
from fadepth.cli.common import RUNS, STORE, Log, Override, Presets, load_studies, set_up_logging
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.study import Study

log = logging.getLogger(__name__)

Store = Annotated[
    str,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        metavar="URI",
        help="MLflow's store: sqlite:///FILE, http://HOST:PORT or postgresql://...",
    ),
]


def track(
    store: Store = STORE,
    preset: Presets = None,
    override: Override = "{}",
    everything: Annotated[
        bool, typer.Option("--all", help="Also runs that no study of the preset knows.")
    ] = False,
    links: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the runs' addresses as JSON; then a store that fails is told and no more.",
        ),
    ] = None,
    log_file: Log = None,
) -> None:
    """Mirror runs/ into MLflow.

    As often as you like, the result is the same; a store that was deleted is filled anew.

    Examples:
        fadepth track --all
        fadepth track --store http://HOST:5000
    """
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
        int,
        typer.Option(min=1, max=65535, metavar="PORT", help="Port on this machine, 1 to 65535."),
    ] = 5000,
    preset: Presets = None,
    override: Override = "{}",
) -> None:
    """Show all runs side by side in the browser (MLflow).

    First mirrors runs/ into the store, then serves MLflow's pages to this machine alone and prints
    an address for each study; Ctrl-C ends it, with exit code 0. A store that is a server has pages
    of its own: their addresses are printed.

    Examples:
        fadepth ui
        fadepth ui --port 5001
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


#: What Ctrl-C leaves: MLflow's store takes each run as a whole, and is filled up the next time.
_KEPT = "MLflow has the runs that were mirrored by then; the same command does the rest"


def add_to(app: typer.Typer) -> None:
    """Add these commands to the `fadepth` command."""
    add_command(app, ui, ASK, kept=_KEPT)
    add_command(app, track, WORKFLOW, kept=_KEPT)
