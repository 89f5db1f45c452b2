"""Score images with an exported model and OpenVINO alone: ``python edge_openvino.py model.xml PICTURE...``.

Feed 8-bit images upright, of any size: resizing, references, thresholds and normalisation are inside the file.
"""

import sys

import numpy as np
import openvino
from PIL import Image, ImageOps


def main(model: str, *pictures: str) -> None:
    """Print score, label and the place of the largest anomaly of each image."""
    core = openvino.Core()
    # Without this hint some processors compute in 16 bits.
    detector = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for path in pictures:
        rgb = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), dtype=np.float32) / 255
        found = detector(rgb.transpose(2, 0, 1)[None])  # (1, 3, height, width) in [0, 1]
        heat = found["anomaly_map"][0, 0]
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        place = int(column * rgb.shape[1] / heat.shape[1]), int(row * rgb.shape[0] / heat.shape[0])
        label = "defective" if found["pred_label"][0] else "good"
        print(f"{path}: {label}, score {found['pred_score'][0]:.4f}, most anomalous at x, y = {place}")


if __name__ == "__main__":
    main(*sys.argv[1:])
