"""Scores a network during training on a folder of images, next to bicubic, and shows what it made of them."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sam_diffsr.data.datasets import photo_folders
from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.evaluation.metrics import SSIM_WINDOW, psnr_y, ssim_y
from sam_diffsr.evaluation.pairs import Pair, read_pair, to_uint8
from sam_diffsr.image.jobs import find_images
from sam_diffsr.models import DiffSR
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.resolver import SuperResolver
from sam_diffsr.resize import imresize

_GAP = 4
"""White pixels between the images of a picture."""


class Validation(NamedTuple):
    """Scores and a picture."""

    scores: dict[str, float]
    """Means of ``psnr_y`` (dB), ``ssim_y``, ``bicubic_psnr_y`` and ``bicubic_ssim_y``, with a border as
    wide as the scale left out."""
    picture: NDArray[np.uint8] | None
    """``(H, W, 3)``: one row per image with enlarged LR pixels, bicubic, result and HR."""


class FolderValidator:
    """Scores models in float32 on a folder of high-resolution images, read once and kept in memory.

    Args:
        folder: High-resolution images, sorted by name, or a data set (see ``find_dataset``) that has them.
        config: Sampling and normalisation of the model.
        method: ``encoder`` scores the encoder's own image, ``model`` the sampled one.
        limit: Number of images; None takes all.
        crop: Side of the square cut from the middle of each image; None takes whole images.
        pictures: Number of images in the picture.
        seed: Seed of every image's noise.

    Raises:
        ArgumentError: ``limit`` or ``crop`` is out of range.
        ImageError: No such folder, no image in it, or an image cannot be read or is too small.
        DataError: The folder is an LMDB.
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
        smallest = SSIM_WINDOW + 2 * scale
        if limit is not None and limit < 1:
            raise ArgumentError(f"limit must be >= 1 or None, got {limit}")
        if crop is not None and (crop % scale or crop < smallest):
            raise ArgumentError(
                f"crop must be a multiple of the scale {scale} and at least {smallest}, got {crop}"
            )
        folders = photo_folders(Path(folder))
        files = [file for place in folders for file in find_images(place, recursive=True)][:limit]
        if not files:
            raise ImageError(f"{folder} has no images to validate on")
        self.pairs: list[Pair] = []
        for file in files:
            pair = read_pair(file, scale=scale, smallest=max(smallest, crop or 0))
            if crop is not None:  # a square in the middle, aligned with LR pixels
                top, left = ((size - crop) // 2 // scale * scale for size in pair.hr.shape[-2:])
                hr = pair.hr[..., top : top + crop, left : left + crop].contiguous()
                pair = replace(pair, hr=hr, lr=imresize(hr, 1 / scale))
            self.pairs.append(pair)

    def __call__(self, model: DiffSR) -> Validation:
        """Score a model on its own device; it is put into evaluation mode."""
        device = next(model.parameters()).device
        resolver = SuperResolver(model, self.config, device=device, dtype="fp32")
        scale, steps = self.config.model.scale, 0 if self.method == "encoder" else None
        scores: defaultdict[str, float] = defaultdict(float)
        rows: list[Tensor] = []
        for pair in self.pairs:
            lr = pair.lr.float() / 255
            sr = to_uint8(resolver.upscale_tensor(lr.to(device), seeds=[self.seed], steps=steps)).cpu()
            bicubic = to_uint8(imresize(lr, scale))
            for prefix, image in (("", sr), ("bicubic_", bicubic)):
                for metric in (psnr_y, ssim_y):
                    score = metric(image, pair.hr, border=scale, data_range=255).item()
                    scores[prefix + metric.__name__] += score
            if len(rows) < self.pictures:
                blocks = functional.interpolate(pair.lr, scale_factor=scale, mode="nearest")
                spaced = [functional.pad(x[0], (0, _GAP), value=255) for x in (blocks, bicubic, sr, pair.hr)]
                rows.append(torch.cat(spaced, dim=-1)[..., :-_GAP])
        means = {key: total / len(self.pairs) for key, total in scores.items()}
        if not rows:
            return Validation(scores=means, picture=None)
        widest = max(row.shape[-1] for row in rows)
        spaced = [functional.pad(row, (0, widest - row.shape[-1], 0, _GAP), value=255) for row in rows]
        picture = torch.cat(spaced, dim=-2)[..., :-_GAP, :]
        return Validation(scores=means, picture=picture.permute(1, 2, 0).numpy())
