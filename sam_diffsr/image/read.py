"""Open image files and load their pixels, with every way that this fails told apart."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sam_diffsr.errors import ArgumentError, ImageError, ImageTooLargeError

__all__ = ["check_size", "load_pixels", "open_file"]


@contextmanager
def open_file(source: str | os.PathLike[str]) -> Generator[Image.Image, None, None]:
    """Open an image file, its header only, and close it in the end.

    Raises:
        ImageError: no such file, a folder, empty, unreadable, not an image, or a damaged header.
        ImageTooLargeError: Pillow's own limit is exceeded.
    """
    path = Path(source)
    try:
        state = path.stat()
    except FileNotFoundError as error:
        raise ImageError(f"no such file: {str(path)!r}") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {str(path)!r}: {error}") from error
    if stat.S_ISDIR(state.st_mode):
        raise ImageError(f"{str(path)!r} is a folder; an image file is needed")
    if not stat.S_ISREG(state.st_mode):
        raise ImageError(f"{str(path)!r} is not a regular file; an image file is needed")
    if state.st_size == 0:
        raise ImageError(f"{str(path)!r} is empty (0 bytes)")
    image = _open_header(path)
    try:
        yield image
    finally:
        image.close()


def _open_header(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{str(path)!r} is not an image of a kind that Pillow reads; "
            "convert it to PNG, JPEG, TIFF or WebP"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(
            f"{str(path)!r} exceeds Pillow's own limit ({error}); if you trust the file, raise "
            "PIL.Image.MAX_IMAGE_PIXELS and max_pixels, or cut it into parts"
        ) from error
    except PermissionError as error:
        raise ImageError(f"cannot read {str(path)!r}: permission denied") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever their parsing runs into
        raise ImageError(f"{str(path)!r} is damaged: its header cannot be read ({error})") from error


def check_size(width: int, height: int, *, max_pixels: int | None, name: str) -> None:
    """Refuse images without pixels and images beyond the limit, before anything is allocated for them.

    Raises:
        ArgumentError: ``max_pixels`` is below 1.
        ImageError: a side is 0.
        ImageTooLargeError: more than ``max_pixels`` pixels.
    """
    if max_pixels is not None and max_pixels < 1:
        raise ArgumentError(f"max_pixels must be >= 1, or None for no limit, got {max_pixels}")
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels: it is {width} wide and {height} high")
    if max_pixels is not None and width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} has {width} x {height} = {width * height} pixels, more than the limit of {max_pixels}; "
            "raise max_pixels (None: no limit) if that is what you want"
        )


def load_pixels(image: Image.Image, *, name: str) -> None:
    """Decode the pixels of an opened image; warn of frames and of bits that are left out.

    Raises:
        ImageError: the data are damaged or end too early.
    """
    reduced = _reduced_from_16_bit(image)
    try:
        frames = int(getattr(image, "n_frames", 1))
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever their parsing runs into
        raise ImageError(
            f"the pixels of {name} cannot be decoded, the file is damaged or cut off: {error}"
        ) from error
    if frames > 1:
        current = int(image.tell()) + 1
        shown = "first frame" if current == 1 else f"current frame (number {current})"
        warnings.warn(f"{name} has {frames} frames; only its {shown} is used", UserWarning, stacklevel=4)
    if reduced:
        warnings.warn(
            f"{name} has 16 bits a sample in several channels, of which Pillow reads 8; to keep all of them, "
            "read it with another library and pass the uint16 array",
            UserWarning,
            stacklevel=4,
        )


def _reduced_from_16_bit(image: Image.Image) -> bool:
    """Whether Pillow is about to cut 16-bit samples to 8; the raw mode is known until the pixels are read."""
    if image.mode.startswith(("I", "F")):
        return False
    tiles: list[tuple[Any, ...]] = getattr(image, "tile", [])
    options: list[Any] = [tile[3] for tile in tiles]
    raw_modes: list[Any] = [entry[0] if isinstance(entry, tuple) and entry else entry for entry in options]
    # "BGR;16" is 16 bits a pixel, not a sample.
    return any(isinstance(raw, str) and "16" in raw and not raw.startswith("BGR") for raw in raw_modes)
