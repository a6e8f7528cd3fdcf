"""Run folders as training and evaluation leave them, and what a store shows of them."""

import json
from itertools import product
from pathlib import Path

import yaml
from PIL import Image

from fadepth.tracking import open_store

METRICS = ["abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3"]
STEPS = 30
START = 1_790_000_000.0


def write_run(runs: Path, index: int, row: str, kind: str, factors: dict, **changes) -> str:
    """A run folder as training and evaluation leave it; `index` makes its numbers its own."""
    run_id = f"{row.lower().replace(' + ', '_').replace(' ', '-')}-{index:010x}"
    folder = runs / run_id
    (folder / "panels").mkdir(parents=True)
    started = START + 1000 * index
    manifest = {
        "run_id": run_id,
        "kind": kind,
        "row": row,
        "study": "ablation",
        "factors": factors,
        "seed": None if kind == "baseline" else 1,
        "scale": "quick",
        "dataset": "street",
        "status": "finished",
        "started": started,
        "ended": started + 600,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": index == 0,
        "data_hash": "d" * 12,
        "config_hash": f"{index:012x}",
        "code_hash": "c" * 12,
        "environment": {"python": "3.11", "torch": "2", "platform": "x", "threads": 1},
        "command": f"fadepth train {run_id}",
        "teacher": "hqdecv2-000" if factors.get("apx") == "on" else None,
        "parameters_inference": 0 if kind == "baseline" else 2_030_000 + 1000 * index,
        "parameters_training": 3_000_000,
    }
    seed = changes.pop("seed", manifest["seed"])
    manifest |= {"seed": seed, **changes}
    if manifest["status"] == "running":
        # Known at the end only.
        del manifest["parameters_inference"], manifest["parameters_training"]
    config = {
        "seed": seed,
        "training": {"epochs": 3},
        "loss": {"apx": {"enabled": factors.get("apx") == "on"}},
    }
    lines = [
        {
            "step": 10 * s,
            "epoch": s // 10,
            "time": started + 20 * s,
            "train/loss/total": 0.5 * 0.95**s + 0.01 * index,
            "train/loss/photometric": 0.4 * 0.95**s,
            "val/abs_rel": 0.4 * 0.98**s + 0.01 * index,
        }
        for s in range(STEPS if kind != "baseline" else 0)
    ]
    values = [0.14, 1.1, 5.3, 0.22, 0.81, 0.93, 0.97]
    scale = {"student": 1 - 0.02 * index, "teacher": 0.75, "baseline": 2.5}[kind]
    metrics = {
        name: value * scale if n < 4 else 1 - (1 - value) * scale
        for n, (name, value) in enumerate(zip(METRICS, values, strict=True))
    }
    evaluation = {
        "protocol": "synthetic_dense",
        "images": 128,
        "scale": "quick",
        "dataset": "street",
        "metrics": metrics,
        "parameters": 2_030_000,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "per_image.csv").write_text("drive,frame,abs_rel\nA,1,0.1\n")
    (folder / "model.pt").write_bytes(b"weights")
    if manifest["status"] == "finished":
        (folder / "metrics.json").write_text(json.dumps(evaluation))
        for frame in range(2):
            gradient = Image.linear_gradient("L").resize((312, 96)).rotate(90 * frame + 8 * index)
            strip = Image.new("RGB", (312, 288), (60 + 8 * index, 90, 120))
            strip.paste(Image.merge("RGB", [gradient] * 3), (0, 96))
            strip.save(folder / "panels" / f"frame_{frame}.png")
    return run_id


def write_study(runs: Path, seeds: tuple[int, ...] = (1,)) -> list[str]:
    """8 variants, a teacher, 3 baselines, in the table's order."""
    ids: list[str] = []
    for levels in product(["off", "on"], repeat=3):
        factors = dict(zip(["etm", "pyramid", "apx"], levels, strict=True))
        names = {"etm": "ETM", "pyramid": "PL", "apx": "APX"}
        row = " + ".join(names[n] for n, level in factors.items() if level == "on") or "Base"
        for seed in seeds:
            ids.append(write_run(runs, len(ids), row, "student", factors, seed=seed))
    ids.append(write_run(runs, len(ids), "HQDecv2", "teacher", {}))
    for row in ("Constant depth", "Mean depth map", "Vertical ramp"):
        ids.append(write_run(runs, len(ids), row, "baseline", {}))
    return ids


def change(folder: Path, name: str, **values) -> None:
    content = json.loads((folder / name).read_text())
    content.update(values)
    (folder / name).write_text(json.dumps(content))


def logged(store: str, experiment_id: str) -> dict[str, dict]:
    """All that a comparison shows, by fadepth's run id, without MLflow's own ids."""
    client = open_store(store)
    result = {}
    for run in client.search_runs([experiment_id], max_results=50000):
        run_id = run.data.tags["fadepth.run_id"]
        assert run_id not in result, "a run folder is in MLflow twice"
        keys = run.data.metrics
        history = {key: client.get_metric_history(run.info.run_id, key) for key in keys}
        artifacts = [a.path for a in client.list_artifacts(run.info.run_id)]
        panels = [a.path for a in client.list_artifacts(run.info.run_id, "panels")]
        result[run_id] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": run.data.tags,
            "history": {
                k: sorted((m.step, m.timestamp, m.value) for m in h) for k, h in history.items()
            },
            "artifacts": sorted(artifacts + panels),
            "mlflow_id": run.info.run_id,
        }
    return result


def without_ids(runs: dict[str, dict]) -> dict[str, dict]:
    """What two stores, or two copies of the same folders, have in common."""
    result = {}
    for run_id, run in runs.items():
        kept = {key: value for key, value in run.items() if key != "mlflow_id"}
        tags = {key: value for key, value in run["tags"].items() if key != "fadepth.state"}
        result[run_id] = kept | {"tags": tags}
    return result
