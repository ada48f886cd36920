"""Structural noise modulation against the paper's own equations, derived here another way."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from sam_diffsr.diffusion import (
    ModulationMode,
    NoiseSchedule,
    ScheduleConfig,
    modulate,
    predict_x0,
    q_posterior,
    q_sample,
)
from sam_diffsr.errors import ArgumentError

MODES = get_args(ModulationMode)
SCHEDULE = NoiseSchedule.from_config(ScheduleConfig(), dtype=torch.float64)
T = torch.tensor([1, 40, 99])


def batch() -> tuple[Tensor, Tensor, Tensor]:
    x0 = torch.rand(3, 3, 5, 4, dtype=torch.float64) * 2 - 1
    return x0, torch.randn_like(x0), torch.randn(3, 1, 5, 4, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_without_structure_every_mode_is_the_plain_process(mode: ModulationMode, dtype: torch.dtype) -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig(), dtype=dtype)
    x0, noise, structure = (tensor.to(dtype) for tensor in batch())
    xt, target = modulate(x0, T, noise, torch.zeros_like(structure), schedule, mode=mode)
    assert torch.equal(xt, q_sample(x0, T, noise, schedule))
    assert torch.equal(target, noise)


def test_mode_none_does_not_look_at_structure() -> None:
    x0, noise, structure = batch()
    for given in (structure, None):
        xt, target = modulate(x0, T, noise, given, SCHEDULE, mode="none")
        assert torch.equal(xt, q_sample(x0, T, noise, SCHEDULE))
        assert torch.equal(target, noise)


def test_released_mode_is_the_default_and_changes_the_noise_alone() -> None:
    x0, noise, structure = batch()
    xt, target = modulate(x0, T, noise, structure, SCHEDULE)
    weight = (1 - SCHEDULE.alphas_cumprod[T]).sqrt() * SCHEDULE.betas[T]
    torch.testing.assert_close(target, noise + weight.view(-1, 1, 1, 1) * structure)
    assert torch.equal(xt, q_sample(x0, T, target, SCHEDULE))


def test_paper_mode_has_the_mean_of_the_chain_of_single_steps() -> None:
    x0, noise, structure = batch()
    x = x0
    for t in range(SCHEDULE.timesteps):
        beta = SCHEDULE.betas[t]
        x = (1 - beta).sqrt() * x + beta.sqrt() * structure
        now = torch.full((3,), t)
        xt, _ = modulate(x0, now, torch.zeros_like(noise), structure, SCHEDULE, mode="paper")
        torch.testing.assert_close(xt, x, rtol=0, atol=1e-12)


def test_paper_mode_has_the_distribution_of_the_simulated_chain() -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig(timesteps=20), dtype=torch.float64)
    count, x0, structure = 40_000, 0.7, -0.4
    x = torch.full((count,), x0, dtype=torch.float64)
    for t in range(15):
        beta = schedule.betas[t]
        x = (1 - beta).sqrt() * x + beta.sqrt() * structure + beta.sqrt() * torch.randn_like(x)
    mean = schedule.alphas_cumprod[14].sqrt() * x0 + schedule.structure_shift[14] * structure
    variance = 1 - schedule.alphas_cumprod[14]
    assert float(x.mean()) == pytest.approx(float(mean), abs=5 * float((variance / count).sqrt()))
    assert float(x.var()) == pytest.approx(float(variance), rel=5 * (2 / count) ** 0.5)


def test_plain_ddpm_with_the_paper_target_is_the_structured_posterior() -> None:
    x0, noise, structure = batch()
    xt, target = modulate(x0, T, noise, structure, SCHEDULE, mode="paper")
    rows: list[torch.Tensor] = []
    for now, eps, t in zip(xt.split(1), target.split(1), T.tolist(), strict=True):
        level, following = SCHEDULE.alpha_bars[t], SCHEDULE.alpha_bars[t - 1]
        rows.append(q_posterior(predict_x0(now, eps, level), now, level, following)[0])
    plain = torch.cat(rows)

    alpha, beta = SCHEDULE.at(SCHEDULE.alphas, T), SCHEDULE.at(SCHEDULE.betas, T)
    alpha_bar = SCHEDULE.at(SCHEDULE.alphas_cumprod, T)
    remaining = (1 - alpha_bar).sqrt()
    published = (xt - beta / remaining * (remaining / beta.sqrt() * structure + noise)) / alpha.sqrt()
    torch.testing.assert_close(plain, published, rtol=1e-10, atol=1e-10)

    # Bayes: prior of x_{t-1} given x0 and E is N(m, v), and x_t = sqrt(alpha) x_{t-1} + sqrt(beta) (E + e).
    before = SCHEDULE.at(SCHEDULE.alphas_cumprod, T - 1)
    m = before.sqrt() * x0 + SCHEDULE.at(SCHEDULE.structure_shift, T - 1) * structure
    v = 1 - before
    gain = v * alpha.sqrt() / (alpha * v + beta)
    bayes = m + gain * (xt - beta.sqrt() * structure - alpha.sqrt() * m)
    torch.testing.assert_close(plain, bayes, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_no_argument_is_changed(mode: ModulationMode) -> None:
    arguments = (*batch(), T.clone())
    before = [tensor.clone() for tensor in arguments]
    x0, noise, structure, t = arguments
    xt, target = modulate(x0, t, noise, structure, SCHEDULE, mode=mode)
    xt.add_(1)
    assert all(torch.equal(now, then) for now, then in zip(arguments, before, strict=True))
    assert mode == "none" or target.data_ptr() != noise.data_ptr()


def test_bad_arguments_are_refused() -> None:
    x0, noise, structure = batch()
    mode: Any = "published"
    with pytest.raises(ArgumentError, match="mode must be one of paper, released, none; got 'published'"):
        modulate(x0, T, noise, structure, SCHEDULE, mode=mode)
    with pytest.raises(ArgumentError, match="mode 'paper' needs a structure"):
        modulate(x0, T, noise, None, SCHEDULE, mode="paper")
    with pytest.raises(
        ArgumentError, match=r"structure must be \(B, 1, H, W\) = \(3, 1, 5, 4\).*got \(3, 5, 4\)"
    ):
        modulate(x0, T, noise, structure[:, 0], SCHEDULE)
    with pytest.raises(ArgumentError, match="x0 and noise must have the same shape"):
        modulate(x0, T, noise[:2], structure, SCHEDULE)
    with pytest.raises(ArgumentError, match=r"t \(B,\)"):
        modulate(x0, T[:1], noise, structure, SCHEDULE)
