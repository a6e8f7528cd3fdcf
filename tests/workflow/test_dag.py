"""The whole chain at smoke scale, and what a second call does."""

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from project import Project

from fadepth.evaluation.protocols import FOLDER as PROTOCOLS
from tests.data.fixtures import write_cityscapes, write_make3d

SMOKE = ("reports/table_ablation.csv", "--configfile", "config/smoke.yaml")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(project: Project) -> Project:
    """The project after one call of the README's command on the smoke preset."""
    result = project.snakemake(*SMOKE)
    assert result.returncode == 0, result.stdout[-3000:]
    return project


def test_table_has_all_rows_and_its_stamp(finished: Project) -> None:
    table = pd.read_csv(finished.folder / "reports/table_ablation.csv", keep_default_na=False)
    assert table["kind"].tolist() == ["variant"] * 8 + ["teacher"] + ["baseline"] * 3
    levels = table[table["kind"] == "variant"][["etm", "pyramid", "apx"]]
    assert len(levels.drop_duplicates()) == 8
    assert set(levels.to_numpy().ravel()) == {"on", "off"}
    assert set(table["scale"]) == {"smoke"}
    # All variants fold to the same network.
    assert table[table["kind"] == "variant"]["params_m"].nunique() == 1
    markdown = (finished.folder / "reports/table_ablation.md").read_text()
    assert "not a result" in markdown


def test_second_call_does_nothing(finished: Project) -> None:
    result = finished.snakemake(*SMOKE)
    assert result.returncode == 0
    assert "Nothing to be done" in result.stdout


def test_every_run_is_in_mlflow(finished: Project) -> None:
    folders = {path.parent.name for path in (finished.folder / "runs").glob("*/manifest.json")}
    assert len(folders) == 12
    with sqlite3.connect(finished.folder / "mlflow.db") as store:
        rows = store.execute("select value from tags where key = 'fadepth.run_id'").fetchall()
    assert {value for (value,) in rows} == folders


def test_cells_name_their_runs(finished: Project) -> None:
    """Each cell leads to the runs behind it, and their own files hold the cell's number."""
    text = (finished.folder / "reports/table_ablation.provenance.json").read_text()
    content = json.loads(text)
    named = set()
    for cells in content["cells"].values():
        for run, value in cells["abs_rel"].items():
            measured = json.loads((finished.folder / "runs" / run / "metrics.json").read_text())
            assert measured["metrics"]["abs_rel"] == value
            named.add(run)
    assert len(named) == 12 == len(content["runs"])


def test_effects_come_from_the_same_runs(finished: Project) -> None:
    """Every factor, every measure; no training beyond the table's."""
    target = ("reports/effects_ablation.csv", *SMOKE[1:])
    plan = finished.snakemake(*target, "--dry-run")
    assert _planned(plan.stdout, "evaluate_robustness") == 8
    assert _planned(plan.stdout, "train_student") == 0
    result = finished.snakemake(*target)
    assert result.returncode == 0, result.stdout[-3000:]
    effects = pd.read_csv(finished.folder / "reports/effects_ablation.csv")
    assert effects["row"].value_counts().to_dict() == {"ETM": 10, "pyramid loss": 10, "APX": 10}
    assert set(effects["verdict"]) == {"one seed"}
    table = pd.read_csv(finished.folder / "reports/table_ablation.csv").set_index("row")
    etm = effects[(effects["row"] == "ETM") & (effects["measure"] == "Abs Rel")].iloc[0]
    abs_rel = {row: float(value) for row, value in table["abs_rel"].items()}
    assert etm["alone"] == pytest.approx(abs_rel["+ ETM"] - abs_rel["SmallDepth"])


def test_benchmarks_evaluate_finished_runs_and_train_none(finished: Project) -> None:
    """Make3D and Cityscapes for every network, by one more file of settings."""
    write_make3d(finished.folder / "zero_shot" / "make3d", 2)
    write_cityscapes(finished.folder / "zero_shot" / "cityscapes", 1, size=(256, 512))
    (finished.folder / "zero_shot.yaml").write_text(
        "benchmarks:\n"
        "  make3d: {source: make3d, root: zero_shot/make3d, protocol: make3d}\n"
        "  street_scenes: {source: cityscapes, root: zero_shot/cityscapes, protocol: small.yaml}\n"
    )
    whole = "crop: {unit: pixel, rows: [256, 768], columns: [192, 1856]}"
    small = (PROTOCOLS / "cityscapes.yaml").read_text().replace(whole, "crop: null")
    (finished.folder / "small.yaml").write_text(small)
    call = ("benchmarks", *SMOKE[1:], "zero_shot.yaml")
    plan = finished.snakemake(*call, "--dry-run")
    assert _planned(plan.stdout, "train_student") == _planned(plan.stdout, "train_teacher") == 0
    assert _planned(plan.stdout, "evaluate_benchmark") == 2 * 9
    result = finished.snakemake(*call)
    assert result.returncode == 0, result.stdout[-3000:]
    for name, images, measure in (("make3d", 2, "rmse_log10"), ("street_scenes", 1, "delta_1")):
        found = list((finished.folder / "runs").glob(f"*/benchmarks/{name}/metrics.json"))
        assert len(found) == 9
        for path in found:
            content = json.loads(path.read_text())
            per_image = pd.read_csv(path.with_name("per_image.csv"))
            assert content["images"] == len(per_image) == images
            assert content["trained_on"] == "synthetic_street"
            assert content["frames_of_training_drives"] == 0
            assert content["metrics"][measure] == pytest.approx(per_image[measure].mean())
    assert "Nothing to be done" in finished.snakemake(*call).stdout
    # The file of the protocol is an input in all but name: another cap is another evaluation.
    (finished.folder / "small.yaml").write_text(small.replace("max_depth: 80", "max_depth: 50"))
    again = finished.snakemake(*call, "--dry-run")
    assert _planned(again.stdout, "evaluate_benchmark") == 9
    assert _planned(again.stdout, "train_student") == 0


def test_at_most_one_training_a_core(finished: Project) -> None:
    """`--cores 8` must not mean eight trainings: with one slot, runs never overlap."""
    plan = finished.snakemake(*SMOKE, "--dry-run", "--forceall")
    assert "train_slot=1" in plan.stdout


def test_changing_one_setting_of_pyramid_plans_its_four_runs(finished: Project) -> None:
    plan = finished.snakemake(
        *SMOKE, "--dry-run", "--config", "loss={pyramid: {levels: 2, weight: 0.25}}"
    )
    assert plan.returncode == 0, plan.stdout[-2000:]
    assert _planned(plan.stdout, "train_student") == 4
    assert _planned(plan.stdout, "train_teacher") == 0


def _planned(plan: str, rule: str) -> int:
    """Number of jobs of a rule in the last job table of a dry run."""
    counts = [line.split() for line in plan.splitlines() if line.startswith(f"{rule} ")]
    return int(counts[-1][1]) if counts else 0


def test_unfinished_run_spoils_no_finished_one(finished: Project) -> None:
    """Damage to the data is told in one sentence; results that exist stay as they are."""
    manifest = next((finished.folder / "data").glob("*/manifest.jsonl"))
    whole = manifest.read_text()
    table = (finished.folder / "reports/table_ablation.csv").read_bytes()
    run = next((finished.folder / "runs").glob("plain-*")).name
    model = (finished.folder / "runs" / run / "model.pt").read_bytes()
    try:
        manifest.write_text(whole[: len(whole) // 2])
        arguments = ["train", run, "--manifest", str(manifest), "--preset", "config/smoke.yaml"]
        result = finished.fadepth(*arguments)
    finally:
        manifest.write_text(whole)
    assert result.returncode == 2
    sentences = [line for line in result.stdout.splitlines() if line.startswith("fadepth: ")]
    assert len(sentences) == 1 and str(manifest) in sentences[0]
    assert (finished.folder / "reports/table_ablation.csv").read_bytes() == table
    assert (finished.folder / "runs" / run / "model.pt").read_bytes() == model


def test_presets_of_other_data_do_not_mix(
    finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--configfile` replaces the default preset: nothing of quick or smoke leaks into kitti."""
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}_files.txt").write_text(f"{drive} 5 l\n")
    monkeypatch.setenv("KITTI_SPLITS", str(tmp_path))
    plan = finished.snakemake(
        "reports/table_ablation.csv", "--dry-run", "--configfile", "config/kitti.yaml"
    )
    assert plan.returncode == 0, plan.stdout[-2000:]
    # Eight variants with three seeds each.
    assert _planned(plan.stdout, "train_student") == 24
    assert "synthetic" not in plan.stdout


def test_damaged_targets_are_mended_and_train_nobody_again(finished: Project) -> None:
    """One student repairs what all read: the same bytes, and no newer than before."""
    targets = next((finished.folder / "runs").glob("hqdecv2-*/targets.npy"))
    content, modified = targets.read_bytes(), targets.stat().st_mtime_ns
    targets.write_bytes(content[:5000] + b"xx" + content[5002:])
    run = next((finished.folder / "runs").glob("apx-*")).name
    manifest = next((finished.folder / "data").glob("*/manifest.jsonl"))
    result = finished.fadepth(
        *("train", run, "--manifest", str(manifest), "--preset", "config/smoke.yaml"),
        *("--targets", str(targets)),
    )
    assert result.returncode == 0, result.stdout
    assert "does not match its checksum" in result.stdout
    assert targets.read_bytes() == content
    assert targets.stat().st_mtime_ns == modified
    plan = finished.snakemake(*SMOKE, "--dry-run")
    assert plan.returncode == 0, plan.stdout[-2000:]
    assert _planned(plan.stdout, "train_student") == 0
    assert _planned(plan.stdout, "predict_teacher") == 0
