"""A folder of synthetic crops, for those who want the same ones again and again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sam_diffsr.data.config import SyntheticConfig
from sam_diffsr.data.crops import CropStore, check_replaceable, read_manifest, write_manifest
from sam_diffsr.data.synthetic.pool import SyntheticPool
from sam_diffsr.data.writer import CropWriter
from sam_diffsr.errors import ArgumentError, DataError, OutputError
from sam_diffsr.masks.spe import Encoding, Reduction

__all__ = ["synthesize_crops"]


def synthesize_crops(
    out: str | os.PathLike[str],
    *,
    count: int = 1000,
    config: SyntheticConfig | None = None,
    seed: int = 0,
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
    device: str | torch.device = "cpu",
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> CropStore:
    """Write synthetic images as crops; a folder that holds the same ones already is kept as it is.

    They are the first ``count`` images that a run with the same seed and config draws from.

    Args:
        out: folder to write.
        count: how many images, each a crop of its own.
        config: what they are like; their side is ``config.size``. None is ``SyntheticConfig()``.
        seed: of the sequence.
        encoding: see ``masks.spe``.
        reduction: see ``masks.spe``.
        device: where the pixels are made.
        overwrite: replace crops of other photos or settings in the folder, once the new ones are complete.
        progress: called as ``progress(done, count)``.

    Raises:
        ArgumentError: ``count`` is less than 1.
        DataError: ``config.photos`` has no photo of a useful size.
        OutputError: the folder cannot be made, holds other crops, or the disk is too full.
    """
    if count < 1:
        raise ArgumentError(f"count must be at least 1, got {count}")
    config = SyntheticConfig() if config is None else config
    folder = Path(out)
    settings: dict[str, Any] = {
        "crop_size": config.size,
        "synthetic": {**asdict(config), "count": count, "seed": seed},
        "encoding": encoding,
        "reduction": reduction,
    }
    try:
        if read_manifest(folder).get("settings") == settings:
            return CropStore(folder)
    except DataError:
        pass
    check_replaceable(folder, overwrite=overwrite)
    pool = SyntheticPool(config, seed=seed, encoding=encoding, reduction=reduction)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder of crops {folder}: {error}") from error
    with CropWriter(folder, count=count, crop_size=config.size) as writer:
        for index in range(count):
            drawing = pool.draw(index)
            pixels = pool.picture(drawing, torch.device(device)).cpu().numpy()
            writer.add(pixels[None], drawing.labels[None], np.zeros((1, 2), np.int32), drawing.values)
            if progress is not None:
                progress(index + 1, count)
    sources = [
        {"file": f"synthetic {index}", "height": config.size, "width": config.size, "crops": 1}
        for index in range(count)
    ]
    write_manifest(folder, crops=count, crop_size=config.size, sources=sources, settings=settings)
    return CropStore(folder)
