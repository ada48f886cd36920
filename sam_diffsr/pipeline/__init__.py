"""Weights, tiles and memory: everything between an image and the networks."""

from __future__ import annotations

from sam_diffsr.pipeline.checkpoint import available_models, load_pretrained, save_pretrained_folder
from sam_diffsr.pipeline.config import NormalizationConfig, ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = [
    "NormalizationConfig",
    "ResolverConfig",
    "SamplingConfig",
    "SuperResolver",
    "available_models",
    "load_pretrained",
    "save_pretrained_folder",
]
