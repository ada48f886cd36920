"""The closed-form process: its conversions undo each other; the residual goes there and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor

from sam_diffsr.diffusion import (
    NoiseSchedule,
    ScheduleConfig,
    ScheduleName,
    image_to_residual,
    predict_eps,
    predict_x0,
    q_posterior,
    q_sample,
    residual_to_image,
)
from sam_diffsr.errors import ArgumentError

SCHEDULE = NoiseSchedule.from_config(ScheduleConfig(), dtype=torch.float64)
T = torch.tensor([0, 40, 99])


def images(*, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(3, 3, 5, 4, generator=generator, dtype=torch.float64) * 2 - 1


LEVELS = list(pairwise((1.0, *SCHEDULE.alpha_bars)))
"""Every alpha_bar after the one of the step below it."""


def test_estimates_of_x0_and_noise_undo_the_sampling() -> None:
    x0, noise = images(seed=1), images(seed=2)
    xt = q_sample(x0, T, noise, SCHEDULE)
    for index, t in enumerate(T.tolist()):
        row, alpha_bar = slice(index, index + 1), SCHEDULE.alpha_bars[t]
        torch.testing.assert_close(predict_x0(xt[row], noise[row], alpha_bar), x0[row], rtol=0, atol=1e-12)
        torch.testing.assert_close(predict_eps(xt[row], x0[row], alpha_bar), noise[row], rtol=0, atol=1e-12)


def test_posterior_is_the_product_of_its_two_gaussians() -> None:
    x0, xt = images(seed=1), images(seed=2)
    for before, now in (LEVELS[40], LEVELS[99], (SCHEDULE.alpha_bars[20], SCHEDULE.alpha_bars[60])):
        mean, variance = q_posterior(x0, xt, now, before)
        alpha = now / before
        weight = (1 - before) / (alpha * (1 - before) + 1 - alpha)  # of the observation x_t against the prior
        prior = math.sqrt(before) * x0
        torch.testing.assert_close(mean, prior + weight * math.sqrt(alpha) * (xt - math.sqrt(alpha) * prior))
        assert variance == pytest.approx((1 - before) * (1 - alpha) / (alpha * (1 - before) + 1 - alpha))


def test_posterior_of_the_first_timestep_is_the_clean_residual() -> None:
    mean, variance = q_posterior(images(seed=1), images(seed=2), SCHEDULE.alpha_bars[0], 1.0)
    torch.testing.assert_close(mean, images(seed=1))
    assert variance == 0


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_posterior_keeps_the_signal_and_the_variance_on_their_course(name: ScheduleName) -> None:
    one, nothing = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    schedule = NoiseSchedule.from_config(ScheduleConfig(name=name), dtype=torch.float64)
    for before, now in pairwise((1.0, *schedule.alpha_bars)):
        mean, variance = q_posterior(one, math.sqrt(now) * one, now, before)
        weight, _ = q_posterior(nothing, one, now, before)
        assert float(mean) == pytest.approx(math.sqrt(before), abs=1e-12)
        assert float(weight) ** 2 * (1 - now) + variance == pytest.approx(1 - before, abs=1e-12)


def test_float32_and_half_inputs_keep_float32() -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig())
    for dtype in (torch.float32, torch.bfloat16):
        x0 = images(seed=1).to(dtype)
        assert q_sample(x0, T, x0, schedule).dtype == torch.float32


def test_residual_goes_there_and_back() -> None:
    lr_up = images(seed=1) * 1.2  # bicubic overshoots
    hr = lr_up + images(seed=2) * 0.499
    residual = image_to_residual(hr, lr_up, residual_scale=2.0)
    assert residual.abs().max() <= 1
    torch.testing.assert_close(residual_to_image(residual, lr_up, residual_scale=2.0), hr)


def test_residual_is_clipped_both_ways() -> None:
    lr_up = torch.zeros(1, 1, 1, 2)
    hr = torch.tensor([[[[0.75, -0.75]]]])
    assert image_to_residual(hr, lr_up, residual_scale=2.0).flatten().tolist() == [1, -1]
    back = residual_to_image(torch.tensor([[[[3.0, -3.0]]]]), lr_up, residual_scale=2.0)
    assert back.flatten().tolist() == [0.5, -0.5]


def test_sampling_refuses_what_does_not_fit() -> None:
    x = images(seed=1)
    with pytest.raises(ArgumentError, match=r"x0 \(3, 3, 5, 4\), noise \(3, 3, 5, 3\)"):
        q_sample(x, T, x[..., :3], SCHEDULE)
    with pytest.raises(ArgumentError, match=r"must be \(B, C, H, W\) and t \(B,\)"):
        q_sample(x, T[:2], x, SCHEDULE)
    with pytest.raises(ArgumentError, match=r"got \(3, 5, 4\) and \(3,\)"):
        q_sample(x[:, 0], T, x[:, 0], SCHEDULE)
    with pytest.raises(ArgumentError, match="t must be int64"):
        q_sample(x, T.float(), x, SCHEDULE)


def test_conversions_refuse_other_shapes() -> None:
    x = images(seed=1)
    for convert in (predict_x0, predict_eps):
        with pytest.raises(ArgumentError, match=r"must have the same shape, got xt .*, \w+ \(2, 3, 5, 4\)"):
            convert(x, x[:2], 0.5)
    with pytest.raises(ArgumentError, match="x0 and xt must have the same shape"):
        q_posterior(x, x[:2], 0.5, 0.6)


@pytest.mark.parametrize("function", [image_to_residual, residual_to_image])
def test_residual_refuses_what_does_not_fit(function: Callable[..., Tensor]) -> None:
    x = images(seed=1)
    with pytest.raises(ArgumentError, match="and lr_up must have the same shape"):
        function(x, x[..., 1:, :], residual_scale=2.0)
    for bad in (0.0, -2.0, float("nan")):
        with pytest.raises(ArgumentError, match=f"residual_scale must be > 0, got {bad}"):
            function(x, x, residual_scale=bad)
