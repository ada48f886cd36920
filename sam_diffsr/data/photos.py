"""Photographs on their way to crops: finding, reducing, telling textured parts from flat ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.errors import DataError
from sam_diffsr.resize import imresize

__all__ = ["PHOTO_SUFFIXES", "gradient_energy", "list_photos", "reduce_image", "textured_corners"]

PHOTO_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def list_photos(photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Files of a folder (recursively, sorted) that look like photos, or the given files, checked to exist.

    Files whose name starts with a dot are left out: they are unfinished, or some program's own.

    Raises:
        DataError: the folder or a file does not exist, or there is no photo.
    """
    if isinstance(photos, (str, os.PathLike)):
        root = Path(photos)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder of photos")
        files = sorted(
            path
            for path in root.rglob("*")
            if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
        )
    else:
        files = [Path(photo) for photo in photos]
        for file in files:
            if not file.is_file():
                raise DataError(f"photo {file} does not exist")
    if not files:
        raise DataError(
            f"no photos in {photos!r}; expected files ending in {', '.join(sorted(PHOTO_SUFFIXES))}"
        )
    return files


def reduce_image(rgb: torch.Tensor, factor: float) -> NDArray[np.uint8]:
    """Make a photo smaller by ``factor``, antialiased, and round to 8 bit.

    Args:
        rgb: ``(1, 3, H, W)`` float32 in [0, 1].
        factor: >= 1.

    Returns:
        ``(round(H / factor), round(W / factor), 3)`` uint8.
    """
    if factor != 1:
        height, width = rgb.shape[-2:]
        rgb = imresize(rgb, size=(max(1, round(height / factor)), max(1, round(width / factor))))
    levels = (rgb[0] * 255).clamp(0, 255).add(0.5).floor().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


def gradient_energy(image: NDArray[np.uint8]) -> float:
    """Mean absolute difference between neighbouring pixels of the luma, in 8-bit levels.

    Args:
        image: ``(H, W, 3)`` uint8 with H, W >= 2.
    """
    luma = image.astype(np.float32) @ _LUMA
    return 0.5 * float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())


def textured_corners(image: NDArray[np.uint8], *, crop_size: int, min_gradient: float) -> NDArray[np.int32]:
    """Top left corners of the crops worth keeping, on a centred grid without overlap.

    Args:
        image: ``(H, W, 3)`` uint8.
        crop_size: side of the crops.
        min_gradient: crops with a lower ``gradient_energy`` are left out.

    Returns:
        ``(n, 2)`` int32, top and left; empty when the image is smaller than a crop.
    """
    height, width = image.shape[:2]
    corners = [
        (top, left)
        for top in range((height % crop_size) // 2, height - crop_size + 1, crop_size)
        for left in range((width % crop_size) // 2, width - crop_size + 1, crop_size)
        if gradient_energy(image[top : top + crop_size, left : left + crop_size]) >= min_gradient
    ]
    return np.array(corners, np.int32).reshape(-1, 2)
