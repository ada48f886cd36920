"""Training data: from photographs and synthetic images to training batches."""

from __future__ import annotations

from sam_diffsr.data.config import AugmentConfig, DataConfig, SyntheticConfig
from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.cut import Segmenter
from sam_diffsr.data.datasets import Dataset, find_dataset
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.data.source import TrainingSource, batches
from sam_diffsr.data.synthetic import synthesize_crops
from sam_diffsr.data.training_batch import TrainingBatch, Windows, make_batch

__all__ = [
    "AugmentConfig",
    "CropStore",
    "DataConfig",
    "Dataset",
    "Segmenter",
    "SyntheticConfig",
    "TrainingBatch",
    "TrainingSource",
    "Windows",
    "batches",
    "find_dataset",
    "make_batch",
    "prepare_crops",
    "synthesize_crops",
]
