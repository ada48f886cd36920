"""The closed-form process: its conversions undo each other; the residual goes there and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sam_diffsr.diffusion import (
    NoiseSchedule,
    ScheduleConfig,
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


def test_estimates_of_x0_and_noise_undo_the_sampling() -> None:
    x0, noise = images(seed=1), images(seed=2)
    xt = q_sample(x0, T, noise, SCHEDULE)
    torch.testing.assert_close(predict_x0(xt, T, noise, SCHEDULE), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(predict_eps(xt, T, x0, SCHEDULE), noise, rtol=0, atol=1e-12)


def test_posterior_is_the_product_of_its_two_gaussians() -> None:
    x0, xt = images(seed=1), images(seed=2)
    mean, log_variance = q_posterior(x0, xt, T, SCHEDULE)
    alpha, beta = SCHEDULE.at(SCHEDULE.alphas, T), SCHEDULE.at(SCHEDULE.betas, T)
    before = SCHEDULE.at(SCHEDULE.alphas_cumprod_prev, T)
    weight = (1 - before) / (alpha * (1 - before) + beta)  # of the observation x_t against the prior
    prior = before.sqrt() * x0
    torch.testing.assert_close(mean, prior + weight * alpha.sqrt() * (xt - alpha.sqrt() * prior))
    assert log_variance.shape == (3, 1, 1, 1)
    torch.testing.assert_close(
        log_variance[1:].exp(), ((1 - before) * beta / (alpha * (1 - before) + beta))[1:]
    )
    assert log_variance[0].exp() == pytest.approx(1e-20)
    torch.testing.assert_close(mean[0], x0[0])


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


@pytest.mark.parametrize("function", [q_sample, predict_x0, predict_eps])
def test_conversions_refuse_what_does_not_fit(function: Callable[..., Tensor]) -> None:
    x = images(seed=1)
    with pytest.raises(
        ArgumentError, match=r"must have the same shape, got \w+ \(3, 3, 5, 4\), \w+ \(3, 3, 5, 3\)"
    ):
        function(x, T, x[..., :3], SCHEDULE)
    with pytest.raises(ArgumentError, match=r"must be \(B, C, H, W\) and t \(B,\)"):
        function(x, T[:2], x, SCHEDULE)
    with pytest.raises(ArgumentError, match=r"got \(3, 5, 4\) and \(3,\)"):
        function(x[:, 0], T, x[:, 0], SCHEDULE)
    with pytest.raises(ArgumentError, match="t must be int64"):
        function(x, T.float(), x, SCHEDULE)


def test_posterior_refuses_what_does_not_fit() -> None:
    x = images(seed=1)
    with pytest.raises(ArgumentError, match="x0 and xt must have the same shape"):
        q_posterior(x, x[:2], T, SCHEDULE)


@pytest.mark.parametrize("function", [image_to_residual, residual_to_image])
def test_residual_refuses_what_does_not_fit(function: Callable[..., Tensor]) -> None:
    x = images(seed=1)
    with pytest.raises(ArgumentError, match="and lr_up must have the same shape"):
        function(x, x[..., 1:, :], residual_scale=2.0)
    for bad in (0.0, -2.0, float("nan")):
        with pytest.raises(ArgumentError, match=f"residual_scale must be > 0, got {bad}"):
            function(x, x, residual_scale=bad)
