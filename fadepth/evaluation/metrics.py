"""The seven depth metrics of Eigen et al. (arXiv 1406.2283), computed as monodepth2 does.

Make3D has two more, in which its numbers are told.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import Protocol, find_protocol, valid_pixels

Array = NDArray[np.floating]

#: The seven of every table; a protocol may name others (`Protocol.metrics`).
METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3")


def depth_metrics(gt: Array, pred: Array, protocol: Protocol | str) -> dict[str, float]:
    """Compare a depth map with ground truth under a protocol.

    Over the pixels that count, with g and p in metres after scaling and clamping
    (`compute_errors` in https://github.com/nianticlabs/monodepth2 `evaluate_depth.py`):

    - abs_rel = mean(|g - p| / g), sq_rel = mean((g - p)² / g), the latter over g, not g² as in
      KITTI's devkit;
    - rmse = sqrt(mean((g - p)²)) in metres, rmse_log = sqrt(mean((ln g - ln p)²));
    - delta_k = share of pixels with max(g / p, p / g) < 1.25^k;
    - log10 = mean(|log10 g - log10 p|), rmse_log10 = sqrt(mean((log10 g - log10 p)²)).

    Args:
        gt: (h, w) depth in metres, 0 = none.
        pred: (h, w) depth, in metres or up to scale where the protocol scales.
        protocol: a protocol or its name.

    Raises:
        FadepthError: shapes differ, no pixel counts, or a prediction that counts is not positive
            and finite.
    """
    return scaled_metrics(gt, pred, protocol)[0]


def scaled_metrics(
    gt: Array, pred: Array, protocol: Protocol | str
) -> tuple[dict[str, float], float]:
    """Return the metrics and the factor that the prediction was multiplied by."""
    if isinstance(protocol, str):
        protocol = find_protocol(protocol)
    if gt.shape != pred.shape or gt.ndim != 2:
        raise FadepthError(
            f"ground truth is {gt.shape} but the prediction {pred.shape}: resize the prediction's "
            "disparity to the ground truth's (h, w) first"
        )
    mask = valid_pixels(gt, protocol)
    return pixel_metrics(gt[mask], pred[mask], protocol)


def pixel_metrics(truth: Array, pred: Array, protocol: Protocol) -> tuple[dict[str, float], float]:
    """`scaled_metrics` of the pixels (N,) that count, which the caller has picked.

    Raises:
        FadepthError: there is none, or a prediction is not positive and finite.
    """
    g, p = truth.astype(np.float64, copy=False), pred.astype(np.float64, copy=False)
    if not len(g):
        raise FadepthError(
            f"no ground truth pixel between {protocol.min_depth} and {protocol.max_depth} m "
            f"within the crop of protocol {protocol.name}: check the ground truth"
        )
    if not (np.isfinite(p).all() and (p > 0).all()):
        raise FadepthError(
            "the predicted depth is not positive and finite everywhere: the network has diverged "
            "or a disparity was passed for a depth"
        )
    # numpy's median is the mean of the middle two; torch's, the lower one, gives other numbers.
    ratio = protocol.ratio(g, p)
    return _errors(g, np.clip(p * ratio, *protocol.clamp), protocol.metrics), ratio


def _errors(g: Array, p: Array, names: tuple[str, ...]) -> dict[str, float]:
    # What several metrics share is computed once.
    shared = {
        "difference": g - p,
        "logarithm": np.log(g) - np.log(p),
        "worse": np.maximum(g / p, p / g),
    }
    return {name: float(_FORMULAS[name](g=g, **shared)) for name in names}


def _root_mean_square(values: Array) -> np.floating:
    return np.sqrt(np.mean(values**2))


def _share_below(limit: float) -> Callable[..., np.floating]:
    return lambda worse, **_: np.mean(worse < limit)


_FORMULAS: Mapping[str, Callable[..., np.floating]] = MappingProxyType(
    {
        "abs_rel": lambda g, difference, **_: np.mean(np.abs(difference) / g),
        "sq_rel": lambda g, difference, **_: np.mean(difference**2 / g),
        "rmse": lambda difference, **_: _root_mean_square(difference),
        "rmse_log": lambda logarithm, **_: _root_mean_square(logarithm),
        "delta_1": _share_below(1.25),
        "delta_2": _share_below(1.25**2),
        "delta_3": _share_below(1.25**3),
        "log10": lambda logarithm, **_: np.mean(np.abs(logarithm)) / np.log(10),
        "rmse_log10": lambda logarithm, **_: _root_mean_square(logarithm) / np.log(10),
    }
)
