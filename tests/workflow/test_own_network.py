"""A user's own network in the plan: its formula trains its rows again, and nothing else does.

Runs are only pretended (`pretend.py`); what is tested is which of them Snakemake would train again.
"""

from pathlib import Path

import pytest
from pretend import planned, planned_runs, pretend_finished
from project import Project

from tests.documents import blocks

pytestmark = pytest.mark.slow

SMOKE = ("reports/table_mynet.csv", "--configfile", "config/smoke.yaml")


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Project:
    """A folder with the two files of the how-to page."""
    (tmp_path / "config").symlink_to(repository / "config")
    (tmp_path / "ablations").mkdir()
    for block in blocks((repository / "docs/how-to/your-own-network.md").read_text()):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
    return Project(tmp_path, repository)


def test_its_formula_trains_its_rows_again_and_a_comment_none(project: Project) -> None:
    module = project.folder / "mynet.py"
    source = module.read_text()
    pretend_finished(project, *SMOKE)
    module.write_text("# a comment\n" + source)
    assert planned(project, *SMOKE) == {}
    changed = source.replace("nn.ELU()", "nn.ReLU()")
    assert changed != source
    module.write_text(changed)
    assert {run.rsplit("-", 2)[0] for run in planned_runs(project, *SMOKE)} == {
        "network_mynet_unet",
        "apx_network_mynet_unet",
        "network_mynet_unet_pyramid",
        "arg_width_32_network_mynet_unet",
    }
    module.unlink()
    told = project.snakemake("--dry-run", *SMOKE)
    assert told.returncode
    assert "student.network is 'mynet:UNet', but there is no mynet.py in" in told.stdout
    assert "Traceback" not in told.stdout
