"""The presets at paper scale: complete, and planned without their data."""

import json
import re
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import Project, make_project
from pydantic import BaseModel

from fadepth.config import Config, identity_settings, load_config, merge
from fadepth.evaluation.complexity import count_parameters
from fadepth.models import fold
from fadepth.training import build_depth_network
from tests.data.fixtures import write_ddad_scenes

PAPER_SCALE = ("kitti", "ddad")
TABLE = "reports/table_ablation.csv"


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings that are no sections."""
    for name, kind in typing.get_type_hints(model).items():
        if name not in model.model_fields:
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def spelled(content: dict[str, Any], name: str) -> bool:
    for part in name.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


@pytest.mark.parametrize("preset", PAPER_SCALE)
def test_preset_spells_every_setting(repository: Path, preset: str) -> None:
    """A setting that is added later has to be added here, with its source."""
    content = yaml.safe_load((repository / "config" / f"{preset}.yaml").read_text())
    names = list(leaves(Config))
    assert {"loss.apx.weight", "data.ddad.cameras", "teacher.encoder_weights"} <= set(names)
    assert [name for name in names if not spelled(content, name)] == []
    load_config(repository / "config" / f"{preset}.yaml")


def test_kitti_is_the_defaults(repository: Path) -> None:
    """Spelling them out changed no run's id: identity holds what differs from the defaults."""
    assert identity_settings(load_config(repository / "config" / "kitti.yaml")) == {}


def test_ddad_differs_from_kitti_where_the_data_do(repository: Path) -> None:
    ddad = identity_settings(load_config(repository / "config" / "ddad.yaml"))
    assert ddad.keys() == {"data", "training", "evaluation"}
    assert ddad["training"].keys() == {"epochs"}
    assert ddad["evaluation"] == {"protocol": "ddad"}
    assert (ddad["data"]["height"], ddad["data"].get("width", 640)) == (384, 640)


@pytest.mark.parametrize("preset", ["quick", *PAPER_SCALE])
def test_student_has_its_two_million_parameters(repository: Path, preset: str) -> None:
    """Of every row alike: what is counted is the folded network, whatever trained it."""
    for branches in ("off", "ac"):
        overrides = {"student": {"etm": {"branches": branches}}}
        config = load_config(repository / "config" / f"{preset}.yaml", overrides)
        student = build_depth_network(config, "student")
        assert count_parameters(fold(student)) == 1_949_697


# Dry runs


@pytest.fixture
def planner(tmp_path: Path, repository: Path) -> Project:
    (tmp_path / "work").mkdir()
    return make_project(tmp_path / "work", repository)


def planned(project: Project, target: str, preset: str) -> dict[str, int]:
    """Number of jobs of each rule in a dry run, from Snakemake's own table of them."""
    result = project.snakemake(target, "--dry-run", "--configfile", f"config/{preset}.yaml")
    assert result.returncode == 0, result.stdout[-3000:]
    assert "synthetic" not in result.stdout
    words = [line.split() for line in result.stdout.splitlines()]
    rows = [w for w in words if len(w) == 2 and w[1].isdigit() and not w[0].endswith(":")]
    return {rule: int(count) for rule, count in rows}


def refusal(project: Project, preset: str) -> str:
    """The one sentence of a dry run that cannot be planned."""
    result = project.snakemake(TABLE, "--dry-run", "--configfile", f"config/{preset}.yaml")
    assert result.returncode != 0
    assert "Traceback" not in result.stdout
    sentences = [line for line in result.stdout.splitlines() if "does not exist" in line]
    assert len(sentences) == 1, result.stdout
    return sentences[0]


# Eight variants with three seeds, one teacher, three trivial baselines.
EXPECTED = {
    "prepare_data": 1,
    "train_teacher": 1,
    "predict_teacher": 1,
    "train_student": 24,
    "evaluate_run": 25,
    "evaluate_baseline": 3,
    "render_table": 1,
    "total": 56,
}


@pytest.fixture
def kitti_lists(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """KITTI's published lists where the preset looks for them; the folder of all lists."""
    lists = test_data / "splits"
    if not lists.is_dir():
        pytest.skip(f"no split lists in {test_data}: FADEPTH_TEST_DATA names a folder without them")
    for source, target in {
        "eigen_zhou/train": "train", "eigen_zhou/val": "val", "eigen/test": "test",
    }.items():  # fmt: skip
        shutil.copyfile(lists / f"{source}_files.txt", tmp_path / f"{target}_files.txt")
    monkeypatch.delenv("KITTI_ROOT", raising=False)
    monkeypatch.setenv("KITTI_SPLITS", str(tmp_path))
    return lists


@pytest.mark.usefixtures("kitti_lists")
def test_kitti_is_planned_from_the_split_lists_alone(planner: Project) -> None:
    assert planned(planner, TABLE, "kitti") == EXPECTED


@pytest.fixture
def everywhere(
    planner: Project, kitti_lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """Lists of KITTI and DDAD and the folder of Make3D and Cityscapes; not one image."""
    monkeypatch.setenv("KITTI_LISTS", str(kitti_lists))
    write_ddad_scenes(tmp_path)
    monkeypatch.setenv("DDAD_SPLITS", str(tmp_path / "ddad.json"))
    for name in ("MAKE3D_ROOT", "CITYSCAPES_ROOT"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("DDAD_ROOT", raising=False)
    return planner


def test_kitti_plans_all_eleven_tables(everywhere: Project) -> None:
    """Students with three seeds; teachers with three or one; DDAD by its own preset; both sizes."""
    plan = planned(everywhere, "reports/all", "kitti")
    assert plan["render_table"] == 11
    assert plan["prepare_data"] == 2
    # 29 students of three seeds; the four teachers of table_hqdecv2 with three, and one each for
    # DDAD and the high resolution.
    assert (plan["train_student"], plan["train_teacher"]) == (29 * 3, 4 * 3 + 2)
    assert plan["prepare_benchmark"] == 3


def test_tables_without_their_data_are_left_out_of_everything(
    everywhere: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has KITTI alone gets what KITTI gives; asked for by name, the reason is an error."""
    monkeypatch.setenv("MAKE3D_ROOT", "nowhere")
    monkeypatch.setenv("DDAD_SPLITS", "nowhere.json")
    assert planned(everywhere, "reports/all", "kitti")["render_table"] == 9
    for table, reason in (
        ("generalisation", "needs the folder"), ("ddad", "scene list .*nowhere.json does not exist")
    ):  # fmt: skip
        target = f"reports/table_{table}.csv"
        result = everywhere.snakemake(target, "--dry-run", "--configfile", "config/kitti.yaml")
        assert result.returncode != 0
        assert re.search(reason, result.stdout), result.stdout[-2000:]


def test_ddad_is_planned_from_the_scene_list_alone(
    planner: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ddad_scenes(tmp_path)
    monkeypatch.delenv("DDAD_ROOT", raising=False)
    monkeypatch.setenv("DDAD_SPLITS", str(tmp_path / "ddad.json"))
    assert planned(planner, TABLE, "ddad") == EXPECTED


@pytest.mark.parametrize(
    ("preset", "file", "variable", "source"),
    [
        ("kitti", "data/splits/eigen_zhou/train_files.txt", "KITTI_SPLITS", "nianticlabs"),
        ("ddad", "data/ddad/ddad.json", "DDAD_SPLITS", "TRI-ML/DDAD"),
    ],
)
def test_missing_list_is_told_in_one_sentence(
    planner: Project,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    file: str,
    variable: str,
    source: str,
) -> None:
    """Which file, which setting or variable names another one, and where to get it."""
    monkeypatch.delenv(variable, raising=False)
    sentence = refusal(planner, preset)
    for part in (f"{planner.folder}/{file}", "data.splits", variable, source):
        assert part in sentence


# DDAD from its own files to metrics

SMALL: dict[str, Any] = {
    "scale": "smoke",
    "seeds": [1],
    "data": {"height": 64, "width": 96, "ddad": {"cameras": ["CAMERA_01", "CAMERA_05"]}},
    "student": {"width": 0.25},
    "loss": {"pyramid": {"levels": 2}},
    "training": {"epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "workers": 0},
    "evaluation": {"panels": 1},
}


@pytest.mark.slow
def test_ddad_goes_through_the_workflow(
    planner: Project, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepare, train and evaluate on real frames in DDAD's layout: one student, one baseline."""
    root = test_data / "ddad_mini"
    if not root.is_dir():
        pytest.skip(f"no ddad_mini in {test_data}: FADEPTH_TEST_DATA names a folder without it")
    standing, moving = (
        str(p.relative_to(root)) for p in sorted(root.glob("scene_0*/scene_*.json"))
    )
    splits = {"0": {"filenames": [moving]}, "1": {"filenames": [standing]}}
    (tmp_path / "ddad.json").write_text(json.dumps({"scene_splits": splits}))
    monkeypatch.setenv("DDAD_ROOT", str(root))
    monkeypatch.setenv("DDAD_SPLITS", str(tmp_path / "ddad.json"))
    settings = merge(SMALL, {"data.ddad.held_out_scenes": 0})
    flags = ("--preset", "config/ddad.yaml", "--override", json.dumps(settings))
    listed = planner.fadepth("runs", *flags).stdout.split()
    runs = [next(w for w in listed if w.startswith(name)) for name in ("plain-s1-", "row_median-")]
    values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    result = planner.snakemake(
        *(f"runs/{run}/metrics.json" for run in runs),
        *("--configfile", "config/ddad.yaml", "--config", *values),
    )
    assert result.returncode == 0, result.stdout[-3000:]
    for run in runs:
        content = json.loads((planner.folder / "runs" / run / "metrics.json").read_text())
        assert (content["protocol"], content["dataset"], content["images"]) == ("ddad", "ddad", 6)
        # Two steps teach nothing; the scale is that of metres up to 200 all the same.
        assert 0 < content["metrics"]["abs_rel"] < 2
        assert 5 < content["metrics"]["rmse"] < 200
