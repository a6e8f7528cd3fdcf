"""Two rendered drives as videos, with their camera and some depth, to try docs/how-to with.

python docs/examples/street_video.py example
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fadepth.data.synthetic import intrinsics, make_scene, render_frame
from fadepth.data.video import video_writer

HEIGHT, WIDTH, RATE = 128, 416, 10.0
#: Name: number of the street, frames for which the car stands at its beginning, frames in all.
DRIVES = {"monday": (1, 10, 40), "tuesday": (2, 0, 20)}

output = Path(sys.argv[1])
for name, (street, standing, frames) in DRIVES.items():
    scene = make_scene(0, street, frames - standing)
    (output / "depth" / name).mkdir(parents=True, exist_ok=True)
    with video_writer(output / f"{name}.mp4", RATE) as write:
        for number in range(frames):
            image, depth, _ = render_frame(scene, max(0, number - standing), HEIGHT, WIDTH)
            write(image)
            if number % 5 == 0:  # every fifth frame has depth, of one pixel in 16
                sparse = np.zeros((HEIGHT, WIDTH), np.uint16)
                sparse[::4, ::4] = np.where(depth < 255, depth * 256, 0)[::4, ::4].round()
                Image.fromarray(sparse).save(output / "depth" / name / f"{number:06d}.png")
fx, fy, cx, cy = intrinsics(HEIGHT, WIDTH)[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
camera = f"fx: {fx:g}\nfy: {fy:g}\ncx: {cx:g}\ncy: {cy:g}\nwidth: {WIDTH}\nheight: {HEIGHT}\n"
(output / "camera.yaml").write_text(camera)
