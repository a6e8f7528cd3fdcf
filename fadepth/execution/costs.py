"""What rule `measure_costs` does: parameters, MACs and latency of a table's networks."""

import json
import logging
import platform
from pathlib import Path
from typing import Any

import torch

from fadepth.evaluation.complexity import count_macs, count_parameters
from fadepth.evaluation.latency import measure_latencies
from fadepth.execution.train import set_threads
from fadepth.files import write_atomic
from fadepth.models import fold
from fadepth.run import TRAINED, file_digest
from fadepth.study import Study
from fadepth.training import load_depth_network

log = logging.getLogger(__name__)


def measure_costs(study: Study, runs: Path, output: Path, threads: int) -> None:
    """Costs of the first run of each row, all networks of the table in turn, on every device.

    Seeds of a row have the same network. Networks are folded, as for inference.
    """
    set_threads(threads)
    chosen = [row.runs[0] for row in study.rows if row.runs[0].kind in TRAINED]
    models = {run.id: runs / run.id / "model.pt" for run in chosen}
    networks = {name: fold(load_depth_network(model)[0]) for name, model in models.items()}
    height, width = study.config.data.height, study.config.data.width
    content: dict[str, Any] = {
        "table": study.file.table,
        "height": height,
        "width": width,
        "batch": 1,
        "precision": "float32",
        "torch": torch.__version__,
        "networks": {
            name: {
                "parameters": count_parameters(network),
                "macs": count_macs(network, height, width),
                "model_sha256": file_digest(models[name]),
            }
            for name, network in networks.items()
        },
        "devices": [],
    }
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        times = measure_latencies(networks, height, width, torch.device(device))
        gpu = device == "cuda"
        content["devices"].append(
            {
                "device": device,
                "name": torch.cuda.get_device_name() if gpu else platform.processor() or "CPU",
                "threads": threads,
                "latency_ms": {
                    name: {"median": t.median, "p10": t.low, "p90": t.high}
                    for name, t in times.items()
                },
            }
        )
    write_atomic(output, json.dumps(content, indent=1) + "\n")
    log.warning("costs of %d networks in %s", len(networks), output)
