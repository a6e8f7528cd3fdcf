"""The table of all benchmarks: ratios as they stand in the reports, aims judged both ways."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from fadepth.bench.summary import FILES, markdown, summarise
from fadepth.errors import FadepthError

MACHINE = {"processor": "Test", "cores": 2, "device": "cpu", "torch_threads": 1, "torch": "2",
           "python": "3", "numpy": "2"}  # fmt: skip


def ratio(median: float) -> dict[str, float]:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


def row(model: str, backend: str, ms: float, eager: float, same: float) -> dict[str, Any]:
    return {"model": model, "backend": backend, "precision": "fp32", "ratio": ratio(eager),
            "latency": {"median": ms}, "same": ratio(same)}  # fmt: skip


def spread(median: float) -> dict[str, float]:
    return {"median": median, "smallest": median, "largest": median}


def reports() -> dict[str, dict[str, Any]]:
    latency = {
        "rows": [
            row("smalldepth", "channels_last", 30, 0.2, 0.2),
            row("smalldepth-folded", "eager", 12, 0.12, 0.125),
            row("smalldepth-folded", "channels_last", 10, 0.09, 0.105),
            row("smalldepth-folded", "onnxruntime", 7, 0.065, 0.12),
            row("smalldepth-folded", "openvino", 6, 0.06, 0.11),
            {"model": "smalldepth-folded", "backend": "torchscript", "precision": "fp32",
             "latency": None, "ratio": None, "same": None},
        ],
        "costs": [{"model": "smalldepth-folded", "convolutions": 37}],
    }  # fmt: skip
    threads = copy.deepcopy(latency)
    parts = {"network": 0.6, "metrics": 0.4}
    return {
        "latency.json": latency,
        "latency_threads.json": {**threads, "machine": {**MACHINE, "torch_threads": 2}},
        "limits.json": {"limits": {"net": {"roofline": 3.0, "milliseconds": 6.0}}},
        "training.json": {
            "steps": {
                "monodepth2 style": {"speed_up": ratio(1)},
                "SmallDepth": {"speed_up": ratio(5)},
                "+ ETM + pyramid loss + APX": {"speed_up": ratio(0.8)},
            }
        },
        "evaluation.json": {"ratio": spread(3), "evaluation": {"shares": parts}},
        "loader.json": {"loading": [{"cache": "off", "workers": 0, "ratio": 4.0}]},
        "start_up.json": {
            "python": spread(0.02), "torch": spread(1.0), "help": spread(0.4),
            "commands": [{"command": "train", "seconds": spread(2.0)}],
            "snakemake": {"target": "reports/all", "jobs": 9, "start": spread(1.0),
                          "plan": spread(2.0), "each_job": spread(0.05)},
        },
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in reports().items():
        (tmp_path / name).write_text(json.dumps({"machine": MACHINE} | content))
    return tmp_path


def test_every_report_has_its_lines_and_aims_are_judged(folder: Path) -> None:
    found = {figure.what: figure for figure in summarise(folder).figures}

    def of(*words: str) -> Any:
        (name,) = [name for name in found if all(word in name for word in words)]
        return found[name]

    plain = of("both eager", "1 thread")
    assert (plain.value, plain.met) == ("0.125", False)
    assert of("both channels_last", "1 thread").met
    assert of("channels_last / eager", "1 thread").value == "0.090"
    best = of("openvino", "2 threads")  # the fastest that has a latency
    assert (best.value, best.interval, best.met) == ("0.060", "0.054 to 0.066", True)
    assert of("unfolded / folded", "1 thread").value == "3.0"
    assert of("kernels").value == "37"
    assert of("roofline").value == "0.50"
    assert of("SmallDepth / monodepth2 style").met
    everything = of("SmallDepth + ETM + pyramid loss + APX / monodepth2 style")
    assert (everything.value, everything.met) == ("0.80", False)
    assert of("share of evaluation: network").value == "0.60"
    assert of("loader").met
    help_ = of("--help")
    assert (help_.value, help_.met) == ("20.0", True)
    assert of("(train) / `import torch`").value == "2.0"
    assert of("Snakemake").value == "2.0"


def test_markdown_has_the_machine_and_one_line_each(folder: Path) -> None:
    summary = summarise(folder)
    text = markdown(summary)
    assert "Test · 2 cores" in text
    assert "latency_threads 2" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(summary.figures)
    assert all(line.count("|") == 6 for line in lines)


@pytest.mark.parametrize("name", FILES)
def test_a_report_that_is_absent_or_damaged_is_named(name: str, folder: Path) -> None:
    (folder / name).write_text("{}")
    with pytest.raises(FadepthError, match=rf"{name} lacks 'machine': .* {FILES[name]}"):
        summarise(folder)
    (folder / name).write_text(json.dumps({"machine": MACHINE}))
    with pytest.raises(FadepthError, match=rf"{name} lacks .* {FILES[name]}"):
        summarise(folder)
    (folder / name).unlink()
    with pytest.raises(FadepthError, match=rf"{name} does not exist: .* {FILES[name]}"):
        summarise(folder)
