"""Small pictures for the comparison page, as ``data:`` addresses: crops where it matters, error maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sam_diffsr.evaluation.metrics import luma
from sam_diffsr.evaluation.pairs import Pair

__all__ = [
    "ERROR_COLOURS",
    "Box",
    "ErrorScale",
    "Panel",
    "error_scale",
    "largest_disagreement",
    "overview",
    "overview_error",
    "panels",
    "picture",
]

ERROR_COLOURS = ((0, 0, 0), (66, 10, 104), (172, 37, 93), (245, 125, 21), (252, 255, 200))
"""From no error to the largest one, evenly spaced."""
_LIMITS = (4, 8, 16, 32, 64, 128, 219)
"""Upper ends that a scale may have, in levels of 8-bit luma; all of studio range is 219."""
_OVERVIEW_SIDE = 320


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A part of an image, in pixels of the truth."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: Tensor, *, scale: int = 1) -> Tensor:
        """The part of an image ``(..., H, W)`` that is ``scale`` times smaller than the truth."""
        top, left, height, width = (
            value // scale for value in (self.top, self.left, self.height, self.width)
        )
        return image[..., top : top + height, left : left + width]


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorScale:
    """Colours of the error maps of one image."""

    limit: int
    """Levels of luma that get the last colour; so do larger ones."""

    def paint(self, error: NDArray[np.float64]) -> str:
        """A map ``(H, W)`` of absolute errors in levels, as a PNG address."""
        position = np.clip(error / self.limit, 0, 1) * 255
        image = Image.fromarray(position.round().astype(np.uint8))
        image.putpalette(_palette())
        return _address(image, "PNG")


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One method's part of an image."""

    picture: str
    """PNG address."""
    error: str
    """PNG address of the error on luma."""


def largest_disagreement(truth: Tensor, outputs: Sequence[Tensor], *, scale: int, side: int = 96) -> Box:
    """Where truth and results differ most among themselves: the box with the greatest variance of their luma.

    Args:
        truth: ``(1, 3, H, W)`` uint8, H and W multiples of ``scale``.
        outputs: results of the same shape.
        scale: boxes begin and end at whole pixels of the input.
        side: of the box; cut down to a multiple of the scale, and to the image where that is smaller.

    Returns:
        The first such box from the top left; the middle of the image where nothing differs.
    """
    stack = torch.cat([luma(image, data_range=255) for image in (truth, *outputs)])
    spread = stack.var(dim=0, correction=0)[0]
    full = (spread.shape[0], spread.shape[1])
    height, width = (min(max(scale, side // scale * scale), length) for length in full)
    if not spread.any():
        top, left = (
            (whole - part) // 2 // scale * scale for whole, part in zip(full, (height, width), strict=True)
        )
        return Box(top=top, left=left, height=height, width=width)
    sums = torch.zeros(full[0] + 1, full[1] + 1, dtype=torch.float64)
    sums[1:, 1:] = spread.cpu().cumsum(0).cumsum(1)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    inside = inside[::scale, ::scale]
    row, column = divmod(int(inside.argmax()), inside.shape[1])
    return Box(top=row * scale, left=column * scale, height=height, width=width)


def error_scale(pair: Pair, outputs: Sequence[Tensor], box: Box) -> ErrorScale:
    """A scale for all methods that two percent of the box's pixels may exceed."""
    errors = np.concatenate([_error(box.cut(output), box.cut(pair.hr)).ravel() for output in outputs])
    high = float(np.quantile(errors, 0.98))
    return ErrorScale(limit=next((limit for limit in _LIMITS if limit >= high), _LIMITS[-1]))


def panels(pair: Pair, outputs: Sequence[Tensor], box: Box, scale: ErrorScale) -> list[Panel]:
    """Crop and error map of every method."""
    truth = box.cut(pair.hr)
    return [
        Panel(picture=picture(part), error=scale.paint(_error(part, truth)))
        for part in (box.cut(output) for output in outputs)
    ]


def picture(image: Tensor) -> str:
    """An image ``(1, 3, H, W)`` uint8 as a PNG address, every pixel kept."""
    return _address(_to_pil(image), "PNG")


def overview(image: Tensor) -> str:
    """A whole image, made small enough for a thumbnail, as a JPEG address."""
    small = _to_pil(image)
    small.thumbnail((_OVERVIEW_SIDE, _OVERVIEW_SIDE), Image.Resampling.BOX)
    return _address(small, "JPEG")


def overview_error(output: Tensor, truth: Tensor, scale: ErrorScale) -> str:
    """The mean error around each pixel of a thumbnail, as a PNG address."""
    error = Image.fromarray(_error(output, truth).astype(np.float32))
    error.thumbnail((_OVERVIEW_SIDE, _OVERVIEW_SIDE), Image.Resampling.BOX)
    return scale.paint(np.asarray(error, dtype=np.float64))


def _error(image: Tensor, truth: Tensor) -> NDArray[np.float64]:
    """Absolute difference of luma in levels, ``(H, W)``."""
    difference = luma(image, data_range=255) - luma(truth, data_range=255)
    return np.asarray(difference[0, 0].abs().cpu().numpy(), dtype=np.float64)


def _palette() -> list[int]:
    stops = np.linspace(0, 255, len(ERROR_COLOURS))
    channels = [np.interp(np.arange(256), stops, channel) for channel in zip(*ERROR_COLOURS, strict=True)]
    return [round(float(value)) for colour in zip(*channels, strict=True) for value in colour]


def _to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[0].permute(1, 2, 0).cpu().numpy()))


def _address(image: Image.Image, file_format: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, file_format, optimize=True, quality=82)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
