"""The manifest: what it holds, that its hash moves with content only, and what it complains of."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fadepth.config import DataSettings, SyntheticSettings
from fadepth.data.manifest import Manifest
from fadepth.data.prepare import data_identity, prepare_data
from fadepth.errors import FadepthError

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
SPLITS = {
    "train": f"{DRIVE} 6 l\n{DRIVE} 0000000007 r\n",
    "val": f"{DRIVE} 0000000010 l\n",
    "test": f"{DRIVE} 5 l\n",
}


@pytest.fixture
def base(test_data: Path, tmp_path: Path) -> Path:
    """A folder with `data` (one short drive) and `splits`."""
    source = test_data / "kitti_mini" / "kitti"
    for name in [DRIVE, "2011_09_26/calib_cam_to_cam.txt", "2011_09_26/calib_velo_to_cam.txt"]:
        target = tmp_path / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target)
        else:
            shutil.copy(source / name, target)
    write_splits(tmp_path, SPLITS)
    return tmp_path


def write_splits(base: Path, splits: dict[str, str]) -> None:
    (base / "splits").mkdir(exist_ok=True)
    for name, text in splits.items():
        (base / "splits" / f"{name}_files.txt").write_text(text)


@pytest.fixture
def config() -> DataSettings:
    return DataSettings(root="data", splits="splits")


def image(base: Path, number: int) -> Path:
    return base / "data" / DRIVE / "image_02" / "data" / f"{number:010d}.jpg"


def test_content(base: Path, config: DataSettings) -> None:
    calls: list[tuple[int, int]] = []
    manifest = prepare_data(
        config, base / "m.json", base=base, progress=lambda *call: calls.append(call)
    )
    first, second = manifest.splits["train"]
    assert (first.drive, first.frame, first.side) == (DRIVE, 6, "l")
    assert first.image == f"{DRIVE}/image_02/data/0000000006.jpg"
    assert first.neighbours == {
        -1: f"{DRIVE}/image_02/data/0000000005.jpg",
        1: f"{DRIVE}/image_02/data/0000000007.jpg",
    }
    assert second.image == f"{DRIVE}/image_03/data/0000000007.jpg"
    assert (first.height, first.width) == (375, 1242)
    assert first.intrinsics == (721.5377, 721.5377, 609.5593, 172.8540)
    assert first.velodyne is None
    assert first.depth_png == f"{DRIVE}/proj_depth/groundtruth/image_02/0000000006.png"
    test = manifest.splits["test"][0]
    assert test.neighbours == {}
    assert test.velodyne == f"{DRIVE}/velodyne_points/data/0000000005.bin"
    listed = {first.image, test.velodyne, first.depth_png, "2011_09_26/calib_velo_to_cam.txt"}
    assert listed <= set(manifest.files)
    for name, digest in manifest.files.items():
        assert digest == hashlib.sha256((base / "data" / name).read_bytes()).hexdigest()
    assert calls[-1] == (len(manifest.files), len(manifest.files))


def test_round_trip_and_one_frame_per_line(base: Path, config: DataSettings) -> None:
    manifest = prepare_data(config, base / "out" / "m.json", base=base)
    again = Manifest.read(base / "out" / "m.json")
    assert again == manifest
    assert again.content_hash == manifest.content_hash
    lines = (base / "out" / "m.json").read_text().splitlines()
    assert sum('"drive":' in line for line in lines) == 4
    assert all(line.count('"drive":') <= 1 for line in lines)
    assert json.loads((base / "out" / "m.json").read_text())["dataset"] == "kitti"


def test_hash_ignores_place_and_workers(base: Path, config: DataSettings, tmp_path: Path) -> None:
    one = prepare_data(config, base / "1.json", base=base)
    three = prepare_data(config, base / "3.json", base=base, workers=3)
    assert (base / "1.json").read_bytes() == (base / "3.json").read_bytes()
    shutil.copytree(base / "data", tmp_path / "elsewhere" / "data")
    moved = config.model_copy(update={"root": str(tmp_path / "elsewhere" / "data")})
    elsewhere = prepare_data(moved, base / "2.json", base=base)
    assert elsewhere.root != one.root
    assert elsewhere.content_hash == one.content_hash == three.content_hash
    assert len(one.content_hash) == 10
    assert int(one.content_hash, 16) >= 0


def test_hash_follows_content(base: Path, config: DataSettings) -> None:
    before = prepare_data(config, base / "m.json", base=base)
    data = bytearray(image(base, 7).read_bytes())
    data[3000] ^= 1
    image(base, 7).write_bytes(data)
    after = prepare_data(config, base / "m.json", base=base)
    assert after.content_hash != before.content_hash
    assert after.splits == before.splits
    renamed = replace(before, dataset="other")
    reordered = replace(
        before, splits={**before.splits, "train": list(reversed(before.splits["train"]))}
    )
    hashes = {m.content_hash for m in (before, after, renamed, reordered)}
    assert len(hashes) == 4


def test_missing_root_names_key_and_variable(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_ROOT", str(base / "nowhere"))
    config = DataSettings(root="${SOME_ROOT:-x}", splits="splits")
    with pytest.raises(FadepthError, match=r"nowhere does not exist: set 'data\.root'.*SOME_ROOT"):
        prepare_data(config, base / "m.json", base=base)


def test_damaged_image_leaves_the_old_manifest(base: Path, config: DataSettings) -> None:
    prepare_data(config, base / "m.json", base=base)
    old = (base / "m.json").read_bytes()
    image(base, 7).write_bytes(image(base, 7).read_bytes()[:9000])
    with pytest.raises(FadepthError, match=r"image_02/data/0000000007\.jpg is damaged"):
        prepare_data(config, base / "m.json", base=base, workers=2)
    assert (base / "m.json").read_bytes() == old
    assert not list(base.glob(".m.json*"))


def test_resized_images_are_refused(base: Path, config: DataSettings) -> None:
    from PIL import Image

    with Image.open(image(base, 6)) as picture:
        picture.resize((640, 192)).save(image(base, 6))
    with pytest.raises(FadepthError, match=r"0006\.jpg is 640 x 192 pixels but .* 1242 x 375"):
        prepare_data(config, base / "m.json", base=base)


def test_absent_images_are_counted(base: Path, config: DataSettings) -> None:
    lines = "".join(f"{DRIVE} {n} l\n" for n in (6, 101, 102, 103, 104))
    write_splits(base, {"train": lines})
    with pytest.raises(
        FadepthError, match=r"^4 frames \(.*101 l, .*102 l, .*103 l, \.\.\.\) of .*t"
    ):
        prepare_data(config, base / "m.json", base=base)


def test_absent_neighbours_matter_for_training_only(base: Path, config: DataSettings) -> None:
    write_splits(base, {"test": f"{DRIVE} 5 l\n{DRIVE} 16 l\n"})
    prepare_data(config, base / "m.json", base=base)
    write_splits(base, {"val": f"{DRIVE} 5 l\n{DRIVE} 10 l\n{DRIVE} 16 l\n"})
    with pytest.raises(FadepthError, match=r"^2 frames \(.*05 l, .*16 l\) of .*val_files.* lack a"):
        prepare_data(config, base / "m.json", base=base)


def test_missing_calibration(base: Path, config: DataSettings) -> None:
    (base / "data/2011_09_26/calib_velo_to_cam.txt").unlink()
    with pytest.raises(FadepthError, match=r"calib_velo_to_cam\.txt does not exist"):
        prepare_data(config, base / "m.json", base=base)


def test_truncated_scan(base: Path, config: DataSettings) -> None:
    scan = base / "data" / DRIVE / "velodyne_points/data/0000000005.bin"
    scan.write_bytes(scan.read_bytes()[:-1])
    with pytest.raises(FadepthError, match=r"0000000005\.bin has \d+ bytes"):
        prepare_data(config, base / "m.json", base=base)


def test_truncated_manifest_names_the_line(base: Path, config: DataSettings) -> None:
    path = base / "m.json"
    prepare_data(config, path, base=base)
    lines = path.read_text().splitlines(keepends=True)
    for cut, number in [
        ("".join(lines[:8]), (8, 9)),
        ("".join(lines[:8])[:-30], (8,)),
        ("".join(lines[:-1]), (len(lines) - 1, len(lines))),
        ("", (1,)),
    ]:
        path.write_text(cut)
        expected = "|".join(str(n) for n in number)
        with pytest.raises(FadepthError, match=rf"ends early at line ({expected}): delete it"):
            Manifest.read(path)


def test_changed_manifest_is_told(base: Path, config: DataSettings) -> None:
    path = base / "m.json"
    prepare_data(config, path, base=base)
    text = path.read_text()
    path.write_text(text.replace("721.5377", "721.5378", 1))
    with pytest.raises(FadepthError, match="does not match its own content_hash: delete it"):
        Manifest.read(path)
    path.write_text(text.replace('"width"', "width", 1))
    with pytest.raises(FadepthError, match=r"is not readable JSON in line \d+"):
        Manifest.read(path)
    path.write_text(text.replace('"width"', '"breadth"'))
    with pytest.raises(FadepthError, match="lacks parts of its content"):
        Manifest.read(path)
    path.write_text("[1, 2]")
    with pytest.raises(FadepthError, match="is no manifest of format 1"):
        Manifest.read(path)
    with pytest.raises(FadepthError, match="does not exist: prepare the data first"):
        Manifest.read(base / "none.json")


def test_identity_of_kitti_is_that_of_the_lists(base: Path, config: DataSettings) -> None:
    first = data_identity(config, base)
    assert len(first) == 10
    shutil.rmtree(base / "data")
    assert data_identity(config, base) == first
    assert data_identity(config.model_copy(update={"name": "other"}), base) != first
    shutil.copytree(base / "splits", base / "copy")
    assert data_identity(config.model_copy(update={"splits": str(base / "copy")}), base) == first
    write_splits(base, {"val": f"{DRIVE} 11 l\n"})
    assert data_identity(config, base) != first
    (base / "splits/test_files.txt").unlink()
    with pytest.raises(FadepthError, match=r"test_files\.txt does not exist: set 'data\.splits'"):
        data_identity(config, base)


def test_absent_lists_are_told_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"splits/eigen of https://github\.com/nianticlabs/mono"):
        data_identity(DataSettings(root="data", splits="splits"), tmp_path)


def test_lines_of_other_data_lack_what_only_ddad_has(base: Path, config: DataSettings) -> None:
    """Their hash is that of manifests which were written before there was DDAD."""
    manifest = prepare_data(config, base / "m.json", base=base)
    assert "lidar_to_camera" not in (base / "m.json").read_text()
    posed = replace(manifest.splits["test"][0], lidar_to_camera=tuple(n / 3 for n in range(12)))
    other = replace(manifest, splits={**manifest.splits, "test": [posed]})
    other.write(base / "n.json")
    assert Manifest.read(base / "n.json") == other
    assert other.content_hash != manifest.content_hash


def test_identity_of_synthetic_is_that_of_its_settings(tmp_path: Path) -> None:
    config = DataSettings(source="synthetic", name="street", root="street")
    first = data_identity(config, tmp_path)
    assert data_identity(config.model_copy(update={"root": "other"}), tmp_path) == first
    for change in ({"seed": 1}, {"height": 64}, {"scenes": {"train": 25, "val": 2, "test": 16}}):
        other = config.model_copy(update={"synthetic": SyntheticSettings(**change)})
        assert data_identity(other, tmp_path) != first


def test_synthetic_is_rendered_and_listed(tmp_path: Path) -> None:
    few = {"train": 1, "val": 1, "test": 1}
    street = SyntheticSettings(
        scenes=few, frames={"train": 4, "val": 3, "test": 3}, height=32, width=48
    )
    config = DataSettings(source="synthetic", name="street", root="street", synthetic=street)
    manifest = prepare_data(config, tmp_path / "m.json", base=tmp_path)
    assert [len(manifest.splits[s]) for s in ("train", "val", "test")] == [2, 1, 1]
    assert all(f.depth_png and f.velodyne is None for f in manifest.splits["test"])
    assert (tmp_path / "street" / manifest.splits["train"][0].image).is_file()
    again = prepare_data(config, tmp_path / "n.json", base=tmp_path)
    assert again.content_hash == manifest.content_hash
