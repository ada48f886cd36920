"""Images in and out of a run: decoding, final size, transparency, encoding."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.arguments import is_number
from sam_diffsr.errors import ArgumentError, ImageError, ImageTooLargeError
from sam_diffsr.image import DecodedImage, ImageInput, decode_image, encode_image, image_size
from sam_diffsr.resize import imresize


@dataclass(slots=True)
class Picture:
    """One image on its way through ``upscale``; what its header shows is checked at once."""

    image: ImageInput | DecodedImage
    seed: int
    index: int | None
    """Place in a list, for error messages."""
    scale: int
    outscale: float | None
    max_pixels: int | None
    wrap: bool
    size: tuple[int, int] = field(init=False)
    """Of the input, as far as it is known."""
    decoded: DecodedImage = field(init=False)
    sr: Tensor = field(init=False)
    """``(1, 3, H, W)`` of the networks."""
    result: Image.Image | NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.image, DecodedImage):
            self.decode()
        else:
            with self._named():
                self.size = image_size(self.image, max_pixels=self.max_pixels)
        self.final_size()

    def final_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return output_size(*self.size, scale=self.scale, outscale=self.outscale, max_pixels=self.max_pixels)

    def decode(self) -> None:
        """Read the pixels."""
        if isinstance(self.image, DecodedImage):
            self.decoded = self.image
        else:
            with self._named():
                self.decoded = decode_image(self.image, max_pixels=self.max_pixels)
        self.size = self.decoded.rgb.shape[-2], self.decoded.rgb.shape[-1]

    def encode(self) -> None:
        """Turn the result into the kind of image that the input was, and let go of the rest."""
        self.result = encode_output(self.sr, self.decoded, size=self.final_size(), wrap=self.wrap)
        del self.decoded, self.sr

    @property
    def is_plain(self) -> bool:
        """Whether a run can write the final result: 8-bit RGB that is not resized."""
        form, own = self.decoded.format, tuple(self.scale * side for side in self.size)
        return form.sample_type == "uint8" and not form.grayscale and self.final_size() == own

    @contextmanager
    def _named(self) -> Generator[None]:
        try:
            yield
        except ImageError as error:
            if self.index is None:
                raise
            raise type(error)(f"image {self.index} of the list: {error}") from error


def output_size(
    height: int, width: int, *, scale: int, outscale: float | None, max_pixels: int | None
) -> tuple[int, int]:
    """Height and width of a result whose final factor is ``outscale``; None is ``scale``, the networks' own.

    Raises:
        ArgumentError: the factor is not a finite number > 0.
        ImageTooLargeError: a result that is resized would have more than ``max_pixels * scale**2`` pixels.
    """
    factor = scale if outscale is None else outscale
    if not (is_number(factor) and math.isfinite(factor) and factor > 0):
        raise ArgumentError(f"outscale must be None or a finite factor > 0, got {outscale!r}")
    if not math.isfinite(max(height, width) * float(factor)):
        raise ArgumentError(f"outscale {outscale!r} is too large for an image of {width} x {height} pixels")
    size = max(1, round(height * float(factor))), max(1, round(width * float(factor)))
    if factor != scale and max_pixels is not None and size[0] * size[1] > max_pixels * scale**2:
        raise ImageTooLargeError(
            f"the result would have {size[1]} x {size[0]} pixels, more than the limit of "
            f"{max_pixels * scale**2}; make it smaller, or raise max_pixels"
        )
    return size


def encode_output(
    rgb: Tensor, source: DecodedImage, *, size: tuple[int, int], wrap: bool = False
) -> Image.Image | NDArray[Any]:
    """Turn ``(1, 3, H, W)``, float32 in [0, 1] or uint8, into the kind of image that its source was.

    Only float32 is resized to another final ``size``.
    """
    alpha = source.alpha
    if alpha is not None and bool((alpha == alpha[:, :, :1, :1]).all()):  # stays exactly the same everywhere
        alpha = alpha[:, :, :1, :1].expand(1, 1, *size)
    elif alpha is not None:
        alpha = _resize(alpha, (rgb.shape[-2], rgb.shape[-1]), wrap)  # takes the way of the colours
        alpha = _resize(alpha, size, wrap)
    return encode_image(_resize(rgb, size, wrap), alpha, source.format)


def _resize(image: Tensor, size: tuple[int, int], wrap: bool) -> Tensor:
    """Resize bicubically, in [0, 1]."""
    if image.shape[-2:] == size:
        return image
    return imresize(image, size=size, wrap=wrap).clamp(0.0, 1.0)


def check_tensor(lr: Tensor, *, device: torch.device) -> None:
    """Raise ``ImageError`` unless it is ``(B, 3, H, W)`` float32 in [0, 1] on the device, not empty."""
    expected = f"expected a float32 tensor (B, 3, H, W) with B, H, W >= 1 on {device}"
    if not isinstance(lr, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ImageError(f"{expected}, got {type(lr).__name__}; images and arrays go to upscale")
    shaped = lr.ndim == 4 and lr.shape[1] == 3 and 0 not in lr.shape
    if not shaped or lr.dtype != torch.float32 or lr.device != device:
        raise ImageError(
            f"{expected}, got {lr.dtype} {tuple(lr.shape)} on {lr.device}; 8-bit values become float32 with "
            "lr.float() / 255"
        )
    low, high = (float(bound) for bound in lr.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ImageError(f"expected values in [0, 1], got {low:.4g} to {high:.4g}; scale or clamp them")
