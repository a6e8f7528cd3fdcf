"""Networks: what maps an image to disparity, and a pair of images to motion."""

from fadepth.models.etm import fold
from fadepth.models.hqdec import HQDecV2
from fadepth.models.smalldepth import SmallDepth

__all__ = ["HQDecV2", "SmallDepth", "fold"]
