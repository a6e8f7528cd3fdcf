"""A working folder for whole-workflow tests: the project's studies and presets, nothing else."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from project import Project, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    """One folder for all tests of a module, which build on each other's results."""
    return make_project(tmp_path_factory.mktemp("project"), repository)


@pytest.fixture(scope="session")
def finished_smoke(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    """All reports at smoke scale, made once for all of pytest's processes: copy it, then change."""
    # Each process of pytest-xdist has a folder of its own in a common one.
    common = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        common = common.parent
    folder = common / "finished_smoke"
    with FileLock(common / "finished_smoke.lock"):
        if not folder.exists():
            unfinished = common / "unfinished_smoke"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            project = make_project(unfinished, repository)
            result = project.snakemake("reports/all", "--configfile", "config/smoke.yaml")
            assert result.returncode == 0, result.stdout[-3000:]
            unfinished.rename(folder)
    return Project(folder, repository)
