"""Which timesteps a sampler visits."""

from __future__ import annotations

from typing import Literal, get_args

from sam_diffsr.errors import ArgumentError

__all__ = ["Spacing", "time_grid"]

Spacing = Literal["linspace", "trailing"]


def time_grid(
    timesteps: int, steps: int, *, start: int | None = None, spacing: Spacing = "linspace"
) -> list[int]:
    """Choose the timesteps that a sampler visits, noisiest first, evenly apart.

    Args:
        timesteps: T of the schedule.
        steps: how many to visit, in 1..start+1.
        start: the first one, in 0..T-1; None is T-1.
        spacing: ``"linspace"`` ends at t = 0 (with one step there is only ``start``); ``"trailing"`` leaves
            equal gaps before, between and after, so that few steps are not spent where little is left to do.

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
