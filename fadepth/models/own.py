"""A user's own depth network in the place of SmallDepth (docs/how-to/your-own-network.md).

The contract is what losses and evaluation need: an image (B, 3, H, W) in [0, 1] gives disparity in
(0, 1), one map (B, 1, H, W) or a list of maps, finest first. What looks into SmallDepth's layers
(ETM, `loss.base: cbw`, `loss.pyramid.kind: features`) is refused with an own network.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fadepth.errors import FadepthError, one_line, out_of_memory
from fadepth.models.etm import fold
from fadepth.own_code import OwnCode, import_own

log = logging.getLogger(__name__)

#: Images of the pass that tries a network out: batch norm wants two.
_BATCH = 2


class OwnNetwork(nn.Module):
    """Somebody's network as the losses and the evaluation expect one.

    Image (B, 3, H, W) in [0, 1] -> in train mode the network's maps as a list, in eval mode the
    finest alone, (B, 1, H, W) in (0, 1). A network that gives one map is taken, too.

    Args:
        network: the user's.
        spec: its import path, for errors.
        code: digest of its source (`OwnCode.digest`).

    Raises FadepthError where its output is neither, and where it fails; memory that runs out
    raises what torch raises.
    """

    def __init__(self, network: nn.Module, spec: str, code: str) -> None:
        super().__init__()
        self.network = network
        self.spec, self.code = spec, code

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        try:
            found = self.network(image)
        except (RuntimeError, ValueError, IndexError) as error:
            if out_of_memory(error):
                raise
            size = "x".join(map(str, image.shape[-2:]))
            raise FadepthError(
                f"{self.spec} fails on images of {size}, in {_mode(self)}: {one_line(error)}"
            ) from error
        maps = [found] if isinstance(found, Tensor) else found
        if not (isinstance(maps, list | tuple) and maps and isinstance(maps[0], Tensor)):
            raise FadepthError(
                f"{self.spec} gives {_described(found)} in {_mode(self)}: it must give one "
                "disparity (B, 1, H, W), or a list of them, finest first"
            )
        return list(maps) if self.training else maps[0]


def build_own_network(code: OwnCode, arguments: Mapping[str, Any]) -> OwnNetwork:
    """Import a user's factory and call it.

    Raises:
        FadepthError: the import or the call fails, or what comes back is no module with trainable
            parameters.
    """
    digest = code.digest
    factory = import_own(code)
    told = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    try:
        network = factory(**arguments)
    except Exception as error:  # anybody's code
        raise FadepthError(f"{code.spec}({told}) failed: {one_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise FadepthError(f"{code.spec}({told}) gives {_described(network)}, not an nn.Module")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise FadepthError(f"{code.spec}({told}) has no trainable parameter: nothing can be learnt")
    return OwnNetwork(network, code.spec, digest)


def check_own_network(
    network: OwnNetwork, size: tuple[int, int], smaller: Sequence[tuple[int, int]] = ()
) -> None:
    """Try a network out as training and evaluation will call it; it must not be used afterwards.

    Args:
        network: just built, on the CPU.
        size: (H, W) of the images.
        smaller: sizes of the pyramid loss's other levels.

    Raises:
        FadepthError: it fails, or gives something else than its contract says.
    """
    with torch.no_grad():
        for sides in (size, *smaller):
            _check_maps(network.train()(_noise(*sides)), network, sides)
    try:
        folded = fold(network)
    except Exception as error:  # anybody's code
        raise FadepthError(
            f"{network.spec} cannot be copied, which inference needs: {one_line(error)}"
        ) from error
    # The layout that images are evaluated in; `view` of it fails where `reshape` does not.
    folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        _check_maps([folded(_noise(*size))], network, size)
        half = max(32, size[0] // 2), max(32, size[1] // 2)
        try:
            folded(_noise(*half))
        except FadepthError as error:
            log.warning("%s; robustness at half the size cannot be measured", error)


def require_same_code(code: OwnCode, trained: object, model: str) -> None:
    """Refuse weights of other code: the same weights in another formula are another network.

    Args:
        code: the source as it is now.
        trained: `OwnCode.digest` when the network was trained.
        model: file of the weights, for the error.

    Raises:
        FadepthError: they differ.
    """
    if trained != code.digest:
        raise FadepthError(
            f"{model} was trained with other code of {code.spec} than {code.path} has now: train "
            "it again, or restore the code, of which a copy is in the run's folder, in network/"
        )


def _noise(height: int, width: int) -> Tensor:
    """(2, 3, H, W) in [0, 1]."""
    return torch.rand(_BATCH, 3, height, width, generator=torch.Generator().manual_seed(0))


def _check_maps(found: Any, network: OwnNetwork, size: tuple[int, int]) -> None:
    """Whether maps are disparities of images (2, 3, H, W), the finest of their size."""
    least = size
    for number, disparity in enumerate(found):
        what = f"map {number + 1} of {network.spec} for images (2, 3, {size[0]}, {size[1]})"
        if not isinstance(disparity, Tensor):
            raise FadepthError(f"{what} is {_described(disparity)}, not a tensor")
        height, width = disparity.shape[-2:] if disparity.dim() == 4 else (0, 0)
        fits = (height, width) == size if number == 0 else height <= least[0] and width <= least[1]
        if disparity.shape[:2] != (_BATCH, 1) or disparity.dim() != 4 or not fits:
            wanted = f"(2, 1, {size[0]}, {size[1]})" if number == 0 else "(2, 1, h, w), no larger"
            raise FadepthError(
                f"{what} has the shape {tuple(disparity.shape)}: expected {wanted}"
                f"{'' if number == 0 else ' than the map before it'}"
            )
        if disparity.dtype != torch.float32:
            raise FadepthError(f"{what} is {disparity.dtype}: expected torch.float32")
        # So that NaN does not pass; a sigmoid may round to its bounds.
        if not bool(((disparity >= 0) & (disparity <= 1)).all()):
            low, high = float(disparity.min()), float(disparity.max())
            raise FadepthError(
                f"{what} has values from {low:.3g} to {high:.3g}: expected disparities in (0, 1), "
                "such as a sigmoid gives"
            )
        least = (height, width)


def _mode(network: nn.Module) -> str:
    return "train mode" if network.training else "eval mode"


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor {tuple(found.shape)}"
    return f"an empty {type(found).__name__}" if found == [] else type(found).__name__
