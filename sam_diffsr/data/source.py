"""Training batches: a function of ``(seed, step)`` alone, so a resumed run sees the same ones.

The host only cuts windows; everything else happens on the device after one uint8 copy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sam_diffsr.data.augment import draw, share_rows
from sam_diffsr.data.batch import MARGIN_LR, TrainingBatch, make_batch
from sam_diffsr.data.config import AugmentConfig, DataConfig
from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import DegradationConfig, Recipe, draw_recipe
from sam_diffsr.data.host import HostBatch, SyntheticWindow
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.data.synthetic import SyntheticPool
from sam_diffsr.errors import ArgumentError, ConfigError, DataError
from sam_diffsr.masks.spe import Encoding, Reduction

__all__ = ["HostBatch", "MixedSource", "TrainingSource", "open_source"]


class TrainingSource(Protocol):
    """Where a training run gets its batches; both methods may run in different threads."""

    def host_batch(self, step: int) -> HostBatch:
        """Cut the windows of one step (0-based); numpy only, meant for a background thread."""
        ...

    def device_batch(self, host: HostBatch, device: torch.device) -> TrainingBatch:
        """Finish a batch on the device where it is needed."""
        ...


class MixedSource:
    """Random windows of crops and of synthetic images; every crop is used once an epoch, in a new order each.

    Args:
        patch: HR side of what the networks see.
        scale: 2, 4 or 8; ``patch`` is a multiple of it.
        batch: images a step, over all processes.
        seed: chooses order, windows, turns, augmentation and synthetic images.
        store: prepared crops, or None.
        pool: synthetic images, or None.
        synthetic_fraction: share of synthetic rows where there are both.
        structure: False leaves E = 0.
        augment: what is done beside turning and mirroring; None is nothing.
        degradation: ranges of the damage of LR images; None makes bicubic ones.
        rank: which process this is; it gets the rows ``rank``, ``rank + world``, ...
        world: number of processes.

    Raises:
        ArgumentError: the patch is no multiple of the scale, the batch is empty, cannot be shared equally or
            has nothing to blend a window with, or there is neither a store nor a pool.
        DataError: crops or synthetic images are too small for the patch and its margin.
    """

    def __init__(
        self,
        *,
        patch: int,
        scale: int,
        batch: int,
        seed: int,
        store: CropStore | None = None,
        pool: SyntheticPool | None = None,
        synthetic_fraction: float = 0.0,
        structure: bool = True,
        augment: AugmentConfig | None = None,
        degradation: DegradationConfig | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if patch < scale or patch % scale:
            raise ArgumentError(f"patch must be a multiple of the scale {scale}, got {patch}")
        if batch < 1:
            raise ArgumentError(f"batch must be at least 1, got {batch}")
        if not 0 <= rank < world or batch % world:
            raise ArgumentError(
                f"a batch of {batch} cannot be shared equally by {world} processes (rank {rank}); choose a "
                "multiple of their number"
            )
        augment = augment or AugmentConfig()
        if augment.mixup and batch < 2:
            raise ArgumentError(f"mixup needs a second window in the batch, but batch is {batch}")
        if store is None and pool is None:
            raise ArgumentError("a source needs crops or a pool of synthetic images")
        self.window = patch + 2 * MARGIN_LR * scale
        if store is not None and self.window > store.crop_size:
            raise DataError(
                f"patches of {patch} pixels need crops of at least {self.window} (patch and margin), but "
                f"{store.path} has crops of {store.crop_size}; use a smaller patch or prepare larger crops"
            )
        if pool is not None and self.window > pool.size:
            raise DataError(
                f"patches of {patch} pixels need synthetic images of at least {self.window} (patch and "
                f"margin), but data.synthetic.size is {pool.size}; use a smaller patch or larger images"
            )
        self.store, self.pool, self.structure, self.augment = store, pool, structure, augment
        self.degradation = degradation
        self.scale, self.batch, self.seed, self.rank, self.world = scale, batch, seed, rank, world
        self.fraction = 0.0 if pool is None else 1.0 if store is None else synthetic_fraction
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def host_batch(self, step: int) -> HostBatch:
        """Cut the windows of one step (0-based) that belong to this process."""
        rng = np.random.default_rng([self.seed, 1, step])
        side, corners = self.window, list[tuple[int, int]]()
        for row in range(self.batch):  # every process draws the numbers of all rows
            slack = self._side(self._place(step, row)[0]) - side
            top, left = (int(offset) for offset in rng.integers(0, slack, size=2, endpoint=True))
            corners.append((top, left))
        drawn = draw(rng, self.augment, batch=self.batch)
        rows, mixture = share_rows(drawn, rank=self.rank, world=self.world)
        images = np.empty((len(rows), side, side, 3), np.uint8)
        structure = np.zeros((len(rows), side, side), np.float32)
        synthetic: list[SyntheticWindow] = []
        for row, place in sorted(zip(rows, range(len(rows)), strict=True)):
            made, position = self._place(step, row)
            top, left = corners[row]
            if made:
                drawing = cast("SyntheticPool", self.pool).drawing(position)
                synthetic.append(SyntheticWindow(place, drawing, top, left))
                if self.structure:
                    structure[place] = drawing.structure(top, left, side)
                continue
            image, field = cast("CropStore", self.store).window(
                self._index(position), top, left, side, structure=self.structure
            )
            images[place] = image
            if field is not None:
                structure[place] = field
        return HostBatch(
            torch.from_numpy(images),
            torch.from_numpy(structure),
            torch.from_numpy(drawn.turns[rows]),
            tuple(synthetic),
            torch.from_numpy(drawn.orders[rows]) if self.augment.permute_channels else None,
            mixture,
            *self._recipes(step),
        )

    def _recipes(self, step: int) -> tuple[tuple[Recipe, ...], int]:
        """Damage of this process's rows, and the seed of its noise."""
        if self.degradation is None:
            return (), 0
        rng = np.random.default_rng([self.seed, 2, step])
        seed = int(rng.integers(2**32)) + self.rank * self.batch
        recipes = tuple(draw_recipe(rng, self.degradation) for _ in range(self.batch))
        return recipes[self.rank :: self.world], seed

    def device_batch(self, host: HostBatch, device: torch.device) -> TrainingBatch:
        """Copy to the device, make synthetic pixels, augment image and field together, make the LR image."""
        images = host.images.to(device, non_blocking=True)
        structure = host.structure.to(device, non_blocking=True)
        if host.synthetic:
            images = images.clone() if images is host.images else images
            for window in host.synthetic:
                picture = cast("SyntheticPool", self.pool).picture(window.drawing, device)
                rows = slice(window.top, window.top + self.window)
                images[window.row] = picture[rows, window.left : window.left + self.window]
        return make_batch(
            images,
            structure,
            host.turns.to(device),
            scale=self.scale,
            orders=None if host.orders is None else host.orders.to(device),
            mixture=None if host.mixture is None else host.mixture.to(device),
            recipes=host.recipes,
            seed=host.seed,
        )

    def _place(self, step: int, row: int) -> tuple[bool, int]:
        """Whether a row is synthetic, and which of its kind it is in the whole run."""
        position = step * self.batch + row
        before, after = int(position * self.fraction), int((position + 1) * self.fraction)
        # rows of both kinds lie evenly between each other
        return (True, before) if after > before else (False, position - before)

    def _side(self, drawn: bool) -> int:
        return cast("SyntheticPool", self.pool).size if drawn else cast("CropStore", self.store).crop_size

    def _index(self, position: int) -> int:
        count = len(cast("CropStore", self.store))
        epoch, place = divmod(position, count)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 0, epoch]).permutation(count)
            self._epoch = epoch
        return int(self._order[place])


def open_source(
    config: DataConfig,
    *,
    scale: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    cache: str | os.PathLike[str] | None = None,
) -> TrainingSource:
    """Open what a run trains on.

    With ``config.photos`` the photos are cut into ``cache`` first, which is kept and used again when nothing
    changed; of several processes one must do that before the others (``accelerator.main_process_first()``).

    Args:
        config: what a batch is made of.
        scale: 2, 4 or 8; ``config.patch`` is a multiple of it.
        seed: chooses order, windows, turns, augmentation and synthetic images.
        rank: which process this is; it gets the rows ``rank``, ``rank + world``, ... of each batch.
        world: number of processes; divides ``config.batch``.
        cache: folder for the crops of ``config.photos``, such as one in the run's folder.

    Raises:
        ArgumentError: a patch that is no multiple of the scale, a batch that cannot be shared equally, or
            photos without a ``cache``.
        ConfigError: the crops were prepared with another ``encoding`` or ``reduction``.
        DataError: crops are damaged or too small, or photos cannot be prepared.
        ImageError: a photo cannot be read.
        OutputError: ``cache`` cannot be written.
    """
    window = config.patch + 2 * MARGIN_LR * scale
    store = None
    if config.crops is not None:
        store = CropStore(config.crops)
    elif config.photos is not None:
        if cache is None:
            raise ArgumentError("data.photos needs a cache folder for the crops")
        store = _cut_photos(config, Path(cache), window=window)
    encoding, reduction = _how_encoded(config, store)
    pool = None
    if config.synthetic is not None:
        pool = SyntheticPool(config.synthetic, seed=seed, encoding=encoding, reduction=reduction)
    return MixedSource(
        patch=config.patch,
        scale=scale,
        batch=config.batch,
        seed=seed,
        store=store,
        pool=pool,
        synthetic_fraction=config.synthetic_fraction,
        structure=config.structure == "stored",
        augment=config.augment,
        degradation=config.damage,
        rank=rank,
        world=world,
    )


SLACK = 48
"""HR pixels by which crops made from a plain folder are larger than a window."""


def _cut_photos(config: DataConfig, cache: Path, *, window: int) -> CropStore:
    """Crops of every photo at its full size, flat parts too."""
    stored = config.structure == "stored"
    return prepare_crops(
        cast("str", config.photos),
        cache,
        crop_size=window + SLACK,
        reductions=(1.0,),
        min_gradient=0.0,
        segmenter="graph" if stored else "none",
        encoding=config.encoding or _ENCODING,
        reduction=config.reduction or _REDUCTION,
        masks=config.masks if stored else None,
        missing_masks=config.missing_masks,
        overwrite=True,  # the cache is the run's own
    )


_ENCODING: Encoding = "rope"
_REDUCTION: Reduction = "image"


def _how_encoded(config: DataConfig, store: CropStore | None) -> tuple[Encoding, Reduction]:
    settings: dict[str, Any] = store.manifest.get("settings", {}) if store is not None else {}
    found = {
        "encoding": settings.get("encoding", _ENCODING),
        "reduction": settings.get("reduction", _REDUCTION),
    }
    for name, value in found.items():
        wanted = getattr(config, name)
        if wanted is None:
            continue
        if store is not None and config.structure == "stored" and wanted != value:
            raise ConfigError(
                f"data.{name} is {wanted!r}, but {store.path} was prepared with {value!r}; leave it out or "
                "prepare the crops again"
            )
        found[name] = wanted
    return cast("Encoding", found["encoding"]), cast("Reduction", found["reduction"])
