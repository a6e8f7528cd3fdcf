"""What rule `measure_costs` does: parameters, MACs and latency of a table's networks."""

import json
import logging
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fadepth.evaluation.complexity import count_macs, count_parameters
from fadepth.evaluation.latency import Turns, time_networks
from fadepth.execution.train import set_threads
from fadepth.files import write_atomic
from fadepth.models import fold
from fadepth.models.monodepth2 import Monodepth2
from fadepth.run import TRAINED, file_digest
from fadepth.study import Study
from fadepth.training import load_depth_network

log = logging.getLogger(__name__)

ROUNDS = 30

#: The yardstick's name, in files and tables.
YARDSTICK = "ResNet-18 U-Net"


def measure_costs(study: Study, runs: Path, output: Path, threads: int) -> None:
    """Costs of the first run of each row, all networks of the table in turn, on every device.

    Seeds of a row have the same network. Networks are folded and in channels_last, as for
    inference. Where it takes images of this size (multiples of 32), a ResNet-18 U-Net has its turns
    with them: times in terms of its own can be compared across machines, and with what others
    publish.
    """
    set_threads(threads)
    chosen = [row.runs[0] for row in study.rows if row.runs[0].kind in TRAINED]
    models = {run.id: runs / run.id / "model.pt" for run in chosen}
    networks = {name: fold(load_depth_network(model)[0]) for name, model in models.items()}
    height, width = study.config.data.height, study.config.data.width
    yardstick = _yardstick(height, width)
    content: dict[str, Any] = {
        "table": study.file.table,
        "height": height,
        "width": width,
        "batch": 1,
        "precision": "float32",
        "layout": "channels_last",
        "rounds": ROUNDS,
        "torch": torch.__version__,
        "networks": {
            name: {
                **_size(network, height, width),
                "model_sha256": file_digest(models[name]),
            }
            for name, network in networks.items()
        },
        "yardstick": None,
        "devices": [],
    }
    timed = dict(networks)
    if yardstick is not None:
        content["yardstick"] = {"name": YARDSTICK, **_size(yardstick, height, width)}
        timed[YARDSTICK] = yardstick
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        turns = time_networks(timed, height, width, torch.device(device), rounds=ROUNDS)
        content["devices"].append(_device(device, threads, turns))
    write_atomic(output, json.dumps(content, indent=1) + "\n")
    log.warning("costs of %d networks in %s", len(networks), output)


def _yardstick(height: int, width: int) -> nn.Module | None:
    """The U-Net; None for a size that it does not take, as another size would be no measure."""
    return Monodepth2().eval() if Monodepth2.takes(height, width) else None


def _size(network: nn.Module, height: int, width: int) -> dict[str, int]:
    return {
        "parameters": count_parameters(network),
        "macs": count_macs(network, height, width),
    }


def _device(device: str, threads: int, turns: Turns) -> dict[str, Any]:
    """Milliseconds of every network, and times in terms of the yardstick's."""
    gpu = device == "cuda"
    times = {name: turns.latency(name) for name in turns.by_name}
    others = [name for name in turns.by_name if name != YARDSTICK]
    ratios = {name: turns.ratio(name, YARDSTICK) for name in others if YARDSTICK in turns.by_name}
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if gpu else platform.processor() or "CPU",
        "threads": threads,
        "clean_share": None if gpu else turns.share,
        "latency_ms": {
            name: {"median": t.median, "p10": t.low, "p90": t.high, "turns": t.turns}
            for name, t in times.items()
        },
        "ratio": {
            name: {"median": r.median, "low": r.low, "high": r.high} for name, r in ratios.items()
        },
    }
