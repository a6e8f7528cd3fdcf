"""`fadepth data check`: what is there, what is missing, and what to do."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fadepth.cli.common import Json, Workers, parse_size, progress_bar
from fadepth.cli.terminal import console, print_json
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from fadepth.data.archives import Archive
    from fadepth.data.check.inventory import Inventory
    from fadepth.data.check.report import Group, Report, Space

Name = Literal["kitti", "kitti_odometry", "ddad", "make3d", "cityscapes"]

SPLITS = Path("data/splits/eigen_zhou")
#: Height and width of the training images, as in config/kitti.yaml and config/ddad.yaml.
SIZES = {"kitti": "192x640", "ddad": "384x640"}
#: Options that only some data sets have.
_ONLY = {
    "--splits": ("kitti", "ddad"),
    "--list": ("kitti",),
    "--camera": ("ddad",),
    "--split": ("cityscapes",),
    "--raw-root": ("kitti_odometry",),
    "--size": ("kitti", "ddad"),
}
#: What the groups of a data set are.
_WORDS = {
    "kitti": "drives and days of calibration",
    "kitti_odometry": "sequences",
    "ddad": "scenes",
    "make3d": "folders",
    "cityscapes": "cities",
}
#: Runs of missing files told for each kind, and broken files in all; JSON has more.
_NAMED, _BROKEN = 4, 20


def check(
    name: Annotated[
        Name,
        typer.Argument(
            metavar="DATASET", help="kitti, kitti_odometry, ddad, make3d or cityscapes."
        ),
    ],
    root: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder that holds it.")],
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help=f"kitti: folder of the split lists, default: {SPLITS}; ddad: scene list, default: "
            "ddad.json in the root.",
        ),
    ] = None,
    more_lists: Annotated[
        list[Path] | None,
        typer.Option("--list", metavar="FILE", help="kitti: a further list; may be repeated."),
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="ddad: default: CAMERA_01; may be repeated."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="cityscapes: default: test.")
    ] = None,
    raw_root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="kitti_odometry: KITTI raw, for its images."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH", help="Size of training images, pixels, for the estimates."
        ),
    ] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Read every file to its end.")] = False,
    workers: Workers = None,
    archives: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the missing archives' URLs here, for wget -i."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what of a data set is there, missing or broken.

    And what to download, with disk and time. Exit code 0: complete; 1: something is missing or
    broken; 2: a wrong option or list.

    Examples:
        fadepth data check kitti --root /data/kitti_raw
        fadepth data check ddad --root /data/ddad_train_val --json
    """
    from fadepth.data.check.inventory import check_data

    given = {
        "--splits": splits, "--list": more_lists, "--camera": camera, "--split": split,
        "--raw-root": raw_root, "--size": size,
    }  # fmt: skip
    for option, value in given.items():
        if value and name not in _ONLY[option]:
            raise FadepthError(f"{option} is for {' and '.join(_ONLY[option])}, not for {name}")
    inventory: Inventory
    if name == "kitti":
        from fadepth.data.check.kitti import KittiInventory, read_lists

        lists = read_lists(splits or SPLITS, more_lists or [])
        inventory = KittiInventory(root, lists, parse_size(size or SIZES[name]))
    elif name == "kitti_odometry":
        from fadepth.data.check.kitti_odometry import OdometryInventory

        inventory = OdometryInventory(root, raw_root)
    elif name == "ddad":
        from fadepth.data.check.ddad import DdadInventory

        cameras = camera or ["CAMERA_01"]
        inventory = DdadInventory(root, splits, cameras, parse_size(size or SIZES[name]))
    elif name == "make3d":
        from fadepth.data.check.make3d import Make3dInventory

        inventory = Make3dInventory(root)
    else:
        from fadepth.data.check.cityscapes import CityscapesInventory

        inventory = CityscapesInventory(root, split or "test")
    with progress_bar(f"check {name}") as tell:
        threads, done = workers or os.cpu_count() or 1, itertools.count(1)
        report = check_data(
            inventory, decoded=decode, workers=threads,
            tell=lambda: tell(next(done), inventory.count),
        )  # fmt: skip
    if as_json:
        print_json(report.as_json())
    else:
        show(report)
    if archives is not None:
        write_urls(archives, report.archives)
    if not report.complete:
        raise typer.Exit(1)


def write_urls(path: Path, archives: Sequence["Archive"]) -> None:
    """Write one URL a line, of those that a tool can fetch; tell of the others.

    Raises:
        FadepthError: the file cannot be written.
    """
    from fadepth.files import told_when_unwritable, write_atomic

    urls = sorted({archive.url for archive in archives if not archive.login})
    with told_when_unwritable(path):
        write_atomic(path, "".join(f"{url}\n" for url in urls))
    left = sum(archive.login for archive in archives)
    by_hand = f"; {left} archives need a login and have to be fetched by hand" if left else ""
    typer.echo(f"{path} has {len(urls)} URLs{by_hand}", err=True)


# The report, for people


def show(report: "Report") -> None:
    """Print a report to stdout."""
    from rich.text import Text

    # Lines are not folded, so that URLs and paths can be copied.
    out = console(soft_wrap=True)
    if report.complete:
        verdict = Text("complete", "bold green")
    else:
        missing, broken = report.missing, len(report.broken)
        verdict = Text(f"NOT COMPLETE (files missing: {missing:,}, broken: {broken:,})", "bold red")
    out.print(Text(f"{report.dataset} in {report.root}: ") + verdict)
    out.print(
        "All files were read to their end." if report.decoded
        else "Of each file, size, start and end were looked at; --decode reads all of it."
    )  # fmt: skip
    sections = {
        "Asked for": _totals(report),
        "There": _groups(report),
        "Broken": _broken(report),
        "To download": _archives(report),
        "Disk and time": _space(report.space),
        "Notes": report.notes,
    }
    for title, lines in sections.items():
        if lines:
            out.print()
            out.print(Text(title, "bold"))
            for line in lines:
                out.print(Text(f"  {line}"))


def _totals(report: "Report") -> list[str]:
    lines = []
    width = max((len(total.name) for total in report.totals), default=0)
    for total in report.totals:
        counts = [
            f"{sound:,} of {needed:,} {what}" for what, (sound, needed) in total.counts.items()
        ]
        line = f"{total.name:{width}}  {', '.join(counts)}"
        if report.dataset == "kitti":
            which = (
                f"the published {total.published}" if total.published else "not a published list"
            )
            line += f" ({which})"
        lines.append(line)
    return lines


def _groups(report: "Report") -> list[str]:
    """One line for all that are complete, a row for each of the others."""
    from fadepth.data.check.walk import KINDS

    incomplete = [group for group in report.groups if not group.complete]
    lines = []
    if report.groups:
        complete, words = len(report.groups) - len(incomplete), _WORDS[report.dataset]
        lines.append(f"{complete:,} of {len(report.groups):,} {words} are complete")
    if not incomplete:
        return lines
    parts = [part for group in incomplete for part in group.parts]
    kinds = [kind for kind in KINDS if any(part.kind == kind for part in parts)]
    rows = [["incomplete", *kinds, "missing"]]
    for group in incomplete:
        counts = {part.kind: f"{part.present:,} of {part.needed:,}" for part in group.parts}
        name = group.name.rsplit("/", 1)[-1]
        rows.append([name, *(counts.get(kind, "") for kind in kinds), _missing(group)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _missing(group: "Group") -> str:
    """What a group lacks, in a few words."""
    broken = sum(len(part.broken) for part in group.parts)
    lacking = [part for part in group.parts if part.present < part.needed]
    if not any(part.present for part in group.parts):
        return "all"
    words = []
    for part in lacking:
        words.append(_names(part.missing) if part.present else f"all {part.kind}")
    return "; ".join([*words, *([f"{broken} broken"] if broken else [])])


def _names(missing: Sequence[str]) -> str:
    """The first runs of missing files, the name of their series only where it changes."""
    words, series = [], ""
    for run in missing[:_NAMED]:
        name, _, numbers = run.rpartition(" ")
        words.append(numbers if name and name == series else run)
        series = name
    return ", ".join([*words, *(["..."] if len(missing) > _NAMED else [])])


def _broken(report: "Report") -> list[str]:
    broken = report.broken
    lines = [f"{file.path} {file.reason}" for file in broken[:_BROKEN]]
    if len(broken) > _BROKEN:
        lines.append(f"... and {len(broken) - _BROKEN:,} more, which --json lists")
    return lines


def _archives(report: "Report") -> list[str]:
    lines = []
    by_folder: dict[str, list[Archive]] = {}
    for archive in report.archives:
        by_folder.setdefault(archive.folder, []).append(archive)
    for folder, archives in by_folder.items():
        count = "1 archive" if len(archives) == 1 else f"{len(archives)} archives"
        lines.append(f"{count}, to unpack in {folder}")
        notes: dict[str, list[str]] = {}
        for archive in archives:
            after = f"  {archive.name} ({archive.note})" if archive.login else ""
            lines.append(f"  {archive.url}{after}")
            if archive.note and not archive.login:
                notes.setdefault(archive.note, []).append(archive.name)
        lines += [f"  {', '.join(names)}: {note}" for note, names in notes.items()]
    if any(not archive.login for archive in report.archives):
        lines.append("(--archives FILE writes the URLs, for wget -i FILE)")
    return lines


def _space(space: "Space") -> list[str]:
    from fadepth.files import readable_bytes

    lines = [
        f"needed files that are there: {readable_bytes(space.used)}; "
        f"free on their disk: {readable_bytes(space.free)}"
    ]
    if space.copy is not None:
        time = (
            f"about {_duration(space.copy_seconds)}"
            if space.copy_seconds is not None
            else "those that are here are JPEG already and are taken as they are"
        )
        lines.append(
            f"'fadepth data prepare', {space.images:,} images as JPEG: about "
            f"{readable_bytes(space.copy)}, {time}"
        )
    if space.cache and space.size is not None:
        height, width = space.size
        time = f", about {_duration(space.cache_seconds)}" if space.cache_seconds else ""
        lines.append(
            f"cache of {space.cached_images:,} training images at {height}x{width}: "
            f"{readable_bytes(space.cache)}{time}"
        )
    if space.sample:
        lines.append(
            f"(estimated from {space.sample} of the images, with {space.workers} threads here)"
        )
    if (wanted := (space.copy or 0) + (space.cache or 0)) > space.free:
        lines.append(f"both together, {readable_bytes(wanted)}, do not fit on the disk of the root")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
