"""What the rules of workflow/rules/evaluate.smk do: compare depth and motion with ground truth."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fadepth.arrays import mapped_array
from fadepth.config import expand, find_benchmark
from fadepth.data.kitti import read_image
from fadepth.data.kitti_odometry import read_sequence, seen_in_training
from fadepth.data.kitti_splits import identify_frames
from fadepth.data.manifest import Frame, Manifest, evenly_spread
from fadepth.devices import hold_device
from fadepth.errors import FadepthError
from fadepth.evaluation.baselines import BaselineKind, fit_baseline
from fadepth.evaluation.complexity import count_parameters
from fadepth.evaluation.evaluate import (
    NetworkPredictor,
    Predict,
    PredictImage,
    batch_for,
    depth_at,
    evaluate,
    image_function,
    read_input,
)
from fadepth.evaluation.grid import grid_metrics
from fadepth.evaluation.odometry import (
    predict_trajectory,
    segment_errors,
    snippet_ate,
    trajectory_ate,
)
from fadepth.evaluation.protocols import (
    Protocol,
    deciding_content,
    find_protocol,
    in_range,
    load_ground_truth,
    valid_pixels,
)
from fadepth.evaluation.robustness import evaluate_robustness, summary
from fadepth.execution.data import (
    data_root,
    tell_progress,
)
from fadepth.execution.train import set_threads, write_settings
from fadepth.files import atomic_path, file_digest, write_atomic
from fadepth.fingerprint import digest
from fadepth.models import fold
from fadepth.provenance import RunManifest
from fadepth.report.panels import draw_panel
from fadepth.run import TRAINED, Run
from fadepth.training import (
    choose_device,
    load_depth_network,
    load_pose_network,
    source_poses,
)

if TYPE_CHECKING:
    from pandas import DataFrame


log = logging.getLogger(__name__)


def network_function(model: Path, device: torch.device) -> tuple[PredictImage, int]:
    """A trained network, folded, as a function from images to inverse depth; its parameters."""
    network, _ = load_depth_network(model)
    network = fold(network)
    return image_function(network, device), count_parameters(network)


def network_predictor(run: Run, runs: Path, root: Path, protocol: Protocol) -> tuple[Predict, int]:
    """Folded network of a run as a function from frames to disparity, and its parameters."""
    hold_device(run.config.training.device, f"evaluate {run.id}")
    device = choose_device(run.config.training.device)
    network, parameters = network_function(runs / run.id / "model.pt", device)
    size = run.config.data.height, run.config.data.width
    return NetworkPredictor(network, root, size, protocol, batch_for(size)), parameters


def readers(threads: int) -> int:
    """Threads that read ahead: those granted beside the main one, which also drives the network."""
    # A GPU works on its own: what would wait for it can read.
    return max(threads - 1, int(torch.cuda.is_initialized()))


def baseline_predictor(
    run: Run, manifest: Manifest, root: Path, protocol: Protocol
) -> tuple[Predict, int]:
    """A map fitted to the training frames' ground truth, the same for every frame."""
    kind, config = cast(BaselineKind, run.slug), run.config.data
    frames = manifest.splits["train"]
    fitted = fit_baseline(kind, frames, root, protocol, config.height, config.width)
    log.info("%s: fitted to %d frames with ground truth", run.slug, fitted.frames_used)
    return fitted, 0


def read_predictions(path: Path, frames: Sequence[Frame]) -> Predict:
    """Saved disparities of somebody else's network as a function from frames.

    Args:
        path: .npy, (images, h, w), scaled disparity (1 / depth up to a factor), in the order of the
            list; what monodepth2's `evaluate_depth.py --save_pred_disps` writes.
        frames: the list.

    Raises:
        FadepthError: the file is no such array, or is of another number of images.
    """
    maps = mapped_array(path, "save disparities there, (images, h, w)")
    if maps.ndim != 3 or len(maps) != len(frames):
        raise FadepthError(
            f"{path} has shape {maps.shape}: expected one disparity map for each of "
            f"{len(frames)} images, ({len(frames)}, height, width), in the order of the list"
        )
    places = {str(frame): place for place, frame in enumerate(frames)}
    return lambda frame: np.asarray(maps[places[str(frame)]], dtype=np.float64)


def evaluate_run(run: Run, runs: Path, manifest_path: Path, threads: int) -> None:
    """Rule `evaluate_run`: metrics on the evaluation split, per image and in the mean."""
    set_threads(threads)
    manifest = Manifest.read(manifest_path)
    root = data_root(run.config.data)
    settings = run.config.evaluation
    protocol = find_protocol(settings.protocol)
    folder = runs / run.id
    frames = manifest.splits[settings.split]
    if run.kind not in TRAINED:
        record = RunManifest(run, folder, manifest.content_hash, threads)
        write_settings(run, folder)
        if run.kind == "official":
            predict = read_predictions(Path(expand(run.predictions or "")), frames)
            known: int | None = None
        else:
            predict, known = baseline_predictor(run, manifest, root, protocol)
        parameters = known or 0
        record.write(status="finished", ended=time.time(), parameters_inference=known)
    else:
        predict, parameters = network_predictor(run, runs, root, protocol)
    per_image, mean = evaluate(
        frames, root, predict, protocol, tell_progress("image"), manifest.files,
        workers=readers(threads),
    )  # fmt: skip
    draw_run_panels(run, folder, frames, root, predict, protocol)
    said: dict[str, str | int] = {"split": settings.split, "dataset": run.config.data.name}
    if run.kind in TRAINED:
        said["model_sha256"] = file_digest(folder / "model.pt")
    write_evaluation(folder, run, protocol, per_image, mean, manifest, parameters, said, frames)


def write_evaluation(
    folder: Path,
    run: Run,
    protocol: Protocol,
    per_image: "DataFrame",
    mean: dict[str, float],
    manifest: Manifest,
    parameters: int,
    said: dict[str, str | int],
    frames: Sequence[Frame],
) -> None:
    """`per_image.csv` and `metrics.json`, the latter last; `said` tells which frames they are."""
    with atomic_path(folder / "per_image.csv") as temporary:
        per_image.to_csv(temporary, index=False)
    content: dict[str, Any] = {
        "run_id": run.id,
        "protocol": protocol.name,
        "protocol_digest": digest(deciding_content(protocol)),
        **said,
        "images": len(per_image),
        "images_published": protocol.images,
        "is_published_list": is_published_list(frames, protocol),
        "scale": run.config.scale,
        "seed": run.seed,
        "data_hash": manifest.content_hash,
        "parameters": parameters,
        "metrics": mean,
    }
    write_atomic(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    listed = ""
    if content["is_published_list"] is False:
        listed = f", not the {protocol.images} of the published list"
    first = next(iter(mean))
    log.warning(
        "%s %.4f over %d images%s (%s); results are in %s",
        first, mean[first], len(per_image), listed, protocol.name, folder,
    )  # fmt: skip


def is_published_list(frames: Sequence[Frame], protocol: Protocol) -> bool | None:
    """Whether these are the images of the published numbers; None where it cannot be told.

    KITTI's lists are compared frame by frame. Of other data only the number of images is known.
    """
    if protocol.images is None:
        return None
    if protocol.data == ("kitti",):
        found = identify_frames([frame.id for frame in frames])
        return found is not None and found.entries == protocol.images
    return None if len(frames) == protocol.images else False


def evaluate_benchmark(
    run: Run, name: str, runs: Path, manifest_path: Path, trained_on: Path, threads: int
) -> None:
    """Rule `evaluate_benchmark`: a trained network on frames of another list or data set."""
    set_threads(threads)
    settings = find_benchmark(run.config, name)
    protocol = find_protocol(settings.protocol)
    manifest = Manifest.read(manifest_path)
    root = Path(manifest.root)
    predict, parameters = network_predictor(run, runs, root, protocol)
    frames = manifest.splits["test"]
    per_image, mean = evaluate(
        frames, root, predict, protocol, tell_progress("image"), manifest.files,
        workers=readers(threads),
    )  # fmt: skip
    folder = runs / run.id / "benchmarks" / name
    draw_run_panels(run, folder, frames, root, predict, protocol)
    seen = frames_seen(frames, Manifest.read(trained_on))
    if seen:
        log.warning("%d of %d frames are of drives that the run was trained on", seen, len(frames))
    said: dict[str, str | int] = {
        "benchmark": name,
        "dataset": settings.source,
        "trained_on": run.config.data.name,
        "frames_of_training_drives": seen,
        "model_sha256": file_digest(runs / run.id / "model.pt"),
    }
    write_evaluation(folder, run, protocol, per_image, mean, manifest, parameters, said, frames)


def frames_seen(frames: list[Frame], trained_on: Manifest) -> int:
    """How many frames are of drives (KITTI) or scenes (DDAD) that a network was trained on."""
    drives = {frame.drive for frame in trained_on.splits["train"]}
    return sum(frame.drive in drives for frame in frames)


def measure_robustness(
    run: Run, runs: Path, manifest_path: Path, teacher: Path | None, threads: int
) -> None:
    """Rule `evaluate_robustness`: the run on mirrored, relit and small frames, and its teacher."""
    set_threads(threads)
    manifest = Manifest.read(manifest_path)
    settings, data = run.config.evaluation, run.config.data
    hold_device(run.config.training.device, f"evaluate {run.id}")
    device = choose_device(run.config.training.device)
    network, _ = network_function(runs / run.id / "model.pt", device)
    # A mirrored pass would hide what the mirrored condition is there to show.
    protocol = find_protocol(settings.protocol).model_copy(update={"post_process": False})
    table = evaluate_robustness(
        manifest.splits[settings.split],
        data_root(data),
        network,
        (data.height, data.width),
        protocol,
        network_function(teacher, device)[0] if teacher else None,
        workers=readers(threads),
    )
    with atomic_path(runs / run.id / "robustness_per_image.csv") as temporary:
        table.to_csv(temporary, index=False)
    content = {
        "run_id": run.id,
        "model_sha256": file_digest(runs / run.id / "model.pt"),
        "protocol": settings.protocol,
        "post_process": protocol.post_process,
        "split": settings.split,
        "images": len(manifest.splits[settings.split]),
        "images_published": protocol.images,
        "is_published_list": is_published_list(manifest.splits[settings.split], protocol),
        "scale": run.config.scale,
        "seed": run.seed,
        "teacher": teacher.parent.name if teacher else None,
        "conditions": summary(table),
    }
    write_atomic(runs / run.id / "robustness.json", json.dumps(content, indent=1) + "\n")


def evaluate_grid(run: Run, runs: Path, threads: int) -> None:
    """Rule `evaluate_grid`: traces of a grid in the run's disparity of smooth images."""
    set_threads(threads)
    model = runs / run.id / "model.pt"
    network, _ = load_depth_network(model)
    height, width = run.config.data.height, run.config.data.width
    found = grid_metrics(fold(network), height, width)
    content = {
        "run_id": run.id,
        "model_sha256": file_digest(model),
        "height": height,
        "width": width,
        **found._asdict(),
    }
    write_atomic(runs / run.id / "grid.json", json.dumps(content, indent=1) + "\n")


def draw_run_panels(
    run: Run, folder: Path, frames: list[Frame], root: Path, predict: Predict, protocol: Protocol
) -> None:
    """`panels/00.png` and so on: a few frames of the list, the same for every run."""
    for number, frame in enumerate(evenly_spread(frames, run.config.evaluation.panels)):
        draw_run_panel(run, folder / "panels" / f"{number:02d}.png", frame, root, predict, protocol)


def draw_run_panel(
    run: Run, path: Path, frame: Frame, root: Path, predict: Predict, protocol: Protocol
) -> None:
    """Input, disparity and error of one frame; the same frames and file names for every run."""
    disparity = predict(frame)
    error = relative_error(frame, root, disparity, protocol)
    image = np.asarray(read_image(root / frame.image))
    if protocol.image_crop:
        image = image[protocol.image_crop.slices(*image.shape[:2])]
    title = f"{run.label}, {frame}"
    draw_panel(path, image, disparity, error, title=title)


def relative_error(
    frame: Frame, root: Path, disparity: NDArray[np.floating], protocol: Protocol
) -> NDArray[np.float64]:
    """|prediction - truth| / truth after scaling, (H, W); NaN without ground truth."""
    truth = load_ground_truth(frame, root, protocol)
    depth = depth_at(disparity, truth.shape, protocol)
    valid, known = valid_pixels(truth, protocol), in_range(truth, protocol)
    depth = depth * protocol.ratio(truth[valid], depth[valid])
    error = np.full(truth.shape, np.nan)
    error[known] = np.abs(depth[known] - truth[known]) / truth[known]
    return error


# Odometry


def pose_predictor(
    model: Path, size: tuple[int, int], device: torch.device
) -> Callable[[Path, Path], NDArray[np.float64]]:
    """The run's pose network as a function of two images: T_(t+1)_to_t (4, 4)."""
    network, config = load_pose_network(model)
    network = network.to(device)

    @lru_cache(maxsize=2)  # each image is the second of one pair and the first of the next
    def image(path: Path) -> Tensor:
        return read_input(path, size)

    @torch.inference_mode()
    def predict(first: Path, second: Path) -> NDArray[np.float64]:
        batch = {
            "target_input": image(second).to(device),
            "source_inputs": image(first)[:, None].to(device),
        }
        motion = source_poses(network, batch, (-1,), config.pose)[0][0]
        return motion.double().cpu().numpy()

    return predict


def evaluate_odometry(run: Run, name: str, runs: Path, trained_on: Path, threads: int) -> None:
    """Rule `evaluate_odometry`: the pose network's trajectory against ground truth."""
    from fadepth.report.odometry_figure import draw_trajectory  # matplotlib's figures: a second

    set_threads(threads)
    settings, data = run.config.odometry, run.config.data
    raw = Path.cwd() / expand(settings.raw_root) if settings.raw_root else None
    sequence = read_sequence(Path.cwd() / expand(settings.root), name, raw)
    drives = {frame.drive for frame in Manifest.read(trained_on).splits["train"]}
    seen = seen_in_training(name, drives)
    if seen:
        log.warning("sequence %s is of a drive that the run was trained on", name)
    hold_device(run.config.training.device, f"evaluate {run.id}")
    device = choose_device(run.config.training.device)
    predict = pose_predictor(runs / run.id / "model.pt", (data.height, data.width), device)
    poses = predict_trajectory(sequence, predict, tell_progress("pair"))
    snippets = snippet_ate(sequence.poses, poses)
    segments = segment_errors(sequence.poses, poses)
    folder = runs / run.id / "odometry" / name
    with atomic_path(folder / "per_snippet.csv") as temporary:
        snippets.table.to_csv(temporary, index=False)
    with atomic_path(folder / "trajectory.txt") as temporary:
        np.savetxt(temporary, poses[:, :3].reshape(len(poses), 12), fmt="%.9e")
    draw_trajectory(folder / "trajectory.png", sequence, poses, run.label)
    content: dict[str, Any] = {
        "run_id": run.id,
        "sequence": name,
        "images": len(sequence.images),
        "trained_on": data.name,
        "seen_in_training": seen,
        "scale": run.config.scale,
        "seed": run.seed,
        "metrics": {
            "snippet_ate_mean": snippets.mean,
            "snippet_ate_std": snippets.std,
            "ate_sim3": trajectory_ate(sequence.poses, poses, "sim3"),
            "ate_scale": trajectory_ate(sequence.poses, poses, "scale"),
            "t_rel": none_if_nan(segments.t_rel),
            "r_rel": none_if_nan(segments.r_rel),
        },
    }
    write_atomic(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    log.warning(
        "sequence %s: 5-frame ATE %.4f +- %.4f m; whole trajectory, aligned by rotation and scale, "
        "%.2f m, by scale alone %.2f m; results are in %s",
        name, snippets.mean, snippets.std, content["metrics"]["ate_sim3"],
        content["metrics"]["ate_scale"], folder,
    )  # fmt: skip


def none_if_nan(value: float) -> float | None:
    """JSON knows no NaN: a path too short for any segment has no error."""
    return None if np.isnan(value) else value
