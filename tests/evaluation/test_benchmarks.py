"""Make3D and Cityscapes end to end: files in their formats, frames, protocol, numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import loadmat

from fadepth.config import BenchmarkSettings
from fadepth.data.manifest import Frame, Manifest
from fadepth.data.prepare import benchmark_identity, benchmark_root, prepare_benchmark
from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import evaluate, predict_disparity
from fadepth.evaluation.protocols import find_protocol
from tests.data.fixtures import write_cityscapes, write_make3d


def prepared(root: Path, source: Any, output: Path, **changes: Any) -> list[Frame]:
    settings = BenchmarkSettings(source=source, root=str(root), protocol=source, **changes)
    prepare_benchmark(source, settings, output, base=root)
    return Manifest.read(output).splits["test"]


def ramp(frame: Frame) -> NDArray[np.float64]:
    """A disparity of network size that no symmetry helps: it differs by row and by column."""
    rows, columns = np.mgrid[0:48, 0:96]
    return np.asarray(0.02 + rows / 400 + columns / 3000)


def test_make3d_agrees_with_a_second_implementation(tmp_path: Path) -> None:
    """peers.md's recipe, written with plain loops: nearest, 70 m, median, log10 RMSE."""
    write_make3d(tmp_path / "make3d", 4)
    frames = prepared(tmp_path / "make3d", "make3d", tmp_path / "m.jsonl")
    assert len(frames) == 4
    assert all(frame.intrinsics is None for frame in frames)
    protocol = find_protocol("make3d")
    table, mean = evaluate(frames, tmp_path / "make3d", ramp, protocol)
    assert list(mean) == ["abs_rel", "sq_rel", "rmse", "rmse_log10"]
    for frame, row in zip(frames, table.to_dict("records"), strict=True):
        grid = loadmat(tmp_path / "make3d" / str(frame.depth_file))["Position3DGrid"]
        gt = grid[17:38, :, 3].astype(np.float32)
        depth = 1 / ramp(frame)
        g, p = [], []
        for i in range(21):
            for j in range(305):
                if 0 < gt[i, j] < 70:
                    g.append(float(gt[i, j]))
                    p.append(float(depth[i * 48 // 21, j * 96 // 305]))
        truth, prediction = np.array(g), np.array(p)
        prediction = np.minimum(prediction * np.median(truth) / np.median(prediction), 70)
        error = np.log10(truth) - np.log10(prediction)
        assert row["rmse_log10"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
        assert row["abs_rel"] == pytest.approx((abs(truth - prediction) / truth).mean(), rel=1e-9)


def test_cityscapes_agrees_with_a_second_implementation(tmp_path: Path) -> None:
    """ManyDepth's recipe: three quarters of the rows, resize, centre crop, 80 m, median."""
    write_cityscapes(tmp_path / "cs", 2)
    frames = prepared(tmp_path / "cs", "cityscapes", tmp_path / "m.jsonl")
    protocol = find_protocol("cityscapes")
    table, _ = evaluate(frames, tmp_path / "cs", ramp, protocol)
    for frame, row in zip(frames, table.to_dict("records"), strict=True):
        whole = np.asarray(Image.open(tmp_path / "cs" / str(frame.depth_file))).astype(float)
        camera = _camera(tmp_path / "cs" / str(frame.camera_file))
        with np.errstate(divide="ignore"):
            depth = np.where(whole > 1, camera / ((whole - 1) / 256), 0)
        gt = depth[:768]
        # cv2.resize: the source position of output pixel x is (x + 0.5) * scale - 0.5, clamped.
        y = np.clip((np.arange(768) + 0.5) * 48 / 768 - 0.5, 0, 47)
        x = np.clip((np.arange(2048) + 0.5) * 96 / 2048 - 0.5, 0, 95)
        disparity = 0.02 + y[:, None] / 400 + x[None] / 3000  # linear, so bilinear is exact
        prediction = (1 / disparity)[256:, 192:1856]
        gt = gt[256:, 192:1856]
        mask = (gt > 1e-3) & (gt < 80)
        g, p = gt[mask], prediction[mask]
        p = np.clip(p * np.median(g) / np.median(p), 1e-3, 80)
        assert row["abs_rel"] == pytest.approx((abs(g - p) / g).mean(), rel=1e-6)
        assert row["delta_1"] == pytest.approx((np.maximum(g / p, p / g) < 1.25).mean(), rel=1e-6)


def test_the_network_sees_the_part_that_the_ground_truth_shows(tmp_path: Path) -> None:
    """Rows 710:1562 of Make3D's images, the upper three quarters of Cityscapes'."""
    write_make3d(tmp_path / "make3d", 1)
    write_cityscapes(tmp_path / "cityscapes", 1)
    for source, rows in (("make3d", slice(710, 1562)), ("cityscapes", slice(0, 768))):
        frame = prepared(tmp_path / source, source, tmp_path / f"{source}.jsonl")[0]
        seen: list[torch.Tensor] = []

        def network(image: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(image)
            return image[:, :1] + 0.1

        predict_disparity(network, frame, tmp_path / source, (64, 96), find_protocol(source))
        with Image.open(tmp_path / source / frame.image) as whole:
            part = Image.fromarray(np.asarray(whole.convert("RGB"))[rows])
        expected = np.asarray(part.resize((96, 64), Image.Resampling.LANCZOS)) / 255
        np.testing.assert_allclose(seen[0][0].permute(1, 2, 0), expected, atol=1e-6)


def _camera(path: Path) -> float:
    import json

    content = json.loads(path.read_text())
    return float(content["extrinsic"]["baseline"] * content["intrinsic"]["fx"])


def test_a_list_makes_another_identity_and_its_place_does_not(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
    of = {
        name: benchmark_identity(
            BenchmarkSettings(source="make3d", root="r", frames=name, protocol="make3d"), tmp_path
        )
        for name in ("a", "b", "c")
    }
    assert of["a"] == of["b"] != of["c"]
    gone = BenchmarkSettings(source="make3d", root="r", frames="d", protocol="make3d")
    with pytest.raises(FadepthError, match=r"list of frames .*d does not exist: set 'benchmarks"):
        benchmark_identity(gone, tmp_path)


def test_damaged_ground_truth_is_found_before_any_evaluation(tmp_path: Path) -> None:
    write_make3d(tmp_path / "make3d", 2)
    broken = next((tmp_path / "make3d").rglob("*.mat"))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(FadepthError, match=broken.name):
        prepared(tmp_path / "make3d", "make3d", tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_files_that_changed_since_the_manifest_are_refused(tmp_path: Path) -> None:
    write_make3d(tmp_path / "make3d", 2)
    frames = prepared(tmp_path / "make3d", "make3d", tmp_path / "m.jsonl")
    files = Manifest.read(tmp_path / "m.jsonl").files
    root = tmp_path / "make3d"
    evaluate(frames, root, ramp, "make3d", files=files)
    (root / str(frames[1].depth_file)).write_bytes((root / str(frames[0].depth_file)).read_bytes())
    with pytest.raises(FadepthError, match=rf"{frames[1].drive}.mat has changed since the data"):
        evaluate(frames, root, ramp, "make3d", files=files)


def test_a_missing_folder_is_told_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"nowhere does not exist: set 'benchmarks.make3d.root'"):
        prepared(tmp_path / "nowhere", "make3d", tmp_path / "m.jsonl")


STREET = {"scenes": {"train": 1, "val": 1, "test": 1}, "frames": {"train": 3, "val": 3, "test": 3}}


def street(seed: int, **changes: Any) -> BenchmarkSettings:
    settings = {"source": "synthetic", "root": "streets", "protocol": "synthetic_full"}
    described = STREET | {"seed": seed, "height": 32, "width": 64}
    return BenchmarkSettings.model_validate(settings | {"synthetic": described} | changes)


def test_a_rendered_street_is_a_benchmark_of_its_test_scenes(tmp_path: Path) -> None:
    """Another seed is another street in another folder; a title is neither."""
    manifest = prepare_benchmark("b", street(7), tmp_path / "b.jsonl", base=tmp_path)
    # Three frames, of which the middle one has both neighbours.
    assert len(manifest.splits["test"]) == 1
    assert not manifest.splits["train"]
    root = benchmark_root(street(7), tmp_path)
    assert Path(manifest.root) == root
    table, mean = evaluate(manifest.splits["test"], root, ramp, find_protocol("synthetic_full"))
    assert len(table) == 1
    assert 0 < mean["abs_rel"] < 10
    titled = street(7, title="street B")
    assert benchmark_identity(titled, tmp_path) == benchmark_identity(street(7), tmp_path)
    assert benchmark_identity(street(8), tmp_path) != benchmark_identity(street(7), tmp_path)
    assert benchmark_root(street(8), tmp_path) != root


def test_only_a_street_is_described_by_a_street() -> None:
    with pytest.raises(ValueError, match="with source: synthetic, and only then"):
        street(7, source="make3d")
    with pytest.raises(ValueError, match="with source: synthetic, and only then"):
        street(7, synthetic=None)
