"""DDAD on real frames in its layout: values against the files' text, geometry against images."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from fadepth.config import DataSettings, DdadSettings
from fadepth.data import ddad
from fadepth.data.dataset import TrainingFrames
from fadepth.data.ddad import DdadFrame, DdadScene, T_target_to_source
from fadepth.data.manifest import Manifest
from fadepth.data.prepare import data_identity, prepare_data
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import find_protocol, load_ground_truth

STANDING = "scene_01/scene_a8dc5ed1da0923563f85ea129f0e0a83e7fe1867.json"
MOVING = "scene_02/scene_fe9f29d3bde25d182dcf88caf1011acd8cc13624.json"
CALIBRATION = "scene_02/calibration/64b9fde6360457d8beddcfb06c512fec6e2989d8.json"
IMAGE = "scene_02/rgb/CAMERA_01/15616458250936520.jpg"
SCAN = "scene_02/point_cloud/LIDAR/15616458251018358.npz"


@pytest.fixture(scope="module")
def root(test_data: Path) -> Path:
    folder = test_data / "ddad_mini"
    if not folder.is_dir():
        pytest.skip(f"no ddad_mini in {test_data}: FADEPTH_TEST_DATA names a folder without it")
    return folder


@pytest.fixture(scope="module")
def moving(root: Path) -> DdadScene:
    return DdadScene(root / MOVING)


def write_scene_list(path: Path, train: list[str], val: list[str]) -> None:
    """A scene list as DGP writes it."""
    splits = {"0": {"filenames": train}, "1": {"filenames": val}}
    path.write_text(json.dumps({"metadata": {"name": "mini"}, "scene_splits": splits}))


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """What the front camera needs of both scenes, in `data`, and a scene list beside it."""
    for scene in (STANDING, MOVING):
        source, target = (root / scene).parent, (tmp_path / "data" / scene).parent
        for part in ("calibration", "rgb/CAMERA_01", "point_cloud"):
            shutil.copytree(source / part, target / part)
        shutil.copy(root / scene, tmp_path / "data" / scene)
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    write_scene_list(tmp_path / "ddad.json", [MOVING], [STANDING])
    return tmp_path


def settings(**changes: Any) -> DataSettings:
    few = DdadSettings(held_out_scenes=changes.pop("held_out_scenes", 0), **changes)
    return DataSettings(
        name="ddad", source="ddad", root="data", splits="ddad.json", height=96, width=160, ddad=few
    )


def edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# Reading


def test_values_are_those_of_the_files(root: Path, moving: DdadScene) -> None:
    standing = DdadScene(root / STANDING)
    assert standing.cameras == ["CAMERA_01", "CAMERA_05", "CAMERA_06"]
    assert moving.cameras == [f"CAMERA_0{n}" for n in (1, 5, 6, 7, 8, 9)]
    frames = standing.frames()
    assert [frame.number for frame in frames] == [0, 1, 2]
    assert {(frame.scene, frame.camera) for frame in frames} == {("scene_01", "CAMERA_01")}
    assert frames[1].image == root / "scene_01/rgb/CAMERA_01/15569195939415230.jpg"
    assert frames[1].intrinsics == pytest.approx((2167.69260, 2156.23099, 951.51933, 604.98929))
    back = moving.frames("camera_09")[2]
    assert back.intrinsics == pytest.approx((1063.45797, 1065.22336, 944.66577, 612.69840))
    assert back.T_world_camera[:3, 3] == pytest.approx((111.500622, -2264.011060, -11.168907))
    for frame in [*frames, back]:
        assert (frame.height, frame.width) == (1216, 1936)
        with Image.open(frame.image) as image:
            assert image.size == (1936, 1216)


def test_relative_pose_is_the_way_driven(root: Path, moving: DdadScene) -> None:
    """A car that goes 1.27 m forward brings what its front camera sees that much nearer."""
    for target, source in pairwise(moving.frames()):
        motion = T_target_to_source(target, source)
        assert np.linalg.norm(motion[:3, 3]) == pytest.approx(1.27, abs=0.01)
        assert motion[2, 3] == pytest.approx(-1.27, abs=0.01)
        assert np.abs(T_target_to_source(source, target) @ motion - np.eye(4)).max() < 1e-9
        # The rear camera leaves things behind.
    rear = moving.frames("CAMERA_09")
    assert T_target_to_source(rear[0], rear[1])[2, 3] == pytest.approx(1.27, abs=0.02)
    still = DdadScene(root / STANDING).frames()
    assert np.abs(T_target_to_source(still[0], still[2])[:3, 3]).max() < 5e-3


def test_neighbours_do_not_depend_on_the_keys_of_the_file(copy: Path) -> None:
    def scramble(content: Any) -> None:
        for datum in content["data"]:
            datum["prev_key"] = datum["next_key"] = "nowhere"
        content["data"].reverse()

    before = [frame.image for frame in DdadScene(copy / "data" / MOVING).frames()]
    edit(copy / "data" / MOVING, scramble)
    assert [frame.image for frame in DdadScene(copy / "data" / MOVING).frames()] == before


def test_pose_matrix_agrees_with_scipy() -> None:
    for q in np.random.default_rng(0).normal(size=(20, 4)):
        x, y, z, w = q / np.linalg.norm(q)
        pose = {
            "rotation": {"qw": w, "qx": x, "qy": y, "qz": z},
            "translation": {"x": 1.0, "y": -2.0, "z": 3.0},
        }
        matrix = ddad.pose_matrix(pose)
        assert np.abs(matrix[:3, :3] - Rotation.from_quat([x, y, z, w]).as_matrix()).max() < 1e-12
        assert np.array_equal(matrix[:, 3], [1, -2, 3, 1])
        assert np.abs(ddad.invert(matrix) - np.linalg.inv(matrix)).max() < 1e-12


# Lidar


def plain_depth(root: Path, scene: str, number: int, camera: str) -> tuple[np.ndarray, int]:
    """The projection again, from the files' text, by way of the world; and the points in view."""
    folder = (root / scene).parent
    content = json.loads((root / scene).read_text())
    sample = content["samples"][number]
    data = {
        d["id"]["name"]: d["datum"] for d in content["data"] if d["key"] in sample["datum_keys"]
    }
    calibration = folder / "calibration" / f"{sample['calibration_key']}.json"
    text = json.loads(calibration.read_text())
    k = text["intrinsics"][text["names"].index(camera)]

    def parts(pose: dict[str, Any]) -> tuple[Rotation, list[float]]:
        rotation = Rotation.from_quat([pose["rotation"][f"q{axis}"] for axis in "xyzw"])
        return rotation, [pose["translation"][axis] for axis in "xyz"]

    scan, image = data["LIDAR"]["point_cloud"], data[camera]["image"]
    points = np.load(folder / scan["filename"])["data"][:, :3]
    rotation, place = parts(scan["pose"])
    world = rotation.apply(points) + place
    rotation, place = parts(image["pose"])
    seen = rotation.inv().apply(world - place)
    seen = seen[seen[:, 2] > 0]
    u = (k["fx"] * seen[:, 0] / seen[:, 2] + k["cx"]).astype(int)
    v = (k["fy"] * seen[:, 1] / seen[:, 2] + k["cy"]).astype(int)
    inside = (u >= 0) & (u < image["width"]) & (v >= 0) & (v < image["height"])
    depth = np.zeros((image["height"], image["width"]))
    farthest_first = np.flatnonzero(inside)[np.argsort(-seen[inside, 2])]
    for point in farthest_first:  # nearer points overwrite
        depth[v[point], u[point]] = seen[point, 2]
    return depth, len(farthest_first)


def test_projection_agrees_with_a_second_one_and_with_the_data_s_facts(root: Path) -> None:
    points, nearest, farthest = [], [], []
    for name in (STANDING, MOVING):
        scene = DdadScene(root / name)
        for camera in scene.cameras:
            for frame in scene.frames(camera):
                depth = frame.lidar_depth()
                expected, count = plain_depth(root, name, frame.number, camera)
                assert depth.shape == (1216, 1936)
                assert depth.dtype == np.float32
                # A point on the edge of a pixel may fall to either side in the last bit.
                assert ((depth > 0) != (expected > 0)).sum() <= 1
                both = (depth > 0) & (expected > 0)
                assert np.abs(depth - expected)[both].max() < 1e-4
                assert 0.99 < both.sum() / count < 1
                points.append(count)
                nearest.append(depth[depth > 0].min())
                farthest.append(depth.max())
    assert len(points) == 27
    # From the data's description: 4,800 to 12,700 points a frame, 2.4 to 231 m away.
    assert (round(min(points), -2), round(max(points), -2)) == (4800, 12700)
    assert min(nearest) == pytest.approx(2.4, abs=0.05)
    assert max(farthest) == pytest.approx(231, abs=0.5)


def grey(frame: DdadFrame) -> np.ndarray:
    with Image.open(frame.image) as image:
        return np.asarray(image.convert("L"), dtype=np.float64)


def moved(frame: DdadFrame, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (2, N) with lidar, where they lie after a motion (2, N), and their depth then (N,)."""
    fx, fy, cx, cy = frame.intrinsics
    depth = frame.lidar_depth()
    v, u = np.nonzero((depth > 0) & (depth < 60))
    z = depth[v, u]
    points = np.stack([(u + 0.5 - cx) / fx * z, (v + 0.5 - cy) / fy * z, z])
    x, y, z = motion[:3, :3] @ points + motion[:3, 3:]
    there = np.stack([fx * x / z + cx, fy * y / z + cy]).astype(int)
    inside = (
        (there[0] >= 0) & (there[0] < frame.width) & (there[1] >= 0) & (there[1] < frame.height)
    )
    return np.stack([u, v])[:, inside], there[:, inside], z[inside]


def test_lidar_and_poses_explain_the_next_picture(moving: DdadScene) -> None:
    """Moved by lidar depth and pose, pixels look as in the next image; unmoved they do not."""
    for camera in moving.cameras:
        frames = moving.frames(camera)
        for target, source in pairwise(frames):
            motion = T_target_to_source(target, source)
            errors = []
            for guess in (motion, np.eye(4), np.linalg.inv(motion)):
                (u, v), (p, q), _ = moved(target, guess)
                errors.append(np.abs(grey(target)[v, u] - grey(source)[q, p]).mean())
            assert errors[0] < 0.7 * min(errors[1:]), (camera, target.number, errors)


def test_scans_of_neighbours_agree(moving: DdadScene) -> None:
    """The scan of one sample, moved to the next one, lies on what the next one measured."""
    medians = []
    for direction in (1, -1):
        differences = []
        for camera in moving.cameras:
            target, source = moving.frames(camera)[:2]
            motion = T_target_to_source(target, source)
            _, (p, q), z = moved(target, motion if direction == 1 else np.linalg.inv(motion))
            measured = source.lidar_depth()[q, p]
            known = measured > 0
            differences.append(np.abs(measured - z)[known] / z[known])
        assert len(np.concatenate(differences)) > 500
        medians.append(float(np.median(np.concatenate(differences))))
    assert medians[0] < 0.01 < 0.025 < medians[1]


def test_nearest_point_wins_and_what_is_outside_is_dropped() -> None:
    points = np.array(
        [
            [0.0, 0.0, 9.0],  # pixel (2, 1), hidden by the next one, which hides the third
            [0.0, 0.0, 4.0],
            [0.0, 0.0, 7.0],
            [0.0, 0.0, -4.0],  # behind
            [-2.6, 0.0, 1.0],  # column -0.6 is cut to 0, as DGP does
            [-3.1, 0.0, 1.0],  # column -1.1 is outside
            [1.99, 0.99, 1.0],  # last pixel
            [2.0, 0.0, 1.0],  # first column outside
            [0.0, 1.0, 1.0],  # first row outside
            [1.0, 0.0, 0.0],  # in the plane of the camera
        ]
    )
    depth = ddad.project_lidar(points, np.eye(4), (1.0, 1.0, 2.0, 1.0), 2, 4)
    assert np.array_equal(depth, [[0, 0, 0, 0], [1, 0, 4, 1]])


# Splits


def test_held_out_scenes_are_whole_and_spread() -> None:
    scenes = [f"{n:06d}" for n in range(150)]
    train, val = ddad.hold_out(scenes, 5)
    assert val == ["000015", "000045", "000075", "000105", "000135"]
    assert len(train) == 145
    assert not set(train) & set(val)
    assert ddad.hold_out(scenes, 0) == (scenes, [])
    with pytest.raises(FadepthError, match=r"held_out_scenes' is 150 but there are only 150"):
        ddad.hold_out(scenes, 150)


def test_scene_in_both_splits_is_refused(root: Path) -> None:
    """The sample's own list has both scenes twice: evaluation would see training frames."""
    with pytest.raises(FadepthError, match=r"has scene_01/.* for training and for validation"):
        ddad.read_scene_list(root / "scene_dataset_v1.0.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not readable JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "names no scenes in 'scene_splits' 0"),
        ('{"scene_splits": {"0": {"filenames": ["a"]}}}', "names no scenes"),
        ('{"scene_splits": {"0": {"filenames": []}, "1": {"filenames": ["a"]}}}', "names no sc"),
    ],
)
def test_broken_scene_list(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ddad.json").write_text(text)
    with pytest.raises(FadepthError, match=rf"scene list .*ddad\.json {message}"):
        ddad.read_scene_list(tmp_path / "ddad.json")


# Manifest


def test_manifest_of_ddad(copy: Path) -> None:
    manifest = prepare_data(settings(), copy / "m.json", base=copy)
    assert {split: len(frames) for split, frames in manifest.splits.items()} == {
        "train": 1, "val": 0, "test": 3,
    }  # fmt: skip
    (frame,) = manifest.splits["train"]
    assert str(frame) == "scene_02 0000000001 CAMERA_01"
    assert frame.image == IMAGE
    assert frame.neighbours == {
        -1: "scene_02/rgb/CAMERA_01/15616458249936530.jpg",
        1: "scene_02/rgb/CAMERA_01/15616458251936472.jpg",
    }
    assert frame.velodyne == SCAN
    assert all(frame.neighbours == {} for frame in manifest.splits["test"])
    listed = {IMAGE, SCAN, MOVING, CALIBRATION, STANDING, *frame.neighbours.values()}
    assert listed <= set(manifest.files)
    # Of each scene its file, calibration and 3 images; of one scene 3 scans, of the other 1.
    assert len(manifest.files) == 14
    again = Manifest.read(copy / "m.json")
    assert again == manifest
    truth = load_ground_truth(
        again.splits["train"][0], copy / "data", find_protocol("ddad_nearest")
    )
    expected = DdadScene(copy / "data" / MOVING).frames()[1].lidar_depth()
    assert np.array_equal(truth, expected)


def test_held_out_scenes_make_val(copy: Path) -> None:
    third = copy / "data" / MOVING.replace("scene_02/", "scene_03/")
    shutil.copytree(copy / "data/scene_02", third.parent)
    write_scene_list(
        copy / "ddad.json", [MOVING, str(third.relative_to(copy / "data"))], [STANDING]
    )
    manifest = prepare_data(settings(held_out_scenes=1), copy / "m.json", base=copy)
    assert [frame.drive for frame in manifest.splits["train"]] == ["scene_02"]
    assert [frame.drive for frame in manifest.splits["val"]] == ["scene_03"]
    assert {frame.drive for frame in manifest.splits["test"]} == {"scene_01"}


def test_training_samples_have_the_resized_camera(copy: Path) -> None:
    config = settings()
    manifest = prepare_data(config, copy / "m.json", base=copy)
    frames = TrainingFrames(manifest.splits["train"], copy / "data", config, seed=1)
    sample = frames[0, 0]
    assert sample["target"].shape == (3, 96, 160)
    assert sample["sources"].shape == (2, 3, 96, 160)
    fx, fy = float(sample["intrinsics"][0, 0]), float(sample["intrinsics"][1, 1])
    assert fx == pytest.approx(2181.530254 * 160 / 1936)
    assert fy == pytest.approx(2181.603447 * 96 / 1216)


def test_identity_is_that_of_the_list_and_the_choice(copy: Path) -> None:
    first = data_identity(settings(), copy)
    shutil.rmtree(copy / "data")
    assert data_identity(settings(), copy) == first
    others = [
        data_identity(settings(cameras=("CAMERA_01", "CAMERA_05")), copy),
        data_identity(settings(held_out_scenes=1), copy),
        data_identity(settings().model_copy(update={"name": "other"}), copy),
    ]
    write_scene_list(copy / "ddad.json", [STANDING], [MOVING])
    assert len({first, *others, data_identity(settings(), copy)}) == 5
    (copy / "ddad.json").unlink()
    with pytest.raises(FadepthError, match=r"ddad\.json does not exist: set 'data\.splits' to the"):
        data_identity(settings(), copy)


def test_missing_root_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "data")
    with pytest.raises(FadepthError, match=r"data does not exist: set 'data\.root' .*000000"):
        prepare_data(settings(), copy / "m.json", base=copy)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def skew(content: Any) -> None:
    content["intrinsics"][1]["skew"] = 0.5


def no_names(content: Any) -> None:
    del content["names"]


def no_samples(content: Any) -> None:
    content["samples"] = []


def lost_datum(content: Any) -> None:
    del content["data"][1]


def no_pose(content: Any) -> None:
    del content["data"][1]["datum"]["image"]["pose"]


def long_quaternion(content: Any) -> None:
    content["data"][1]["datum"]["image"]["pose"]["rotation"]["qw"] = 3.0


def other_size(content: Any) -> None:
    for datum in content["data"]:
        if "image" in datum["datum"]:
            datum["datum"]["image"]["width"] = 1935


@pytest.mark.parametrize(
    ("path", "damage", "message"),
    [
        (IMAGE, Path.unlink, "6520.jpg cannot be read .No such file"),
        (IMAGE, cut, "6520.jpg is damaged"),
        (SCAN, Path.unlink, "8358.npz cannot be read .No such file"),
        (SCAN, cut, "8358.npz is damaged"),
        (CALIBRATION, Path.unlink, "calibration file .*2989d8.json does not exist"),
        (CALIBRATION, cut, "calibration file .*2989d8.json is not readable JSON"),
        (CALIBRATION, no_names, "2989d8.json does not give fx, fy, cx and cy"),
        (CALIBRATION, skew, "2989d8.json gives skew or distortion for CAMERA_01"),
        (MOVING, Path.unlink, "scene file .*13624.json does not exist"),
        (MOVING, cut, "scene file .*13624.json is not readable JSON"),
        (MOVING, no_samples, "13624.json lists no samples"),
        (MOVING, lost_datum, "13624.json is not as DGP writes it .KeyError"),
        (MOVING, no_pose, "13624.json is not as DGP writes it .KeyError: 'pose'"),
        (MOVING, long_quaternion, "13624.json is not as .*quaternion has length"),
        (MOVING, other_size, "jpg is 1936 x 1216 pixels but its scene file says 1935 x 1216"),
    ],
)
def test_damage_is_named(
    copy: Path, path: str, damage: Callable[[Any], None], message: str
) -> None:
    file = copy / "data" / path
    damage(file) if damage in (Path.unlink, cut) else edit(file, damage)
    with pytest.raises(FadepthError, match=message):
        prepare_data(settings(), copy / "m.json", base=copy)
    assert not (copy / "m.json").exists()


def test_absent_camera_is_told_with_those_that_there_are(copy: Path) -> None:
    write_scene_list(copy / "ddad.json", [STANDING], [MOVING])
    with pytest.raises(FadepthError, match=r"sample 0 of .* has no camera CAMERA_07: .*_06$"):
        prepare_data(settings(cameras=("CAMERA_07",)), copy / "m.json", base=copy)


def test_scan_of_another_kind_is_refused(tmp_path: Path) -> None:
    for name, data in {"flat": np.zeros(4), "empty": np.zeros((0, 4))}.items():
        np.savez(tmp_path / f"{name}.npz", data=data)
        with pytest.raises(FadepthError, match=rf"{name}\.npz holds an array of shape"):
            ddad.read_point_cloud(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "other.npz", points=np.zeros((3, 4)))
    with pytest.raises(FadepthError, match=r"other\.npz is damaged"):
        ddad.read_point_cloud(tmp_path / "other.npz")
