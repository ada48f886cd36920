"""Photographs to training batches: crops prepared once on disk, everything else made on the device."""

from __future__ import annotations

from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.degrade import BatchSource, TrainingBatch, degrade, dihedral, make_batch
from sam_diffsr.data.photos import list_photos
from sam_diffsr.data.prepare import Segmenter, prepare_crops

__all__ = [
    "BatchSource",
    "CropStore",
    "Segmenter",
    "TrainingBatch",
    "degrade",
    "dihedral",
    "list_photos",
    "make_batch",
    "prepare_crops",
]
