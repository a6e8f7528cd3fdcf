"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder that holds `kitti_mini/`, `ddad_mini/` and `splits/`; without it, tests skip."""
    folder = (ROOT / os.environ.get("FADEPTH_TEST_DATA", "../shared")).resolve()
    if not (folder / "kitti_mini").is_dir():
        pytest.skip(f"no kitti_mini in {folder}: set FADEPTH_TEST_DATA to the folder that holds it")
    return folder
