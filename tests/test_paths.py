"""Paths in lists, manifests and studies stay below their folder; links of the user's work."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from fadepth.config import BenchmarkSettings, Config, DataSettings, DdadSettings, SyntheticSettings
from fadepth.data import archives, cityscapes
from fadepth.data.check.ddad import DdadInventory
from fadepth.data.check.inventory import check_data
from fadepth.data.check.kitti import Listed
from fadepth.data.kitti_raw import KittiRaw
from fadepth.data.manifest import Frame, Manifest
from fadepth.data.prepare import prepare_benchmark, prepare_data
from fadepth.errors import FadepthError
from fadepth.execution.why import explain
from fadepth.paths import PATH_SETTINGS, leads_out, study_path_checked, study_settings_checked
from fadepth.report.study_table import study_table
from fadepth.study_file import load_study_file
from tests.data.fixtures import write_make3d
from tests.report.fakes import study_of, write_run, write_runs


def sentence_of(action: Callable[[], object]) -> str:
    """The one sentence with which it refuses."""
    with pytest.raises(FadepthError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_leads_out() -> None:
    for path in ("..", "../a", "a/../../b", "a/..", "/", "/etc/passwd", "//a", "a\0b"):
        assert leads_out(path), path
    for path in ("a", "a/b", "./a", "..a/b..", "a..b/...", ".a", "", "~/a", "C:\\a"):
        assert not leads_out(path), path


# ------------------------------------------------------------------------------------- manifests

FRAME = Frame(
    "2011_09_26/a", 5, "l", "2011_09_26/a/5.png", {-1: "4.png", 1: "6.png"}, (1.0, 1.0, 1.0, 1.0),
    8, 8, "a/5.bin", "a/5.png",
)  # fmt: skip


def written(folder: Path, frame: Frame, files: dict[str, str]) -> Path:
    """A manifest whose hash fits its content, as somebody who means harm would write it."""
    path = folder / "manifest.jsonl"
    Manifest("x", str(folder), {"train": [FRAME], "val": [frame], "test": []}, files).write(path)
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"image": "../../etc/passwd"},
        {"image": "/etc/passwd"},
        {"neighbours": {-1: "4.png", 1: "a/../../6.png"}},
        {"velodyne": "../5.bin"},
        {"depth_png": "/5.png"},
        {"depth_file": "../5.mat"},
        {"camera_file": "../5.json"},
        {"drive": "../a"},
        {"side": "../../CAMERA_01"},
    ],
)
def test_a_frame_of_a_manifest_cannot_leave_the_root(
    change: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path, replace(FRAME, **change), {})
    sentence = sentence_of(lambda: Manifest.read(path))
    assert f"manifest {path}, val frame 1: " in sentence
    assert ".." in sentence or "'/" in sentence


def test_a_file_of_a_manifest_cannot_leave_the_root(tmp_path: Path) -> None:
    path = written(tmp_path, FRAME, {"a": "0", "../b": "1"})
    assert f"manifest {path}, files: '../b' is no path" in sentence_of(lambda: Manifest.read(path))
    assert Manifest.read(written(tmp_path, FRAME, {"a": "0", "..b": "1"})).splits["val"] == [FRAME]


# ----------------------------------------------------------------------------------------- KITTI

STREET = SyntheticSettings(
    scenes={"train": 1, "val": 1, "test": 1},
    frames={"train": 3, "val": 3, "test": 3},
    height=32,
    width=96,
)
DAY = "2000_01_01"


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drives and calibration in KITTI's layout, and their lists in `splits/`."""
    folder = tmp_path_factory.mktemp("street")
    settings = DataSettings(source="synthetic", root="street", synthetic=STREET)
    prepare_data(settings, folder / "m.jsonl", base=folder)
    return folder / "street"


def test_a_line_of_a_split_list_cannot_leave_the_root(street: Path, tmp_path: Path) -> None:
    """What the line names is there and in order: only where it lies is wrong."""
    shutil.copytree(street / DAY, tmp_path / DAY)
    root, lists = tmp_path / DAY / "root", tmp_path / "lists"
    root.mkdir()
    lists.mkdir()
    (drive,) = {line.split()[0] for line in (street / "splits/test_files.txt").open()}
    (root / DAY).symlink_to(street / DAY)
    for name in ("train", "val", "test"):
        text = (street / "splits" / f"{name}_files.txt").read_text()
        (lists / f"{name}_files.txt").write_text(text)
    bad = lists / "test_files.txt"
    bad.write_text(f"{drive} 0 l\n../{drive.partition('/')[2]} 1 l\n")
    settings = DataSettings(root=str(root), splits=str(lists))
    expected = f"{bad} names '../{drive.partition('/')[2]}' (frame 1 l), which is not below"
    output = tmp_path / "out.jsonl"
    assert expected in sentence_of(lambda: prepare_data(settings, output, base=tmp_path))
    benchmark = BenchmarkSettings(
        source="kitti", root=str(root), frames=str(bad), protocol="kitti_eigen_raw"
    )
    assert expected in sentence_of(lambda: prepare_benchmark("x", benchmark, output, base=tmp_path))
    assert expected in sentence_of(lambda: KittiRaw(root, bad, height=32, width=96))
    assert expected in sentence_of(lambda: Listed.read(bad))
    assert not output.exists()
    bad.write_text("../.. 1 l\n")
    assert "'../..'" in sentence_of(lambda: prepare_data(settings, output, base=tmp_path))
    bad.write_text(f"{drive} 0 l\n")
    assert prepare_data(settings, output, base=tmp_path).splits["test"][0].drive == drive


def test_links_that_the_user_has_placed_are_followed(street: Path, tmp_path: Path) -> None:
    """A day on another disk, a drive on a third: the text of the paths is what it always was."""
    root = tmp_path / "root"
    (root / DAY).mkdir(parents=True)
    for path in (street / DAY).iterdir():
        (root / DAY / path.name).symlink_to(path)
    linked = DataSettings(root="root", splits=str(street / "splits"))
    plain = DataSettings(root=str(street), splits=str(street / "splits"))
    manifests = [
        prepare_data(settings, tmp_path / f"{n}.jsonl", base=tmp_path)
        for n, settings in enumerate((linked, plain))
    ]
    assert manifests[0].content_hash == manifests[1].content_hash
    assert Manifest.read(tmp_path / "0.jsonl").splits == manifests[1].splits


def test_only_names_that_kitti_gives_become_archives() -> None:
    root = Path("data")
    assert archives.kitti_drive(root, "2011_09_26/2011_09_26_drive_0001_sync")
    for drive in ("../../2011_09_26_drive_0001_sync", "2011_09_26/$(touch x)_sync", "../x"):
        assert archives.kitti_drive(root, drive) is None
    assert archives.kitti_calibration(root, "..") is None


# ------------------------------------------------------------------------------------------ DDAD

SCENE = "scene_02/scene_fe9f29d3bde25d182dcf88caf1011acd8cc13624.json"
SCENES = [SCENE, SCENE.replace("scene_02", "scene_03")]


@pytest.fixture
def ddad_root(test_data: Path, tmp_path: Path) -> Path:
    """A folder with a scene of real frames, linked but for its file; a scene list in it."""
    source = (test_data / "ddad_mini" / SCENE).parent
    if not source.is_dir():
        pytest.skip(f"no ddad_mini in {test_data}")
    root = tmp_path / "data"
    (root / SCENE).parent.mkdir(parents=True)
    for part in ("calibration", "rgb", "point_cloud"):
        (root / SCENE).parent.joinpath(part).symlink_to(source / part)
    (root / SCENE).write_bytes((source / Path(SCENE).name).read_bytes())
    # What leads out of the root leads to files that are there, so that no other check refuses it.
    (tmp_path / "out").symlink_to(source)
    write_scene_list(root, SCENES[:1], SCENES[1:])
    shutil.copytree((root / SCENE).parent, root / "scene_03", symlinks=True)
    return root


def write_scene_list(root: Path, train: list[str], val: list[str]) -> None:
    splits = {"0": {"filenames": train}, "1": {"filenames": val}}
    (root / "ddad.json").write_text(json.dumps({"scene_splits": splits}))


def images(content: dict[str, Any], kind: str = "image") -> Iterator[dict[str, Any]]:
    return (d["datum"][kind] for d in content["data"] if kind in d["datum"])


def lead_out_images(content: dict[str, Any], out: str) -> None:
    for image in images(content):
        image["filename"] = f"{out}/{image['filename']}"


def lead_out_scans(content: dict[str, Any], out: str) -> None:
    for scan in images(content, "point_cloud"):
        scan["filename"] = f"{out}/{scan['filename']}"


def lead_out_calibration(content: dict[str, Any], out: str) -> None:
    for sample in content["samples"]:
        # An absolute key is below the folder like any other: `calibration//a`.
        sample["calibration_key"] = f"../{out}/calibration/{sample['calibration_key']}"


def refusals(root: Path) -> Iterator[str]:
    """What preparation, benchmark and check say of the data set."""
    settings = DataSettings(
        source="ddad", root=str(root), splits=str(root / "ddad.json"),
        ddad=DdadSettings(held_out_scenes=0),
    )  # fmt: skip
    benchmark = BenchmarkSettings(
        source="ddad", root=str(root), frames=str(root / "ddad.json"), protocol="ddad"
    )
    output = root.parent / "m.jsonl"
    yield sentence_of(lambda: prepare_data(settings, output, base=root))
    yield sentence_of(lambda: prepare_benchmark("x", benchmark, output, base=root))
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "out"),
    [
        (lead_out_images, "../../out"),
        (lead_out_images, "/out"),
        (lead_out_scans, "../../out"),
        (lead_out_scans, "/out"),
        (lead_out_calibration, "../../out"),
    ],
)
def test_a_scene_of_ddad_cannot_leave_the_root(
    ddad_root: Path, change: Callable[[dict[str, Any], str], None], out: str
) -> None:
    out = out if out.startswith(".") else f"{ddad_root.parent}{out}"
    content = json.loads((ddad_root / SCENE).read_text())
    change(content, out)
    for scene in SCENES:
        (ddad_root / scene).write_text(json.dumps(content))
    for sentence in refusals(ddad_root):
        assert "scene_0" in sentence
        assert "which is not below the data's folder" in sentence
    found = check_data(DdadInventory(ddad_root, None, ["CAMERA_01"], (96, 160)))
    assert [broken.path for broken in found.broken] == SCENES
    assert all("not below the data's folder" in broken.reason for broken in found.broken)


@pytest.mark.parametrize("name", [f"../data/{SCENES[1]}", f"/{SCENES[1]}", "../../etc/passwd"])
def test_a_scene_list_cannot_leave_the_root(ddad_root: Path, name: str) -> None:
    write_scene_list(ddad_root, SCENES[:1], [name])
    for sentence in refusals(ddad_root):
        assert f"{ddad_root / 'ddad.json'} names '{name}' (scene_splits)" in sentence
    assert f"names '{name}' (scene_splits)" in sentence_of(
        lambda: DdadInventory(ddad_root, None, ["CAMERA_01"], (96, 160))
    )


# --------------------------------------------------------------------------- Make3D and Cityscapes


def test_a_list_of_make3d_cannot_leave_the_root(tmp_path: Path) -> None:
    (name,) = write_make3d(tmp_path, 1, (284, 213))
    # So that `img-../` is a way out for the system, too.
    (tmp_path / "Test134" / "img-..").mkdir()
    for line in (f"../{name}", "/etc/passwd", f"img-x/../../Test134/img-{name}.jpg"):
        (tmp_path / "list.txt").write_text(f"{name}\n{line}\n")
        settings = BenchmarkSettings(
            source="make3d", root=str(tmp_path), frames=str(tmp_path / "list.txt"),
            protocol="make3d",
        )  # fmt: skip
        sentence = sentence_of(
            lambda s=settings: prepare_benchmark("x", s, tmp_path / "m.jsonl", base=tmp_path)  # type: ignore[misc]
        )
        assert f"{tmp_path / 'list.txt'} names '{line}' (line 2), which is not" in sentence


@pytest.mark.parametrize(
    "line",
    ["../berlin_000000_000019", "/x_000000_000019", ".. .._000000_000019", "a/../b_000000_000019"],
)
def test_a_list_of_cityscapes_cannot_leave_the_root(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n")
    sentence = sentence_of(lambda: cityscapes.list_frames(tmp_path, "test", tmp_path / "list.txt"))
    assert f"{tmp_path / 'list.txt'}, line 1: found '" in sentence


# --------------------------------------------------------------------------------- results of runs


def test_a_manifest_of_a_run_cannot_name_another_folder(tmp_path: Path) -> None:
    """Results are found by the study's own ids; what a manifest calls itself is only compared."""
    study, runs = study_of(seeds=[1]), tmp_path / "runs"
    write_runs(study, runs, lambda run: 0.3)
    first = next(study.students)
    write_run(first, runs, 0.3, run_id="../../elsewhere")
    assert "is of run ../../elsewhere" in sentence_of(lambda: study_table(study, runs, tmp_path))
    table = study_table(study, runs, tmp_path, partial=True)
    assert [row.cells["row"] for row in table.rows if row.missing] == [first.label]


def test_why_looks_below_its_folder_only(tmp_path: Path) -> None:
    (tmp_path / "secret.provenance.json").write_text(json.dumps({"cells": {"a": {}}, "runs": {}}))
    reports = tmp_path / "reports"
    reports.mkdir()
    for name in ("../secret", str(tmp_path / "secret"), "../secret.csv"):
        sentence = sentence_of(lambda n=name: explain(reports, n, "a", "b"))  # type: ignore[misc]
        assert f"{reports / 'secret.provenance.json'} does not exist" in sentence


# ---------------------------------------------------------------------------------------- studies


def test_a_study_may_name_what_lies_below_or_what_the_user_says() -> None:
    for path in ("a.npy", "data/a.npy", "${MINE}/a.npy", "${MINE:-data}/a.npy", "${A}", "a${B:-}"):
        assert study_path_checked(path) == path
    assert study_settings_checked({"loss.ego_mask": "masks/{camera}.png"})
    assert study_settings_checked({"data": {"name": "..", "synthetic": {"frames": {"train": 3}}}})


@pytest.mark.parametrize(
    "path",
    [
        "../a.npy", "/etc/passwd", "${MINE}/../a", "${MINE:-/etc}/passwd", "${MINE:-..}/a",
        "${A:-.}${B:-./a}", "${A:-}/etc/passwd", "a/../../b", "${A:-x/..}/b",
    ],
)  # fmt: skip
def test_a_study_cannot_lead_out_of_the_working_folder(path: str) -> None:
    with pytest.raises(ValueError, match="leads out of the working folder"):
        study_path_checked(path)
    for settings in ({"loss.ego_mask": path}, {"loss": {"ego_mask": path}}):
        with pytest.raises(ValueError, match=r"^loss\.ego_mask: the path"):
            study_settings_checked(settings)


EXPLICIT: dict[str, Any] = {
    "name": "x", "title": "x", "table": "table_x", "design": "explicit",
    "rows": [{"label": "a"}, {"label": "b", "settings": {"student.width": 0.5}}],
}  # fmt: skip
FACTORIAL: dict[str, Any] = {
    "name": "x", "title": "x", "table": "table_x",
    "factors": {"a": {"label": "A", "levels": {"off": {}, "on": {"student.width": 0.5}}}},
}  # fmt: skip


def study_with(base: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(base))
    inner: Any = content
    *way, last = place.split("/")
    for part in way:
        inner = inner[int(part) if isinstance(inner, list) else part]
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("base", "place", "value"),
    [
        (EXPLICIT, "rows/0/predictions", "../../somebody/x.npy"),
        (EXPLICIT, "rows/0/predictions", "${MINE:-/etc}/passwd"),
        (EXPLICIT, "rows/1/settings", {"loss.ego_mask": "/etc/passwd"}),
        (EXPLICIT, "rows/1/settings", {"teacher": {"encoder_weights": "../w.pth"}}),
        (EXPLICIT, "rows/1/settings", {"evaluation.protocol": "/etc/p.yaml"}),
        (EXPLICIT, "rows/1/settings", {"datasets": {"kitti": {"preset": "../p.yaml"}}}),
        (EXPLICIT, "rows/1/settings", {"benchmarks.a": {"root": "/", "frames": "x"}}),
        (FACTORIAL, "factors/a/levels/on", {"loss": {"ego_mask": "../{camera}.png"}}),
    ],
)
def test_a_study_file_cannot_lead_out_of_the_working_folder(
    base: dict[str, Any], place: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(base))
    load_study_file(path)
    path.write_text(yaml.safe_dump(study_with(base, place, value)))
    sentence = sentence_of(lambda: load_study_file(path))
    assert f"study {path}, key '" in sentence
    assert "leads out of the working folder" in sentence


def texts(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Settings that hold text of any kind, by their last name; all the way down."""

    def kinds(annotation: Any) -> Iterator[Any]:
        yield annotation
        for inner in get_args(annotation):
            yield from kinds(inner)

    for name, field in model.model_fields.items():
        for kind in set(kinds(field.annotation)):
            if kind is str and "dict" not in str(field.annotation):
                yield name
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from texts(kind)


def test_every_setting_that_is_a_path_is_known() -> None:
    """A new setting of text has to be put on one side or the other."""
    no_paths = {"name", "title", "device", "cameras", "sequences", "network"}
    assert set(texts(Config)) == PATH_SETTINGS | no_paths
