"""`fadepth data fetch-splits` and `fadepth data prepare`."""

import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from fadepth.cli.commands import Group, add_command
from fadepth.cli.common import Workers, parse_size, progress_bar
from fadepth.errors import FadepthError

SPLITS = Path("data/splits")
#: Where config/own_video.yaml looks unless VIDEO_ROOT says otherwise.
OWN_VIDEO = Path("data/own_video")
PARTS_KEPT = "files that are finished are kept; the same command goes on from there"


def fetch_splits(
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder to write the lists to.")
    ] = SPLITS,
) -> None:
    """Download KITTI's published split lists.

    Each is checked by its MD5; those that are there already are not fetched again.

    Examples:
        fadepth data fetch-splits
    """
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


def kitti(
    root: Annotated[
        Path, typer.Option(metavar="FOLDER", help="KITTI raw; holds 2011_09_26 and so on.")
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the copy.")],
    splits: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Holds train_files.txt, val_files.txt and test_files.txt."
        ),
    ] = SPLITS / "eigen_zhou",
    workers: Workers = None,
    lidar: Annotated[
        Literal["needed", "test", "all", "none"],
        typer.Option(
            help="Scans to take over: of test frames, and of 500 training frames for the baselines "
            "that are fitted to them; of test frames alone; of all; none."
        ),
    ] = "needed",
    keep_png: Annotated[
        bool, typer.Option("--keep-png", help="Take PNGs as they are; five times as large.")
    ] = False,
) -> None:
    """Make a slim copy of KITTI raw, images as JPEG.

    It holds what the split lists call for. Started again, it goes on where it was.

    Examples:
        fadepth data prepare kitti --root /data/kitti_raw --output /fast/kitti
    """
    from fadepth.data.convert import prepare_kitti
    from fadepth.files import readable_bytes

    with progress_bar("prepare kitti") as progress:
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


def video(
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO...", help="Videos, or folders of images in driving order."),
    ],
    intrinsics: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="YAML or JSON with fx, fy, cx and cy in pixels of the video; one for all videos, "
            "or one for each in their order (may be repeated).",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the frames.")],
    every: Annotated[
        int, typer.Option(min=1, metavar="N", help="Take every Nth frame of a video.")
    ] = 1,
    size: Annotated[
        str | None,
        typer.Option(metavar="HEIGHTxWIDTH", help="Size of the frames, such as 192x640."),
    ] = None,
    width: Annotated[
        int,
        typer.Option(min=32, metavar="PIXELS", help="Width without --size; height in proportion."),
    ] = 640,
    crop: Annotated[
        str,
        typer.Option(metavar="TOP,BOTTOM", help="Rows of the video to cut off: sky and bonnet."),
    ] = "0,0",
    still: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Leave out targets that move less than this against a neighbour, in an image 416 "
            "pixels wide.",
        ),
    ] = 0.3,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A video that is not trained on (may be repeated); default: the last, or of a "
            "single video its last fifth.",
        ),
    ] = None,
    depth: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Holds a folder for each video that has depth: 16-bit PNGs, metres x 256.",
        ),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Write PNG in place of JPEG.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Videos at once; default: all processors."),
    ] = None,
) -> None:
    """Turn driving videos with known intrinsics into frames to train on.

    Frames are cropped and resized, and the intrinsics with them. Those in which the car stands are
    left out. Started again, videos that are finished are kept. config/own_video.yaml trains on it.

    Examples:
        fadepth data prepare video monday.mp4 tuesday.mp4 --intrinsics camera.yaml \
--output data/own_video --every 3 --crop 200,120
    """
    from fadepth.data.own_video import Choice, prepare_videos

    choice = Choice(every, parse_size(size) if size else None, width, _parse_crop(crop), still, png)
    with progress_bar("prepare video") as progress:
        done = prepare_videos(
            videos,
            intrinsics,
            output,
            choice,
            hold_out=hold_out or (),
            depth=depth,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
        )
    for clip in done.clips:
        print(
            f"{clip.drive}: {clip.picked} frames taken, {len(clip.targets)} targets, {clip.still} "
            f"left out as near-still; median motion {clip.motion:.2f}"
        )
    sizes = " and ".join(f"{height}x{width}" for height, width in done.sizes)
    print(
        f"{output} is complete: {done.frames['train']} training targets and "
        f"{done.frames['val']} held out, of {sizes}; {done.test_depths} test frames with depth"
    )
    if not done.test_depths:
        print("without depth networks can be trained, but not be compared with a truth")
    elif not done.train_depths:
        print("no training frame has depth: the baselines per row and pixel cannot be fitted")
    if output != OWN_VIDEO:
        where = shlex.quote(str(output))
        print(f"to train on it by config/own_video.yaml: export VIDEO_ROOT={where}")


def _parse_crop(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5}),(\d{1,5})", text)
    if not match:
        raise FadepthError(f"--crop is '{text}': write rows at the top and bottom, such as 40,120")
    return int(match[1]), int(match[2])


class _Prepare(Group):
    """`fadepth data prepare`."""

    order = ("kitti", "video")


prepare = typer.Typer(cls=_Prepare, no_args_is_help=True)


@prepare.callback()
def _prepare() -> None:
    """Copy KITTI, or make frames of your own videos.

    DDAD, Make3D and Cityscapes need no preparation: they are used as they lie.
    """


for command in (kitti, video):
    add_command(prepare, command, kept=PARTS_KEPT)
