"""Scores a network during training on a folder of images, next to bicubic, and shows what it made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.evaluation.metrics import psnr_y, ssim_y
from sam_diffsr.evaluation.pairs import make_pair, to_uint8
from sam_diffsr.image.jobs import find_images
from sam_diffsr.models import DiffSR
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.resize import imresize

__all__ = ["FolderValidator", "Validation"]

_GAP = 4
_SMALLEST = 11
"""Side of SSIM's window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Scores and a picture."""

    scores: dict[str, float]
    """Means of ``psnr_y`` (dB), ``ssim_y``, ``bicubic_psnr_y`` and ``bicubic_ssim_y``, with a border as
    wide as the scale left out."""
    picture: NDArray[np.uint8] | None
    """``(H, W, 3)``: one row per image with enlarged LR pixels, bicubic, result and HR."""


class FolderValidator:
    """Scores models on one folder of high-resolution images, which are read once and kept in memory.

    Networks compute in float32.

    Args:
        folder: High-resolution images, sorted by name.
        config: Sampling and normalisation of the model.
        method: ``encoder`` scores the encoder's own image, ``model`` the sampled one.
        limit: Number of images; None takes all.
        crop: Side of the square cut from the middle of each image; None takes whole images.
        pictures: Number of images in the picture.
        seed: Seed of every image's noise.

    Raises:
        ArgumentError: ``limit`` or ``crop`` is out of range.
        ImageError: No such folder, no image in it, or an image cannot be read or is too small.
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
        """Score a model in float32 on any device; it is put into evaluation mode."""
        device = next(model.parameters()).device
        resolver = SuperResolver(model, self.config, device=device, dtype="fp32")
        scale, steps = self.config.model.scale, 0 if self.method == "encoder" else None
        names = ("psnr_y", "ssim_y", "bicubic_psnr_y", "bicubic_ssim_y")
        totals: dict[str, float] = dict.fromkeys(names, 0.0)
        rows: list[NDArray[np.uint8]] = []
        for hr, lr in self.pairs:
            sr = resolver.upscale_tensor(lr.to(device), seeds=[self.seed], steps=steps)
            truth, sr, bicubic = (to_uint8(image).cpu() for image in (hr, sr, imresize(lr, scale)))
            for prefix, image in (("", sr), ("bicubic_", bicubic)):
                for name, metric in (("psnr_y", psnr_y), ("ssim_y", ssim_y)):
                    totals[prefix + name] += metric(image, truth, border=scale, data_range=255).item()
            if len(rows) < self.pictures:
                blocks = functional.interpolate(to_uint8(lr), scale_factor=scale, mode="nearest")
                rows.append(_side_by_side(blocks, bicubic, sr, truth))
        return Validation(
            scores={key: value / len(self.pairs) for key, value in totals.items()},
            picture=_stacked(rows) if rows else None,
        )


def _middle(image: Tensor, side: int, *, multiple: int) -> Tensor:
    """Square in the middle, aligned with LR pixels."""
    top, left = ((size - side) // 2 // multiple * multiple for size in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def _side_by_side(*images: Tensor) -> NDArray[np.uint8]:
    """``(1, 3, H, W)`` uint8 images as one row ``(H, W', 3)`` with white gaps."""
    gap = torch.full((3, images[0].shape[-2], _GAP), 255, dtype=torch.uint8)
    parts = [part for image in images for part in (image[0], gap)][:-1]
    return torch.cat(parts, dim=-1).permute(1, 2, 0).numpy()


def _stacked(rows: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Rows of any width, stacked on white."""
    width = max(row.shape[1] for row in rows)
    height = sum(row.shape[0] + _GAP for row in rows) - _GAP
    picture = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for row in rows:
        picture[top : top + row.shape[0], : row.shape[1]] = row
        top += row.shape[0] + _GAP
    return picture
