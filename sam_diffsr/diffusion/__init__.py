"""The diffusion process, free of any network: schedules, training pairs, samplers and reproducible noise."""

from __future__ import annotations

from sam_diffsr.diffusion.modulation import ModulationMode, modulate
from sam_diffsr.diffusion.noise import PositionNoise
from sam_diffsr.diffusion.process import (
    image_to_residual,
    predict_eps,
    predict_x0,
    q_posterior,
    q_sample,
    residual_to_image,
)
from sam_diffsr.diffusion.samplers import (
    SAMPLERS,
    Denoiser,
    NoiseFn,
    Sampler,
    SamplerName,
    Spacing,
    StepCallback,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    time_grid,
)
from sam_diffsr.diffusion.schedule import NoiseSchedule, ScheduleConfig, ScheduleName

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "ModulationMode",
    "NoiseFn",
    "NoiseSchedule",
    "PositionNoise",
    "Sampler",
    "SamplerName",
    "ScheduleConfig",
    "ScheduleName",
    "Spacing",
    "StepCallback",
    "image_to_residual",
    "modulate",
    "predict_eps",
    "predict_x0",
    "q_posterior",
    "q_sample",
    "residual_to_image",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpmpp_2m",
    "time_grid",
]
