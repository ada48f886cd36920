"""The samplers against diffusers' schedulers, step for step: code that shares nothing with ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sam_diffsr.diffusion import (
    NoiseSchedule,
    ScheduleConfig,
    ScheduleName,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    time_grid,
)

pytest.importorskip("diffusers")

TOLERANCE = 1e-4  # diffusers keeps its tables in float32
SHAPE = (1, 3, 6, 5)
SCHEDULES = ["cosine", "linear", "warmup50"]


def schedule_and_options(name: ScheduleName) -> tuple[NoiseSchedule, dict[str, Any]]:
    schedule = NoiseSchedule.from_config(ScheduleConfig(name=name))
    return schedule, {"num_train_timesteps": 100, "trained_betas": schedule.betas.tolist()}


def denoise(xt: Tensor, t: Tensor) -> Tensor:
    """No weights: x0 estimates are clipped at noisy steps and not at others."""
    return xt * (t / (t + 1)).view(-1, 1, 1, 1) + 0.2 * (2 * xt).cos()


def draws(seed: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator)


def run(scheduler: Any, grid: list[int], x: Tensor, **options: Any) -> Tensor:
    assert [int(t) for t in scheduler.timesteps] == grid
    for t in grid:
        eps = denoise(x, torch.tensor([t]))
        x = scheduler.step(eps, t, x, **options).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 5, 23, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddpm(name: ScheduleName, steps: int) -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    schedule, options = schedule_and_options(name)
    grid = time_grid(100, steps)
    scheduler: Any = DDPMScheduler(**options, variance_type="fixed_small", clip_sample=True)
    scheduler.set_timesteps(timesteps=grid)
    x_T = torch.randn(SHAPE)
    expected = run(scheduler, grid, x_T, generator=torch.Generator().manual_seed(1))
    result = sample_ddpm(denoise, x_T, schedule, steps=steps, noise=draws(1))
    torch.testing.assert_close(result, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [4, 20, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim(name: ScheduleName, steps: int, eta: float) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    schedule, options = schedule_and_options(name)
    scheduler: Any = DDIMScheduler(**options, clip_sample=True, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)  # 0, T/steps, 2 T/steps, ...
    start = 100 - 100 // steps
    x_T = torch.randn(SHAPE)
    expected = run(
        scheduler,
        time_grid(100, steps, start=start),
        x_T,
        eta=eta,
        use_clipped_model_output=True,
        generator=torch.Generator().manual_seed(1),
    )
    result = sample_ddim(denoise, x_T, schedule, steps=steps, start=start, eta=eta, noise=draws(1))
    torch.testing.assert_close(result, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 8, 23, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_dpmpp_2m(name: ScheduleName, steps: int, spacing: Any) -> None:
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    schedule, options = schedule_and_options(name)
    grid = time_grid(100, steps, spacing=spacing)
    scheduler: Any = DPMSolverMultistepScheduler(
        **options,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        thresholding=True,  # with a largest value of 1 its dynamic threshold is a plain clip to +-1
        sample_max_value=1.0,
    )
    scheduler.set_timesteps(timesteps=grid)
    x_T = torch.randn(SHAPE)
    expected = run(scheduler, grid, x_T)
    result = sample_dpmpp_2m(denoise, x_T, schedule, steps=steps, spacing=spacing, noise=draws(1))
    torch.testing.assert_close(result, expected, rtol=0, atol=TOLERANCE)
