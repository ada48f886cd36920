"""Images in and out of a run: decoding, final size, transparency, encoding."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.errors import ArgumentError, ImageError, ImageTooLargeError
from sam_diffsr.image import DecodedImage, ImageInput, decode_image, encode_image, image_size
from sam_diffsr.pipeline.settings import is_number
from sam_diffsr.resize import imresize

__all__ = [
    "check_tensor",
    "crop_margin",
    "decode_input",
    "encode_output",
    "input_size",
    "output_dtype",
    "output_size",
    "wrap_margin",
]

_RESIZE_MARGIN = 16
"""Pixels of a wrapped result around it while it is resized."""


def input_size(
    image: ImageInput | DecodedImage, *, index: int | None, max_pixels: int | None
) -> tuple[int, int]:
    """Height and width of one image before it is decoded; an error names its index in a list."""
    if isinstance(image, DecodedImage):
        return image.rgb.shape[-2], image.rgb.shape[-1]
    with _named(index):
        return image_size(image, max_pixels=max_pixels)


def decode_input(
    image: ImageInput | DecodedImage, *, index: int | None, max_pixels: int | None
) -> DecodedImage:
    """Decode one image, unless it is decoded already; an error names its index in a list."""
    if isinstance(image, DecodedImage):
        return image
    with _named(index):
        return decode_image(image, max_pixels=max_pixels)


@contextmanager
def _named(index: int | None) -> Generator[None]:
    try:
        yield
    except ImageError as error:
        if index is None:
            raise
        raise type(error)(f"image {index} of the list: {error}") from error


def output_size(
    height: int, width: int, *, scale: int, outscale: float | None, max_pixels: int | None
) -> tuple[int, int] | None:
    """Final size for a final factor; None if it is the network's own.

    Raises:
        ArgumentError: the factor is not a finite number > 0.
        ImageTooLargeError: the result would have more than ``max_pixels * scale**2`` pixels.
    """
    if outscale is None:
        return None
    if not (is_number(outscale) and math.isfinite(outscale) and outscale > 0):
        raise ArgumentError(f"outscale must be None or a finite factor > 0, got {outscale!r}")
    if outscale == scale:
        return None
    size = max(1, round(height * float(outscale))), max(1, round(width * float(outscale)))
    if max_pixels is not None and size[0] * size[1] > max_pixels * scale**2:
        raise ImageTooLargeError(
            f"outscale {outscale} would make an image of {size[1]} x {size[0]} pixels, more than the limit "
            f"of {max_pixels * scale**2}; use a smaller factor or raise max_pixels"
        )
    return size


def output_dtype(images: Sequence[DecodedImage], *, resized: bool) -> torch.dtype:
    """Dtype in which a run writes its result: uint8 if all images are 8-bit RGB and no resizing follows."""
    plain = all(item.format.sample_type == "uint8" and not item.format.grayscale for item in images)
    return torch.uint8 if plain and not resized else torch.float32


def encode_output(
    rgb: Tensor, source: DecodedImage, *, size: tuple[int, int] | None, wrap: bool = False
) -> Image.Image | NDArray[Any]:
    """Turn one result into the kind of image that its source was.

    Args:
        rgb: ``(1, 3, H, W)``: float32 in [0, 1], or uint8 if ``size`` is None.
        source: the decoded input.
        size: final size from :func:`output_size`; None for that of ``rgb``.
        wrap: opposite borders continue each other.
    """
    large, alpha = (rgb.shape[-2], rgb.shape[-1]), source.alpha
    if alpha is not None and bool((alpha == alpha[:, :, :1, :1]).all()):  # stays exactly the same everywhere
        alpha = alpha[:, :, :1, :1].expand(1, 1, *(size or large))
    elif alpha is not None:
        alpha = _resize(alpha, large, wrap)
        alpha = alpha if size is None else _resize(alpha, size, wrap)
    return encode_image(rgb if size is None else _resize(rgb, size, wrap), alpha, source.format)


def _resize(image: Tensor, size: tuple[int, int], wrap: bool) -> Tensor:
    """Resize bicubically, in [0, 1]."""
    margin = _RESIZE_MARGIN if wrap else 0
    around = round(margin * size[0] / image.shape[-2])
    resized = imresize(wrap_margin(image, margin), size=(size[0] + 2 * around, size[1] + 2 * around))
    return crop_margin(resized.clamp(0.0, 1.0), around)


def wrap_margin(image: Tensor, margin: int) -> Tensor:
    """Pad ``(B, C, H, W)`` on every side with what lies at the opposite border, as often as it takes."""
    rows, columns = (torch.arange(-margin, length + margin) % length for length in image.shape[-2:])
    return image[:, :, rows[:, None], columns] if margin else image


def crop_margin(image: Tensor, margin: int) -> Tensor:
    """Take a margin away on every side."""
    return image[..., margin : image.shape[-2] - margin, margin : image.shape[-1] - margin]


def check_tensor(lr: Tensor, *, device: torch.device) -> None:
    """Raise ``ImageError`` unless it is ``(B, 3, H, W)`` float32 in [0, 1] on the device, not empty."""
    if not isinstance(lr, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ImageError(
            f"expected a torch tensor (B, 3, H, W), got {type(lr).__name__}; images and arrays go to upscale"
        )
    if lr.ndim != 4 or lr.shape[1] != 3 or 0 in lr.shape:
        raise ImageError(f"expected a tensor (B, 3, H, W) with B, H, W >= 1, got shape {tuple(lr.shape)}")
    if lr.dtype != torch.float32:
        raise ImageError(f"expected float32 in [0, 1], got {lr.dtype}; convert it (8-bit: lr.float() / 255)")
    if lr.device != device:
        raise ImageError(
            f"expected a tensor on {device}, got one on {lr.device}; move it with lr.to({str(device)!r})"
        )
    low, high = (float(bound) for bound in lr.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ImageError(f"expected values in [0, 1], got {low:.4g} to {high:.4g}; scale or clamp them")
