"""Which pixels may speak: masks of the self-supervised loss, and the robust penalty.

The paper's Figure 4 shows "The mask on KITTI and DDAD dataset" [paper]; which mask that is, no
source says. Those here are known from the field.
"""

import torch
from torch import Tensor


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
