"""The diffusion process, free of any network: schedules, training pairs, samplers and reproducible noise."""

from __future__ import annotations

from sam_diffsr.diffusion.descent import Denoiser, NoiseFn, StepCallback, StripDenoiser
from sam_diffsr.diffusion.grid import Spacing, time_grid
from sam_diffsr.diffusion.modulation import ModulationMode, modulate
from sam_diffsr.diffusion.noise import ImageNoise
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
    Sampler,
    SamplerName,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
)
from sam_diffsr.diffusion.schedule import NoiseSchedule, ScheduleConfig, ScheduleName

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "ImageNoise",
    "ModulationMode",
    "NoiseFn",
    "NoiseSchedule",
    "Sampler",
    "SamplerName",
    "ScheduleConfig",
    "ScheduleName",
    "Spacing",
    "StepCallback",
    "StripDenoiser",
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
