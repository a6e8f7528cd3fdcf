"""`fadepth describe`: what a network is made of."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fadepth.cli import completing
from fadepth.cli.commands import NETWORKS, add_command
from fadepth.cli.common import (
    Json,
    Override,
    Size,
    load_preset,
    parse_override,
    parse_size,
)
from fadepth.cli.terminal import console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.evaluation.complexity import Part

NetworkName = Literal["smalldepth", "hqdecv2"]


def describe(
    network: Annotated[
        NetworkName, typer.Argument(metavar="NETWORK", help="smalldepth or hqdecv2.")
    ],
    size: Size = "192x640",
    depth: Annotated[
        int, typer.Option(min=1, metavar="N", help="How far parts are split into their parts.")
    ] = 3,
    etm: Annotated[
        str, typer.Option(metavar="BRANCHES", help="SmallDepth's branches while it trains.")
    ] = "ac",
    as_json: Json = False,
    preset: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            autocompletion=completing.presets,
            help="Settings; may be repeated; default: the networks of full size.",
        ),
    ] = None,
    override: Override = "{}",
) -> None:
    """List a network's parts with parameters and MACs.

    SmallDepth before and after folding; HQDecv2 as it predicts.

    Examples:
        fadepth describe smalldepth
        fadepth describe hqdecv2 --depth 1 --size 320x1024
    """
    from fadepth.config import merge, parse_config
    from fadepth.evaluation.complexity import describe_network
    from fadepth.models import fold
    from fadepth.training import build_depth_network

    height, width = parse_size(size)
    settings, origin = load_preset(preset) if preset else ({}, "the defaults")
    # Some forms of HQDecv2 are built for one size of images.
    sized = {"data.height": height, "data.width": width}
    for changes in ({"student.etm.branches": etm}, parse_override(override), sized):
        settings = merge(settings, changes)
    origin += " + --etm + --override + --size"
    kind: Literal["student", "teacher"] = "student" if network == "smalldepth" else "teacher"
    model = build_depth_network(parse_config(settings, origin), kind)
    if kind == "student":
        forms = {"in training": model, "folded, for inference": fold(model)}
    else:
        forms = {"for inference": model.eval()}
    parts = {title: describe_network(form, height, width, depth) for title, form in forms.items()}
    if as_json:
        print_json(
            {
                "network": network,
                "size": [height, width],
                "forms": {title: list(map(asdict, found)) for title, found in parts.items()},
            }
        )
        return
    for title, found in parts.items():
        console().print(_parts_table(f"{network}, {title}, {height}x{width}", found))


def _parts_table(title: str, parts: list["Part"]) -> "Table":
    from rich.table import Table

    view = Table(title=title, show_footer=True)
    total = sum(part.parameters for part in parts), sum(part.macs for part in parts)
    view.add_column("part", "total")
    view.add_column("kind")
    view.add_column("output", justify="right")
    view.add_column("parameters", f"{total[0]:,}", justify="right")
    view.add_column("MMAC", f"{total[1] / 1e6:,.1f}", justify="right")
    for part in parts:
        shape = "x".join(str(side) for side in part.shape or ())
        view.add_row(part.name, part.kind, shape, f"{part.parameters:,}", f"{part.macs / 1e6:,.1f}")
    return view


def add_to(app: typer.Typer) -> None:
    """Add this command to the `fadepth` command."""
    add_command(app, describe, NETWORKS)
