"""PIL images, arrays and files to float tensors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sam_diffsr.errors import ImageError
from sam_diffsr.image.alpha import fill_hidden
from sam_diffsr.image.kinds import (
    LEVELS,
    MAX_PIXELS_DEFAULT,
    DecodedImage,
    ImageFormat,
    ImageInput,
    SampleType,
)
from sam_diffsr.image.metadata import apply_orientation, convert_cmyk, is_turned, kept_metadata
from sam_diffsr.image.read import check_size, file_name, load_pixels, open_file

__all__ = ["decode_image", "image_size"]

_ARRAY_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
_WITH_ALPHA = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
"""Modes with alpha, and the plain ones that they become."""
_JPEG_TABLE_SUM = 3688
"""Sum of the luminance table of quality 50 (ITU-T T.81, table K.1)."""
_FLOAT_SLACK = 1e-6
"""How far beyond [0, 1] a float sample may be, for the rounding of earlier steps; it is clipped."""


def decode_image(image: ImageInput, *, max_pixels: int | None = MAX_PIXELS_DEFAULT) -> DecodedImage:
    """Turn any image that the library takes into a float tensor.

    Orientation in EXIF is applied, once; animations and multi-page files give their first frame, with a
    ``UserWarning``. Images that are not gray or RGB, with or without alpha, are converted:

    * 1-bit becomes gray; palettes become RGB; a transparent colour becomes alpha.
    * CMYK becomes sRGB, through the image's ICC profile if it has one; YCbCr, LAB and HSV become RGB.
    * 16-bit gray (PIL modes ``"I;16"`` and ``"I"``) stays 16-bit. Pillow has no 16-bit colour: 16-bit RGB
      files are read as 8-bit, with a ``UserWarning``; pass a uint16 array to keep 16 bits.

    Colours that transparency hides are replaced by those of their visible neighbours.

    Args:
        image: PIL image, path of a file, open binary file, or array ``(H, W)`` or ``(H, W, C)`` with 1
            (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) channels; uint8, uint16, or float16/32/64 in
            [0, 1]. PIL mode ``"F"`` is float in [0, 1] too. It is not changed.
        max_pixels: refuse larger images, before their pixels are decoded; None takes any size.

    Returns:
        The pixels in [0, 1], alpha if there is any, and the format to give a result back in.

    Raises:
        ImageNotFoundError: there is no such file.
        ImageError: not an image, damaged, or an array of a wrong rank, type or range.
        ImageTooLargeError: more than ``max_pixels`` pixels.
        ArgumentError: ``max_pixels`` is not a whole number >= 1.
    """
    if isinstance(image, np.ndarray):
        return _to_tensors(image, _array_format(image, max_pixels), name="the array")
    with _opened(image, max_pixels) as (opened, name):
        return _decode_pil(opened, max_pixels, name)


def image_size(image: ImageInput, *, max_pixels: int | None = MAX_PIXELS_DEFAULT) -> tuple[int, int]:
    """Height and width that :func:`decode_image` will give, of a file from its header.

    In some files (TIFF, a PNG with its EXIF at the end) the orientation is not known before the pixels: there
    height and width may be exchanged.

    Args:
        image: as in :func:`decode_image`.
        max_pixels: refuse larger images.

    Raises:
        ImageError: the header is refused, as in :func:`decode_image`.
        ImageTooLargeError: more than ``max_pixels`` pixels.
        ArgumentError: ``max_pixels`` is not a whole number >= 1.
    """
    if isinstance(image, np.ndarray):
        _array_format(image, max_pixels)
        return image.shape[0], image.shape[1]
    with _opened(image, max_pixels) as (opened, _):
        turned = opened.width != opened.height and is_turned(opened)
        return (opened.width, opened.height) if turned else (opened.height, opened.width)


@contextmanager
def _opened(
    image: Image.Image | str | os.PathLike[str] | IO[bytes], max_pixels: int | None
) -> Generator[tuple[Image.Image, str]]:
    """A PIL image or a file, of an allowed size, with the name that messages call it by."""
    if isinstance(image, Image.Image):
        opening, name = nullcontext(image), "the image"
    elif isinstance(image, (str, os.PathLike)) or (hasattr(image, "read") and hasattr(image, "seek")):
        opening, name = open_file(image, max_pixels=max_pixels), file_name(image)
    else:
        raise ImageError(
            "an image must be a PIL image, a numpy array, a path or an open file, got "
            f"{type(image).__name__}; tensors go to upscale_tensor"
        )
    with opening as opened:
        check_size(opened.width, opened.height, max_pixels=max_pixels, name=name)
        yield opened, name


def _array_format(array: NDArray[Any], max_pixels: int | None) -> ImageFormat:
    sample_type = array.dtype.name
    if sample_type not in _ARRAY_TYPES:
        raise ImageError(
            f"an image array must be of type {', '.join(_ARRAY_TYPES)}, got {sample_type}; "
            "convert it, for 8-bit values with array.astype('uint8')"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; put the channels last: array.transpose(1, 2, 0)" if channels_first else ""
        raise ImageError(
            "an image array must be of shape (H, W) or (H, W, C) with 1 to 4 channels, "
            f"got {array.shape}{hint}"
        )
    check_size(array.shape[1], array.shape[0], max_pixels=max_pixels, name="the array")
    channels: Any = 1 if array.ndim == 2 else array.shape[2]
    kind = cast("SampleType", sample_type)
    return ImageFormat("array", channels, kind, array_rank=2 if array.ndim == 2 else 3)


def _decode_pil(image: Image.Image, max_pixels: int | None, name: str) -> DecodedImage:
    load_pixels(image, name=name, max_pixels=max_pixels)
    upright, exif = apply_orientation(image, name)
    plain = _to_plain_mode(upright, name)
    array = np.asarray(plain)
    form = ImageFormat(
        container="pil",
        channels=cast("Any", len(plain.getbands())),
        sample_type=cast("SampleType", array.dtype.name),
        metadata=kept_metadata(image, exif),
        jpeg_quality=_jpeg_quality(image),
    )
    return _to_tensors(array, form, name=name)


def _jpeg_quality(image: Image.Image) -> int | None:
    """Estimate the quality of a JPEG from its luminance table, by the scaling rule of the IJG's encoder."""
    tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
    if image.format not in ("JPEG", "MPO") or 0 not in tables:
        return None
    percent = 100 * sum(tables[0]) / _JPEG_TABLE_SUM
    quality = (200 - percent) / 2 if percent <= 100 else 5000 / percent
    return min(max(round(quality), 1), 100)


def _to_plain_mode(image: Image.Image, name: str) -> Image.Image:
    """Convert to L, LA, RGB, RGBA, I;16, I or F."""
    mode = image.mode
    keyed = "transparency" in image.info
    if mode.startswith("I") or mode == "F":
        if keyed:
            warnings.warn(
                f"the transparent colour of {name} is left out: Pillow has no alpha beside mode {mode!r}",
                stacklevel=4,
            )
        return image
    if mode == "CMYK":
        return convert_cmyk(image)
    see_through = keyed or (mode == "P" and image.palette is not None and image.palette.mode.endswith("A"))
    target = "L" if mode in ("1", "L") else "RGB"
    target = _WITH_ALPHA.get(mode, target + "A" if see_through else target)
    try:
        return image if mode == target else image.convert(target)
    except (ValueError, KeyError) as error:
        raise ImageError(f"{name} has PIL mode {mode!r}, which cannot be converted: {error}") from error


def _to_tensors(array: NDArray[Any], form: ImageFormat, *, name: str) -> DecodedImage:
    """Scale samples to [0, 1] and split colour from alpha."""
    _check_range(array, form, name)
    samples = torch.from_numpy(array.astype(np.float32))
    if form.sample_type in LEVELS:
        samples /= LEVELS[form.sample_type]
    else:
        samples.clamp_(0, 1)
    planes = samples.reshape(*array.shape[:2], form.channels).permute(2, 0, 1).unsqueeze(0)
    rgb = (planes[:, :1].expand(-1, 3, -1, -1) if form.grayscale else planes[:, :3]).contiguous()
    if not form.has_alpha:
        return DecodedImage(rgb=rgb, alpha=None, format=form)
    alpha = planes[:, -1:].contiguous()
    return DecodedImage(rgb=fill_hidden(rgb, alpha), alpha=alpha, format=form)


def _check_range(array: NDArray[Any], form: ImageFormat, name: str) -> None:
    if form.sample_type in ("uint8", "uint16"):
        return
    low, high = array.min(), array.max()
    if form.sample_type == "int32":
        least, most, expected = 0.0, LEVELS["int32"], "PIL mode 'I' and must hold 16-bit values in 0..65535"
        advice = "convert it"
    else:
        least, most, expected = -_FLOAT_SLACK, 1 + _FLOAT_SLACK, "float samples and must be in [0, 1]"
        advice = "divide by the value of white (255 for 8-bit values), or clip"
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(f"{name} holds NaN or infinity ({bad} of {array.size} samples); replace them first")
    if low < least or high > most:
        raise ImageError(f"{name} has {expected}, got values from {low:.6g} to {high:.6g}; {advice}")
