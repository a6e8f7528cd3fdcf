"""A study of one component, small enough to run several times in one test."""

from pathlib import Path
from typing import Any

import yaml
from project import Project

PRESET = "small.yaml"

SMALL_STUDY: dict[str, Any] = {
    "name": "small",
    "title": "One component",
    "table": "table_kitti",
    "design": "factorial",
    "baselines": ["constant"],
    "factors": {
        "apx": {
            "label": "APX",
            "levels": {"off": {"loss.apx.enabled": False}, "on": {"loss.apx.enabled": True}},
        },
    },
}


def make_small_project(folder: Path, repository: Path, **preset: Any) -> Project:
    """A project of one study; dotted settings go on top of the smoke preset."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ablations").mkdir()
    (folder / "ablations" / "small.yaml").write_text(yaml.safe_dump(SMALL_STUDY, sort_keys=False))
    smoke = yaml.safe_load((repository / "config" / "smoke.yaml").read_text())
    (folder / PRESET).write_text(yaml.safe_dump(smoke | preset))
    return Project(folder, repository)
