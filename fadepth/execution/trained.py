"""A trained network by the name of its run, or by a file: found, loaded, ready for images."""

import difflib
import logging
import math
import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import PredictImage, image_function
from fadepth.export import EVERY, SUFFIXES, Axes, Format, load_exported, read_metadata
from fadepth.files import file_digest, json_object
from fadepth.geometry import disparity_to_inverse_depth
from fadepth.models import HQDecV2, fold
from fadepth.report.table import scale_warning
from fadepth.run import Run
from fadepth.training import load_depth_network

log = logging.getLogger(__name__)

#: So many names are listed in an error.
_LISTED = 8


@dataclass(frozen=True)
class Trained:
    """A trained network, folded.

    Attributes:
        predict: images (B, 3, H, W) in [0, 1] to inverse depth (B, 1, H, W), 1/metres up to scale.
        name: of the run, or of the file where that is not known.
        size: (H, W) that it was trained at.
        free: which axes of the images may have any length; an exported file may fix some.
        facts: `run`, `kind`, `row`, `scale`, `dataset`, `seed`, `commit` of the training as far as
            they are known, `file` and `model_sha256`.
    """

    predict: PredictImage
    name: str
    size: tuple[int, int]
    free: Axes
    facts: dict[str, Any]

    @property
    def label(self) -> str:
        """What its numbers are good for: `quick scale, trained on synthetic_street: ...`."""
        scale, dataset = self.facts.get("scale", "unknown"), self.facts.get("dataset", "unknown")
        where = f"{scale} scale, trained on {dataset}"
        warning = scale_warning(str(scale))
        return f"{where}: {warning.partition(': ')[2]}" if warning else where


# Finding


def find_model(name: str, runs: Path) -> Path:
    """The file of a trained network: `model.pt` of a run, or an exported one.

    Args:
        name: of a run, the beginning of one, or a path of a run's folder, of a `model.pt` or of
            what `fadepth export` wrote.
        runs: folder of all runs.

    Raises:
        FadepthError: there is none, several begin like that, or the run has not finished.
    """
    path = Path(name)
    if path.is_file():
        return path
    is_path = path.is_absolute() or len(path.parts) > 1
    folder = path if is_path and path.is_dir() else _run_folder(name, runs)
    manifest = json_object(folder / "manifest.json")
    if manifest.get("kind") in ("baseline", "official"):
        raise FadepthError(
            f"run {folder.name} is no network ({manifest['kind']}): name a student or the teacher, "
            "'fadepth runs' lists them"
        )
    model = folder / "model.pt"
    # A model that was copied alone has no manifest.
    if not model.is_file() or manifest.get("status", "finished") != "finished":
        state = manifest.get("status", "not started") if manifest else "no model.pt in it"
        raise FadepthError(
            f"run {folder.name} has no finished network ({state}): 'fadepth status' tells how far "
            "it is; wait for it, or name another run"
        )
    return model


def _run_folder(name: str, runs: Path) -> Path:
    """The folder of a run by its name or the beginning of it."""
    known = sorted(path.name for path in runs.glob("*") if path.is_dir())
    if name in known:
        return runs / name
    if Path(name).name != name:
        raise FadepthError(f"there is no run at {name}: expected its folder, or a file model.pt")
    begun = [run for run in known if run.startswith(name)]
    if len(begun) == 1:
        return runs / begun[0]
    if begun:
        raise FadepthError(
            f"{len(begun)} runs begin with '{name}' ({_listed(begun)}): write more of the name"
        )
    if not known:
        raise FadepthError(
            f"there is no run in {runs}/: 'make ablation' trains some, or name a model.pt"
        )
    # Without seed and hash, which nobody types, a slip of the finger is found.
    words = dict.fromkeys(word for run in known for word in (run, run.rsplit("-", 2)[0]))
    near = difflib.get_close_matches(name, words, n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {_listed(known)}"
    raise FadepthError(f"there is no run '{name}' in {runs}/: {hint}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def best_student(students: Iterable[Run], runs: Path, table: str, preset: str) -> Run:
    """The finished student with the lowest Abs Rel on the test frames, which is told.

    Args:
        students: of one study, so that all saw the same frames.
        runs: folder of all runs.
        table, preset: how errors call the study.

    Raises:
        FadepthError: none has finished.
    """
    found: list[tuple[float, Run]] = []
    for run in students:
        folder = runs / run.id
        error = json_object(folder / "metrics.json").get("metrics", {}).get("abs_rel", math.nan)
        finished = json_object(folder / "manifest.json").get("status") == "finished"
        if finished and math.isfinite(error) and (folder / "model.pt").is_file():
            found.append((error, run))
    if not found:
        raise FadepthError(
            f"no student of {table} has been trained and evaluated with {preset}: 'make ablation' "
            "does that, or name a run or a model.pt by --run"
        )
    error, best = min(found, key=lambda pair: pair[0])
    log.warning(
        "run %s (%s): lowest Abs Rel of %d students of %s on its test frames, %.3f; %s scale, "
        "trained on %s",
        best.id, best.label, len(found), table, error, best.config.scale, best.config.data.name,
    )  # fmt: skip
    return best


# Loading


def load_trained(model: Path, device: torch.device) -> Trained:
    """The network of a `model.pt`, folded, or of an exported file.

    Raises:
        FadepthError: the file is damaged or something else, a package is missing, or an exported
            file is asked to run on a GPU.
    """
    if format := _exported_format(model):
        return _load_exported(model, format, device)
    manifest = json_object(model.parent / "manifest.json")
    try:
        network, config = load_depth_network(model)
    except (RuntimeError, LookupError) as error:
        told = manifest.get("commit")
        commit = f"commit {told[:10]}" if isinstance(told, str) else "another version of fadepth"
        raise FadepthError(
            f"the weights in {model} do not fit the network of this code: they were trained by "
            f"{commit}; check that out, or train again"
        ) from error
    name = manifest.get("run_id") or (model.parent.name if model.stem == "model" else model.stem)
    facts = {
        "run": manifest.get("run_id"),
        "kind": "teacher" if isinstance(network, HQDecV2) else "student",
        "row": manifest.get("row"),
        "scale": config.scale,
        "dataset": config.data.name,
        "seed": manifest.get("seed"),
        "commit": manifest.get("commit"),
        **_file_facts(model),
    }
    size = config.data.height, config.data.width
    return Trained(image_function(fold(network), device), name, size, EVERY, facts)


def _file_facts(model: Path) -> dict[str, str]:
    return {"file": str(model), "model_sha256": file_digest(model)}


def _exported_format(path: Path) -> Format | None:
    """Which export a file is; None for a `model.pt`."""
    for format, suffix in SUFFIXES.items():
        if path.suffix == suffix and format != "torchscript":
            return format
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.load(path, weights_only=True, map_location="meta")
    except RuntimeError as error:
        # Both are archives of torch; only TorchScript's holds code, and is refused.
        if "TorchScript archive" in str(error):
            return "torchscript"
    except (OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError):
        pass  # whatever it is, no export
    return None


def _load_exported(path: Path, format: Format, device: torch.device) -> Trained:
    if device.type != "cpu":
        raise FadepthError(f"{path} is an exported network, which runs on the CPU: --device cpu")
    try:
        told = read_metadata(path, format)
        call = load_exported(path, format)
        size = int(told["height"]), int(told["width"])
    except FadepthError:
        raise
    except Exception as error:  # runtimes raise whatever they meet
        raise FadepthError(
            f"{path} is no network that fadepth exported ({type(error).__name__}): name a run, its "
            "model.pt, or a file of 'fadepth export'"
        ) from None

    def predict(images: Tensor) -> Tensor:
        return disparity_to_inverse_depth(call(images))

    free = tuple(axis for axis in EVERY if axis in told.get("free_axes", "").split())
    known = ("run", "kind", "scale", "dataset", "commit")
    facts = {key: told.get(key) for key in known} | _file_facts(path)
    return Trained(predict, told.get("run") or path.stem, size, free, facts)
