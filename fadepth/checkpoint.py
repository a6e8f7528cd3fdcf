"""Checkpoints of a training that may be killed at any moment.

`ckpt/last.pt` is not an output that the workflow declares, since Snakemake deletes declared
outputs of failed jobs. It carries the identity of what it belongs to (settings, data, code), and a
training starts afresh rather than go on from one that belongs to something else.
"""

import io
import logging
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from fadepth.errors import FadepthError
from fadepth.files import write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a result depends on: a checkpoint is of use only where all of it is the same.

    `targets_hash` is the sha256 of the teacher's predictions, for students that APX trains.
    """

    config_hash: str
    data_hash: str
    code_hash: str
    targets_hash: str | None = None


@dataclass(frozen=True)
class Resumed:
    """Where an interrupted training stopped.

    Attributes:
        step: number of finished steps.
        log_bytes: length of `metrics.jsonl` at that step; what was logged later is cut off.
        sums: losses added up since the last logged line.
        count: number of steps in those sums.
    """

    step: int = 0
    log_bytes: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0


def to_bytes(content: dict[str, Any]) -> bytes:
    """Serialise tensors and plain values with `torch.save`."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def first_not_finite(networks: nn.Module, optimizer: Optimizer) -> str | None:
    """Name of a tensor of the training's state that holds NaN or Inf; None where none does."""
    tensors = dict(networks.state_dict())
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer state {number}, {name}": value for name, value in moments.items()}
    names = [name for name, value in tensors.items() if torch.is_floating_point(value)]
    verdicts = [torch.isfinite(tensors[name]).all() for name in names]
    # All in one transfer: each of its own would make the host wait for the GPU.
    finite = torch.stack([verdict.to(verdicts[0].device) for verdict in verdicts]).tolist()
    return next((name for name, good in zip(names, finite, strict=True) if not good), None)


def save_checkpoint(
    path: Path,
    networks: nn.Module,
    optimizer: Optimizer,
    resumed: Resumed,
    identity: Identity,
    scaler: GradScaler | None = None,
) -> None:
    """Write the state after `resumed.step` steps, in one step of the file system.

    Every random draw of the training is a function of (seed, step), so no random state is needed
    beside the step; torch's own is kept all the same, for layers that would draw from it.

    Raises:
        FadepthError: the state holds NaN or Inf; the older file stays.
    """
    if name := first_not_finite(networks, optimizer):
        raise FadepthError(
            f"after step {resumed.step}, {name} holds NaN or Inf: {path} keeps the state of "
            "before; lower training.learning_rate or set training.clip_gradient"
        )
    content = {
        "identity": asdict(identity),
        "resumed": asdict(resumed),
        "networks": networks.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random_state": torch.get_rng_state(),
        "scaler": scaler.state_dict() if scaler else {},
    }
    write_atomic(path, to_bytes(content))


def load_checkpoint(
    path: Path,
    networks: nn.Module,
    optimizer: Optimizer,
    identity: Identity,
    scaler: GradScaler | None = None,
) -> Resumed | None:
    """Load the state into the arguments; None where there is nothing to go on from."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        old, resumed = dict(content["identity"]), Resumed(**content["resumed"])
    except (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError, ValueError,
            OSError):  # fmt: skip
        log.warning("%s cannot be read: the training starts from the beginning", path)
        return None
    new = asdict(identity)
    changed = [key.removesuffix("_hash") for key in new if old.get(key) != new[key]]
    if changed:
        log.warning("%s belongs to other %s: starting from step 0", path, " and ".join(changed))
        return None
    networks.load_state_dict(content["networks"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random_state"])
    if scaler and scaler.is_enabled():
        scaler.load_state_dict(content["scaler"])
    return resumed
