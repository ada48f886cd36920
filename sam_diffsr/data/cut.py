"""Cuts one photograph into crops: reduces it, picks the textured places, stores the crops as parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.crops import Crops
from sam_diffsr.data.photo_regions import PhotoRegions
from sam_diffsr.errors import ImageError, OutputError
from sam_diffsr.files import atomic_path
from sam_diffsr.image import decode_image
from sam_diffsr.image.photos import to_uint8
from sam_diffsr.resize import imresize

__all__ = [
    "cut_photo",
    "gradient_energy",
    "read_part",
    "read_part_header",
    "reduce_image",
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


def cut_photo(
    file: Path, parts: Mapping[float, Path], regions: PhotoRegions, *, crop_size: int, min_gradient: float
) -> tuple[str, str] | None:
    """Write the missing parts of a photo, one per reduction.

    Returns:
        The kind (``corrupt`` or ``small``) and the reason, if the photo has to be left out.

    Raises:
        OutputError: a part cannot be written.
    """
    missing = {factor: path for factor, path in parts.items() if not path.is_file()}
    if not missing:
        return None
    try:
        photo = decode_image(file).rgb
    except ImageError as error:
        return "corrupt", str(error)
    height, width = photo.shape[-2:]
    if round(min(height, width) / min(parts)) < crop_size:
        return "small", (
            f"{file} is {height}x{width}; reduced by {min(parts):g} it is smaller than a crop "
            f"of {crop_size}; lower crop_size or the reductions"
        )
    for factor, path in missing.items():
        image = reduce_image(photo, factor)
        corners = textured_corners(image, crop_size=crop_size, min_gradient=min_gradient)
        found = regions.find(file, image, photo_size=(height, width), needed=len(corners) > 0)
        windows = [(slice(top, top + crop_size), slice(left, left + crop_size)) for top, left in corners]
        try:
            with atomic_path(path) as temporary:
                np.savez(
                    temporary,
                    images=np.array([image[window] for window in windows], np.uint8),
                    labels=np.array([found[0][window] for window in windows], np.uint16),
                    corners=corners,
                    values=found[1],
                    size=np.array(image.shape[:2], np.int64),
                )
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error}; make room and run it again, finished photos are kept"
            ) from error
    return None


def read_part_header(path: Path) -> dict[str, int]:
    """Size of the reduced photo and number of crops."""
    with np.load(path, allow_pickle=False) as part:
        height, width = (int(side) for side in part["size"])
        return {"height": height, "width": width, "crops": len(part["corners"])}


def read_part(path: Path) -> Crops:
    """Read the crops of a part."""
    with np.load(path, allow_pickle=False) as part:
        return part["images"], part["labels"], part["corners"], part["values"]
