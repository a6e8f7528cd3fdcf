"""The whole chain at smoke scale, and what a second call does."""

import hashlib
import json
import shutil
import sqlite3
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from project import Project

from fadepth.evaluation.protocols import FOLDER as PROTOCOLS
from tests.data.fixtures import write_cityscapes, write_make3d

SMOKE = ("reports/table_ablation.csv", "--configfile", "config/smoke.yaml")
EVERYTHING = ("reports/all", *SMOKE[1:])
TABLES = (
    *("ablation", "apx", "complexity", "ddad", "etm", "generalisation", "hqdecv2"),
    *("kitti", "kitti_highres", "kitti_improved", "pyramid"),
)
NETWORKS, BASELINES = 34, 6
TEACHER = "HQDecv2 (teacher)"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(finished_smoke: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after one call of `reports/all` on the smoke preset."""
    folder = tmp_path_factory.mktemp("dag") / "project"
    shutil.copytree(finished_smoke.folder, folder, symlinks=True)
    return Project(folder, finished_smoke.repository)


def run_of(project: Project, row: str) -> str:
    """The run behind a row of the component table."""
    table = pd.read_csv(project.folder / "reports/table_ablation.csv").set_index("row")
    return str(table.loc[row, "run_ids"])


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
    for target in (EVERYTHING, SMOKE):
        result = finished.snakemake(*target)
        assert result.returncode == 0
        assert "Nothing to be done" in result.stdout


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_there_in_every_format(finished: Project, name: str) -> None:
    """Each names its data, its scale, and has a number in each ranked cell of its variants."""
    path = finished.folder / "reports" / f"table_{name}"
    table = pd.read_csv(path.with_suffix(".csv"), keep_default_na=False)
    variants = table[table["kind"] == "variant"]
    assert len(variants) >= 2
    assert set(table["scale"]) == {"smoke"}
    numbers = [key for key in map(str, table) if key.endswith(("abs_rel", "rmse"))]
    assert numbers
    assert all(float(value) > 0 for value in variants[numbers].to_numpy().ravel())
    for suffix in (".md", ".tex", ".html"):
        text = path.with_suffix(suffix).read_text()
        assert "synthetic street" in text
        assert "smoke: not a result" in text
        for label in variants["row"]:
            assert label.replace("*", "") in text
    # No published number beside a rendered street.
    assert not set(table["kind"]) & {"reported", "paper"}


def test_report_holds_all_tables_and_figures(finished: Project) -> None:
    reports = finished.folder / "reports"
    page = (reports / "index.html").read_text()
    for name in TABLES:
        assert f'id="table_{name}"' in page
    figures = [
        *("overview", "adacoeff_upsampler", "global_map", "qualitative", "pareto", "effects"),
        next(path.stem for path in (reports / "figures").glob("masks_*.png")),
    ]
    for figure in figures:
        path = reports / "figures" / f"{figure}.png"
        assert f'id="{figure}"' in page or f'id="figure-{figure}"' in page
        with Image.open(path) as image:
            image.verify()
    for figure in ("qualitative", "pareto", "effects"):
        assert (reports / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    assert page.count("data:image/png;base64,") >= len(figures)
    if shutil.which("pdflatex"):
        assert (reports / "tables.pdf").read_bytes().startswith(b"%PDF")
    for line in (reports / "all").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((finished.folder / name).read_bytes()).hexdigest() == digest


def test_report_links_to_mlflow(finished: Project) -> None:
    """Each run's page, by the id that the store gave it."""
    links = json.loads((finished.folder / "reports" / "mlflow.json").read_text())
    assert len(links) == NETWORKS + BASELINES
    with sqlite3.connect(finished.folder / "mlflow.db") as store:
        rows = store.execute("select run_uuid from runs").fetchall()
    known = {uuid for (uuid,) in rows}
    for run_id, link in links.items():
        assert link.startswith("http://127.0.0.1:5000/#/experiments/")
        assert link.rpartition("/")[2] in known
        assert (finished.folder / "runs" / run_id).is_dir()


def test_other_data_have_their_own_manifest(finished: Project) -> None:
    manifests = list((finished.folder / "data").glob("synthetic_street*/manifest.jsonl"))
    assert len(manifests) == 2
    ddad = pd.read_csv(finished.folder / "reports/table_ddad.csv")
    assert set(ddad["dataset"]) == {"synthetic_street_d"}
    assert set(ddad["protocol"]) == {"synthetic_200m"}


def test_partial_table_says_what_a_deleted_run_took_along(finished: Project) -> None:
    """Nothing is trained for it, and Snakemake's own table stays as it is."""
    reports = finished.folder / "reports"
    before = (reports / "table_ablation.csv").read_bytes()
    run = run_of(finished, "+ ETM")
    away = finished.folder / "away"
    shutil.move(finished.folder / "runs" / run, away)
    try:
        flags = ("--preset", "config/smoke.yaml")
        whole = finished.fadepth("table", "table_ablation", *flags, "--output", "whole.csv")
        partial = finished.fadepth("table", "table_ablation", "--partial", *flags)
    finally:
        shutil.move(away, finished.folder / "runs" / run)
    assert whole.returncode == 2
    assert f"runs/{run}/manifest.json does not exist" in whole.stdout
    assert not (finished.folder / "whole.csv").exists()
    assert partial.returncode == 0, partial.stdout
    text = (reports / "partial" / "table_ablation.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| + ETM |"))
    assert line.count("—") >= 7
    assert f"0/1 seeds: {run} not trained" in text
    assert (reports / "table_ablation.csv").read_bytes() == before


def test_why_tells_of_a_cell(finished: Project) -> None:
    result = finished.fadepth("why", "table_kitti_improved", "HQDecv2 (teacher)", "abs_rel")
    assert result.returncode == 0
    table = pd.read_csv(finished.folder / "reports/table_kitti_improved.csv").set_index("row")
    run = str(table.loc["HQDecv2 (teacher)", "run_ids"])
    model = (finished.folder / "runs" / run / "model.pt").read_bytes()
    assert hashlib.sha256(model).hexdigest() in result.stdout
    assert f"runs/{run}" not in result.stdout or run in result.stdout
    assert "benchmarks/kitti_improved/metrics.json" in result.stdout


def test_tables_are_wellformed_pages(finished: Project) -> None:
    """The body of each table's page is XML but for HTML's own shorthands."""
    text = (finished.folder / "reports" / "table_pyramid.html").read_text()
    start, end = text.index("<thead"), text.rindex("</tbody>") + len("</tbody>")
    body = ET.fromstring(f"<table>{text[start:end]}</table>".replace("&nbsp;", " "))
    assert len(body.findall(".//tbody/tr")) >= 6


def test_a_change_of_a_published_value_renders_one_table(finished: Project) -> None:
    """The file is an input of its table, and of no training."""
    plan = finished.snakemake(*EVERYTHING, "--dry-run", "--forcerun", "render_table")
    assert _planned(plan.stdout, "render_table") == 11
    assert _planned(plan.stdout, "train_student") == _planned(plan.stdout, "evaluate_run") == 0


def test_every_run_is_in_mlflow(finished: Project) -> None:
    folders = {path.parent.name for path in (finished.folder / "runs").glob("*/manifest.json")}
    assert len(folders) == NETWORKS + BASELINES
    with sqlite3.connect(finished.folder / "mlflow.db") as store:
        rows = store.execute("select value from tags where key = 'fadepth.run_id'").fetchall()
    assert {value for (value,) in rows} == folders


def test_cells_name_their_runs(finished: Project) -> None:
    """Each cell leads to the runs behind it, and their own files hold the cell's number."""
    text = (finished.folder / "reports/table_ablation.provenance.json").read_text()
    content = json.loads(text)
    named = set()
    for cells in content["cells"].values():
        for run, value in cells["abs_rel"]["runs"].items():
            measured = json.loads((finished.folder / "runs" / run / "metrics.json").read_text())
            assert measured["metrics"]["abs_rel"] == value
            named.add(run)
    assert len(named) == 12 == len(content["runs"])


def test_effects_come_from_the_same_runs(finished: Project) -> None:
    """Every factor with every measure, and four interactions in Abs Rel."""
    effects = pd.read_csv(finished.folder / "reports/effects_ablation.csv")
    counts = effects["row"].value_counts().to_dict()
    assert {name: counts.pop(name) for name in ("ETM", "pyramid loss", "APX")} == {
        "ETM": 10, "pyramid loss": 10, "APX": 10,
    }  # fmt: skip
    assert set(counts.values()) == {1}
    assert len(counts) == 4
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
        "  make3d_photos: {source: make3d, root: zero_shot/make3d, protocol: make3d}\n"
        "  street_scenes: {source: cityscapes, root: zero_shot/cityscapes, protocol: small.yaml}\n"
    )
    whole = "crop: {unit: pixel, rows: [256, 768], columns: [192, 1856]}"
    small = (PROTOCOLS / "cityscapes.yaml").read_text().replace(whole, "crop: null")
    (finished.folder / "small.yaml").write_text(small)
    presets = (*SMOKE[1:], "zero_shot.yaml")
    plan = finished.snakemake("benchmarks", *presets, "--dry-run")
    assert _planned(plan.stdout, "train_student") == _planned(plan.stdout, "train_teacher") == 0
    # All networks of the preset's own frames on five benchmarks, but for nine that tables had.
    own = NETWORKS - 3 - 3  # DDAD's stand-in, and the high resolution
    assert _planned(plan.stdout, "evaluate_benchmark") == 5 * own - 9
    chosen = [finished.folder / "runs" / run_of(finished, row) for row in ("SmallDepth", TEACHER)]
    names = {"make3d_photos": (2, "rmse_log10"), "street_scenes": (1, "delta_1")}
    call = [f"runs/{run.name}/benchmarks/{name}/metrics.json" for run in chosen for name in names]
    call += presets
    result = finished.snakemake(*call)
    assert result.returncode == 0, result.stdout[-3000:]
    for name, (images, measure) in names.items():
        for run in chosen:
            path = run / "benchmarks" / name / "metrics.json"
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
    assert _planned(again.stdout, "evaluate_benchmark") == 2
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
    manifest = next((finished.folder / "data").glob("synthetic_street-*/manifest.jsonl"))
    whole = manifest.read_text()
    table = (finished.folder / "reports/table_ablation.csv").read_bytes()
    run = run_of(finished, "SmallDepth")
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
    # Snakemake also prints what the existing table was made of, titles of protocols included.
    assert "synthetic_street" not in plan.stdout


def test_damaged_targets_are_mended_and_train_nobody_again(finished: Project) -> None:
    """One student repairs what all read: the same bytes, and no newer than before."""
    targets = finished.folder / "runs" / run_of(finished, TEACHER) / "targets.npy"
    content, modified = targets.read_bytes(), targets.stat().st_mtime_ns
    targets.write_bytes(content[:5000] + b"xx" + content[5002:])
    run = run_of(finished, "+ APX")
    manifest = next((finished.folder / "data").glob("synthetic_street-*/manifest.jsonl"))
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
