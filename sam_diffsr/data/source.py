"""Training batches from crops and synthetic images, as a function of ``(seed, step)`` alone.

The host only cuts windows of uint8; augmentation and the LR image are made on the device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.config import AugmentConfig, DataConfig
from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import DegradationConfig, Recipe, draw_recipe
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.data.synthetic import Drawing, SyntheticPool
from sam_diffsr.data.training_batch import MARGIN_LR, Mixture, TrainingBatch, draw, make_batch, share_rows
from sam_diffsr.errors import ArgumentError, ConfigError, DataError
from sam_diffsr.masks.spe import Encoding, Reduction

__all__ = ["HostBatch", "SyntheticWindow", "TrainingSource", "open_source"]

SLACK = 48
"""HR pixels that crops of ``data.photos`` are larger than a window."""


@dataclass(frozen=True)
class SyntheticWindow:
    """A window of a synthetic image; its pixels are made on the device."""

    row: int
    """Row of the batch."""
    drawing: Drawing
    top: int
    left: int


@dataclass(frozen=True)
class HostBatch:
    """Windows of one step on the host, with their margin m.

    B counts the guests of ``mixture`` as well: windows of other processes, needed for blending only.
    """

    images: Tensor
    """``(B, P + 2m, P + 2m, 3)`` uint8; rows of ``synthetic`` are not filled in yet."""
    structure: Tensor
    """``(B, P + 2m, P + 2m)`` float32."""
    turns: Tensor
    """``(B,)`` int64, see ``dihedral``."""
    synthetic: tuple[SyntheticWindow, ...] = ()
    orders: Tensor | None = None
    """``(B,)`` int64, see ``permute_channels``; None keeps the channels."""
    mixture: Mixture | None = None
    """Blends of rows, or None; its guests are the last rows and no part of the batch."""
    recipes: tuple[Recipe, ...] = ()
    """Damage of each row that is no guest; empty for bicubic LR images."""
    seed: int = 0
    """Seed of the noise of the recipes."""


class TrainingSource:
    """Random windows of crops and of synthetic images; each epoch uses every crop once, in a new order.

    ``host_batch`` and ``device_batch`` may run in different threads.

    Args:
        patch: HR side of the windows that the networks see, without margin.
        scale: 2, 4 or 8; ``patch`` is a multiple of it.
        batch: images per step, over all processes.
        seed: seed of order, windows, turns, augmentation and synthetic images.
        store: prepared crops, or None.
        pool: synthetic images, or None.
        synthetic_fraction: share of synthetic rows when both are given.
        structure: False sets E = 0.
        augment: augmentation beyond turning and mirroring; None is none.
        degradation: ranges of the damage of LR images; None makes bicubic ones.
        rank: number of this process; it gets the rows ``rank``, ``rank + world``, ...
        world: number of processes.

    Raises:
        ArgumentError: the patch is no multiple of the scale; the batch is empty, cannot be shared equally or
            is too small for mixup; or neither a store nor a pool is given.
        DataError: crops or synthetic images are smaller than the patch and its margin.
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
        if batch < 1 or not 0 <= rank < world or batch % world:
            raise ArgumentError(
                f"a batch of {batch} cannot be shared equally by {world} processes (rank {rank}); choose a "
                "positive multiple of their number"
            )
        augment = augment or AugmentConfig()
        if augment.mixup and batch < 2:
            raise ArgumentError(f"mixup needs a second window in the batch, but batch is {batch}")
        if store is None and pool is None:
            raise ArgumentError("a source needs crops or a pool of synthetic images")
        self.window = window = patch + 2 * MARGIN_LR * scale
        need = f"at least {window} pixels for patches of {patch} and their margin, but"
        if store is not None and window > store.crop_size:
            raise DataError(f"crops need {need} {store.path} has {store.crop_size}; prepare larger crops")
        if pool is not None and window > pool.config.size:
            raise DataError(
                f"synthetic images need {need} data.synthetic.size is {pool.config.size}; raise it"
            )
        self.store, self.pool, self.structure, self.augment = store, pool, structure, augment
        self.degradation = degradation
        self.scale, self.batch, self.seed, self.rank, self.world = scale, batch, seed, rank, world
        self.fraction = 0.0 if pool is None else 1.0 if store is None else synthetic_fraction
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def host_batch(self, step: int) -> HostBatch:
        """Cut the windows of one step (0-based) that belong to this process."""
        # Every process draws for all rows, so that the rows do not depend on the number of processes.
        rng = np.random.default_rng([self.seed, 1, step])
        side, corners = self.window, list[tuple[int, int]]()
        for row in range(self.batch):
            if self._place(step, row)[0]:
                slack = cast("SyntheticPool", self.pool).config.size - side
            else:
                slack = cast("CropStore", self.store).crop_size - side
            top, left = (int(offset) for offset in rng.integers(0, slack, size=2, endpoint=True))
            corners.append((top, left))
        drawn = draw(rng, self.augment, batch=self.batch)
        rows, mixture = share_rows(drawn, rank=self.rank, world=self.world)

        # Only the rows of this process are cut.
        images = np.empty((len(rows), side, side, 3), np.uint8)
        structure = np.zeros((len(rows), side, side), np.float32)
        synthetic: list[SyntheticWindow] = []
        for row, place in sorted(zip(rows, range(len(rows)), strict=True)):
            is_synthetic, position = self._place(step, row)
            top, left = corners[row]
            if is_synthetic:
                drawing = cast("SyntheticPool", self.pool).drawing(position)
                synthetic.append(SyntheticWindow(place, drawing, top, left))
                field = drawing.structure(top, left, side)
            else:
                store = cast("CropStore", self.store)
                images[place], field = store.window(self._index(position), top, left, side)
            if self.structure:
                structure[place] = field
        recipes, noise_seed = (), 0
        if self.degradation is not None:
            rng = np.random.default_rng([self.seed, 2, step])
            noise_seed = int(rng.integers(2**32)) + self.rank * self.batch
            recipes = tuple(draw_recipe(rng, self.degradation) for _ in range(self.batch))
        return HostBatch(
            images=torch.from_numpy(images),
            structure=torch.from_numpy(structure),
            synthetic=tuple(synthetic),
            turns=torch.from_numpy(drawn.turns[rows]),
            orders=torch.from_numpy(drawn.orders[rows]) if self.augment.permute_channels else None,
            mixture=mixture,
            recipes=recipes[self.rank :: self.world],
            seed=noise_seed,
        )

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
        """Whether a row is synthetic, and its number among the rows of its kind in the whole run."""
        position = step * self.batch + row
        before, after = int(position * self.fraction), int((position + 1) * self.fraction)
        # The two kinds alternate evenly.
        return (True, before) if after > before else (False, position - before)

    def _index(self, position: int) -> int:
        """Crop at a position among all crops of the run; every epoch has its own order."""
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
    """Open the source of batches that the table ``data`` of a training config describes.

    The photos of ``config.photos`` are cut into the folder ``cache`` first; crops of the same photos and
    settings are used again. Of several processes one must do that first
    (``accelerator.main_process_first()``). The other arguments are those of ``TrainingSource``.

    Raises:
        ArgumentError: a patch that is no multiple of the scale, a batch that cannot be shared equally, or
            photos without a ``cache``.
        ConfigError: the crops were prepared with another ``encoding`` or ``reduction``.
        DataError: crops are damaged or too small, or photos cannot be prepared.
        ImageError: a photo cannot be read.
        OutputError: ``cache`` cannot be written.
    """
    store, stored = None, config.structure == "stored"
    if config.crops is not None:
        store = CropStore(config.crops)
    elif config.photos is not None:
        if cache is None:
            raise ArgumentError("data.photos needs a cache folder for the crops")
        store = prepare_crops(  # every photo at its full size, flat crops included
            config.photos,
            cache,
            crop_size=config.patch + 2 * MARGIN_LR * scale + SLACK,
            reductions=(1.0,),
            min_gradient=0.0,
            segmenter="graph" if stored else "none",
            encoding=config.encoding or "rope",
            reduction=config.reduction or "image",
            masks=config.masks if stored else None,
            missing_masks=config.missing_masks,
            overwrite=True,  # the cache belongs to the run
        )
    encoding, reduction = _how_encoded(config, store)
    pool = None
    if config.synthetic is not None:
        pool = SyntheticPool(config.synthetic, seed=seed, encoding=encoding, reduction=reduction)
    return TrainingSource(
        patch=config.patch,
        scale=scale,
        batch=config.batch,
        seed=seed,
        store=store,
        pool=pool,
        synthetic_fraction=config.synthetic_fraction,
        structure=stored,
        augment=config.augment,
        degradation=config.damage,
        rank=rank,
        world=world,
    )


def _how_encoded(config: DataConfig, store: CropStore | None) -> tuple[Encoding, Reduction]:
    """The encoding and reduction of the crops, or those of the config."""
    settings: dict[str, Any] = store.manifest.get("settings", {}) if store is not None else {}
    chosen: dict[str, Any] = {}
    for name, default in (("encoding", "rope"), ("reduction", "image")):
        wanted, made = getattr(config, name), settings.get(name, default)
        if store is not None and config.structure == "stored" and wanted not in (None, made):
            raise ConfigError(
                f"data.{name} is {wanted!r}, but {store.path} was prepared with {made!r}; leave it out or "
                "prepare the crops again"
            )
        chosen[name] = wanted or made
    return chosen["encoding"], chosen["reduction"]
