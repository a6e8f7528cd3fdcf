"""Depth of a photo, without fadepth or torch. Needs: pip install numpy pillow onnxruntime

python infer_onnx.py model.onnx photo.jpg depth.npy   # metres up to scale, float32
python infer_onnx.py model.onnx photo.jpg depth.png   # 16 bit, 256 a metre, as KITTI's depth maps
"""

import os
import sys

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime
from PIL import Image

model, photo, output = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
told = session.get_modelmeta().custom_metadata_map
size = int(told["width"]), int(told["height"])  # of the training's images
image = Image.open(photo).convert("RGB").resize(size, Image.Resampling.LANCZOS)
pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255
disparity = session.run(None, {"image": pixels})[0][0, 0]
near, far = float(told["min_depth"]), float(told["max_depth"])
depth = 1 / (1 / far + (1 / near - 1 / far) * disparity)
if output.endswith(".npy"):
    np.save(output, depth)
else:
    Image.fromarray((256 * depth).round().astype(np.uint16)).save(output)
