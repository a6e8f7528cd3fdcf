"""What rule `draw_qualitative` does: several runs' predictions on the same frames, side by side.

Apart from the other figures, which are drawn from tables and need no network.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fadepth.data.kitti import read_image
from fadepth.data.manifest import Frame, Manifest, evenly_spread
from fadepth.evaluation.evaluate import Predict, depth_at
from fadepth.evaluation.metrics import scaled_metrics
from fadepth.evaluation.protocols import Protocol, find_protocol, load_ground_truth, valid_pixels
from fadepth.execution.data import data_root
from fadepth.execution.evaluate import network_predictor
from fadepth.execution.train import set_threads
from fadepth.provenance import git_state
from fadepth.report.qualitative_figure import QualitativeFrame, draw_qualitative
from fadepth.report.study_table import DATA_SETS
from fadepth.report.table import Stamp
from fadepth.run import Run

log = logging.getLogger(__name__)


def draw_comparison(
    compared: Sequence[Run], runs: Path, manifest: Path, output: Path, count: int, threads: int
) -> None:
    """Rule `draw_qualitative`: the same frames of the evaluation split, seen by several runs."""
    set_threads(threads)
    config = compared[0].config
    protocol = find_protocol(config.evaluation.protocol)
    root = data_root(config.data)
    predictors = {_short(run): network_predictor(run, runs, root, protocol)[0] for run in compared}
    listed = Manifest.read(manifest).splits[config.evaluation.split]
    # The middle frame of as many drives: two of one drive would show the same street.
    drives = {frame.drive: [f for f in listed if f.drive == frame.drive] for frame in listed}
    frames = [f[len(f) // 2] for f in evenly_spread(list(drives.values()), count)]
    drawn = [_frame(frame, root, predictors, protocol) for frame in frames]
    draw_qualitative(
        output,
        drawn,
        title=f"Predictions and errors: {DATA_SETS[config.data.source]}",
        stamp=_stamp(compared, protocol),
    )
    log.warning("figure written: %s (also .pdf)", output)


def _short(run: Run) -> str:
    if run.kind == "teacher":
        return "HQDecv2"
    is_ours = run.label.startswith("+") and not run.own_code
    return f"SmallDepth {run.label}" if is_ours else run.label


def _stamp(compared: Sequence[Run], protocol: Protocol) -> Stamp:
    commit, dirty = git_state(Path(__file__).parent)
    config = compared[0].config
    changed = " with uncommitted changes" if dirty else ""
    seeds = tuple(sorted({run.seed for run in compared}))
    code = (commit or "without commit")[:14] + changed
    return Stamp(config.scale, seeds, config.data.name, protocol.name, code)


def _frame(
    frame: Frame, root: Path, predictors: dict[str, Predict], protocol: Protocol
) -> QualitativeFrame:
    truth = load_ground_truth(frame, root, protocol)
    image = np.asarray(read_image(root / frame.image))
    if protocol.image_crop:
        image = image[protocol.image_crop.slices(*image.shape[:2])]
    valid = valid_pixels(truth, protocol)
    depths: dict[str, NDArray[np.float64]] = {}
    errors: dict[str, float] = {}
    for name, predict in predictors.items():
        depth = depth_at(predict(frame), truth.shape, protocol)
        errors[name] = scaled_metrics(truth, depth, protocol)[0]["abs_rel"]
        depths[name] = depth * protocol.ratio(truth[valid], depth[valid])
    return QualitativeFrame(_frame_name(frame), image, truth, depths, errors)


def _frame_name(frame: Frame) -> str:
    """`drive 0005, frame 88` of KITTI's long names; others as they are."""
    drive = re.search(r"drive_(\d+)", frame.drive)
    return f"drive {drive[1]}, frame {frame.frame}" if drive else str(frame)
