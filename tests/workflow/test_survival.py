"""A training that is killed ends with the same numbers as one that is not."""

import json
import re
import signal
import time
from pathlib import Path

import pytest
import torch
from project import Project

pytestmark = pytest.mark.slow

# Long enough to be hit in the middle, with a checkpoint every other step.
OVERRIDE = json.dumps({"training": {"epochs": 2, "steps_per_epoch": 15, "log_every": 4}})
FLAGS = ("--preset", "config/smoke.yaml", "--override", OVERRIDE)
STEPS = 30


@pytest.fixture(scope="module")
def run_id(project: Project) -> str:
    """The run that has every component but APX (which needs a teacher first)."""
    listed = project.fadepth("runs", *FLAGS).stdout
    found = re.search(r"etm_pyramid-s1-[0-9a-f]{10}", listed)
    assert found, listed
    return found.group()


@pytest.fixture(scope="module")
def manifest(project: Project) -> str:
    """Frames of the smoke preset."""
    result = project.fadepth("data", "manifest", "--output", "data/manifest.jsonl", *FLAGS)
    assert result.returncode == 0, result.stdout
    return "data/manifest.jsonl"


def _results(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    weights = torch.load(folder / "model.pt", weights_only=True)
    flat = {f"{net}/{key}": w for net in ("depth", "pose") for key, w in weights[net].items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return flat, [{k: v for k, v in line.items() if k != "time"} for line in lines]


def _train_until_killed(project: Project, run_id: str, manifest: str, number: int) -> int:
    """Start a training, send the signal once half of its steps are in a checkpoint."""
    folder = project.folder / "runs" / run_id
    process = project.start("train", run_id, "--manifest", manifest, *FLAGS)
    checkpoint = folder / "ckpt" / "last.pt"
    while process.poll() is None:
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            if state["resumed"]["step"] >= STEPS // 2:
                break
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_training_ends_with_the_same_numbers(
    project: Project, run_id: str, manifest: str, number: int
) -> None:
    folder = project.folder / "runs" / run_id
    arguments = ("train", run_id, "--manifest", manifest, *FLAGS)

    status = _train_until_killed(project, run_id, manifest, number)
    assert status != 0
    assert not (folder / "model.pt").exists()
    result = project.fadepth(*arguments)
    assert result.returncode == 0, result.stdout
    assert "resuming at step" in result.stdout
    killed = _results(folder)
    folder.rename(folder.with_name(f"killed-{number}"))

    undisturbed = project.folder / "runs" / "undisturbed"
    if not undisturbed.exists():
        assert project.fadepth(*arguments).returncode == 0
        folder.rename(undisturbed)
    weights, lines = _results(undisturbed)
    assert killed[0].keys() == weights.keys()
    assert all(torch.equal(killed[0][key], weights[key]) for key in weights)
    assert killed[1] == lines
    assert lines[-1]["step"] == STEPS


def test_checkpoint_of_other_settings_is_not_resumed(
    project: Project, run_id: str, manifest: str
) -> None:
    """A checkpoint in the folder of a run with another identity starts that run afresh."""
    source = project.folder / "runs" / "undisturbed" / "ckpt" / "last.pt"
    other = json.dumps(
        {"training": {"epochs": 1, "steps_per_epoch": 2}, "student": {"width": 0.25}}
    )
    flags = ("--preset", "config/smoke.yaml", "--override", other)
    found = re.search(r"etm_pyramid-s1-[0-9a-f]{10}", project.fadepth("runs", *flags).stdout)
    assert found and found.group() != run_id
    target = project.folder / "runs" / found.group() / "ckpt" / "last.pt"
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    result = project.fadepth("train", found.group(), "--manifest", manifest, *flags)
    assert result.returncode == 0, result.stdout
    assert "starting from step 0" in result.stdout
