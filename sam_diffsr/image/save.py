"""Write images to files: whole or not at all."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.files import atomic_path

__all__ = ["save_image"]

_SUITABLE: dict[str, tuple[tuple[str, ...], str]] = {
    "LA": (("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA"), "has transparency"),
    "RGBA": (("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "TGA", "GIF", "ICO"), "has transparency"),
    "I;16": (("PNG", "TIFF", "JPEG2000", "PPM"), "has 16 bits a sample"),
    "F": (("TIFF",), "has float samples"),
}
"""Modes that some formats cannot hold, or that Pillow would reduce for them without a word."""


def save_image(
    image: Image.Image, path: str | os.PathLike[str], *, quality: int = 95, strip_metadata: bool = False
) -> None:
    """Write ``image`` to ``path``, in the format that the extension names.

    The file is written under a temporary name in the same folder and then renamed: whatever goes wrong,
    ``path`` holds what it held before, or the whole new image. EXIF and ICC profile are taken from
    ``image.info``. Colour in JPEG is stored in full resolution.

    Args:
        image: any PIL image; mode ``"I"`` with values in 0..65535 is written as 16-bit gray.
        path: file to write; an existing one is replaced. Its folder must exist.
        quality: 1 (worst) to 100, for JPEG, WebP and AVIF; the other formats keep every bit.
        strip_metadata: leave out EXIF, ICC profile and all else that ``image.info`` holds.

    Raises:
        ArgumentError: ``quality`` is out of range.
        OutputError: unknown extension, a format that cannot hold the image (no transparency in JPEG, no
            16 bits in WebP), no such folder, a folder of this name, no permission, or no space left.
    """
    if not 1 <= quality <= 100:
        raise ArgumentError(f"quality must be in 1..100, got {quality}")
    target = Path(path)
    file_format = _format_of(target)
    if target.is_dir():
        raise OutputError(f"cannot write the image to {str(target)!r}: there is a folder of this name")
    if not target.parent.is_dir():
        raise OutputError(
            f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}; create it"
        )
    image = _storable(image, file_format, target)
    options: dict[str, Any] = {"quality": quality} if file_format in ("JPEG", "WEBP", "AVIF") else {}
    if file_format == "JPEG":
        options["subsampling"] = "4:4:4"
    if file_format == "PNG":
        options["compress_type"] = zlib.Z_RLE  # photographs: as small as by default, a fifth of the time
    if strip_metadata:
        image = image.copy()  # a plain image: what a file's own class remembers is gone, too
        image.info = {}
    else:
        options.update({key: image.info[key] for key in ("exif", "icc_profile") if image.info.get(key)})
    _write(image, target, file_format, options)


def _format_of(target: Path) -> str:
    Image.init()
    file_format = Image.registered_extensions().get(target.suffix.lower())
    if file_format is None or file_format not in Image.SAVE:
        raise OutputError(
            f"cannot tell an image format from the extension {target.suffix!r} of {str(target)!r}; "
            "use .png, .jpg, .webp or .tif"
        )
    return file_format


def _storable(image: Image.Image, file_format: str, target: Path) -> Image.Image:
    """Refuse what the format cannot hold; bring mode ``"I"`` to the one that files have."""
    if image.mode == "I":
        array = np.asarray(image)
        low, high = array.min(), array.max()
        if low < 0 or high > 65535:
            raise OutputError(
                f"cannot write {str(target)!r}: mode 'I' must hold values in 0..65535, got {low} to {high}"
            )
        info = image.info
        image = Image.fromarray(array.astype(np.uint16))
        image.info = dict(info)
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    formats, reason = _SUITABLE.get(mode, ((), ""))
    if formats and file_format not in formats:
        better = " or ".join(f".{name.lower().replace('tiff', 'tif')}" for name in formats[:2])
        raise OutputError(
            f"cannot write {str(target)!r}: the image {reason} (mode {image.mode}), which {file_format} "
            f"cannot hold; use {better}, or convert the image"
        )
    return image


def _write(image: Image.Image, target: Path, file_format: str, options: dict[str, Any]) -> None:
    try:
        with atomic_path(target) as temporary, temporary.open("x+b") as file:
            image.save(file, format=file_format, **options)
    except MemoryError:
        raise
    except Exception as error:  # encoders raise whatever they run into
        if isinstance(error, OSError) and error.errno is not None:
            problem = f"{error.strerror}; look at the folder's permissions and free space"
        else:
            problem = (
                f"{file_format} cannot hold a {image.width} x {image.height} image of mode {image.mode} "
                f"with its metadata ({error}); use .png, or convert the image"
            )
        raise OutputError(f"cannot write {str(target)!r}: {problem}") from error
