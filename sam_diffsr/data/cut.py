"""Cuts one photograph into crops: reduces it, picks the textured places, stores the crops as one part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.crops import Crops
from sam_diffsr.errors import OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.image.photos import to_uint8
from sam_diffsr.resize import imresize

__all__ = [
    "gradient_energy",
    "read_part",
    "read_part_header",
    "reduce_image",
    "save_part",
    "textured_corners",
]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def reduce_image(rgb: Tensor, factor: float) -> NDArray[np.uint8]:
    """Reduce a photo ``(1, 3, H, W)`` in [0, 1], antialiased, to ``(H / factor, W / factor, 3)`` uint8."""
    if factor != 1:
        height, width = rgb.shape[-2:]
        rgb = imresize(rgb, size=(max(1, round(height / factor)), max(1, round(width / factor))))
    return to_uint8(rgb)


def gradient_energy(image: NDArray[np.uint8]) -> float:
    """Mean absolute difference between neighbouring pixels of the luma of ``(H, W, 3)``, in 8-bit levels."""
    luma = image.astype(np.float32) @ _LUMA
    return 0.5 * float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())


def textured_corners(image: NDArray[np.uint8], *, crop_size: int, min_gradient: float) -> NDArray[np.int32]:
    """Find the crops of a centred grid whose ``gradient_energy`` is at least ``min_gradient``.

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


def save_part(
    path: Path,
    image: NDArray[np.uint8],
    corners: NDArray[np.int32],
    regions: tuple[NDArray[np.uint16], NDArray[np.float32]],
    *,
    crop_size: int,
) -> None:
    """Write the crops of one photo with its label map and values; raises ``OutputError``."""
    labels, values = regions
    windows = [(slice(top, top + crop_size), slice(left, left + crop_size)) for top, left in corners]
    try:
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                images=np.array([image[window] for window in windows], np.uint8),
                labels=np.array([labels[window] for window in windows], np.uint16),
                corners=corners,
                values=values,
                size=np.array(image.shape[:2], np.int64),
            )
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error}; make room and run the preparation again, finished photos are kept"
        ) from error


def read_part_header(path: Path) -> dict[str, int]:
    """Size of the reduced photo and number of crops."""
    with np.load(path, allow_pickle=False) as part:
        height, width = (int(side) for side in part["size"])
        return {"height": height, "width": width, "crops": len(part["corners"])}


def read_part(path: Path) -> Crops:
    """Read the crops of a part."""
    with np.load(path, allow_pickle=False) as part:
        return part["images"], part["labels"], part["corners"], part["values"]
