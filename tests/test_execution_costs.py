"""Rule `measure_costs`: whose costs, in what layout, beside which yardstick. Nothing on speed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fadepth.evaluation.complexity import count_macs, count_parameters
from fadepth.execution import costs
from fadepth.execution.costs import YARDSTICK, measure_costs
from fadepth.models import SmallDepth, fold
from fadepth.study import Study
from tests.report.fakes import study_of


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The content of the costs file of a study whose networks are all the same small one."""
    torch.manual_seed(0)
    network = SmallDepth(width=0.25).eval()
    seen: list[Path] = []

    def load(path: Path) -> tuple[nn.Module, None]:
        seen.append(path)
        return network, None

    monkeypatch.setattr(costs, "load_depth_network", load)
    monkeypatch.setattr(costs, "file_digest", lambda path: f"digest of {path.parent.name}")
    monkeypatch.setattr(costs, "ROUNDS", 6)

    def make(height: int, width: int) -> tuple[Study, dict[str, Any], nn.Module]:
        study = study_of("complexity", data__height=height, data__width=width)
        measure_costs(study, tmp_path / "runs", tmp_path / "costs.json", threads=1)
        runs = [row.runs[0].id for row in study.rows]
        assert seen == [tmp_path / "runs" / run / "model.pt" for run in runs]
        return study, json.loads((tmp_path / "costs.json").read_text()), network

    return make


def test_every_network_is_measured_folded_beside_the_yardstick(measured: Any) -> None:
    study, content, network = measured(64, 96)
    runs = [row.runs[0].id for row in study.rows]
    folded = fold(network)
    for run in runs:
        assert content["networks"][run] == {
            "parameters": count_parameters(folded),
            "macs": count_macs(folded, 64, 96),
            "model_sha256": f"digest of {run}",
        }
    assert list(content["networks"]) == runs
    assert content["yardstick"]["name"] == YARDSTICK
    assert content["yardstick"]["parameters"] == 14_329_236
    assert (content["layout"], content["precision"]) == ("channels_last", "float32")
    (device,) = content["devices"]
    assert (device["device"], device["threads"]) == ("cpu", 1)
    assert set(device["latency_ms"]) == {*runs, YARDSTICK}
    assert set(device["ratio"]) == set(runs)
    assert 0 <= device["clean_share"] <= 1
    for times in device["latency_ms"].values():
        assert 0 < times["p10"] <= times["median"] <= times["p90"]
        assert times["turns"] <= 6
    for ratio in device["ratio"].values():
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]


def test_no_yardstick_at_a_size_that_it_does_not_take(measured: Any) -> None:
    study, content, _ = measured(64, 104)
    assert content["yardstick"] is None
    (device,) = content["devices"]
    assert device["ratio"] == {}
    assert set(device["latency_ms"]) == {row.runs[0].id for row in study.rows}
