"""The loop that all samplers share: predict, clip, update, add noise; on whole tensors or strip by strip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sam_diffsr.diffusion.grid import Spacing, time_grid
from sam_diffsr.diffusion.noise import ImageNoise
from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.errors import ArgumentError

__all__ = [
    "Denoiser",
    "Level",
    "NoiseFn",
    "Rule",
    "StepCallback",
    "StripDenoiser",
    "Update",
    "descend",
]

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


@dataclass(frozen=True, slots=True)
class Level:
    """Where one step starts and where it leads."""

    t: int
    alpha_bar: float
    alpha_bar_next: float
    """1 for the last step, which leads to the clean residual."""
    alpha_bar_before: float | None
    """Where the step before this one started; None for the first."""


class Update(Protocol):
    """One step but the last, which leads to the estimate itself (its log-SNR would be infinite).

    Pixels do not look at each other, so that it can be done for any part of an image.
    """

    def __call__(
        self, x: Tensor, x0: Tensor, before: Tensor | None, level: Level, *, out: Tensor | None
    ) -> Tensor:
        """``xt``, the clipped estimate of x0 and that of the step before to x at the next level.

        ``before`` is None in the first step and for rules that do not remember; what is returned is ``out``
        where that, which is ``xt``, is given.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a sampler."""

    update: Update
    """A step, but for its noise."""
    spread: Callable[[Level], float] | None = None
    """Deviation of the noise that is added after a step but the last; None where there is none."""
    remembers: bool = False
    """Whether the update looks at the estimate of the step before."""


def descend(
    denoise: Denoiser,
    x_T: Tensor,
    schedule: NoiseSchedule,
    rule: Rule,
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
    rule: Rule,
    level: Level,
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


def _estimate(x: Tensor, eps: Tensor, level: Level, *, clip: float, overwrite: bool) -> Tensor:
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


def _levels(schedule: NoiseSchedule, grid: list[int]) -> list[Level]:
    now = [schedule.alpha_bars[t] for t in grid]
    return [Level(*values) for values in zip(grid, now, [*now[1:], 1.0], [None, *now[:-1]], strict=True)]


def _draw(noise: NoiseFn, x: Tensor) -> Tensor:
    draw = noise(x)
    if draw.shape != x.shape:
        raise ArgumentError(
            f"noise must return the shape it is given {tuple(x.shape)}, got {tuple(draw.shape)}"
        )
    return draw
