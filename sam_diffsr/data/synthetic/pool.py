"""The endless sequence of synthetic images: a pool of images in use, and folders of the first ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.data.config import SyntheticConfig
from sam_diffsr.data.crops import Crops, CropStore, finished_crops, photo_digest, write_crops
from sam_diffsr.data.synthetic.drawing import Drawing, draw_image, render
from sam_diffsr.data.synthetic.textures import natural_textures, photo_textures
from sam_diffsr.errors import ArgumentError
from sam_diffsr.image.photos import list_photos
from sam_diffsr.masks.spe import Encoding, Reduction


class SyntheticPool:
    """The images that windows are cut from. The image of a window depends on seed and position alone.

    ``config.pool`` images are in use at a time; after every ``config.windows`` windows a new one replaces the
    oldest.

    Raises:
        DataError: ``config.photos`` has no photo of a useful size.
        ImageError: one of these photos cannot be read.
    """

    draw: Callable[[int], Drawing]
    """Draws one image of the sequence, by its number."""
    picture: Callable[[Drawing], NDArray[np.uint8]]
    """Gives the pixels of an image, ``(S, S, 3)``."""

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
        bank = natural_textures(seed) if photos is None else photo_textures(photos, seed=seed)
        how: dict[str, Any] = {"encoding": encoding, "reduction": reduction}
        cached = lru_cache(2 * config.pool)
        self.draw = cached(partial(draw_image, config=config, seed=seed, bank=bank, **how))
        tiles = torch.from_numpy(bank.tiles)

        def picture(drawing: Drawing) -> NDArray[np.uint8]:
            return render(drawing, tiles).numpy()

        self.picture = cached(picture)

    def drawing(self, position: int) -> Drawing:
        """Image of a window, by the 0-based position of the window in the run."""
        chosen = int(np.random.default_rng([self.seed, 3, position]).integers(self.config.pool))
        return self.draw(position // self.config.windows + chosen)


def synthesize_crops(
    out: str | os.PathLike[str],
    *,
    count: int = 1000,
    config: SyntheticConfig | None = None,
    seed: int = 0,
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> CropStore:
    """Write the first ``count`` images of a sequence as crops; a folder of the same crops is kept.

    Args:
        out: folder to write.
        count: number of images; each is one crop.
        config: properties of the images. None is ``SyntheticConfig()``.
        seed: seed of the sequence, >= 0.
        encoding: position encoding of regions, see ``masks.spe``.
        reduction: divisor of a region's value, see ``masks.spe``.
        overwrite: replace other crops in the folder when the new ones are complete.
        progress: called as ``progress(done, count)``.

    Raises:
        ArgumentError: ``count`` or ``seed`` is out of range.
        DataError: ``config.photos`` has no photo of a useful size.
        OutputError: the folder cannot be created, holds other crops, or the disk is too full.
    """
    if count < 1:
        raise ArgumentError(f"count must be at least 1, got {count}")
    if seed < 0:
        raise ArgumentError(f"seed must be at least 0, got {seed}")
    config, folder = config or SyntheticConfig(), Path(out)
    how: dict[str, Any] = {"encoding": encoding, "reduction": reduction}
    photos = [] if config.photos is None else list_photos(config.photos)
    digests = [photo_digest(photo) for photo in photos]
    made_of = {"size": config.size, "pages": config.pages, "photos": digests, "count": count, "seed": seed}
    settings = {"crop_size": config.size, "synthetic": made_of, **how}
    store = finished_crops(folder, lambda found: found.get("settings") == settings, overwrite=overwrite)
    if store is not None:
        return store
    pool = SyntheticPool(config, seed=seed, **how)

    def draw_all() -> Iterator[Crops]:
        for index in range(count):
            drawing = pool.draw(index)
            pixels = pool.picture(drawing)
            yield pixels[None], drawing.labels[None], np.zeros((1, 2), np.int32), drawing.values
            if progress is not None:
                progress(index + 1, count)

    source = {"height": config.size, "width": config.size, "crops": 1}
    sources = [{"file": f"synthetic {index}", **source} for index in range(count)]
    return write_crops(folder, draw_all(), sources=sources, settings=settings)
