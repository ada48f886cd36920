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
    height, width = rgb.shape[-2:]
    expected = (1, 1, height, width) if format.has_alpha else None
    got = None if alpha is None else tuple(alpha.shape)
    if got != expected:
        raise ImageError(
            f"alpha must be {expected} for an image of {format.channels} channels and {height} x {width} "
            f"pixels, got {got}"
        )
    if rgb.dtype == torch.uint8 and format.channels == 3 and format.sample_type == "uint8":
        array = rgb[0].permute(1, 2, 0).contiguous().cpu().numpy()  # no copy of a channels-last tensor
    else:
        array = np.empty((height, width, format.channels), dtype=format.sample_type)
        step = max(1, _STRIP_PIXELS // width)
        for rows in (slice(top, top + step) for top in range(0, height, step)):
            planes = rgb[0, :, rows].detach().float()
            if rgb.dtype == torch.uint8:
                planes = planes / 255
            if format.grayscale:
                planes = planes.mean(dim=0, keepdim=True)
            if alpha is not None:
                planes = torch.cat([planes, alpha[0, :, rows].to(planes)])
            planes = planes.clamp(0, 1)
            if format.sample_type in LEVELS:
                planes.mul_(LEVELS[format.sample_type]).add_(0.5).floor_()
            array[rows] = planes.permute(1, 2, 0).cpu().numpy()
    if format.container == "array":
        return array[:, :, 0] if format.array_rank == 2 else array
    image = Image.fromarray(array[:, :, 0] if format.channels == 1 else array)
    image.info.update(format.metadata)
    if "exif" in format.metadata:
        image.info["exif"] = exif_for_size(format.metadata["exif"], width=width, height=height)
    return image
