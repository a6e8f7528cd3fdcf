"""Odometry of a run, end to end: images, pose network, chained poses, numbers and files."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from fadepth.data.kitti import FrameId, image_path, read_camera, read_split
from fadepth.data.kitti_odometry import oxts_to_camera, read_oxts
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError
from fadepth.evaluation.odometry import predict_trajectory
from fadepth.evaluation.protocols import find_protocol
from fadepth.execution import evaluate as stage
from fadepth.execution.evaluate import evaluate_odometry, read_predictions
from tests.tiny import tiny_config, tiny_manifest

DRIVE = "2011_09_26/2011_09_26_drive_0005_sync"
FRAMES = range(100, 112)


@pytest.fixture
def sequence(test_data: Path, tmp_path: Path) -> tuple[Path, NDArray[np.float64]]:
    """Sequence 04 in odometry's layout, made of twelve real images with their GPS poses."""
    kitti = test_data / "kitti_mini" / "kitti"
    oxts = sorted((kitti / DRIVE / "oxts" / "data").glob("*.txt"))
    first = [int(path.stem) for path in oxts].index(FRAMES[0])
    poses = oxts_to_camera(read_oxts(kitti / DRIVE / "oxts" / "data"), kitti / "2011_09_26")
    poses = poses[first : first + len(FRAMES)]
    poses = np.linalg.inv(poses[0]) @ poses
    root = tmp_path / "odometry"
    images = root / "sequences" / "04" / "image_2"
    images.mkdir(parents=True)
    for number, frame in enumerate(FRAMES):
        source = image_path(kitti, FrameId(DRIVE, frame, "l"))
        assert source is not None
        (images / f"{number:06d}.jpg").symlink_to(source)
    fx, fy, cx, cy = read_camera(kitti, FrameId(DRIVE, 100, "l")).intrinsics
    (root / "sequences" / "04" / "calib.txt").write_text(
        f"P2: {fx} 0 {cx} 45.0 0 {fy} {cy} -0.1 0 0 1 0.004\n"
    )
    (root / "poses").mkdir()
    np.savetxt(root / "poses" / "04.txt", poses[:, :3].reshape(-1, 12))
    return root, poses


@pytest.fixture
def run(sequence: tuple[Path, Any], tmp_path: Path) -> Any:
    config = tiny_config(tmp_path, odometry__root=str(sequence[0]), odometry__sequences=["04"])
    tiny_manifest(tmp_path).write(tmp_path / "m.jsonl")
    return SimpleNamespace(id="run", config=config, label="tiny", seed=1)


def evaluated(run: Any, tmp_path: Path) -> dict[str, Any]:
    evaluate_odometry(run, "04", tmp_path / "runs", tmp_path / "m.jsonl", 1)
    folder = tmp_path / "runs" / "run" / "odometry" / "04"
    assert (folder / "trajectory.png").stat().st_size > 1000
    snippets = pd.read_csv(folder / "per_snippet.csv")
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    assert content["metrics"]["snippet_ate_mean"] == pytest.approx(snippets["ate"].mean())
    return content


def motions_of(poses: NDArray[np.float64], scale: float) -> Callable[..., Any]:
    """A network that knows the way but, like a real one, not its length."""
    steps = [np.linalg.inv(a) @ b for a, b in itertools.pairwise(poses)]

    def predict(first: Path, second: Path) -> NDArray[np.float64]:
        motion = steps[int(first.stem)].copy()
        motion[:3, 3] *= scale
        return motion

    return lambda *_: predict


def test_true_motions_up_to_scale_have_no_error(
    run: Any, sequence: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "pose_predictor", motions_of(sequence[1], 0.1))
    content = evaluated(run, tmp_path)
    assert content["metrics"]["ate_sim3"] < 1e-6
    assert content["metrics"]["snippet_ate_mean"] < 1e-6
    assert content["metrics"]["t_rel"] is None  # shorter than 100 m
    assert content["images"] == len(FRAMES)
    assert content["seen_in_training"] is False


def test_motions_of_the_wrong_way_have_an_error(
    run: Any, sequence: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The direction of every motion matters: inverted ones drive backwards."""
    monkeypatch.setattr(stage, "pose_predictor", motions_of(np.linalg.inv(sequence[1]), 0.1))
    assert evaluated(run, tmp_path)["metrics"]["ate_sim3"] > 1e-3


def test_a_networks_poses_are_chained_in_the_order_of_time(
    run: Any, sequence: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pose network that always says 'one metre ahead' drives straight ahead (to +z)."""

    class Ahead(torch.nn.Module):
        def forward(self, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # Of the pair (t, t+1): points of camera t are one metre nearer in camera t+1.
            shift = torch.tensor([[0.0, 0.0, -1.0]]).expand(len(pairs), 3)
            return torch.zeros(len(pairs), 3), shift

    monkeypatch.setattr(stage, "load_pose_network", lambda path: (Ahead(), run.config))
    predict = stage.pose_predictor(tmp_path / "model.pt", (64, 96), torch.device("cpu"))
    poses = predict_trajectory(
        SimpleNamespace(  # type: ignore[arg-type]
            name="04", images=sorted((sequence[0] / "sequences/04/image_2").iterdir())
        ),
        predict,
    )
    expected = np.stack([np.zeros(len(FRAMES)), np.zeros(len(FRAMES)), np.arange(len(FRAMES))], 1)
    np.testing.assert_allclose(poses[:, :3, 3], expected, atol=1e-5)


def listed(path: Path) -> list[Frame]:
    return [
        Frame(f.drive, f.number, f.side, "i.png", {}, None, 1, 1, None, None)
        for f in read_split(path)
    ]


def test_published_lists_are_told_from_others(test_data: Path) -> None:
    """By every frame in its order: a list of the same length is not the same list."""
    raw, improved = find_protocol("kitti_eigen_raw"), find_protocol("kitti_eigen_improved")
    eigen = listed(test_data / "splits" / "eigen" / "test_files.txt")
    benchmark = listed(test_data / "splits" / "eigen_benchmark" / "test_files.txt")
    assert stage.is_published_list(eigen, raw) is True
    assert stage.is_published_list(benchmark, improved) is True
    assert stage.is_published_list(benchmark, raw) is False
    assert stage.is_published_list(eigen[:-1], raw) is False
    assert stage.is_published_list([*eigen[:-1], eigen[0]], raw) is False
    assert stage.is_published_list(eigen[:134], find_protocol("make3d")) is None
    assert stage.is_published_list(eigen[:133], find_protocol("make3d")) is False


def test_a_missing_sequence_is_told(run: Any, tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match="sequence 09 has neither"):
        evaluate_odometry(run, "09", tmp_path / "runs", tmp_path / "m.jsonl", 1)


def test_saved_disparities_are_read_in_the_order_of_the_list(tmp_path: Path) -> None:
    """Whatever order they are asked for in."""
    frames = tiny_manifest(tmp_path).splits["train"]
    maps = np.arange(len(frames), dtype=np.float32)[:, None, None] * np.ones((1, 4, 6), np.float32)
    np.save(tmp_path / "disparities.npy", maps + 1)
    predict = read_predictions(tmp_path / "disparities.npy", frames)
    for place, frame in reversed(list(enumerate(frames))):
        found = predict(frame)
        assert found.shape == (4, 6)
        assert (found == place + 1).all()
    with pytest.raises(FadepthError, match=r"expected one disparity map for each of 3 images"):
        read_predictions(tmp_path / "disparities.npy", frames[:3])
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(FadepthError, match=r"text\.npy is no array of numpy's"):
        read_predictions(tmp_path / "text.npy", frames)
