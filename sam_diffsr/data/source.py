"""Training batches from crops and synthetic images, as a function of ``(seed, step)`` alone.

Batches are made on the CPU, ahead of the training: by a thread, or for a GPU by processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sam_diffsr.data.config import DataConfig
from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import draw_recipe
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.data.synthetic import SyntheticPool
from sam_diffsr.data.training_batch import MARGIN_LR, Draws, TrainingBatch, Windows, make_batch
from sam_diffsr.errors import ArgumentError, ConfigError, DataError, SamDiffsrError
from sam_diffsr.overlap import helper, one_ahead

SLACK = 48
"""HR pixels that crops of ``data.photos`` are larger than a window."""


class TrainingSource:
    """Random windows of crops and of synthetic images; each epoch uses every crop once, in a new order.

    Args:
        config: table ``data`` of a training config.
        scale: scale of the LR images; ``config.patch`` is a multiple of it.
        seed: seed of order, windows, augmentation and damage.
        rank: number of this process; it gets the rows ``rank``, ``rank + world``, ...
        world: number of processes.
        cache: folder that ``config.photos`` are cut into; crops of the same photos and settings are used
            again. Of several processes one must open its source first (``accelerator.main_process_first()``).

    Raises:
        ArgumentError: a patch that is no multiple of the scale, a batch that cannot be shared equally, or
            photos without a ``cache``.
        ConfigError: the crops were prepared with another ``encoding`` or ``reduction``.
        DataError: crops are damaged or too small, or photos cannot be prepared.
        ImageError: a photo cannot be read.
        OutputError: ``cache`` cannot be written.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        scale: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if config.patch % scale:
            raise ArgumentError(f"patch must be a multiple of the scale {scale}, got {config.patch}")
        if not 0 <= rank < world or config.batch % world:
            raise ArgumentError(
                f"a batch of {config.batch} cannot be shared equally by {world} processes (rank {rank}); "
                "choose a positive multiple of their number"
            )
        self.config, self.scale, self.seed, self.rank, self.world = config, scale, seed, rank, world
        self.cache = cache
        self.window = config.patch + 2 * MARGIN_LR * scale
        # If one of the two is None, the share (0 or 1) never selects it.
        synthetic = config.synthetic
        store, how = self._open_crops(cache)
        self.store: Any = store
        self.pool: Any = None if synthetic is None else SyntheticPool(synthetic, seed=seed, **how)
        self.share = 0.0 if synthetic is None else 1.0 if store is None else config.synthetic_fraction
        need = f"at least {self.window} pixels for patches of {config.patch} and their margin, but"
        if store is not None and self.window > store.crop_size:
            raise DataError(f"crops need {need} {store.path} has {store.crop_size}; prepare larger crops")
        if synthetic is not None and self.window > synthetic.size:
            raise DataError(f"synthetic images need {need} data.synthetic.size is {synthetic.size}; raise it")
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        """A process opens the crops itself, also those that were cut of photos."""
        how = {name: getattr(self, name) for name in ("scale", "seed", "rank", "world", "cache")}
        config = self.config
        if config.photos is not None:
            config = replace(config, photos=None, masks=None, crops=str(self.cache))
        return partial(TrainingSource, **how), (config,)

    def _open_crops(self, cache: str | os.PathLike[str] | None) -> tuple[CropStore | None, dict[str, Any]]:
        """Open the crops, or make them of photos; with the encoding and reduction of their regions."""
        config, stored = self.config, self.config.structure == "stored"
        how: dict[str, Any] = {"encoding": config.encoding or "rope"}
        how["reduction"] = config.reduction or "image"
        if config.crops is not None:
            store = CropStore(config.crops)
            made = how | store.manifest.get("settings", {})
            for name in how:
                how[name] = wanted = getattr(config, name) or made[name]
                if stored and wanted != made[name]:
                    raise ConfigError(
                        f"data.{name} is {wanted!r}, but {store.path} was prepared with {made[name]!r}; "
                        "leave it out or prepare the crops again"
                    )
            return store, how
        if config.photos is None:
            return None, how
        if cache is None:
            raise ArgumentError("data.photos needs a cache folder for the crops")
        store = prepare_crops(  # every photo at its full size, flat crops included
            config.photos,
            cache,
            crop_size=self.window + SLACK,
            reductions=(1.0,),
            min_gradient=0.0,
            segmenter="graph" if stored else "none",
            masks=config.masks if stored else None,
            missing_masks=config.missing_masks,
            overwrite=True,  # the cache belongs to the run
            **how,
        )
        return store, how

    def batch(self, step: int) -> TrainingBatch:
        """The rows of one step (0-based) that belong to this process, on the CPU."""
        return make_batch(self.windows(step), scale=self.scale)

    def windows(self, step: int) -> Windows:
        """Cut the windows of one step, and draw what is to become of them."""
        # Every process draws for all rows, so that the rows do not depend on the number of processes.
        config, side = self.config, self.window
        rng = np.random.default_rng([self.seed, 1, step])
        places = [self._place(step, row) for row in range(config.batch)]
        corners: list[list[int]] = []
        for is_synthetic, _ in places:
            slack = (self.pool.config.size if is_synthetic else self.store.crop_size) - side
            corners.append(rng.integers(0, slack, size=2, endpoint=True).tolist())
        drawn = Draws.of_batch(rng, config.augment, batch=config.batch)
        rows, draws = drawn.share(rank=self.rank, world=self.world)
        recipes, noise_seed = (), 0
        if config.damage is not None:
            rng = np.random.default_rng([self.seed, 2, step])
            noise_seed = int(rng.integers(2**32)) + self.rank
            recipes = tuple(draw_recipe(rng, config.damage) for _ in range(config.batch))

        # Only the rows of this process are cut.
        images = np.empty((len(rows), side, side, 3), np.uint8)
        structure = np.zeros((len(rows), side, side), np.float32)
        for place, row in enumerate(rows):
            (is_synthetic, position), (top, left) = places[row], corners[row]
            if is_synthetic:
                drawing = self.pool.drawing(position)
                images[place] = self.pool.picture(drawing)[top : top + side, left : left + side]
                field = drawing.structure(top, left, side)
            else:
                images[place], field = self.store.window(self._index(position), top, left, side)
            if config.structure == "stored":
                structure[place] = field
        own = recipes[self.rank :: self.world]
        return Windows(
            torch.from_numpy(images), torch.from_numpy(structure), draws, own, noise_seed, self.world
        )

    def _place(self, step: int, row: int) -> tuple[bool, int]:
        """Whether a row is synthetic, and its number among the rows of its kind in the whole run."""
        position = step * self.config.batch + row
        before, after = int(position * self.share), int((position + 1) * self.share)
        # The two kinds alternate evenly.
        return (True, before) if after > before else (False, position - before)

    def _index(self, position: int) -> int:
        """Crop at a position among all crops of the run; every epoch has its own order."""
        epoch, place = divmod(position, len(self.store))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.store))
            self._epoch = epoch
        return int(self._order[place])


@contextmanager
def batches(
    source: TrainingSource, *, start: int, stop: int, device: torch.device, workers: int = 0
) -> Generator[Iterator[TrainingBatch], None, None]:
    """Make the batches of the steps ``start`` to ``stop - 1`` ahead of the training.

    With 0 ``workers`` a thread makes them, one ahead; otherwise that many processes, each two batches ahead.
    An error is raised in the place of its batch. Leaving the block ends the thread or the processes.

    Yields:
        An iterator over the batches in order, on the device.
    """
    steps = range(start, stop)
    if workers == 0:
        with helper() as executor:
            yield _on_device(one_ahead(executor, source.batch, steps), device)
        return
    loader = DataLoader(
        _Batches(source),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals,
        generator=torch.Generator(),  # not the caller's
    )
    made: Any = iter(loader)
    try:
        yield _on_device(made, device)
    finally:
        made._shutdown_workers()  # the caller, or the traceback of an error, may hold the iterator longer


def _on_device(
    made: Iterable[TrainingBatch | SamDiffsrError], device: torch.device
) -> Iterator[TrainingBatch]:
    for batch in made:
        if isinstance(batch, SamDiffsrError):
            raise batch
        yield TrainingBatch(*(part.to(device, non_blocking=True) for part in batch))


class _Batches(Dataset[TrainingBatch | SamDiffsrError]):
    """The batches of a source by step, in shared memory, or the error in the place of one.

    The loader would put its own text and a traceback around an error, and would wait for ever for a batch
    that does not fit into shared memory.
    """

    def __init__(self, source: TrainingSource) -> None:
        self.source = source

    def __getitem__(self, step: int) -> TrainingBatch | SamDiffsrError:
        try:
            batch = self.source.batch(step)
        except SamDiffsrError as error:
            return error
        try:
            return TrainingBatch(*(part.share_memory_() for part in batch))
        except RuntimeError as error:
            return DataError(
                f"a batch does not fit into shared memory ({error}); give the container more "
                "(docker run --shm-size=4g), or set run.workers to fewer processes or 0"
            )


def _leave_signals(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the training process, which saves and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
