"""Scores of a network in training on a folder, beside bicubic's, and a picture of what it makes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.evaluation.evaluate import encoder_only, make_pair
from sam_diffsr.evaluation.metrics import psnr_y, ssim_y
from sam_diffsr.models import DiffSR
from sam_diffsr.pipeline.batch import find_images
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.resize import imresize

__all__ = ["FolderValidator", "Validation"]

_GAP = 4
_SMALLEST = 11
"""Pixels of each side that SSIM's window needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What was measured, and seen."""

    scores: dict[str, float]
    """``psnr_y`` (dB), ``ssim_y``, and the same of bicubic as ``bicubic_psnr_y`` and ``bicubic_ssim_y``:
    means over the images, with a border as wide as the scale left out."""
    picture: NDArray[np.uint8] | None
    """``(H, W, 3)``: a row for each image with enlarged LR pixels, bicubic, result and HR side by side."""


class FolderValidator:
    """Scores models on one folder of high-resolution images, always in the same way.

    The images are read and reduced once and stay in memory. Networks compute in float32.

    Args:
        folder: high-resolution images, taken in the order of their names.
        config: how the model samples and what its images are divided by.
        method: ``encoder`` scores the encoder's own image, ``model`` what sampling gives.
        limit: images to take; None takes all.
        crop: side of the square cut from the middle of each image; None takes whole images.
        pictures: images that are shown.
        seed: of every image's noise.

    Raises:
        ArgumentError: ``limit`` or ``crop`` is out of range.
        ImageError: there is no such folder, no image in it, or one cannot be read or is too small.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: ResolverConfig,
        *,
        method: Literal["encoder", "model"],
        limit: int | None = None,
        crop: int | None = None,
        pictures: int = 4,
        seed: int = 0,
    ) -> None:
        self.config, self.method, self.pictures, self.seed = config, method, pictures, seed
        scale = config.model.scale
        smallest = _SMALLEST + 2 * scale
        if limit is not None and limit < 1:
            raise ArgumentError(f"limit must be >= 1 or None, got {limit}")
        if crop is not None and (crop % scale or crop < smallest):
            raise ArgumentError(
                f"crop must be a multiple of the scale {scale} and at least {smallest}, got {crop}"
            )
        files = find_images(folder, recursive=True)[:limit]
        if not files:
            raise ImageError(f"{folder} has no images to validate on")
        self.pairs: list[tuple[Tensor, Tensor]] = []
        for file in files:
            hr, lr = make_pair(file, scale=scale, smallest=max(smallest, crop or 0))
            if crop is not None:
                hr = _middle(hr, crop, multiple=scale)
                lr = imresize((hr * 255).round().to(torch.uint8), 1 / scale).float() / 255
            self.pairs.append((hr, lr))

    def __call__(self, model: DiffSR) -> Validation:
        """Score a model, which is moved to evaluation mode and may be changed in memory layout.

        Args:
            model: on any device, in float32.
        """
        device = next(model.parameters()).device
        resolver = SuperResolver(model, self.config, device=device, dtype="fp32")
        scale = self.config.model.scale
        upscale: Callable[[Tensor], Tensor] = (
            (lambda lr: encoder_only(resolver, lr))
            if self.method == "encoder"
            else (lambda lr: resolver.upscale_tensor(lr, seeds=[self.seed]))
        )
        totals: dict[str, float] = dict.fromkeys(
            ("psnr_y", "ssim_y", "bicubic_psnr_y", "bicubic_ssim_y"), 0.0
        )
        rows: list[NDArray[np.uint8]] = []
        for hr, lr in self.pairs:
            truth, sr, bicubic = (
                _levels(image) for image in (hr, upscale(lr.to(device)), imresize(lr, scale))
            )
            for prefix, image in (("", sr), ("bicubic_", bicubic)):
                for name, metric in (("psnr_y", psnr_y), ("ssim_y", ssim_y)):
                    totals[prefix + name] += metric(image, truth, border=scale, data_range=255).item()
            if len(rows) < self.pictures:
                blocks = functional.interpolate(_levels(lr), scale_factor=scale, mode="nearest")
                rows.append(_side_by_side(blocks, bicubic, sr, truth))
        return Validation(
            scores={key: value / len(self.pairs) for key, value in totals.items()},
            picture=_stacked(rows) if rows else None,
        )


def _middle(image: Tensor, side: int, *, multiple: int) -> Tensor:
    """The square in the middle, its corner on the grid of LR pixels."""
    top, left = ((size - side) // 2 // multiple * multiple for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def _levels(image: Tensor) -> Tensor:
    return (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu()


def _side_by_side(*images: Tensor) -> NDArray[np.uint8]:
    """``(1, 3, H, W)`` uint8 images as one row ``(H, W', 3)`` with white gaps."""
    gap = torch.full((3, images[0].shape[-2], _GAP), 255, dtype=torch.uint8)
    parts = [part for image in images for part in (image[0], gap)][:-1]
    return torch.cat(parts, dim=-1).permute(1, 2, 0).numpy()


def _stacked(rows: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Rows of any sizes below each other on white."""
    width = max(row.shape[1] for row in rows)
    height = sum(row.shape[0] + _GAP for row in rows) - _GAP
    picture = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        picture[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + _GAP
    return picture
