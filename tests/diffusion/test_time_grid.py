"""Which timesteps are visited."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args

import pytest

from sam_diffsr.diffusion import Spacing, time_grid
from sam_diffsr.errors import ArgumentError


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("start", [0, 1, 6, 57, 99])
def test_every_grid_descends_from_start_without_repeats(spacing: Spacing, start: int) -> None:
    for steps in range(1, start + 2):
        grid = time_grid(100, steps, start=start, spacing=spacing)
        assert len(grid) == steps
        assert grid[0] == start
        assert all(earlier > later >= 0 for earlier, later in pairwise(grid))
        gaps = [earlier - later for earlier, later in pairwise(grid)]
        assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("spacing", get_args(Spacing))
def test_all_steps_visit_every_timestep(spacing: Spacing) -> None:
    assert time_grid(100, 100, spacing=spacing) == list(range(99, -1, -1))


def test_spacings_differ_in_where_they_end() -> None:
    assert time_grid(100, 4) == [99, 66, 33, 0]
    assert time_grid(100, 4, spacing="trailing") == [99, 74, 49, 24]
    assert time_grid(100, 1) == time_grid(100, 1, spacing="trailing") == [99]


def test_bad_arguments_are_refused() -> None:
    spacing: Any = "leading"
    with pytest.raises(ArgumentError, match="spacing must be one of linspace, trailing; got 'leading'"):
        time_grid(100, 4, spacing=spacing)
    with pytest.raises(ArgumentError, match="timesteps must be >= 1, got 0"):
        time_grid(0, 1)
    for start in (-1, 100):
        with pytest.raises(ArgumentError, match=rf"start must be a timestep in 0..99, got {start}"):
            time_grid(100, 4, start=start)
    for steps in (0, -3, 101):
        with pytest.raises(ArgumentError, match=rf"steps must be in 1..100 .* timestep 99, got {steps}"):
            time_grid(100, steps)
    with pytest.raises(
        ArgumentError, match=r"steps must be in 1..6 when sampling starts at timestep 5, got 7"
    ):
        time_grid(100, 7, start=5)
