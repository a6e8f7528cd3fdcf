"""What each rule of the workflow does: read the files on its left, write those on its right."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from fadepth.checkpoint import Identity
from fadepth.config import Config, DataSettings, expand
from fadepth.data.dataset import TrainingFrames
from fadepth.data.kitti import read_image
from fadepth.data.manifest import Frame, Manifest, data_identity, prepare_data
from fadepth.errors import FadepthError
from fadepth.evaluation.baselines import BaselineKind, fit_baseline
from fadepth.evaluation.complexity import count_parameters
from fadepth.evaluation.evaluate import Predict, evaluate, network_input, resize_disparity
from fadepth.evaluation.protocols import Protocol, find_protocol, load_ground_truth, valid_pixels
from fadepth.evaluation.robustness import PredictImage, evaluate_robustness, summary
from fadepth.files import atomic_path, write_atomic
from fadepth.geometry import disparity_to_inverse_depth
from fadepth.models import fold
from fadepth.provenance import RunManifest
from fadepth.report.panels import draw_panel
from fadepth.study import Run, Study
from fadepth.targets import TargetsKey, checked_targets, make_targets, predict_targets
from fadepth.training import Interrupted, Job, Training, choose_device, load_depth_network

if TYPE_CHECKING:
    from fadepth.report.ablation import Row

log = logging.getLogger(__name__)


def set_threads(threads: int) -> None:
    """Torch uses exactly the threads that the workflow granted."""
    torch.set_num_threads(threads)


def data_root(settings: DataSettings) -> Path:
    """Folder of the raw data; a synthetic data set has one of its own for each identity."""
    root = Path.cwd() / expand(settings.root)
    return root / data_identity(settings, Path.cwd()) if settings.source == "synthetic" else root


def prepare_data_of(config: Config, output: Path, threads: int) -> None:
    """Rule `prepare_data`: render or check the data, and write the manifest."""
    settings = config.data
    if settings.source == "synthetic":
        settings = settings.model_copy(update={"root": str(data_root(settings))})

    def tell(done: int, total: int) -> None:
        log.info("%s: %d of %d", "scenes and files" if done < total else "done", done, total)

    manifest = prepare_data(settings, output, base=Path.cwd(), workers=threads, progress=tell)
    counts = ", ".join(f"{len(frames)} {split}" for split, frames in manifest.splits.items())
    log.info("%s frames listed in %s", counts, output)


def train_run(
    run: Run, runs: Path, manifest_path: Path, targets: Path | None, threads: int
) -> None:
    """Rules `train_teacher` and `train_student`: what `runs/<id>/` holds of one."""
    assert run.kind != "baseline", "baselines are fitted in their evaluation"
    set_threads(threads)
    manifest = Manifest.read(manifest_path)
    folder = runs / run.id
    folder.mkdir(parents=True, exist_ok=True)
    record = RunManifest(run, folder, manifest.content_hash, threads)
    record.started_earlier()
    write_settings(run, folder)
    record.write()
    try:
        digest = checked_targets_of(run, runs, manifest, targets) if targets else None
        identity = Identity(run.config_hash, manifest.content_hash, run.code_hash, digest)
        record.write(targets_hash=digest)
        job = Job(
            run.id, run.kind, run.config, run.seed, identity, folder, manifest,
            data_root(run.config.data), targets,
        )  # fmt: skip
        training = Training(job)
        record.write(parameters_training=count_parameters(training.networks.depth))
        training.run()
    except Interrupted as interruption:
        log.warning("%s", interruption)
        record.write(status="interrupted")
        raise SystemExit(143) from None
    except BaseException:
        record.write(status="failed", ended=time.time())
        raise
    network, _ = load_depth_network(folder / "model.pt")
    record.write(
        status="finished", ended=time.time(), parameters_inference=count_parameters(fold(network))
    )
    log.warning("trained; results are in %s", folder)


def write_settings(run: Run, folder: Path) -> None:
    """`config.yaml`: all settings of the run, defaults included."""
    content = {"run_id": run.id, "seed": run.seed, "settings": run.config.model_dump(mode="json")}
    write_atomic(folder / "config.yaml", yaml.safe_dump(content, sort_keys=True))


def predict_teacher(run: Run, runs: Path, manifest_path: Path, output: Path, threads: int) -> None:
    """Rule `predict_teacher`: the teacher's disparities for all training frames."""
    set_threads(threads)
    manifest = Manifest.read(manifest_path)
    make_targets(output, *targets_of(run, runs, manifest))


def targets_of(
    teacher: Run, runs: Path, manifest: Manifest
) -> tuple[TargetsKey, Callable[[Path], None]]:
    """The key of a teacher's predictions, and what writes them to a path."""
    model, data = runs / teacher.id / "model.pt", teacher.config.data

    def predict(path: Path) -> None:
        network, _ = load_depth_network(model)
        # Every image is read once: nothing to keep in memory.
        settings = data.model_copy(update={"cache_images": False})
        frames = TrainingFrames(manifest.splits["train"], data_root(data), settings, teacher.seed)
        predict_targets(network, frames, path, choose_device(teacher.config.training.device))

    return TargetsKey.of(teacher.id, model, manifest, data), predict


def checked_targets_of(run: Run, runs: Path, manifest: Manifest, path: Path) -> str | None:
    """sha256 of the predictions that a student is given; None for a run without teacher.

    Predictions in the teacher's own folder are made anew where they are not in order; a file from
    elsewhere is only read.

    Raises:
        FadepthError: the file is another teacher's, damaged, or for other frames.
    """
    if run.teacher is None:
        return None
    key, predict = targets_of(run.teacher, runs, manifest)
    own = path.resolve() == (runs / run.teacher.id / "targets.npy").resolve()
    return checked_targets(path, key, predict if own else None)


def network_function(model: Path, device: torch.device) -> tuple[PredictImage, int]:
    """A trained network, folded, as a function from images to inverse depth; its parameters."""
    network, _ = load_depth_network(model)
    network = fold(network).to(device)

    @torch.inference_mode()
    def predict(image: Tensor) -> Tensor:
        return disparity_to_inverse_depth(network(image.to(device)))

    return predict, count_parameters(network)


def network_predictor(run: Run, runs: Path, root: Path) -> tuple[Predict, int]:
    """Folded network of a run as a function from frames to disparity, and its parameters."""
    device = choose_device(run.config.training.device)
    network, parameters = network_function(runs / run.id / "model.pt", device)
    size = run.config.data.height, run.config.data.width

    def predict(frame: Frame) -> NDArray[np.float64]:
        return network(network_input(frame, root, size))[0, 0].double().cpu().numpy()

    return predict, parameters


def baseline_predictor(
    run: Run, manifest: Manifest, root: Path, protocol: Protocol
) -> tuple[Predict, int]:
    """A map fitted to the training frames' ground truth, the same for every frame."""
    kind, config = cast(BaselineKind, run.slug), run.config.data
    frames = manifest.splits["train"]
    fitted = fit_baseline(kind, frames, root, protocol, config.height, config.width)
    log.info("%s: fitted to %d frames with ground truth", run.slug, fitted.frames_used)
    return fitted, 0


def evaluate_run(run: Run, runs: Path, manifest_path: Path, threads: int) -> None:
    """Rule `evaluate_run`: metrics on the evaluation split, per image and in the mean."""
    set_threads(threads)
    manifest = Manifest.read(manifest_path)
    root = data_root(run.config.data)
    settings = run.config.evaluation
    protocol = find_protocol(settings.protocol)
    folder = runs / run.id
    frames = manifest.splits[settings.split]
    if run.kind == "baseline":
        record = RunManifest(run, folder, manifest.content_hash, threads)
        write_settings(run, folder)
        predict, parameters = baseline_predictor(run, manifest, root, protocol)
        record.write(status="finished", ended=time.time(), parameters_inference=0)
    else:
        predict, parameters = network_predictor(run, runs, root)
    per_image, mean = evaluate(frames, root, predict, protocol)
    for number, frame in enumerate(panel_frames(frames, settings.panels)):
        draw_run_panel(run, folder / "panels" / f"{number:02d}.png", frame, root, predict, protocol)
    with atomic_path(folder / "per_image.csv") as temporary:
        per_image.to_csv(temporary, index=False)
    content: dict[str, Any] = {
        "run_id": run.id,
        "protocol": settings.protocol,
        "split": settings.split,
        "images": len(per_image),
        "scale": run.config.scale,
        "dataset": run.config.data.name,
        "seed": run.seed,
        "data_hash": manifest.content_hash,
        "parameters": parameters,
        "metrics": mean,
    }
    write_atomic(folder / "metrics.json", json.dumps(content, indent=1) + "\n")
    log.warning("AbsRel %.4f over %d images (%s)", mean["abs_rel"], len(per_image), protocol.name)


def measure_robustness(
    run: Run, runs: Path, manifest_path: Path, teacher: Path | None, threads: int
) -> None:
    """Rule `evaluate_robustness`: the run on mirrored, relit and small frames, and its teacher."""
    set_threads(threads)
    manifest = Manifest.read(manifest_path)
    settings, data = run.config.evaluation, run.config.data
    device = choose_device(run.config.training.device)
    network, _ = network_function(runs / run.id / "model.pt", device)
    table = evaluate_robustness(
        manifest.splits[settings.split],
        data_root(data),
        network,
        (data.height, data.width),
        find_protocol(settings.protocol),
        network_function(teacher, device)[0] if teacher else None,
    )
    content = {
        "run_id": run.id,
        "protocol": settings.protocol,
        "split": settings.split,
        "images": len(manifest.splits[settings.split]),
        "scale": run.config.scale,
        "seed": run.seed,
        "teacher": teacher.parent.name if teacher else None,
        "conditions": summary(table),
    }
    write_atomic(runs / run.id / "robustness.json", json.dumps(content, indent=1) + "\n")


def panel_frames(frames: list[Frame], count: int) -> list[Frame]:
    """`count` frames spread evenly over the split: the same for every run."""
    positions = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[position] for position in positions]


def draw_run_panel(
    run: Run, path: Path, frame: Frame, root: Path, predict: Predict, protocol: Protocol
) -> None:
    """Input, disparity and error of one frame; the same frames and file names for every run."""
    disparity = predict(frame)
    error = relative_error(frame, root, disparity, protocol)
    image = np.asarray(read_image(root / frame.image))
    title = f"{run.label}, {frame}"
    draw_panel(path, image, disparity, error, title=title)


def relative_error(
    frame: Frame, root: Path, disparity: NDArray[np.floating], protocol: Protocol
) -> NDArray[np.float64]:
    """|prediction - truth| / truth after median scaling, (H, W); NaN without ground truth."""
    truth = load_ground_truth(frame, root, protocol)
    depth = 1 / resize_disparity(disparity, *truth.shape)
    valid = valid_pixels(truth, protocol)
    depth = depth * np.median(truth[valid]) / np.median(depth[valid])
    known = (truth > protocol.min_depth) & (truth < protocol.max_depth)
    error = np.full(truth.shape, np.nan)
    error[known] = np.abs(depth[known] - truth[known]) / truth[known]
    return error


def report_rows(study: Study) -> list["Row"]:
    """The study's rows as the report knows them."""
    from fadepth.report.ablation import Row

    return [
        Row(row.label, row.kind, dict(row.factors), [run.id for run in row.runs])
        for row in study.rows
    ]


def render_effects(study: Study, runs: Path, output: Path) -> None:
    """Rule `render_effects`: what each factor changes, with its spread over seeds."""
    from fadepth.report.effects import effects_table
    from fadepth.report.writers import write_table

    table = effects_table(
        runs,
        report_rows(study),
        study.file.plain,
        name=output.stem,
        title=study.file.title,
        labels={name: factor.label for name, factor in study.file.factors.items()},
    )
    write_table(table, output, output.with_suffix(".md"), output.with_suffix(".tex"))
    log.warning("effects written: %s (also .md and .tex)", output)


def render_table(study: Study, runs: Path, output: Path) -> None:
    """Rule `render_table`: CSV, Markdown, LaTeX and the provenance of every cell."""
    from fadepth.report.ablation import ablation_table, read_records
    from fadepth.report.writers import write_table

    rows = report_rows(study)
    records = read_records(runs, [run_id for row in rows for run_id in row.run_ids])
    table = ablation_table(records, rows, name=study.file.table, title=study.file.title)
    write_table(table, output, output.with_suffix(".md"), output.with_suffix(".tex"))
    log.warning("table written: %s (also .md and .tex)", output)


def experiment_name(study: str, dataset: str, scale: str) -> str:
    """MLflow experiment of a study: runs of other data or another scale do not compare."""
    return f"{study}-{dataset}-{scale}"


def track_runs(studies: Iterable[Study], runs: Path, store: str) -> None:
    """Mirror run folders into MLflow; without studies, everything below `runs`."""
    from fadepth.tracking import track

    wanted = {
        experiment_name(study.file.name, study.config.data.name, study.config.scale): [
            run.id for run in study.runs if (runs / run.id / "manifest.json").exists()
        ]
        for study in studies
    }
    for experiment, run_ids in (wanted or experiments_on_disk(runs)).items():
        if run_ids:
            summary = track(runs, run_ids, store=store, experiment=experiment)
            log.info("%s: %s", experiment, summary)


def experiments_on_disk(runs: Path) -> dict[str, list[str]]:
    """Run ids below `runs`, by the experiment that they belong to."""
    found: dict[str, list[str]] = {}
    for path in sorted(runs.glob("*/manifest.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            name = experiment_name(content["study"], content["dataset"], content["scale"])
        except (json.JSONDecodeError, KeyError):
            raise FadepthError(f"{path} is damaged: delete the folder {path.parent}") from None
        found.setdefault(name, []).append(path.parent.name)
    return found
