"""One knob between the faithful answer and full texture: where sampling starts, and in how many steps."""

from __future__ import annotations

import math

from sam_diffsr.errors import ArgumentError
from sam_diffsr.pipeline.config import SamplingConfig

__all__ = ["TIMESTEPS_PER_STEP", "sampling_of_fidelity"]

TIMESTEPS_PER_STEP = 5
"""Timesteps that one ancestral step covers at most; more steps cost more and change little."""


def sampling_of_fidelity(fidelity: float, *, timesteps: int) -> SamplingConfig:
    """Ancestral sampling from the encoder's image, noised as far as ``1 - fidelity`` of the schedule.

    What the noise covers is drawn anew from what the denoiser has learnt; what it does not cover stays. At 1
    the encoder's image is all but kept: it aims at the mean of all plausible images, which scores highest in
    PSNR and looks smooth. At 0 nothing of it is left: sampling from pure noise, the published procedure with
    fewer steps, which gives one plausible image with full texture (and full risk of wrong texture).

    Args:
        fidelity: 0 to 1.
        timesteps: T of the model's schedule.

    Returns:
        Sampler, steps and start; ``start`` is None (pure noise) at 0.

    Raises:
        ArgumentError: not a number from 0 to 1.
    """
    if isinstance(fidelity, bool) or not isinstance(fidelity, int | float) or not 0 <= fidelity <= 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArgumentError(
            f"fidelity must be a number from 0 (full texture) to 1 (closest to the input), got {fidelity!r}"
        )
    start = round((1 - fidelity) * (timesteps - 1))
    return SamplingConfig(
        sampler="ddpm",
        steps=math.ceil((start + 1) / TIMESTEPS_PER_STEP),
        start=None if fidelity == 0 else start,
    )
