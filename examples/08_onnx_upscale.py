"""Upscale an image without torch: ``python examples/08_onnx_upscale.py FOLDER INPUT OUTPUT``.

FOLDER is written by ``sam-diffsr export-onnx``. The image is one tile; every sampler is run as DDIM.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def resize(image: Array, scale: float) -> Array:
    """Resize ``(B, C, H, W)`` as MATLAB's bicubic ``imresize`` does."""
    for axis in (2, 3):
        size, stretch = image.shape[axis], min(scale, 1.0)
        centre = (np.arange(math.ceil(size * scale)) + 0.5) / scale - 0.5
        index = np.floor(centre - 2 / stretch)[:, None] + np.arange(math.ceil(4 / stretch) + 2)
        x = np.abs((centre[:, None] - index) * stretch)
        far = np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0)
        weight = np.where(x <= 1, (1.5 * x - 2.5) * x * x + 1, far)
        index = index.astype(int) % (2 * size)  # symmetric edges
        index = np.minimum(index, 2 * size - 1 - index)
        matrix = np.zeros((len(centre), size))
        np.add.at(matrix, (np.arange(len(centre))[:, None], index), weight / weight.sum(1, keepdims=True))
        image = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis).astype(np.float32)
    return image


def upscale(folder: str, image: Array, seed: int = 0) -> Array:
    """Upscale an 8-bit RGB array ``(H, W, 3)``."""
    encoder: Any = onnxruntime.InferenceSession(f"{folder}/encoder.onnx")
    denoiser: Any = onnxruntime.InferenceSession(f"{folder}/denoiser.onnx")
    config = json.loads(encoder.get_modelmeta().custom_metadata_map["sam_diffsr"])
    scale, steps, start = config["model"]["scale"], config["sampling"]["steps"], config["sampling"]["start"]
    # Pad to a size that the denoiser takes.
    stride = 2 ** (len(config["model"]["denoiser"]["multipliers"]) - 1)
    multiple, least = stride // math.gcd(stride, scale), max(2, 2 * stride // scale)
    extra = [max(-(-side // multiple) * multiple, least) - side for side in image.shape[:2]]
    padded = np.pad(image, ((0, extra[0]), (0, extra[1]), (0, 0)), mode="symmetric")
    lr = padded.transpose(2, 0, 1)[None].astype(np.float32) / 255
    # Encode, and start from the residual of the encoder's image with noise.
    projected, sr = encoder.run(None, {"lr": lr})
    if steps:
        alpha_bars, gain = config["alpha_bars"], config["normalization"]["residual_scale"]
        lr_up = resize(lr * (255 / config["normalization"]["lr_up_levels"]), scale) * 2 - 1
        first = len(alpha_bars) - 1 if start is None else start
        x0 = np.clip((sr * 2 - 1 - lr_up) * gain, -1, 1) * (start is not None)
        noise = np.random.default_rng(seed).standard_normal(lr_up.shape)
        x = math.sqrt(alpha_bars[first]) * x0 + math.sqrt(1 - alpha_bars[first]) * noise
        # DDIM.
        gaps = max(steps - 1, 1)
        grid = [first - (2 * first * step + gaps) // (2 * gaps) for step in range(steps)]
        for t, after in zip(grid, [*(alpha_bars[t] for t in grid[1:]), 1.0], strict=True):
            now = alpha_bars[t]
            xt = {"xt": x.astype(np.float32), "t": np.array([t]), "projected": projected}
            eps = denoiser.run(None, xt)[0]
            x0 = np.clip((x - math.sqrt(1 - now) * eps) / math.sqrt(now), -1, 1)
            eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
            x = math.sqrt(after) * x0 + math.sqrt(1 - after) * eps
        share = config["sampling"]["encoder_share"]
        sr = share * sr + (1 - share) * np.clip((x0 / gain + lr_up + 1) / 2, 0, 1)
    if config["degradation"] == "bicubic":  # the result reduced again is the input
        for _ in range(3):
            sr = np.clip(sr + resize(lr - resize(sr, 1 / scale), scale), 0, 1)
    sr = sr[0, :, : scale * image.shape[0], : scale * image.shape[1]].transpose(1, 2, 0)
    return (sr * 255 + 0.5).astype(np.uint8)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    result = upscale(sys.argv[1], np.asarray(Image.open(sys.argv[2]).convert("RGB")))
    Image.fromarray(result).save(sys.argv[3])
