"""Images in and out of a batch: decoding with the place in a list, transparency, final size, encoding."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.errors import ArgumentError, ImageError, ImageTooLargeError
from sam_diffsr.image import DecodedImage, ImageInput, decode_image, encode_image, image_size
from sam_diffsr.resize import imresize

__all__ = ["decode_input", "encode_output", "input_size", "output_size"]


def decode_input(
    image: ImageInput | DecodedImage, *, index: int | None, max_pixels: int | None
) -> DecodedImage:
    """Decode one image, unless it is decoded already; an error names its index in a list.

    Raises:
        ImageError: see :func:`sam_diffsr.image.decode_image`.
    """
    if isinstance(image, DecodedImage):
        return image
    with _named(index):
        return decode_image(image, max_pixels=max_pixels)


def input_size(
    image: ImageInput | DecodedImage, *, index: int | None, max_pixels: int | None
) -> tuple[int, int]:
    """Height and width of one image before it is decoded; an error names its index in a list.

    Raises:
        ImageError: see :func:`sam_diffsr.image.image_size`.
    """
    if isinstance(image, DecodedImage):
        return image.rgb.shape[-2], image.rgb.shape[-1]
    with _named(index):
        return image_size(image, max_pixels=max_pixels)


@contextmanager
def _named(index: int | None) -> Generator[None, None, None]:
    try:
        yield
    except ImageError as error:
        if index is None:
            raise
        raise type(error)(f"image {index} of the list: {error}") from error


def encode_output(
    rgb: Tensor, source: DecodedImage, *, scale: int, size: tuple[int, int] | None
) -> Image.Image | NDArray[Any]:
    """Make one result the kind of image that its source was.

    Args:
        rgb: ``(1, 3, s*h, s*w)`` float32 in [0, 1].
        source: the decoded input.
        scale: s.
        size: final size from :func:`output_size`; None for that of ``rgb``.
    """
    alpha = None if source.alpha is None else _upscale_alpha(source.alpha, scale)
    if size is not None:
        rgb = imresize(rgb, size=size).clamp(0.0, 1.0)
        alpha = None if alpha is None else imresize(alpha, size=size).clamp(0.0, 1.0)
    return encode_image(rgb, alpha, source.format)


def output_size(
    height: int, width: int, *, scale: int, outscale: float | None, max_pixels: int | None
) -> tuple[int, int] | None:
    """Final size for a final factor; None if it is the network's own.

    Raises:
        ArgumentError: the factor is not a finite number > 0.
        ImageTooLargeError: the result would have more than ``max_pixels * scale**2`` pixels.
    """
    if outscale is None or outscale == scale:
        return None
    if not (math.isfinite(outscale) and outscale > 0):
        raise ArgumentError(f"outscale must be None or a finite factor > 0, got {outscale!r}")
    size = max(1, round(height * outscale)), max(1, round(width * outscale))
    if max_pixels is not None and size[0] * size[1] > max_pixels * scale**2:
        raise ImageTooLargeError(
            f"outscale {outscale} would make an image of {size[0]} x {size[1]} pixels, more than the limit "
            f"of {max_pixels * scale**2}; use a smaller factor or raise max_pixels"
        )
    return size


def _upscale_alpha(alpha: Tensor, scale: int) -> Tensor:
    """Bicubic transparency ``(1, 1, h, w)`` in [0, 1]; one that is the same everywhere stays exactly so."""
    low, high = alpha.aminmax()
    if bool(low == high):
        return alpha[:, :, :1, :1].expand(1, 1, alpha.shape[-2] * scale, alpha.shape[-1] * scale)
    return imresize(alpha, scale).clamp(0.0, 1.0)
