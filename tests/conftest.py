"""Fixtures shared by all tests."""

import os
import signal
from collections.abc import Iterator
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


def pytest_configure() -> None:
    """A script's background jobs ignore Ctrl-C, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured (`record_property("figure", ...)`): figures, no assertions."""
    lines = list(_figures(terminalreporter))
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def _figures(reporter: pytest.TerminalReporter) -> Iterator[str]:
    for reports in reporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                yield from (str(v) for name, v in report.user_properties if name == "figure")


#: Files that take minutes, longest first: begun last, they would leave all but one worker idle.
_LONGEST = (
    *("test_kills.py", "test_dag.py", "test_scale.py", "test_replanning.py", "test_slurm.py"),
    *("test_kubernetes.py", "test_documents.py", "test_survival.py", "test_hostile_names.py"),
    *("test_presets.py", "test_own_network.py", "test_stores.py", "test_cli.py", "test_site.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    order = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
