"""Weights, tiles and memory: everything between an image and the networks."""

from __future__ import annotations

from sam_diffsr.image.jobs import Job, find_images, plan_jobs
from sam_diffsr.pipeline.batch import FileUpscaler, Outcome, run_jobs
from sam_diffsr.pipeline.checkpoint import (
    available_models,
    convert_checkpoint,
    load_pretrained,
    save_pretrained_folder,
)
from sam_diffsr.pipeline.config import NormalizationConfig, ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = [
    "FileUpscaler",
    "Job",
    "NormalizationConfig",
    "Outcome",
    "ResolverConfig",
    "SamplingConfig",
    "SuperResolver",
    "available_models",
    "convert_checkpoint",
    "find_images",
    "load_pretrained",
    "plan_jobs",
    "run_jobs",
    "save_pretrained_folder",
]
