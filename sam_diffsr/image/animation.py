"""Animations: GIF, APNG and animated WebP as frames with durations, and back as one image."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image
from torch import Tensor

from sam_diffsr.errors import ImageError, ImageTooLargeError
from sam_diffsr.image.decode import decode_image
from sam_diffsr.image.formats import ANIMATED, FRAMES, format_of
from sam_diffsr.image.kinds import MAX_PIXELS_DEFAULT, DecodedImage, ImageFormat
from sam_diffsr.image.read import open_image


@dataclass(frozen=True, slots=True)
class Animation:
    """A moving image, decoded."""

    frames: list[Image.Image]
    """Whole frames, all RGB or all RGBA."""
    durations: list[float]
    """Milliseconds of each."""
    loop: int
    """How often it plays; 0 is for ever."""
    first: DecodedImage
    """The first frame as the networks take it."""

    @property
    def rgb(self) -> Tensor:
        """``(1, 3, H, W)`` of the first frame."""
        return self.first.rgb

    @property
    def format(self) -> ImageFormat:
        """Kind of the result; its metadata name the frames."""
        metadata = {**self.first.format.metadata, FRAMES: self.frames[1:]}
        return dataclasses.replace(self.first.format, metadata=metadata)

    def as_target_holds(self, target: Path, name: str) -> Animation | DecodedImage:
        """The animation, or its first frame and a warning where a file cannot hold more."""
        if format_of(target) in ANIMATED:
            return self
        warnings.warn(f"{name} has {len(self.frames)} frames; only its first frame is used", stacklevel=2)
        return self.first


def decode_frames(
    source: str | os.PathLike[str] | IO[bytes], *, max_pixels: int | None = MAX_PIXELS_DEFAULT
) -> Animation | DecodedImage:
    """Decode a file: an animation with all of its frames, anything else as :func:`decode_image` does.

    Args:
        source: path of a file, or an open binary file.
        max_pixels: refuse files with more pixels in all frames together.

    Raises:
        ImageTooLargeError: more than ``max_pixels`` pixels.
        ImageError: a frame cannot be decoded; others are those of :func:`decode_image`.
    """
    with open_image(source, max_pixels=max_pixels) as (image, name):
        try:
            count = int(getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
        except Exception as error:  # decoders raise whatever their parsing runs into
            raise ImageError(f"the frames of {name} cannot be read: {error}") from error
        size = image.size
        pixels = count * image.width * image.height
        if count > 1 and max_pixels is not None and pixels > max_pixels:
            raise ImageTooLargeError(
                f"{name} has {count} frames of {image.width} x {image.height} = {pixels} pixels, more than "
                f"the limit of {max_pixels}; raise max_pixels if that is what you want"
            )
        # A PNG may show another image where animations are not shown.
        numbers = range(int(bool(image.info.get("default_image"))), count)
        if len(numbers) < 2:
            return decode_image(source, max_pixels=max_pixels)
        frames: list[Image.Image] = []
        durations: list[float] = []
        for number in numbers:
            try:
                image.seek(number)
                if image.size != size:
                    raise ValueError(
                        f"it has {image.width} x {image.height} pixels, the first {size[0]} x {size[1]}"
                    )
                frames.append(image.convert("RGBA"))
            except MemoryError:
                raise
            except Exception as error:  # decoders raise whatever their parsing runs into
                raise ImageError(f"frame {number + 1} of {name} cannot be decoded: {error}") from error
            durations.append(float(image.info.get("duration", 100)))
        loop = int(image.info.get("loop", 1 if image.format == "GIF" else 0))
    if all(frame.getchannel("A").getextrema() == (255, 255) for frame in frames):
        frames = [frame.convert("RGB") for frame in frames]
    return Animation(frames, durations, loop, decode_image(frames[0], max_pixels=max_pixels))


def join_frames(frames: Sequence[Image.Image], like: Animation) -> Image.Image:
    """The first of some frames, with the others and the times of an animation in its ``info``.

    :func:`~sam_diffsr.image.save_image` writes such an image as an animation.
    """
    first, *others = frames
    timing: dict[Any, Any] = {FRAMES: others, "duration": like.durations, "loop": like.loop}
    first.info.update(timing)
    return first
