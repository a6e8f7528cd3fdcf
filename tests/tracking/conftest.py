"""A working folder with runs/ and an empty store."""

import shutil
from pathlib import Path

import pytest

from fadepth.tracking import track


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its schema: creating one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("store")
    track(folder, [], store=f"sqlite:///{folder}/mlflow.db", experiment="unused")
    assert {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}
    return folder / "mlflow.db"


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch):
    """A working directory with runs/ and a store; returns both and the run ids."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path / "runs", "sqlite:///mlflow.db"
