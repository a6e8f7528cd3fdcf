"""A procedural street with exact depth and poses, for learning where no data set is at hand.

Every scene is drawn from a seed: a straight or bending street with pavements, facades, parked
cars, poles and trees, a camera that drives along it, and cars that move. Rays meet planes, boxes,
cylinders and ellipsoids in closed form, so depth and pose are exact. All of this is [derived]; it
is a test bed for the pipeline and no stand-in for KITTI: numbers reached on it are not the paper's.

Conventions
    Camera: x right, y down, z forward; depth is camera z in metres.
    Pixels: integer pixel centres. Column u (0 is the leftmost) and row v (0 is the top) are seen
    along ((u - cx) / fx, (v - cy) / fy, 1), with KITTI's normalised intrinsics as monodepth2 has
    them (https://github.com/nianticlabs/monodepth2, `kitti_dataset.py`): fx = 0.58 W,
    fy = 1.92 H, cx = 0.5 W, cy = 0.5 H.
    World: x right, y down, z forward at the start of the street; the camera moves in the plane
    y = 0 and the road is the plane y = 1.65 (`street.CAMERA_HEIGHT`).
    Street: s metres along the centre line, d metres to its right; traffic keeps to the right.

Modules, each from those before it: `textures`, `street`, `solids`, `things` (houses, trees, cars),
`layout` (what stands where), `light` (and shadows), `camera`, `scene` (what one drive needs);
`tracing` (what rays meet), `walls`, `surfaces` (what that looks like), `rendering` (one frame);
`drives` (files in KITTI's layout). Random numbers are drawn in a fixed order: who adds a draw gives
every seed another street, and raises `drives.GENERATOR_VERSION`.
"""

from fadepth.data.synthetic.camera import intrinsics
from fadepth.data.synthetic.drives import GENERATOR_VERSION, render_street
from fadepth.data.synthetic.rendering import render_frame
from fadepth.data.synthetic.scene import Scene, make_scene

__all__ = [
    "GENERATOR_VERSION",
    "Scene",
    "intrinsics",
    "make_scene",
    "render_frame",
    "render_street",
]
