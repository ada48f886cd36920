"""The endless sequence of synthetic images: a pool of images in use, and folders of the first ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_diffsr.data.config import SyntheticConfig
from sam_diffsr.data.crops import Crops, CropStore, check_replaceable, read_manifest, write_crops
from sam_diffsr.data.synthetic.drawing import Drawing, draw_image, render
from sam_diffsr.data.synthetic.textures import natural_textures, photo_textures
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks.spe import Encoding, Reduction

__all__ = ["SyntheticPool", "synthesize_crops"]


class SyntheticPool:
    """The images that windows are cut from. The image of a window depends on seed and position alone.

    ``config.pool`` images are in use at a time; after every ``config.windows`` windows a new one replaces the
    oldest. ``drawing`` may run in one thread and ``picture`` in another.

    Raises:
        DataError: ``config.photos`` has no photo of a useful size.
        ImageError: one of these photos cannot be read.
    """

    def __init__(
        self,
        config: SyntheticConfig,
        *,
        seed: int,
        encoding: Encoding = "rope",
        reduction: Reduction = "image",
    ) -> None:
        self.config, self.seed = config, seed
        photos = config.photos
        self._bank = natural_textures(seed) if photos is None else photo_textures(photos, seed=seed)
        options: dict[str, Any] = {"size": config.size, "pages": config.pages, "bank": self._bank}
        self.draw = partial(draw_image, seed=seed, encoding=encoding, reduction=reduction, **options)
        """Draws one image of the sequence, by its number."""
        self._drawings: dict[int, Drawing] = {}
        self._tiles: dict[torch.device, Tensor] = {}
        self._pictures: dict[tuple[int, torch.device], Tensor] = {}

    def drawing(self, position: int) -> Drawing:
        """Image of a window, by the 0-based position of the window in the run."""
        oldest = position // self.config.windows
        chosen = oldest + int(np.random.default_rng([self.seed, 3, position]).integers(self.config.pool))
        if chosen not in self._drawings:
            alive = range(oldest, oldest + self.config.pool)
            for index in [index for index in self._drawings if index not in alive]:
                del self._drawings[index]
            self._drawings[chosen] = self.draw(chosen)
        return self._drawings[chosen]

    def picture(self, drawing: Drawing, device: torch.device) -> Tensor:
        """Pixels of an image, ``(S, S, 3)`` uint8 on the device, cached while the image is in use."""
        key = (drawing.index, device)
        if key not in self._pictures:
            if device not in self._tiles:
                self._tiles[device] = torch.from_numpy(self._bank.tiles).to(device)
            while len(self._pictures) >= 2 * self.config.pool:
                del self._pictures[next(iter(self._pictures))]
            self._pictures[key] = render(drawing, self._tiles[device])
        return self._pictures[key]


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
    """Write the first ``count`` images of a sequence as crops; a folder of the same crops is kept.

    Args:
        out: folder to write.
        count: number of images; each is one crop.
        config: properties of the images. None is ``SyntheticConfig()``.
        seed: seed of the sequence, as in ``SyntheticPool``.
        encoding: see ``masks.spe``.
        reduction: see ``masks.spe``.
        device: device that makes the pixels.
        overwrite: replace other crops in the folder when the new ones are complete.
        progress: called as ``progress(done, count)``.

    Raises:
        ArgumentError: ``count`` is less than 1.
        DataError: ``config.photos`` has no photo of a useful size.
        OutputError: the folder cannot be created, holds other crops, or the disk is too full.
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

    def draw_all() -> Iterator[Crops]:
        for index in range(count):
            drawing = pool.draw(index)
            pixels = pool.picture(drawing, torch.device(device)).cpu().numpy()
            corner = np.zeros((1, 2), np.int32)
            yield pixels[None], drawing.labels[None], corner, drawing.values
            if progress is not None:
                progress(index + 1, count)

    source = {"height": config.size, "width": config.size, "crops": 1}
    sources = [{"file": f"synthetic {index}", **source} for index in range(count)]
    write_crops(folder, draw_all(), sources=sources, settings=settings)
    return CropStore(folder)
