"""The crops of one photo at one reduction, kept until all are there, so that preparation can go on later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.data.writer import CropWriter
from sam_diffsr.errors import OutputError
from sam_diffsr.files import atomic_path

__all__ = ["PARTS", "join_parts", "read_part_header", "save_part"]

PARTS = "parts"
"""Folder of them, inside that of the crops."""


def save_part(
    path: Path,
    image: NDArray[np.uint8],
    corners: NDArray[np.int32],
    labels: NDArray[np.uint16],
    values: NDArray[np.float32],
    *,
    crop_size: int,
) -> None:
    """Cut the crops of one photo at one reduction; written whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
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
    """Size of the photo as it was cut, and number of crops."""
    with np.load(path, allow_pickle=False) as part:
        height, width = (int(side) for side in part["size"])
        return {"height": height, "width": width, "crops": len(part["corners"])}


def join_parts(folder: Path, parts: Sequence[Path], *, count: int, crop_size: int) -> None:
    """Copy the parts, one at a time, into the final arrays.

    Raises:
        OutputError: the disk is too full.
    """
    with CropWriter(folder, count=count, crop_size=crop_size) as writer:
        for path in parts:
            with np.load(path, allow_pickle=False) as part:
                writer.add(part["images"], part["labels"], part["corners"], part["values"])
