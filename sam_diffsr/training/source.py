"""Adapter until data.open_source exists."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import BatchSource, HostBatch, TrainingBatch, make_batch
from sam_diffsr.training.config import DataConfig

__all__ = ["TrainingSource", "open_source"]


@dataclass(frozen=True)
class TrainingSource:
    """Adapter."""

    whole: BatchSource
    """Whole."""
    scale: int
    """Scale."""
    rank: int
    """Rank."""
    world: int
    """World."""

    def host_batch(self, step: int) -> HostBatch:
        """Rows of this rank."""
        host = self.whole.host_batch(step)
        rows = slice(self.rank, None, self.world)
        return HostBatch(host.images[rows], host.structure[rows], host.turns[rows])

    def device_batch(self, host: HostBatch, device: torch.device) -> TrainingBatch:
        """On the device."""
        return make_batch(host, scale=self.scale, device=device)


def open_source(
    config: DataConfig, *, scale: int, seed: int, rank: int = 0, world: int = 1
) -> TrainingSource:
    """Open."""
    source = BatchSource(
        CropStore(config.crops), patch=config.patch, scale=scale, batch=config.batch, seed=seed
    )
    return TrainingSource(source, scale, rank, world)
