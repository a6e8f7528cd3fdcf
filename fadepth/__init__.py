"""fadepth: reproduce, question and extend the ablation study of FA-Depth (arXiv 2405.10885)."""

__version__ = "0.1.0"
