"""`fadepth bench latency`: which network is faster, on which backend."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fadepth.cli import completing
from fadepth.cli.common import RUNS, JsonFile, Size, Threads, log, parse_size, set_up_logging
from fadepth.cli.terminal import Report
from fadepth.errors import FadepthError

if TYPE_CHECKING:
    from rich.table import Table

    from fadepth.bench.backends import Task
    from fadepth.bench.latency import LatencyReport, Row
    from fadepth.bench.models import Candidate
    from fadepth.evaluation.latency import Ratio

BACKENDS = "eager,channels_last,torchscript,onnxruntime,openvino"
CALIBRATION_FRAMES = 8


def latency(
    size: Size = "192x640",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images of one call.")] = 1,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help="Networks of this package; '' for none; default: smalldepth, smalldepth-folded, "
            "monodepth2, and hqdecv2 without the backends that need its export.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]MODULE:FACTORY",
            help="Anybody's network, such as mine=package.module:factory; may be repeated.",
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN_ID",
            autocompletion=completing.run_ids,
            help="A trained run, folded; may be repeated.",
        ),
    ] = None,
    backends: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME,...",
            show_default=False,
            help=f"Default: {BACKENDS.replace(',', ', ')}; there are also compile and cudagraphs.",
        ),
    ] = BACKENDS,
    precisions: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Of fp32, bf16 and int8.")
    ] = "fp32",
    reference: Annotated[
        str, typer.Option(metavar="NAME", help="Network that ratios are of.")
    ] = "monodepth2",
    rounds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Turns of every network and backend.")
    ] = 30,
    settle: Annotated[
        int, typer.Option(min=0, metavar="N", help="Uncounted calls before each counted one.")
    ] = 1,
    images: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Images to run on; default: the synthetic street."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to compute.")] = "cpu",
    threads: Threads = 1,
    output: JsonFile = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw the ratios, .png; a .pdf lies beside it."),
    ] = None,
    read: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure nothing: show a file that --json wrote."),
    ] = None,
) -> None:
    """Compare how fast networks predict, by backend.

    As ratios to a ResNet-18 U-Net in the same round, median with its interval.

    Examples:
        fadepth bench latency
        fadepth bench latency --run RUN_ID --backends eager,openvino
        fadepth bench latency --model mine=package.module:factory --json mine.json
    """
    from fadepth.bench.backends import BACKENDS, PRECISIONS
    from fadepth.bench.latency import Budget, measure_latency, read_report, unsupported

    set_up_logging("bench latency", None)
    if plot and plot.suffix != ".png":
        raise FadepthError(f"--plot is {plot}: it must end in .png")
    if read:
        report = read_report(read)
    else:
        chosen = _words("--backends", backends, tuple(BACKENDS))
        types = _words("--precisions", precisions, PRECISIONS)
        for precision, lacking in unsupported(chosen, types).items():
            log.warning("%s: not in %s", precision, ", ".join(lacking))
        report = measure_latency(
            _candidates(models, model or [], run or [], reference),
            _task(parse_size(size), batch, images, "int8" in types, device, threads),
            reference=reference,
            backends=chosen,
            precisions=types,
            budget=Budget(rounds, settle=settle),
            tell=log.info,
        )
    told = Report(output)
    told.print(*heading(report), cost_table(report), latency_table(report), *problems(report))
    told.write(json.loads(report.json()))
    if plot:
        _draw(report, plot)
        log.warning("figure written: %s (also .pdf)", plot)


def _words(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not set(words) <= set(known) or len(set(words)) != len(words):
        raise FadepthError(f"{option} is '{text}': write some of {','.join(known)}, each once")
    return words


def _candidates(
    models: str | None, imported: list[str], runs: list[str], reference: str
) -> "list[Candidate]":
    from fadepth.bench.models import (
        MODELS,
        distinct,
        imported_network,
        network_of_run,
        own_network,
    )

    text = ",".join(MODELS) if models is None else models
    specs = [word.strip() for word in text.split(",") if word.strip()]
    if reference.partition(":")[0] in MODELS and reference not in specs:
        specs.append(reference)
    # Its export takes many minutes, which only those wait for who ask for it by name.
    found = [
        replace(own_network(spec), export=models is not None or spec != "hqdecv2") for spec in specs
    ]
    found += [network_of_run(run_id, RUNS) for run_id in runs]
    found += [imported_network(spec) for spec in imported]
    if reference not in {candidate.name for candidate in found}:
        names = ", ".join(candidate.name for candidate in found)
        raise FadepthError(f"--reference is '{reference}': use a network that is timed ({names})")
    return distinct(found)


def _task(
    size: tuple[int, int],
    batch: int,
    folder: Path | None,
    calibrate: bool,
    device: str,
    threads: int,
) -> "Task":
    """Batches of images, the first to be timed, the others to choose the scales of int8."""
    import torch

    from fadepth.bench.backends import Task
    from fadepth.bench.models import images_of, street_frames

    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise FadepthError(f"--device is '{device}': use cpu, or cuda where torch finds a GPU")
    torch.set_num_threads(threads)
    count = batch + (CALIBRATION_FRAMES + -CALIBRATION_FRAMES % batch if calibrate else 0)
    frames = images_of(folder, count, *size) if folder else street_frames(count, *size)
    first, *others = frames.split(batch)
    return Task(first, others, torch.device(device), threads)


def heading(report: "LatencyReport") -> list[str]:
    """Machine, task, and how to read the tables."""
    machine, task = report.machine, report.task
    height, width = task["size"]
    versions = [f"torch {machine['torch']}"] + [
        f"{name} {machine[name]}" for name in ("onnxruntime", "openvino") if machine.get(name)
    ]
    where = machine["device"] if task["device"].startswith("cuda") else "cpu"
    quiet = ""
    if task["clean_share"] is not None:
        quiet = f" · {task['clean_share']:.0%} of turns undisturbed"
    return [
        f"{machine['processor']} · {machine['cores']} cores · {where} · "
        f"{task['threads']} thread(s) for every backend · Python {machine['python']} · "
        + " · ".join(versions),
        f"{height}x{width} · batches of {task['batch']} · {task['rounds']} rounds in turns after "
        f"{task['warm_up']} to warm up, {task['settle']} uncounted call(s) before each counted one"
        + quiet,
        f"Ratio: time over that of {task['reference']} in the same round, median [95 % interval]; "
        "'eager' is its form in eager PyTorch, float32, plain layout; 'alike' that on the same "
        "backend in the same type.",
        "Difference: largest of the disparity, in (0, 1), to eager float32 on the same images. "
        "Untrained networks' weights are random: it tells whether a backend computes the same.",
    ]


def cost_table(report: "LatencyReport") -> "Table":
    """What the networks are."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="networks, for one image in eager PyTorch")
    table.add_column("network")
    for column in ("parameters", "GMAC", "convolutions", "all kernels"):
        table.add_column(column, justify="right")
    for cost in report.costs:
        table.add_row(
            escape(cost.model), f"{cost.parameters:,}", f"{cost.macs / 1e9:.3f}",
            str(cost.convolutions), str(cost.launches),
        )  # fmt: skip
    return table


def latency_table(report: "LatencyReport") -> "Table":
    """How long they take."""
    from rich.markup import escape
    from rich.table import Table

    name = report.task["reference"]
    table = Table(title="latency")
    for column in ("network", "backend", "type"):
        table.add_column(column)
    columns = ("ms (p10 to p90)", "FPS", f"× {name}, eager", "× alike", "difference")
    for column in columns:
        table.add_column(column, justify="right")
    before = None
    for row in report.rows:
        if before not in (None, row.model):
            table.add_section()
        table.add_row("" if before == row.model else escape(row.model), *_cells(row))
        before = row.model
    return table


def _cells(row: "Row") -> list[str]:
    cells = [row.backend, row.precision]
    if row.latency is None or row.fps is None:
        return [*cells, (row.problem or "").partition(":")[0], "", "", "", ""]
    time = row.latency
    return [
        *cells,
        f"{time.median:.1f} ({time.low:.1f} to {time.high:.1f})",
        f"{row.fps:.1f}",
        ratio_text(row.ratio),
        "—" if row.same is None else f"{row.same.median:.3f}",
        f"{row.difference:.1e}",
    ]


def ratio_text(ratio: "Ratio | None") -> str:
    """Median and interval, `0.107 [0.105, 0.110]`."""
    if ratio is None:
        return "—"
    text = f"{ratio.median:.3f}"
    if ratio.low is None or ratio.high is None:
        return text
    return f"{text} [{ratio.low:.3f}, {ratio.high:.3f}]"


def problems(report: "LatencyReport") -> list[str]:
    """A line for each network and backend without a latency."""
    return [
        f"{row.model}, {row.backend}, {row.precision}: {row.problem}"
        for row in report.rows
        if row.problem
    ]


def _draw(report: "LatencyReport", path: Path) -> None:
    from fadepth.report.latency_figure import RatioLine, draw_ratios

    task = report.task
    height, width = task["size"]
    lines = [
        RatioLine(
            row.model, row.backend, row.precision, row.ratio.median, row.ratio.low, row.ratio.high,
            row.latency.median,
        )
        for row in report.rows
        if row.ratio is not None and row.latency is not None
    ]  # fmt: skip
    if not lines:
        raise FadepthError("no network has a latency: there is nothing to draw")
    draw_ratios(
        path,
        lines,
        title=f"Latency in terms of {task['reference']}, {height}×{width}, batch {task['batch']}",
        axis=f"time over that of {task['reference']} (eager, fp32) in the same round; "
        "left is faster",
        foot="; ".join(heading(report)[:2]).replace(" · ", "; "),
    )
