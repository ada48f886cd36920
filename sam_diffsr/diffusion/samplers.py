"""Samplers: from noise to a clean residual, as pure functions of a denoiser (DDPM, DDIM, DPM-Solver++).

All share one signature, which :func:`sample_ddpm` describes. Coefficients are Python floats, so the loop
never waits for the device. The estimate of x0 is clipped at every step: at the noisiest one ``alpha_bar`` is
about 2e-7, and an unclipped estimate would be thousands of times too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from sam_diffsr.diffusion.process import predict_eps, predict_x0, q_posterior
from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.errors import ArgumentError

SamplerName = Literal["ddpm", "ddim", "dpmpp_2m"]
Spacing = Literal["linspace", "trailing"]
NoiseFn = Callable[[Tensor], Tensor]
"""Given a tensor, return standard normal noise of its shape, dtype and device."""
StepCallback = Callable[[int, int, Tensor], object]
"""Called after every step with its number (from 1), the number of steps and the estimate of x0."""
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""The network: predicts the noise in ``xt`` ``(B, C, H, W)`` at the timesteps ``t`` ``(B,)`` int64."""
Sampler = Callable[..., Tensor]
"""Any of the samplers; :func:`sample_ddpm` describes the arguments."""


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
) -> Tensor:
    """Ancestral sampling (DDPM alg. 2); with ``steps = T`` the published procedure.

    A subset of the timesteps uses the posterior between the levels that are visited.

    Args:
        denoise: the network; its result may have a smaller dtype than ``x_T``.
        x_T: ``(B, C, H, W)`` float state at ``start`` on any device: pure noise if that is T-1. Not changed.
        schedule: schedule that the network was trained with.
        steps: number of timesteps to visit, in 1..start+1.
        noise: source of every random number; called once per step except the last.
        clip: limit of the estimates of x0, which are clipped to [-clip, clip]; ``math.inf`` for none.
        start: timestep of ``x_T``, in 0..T-1; None is T-1.
        spacing: choice of timesteps, see :func:`time_grid`.
        callback: called after each step; an exception ends the sampling and reaches the caller.

    Returns:
        x0, same shape and dtype as ``x_T``, in [-clip, clip]. Gradients are recorded as usual.

    Raises:
        ArgumentError: an argument is out of range, or ``denoise`` or ``noise`` returns another shape.
    """
    x = x_T
    for step, t, now, following in _levels(x_T, schedule, steps, start, spacing, clip):
        x0 = predict_x0(x, denoise(x, t), now).clamp(-clip, clip)
        if callback is not None:
            callback(step, steps, x0)
        if following == 1:
            return x0
        mean, variance = q_posterior(x0, x, now, following)
        x = _add_noise(mean, noise, math.sqrt(variance))
    return x


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
    eta: float = 0.0,
) -> Tensor:
    """Implicit sampling (DDIM eq. 12), with the noise derived again from the clipped x0.

    Arguments, result and errors as in :func:`sample_ddpm`, and one argument more: ``eta`` in [0, 1] is 0 for
    deterministic sampling, which never calls ``noise``, and 1 for the variance of :func:`sample_ddpm`.
    """
    if not 0 <= eta <= 1:
        raise ArgumentError(f"eta must be in [0, 1], got {eta}")
    x = x_T
    for step, t, now, following in _levels(x_T, schedule, steps, start, spacing, clip):
        x0 = predict_x0(x, denoise(x, t), now).clamp(-clip, clip)
        if callback is not None:
            callback(step, steps, x0)
        if following == 1:
            return x0
        variance = eta**2 * (1 - now / following) * (1 - following) / (1 - now)
        eps = predict_eps(x, x0, now)
        x = math.sqrt(following) * x0 + math.sqrt(max(1 - following - variance, 0.0)) * eps
        if eta > 0:
            x = _add_noise(x, noise, math.sqrt(variance))
    return x


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
) -> Tensor:
    """DPM-Solver++ (2M, arXiv 2211.01095 alg. 2): second-order multistep on x0 in log-SNR.

    Arguments, result and errors as in :func:`sample_ddpm`. The first and the last step are of first order. It
    is deterministic: ``noise`` is part of the common signature and never called.
    """
    x, x0_before, gap_before = x_T, None, 0.0
    for step, t, now, following in _levels(x_T, schedule, steps, start, spacing, clip):
        x0 = predict_x0(x, denoise(x, t), now).clamp(-clip, clip)
        if callback is not None:
            callback(step, steps, x0)
        if following == 1:
            return x0
        gap = _half_log_snr(following) - _half_log_snr(now)
        estimate = x0 if x0_before is None else x0 + (gap / (2 * gap_before)) * (x0 - x0_before)
        x = math.sqrt((1 - following) / (1 - now)) * x - math.sqrt(following) * math.expm1(-gap) * estimate
        x0_before, gap_before = x0, gap
    return x


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
}
"""Every sampler by name. To add one, write its function, a line here and its name in ``SamplerName``."""


def time_grid(
    timesteps: int, steps: int, *, start: int | None = None, spacing: Spacing = "linspace"
) -> list[int]:
    """Choose the timesteps that a sampler visits, noisiest first, evenly apart.

    Args:
        timesteps: T of the schedule.
        steps: number of timesteps to visit, in 1..start+1.
        start: the first one, in 0..T-1; None is T-1.
        spacing: ``"linspace"`` ends at t = 0 (a single step visits only ``start``); ``"trailing"`` leaves
            equal gaps before, between and after, so that few steps are not spent where little noise is left.

    Returns:
        ``steps`` different timesteps in descending order; the first is ``start``.

    Raises:
        ArgumentError: a number is out of range or ``spacing`` is unknown.
    """
    if timesteps < 1:
        raise ArgumentError(f"timesteps must be >= 1, got {timesteps}")
    first = timesteps - 1 if start is None else start
    if not 0 <= first < timesteps:
        raise ArgumentError(f"start must be a timestep in 0..{timesteps - 1}, got {start}")
    if not 1 <= steps <= first + 1:
        raise ArgumentError(
            f"steps must be in 1..{first + 1} when sampling starts at timestep {first}, got {steps}"
        )
    # Whole-number arithmetic rounds half up; the gaps are at least 1, so no two results are equal.
    if spacing == "linspace":
        gaps = max(steps - 1, 1)
        return [first - (2 * first * index + gaps) // (2 * gaps) for index in range(steps)]
    if spacing == "trailing":
        return [first - (2 * (first + 1) * index + steps) // (2 * steps) for index in range(steps)]
    raise ArgumentError(f"spacing must be one of {', '.join(get_args(Spacing))}; got {spacing!r}")


def _levels(
    x_T: Tensor, schedule: NoiseSchedule, steps: int, start: int | None, spacing: Spacing, clip: float
) -> Iterator[tuple[int, Tensor, float, float]]:
    """Number, timesteps ``(B,)``, alpha_bar and next alpha_bar of every step; the last one leads to 1."""
    if x_T.ndim != 4 or not x_T.is_floating_point():
        raise ArgumentError(f"x_T must be (B, C, H, W) floats, got {tuple(x_T.shape)} of {x_T.dtype}")
    if not clip > 0:
        raise ArgumentError(f"clip must be > 0 (math.inf for none), got {clip}")
    grid = time_grid(schedule.timesteps, steps, start=start, spacing=spacing)
    levels = [schedule.alpha_bars[t] for t in grid]
    for step, (t, now, following) in enumerate(zip(grid, levels, [*levels[1:], 1.0], strict=True), start=1):
        yield step, torch.full((len(x_T),), t, dtype=torch.int64, device=x_T.device), now, following


def _add_noise(x: Tensor, noise: NoiseFn, deviation: float) -> Tensor:
    draw = noise(x)
    if draw.shape != x.shape:
        raise ArgumentError(
            f"noise must return the shape it is given {tuple(x.shape)}, got {tuple(draw.shape)}"
        )
    return torch.add(x, draw, alpha=deviation)


def _half_log_snr(alpha_bar: float) -> float:
    return (math.log(alpha_bar) - math.log1p(-alpha_bar)) / 2
