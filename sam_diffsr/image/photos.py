"""Photographs for masks and training: list the files of a folder, read one as an 8-bit RGB array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.errors import DataError
from sam_diffsr.image.decode import decode_image

PHOTO_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings (lower case) of the files that count as photographs."""


def is_photo(path: Path) -> bool:
    """Whether a file is a photograph, by its name. Hidden files are unfinished or belong to some program."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def list_photos(photos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List the photographs of a folder and its subfolders, sorted; a list of files is checked to exist.

    Hidden files and folders are left out.

    Raises:
        DataError: the folder or a file does not exist, or there is no photograph.
    """
    if isinstance(photos, (str, os.PathLike)):
        root = Path(photos)
        if not root.is_dir():
            raise DataError(f"{root} is not a folder of photos")
        files = sorted(file for file in root.rglob("*") if is_photo(file) and file.is_file())
        files = [file for file in files if not any(part[0] == "." for part in file.relative_to(root).parts)]
    else:
        root, files = "the given list", [Path(photo) for photo in photos]
        for file in files:
            if not file.is_file():
                raise DataError(f"photo {file} does not exist")
    if not files:
        raise DataError(f"no photos in {root}; expected files ending in {', '.join(sorted(PHOTO_SUFFIXES))}")
    return files


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a photograph upright, ``(H, W, 3)`` uint8 RGB; raises ``ImageError``."""
    return to_uint8(decode_image(path).rgb)


def to_uint8(rgb: Tensor) -> NDArray[np.uint8]:
    """Round a ``(1, 3, H, W)`` float image in [0, 1] to ``(H, W, 3)`` uint8."""
    levels = (rgb[0] * 255).clamp(0, 255).add(0.5).floor().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())
