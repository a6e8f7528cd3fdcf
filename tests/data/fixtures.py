"""Small data sets with known depth in the true formats of Make3D and Cityscapes.

The scene is closed-form: level ground below the camera, a wall across the road, above the wall
nothing. No real frame of either set may be shipped with the project.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

Depth = NDArray[np.float64]

CAMERA_HEIGHT = 1.22  # metres above the ground
WALL_HEIGHT = 8.0


def wall_distance(number: int) -> float:
    """Metres to the wall in frame `number`; from frame 3 on beyond Make3D's cap of 70 m."""
    return 15.0 + 20.0 * number


def scene_depth(x: Depth, y: Depth, wall: float) -> Depth:
    """Depth z in metres along rays (x, y, 1), y down; 0 = nothing there."""
    ground = np.where(y > 0, CAMERA_HEIGHT / np.where(y > 0, y, 1), np.inf)
    z = np.minimum(ground, wall)
    return np.where(y * z < CAMERA_HEIGHT - WALL_HEIGHT, 0, z)


def picture(depth: Depth, size: tuple[int, int]) -> Image.Image:
    """An RGB image of `size` (h, w) in which near things are bright, with a texture."""
    height, width = size
    rows = np.arange(height) * depth.shape[0] // height
    columns = np.arange(width) * depth.shape[1] // width
    near = 1 / (1 + depth[np.ix_(rows, columns)] / 20)
    texture = 20 * np.sin(np.arange(width) / 5) + 20 * np.cos(np.arange(height) / 7)[:, None]
    grey = 30 + 160 * near + texture
    rgb = np.stack([grey, 0.9 * grey, 0.8 * grey + 20], axis=2)
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


# Make3D


def make3d_grid(number: int, size: tuple[int, int] = (2272, 1704)) -> Depth:
    """`Position3DGrid` (55, 305, 4) of frame `number`: Y up, X, Z and distance d, metres."""
    height, width = size
    focal = 1.2 * width
    y = ((np.arange(55) + 0.5) / 55 - 0.5)[:, None] * height / focal
    x = ((np.arange(305) + 0.5) / 305 - 0.5)[None, :] * width / focal
    x, y = np.broadcast_arrays(x, y)
    z = scene_depth(x, y, wall_distance(number))
    return np.stack([-y * z, x * z, z, z * np.sqrt(x**2 + y**2 + 1)], axis=2)


def write_make3d(root: Path, frames: int, size: tuple[int, int] = (2272, 1704)) -> dict[str, Depth]:
    """Write Test134/ and Gridlaserdata/; return name -> true distance (55, 305) in metres.

    The first name has a dot in it, as many of the real ones have.
    """
    truth = {}
    for folder in ("Test134", "Gridlaserdata"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        name = f"op{number}-p-{62 * number + 15:03d}t000" if number else "10.21op2-p-015t000"
        grid = make3d_grid(number, size)
        image = picture(grid[:, :, 2], size)
        image.save(root / "Test134" / f"img-{name}.jpg", quality=90)
        path = root / "Gridlaserdata" / f"depth_sph_corr-{name}.mat"
        savemat(path, {"Position3DGrid": grid}, do_compression=True)
        truth[name] = grid[:, :, 3]
    return truth


# Cityscapes


def cityscapes_camera(size: tuple[int, int] = (1024, 2048)) -> dict[str, dict[str, float]]:
    """A camera file's content, with the numbers of a real one, scaled to `size` (h, w)."""
    sy, sx = size[0] / 1024, size[1] / 2048
    return {
        "extrinsic": {
            "baseline": 0.209313,
            "pitch": 0.038,
            "roll": 0.0,
            "x": 1.7,
            "y": 0.1,
            "yaw": -0.0195,
            "z": CAMERA_HEIGHT,
        },
        "intrinsic": {
            "fx": 2262.52 * sx,
            "fy": 2265.3017905988554 * sy,
            "u0": 1096.98 * sx,
            "v0": 513.137 * sy,
        },
    }


def cityscapes_depth(number: int, size: tuple[int, int], camera: dict[str, Any]) -> Depth:
    """True depth (h, w) of frame `number`; the left sixteenth has none, as stereo leaves it."""
    height, width = size
    k = camera["intrinsic"]
    x = (np.arange(width)[None, :] - k["u0"]) / k["fx"]
    y = (np.arange(height)[:, None] - k["v0"]) / k["fy"]
    x, y = np.broadcast_arrays(x, y)
    depth = scene_depth(x, y, wall_distance(number))
    depth[:, : width // 16] = 0
    return depth


def write_cityscapes(
    root: Path, frames: int, split: str = "test", size: tuple[int, int] = (1024, 2048)
) -> dict[str, Depth]:
    """Write leftImg8bit/, disparity/ and camera/; return name -> true depth (h, w), 0 = none.

    The files hold disparity in steps of 1/256 pixel. Frames take turns between two cities.
    """
    truth = {}
    for number in range(frames):
        city = ("berlin", "bielefeld")[number % 2]
        name = f"{city}_{number:06d}_000019"
        for kind in ("leftImg8bit", "disparity", "camera"):
            (root / kind / split / city).mkdir(parents=True, exist_ok=True)
        camera = cityscapes_camera(size)
        depth = cityscapes_depth(number, size, camera)
        scale = camera["extrinsic"]["baseline"] * camera["intrinsic"]["fx"]
        disparity = scale / np.where(depth > 0, depth, np.inf)
        values = np.where(depth > 0, np.round(disparity * 256) + 1, 0)
        image = picture(depth, size)
        image.save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", compress_level=1)
        Image.fromarray(values.astype(np.uint16)).save(
            root / f"disparity/{split}/{city}/{name}_disparity.png"
        )
        text = json.dumps(camera, indent=4)
        (root / f"camera/{split}/{city}/{name}_camera.json").write_text(text)
        truth[name] = depth
    return truth


def write_ddad_scenes(folder: Path) -> None:
    """A list of scenes as DDAD has it; not one of them is there."""
    scenes = [f"{n:06d}/scene_{n:040x}.json" for n in range(200)]
    splits = {"0": {"filenames": scenes[:150]}, "1": {"filenames": scenes[150:]}}
    (folder / "ddad.json").write_text(json.dumps({"scene_splits": splits}))
