"""The diffusion process, free of any network: schedules, training pairs, samplers and reproducible noise."""

from __future__ import annotations

from sam_diffsr.diffusion.modulation import ModulationMode, modulate
from sam_diffsr.diffusion.process import (
    image_to_residual,
    predict_eps,
    predict_x0,
    q_posterior,
    q_sample,
    residual_to_image,
)
from sam_diffsr.diffusion.schedule import NoiseSchedule, ScheduleConfig, ScheduleName

__all__ = [
    "ModulationMode",
    "NoiseSchedule",
    "ScheduleConfig",
    "ScheduleName",
    "image_to_residual",
    "modulate",
    "predict_eps",
    "predict_x0",
    "q_posterior",
    "q_sample",
    "residual_to_image",
]
