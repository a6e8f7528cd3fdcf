"""All benchmarks as one table of ratios, read from what `make bench` has written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fadepth.errors import FadepthError
from fadepth.report.results import read_json

#: Files of `make bench` below its folder, and the commands that write them.
FILES = {
    "latency.json": "fadepth bench latency",
    "latency_threads.json": "fadepth bench latency --threads 2",
    "limits.json": "fadepth bench limits",
    "training.json": "fadepth bench training",
    "evaluation.json": "fadepth bench evaluation",
    "loader.json": "fadepth bench loader",
    "start_up.json": "fadepth bench start-up",
}

YARDSTICK = "monodepth2 style"
EVERYTHING = "+ ETM + pyramid loss + APX"
FOLDED = "smalldepth-folded"


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: what is compared with what.
        value: of this run.
        interval: its 95 % interval or spread, where there is one.
        aim: what we want it to be, in words; empty where nothing is.
        met: whether it is; None without an aim.
    """

    what: str
    value: str
    interval: str = ""
    aim: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Summary:
    """The table, and what it was measured on."""

    heading: list[str]
    figures: list[Figure]


def summarise(folder: Path) -> Summary:
    """Read a folder of reports.

    Args:
        folder: with the files of `FILES`.

    Raises:
        FadepthError: a file is absent or is not what its command writes.
    """
    reports = {
        name: read_json(
            folder / name, ("machine",), f"write it with {command} --json {folder / name}"
        )
        for name, command in FILES.items()
    }
    figures: list[Figure] = []
    for name, lines in _LINES.items():
        try:
            figures += lines(reports[name])
        except (KeyError, StopIteration, TypeError, ZeroDivisionError) as error:
            raise FadepthError(
                f"{folder / name} lacks {error}: write it anew with {FILES[name]} --json"
            ) from None
    machine = reports["latency.json"]["machine"]
    versions = " · ".join(
        f"{key} {machine[key]}" for key in ("torch", "python", "numpy") if key in machine
    )
    threads = {name: r["machine"].get("torch_threads", 1) for name, r in reports.items()}
    heading = [
        f"{machine['processor']} · {machine['cores']} cores · {machine['device']} · {versions}",
        "threads: "
        + ", ".join(f"{name.removesuffix('.json')} {count}" for name, count in threads.items()),
    ]
    return Summary(heading, figures)


def _row(report: Mapping[str, Any], model: str, backend: str) -> Mapping[str, Any]:
    return next(
        row
        for row in report["rows"]
        if (row["model"], row["backend"], row["precision"]) == (model, backend, "fp32")
    )


def _interval(ratio: Mapping[str, Any], digits: int = 3) -> str:
    low, high = ratio["low"], ratio["high"]
    return "" if low is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _latency(report: Mapping[str, Any]) -> Iterator[Figure]:
    threads = report["machine"]["torch_threads"]
    place = f"{threads} thread" + ("s" if threads > 1 else "")
    plain, last = _row(report, FOLDED, "eager"), _row(report, FOLDED, "channels_last")
    pair = "folded SmallDepth / ResNet-18 U-Net"
    yield _below(f"latency, {pair}, both eager, {place}", plain["same"], 0.11)
    yield _below(f"latency, {pair}, both channels_last, {place}", last["same"], 0.11)
    yield Figure(
        f"latency, {pair}, channels_last / eager, {place}",
        f"{last['ratio']['median']:.3f}",
        _interval(last["ratio"]),
    )
    exported = [
        row
        for row in report["rows"]
        if row["model"] == FOLDED and row["precision"] == "fp32" and row["latency"]
        and row["backend"] in ("torchscript", "onnxruntime", "openvino")
    ]  # fmt: skip
    best = min(exported, key=lambda row: row["ratio"]["median"])
    yield _below(f"folded, {best['backend']} / U-Net, eager, {place}", best["ratio"], 0.07)
    unfolded = _row(report, "smalldepth", "channels_last")["latency"]["median"]
    yield Figure(
        f"SmallDepth unfolded / folded, channels_last, {place}",
        f"{unfolded / last['latency']['median']:.1f}",
    )
    if threads == 1:
        cost = next(cost for cost in report["costs"] if cost["model"] == FOLDED)
        count = cost["convolutions"]
        yield Figure("convolution kernels, folded", str(count), "", "45 at most", count <= 45)


def _below(what: str, ratio: Mapping[str, Any], most: float) -> Figure:
    value = ratio["median"]
    return Figure(what, f"{value:.3f}", _interval(ratio), f"{most} at most", value <= most)


def _limits(report: Mapping[str, Any]) -> Iterator[Figure]:
    for name, limit in report["limits"].items():
        share = limit["roofline"] / limit["milliseconds"]
        yield Figure(f"roofline / latency, {name}", f"{share:.2f}")


def _training(report: Mapping[str, Any]) -> Iterator[Figure]:
    aims = {"SmallDepth": 2.0, EVERYTHING: 1.0}
    for name, step in report["steps"].items():
        if name == YARDSTICK:
            continue
        ratio, aim = step["speed_up"], aims.get(name)
        title = name if name.startswith("SmallDepth") else f"SmallDepth {name}"
        yield Figure(
            f"training images/s, {title} / {YARDSTICK}",
            f"{ratio['median']:.2f}",
            _interval(ratio, 2),
            f"{aim:.0f} at least" if aim else "",
            ratio["median"] >= aim if aim else None,
        )


def _evaluation(report: Mapping[str, Any]) -> Iterator[Figure]:
    ratio, way = report["ratio"], report["evaluation"]
    yield Figure(
        "evaluation images/s, batches / one by one",
        f"{ratio['median']:.1f}",
        f"{ratio['smallest']:.1f} to {ratio['largest']:.1f}",
    )
    for part, share in way["shares"].items():
        yield Figure(f"share of evaluation: {part}", f"{share:.2f}")


def _loader(report: Mapping[str, Any]) -> Iterator[Figure]:
    best = max(report["loading"], key=lambda way: way["ratio"])
    yield Figure(
        f"loader images/s / training images/s (cache {best['cache']}, {best['workers']} processes)",
        f"{best['ratio']:.1f}",
        "",
        "1 at least",
        best["ratio"] >= 1,
    )


def _start_up(report: Mapping[str, Any]) -> Iterator[Figure]:
    python, help_ = report["python"]["median"], report["help"]["median"]
    yield Figure(
        "start of `fadepth --help` / `python -c pass`",
        f"{help_ / python:.1f}",
        f"{help_:.2f} s of CPU",
        "0.5 s at most",
        help_ <= 0.5,
    )
    slowest = max(report["commands"], key=lambda command: command["seconds"]["median"])
    torch = report["torch"]["median"]
    yield Figure(
        f"start of the slowest rule's command ({slowest['command']}) / `import torch`",
        f"{slowest['seconds']['median'] / torch:.1f}",
        f"{slowest['seconds']['median']:.2f} s of CPU",
    )
    snakemake = report["snakemake"]
    plan, each = snakemake["plan"]["median"], snakemake["each_job"]["median"]
    yield Figure(
        f"Snakemake: plan of {snakemake['target']}, {snakemake['jobs']} jobs / its start",
        f"{plan / snakemake['start']['median']:.1f}",
        f"{plan:.1f} s of CPU, and {each:.2f} s a job",
    )


_LINES: dict[str, Callable[[Mapping[str, Any]], Iterator[Figure]]] = {
    "latency.json": _latency,
    "latency_threads.json": _latency,
    "limits.json": _limits,
    "training.json": _training,
    "evaluation.json": _evaluation,
    "loader.json": _loader,
    "start_up.json": _start_up,
}


def markdown(summary: Summary) -> str:
    """The table for a document."""
    lines = [f"{line}\n" for line in summary.heading]
    lines += ["| ratio | value | interval | aim | |", "| --- | ---: | --- | --- | --- |"]
    signs = {None: "", True: "met", False: "**missed**"}
    for figure in summary.figures:
        cells = (figure.what, figure.value, figure.interval, figure.aim, signs[figure.met])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
