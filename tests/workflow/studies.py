"""A study of two short trainings, for tests of other executors; what a dry run says; results."""

import re
from hashlib import sha256
from pathlib import Path

import torch
from project import Project

STUDY = """\
name: cluster
title: Two rows
table: table_cluster
design: explicit
columns: [metrics{columns}]
baselines: []
rows:
  - label: plain
  - label: border
    settings: {{loss.border: 2}}
"""
TABLE = "reports/table_cluster.csv"

# Long enough to be stopped in the first epoch, where nothing but a stopped training saves.
SETTINGS = "training={steps_per_epoch: 50, checkpoint_every: 1000}"
PRESET = ("--configfile", "config/smoke.yaml", "--config", SETTINGS)
EARLY, EPOCH = 16, 50


def make_two_rows(folder: Path, repository: Path, columns: str = "") -> Project:
    """A project whose only study has two rows, `plain` and `border`."""
    (folder / "ablations").mkdir(parents=True)
    (folder / "config").symlink_to(repository / "config")
    study = STUDY.format(columns=columns and f", {columns}")
    (folder / "ablations" / "cluster.yaml").write_text(study, encoding="utf-8")
    return Project(folder, repository)


def planned(output: str, rule: str) -> list[str]:
    """The blocks of a dry run's output that tell of a rule's jobs."""
    return re.findall(rf"^(?:local)?rule {rule}:\n(?: .*\n)+", output, flags=re.MULTILINE)


def weights(project: Path) -> dict[str, dict[str, str]]:
    """Run id -> tensor's name -> hash of its values, for every trained network of a project."""
    found = {}
    for model in sorted(project.glob("runs/*/model.pt")):
        saved = torch.load(model, weights_only=True)
        found[model.parent.name] = {
            f"{network}.{key}": sha256(tensor.numpy().tobytes()).hexdigest()
            for network in ("depth", "pose")
            for key, tensor in saved[network].items()
        }
    return found
