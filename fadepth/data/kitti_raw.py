"""KITTI raw as a dataset of plain samples, for use outside fadepth's own training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch.utils.data import Dataset

from fadepth.data.kitti import (
    DepthValue,
    FrameId,
    image_path,
    read_camera,
    read_image,
    resize_image,
    scale_intrinsics,
    velodyne_depth,
    velodyne_path,
)
from fadepth.data.kitti_splits import read_frames
from fadepth.errors import FadepthError


class Sample(TypedDict):
    """One frame of `KittiRaw`."""

    drive: str
    frame: int
    side: str
    image: torch.Tensor
    neighbours: dict[int, torch.Tensor]
    intrinsics: torch.Tensor
    depth: torch.Tensor | None


class KittiRaw(Dataset[Sample]):
    """KITTI raw frames with their real calibration, without augmentation.

    Items are dictionaries:

    - `image`: (3, H, W) float32 in [0, 1];
    - `neighbours`: offset -> (3, H, W), without offsets that have no file (a drive's first frame
      has no predecessor);
    - `intrinsics`: (3, 3) float32, pixels at H x W, of the frame's own day and camera — not one
      fixed matrix for all of KITTI as in monodepth2;
    - `depth`: (h, w) float32 metres at native size, 0 = none, projected from the lidar scan as in
      `project_velodyne`; None where the frame has no scan;
    - `drive`, `frame`, `side`.

    Args:
        root: folder that holds the recording days.
        frames: a split list's path, or frames.
        height, width: size of the images.
        source_frames: offsets of the neighbours.
        depth: which distance the depth map holds.

    Raises:
        FadepthError: on access, a file is absent or damaged.
    """

    def __init__(
        self,
        root: Path | str,
        frames: Path | str | Sequence[FrameId],
        *,
        height: int,
        width: int,
        source_frames: Sequence[int] = (-1, 1),
        depth: DepthValue = "forward_x",
    ) -> None:
        self.root = Path(root)
        self.frames = read_frames(Path(frames)) if isinstance(frames, str | Path) else list(frames)
        self.height = height
        self.width = width
        self.source_frames = tuple(source_frames)
        self.depth: DepthValue = depth

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        frame = self.frames[index]
        path = image_path(self.root, frame)
        if path is None:
            raise FadepthError(
                f"frame {frame.drive} {frame.number} {frame.side} has no image below {self.root}: "
                "download the drive or remove the frame from the list"
            )
        camera = read_camera(self.root, frame)
        size = (self.height, self.width)
        matrix = scale_intrinsics(camera.intrinsics, (camera.height, camera.width), size)
        neighbours = {offset: image_path(self.root, frame, offset) for offset in self.source_frames}
        depth = None
        if velodyne_path(self.root, frame).is_file():
            depth = torch.from_numpy(velodyne_depth(self.root, frame, depth=self.depth))
        return {
            "drive": frame.drive,
            "frame": frame.number,
            "side": frame.side,
            "image": self._image(path),
            "neighbours": {o: self._image(p) for o, p in neighbours.items() if p is not None},
            "intrinsics": torch.from_numpy(matrix).float(),
            "depth": depth,
        }

    def _image(self, path: Path) -> torch.Tensor:
        return torch.from_numpy(resize_image(read_image(path), self.height, self.width)) / 255
