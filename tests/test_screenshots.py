"""The pictures of MLflow in the docs: of the installed version, and of pages that show a study."""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from fadepth.report.small_png import LIMIT
from fadepth.tracking import study_links, track
from tests.tracking.fakes import METRICS, write_study
from tests.tracking.servers import free_port, mlflow_server


def test_committed_pictures_are_of_the_installed_mlflow(repository: Path) -> None:
    folder = repository / "docs" / "screenshots"
    record = json.loads((folder / "versions.json").read_text())
    assert record["mlflow"] == importlib.metadata.version("mlflow"), (
        "docs/screenshots/ shows another MLflow than is installed: read docs/mlflow.md beside the "
        "new one, then make screenshots"
    )
    assert record["experiment"].startswith("components-")
    text = (repository / "docs" / "mlflow.md").read_text()
    assert f"MLflow {record['mlflow']}" in text
    assert set(re.findall(r"\(screenshots/(\S+\.png)\)", text)) == set(record["pictures"])
    assert {path.name for path in folder.glob("*.png")} == set(record["pictures"])
    for name, sha in record["pictures"].items():
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha, f"{name} is not what the script wrote"
        assert len(content) <= LIMIT
        with Image.open(folder / name) as image:
            assert image.size == (1440, 900)


# ------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def screenshots(repository: Path) -> ModuleType:
    """docs/screenshots.py; skips where there is no browser."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no playwright: pip install playwright")
    spec = importlib.util.spec_from_file_location(
        "screenshots", repository / "docs" / "screenshots.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules["screenshots"] = module
    spec.loader.exec_module(module)
    if module.find_browser() is None:
        pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
    return module


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory, screenshots: ModuleType) -> Iterator[object]:
    """A study of two seeds in a server of its own."""
    folder = tmp_path_factory.mktemp("pages")
    port = free_port()
    ids = write_study(folder / "runs", (1, 2))
    store = f"sqlite:///{folder}/mlflow.db"
    track(folder / "runs", ids, store=store, experiment="components-street-quick")
    # The server that `fadepth ui` starts is tests/test_ui.py's affair.
    with mlflow_server(folder, port) as base:
        (found,) = study_links(store, base).values()
        yield screenshots.Links("components-street-quick", found.charts, found.table, found.compare)


@pytest.mark.slow
def test_pages_show_what_the_docs_say(screenshots: ModuleType, links: object) -> None:
    """Rows, factors and metrics in the DOM; groups, order and filter do what they should."""
    with screenshots.browser() as browser:
        shots = screenshots.shoot(browser, links, "apx")
        assert set(shots) == {
            f"{n}.png" for n in ("table", "groups", "charts", "panels", "compare")
        }
        words = {name: shot.words.splitlines() for name, shot in shots.items()}
        table = words["table.png"]
        for label in ("Base · seed 1", "ETM + PL + APX · seed 2"):
            assert label in table
        assert {"etm", "pyramid", "apx", "seed", *(f"test/{m}" for m in METRICS)} <= {*table}
        assert "Sort: test/abs_rel" in table
        # Only variants; of these the best is first (fakes: the later the better).
        assert "HQDecv2" not in table
        assert table.index("ETM + PL + APX · seed 2") < table.index("Base · seed 1")
        groups = words["groups.png"]
        assert {"Group: on", "Group: off", "Group by: apx"} <= {*groups}
        # 0.14 (1 - 0.02 i), averaged over those runs i that have APX.
        assert "0.1162 (average)" in groups
        charts = words["charts.png"]
        assert {"HQDecv2", "Constant depth", "test/abs_rel", "test/rmse"} <= {*charts}
        assert {"panels/frame_0", "ETM + PL + APX · seed 2"} <= {*words["panels.png"]}
        compare = words["compare.png"]
        assert "Comparing 16 Runs from 1 Experiment" in compare
        assert {"Base · seed 1", "Show diff only"} <= {*compare}
        filtered = screenshots.shoot_filtered(browser, links, "params.apx = 'on'").words
        assert "APX · seed 1" in filtered
        assert "Base · seed 1" not in filtered
        assert "Sort: seed" in filtered
    for name, shot in shots.items():
        assert shot.png.startswith(b"\x89PNG"), name
