"""Bad input: one sentence that says what to do, exit code 2, nothing finished is touched."""

import json
import shutil
from pathlib import Path

import pytest
from project import Project, make_project

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


@pytest.fixture
def kitti(
    tmp_path: Path, repository: Path, test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project on a copy of one small real drive, with an older result in place."""
    source = test_data / "kitti_mini" / "kitti"
    root = tmp_path / "input" / "kitti_mini" / "kitti"
    shutil.copytree(source / DRIVE, root / DRIVE, ignore=shutil.ignore_patterns("proj_depth"))
    for name in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
        shutil.copy(source / "2011_09_26" / name, root / "2011_09_26" / name)
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    splits = root.parent / "splits" / "tiny"
    splits.mkdir(parents=True)
    # Frame 5 has a lidar scan, as a frame to evaluate must.
    for name, frame in (("train", 6), ("val", 6), ("test", 5)):
        (splits / f"{name}_files.txt").write_text(f"{DRIVE} {frame} l\n")
    monkeypatch.setenv("FADEPTH_TEST_DATA", str(tmp_path / "input"))
    folder = tmp_path / "work"
    (folder / "reports").mkdir(parents=True)
    (folder / "reports" / "table_ablation.csv").write_text("an older result\n")
    return make_project(folder, repository)


def sentence(project: Project, *arguments: str) -> str:
    """Run a command that must fail; return the one sentence that it prints."""
    result = project.fadepth(*arguments)
    assert result.returncode == 2, result.stdout
    assert "Traceback" not in result.stdout
    lines = [line for line in result.stdout.splitlines() if line.startswith("fadepth: ")]
    assert len(lines) == 1, result.stdout
    older = project.folder / "reports" / "table_ablation.csv"
    assert older.read_text() == "an older result\n"
    assert not list((project.folder).glob("data/*")), "something half-written was left behind"
    return lines[0]


PREPARE = (
    "data",
    "manifest",
    "--output",
    "data/manifest.jsonl",
    "--preset",
    "config/kitti_mini.yaml",
)


def _root(project: Project) -> Path:
    return project.folder.parent / "input" / "kitti_mini" / "kitti"


def test_good_input_passes(kitti: Project) -> None:
    """The fixture itself is in order, so each failure below is due to what its test breaks."""
    result = kitti.fadepth(*PREPARE)
    assert result.returncode == 0, result.stdout
    assert (kitti.folder / "data" / "manifest.jsonl").exists()


def test_corrupt_image(kitti: Project) -> None:
    image = _root(kitti) / DRIVE / "image_02/data/0000000007.jpg"
    image.write_bytes(image.read_bytes()[:2000])
    assert "0000000007.jpg" in sentence(kitti, *PREPARE)


def test_missing_calibration(kitti: Project) -> None:
    (_root(kitti) / "2011_09_26" / "calib_cam_to_cam.txt").unlink()
    assert "calib_cam_to_cam.txt" in sentence(kitti, *PREPARE)


def test_missing_data_root(kitti: Project) -> None:
    _root(kitti).rename(_root(kitti).with_name("elsewhere"))
    message = sentence(kitti, *PREPARE)
    assert "data.root" in message and "FADEPTH_TEST_DATA" in message


def test_wrong_key(kitti: Project) -> None:
    override = json.dumps({"training": {"learning_rat": 0.1}})
    message = sentence(kitti, *PREPARE, "--override", override)
    assert "training.learning_rat" in message and "'training.learning_rate'" in message
    assert "config/kitti_mini.yaml" in message


def test_wrong_key_stops_snakemake_before_any_job(kitti: Project) -> None:
    result = kitti.snakemake(
        "reports/table_ablation.csv", "--configfile", "config/kitti_mini.yaml",
        "--config", "trainin={epochs: 1}",
    )  # fmt: skip
    assert result.returncode != 0
    assert "unknown key 'trainin'" in result.stdout and "'training'" in result.stdout
    assert "Traceback" not in result.stdout


def test_unknown_run(kitti: Project) -> None:
    arguments = ("train", "plain-s1-0123456789", "--manifest", "data/manifest.jsonl")
    message = sentence(kitti, *arguments, "--preset", "config/kitti_mini.yaml")
    assert "plain-s1-0123456789" in message
