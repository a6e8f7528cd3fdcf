"""What a network costs: parameters and multiply-accumulates, part by part.

Multiply-accumulates (MAC) are those of convolutions and matrix products, as torch's own
`FlopCounterMode` counts them (two floating-point operations each); additions, norms and resizing
are left out, as in the field's tables.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fadepth.errors import FadepthError


@dataclass(frozen=True)
class Part:
    """One module of a network.

    Attributes:
        name: dotted path within the network.
        kind: class of the module; for a convolution also kernel, stride and groups.
        shape: of its (first) output for one image; None if it did not run by itself.
        parameters: trainable numbers in it.
        macs: multiply-accumulates in it, for one image.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    macs: int


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers of a network; what is shared counts once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates for one image (1, 3, height, width), in evaluation mode, on the CPU."""
    network = copy.deepcopy(network).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, height, width))
    return counter.get_total_flops() // 2


def describe_network(network: nn.Module, height: int, width: int, depth: int = 2) -> list[Part]:
    """The parts of a network at an input of one (3, height, width) image, in order.

    A module is split into its children down to `depth` names, but only where they account for all
    of its parameters and MACs; so the rows always add up to the network. Training mode is kept,
    and with it the heads and branches that serve training only; running statistics of batch norm
    are not.

    Args:
        network: any module that maps (1, 3, height, width); on the CPU.
        height, width: size of the image, pixels.
        depth: number of names in a path, at least 1.

    Raises:
        FadepthError: `depth` is below 1.
    """
    if depth < 1:
        raise FadepthError(f"depth must be 1 or more, not {depth}.")
    network = copy.deepcopy(network)  # the caller's keeps its statistics and has no hooks
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def remember(module: nn.Module, _inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, (list, tuple)) and output else output
        if isinstance(first, Tensor):
            shapes.setdefault(module, tuple(first.shape[1:]))

    for module in network.modules():
        module.register_forward_hook(remember)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, height, width))
    macs = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    root = type(network).__name__

    def macs_of(name: str, module: nn.Module) -> int:
        if module in shapes:
            return macs.get(f"{root}.{name}", 0)
        # A list of modules never runs itself.
        return sum(macs_of(f"{name}.{child}", inner) for child, inner in module.named_children())

    def part(name: str, module: nn.Module) -> Part:
        cost = macs_of(name, module)
        return Part(name, _kind(module), shapes.get(module), count_parameters(module), cost)

    def split(own: Part, module: nn.Module, levels: int) -> Iterator[Part]:
        children = [
            (part(f"{own.name}.{name}", child), child) for name, child in module.named_children()
        ]
        parameters = sum(inner.parameters for inner, _ in children)
        cost = sum(inner.macs for inner, _ in children)
        if levels and children and (parameters, cost) == (own.parameters, own.macs):
            for inner, child in children:
                yield from split(inner, child, levels - 1)
        elif own.parameters or own.macs:
            yield own

    rows: list[Part] = []
    for name, child in network.named_children():
        rows += split(part(name, child), child, depth - 1)
    return rows


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        size = "x".join(str(side) for side in module.kernel_size)
        groups = f", {module.groups} groups" if module.groups > 1 else ""
        stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
        return f"conv {size}{stride}{groups}"
    return type(module).__name__
