"""Frames on disk and in memory: KITTI raw layout, manifest, training samples."""

from fadepth.data.kitti import KittiRaw

__all__ = ["KittiRaw"]
