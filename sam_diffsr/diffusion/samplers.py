"""Samplers: from noise to a clean residual, as pure functions of a denoiser (DDPM, DDIM, DPM-Solver++).

All have one signature and one loop. Coefficients are Python floats from the schedule's float64 values, so the
loop never waits for the device, and the estimate of x0 is clipped at every step: at the noisiest one
``alpha_bar`` is about 2e-7 and an unclipped estimate would be thousands of times too large.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from sam_diffsr.diffusion.descent import Denoiser, Level, NoiseFn, Rule, StepCallback, descend
from sam_diffsr.diffusion.grid import Spacing
from sam_diffsr.diffusion.schedule import VARIANCE_FLOOR, NoiseSchedule
from sam_diffsr.errors import ArgumentError

__all__ = [
    "SAMPLERS",
    "Sampler",
    "SamplerName",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpmpp_2m",
]

SamplerName = Literal["ddpm", "ddim", "dpmpp_2m"]


class Sampler(Protocol):
    """The signature that all samplers share."""

    def __call__(
        self,
        denoise: Denoiser,
        x_T: Tensor,
        schedule: NoiseSchedule,
        *,
        steps: int,
        noise: NoiseFn,
        clip: float = ...,
        start: int | None = ...,
        spacing: Spacing = ...,
        callback: StepCallback | None = ...,
        overwrite: bool = ...,
    ) -> Tensor:
        """Sample x0; ``sample_ddpm`` describes the arguments."""
        ...


def sample_ddpm(
    denoise: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: int,
    noise: NoiseFn,
    clip: float = 1.0,
    start: int | None = None,
    spacing: Spacing = "linspace",
    callback: StepCallback | None = None,
    overwrite: bool = False,
) -> Tensor:
    """Ancestral sampling (DDPM alg. 2); with ``steps = T`` the published procedure.

    A subset of the timesteps uses the posterior between the levels that are visited.

    Args:
        denoise: the network; its result may have a smaller dtype than ``x_T``.
        x_T: ``(B, C, H, W)`` float32, on any device: the state at ``start``, pure noise where that is T-1.
            Not changed, unless ``overwrite`` says so.
        schedule: of the training.
        steps: how many timesteps to visit, in 1..start+1.
        noise: where every random number comes from. Ancestral samplers call it once a step, first for
            ``start`` and also for the last step, which does not use what it returns.
        clip: estimates of x0 are clipped to [-clip, clip]; ``math.inf`` turns it off.
        start: the timestep that ``x_T`` belongs to, in 0..T-1; None is T-1.
        spacing: which timesteps, see ``time_grid``.
        callback: called after each step; what it raises ends the sampling and reaches the caller.
        overwrite: use the memory of ``x_T`` and of what ``denoise`` returns, which saves two tensors of their
            size and changes no number. With a :class:`StripDenoiser` ``x_T`` is all that there is of its
            size, but for what a callback is given, what ``sample_dpmpp_2m`` remembers, and noise that is not
            :class:`ImageNoise` on the CPU. Not with gradients.

    Returns:
        x0, like ``x_T``, in [-clip, clip]. Gradients are recorded as usual: wrap the call in
        ``torch.inference_mode()`` to do without.

    Raises:
        ArgumentError: an argument is out of range, or ``denoise`` or ``noise`` returns another shape.
    """

    def update(x: Tensor, x0: Tensor, before: Tensor | None, level: Level, *, out: Tensor | None) -> Tensor:
        now, following = level.alpha_bar, level.alpha_bar_next
        alpha = now / following
        mean = ((1 - alpha) * math.sqrt(following) / (1 - now)) * x0
        keep = (1 - following) * math.sqrt(alpha) / (1 - now)
        return torch.add(mean, x, alpha=keep, out=out)

    def spread(level: Level) -> float:
        now, following = level.alpha_bar, level.alpha_bar_next
        variance = (1 - now / following) * (1 - following) / (1 - now)
        return math.sqrt(max(variance, VARIANCE_FLOOR))

    rule = Rule(update, spread)
    return descend(denoise, x_T, schedule, rule, steps, noise, clip, start, spacing, callback, overwrite)


def sample_ddim(
    denoise: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: int,
    noise: NoiseFn,
    clip: float = 1.0,
    start: int | None = None,
    spacing: Spacing = "linspace",
    callback: StepCallback | None = None,
    overwrite: bool = False,
    eta: float = 0.0,
) -> Tensor:
    """Implicit sampling (DDIM eq. 12), with the noise re-derived from the clipped x0.

    Takes the arguments of ``sample_ddpm`` and one more.

    Args:
        denoise: see ``sample_ddpm``.
        x_T: see ``sample_ddpm``.
        schedule: see ``sample_ddpm``.
        steps: see ``sample_ddpm``.
        noise: called once a step if ``eta > 0``, else never.
        clip: see ``sample_ddpm``.
        start: see ``sample_ddpm``.
        spacing: see ``sample_ddpm``.
        callback: see ``sample_ddpm``.
        overwrite: see ``sample_ddpm``.
        eta: 0 is deterministic, 1 has the variance of ``sample_ddpm``; in [0, 1].

    Returns:
        As ``sample_ddpm``.

    Raises:
        ArgumentError: as ``sample_ddpm``, or ``eta`` is outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ArgumentError(f"eta must be in [0, 1], got {eta}")

    def variance(level: Level) -> float:
        now, following = level.alpha_bar, level.alpha_bar_next
        return eta**2 * (1 - now / following) * (1 - following) / (1 - now)

    def update(x: Tensor, x0: Tensor, before: Tensor | None, level: Level, *, out: Tensor | None) -> Tensor:
        now, following = level.alpha_bar, level.alpha_bar_next
        keep = math.sqrt(max(1 - following - variance(level), 0.0) / (1 - now))
        moved = torch.mul(x, keep, out=out)
        return moved.add_(x0, alpha=math.sqrt(following) - keep * math.sqrt(now))

    rule = Rule(update, (lambda level: math.sqrt(variance(level))) if eta > 0 else None)
    return descend(denoise, x_T, schedule, rule, steps, noise, clip, start, spacing, callback, overwrite)


def sample_dpmpp_2m(
    denoise: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: int,
    noise: NoiseFn,
    clip: float = 1.0,
    start: int | None = None,
    spacing: Spacing = "linspace",
    callback: StepCallback | None = None,
    overwrite: bool = False,
) -> Tensor:
    """DPM-Solver++ (2M): second-order multistep on x0 in log-SNR, first order in its first and last step.

    Deterministic: ``noise`` is part of the common signature and never called.

    Args:
        denoise: see ``sample_ddpm``.
        x_T: see ``sample_ddpm``.
        schedule: see ``sample_ddpm``.
        steps: see ``sample_ddpm``.
        noise: not used.
        clip: see ``sample_ddpm``.
        start: see ``sample_ddpm``.
        spacing: see ``sample_ddpm``.
        callback: see ``sample_ddpm``.
        overwrite: see ``sample_ddpm``.

    Returns:
        As ``sample_ddpm``.

    Raises:
        ArgumentError: as ``sample_ddpm``.
    """

    def update(x: Tensor, x0: Tensor, before: Tensor | None, level: Level, *, out: Tensor | None) -> Tensor:
        now, following = level.alpha_bar, level.alpha_bar_next
        gap = _half_log_snr(following) - _half_log_snr(now)
        shrink = math.sqrt((1 - following) / (1 - now))
        weight = -math.sqrt(following) * math.expm1(-gap)
        moved = torch.mul(x, shrink, out=out).add_(x0, alpha=weight)
        if before is not None and level.alpha_bar_before is not None:  # the slope, from the step before
            gap_before = _half_log_snr(now) - _half_log_snr(level.alpha_bar_before)
            second = weight * gap / (2 * gap_before)
            moved.add_(x0, alpha=second).sub_(before, alpha=second)
        return moved

    rule = Rule(update, remembers=True)
    return descend(denoise, x_T, schedule, rule, steps, noise, clip, start, spacing, callback, overwrite)


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
}
"""Every sampler by name. To add one, write its rule and a line here."""


def _half_log_snr(alpha_bar: float) -> float:
    return (math.log(alpha_bar) - math.log1p(-alpha_bar)) / 2
