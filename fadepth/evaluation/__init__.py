"""Comparison of predicted depth with ground truth."""

from fadepth.evaluation.metrics import depth_metrics

__all__ = ["depth_metrics"]
