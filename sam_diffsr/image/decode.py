"""PIL images, arrays and files to float tensors, and back to the kind of image that came in."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.errors import ImageError
from sam_diffsr.image.alpha import fill_hidden
from sam_diffsr.image.kinds import LEVELS, MAX_PIXELS_DEFAULT, DecodedImage, ImageFormat, ImageInput
from sam_diffsr.image.metadata import (
    apply_orientation,
    convert_cmyk,
    exif_for_size,
    is_turned,
    kept_metadata,
)
from sam_diffsr.image.read import check_size, load_pixels, open_image

_ARRAY_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
_WITH_ALPHA = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
"""Modes with alpha, and the plain ones that they become."""
_JPEG_TABLE_SUM = 3688
"""Sum of the luminance table of quality 50 (ITU-T T.81, table K.1)."""
_FLOAT_SLACK = 1e-6
"""How far beyond [0, 1] a float sample may be, for the rounding of earlier steps; it is clipped."""
_STRIP_PIXELS = 2**18
"""Pixels that are encoded at a time, so that nothing but the result is of the size of the image."""


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
    with open_image(image, max_pixels=max_pixels) as (opened, name):
        return _decode_pil(opened, max_pixels, name)


def image_size(image: ImageInput, *, max_pixels: int | None = MAX_PIXELS_DEFAULT) -> tuple[int, int]:
    """Height and width that :func:`decode_image` will give, of a file from its header.

    Arguments and errors are those of :func:`decode_image`. In some files (TIFF, a PNG with its EXIF at the
    end) the orientation is not known before the pixels: there height and width may be exchanged.
    """
    if isinstance(image, np.ndarray):
        _array_format(image, max_pixels)
        return image.shape[0], image.shape[1]
    with open_image(image, max_pixels=max_pixels) as (opened, _):
        turned = opened.width != opened.height and is_turned(opened)
        return (opened.width, opened.height) if turned else (opened.height, opened.width)


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
    channels, rank, kind = (1 if array.ndim == 2 else array.shape[2]), array.ndim, cast("Any", sample_type)
    return ImageFormat("array", cast("Any", channels), kind, array_rank=cast("Any", rank))


def _decode_pil(image: Image.Image, max_pixels: int | None, name: str) -> DecodedImage:
    load_pixels(image, name=name, max_pixels=max_pixels)
    upright, exif = apply_orientation(image, name)
    plain = _to_plain_mode(upright, name)
    array = np.asarray(plain)
    channels, sample_type = cast("Any", len(plain.getbands())), cast("Any", array.dtype.name)
    kept, quality = kept_metadata(image, exif), _jpeg_quality(image)
    form = ImageFormat("pil", channels, sample_type, metadata=kept, jpeg_quality=quality)
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
    except (ValueError, KeyError, TypeError) as error:
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
        if -1 <= low < 0 and high <= 1:
            advice = "bring -1..1 to 0..1 by (x + 1) / 2, or clip"
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(f"{name} holds NaN or infinity ({bad} of {array.size} samples); replace them first")
    if low < least or high > most:
        raise ImageError(f"{name} has {expected}, got values from {low:.6g} to {high:.6g}; {advice}")


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
            f"alpha must be {expected} for an image of {format.channels} channels and {width} x {height} "
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
