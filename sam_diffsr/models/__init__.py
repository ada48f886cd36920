"""Networks: the RRDB encoder, the UNet denoiser and the two together; readers of published checkpoints."""

from __future__ import annotations

from sam_diffsr.models.config import DenoiserConfig, EncoderConfig, ModelConfig
from sam_diffsr.models.diffsr import Condition, DiffSR, build_model, pad_to_fit
from sam_diffsr.models.published import (
    load_reference_checkpoint,
    load_rrdbnet_checkpoint,
    read_reference_checkpoint,
)
from sam_diffsr.models.rrdb import RRDBEncoder
from sam_diffsr.models.unet import UNet

__all__ = [
    "Condition",
    "DenoiserConfig",
    "DiffSR",
    "EncoderConfig",
    "ModelConfig",
    "RRDBEncoder",
    "UNet",
    "build_model",
    "load_reference_checkpoint",
    "load_rrdbnet_checkpoint",
    "pad_to_fit",
    "read_reference_checkpoint",
]
