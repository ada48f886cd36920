"""Photographs to training batches: crops prepared once on disk, everything else made on the device."""

from __future__ import annotations

from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import BatchSource, TrainingBatch, degrade, dihedral, make_batch

__all__ = [
    "BatchSource",
    "CropStore",
    "TrainingBatch",
    "degrade",
    "dihedral",
    "make_batch",
]
