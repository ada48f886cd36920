"""Float tensors back to the kind of image that came in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.errors import ImageError
from sam_diffsr.image.kinds import LEVELS, ImageFormat
from sam_diffsr.image.metadata import exif_for_size

__all__ = ["encode_image"]

_STRIP_PIXELS = 2**18
"""Pixels that are converted at a time, so that nothing but the result is of the size of the image."""


def encode_image(rgb: Tensor, alpha: Tensor | None, format: ImageFormat) -> Image.Image | NDArray[Any]:
    """Turn a result into the same kind of image as ``format`` was taken from.

    Values are clipped to [0, 1]; integer samples are rounded, halves up. Gray is the mean of the three
    channels: gray goes in as three equal channels, so each of them is an estimate of it.

    Args:
        rgb: ``(1, 3, H, W)`` on any device: of a floating type, nominally in [0, 1], or uint8.
        alpha: ``(1, 1, H, W)`` likewise, where ``format.has_alpha``, else None.
        format: what ``decode_image`` gave for the source; its size does not matter.

    Returns:
        A PIL image with the source's metadata in ``info``, or an array of the source's type, rank and
        channels. Pillow's own ``save`` takes little of ``info`` by itself;
        :func:`~sam_diffsr.image.save_image` takes all that the file format can hold.

    Raises:
        ImageError: a wrong shape or type, or alpha is given and not expected, or the other way round.
    """
    if rgb.ndim != 4 or rgb.shape[:2] != (1, 3) or not (rgb.is_floating_point() or rgb.dtype == torch.uint8):
        raise ImageError(f"rgb must be float or uint8 (1, 3, H, W), got {rgb.dtype} {tuple(rgb.shape)}")
    if (alpha is not None) != format.has_alpha:
        expected, got = ("needs", "none came") if format.has_alpha else ("has no", "some came")
        raise ImageError(f"an image of {format.channels} channels {expected} alpha, but {got}")
    if alpha is not None and alpha.shape != (1, 1, *rgb.shape[-2:]):
        raise ImageError(
            f"alpha must be of shape {(1, 1, *rgb.shape[-2:])} beside rgb, got {tuple(alpha.shape)}"
        )
    height, width = rgb.shape[-2:]
    array = np.empty((height, width, format.channels), dtype=format.sample_type)
    if rgb.dtype == torch.uint8 and format.channels == 3 and format.sample_type == "uint8":
        array = rgb[0].permute(1, 2, 0).contiguous().cpu().numpy()  # no copy of a channels-last tensor
        return array if format.container == "array" else _to_pil(array, format)
    if rgb.dtype == torch.uint8:
        rgb = rgb / 255
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        planes = rgb[0, :, rows]
        if format.grayscale:
            planes = planes.mean(dim=0, keepdim=True)
        if alpha is not None:
            planes = torch.cat([planes, alpha[0, :, rows].to(planes)])
        array[rows] = _to_samples(planes, format)
    flat = format.array_rank == 2 if format.container == "array" else format.channels == 1
    array = array[:, :, 0] if flat else array
    return array if format.container == "array" else _to_pil(array, format)


def _to_samples(planes: Tensor, format: ImageFormat) -> NDArray[Any]:
    """Give ``(C, H, W)`` as ``(H, W, C)`` of the source's sample type."""
    values = planes.detach().float().clamp(0, 1)
    if format.sample_type in LEVELS:
        values.mul_(LEVELS[format.sample_type]).add_(0.5).floor_()
    return values.permute(1, 2, 0).cpu().numpy().astype(format.sample_type)


def _to_pil(array: NDArray[Any], format: ImageFormat) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(array))
    image.info.update(format.metadata)
    if (exif := format.metadata.get("exif")) is not None:
        image.info["exif"] = exif_for_size(exif, width=image.width, height=image.height)
    return image
