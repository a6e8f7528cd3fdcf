"""Which pixels may speak: masks of the self-supervised loss, and the robust penalty.

The paper's Figure 4 shows "The mask on KITTI and DDAD dataset" [paper]; which mask that is, no
source says. Those here are known from the field:

- out of view: `geometry.in_view`, the pixel projects into the source and lies in front of it;
- static: `automask`;
- occluded: the minimum over sources (`photometric.warped_error`), or `unoccluded` by the depths of
  both views, or `reliability` as a weight;
- the car that carries the camera: `ego_vehicle`;
- the image's border: `inside_border`.

`fadepth masks` draws them.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fadepth.errors import FadepthError


def charbonnier(error: Tensor, epsilon: float = 0.01) -> Tensor:
    """rho(e) = sqrt(e^2 + eps^2) - eps: quadratic near zero, |e| far away, zero at zero."""
    return torch.sqrt(error**2 + epsilon**2) - epsilon


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` weighted by `mask` (broadcast together); zero where the mask is empty."""
    mask = mask.to(values.dtype).expand_as(values)
    return (values * mask).sum() / mask.sum().clamp(min=1e-6)


def automask(warped_error: Tensor, identity_error: Tensor) -> Tensor:
    """Pixels that the warp explains better than standing still, boolean (B, 1, H, W).

    It leaves out cars that move with the camera, and everything while the camera stands
    (monodepth2, arXiv 1806.01260, section 3.3).
    """
    return warped_error < identity_error


def depth_difference(moved: Tensor, seen: Tensor) -> Tensor:
    """dD = |Z' - D_b(p')| / (Z' + D_b(p')) in [0, 1], differentiable: (B, 1, H, W).

    Zero where both views agree on a static surface; large where something else stands before the
    surface, or where it moved (CbwLoss, arXiv 2212.05845, names the comparison in its abstract; the
    formula is SC-SfMLearner's, arXiv 1908.10553).

    Args:
        moved: Z', depth of a's points in camera b, metres; points behind b count as at it.
        seen: D_b(p'), b's own depth where those points project, metres, positive.
    """
    moved = moved.clamp(min=1e-3)
    return (moved - seen).abs() / (moved + seen)


def flow_difference(forward: Tensor, backward: Tensor) -> Tensor:
    """dF = |F_ab(p) + F_ba(p')| / (|F_ab(p)| + |F_ba(p')| + 1) in [0, 1): (B, 1, H, W) [derived].

    Zero where b's camera flow leads back to where a's flow started. The 1 pixel in the denominator
    keeps pixels that hardly move from being judged by rounding.

    Args:
        forward: F_ab, camera flow of a's pixels in pixels, (B, 2, H, W).
        backward: F_ba, b's camera flow sampled at p' = p + F_ab, (B, 2, H, W).
    """
    lengths = forward.norm(dim=1, keepdim=True) + backward.norm(dim=1, keepdim=True)
    return (forward + backward).norm(dim=1, keepdim=True) / (lengths + 1)


def reliability(depth_difference: Tensor, flow_difference: Tensor) -> Tensor:
    """W = sg((1 - dD) exp(-dF)) in [0, 1], (B, 1, H, W): a soft mask of occluded or moving pixels.

    [derived] Without gradient: otherwise the loss would fall by making views disagree.
    """
    return ((1 - depth_difference) * torch.exp(-flow_difference)).detach()


def unoccluded(depth_difference: Tensor, threshold: float = 0.2) -> Tensor:
    """1[dD < 0.2], boolean (B, 1, H, W): both views see the same surface [derived]."""
    return depth_difference < threshold


def inside_border(height: int, width: int, border: float, device: torch.device) -> Tensor:
    """Boolean (1, 1, H, W): pixels at least `border` pixels, rounded up, from the image's edge.

    Warped images repeat their edge outside, and SSIM's windows mirror it: neither is scene.
    """
    pixels = math.ceil(border)
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool, device=device)
    mask[..., pixels : height - pixels, pixels : width - pixels] = True
    return mask


def ego_vehicle(
    images: NDArray[np.floating], *, threshold: float = 0.02, smallest: float = 0.005
) -> NDArray[np.bool_]:
    """Where the car that carries the camera is seen, (H, W), estimated from one drive [derived].

    Pixels whose standard deviation over the drive stays below `threshold`; holes and gaps of a
    hundredth of the image's width are closed, and the largest component that touches the bottom
    border counts, if it is large enough. The road before the camera changes with the scene, so the
    estimate needs a drive that passes shadows, markings and turns: a few consecutive frames show
    plain asphalt as still as a bonnet.

    Args:
        images: (N, H, W, 3) in [0, 1], at least eight frames of one camera, spread over a drive
            with motion, or over several drives.
        threshold: standard deviation over time, mean of the channels, of values in [0, 1].
        smallest: share of the image below which a component is no car.

    Returns:
        All false where nothing of the car is in view.

    Raises:
        FadepthError: fewer than eight images, or most of the image never changes: the car stood.
    """
    from scipy import ndimage  # a quarter of a second that trainings need not spend

    if images.ndim != 4 or len(images) < 8:
        raise FadepthError(
            f"ego_vehicle got an array of shape {images.shape}, expected (N, H, W, 3) with N >= 8: "
            "give more frames of the drive"
        )
    still = images.std(0).mean(-1) < threshold
    if still.mean() > 0.5:
        raise FadepthError(
            f"{still.mean():.0%} of the pixels do not change in {len(images)} frames: the ego "
            "vehicle can only be told from the scene in a drive with motion, give frames of one"
        )
    reach = max(1, round(still.shape[1] / 200))
    # Room around the image, without which closing would eat the rows at its border.
    padded = np.pad(still, reach)
    closed = ndimage.binary_closing(padded, np.ones((2 * reach + 1,) * 2))
    closed = ndimage.binary_fill_holes(closed[reach:-reach, reach:-reach])
    parts, _ = ndimage.label(closed)
    sizes = np.bincount(parts.ravel())
    touching = [part for part in np.unique(parts[-1]) if part]
    largest = max(touching, key=lambda part: sizes[part], default=0)
    return np.asarray(parts == largest) & (largest > 0) & (sizes[largest] >= smallest * still.size)
