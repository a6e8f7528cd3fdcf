"""What is trained again after a change, and what is not: each trap of an ablation tool.

The project is the real one, with a copy of the code that the tests edit. Its runs are only
pretended (`pretend.py`); what is tested is which of them Snakemake would train again.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretend import copy_checkout, outputs_on_record, planned, planned_runs, pretend_finished
from project import Project, make_project

pytestmark = pytest.mark.slow

TABLE = "reports/table_ablation.csv"
SMOKE = (TABLE, "--configfile", "config/smoke.yaml")
APX = {"apx", "apx_etm", "apx_pyramid", "apx_etm_pyramid"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    """The ablation study at smoke scale, all done."""
    folder = tmp_path_factory.mktemp("replanning")
    checkout = copy_checkout(repository, folder / "checkout")
    (folder / "work").mkdir()
    project = make_project(folder / "work", checkout)
    pretend_finished(project, *SMOKE)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of it, for one test's changes."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(finished.repository, tmp_path / "checkout", ignore=skip)
    shutil.copytree(finished.folder, tmp_path / "work", symlinks=True)
    for name in ("config", "ablations"):
        (tmp_path / "work" / name).unlink()
    return make_project(tmp_path / "work", tmp_path / "checkout")


def edit(project: Project, module: str, change: Callable[[str], str]) -> None:
    path = project.repository / module
    before = path.read_text()
    after = change(before)
    assert after != before, f"the test's edit of {module} finds nothing to change"
    path.write_text(after)


def trainings(plan: dict[str, int]) -> int:
    return plan.get("train_student", 0) + plan.get("train_teacher", 0)


def slugs(runs: set[str]) -> set[str]:
    return {run.rsplit("-", 2)[0] for run in runs}


def test_nothing_is_planned_after_nothing_has_changed(project: Project) -> None:
    assert planned(project, *SMOKE) == {}


def write_rows(project: Project, rows: list[dict[str, Any]]) -> None:
    study = {
        "name": "views", "title": "Altered views", "table": "table_views", "design": "explicit",
        "baselines": [], "rows": rows,
    }  # fmt: skip
    (project.repository / "ablations" / "views.yaml").write_text(yaml.safe_dump(study))


def test_two_swapped_switches_train_exactly_their_two_runs(project: Project) -> None:
    """Snakemake compares the values of params without their names: {on, off} = {off, on}."""
    target = (
        *("reports/table_views.csv", "--configfile", "config/smoke.yaml"),
        *("--config", "seeds=[1,2]"),
    )

    def rows(flip: bool, jitter: bool) -> list[dict[str, Any]]:
        on = {"loss.pyramid.enabled": True}
        return [
            {"label": "both", "settings": on},
            {
                "label": "one of them",
                "settings": on | {"loss.pyramid.flip": flip, "loss.pyramid.jitter": jitter},
            },
        ]

    write_rows(project, rows(flip=True, jitter=False))
    pretend_finished(project, *target)
    assert planned(project, *target) == {}
    before = outputs_on_record(project.folder)
    write_rows(project, rows(flip=False, jitter=True))
    runs = planned_runs(project, *target)
    assert len(runs) == 2
    assert {run.rsplit("-", 2)[1] for run in runs} == {"s1", "s2"}
    assert not {f"runs/{run}/model.pt" for run in runs} & {str(path) for path in before}
    assert planned(project, *target)["train_student"] == 2


def test_a_new_setting_at_its_neutral_default_trains_nothing(project: Project) -> None:
    edit(
        project,
        "fadepth/config.py",
        lambda text: text.replace(
            "    automask: bool =", "    sharper: bool = False\n    automask: bool ="
        ),
    )
    assert trainings(planned(project, *SMOKE)) == 0


def test_a_new_factor_trains_its_own_rows_alone(project: Project) -> None:
    """The eight rows at its plain level are the eight that there were."""

    def with_border(text: str) -> str:
        content = yaml.safe_load(text)
        levels = {"none": {}, "two": {"loss.border": 2}}
        content["factors"]["border"] = {"label": "border", "levels": levels}
        return yaml.safe_dump(content, sort_keys=False)

    edit(project, "ablations/components.yaml", with_border)
    runs = planned_runs(project, *SMOKE)
    assert len(runs) == 8
    assert all("border_2" in slug for slug in slugs(runs))


def test_comments_in_losses_train_nothing(project: Project) -> None:
    for module in ("losses/apx.py", "losses/photometric.py", "training.py"):
        edit(project, f"fadepth/{module}", lambda text: text + "\n# A thought.\n")
    assert planned(project, *SMOKE) == {}


def test_another_formula_of_a_loss_trains_exactly_the_runs_that_use_it(project: Project) -> None:
    edit(project, "fadepth/losses/apx.py", lambda text: text + "\nNEW_TERM = 0.25\n")
    assert slugs(planned_runs(project, *SMOKE)) == APX
    plan = planned(project, *SMOKE)
    assert (plan["train_student"], plan["evaluate_run"]) == (4, 4)
    assert "train_teacher" not in plan


def test_a_formula_that_all_use_trains_all(project: Project) -> None:
    edit(project, "fadepth/losses/photometric.py", lambda text: text + "\nNEW_TERM = 0.25\n")
    assert planned(project, *SMOKE)["train_student"] == 8


def test_plots_train_and_evaluate_nothing(project: Project) -> None:
    for module in ("pareto_figure", "figure_style", "study_table"):
        path = f"fadepth/report/{module}.py"
        edit(project, path, lambda text: text + "\nNEW_COLOUR = 'red'\n")
    assert planned(project, *SMOKE).keys() <= {"render_table"}


def test_touched_code_settings_and_studies_change_nothing(project: Project) -> None:
    for path in project.repository.rglob("*"):
        os.utime(path)
    assert planned(project, *SMOKE) == {}


def test_the_text_of_a_rule_trains_nothing(project: Project) -> None:
    """What a rule's command does is in params; where it logs to, or a space, is not."""
    edit(project, "workflow/rules/train.smk", lambda text: text.replace("train {", "train  {"))
    assert trainings(planned(project, *SMOKE)) == 0


def test_words_of_a_study_train_nothing(project: Project) -> None:
    edit(project, "ablations/components.yaml", lambda text: "# Why.\n" + text.replace("APX", "apx"))
    assert trainings(planned(project, *SMOKE)) == 0


def test_studies_and_presets_are_inputs_of_no_training(finished: Project) -> None:
    records = finished.folder / ".snakemake" / "metadata"
    seen = 0
    for path in records.rglob("*"):
        if not path.is_file():
            continue
        record = json.loads(path.read_text())
        if record["rule"] in ("train_student", "train_teacher", "predict_teacher"):
            seen += 1
            assert record["input"]
            found = [name for name in record["input"] if not re.match(r"(data|runs)/", name)]
            assert found == []
    assert seen == 8 + 1 + 2


# Images


@pytest.fixture
def with_data(project: Project) -> tuple[Project, Path]:
    """The project with its images really there, checked, beside a second data set."""
    arguments = ("--configfile", "config/smoke.yaml")
    folders = []
    for table in ("table_ablation", "table_ddad"):
        target = f"reports/{table}.csv"
        result = project.snakemake(target, "--until", "prepare_data", "--forcerun",
                                   "prepare_data", *arguments)  # fmt: skip
        assert result.returncode == 0, result.stdout[-2000:]
    manifests = sorted((project.folder / "data").glob("*/manifest.jsonl"))
    folders = [path.parent.name for path in manifests]
    assert len(folders) == 2
    both = (TABLE, "reports/table_ddad.csv", *arguments)
    pretend_finished(project, *both)
    street = next(path.parent for path in manifests if "street-" in path.parent.name)
    root = project.folder / "data" / "synthetic_street" / street.name.rpartition("-")[2]
    return project, root


BOTH = (TABLE, "reports/table_ddad.csv", "--configfile", "config/smoke.yaml")


def images(root: Path) -> list[Path]:
    found = sorted(path for path in root.rglob("*") if path.suffix in (".png", ".jpg"))
    assert found
    return found


def test_touched_images_change_nothing(with_data: tuple[Project, Path]) -> None:
    project, root = with_data
    assert planned(project, *BOTH) == {}
    for path in images(root):
        os.utime(path)
    assert planned(project, *BOTH) == {}


def test_a_changed_image_plans_what_depends_on_it_and_nothing_else(
    with_data: tuple[Project, Path],
) -> None:
    project, root = with_data
    image = images(root)[0]
    image.write_bytes(image.read_bytes() + b"\0")
    plan = planned(project, *BOTH)
    assert plan["prepare_data"] == 1
    assert plan["train_student"] == 8
    assert plan["render_table"] == 1, "the table of the other data set stays"
    verified = project.fadepth(
        "data", "verify", f"data/synthetic_street-{root.name}/manifest.jsonl"
    )
    assert f"changed or absent: {image.relative_to(root)}" in verified.stdout
    image.unlink()
    assert planned(project, *BOTH)["train_student"] == 8


def test_images_that_were_copied_are_verified_once(with_data: tuple[Project, Path]) -> None:
    """More than a plan may read: a sentence says what to call, and that settles it."""
    project, root = with_data
    for path in images(root):
        os.utime(path)
    edit(project, "fadepth/data/watch.py", lambda text: text.replace("256 * 10**6", "1000"))
    refused = project.snakemake("--dry-run", *BOTH)
    assert refused.returncode != 0
    call = re.search(r"'fadepth (data verify \S+)'", refused.stdout)
    assert call, refused.stdout[-2000:]
    verified = project.fadepth(*call[1].split())
    assert verified.returncode == 0 and "all files are those" in verified.stdout
    assert planned(project, *BOTH) == {}
