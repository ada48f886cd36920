"""Samplers: from noise to a clean residual, as pure functions of a denoiser (DDPM, DDIM, DPM-Solver++).

All have one signature and one loop. Coefficients are Python floats from the schedule's float64 values, so the
loop never waits for the device, and the estimate of x0 is clipped at every step: at the noisiest one
``alpha_bar`` is about 2e-7 and an unclipped estimate would be thousands of times too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from sam_diffsr.diffusion.grid import Spacing, time_grid
from sam_diffsr.diffusion.noise import ImageNoise
from sam_diffsr.diffusion.schedule import VARIANCE_FLOOR, NoiseSchedule
from sam_diffsr.errors import ArgumentError

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "NoiseFn",
    "Sampler",
    "SamplerName",
    "StepCallback",
    "StripDenoiser",
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


@runtime_checkable
class StripDenoiser(Denoiser, Protocol):
    """A network that can also predict from top to bottom, so that a step needs no second tensor."""

    def strips(self, xt: Tensor, t: Tensor, /) -> Iterator[tuple[slice, Tensor]]:
        """Predict the noise in rows that cover ``xt`` ``(B, C, H, W)`` once, in order.

        Yields:
            Rows, and the prediction ``(B, C, rows, W)``. Nobody looks at these rows of ``xt`` any more: both
            may be overwritten before the next ones are asked for, and the prediction is lost afterwards.
        """
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
    alpha_bar_before: float | None
    """Where the step before this one started; None for the first."""


class _Update(Protocol):
    """One step but the last, which leads to the estimate itself (its log-SNR would be infinite).

    Pixels do not look at each other, so that it can be done for any part of an image.
    """

    def __call__(
        self, x: Tensor, x0: Tensor, before: Tensor | None, level: _Level, *, out: Tensor | None
    ) -> Tensor:
        """``xt``, the clipped estimate of x0 and that of the step before to x at the next level.

        ``before`` is None in the first step and for rules that do not remember; what is returned is ``out``
        where that, which is ``xt``, is given.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Rule:
    """What makes a sampler."""

    update: _Update
    """A step, but for its noise."""
    spread: Callable[[_Level], float] | None = None
    """Deviation of the noise that is added after a step but the last; None where there is none."""
    remembers: bool = False
    """Whether the update looks at the estimate of the step before."""


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

    def update(x: Tensor, x0: Tensor, before: Tensor | None, level: _Level, *, out: Tensor | None) -> Tensor:
        now, following = level.alpha_bar, level.alpha_bar_next
        alpha = now / following
        mean = ((1 - alpha) * math.sqrt(following) / (1 - now)) * x0
        keep = (1 - following) * math.sqrt(alpha) / (1 - now)
        return torch.add(mean, x, alpha=keep, out=out)

    def spread(level: _Level) -> float:
        now, following = level.alpha_bar, level.alpha_bar_next
        variance = (1 - now / following) * (1 - following) / (1 - now)
        return math.sqrt(max(variance, VARIANCE_FLOOR))

    rule = _Rule(update, spread)
    return _descend(denoise, x_T, schedule, rule, steps, noise, clip, start, spacing, callback, overwrite)


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

    def variance(level: _Level) -> float:
        now, following = level.alpha_bar, level.alpha_bar_next
        return eta**2 * (1 - now / following) * (1 - following) / (1 - now)

    def update(x: Tensor, x0: Tensor, before: Tensor | None, level: _Level, *, out: Tensor | None) -> Tensor:
        now, following = level.alpha_bar, level.alpha_bar_next
        keep = math.sqrt(max(1 - following - variance(level), 0.0) / (1 - now))
        moved = torch.mul(x, keep, out=out)
        return moved.add_(x0, alpha=math.sqrt(following) - keep * math.sqrt(now))

    rule = _Rule(update, (lambda level: math.sqrt(variance(level))) if eta > 0 else None)
    return _descend(denoise, x_T, schedule, rule, steps, noise, clip, start, spacing, callback, overwrite)


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

    def update(x: Tensor, x0: Tensor, before: Tensor | None, level: _Level, *, out: Tensor | None) -> Tensor:
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

    rule = _Rule(
        update, remembers=True
    )  # the log-SNR of the last step is infinite, and it leads to x0 itself
    return _descend(denoise, x_T, schedule, rule, steps, noise, clip, start, spacing, callback, overwrite)


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "dpmpp_2m": sample_dpmpp_2m,
}
"""Every sampler by name. To add one, write its rule and a line here."""


def _descend(
    denoise: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    rule: _Rule,
    steps: int,
    noise: NoiseFn,
    clip: float,
    start: int | None,
    spacing: Spacing,
    callback: StepCallback | None,
    overwrite: bool,
) -> Tensor:
    """The loop of all samplers: predict, clip, update, add noise, report."""
    if x_T.ndim != 4 or not x_T.is_floating_point():
        raise ArgumentError(f"x_T must be (B, C, H, W) floats, got {tuple(x_T.shape)} of {x_T.dtype}")
    if not clip > 0:
        raise ArgumentError(f"clip must be > 0 (math.inf for none), got {clip}")
    levels = _levels(schedule, time_grid(schedule.timesteps, steps, start=start, spacing=spacing))
    x, before = x_T, None
    for step, level in enumerate(levels, start=1):
        t = torch.full((x.shape[0],), level.t, dtype=torch.int64, device=x.device)
        kept = rule.remembers and step + 1 < steps  # the last step looks at nothing
        if overwrite and isinstance(denoise, StripDenoiser):
            wanted = kept or callback is not None
            memory = before if callback is None else None  # what a callback was given stays as it is
            x0 = _step_in_strips(
                denoise.strips(x, t), x, before, memory, rule, level, clip=clip, wanted=wanted
            )
            following = x
        else:
            eps = denoise(x, t)
            x0 = _estimate(x, eps, level, clip=clip, overwrite=overwrite)
            del eps  # updates need tensors of this size, too
            following = x0
            if level.alpha_bar_next < 1:
                following = rule.update(x, x0, before, level, out=x if overwrite else None)
        if rule.spread is not None:
            deviation = rule.spread(level) if level.alpha_bar_next < 1 else 0.0
            _add_noise(following, noise, deviation, like=x, in_pieces=overwrite)
        x, before = following, x0 if kept else None
        if callback is not None:
            callback(step, steps, x0)
    return x


def _step_in_strips(
    strips: Iterator[tuple[slice, Tensor]],
    x: Tensor,
    before: Tensor | None,
    memory: Tensor | None,
    rule: _Rule,
    level: _Level,
    *,
    clip: float,
    wanted: bool,
) -> Tensor:
    """One step without its noise, in the memory of ``x``; returns the estimate of x0 if that is wanted."""
    last = level.alpha_bar_next == 1
    estimate = x if last or not wanted else torch.empty_like(x) if memory is None else memory
    for rows, eps in strips:
        now = x[:, :, rows]
        x0 = _estimate(now, eps, level, clip=clip, overwrite=True)
        if last:
            now.copy_(x0)
            continue
        rule.update(now, x0, None if before is None else before[:, :, rows], level, out=now)
        if wanted:
            estimate[:, :, rows] = x0
    return estimate


def _estimate(x: Tensor, eps: Tensor, level: _Level, *, clip: float, overwrite: bool) -> Tensor:
    """Solve ``q_sample`` for x0 and clip that; in the memory of ``eps`` to overwrite it."""
    if eps.shape != x.shape:
        raise ArgumentError(f"denoise must return the shape of xt {tuple(x.shape)}, got {tuple(eps.shape)}")
    eps = eps.to(x.dtype)
    x0 = torch.sub(x, eps, alpha=math.sqrt(1 - level.alpha_bar), out=eps if overwrite else None)
    return x0.div_(math.sqrt(level.alpha_bar)).clamp_(-clip, clip)


def _add_noise(x: Tensor, noise: NoiseFn, deviation: float, *, like: Tensor, in_pieces: bool) -> None:
    """Draw once, and add that; in the last step, where the deviation is 0, draw only."""
    if in_pieces and isinstance(noise, ImageNoise) and x.device.type == "cpu" and x.is_contiguous():
        noise.add_to(x, deviation)
        return
    draw = _draw(noise, like)
    if deviation > 0:
        x.add_(draw, alpha=deviation)


def _levels(schedule: NoiseSchedule, grid: list[int]) -> list[_Level]:
    now = [schedule.alpha_bars[t] for t in grid]
    return [_Level(*values) for values in zip(grid, now, [*now[1:], 1.0], [None, *now[:-1]], strict=True)]


def _half_log_snr(alpha_bar: float) -> float:
    return (math.log(alpha_bar) - math.log1p(-alpha_bar)) / 2


def _draw(noise: NoiseFn, x: Tensor) -> Tensor:
    draw = noise(x)
    if draw.shape != x.shape:
        raise ArgumentError(
            f"noise must return the shape it is given {tuple(x.shape)}, got {tuple(draw.shape)}"
        )
    return draw
