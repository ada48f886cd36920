"""Training of encoder and denoiser, with checkpoints that resume exactly."""

from __future__ import annotations

from sam_diffsr.data.config import DataConfig
from sam_diffsr.training.compose import config_to_yaml, list_presets, load_config
from sam_diffsr.training.config import (
    DiffusionConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    ValidationConfig,
)
from sam_diffsr.training.export import export_run, resolver_config
from sam_diffsr.training.log import read_log
from sam_diffsr.training.loop import TrainResult, Validate, train
from sam_diffsr.training.state import Checkpoint, read_checkpoint

__all__ = [
    "Checkpoint",
    "DataConfig",
    "DiffusionConfig",
    "OptimizerConfig",
    "RunConfig",
    "TrainConfig",
    "TrainResult",
    "Validate",
    "ValidationConfig",
    "config_to_yaml",
    "export_run",
    "list_presets",
    "load_config",
    "read_checkpoint",
    "read_log",
    "resolver_config",
    "train",
]
