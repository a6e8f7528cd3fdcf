"""Frames on disk and in memory: KITTI raw layout, manifest, training samples."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fadepth.data.kitti_raw import KittiRaw

__all__ = ["KittiRaw"]


def __getattr__(name: str) -> Any:
    # Snakemake parses and the renderer's workers start without torch; KittiRaw needs it.
    if name == "KittiRaw":
        from fadepth.data.kitti_raw import KittiRaw

        return KittiRaw
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
