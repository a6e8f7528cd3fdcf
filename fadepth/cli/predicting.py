"""The command that predicts depth of anybody's images and videos."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fadepth.cli import completing
from fadepth.cli.commands import NETWORKS, add_command
from fadepth.cli.common import (
    DEFAULT_PRESET,
    RUNS,
    Json,
    Log,
    Override,
    Presets,
    find_study,
    heavy_imports,
    parse_size,
    progress_bar,
    set_up_logging,
)
from fadepth.cli.terminal import print_json, say
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.execution.predict import Summary
    from fadepth.execution.prediction_record import Save

#: Whose best student predicts where no run is named.
TABLE = "table_ablation"

#: What may follow --save, as `fadepth.execution.prediction_record.SAVES`.
_SAVES = ("disparity", "depth", "npy", "video")


def predict(
    source: Annotated[
        Path,
        typer.Argument(metavar="IMAGE|FOLDER|VIDEO", help="What to predict the depth of."),
    ],
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            autocompletion=completing.run_ids,
            help="Name of a run or the beginning of it, a run's folder, a model.pt, or a file of "
            f"'fadepth export'; default: the best finished student of {TABLE}.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to write; default: predictions/RUN."),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT,WHAT",
            help="What to write: disparity, depth, npy, video; default: disparity,depth,npy, and "
            "of a video the video alone.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="What images are resized to for the network; default: as it was trained.",
        ),
    ] = None,
    scale: Annotated[
        float,
        typer.Option(metavar="FACTOR", help="Depth, known up to a factor only, is multiplied."),
    ] = 1.0,
    intrinsics: Annotated[
        str | None,
        typer.Option(
            metavar="FX,FY,CX,CY", help="Of the camera, in pixels of the image; adds points (PLY)."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make again what is there already.")
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where the network runs.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads; default: all that there are."),
    ] = None,
    as_json: Json = False,
    preset: Presets = None,
    override: Override = "{}",
    log_file: Log = None,
) -> None:
    """Predict the depth of an image, a folder of images, or a video.

    Writes NAME_disparity.png (colours, bright is near), NAME_depth.png (16 bits, metres * 256) and
    NAME.npy (metres) of each image; of a video, a video. Metres are up to one unknown factor.
    Goes on where it was interrupted. An image that cannot be read does not stop the others; the
    exit code then is 1. docs/predict.md tells what the numbers mean.

    Examples:
        fadepth predict street.jpg
        fadepth predict frames/ --run apx_etm --save depth --scale 12.5
        fadepth predict drive.mp4 --output out
    """
    # Before the heavy imports: wrong options are told at once.
    wanted, camera = _parse_save(save, source), _parse_intrinsics(intrinsics)
    fed = parse_size(size) if size else None
    if not (math.isfinite(scale) and scale > 0):
        raise FadepthError(f"--scale is {scale}: expected a factor above 0, such as 5.4")
    if not source.exists():
        raise FadepthError(f"{source} does not exist: name an image, a folder, or a video")
    with heavy_imports():
        import torch

        from fadepth.devices import hold_device
        from fadepth.execution import predict as work
        from fadepth.execution.prediction_record import Wish
        from fadepth.execution.train import set_threads
        from fadepth.execution.trained import find_model, load_trained
        from fadepth.training import choose_device

    set_up_logging("predict", log_file)
    threads = threads or len(os.sched_getaffinity(0))
    set_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise FadepthError("--device is cuda but torch sees no GPU: leave it out, or say cpu")
    model = find_model(run, RUNS) if run else _best_model(preset, override)
    hold_device(device, f"predict {source}")
    trained = load_trained(model, choose_device(device))
    wish = Wish(
        source, output or Path("predictions") / trained.name, wanted, fed, scale, camera,
        overwrite, threads,
    )  # fmt: skip
    with progress_bar(source.name) as progress:
        summary = work.predict(wish, trained, progress)
    if as_json:
        print_json(summary.as_json())
    else:
        _tell(summary)
    _tell_problems(summary)
    if summary.unreadable:
        raise typer.Exit(1)


def _best_model(preset: list[Path] | None, override: str) -> Path:
    from fadepth.execution.trained import best_student

    study = find_study(TABLE, preset, override)
    origin = " + ".join(map(str, preset or [DEFAULT_PRESET]))
    return RUNS / best_student(study.students, RUNS, TABLE, origin).id / "model.pt"


def _parse_save(text: str | None, source: Path) -> frozenset["Save"]:
    from fadepth.data.video import VIDEO_SUFFIXES

    video = source.suffix.lower() in VIDEO_SUFFIXES and not source.is_dir()
    if text is None:
        return frozenset({"video"} if video else {"disparity", "depth", "npy"})
    words = [word.strip() for word in text.split(",")]
    unknown = [word for word in words if word not in _SAVES]
    if unknown or ("video" in words and not video):
        wrong = f"'{unknown[0]}'" if unknown else "'video', but the input is none"
        known = _SAVES if video else _SAVES[:-1]
        raise FadepthError(f"--save has {wrong}: give some of {', '.join(known)}, with commas")
    return frozenset(word for word in _SAVES if word in words)  # type: ignore[misc]


def _parse_intrinsics(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        fx, fy, cx, cy = (float(word) for word in text.split(","))
    except ValueError:
        fx = fy = cx = cy = math.nan
    if not (all(map(math.isfinite, (fx, fy, cx, cy))) and fx > 0 and fy > 0):
        raise FadepthError(
            f"--intrinsics is '{text}': write focal lengths and centre in pixels of the image, "
            "fx,fy,cx,cy, such as 721.5,721.5,609.6,172.9"
        )
    return fx, fy, cx, cy


def _tell(summary: "Summary") -> None:
    """Where the results are."""
    where = summary.video or summary.output
    there = f", {summary.skipped} there already" if summary.skipped else ""
    what = ("frame" if summary.is_video else "image") + "s" * (summary.images != 1)
    typer.echo(f"{where}: {summary.images} {what} predicted{there} ({summary.label})")


def _tell_problems(summary: "Summary") -> None:
    if summary.without_value:
        say(
            f"{summary.without_value:.1%} of the pixels have no value in the depth PNG, which ends "
            "at 256 m: lower --scale, or use the .npy",
            "yellow",
        )
    for sentence in summary.unreadable:
        say(sentence, "red")


def add_to(app: typer.Typer) -> None:
    """Add this command to the `fadepth` command."""
    kept = "images that were finished are kept, and the same command goes on after them"
    add_command(app, predict, NETWORKS, kept=kept)
