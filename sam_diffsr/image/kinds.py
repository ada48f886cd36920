"""Types of the image layer: what counts as an image, and what is remembered of it for the result."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, TypeAlias

from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

MAX_PIXELS_DEFAULT = 64_000_000
"""Largest input, in pixels, that is taken unless the caller asks for more."""

ImageInput: TypeAlias = Image.Image | NDArray[Any] | str | os.PathLike[str] | IO[bytes]
"""PIL image, ``(H, W)`` or ``(H, W, C)`` array, path of an image file, or an open binary file."""

SampleType: TypeAlias = Literal["uint8", "uint16", "int32", "float16", "float32", "float64"]
"""How a sample is stored. int32 is PIL's mode ``"I"`` alone, which holds 16-bit values."""

LEVELS: dict[str, float] = {"uint8": 255.0, "uint16": 65535.0, "int32": 65535.0}
"""The stored value of white, by sample type; 1.0 for the floating types, which are not listed."""


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """What is needed to give a result back as the kind of image that came in."""

    container: Literal["pil", "array"]
    """``"pil"`` for PIL images and files, ``"array"`` for numpy arrays."""
    channels: Literal[1, 2, 3, 4]
    """Gray, gray + alpha, RGB or RGB + alpha."""
    sample_type: SampleType
    """Type of a sample, by its numpy name."""
    array_rank: Literal[2, 3] = 3
    """2 for an array that came as ``(H, W)``; arrays only."""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Entries for ``PIL.Image.Image.info``: EXIF without orientation, ICC profile, resolution, XMP, PNG's
    text and colour chunks. Empty for arrays."""
    jpeg_quality: int | None = None
    """Estimated quality, 1 to 100, of a JPEG file; None for other sources."""

    @property
    def grayscale(self) -> bool:
        """Whether the image has one colour channel."""
        return self.channels < 3

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.channels in (2, 4)

    @property
    def pil_mode(self) -> str:
        """PIL mode in which a file holds such an image."""
        if self.sample_type == "uint8":
            return ("L", "LA", "RGB", "RGBA")[self.channels - 1]
        return "I;16" if self.sample_type in LEVELS else "F"


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image as the networks take it, and how to turn a result back."""

    rgb: Tensor
    """``(1, 3, H, W)`` float32 in [0, 1] on the CPU; gray is repeated three times. Colours that alpha hides
    are those of their visible neighbours."""
    alpha: Tensor | None
    """``(1, 1, H, W)`` float32 in [0, 1], or None where the image has no transparency."""
    format: ImageFormat
    """Kind of the source."""
