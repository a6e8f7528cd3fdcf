"""A working folder for whole-workflow tests: the project's studies and presets, nothing else."""

from pathlib import Path

import pytest
from project import Project, make_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    """One folder for all tests of a module, which build on each other's results."""
    return make_project(tmp_path_factory.mktemp("project"), repository)
