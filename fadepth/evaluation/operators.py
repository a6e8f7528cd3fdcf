"""How many kernels a network starts: for small networks that counts as much as arithmetic."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fadepth.evaluation.latency import random_image

#: Give memory and write nothing.
_ALLOCATE = {"empty", "empty_like", "empty_strided", "detach"}


@dataclass(frozen=True)
class Operators:
    """Operators that one pass of a network in eager PyTorch runs.

    Attributes:
        convolutions: how many of them are convolutions.
        launches: all that compute or copy; views and mere allocations do not.
        by_name: launches of each, by torch's name.
    """

    convolutions: int
    launches: int
    by_name: Mapping[str, int]


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _ALLOCATE:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def count_operators(network: nn.Module, height: int, width: int) -> Operators:
    """Operators for one image (1, 3, height, width), in evaluation mode, on the CPU.

    Counted below autograd, where composite functions have come apart into what has a kernel.
    """
    network = copy.deepcopy(network).eval()
    image = random_image(1, height, width)
    with torch.no_grad(), _Count() as counter:
        network(image)
    return Operators(
        sum(count for name, count in counter.seen.items() if "convolution" in name),
        sum(counter.seen.values()),
        dict(counter.seen.most_common()),
    )
