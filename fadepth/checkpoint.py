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
from torch.optim import Optimizer

from fadepth.files import write_atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What a result depends on: a checkpoint is of use only where all three are the same."""

    config_hash: str
    data_hash: str
    code_hash: str


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


def save_checkpoint(
    path: Path, networks: nn.Module, optimizer: Optimizer, resumed: Resumed, identity: Identity
) -> None:
    """Write the state after `resumed.step` steps, in one step of the file system.

    Every random draw of the training is a function of (seed, step), so no random state is needed
    beside the step; torch's own is kept all the same, for layers that would draw from it.
    """
    content = {
        "identity": asdict(identity),
        "resumed": asdict(resumed),
        "networks": networks.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random_state": torch.get_rng_state(),
    }
    write_atomic(path, to_bytes(content))


def load_checkpoint(
    path: Path, networks: nn.Module, optimizer: Optimizer, identity: Identity
) -> Resumed | None:
    """Load the state into `networks` and `optimizer`; None where there is nothing to go on from."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        old, resumed = content["identity"], Resumed(**content["resumed"])
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, OSError):
        log.warning("%s cannot be read: the training starts from the beginning", path)
        return None
    new = asdict(identity)
    changed = [key.removesuffix("_hash") for key in new if old[key] != new[key]]
    if changed:
        log.warning("%s belongs to other %s: starting from step 0", path, " and ".join(changed))
        return None
    networks.load_state_dict(content["networks"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random_state"])
    return resumed
