"""Samplers: from noise to a clean residual, as pure functions of a denoiser (DDPM, DDIM, DPM-Solver++).

All have one signature and one loop. Coefficients are Python floats from the schedule's float64 values, so the
loop never waits for the device, and the estimate of x0 is clipped at every step: at the noisiest one
``alpha_bar`` is about 2e-7 and an unclipped estimate would be thousands of times too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from sam_diffsr.diffusion.grid import Spacing, time_grid
from sam_diffsr.diffusion.schedule import VARIANCE_FLOOR, NoiseSchedule
from sam_diffsr.errors import ArgumentError

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "NoiseFn",
    "Sampler",
    "SamplerName",
    "StepCallback",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpmpp_2m",
]

SamplerName = Literal["ddpm", "ddim", "dpmpp_2m"]
NoiseFn = Callable[[Tensor], Tensor]
"""Given a tensor, return standard normal noise of its shape, dtype and device."""
StepCallback = Callable[[int, int, Tensor], object]
"""Called after every step with its number (from 1), the number of steps and the estimate of x0."""


class Denoiser(Protocol):
    """The network as the samplers see it."""

    def __call__(self, xt: Tensor, t: Tensor, /) -> Tensor:
        """Predict the noise in ``xt`` ``(B, C, H, W)`` at the timesteps ``t`` ``(B,)`` int64."""
        ...


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


@dataclass(frozen=True, slots=True)
class _Level:
    """Where one step starts and where it leads."""

    t: int
    alpha_bar: float
    alpha_bar_next: float
    """1 for the last step, which leads to the clean residual."""


Update = Callable[[Tensor, Tensor, _Level], Tensor]
"""One step: ``(xt, clipped x0 estimate, level) -> x`` at the next level."""


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
            size and changes no number. Not with gradients.

    Returns:
        x0, like ``x_T``, in [-clip, clip]. Gradients are recorded as usual: wrap the call in
        ``torch.inference_mode()`` to do without.

    Raises:
        ArgumentError: an argument is out of range, or ``denoise`` or ``noise`` returns another shape.
    """

    def update(x: Tensor, x0: Tensor, level: _Level) -> Tensor:
        now, following = level.alpha_bar, level.alpha_bar_next
        if following == 1:
            _draw(noise, x)
            return x0
        alpha = now / following
        mean = ((1 - alpha) * math.sqrt(following) / (1 - now)) * x0
        keep = (1 - following) * math.sqrt(alpha) / (1 - now)
        mean = torch.add(mean, x, alpha=keep, out=x if overwrite else None)
        variance = (1 - alpha) * (1 - following) / (1 - now)
        return mean.add_(_draw(noise, x), alpha=math.sqrt(max(variance, VARIANCE_FLOOR)))

    return _descend(denoise, x_T, schedule, update, steps, clip, start, spacing, callback, overwrite)


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

    def update(x: Tensor, x0: Tensor, level: _Level) -> Tensor:
        now, following = level.alpha_bar, level.alpha_bar_next
        draw = _draw(noise, x) if eta > 0 else None
        if following == 1:
            return x0
        variance = eta**2 * (1 - now / following) * (1 - following) / (1 - now)
        keep = math.sqrt(max(1 - following - variance, 0.0) / (1 - now))
        moved = torch.mul(x, keep, out=x if overwrite else None)
        moved.add_(x0, alpha=math.sqrt(following) - keep * math.sqrt(now))
        return moved if draw is None else moved.add_(draw, alpha=math.sqrt(variance))

    return _descend(denoise, x_T, schedule, update, steps, clip, start, spacing, callback, overwrite)


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
    previous: tuple[Tensor, float] | None = None

    def update(x: Tensor, x0: Tensor, level: _Level) -> Tensor:
        nonlocal previous
        now, following = level.alpha_bar, level.alpha_bar_next
        if following == 1:
            return x0  # the log-SNR is infinite there, and the first-order step is x0 itself
        gap = _half_log_snr(following) - _half_log_snr(now)
        shrink = math.sqrt((1 - following) / (1 - now))
        weight = -math.sqrt(following) * math.expm1(-gap)
        moved = torch.mul(x, shrink, out=x if overwrite else None).add_(x0, alpha=weight)
        if previous is not None:  # the slope, from the step before
            x0_before, gap_before = previous
            second = weight * gap / (2 * gap_before)
            moved.add_(x0, alpha=second).sub_(x0_before, alpha=second)
        previous = (x0, gap)
        return moved

    return _descend(denoise, x_T, schedule, update, steps, clip, start, spacing, callback, overwrite)


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
}
"""Every sampler by name. To add one, write its ``update`` and a line here."""


def _descend(
    denoise: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    update: Update,
    steps: int,
    clip: float,
    start: int | None,
    spacing: Spacing,
    callback: StepCallback | None,
    overwrite: bool,
) -> Tensor:
    """The loop of all samplers: predict, clip, update, report."""
    if x_T.ndim != 4 or not x_T.is_floating_point():
        raise ArgumentError(f"x_T must be (B, C, H, W) floats, got {tuple(x_T.shape)} of {x_T.dtype}")
    if not clip > 0:
        raise ArgumentError(f"clip must be > 0 (math.inf for none), got {clip}")
    levels = _levels(schedule, time_grid(schedule.timesteps, steps, start=start, spacing=spacing))
    x = x_T
    for step, level in enumerate(levels, start=1):
        t = torch.full((x.shape[0],), level.t, dtype=torch.int64, device=x.device)
        eps = denoise(x, t)
        if eps.shape != x.shape:
            raise ArgumentError(
                f"denoise must return the shape of xt {tuple(x.shape)}, got {tuple(eps.shape)}"
            )
        eps = eps.to(x.dtype)
        x0 = torch.sub(x, eps, alpha=math.sqrt(1 - level.alpha_bar), out=eps if overwrite else None)
        x0.div_(math.sqrt(level.alpha_bar)).clamp_(-clip, clip)
        del eps  # updates need tensors of this size, too
        x = update(x, x0, level)
        if callback is not None:
            callback(step, steps, x0)
    return x


def _levels(schedule: NoiseSchedule, grid: list[int]) -> list[_Level]:
    visited = [*(schedule.alpha_bars[t] for t in grid), 1.0]
    return [_Level(t, now, following) for t, (now, following) in zip(grid, pairwise(visited), strict=True)]


def _half_log_snr(alpha_bar: float) -> float:
    return (math.log(alpha_bar) - math.log1p(-alpha_bar)) / 2


def _draw(noise: NoiseFn, x: Tensor) -> Tensor:
    draw = noise(x)
    if draw.shape != x.shape:
        raise ArgumentError(
            f"noise must return the shape it is given {tuple(x.shape)}, got {tuple(draw.shape)}"
        )
    return draw
