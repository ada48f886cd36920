"""Samplers: identities in float64, then the contract they share. The denoisers are plain formulas."""

from __future__ import annotations

import inspect
import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sam_diffsr.diffusion import (
    SAMPLERS,
    Denoiser,
    NoiseSchedule,
    PositionNoise,
    SamplerName,
    ScheduleConfig,
    ScheduleName,
    predict_eps,
    q_sample,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    time_grid,
)
from sam_diffsr.errors import ArgumentError

NAMES = get_args(SamplerName)
SCHEDULE = NoiseSchedule.from_config(ScheduleConfig())
EXACT = NoiseSchedule.from_config(ScheduleConfig(), dtype=torch.float64)
SHAPE = (2, 3, 4, 5)


def wavy(xt: Tensor, t: Tensor) -> Tensor:
    """A stand-in for a network: bounded, different at every pixel and timestep."""
    return (3 * xt).sin() * 0.3 + xt * (t / 100).view(-1, 1, 1, 1).to(xt.dtype)


def noises(seed: int = 0) -> PositionNoise:
    return PositionNoise([seed, seed + 1])


def gauss(seed: int = 100) -> Tensor:
    return noises(seed)(torch.empty(SHAPE, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 100])
@pytest.mark.parametrize("schedule_name", ["cosine", "linear", "const", "jsd"])
@pytest.mark.parametrize("sampler", [sample_ddim, sample_dpmpp_2m])
def test_deterministic_samplers_return_x0_when_the_noise_is_known(
    sampler: Any, schedule_name: ScheduleName, steps: int
) -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig(name=schedule_name), dtype=torch.float64)
    x0, eps = torch.rand(SHAPE, dtype=torch.float64) * 1.8 - 0.9, gauss()
    x_T = q_sample(x0, torch.tensor([99, 99]), eps, schedule)
    result = sampler(lambda xt, t: eps, x_T, schedule, steps=steps, noise=noises())
    torch.testing.assert_close(result, x0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 3, 7, 100])
def test_ddim_with_eta_one_is_ddpm(steps: int, spacing: Any) -> None:
    ancestral = sample_ddpm(wavy, gauss(), EXACT, steps=steps, spacing=spacing, noise=noises())
    implicit = sample_ddim(wavy, gauss(), EXACT, steps=steps, spacing=spacing, noise=noises(), eta=1.0)
    torch.testing.assert_close(implicit, ancestral, rtol=0, atol=1e-12)


def test_ddpm_with_all_steps_is_the_published_loop() -> None:
    noise, x = noises(), gauss()
    alphas, betas, alpha_bars = EXACT.alphas.tolist(), EXACT.betas.tolist(), EXACT.alpha_bars
    for t in range(99, -1, -1):
        eps = wavy(x, torch.tensor([t, t]))
        x0 = ((x - math.sqrt(1 - alpha_bars[t]) * eps) / math.sqrt(alpha_bars[t])).clamp(-1, 1)
        before = alpha_bars[t - 1] if t else 1.0
        x = (
            betas[t] * math.sqrt(before) / (1 - alpha_bars[t]) * x0
            + (1 - before) * math.sqrt(alphas[t]) / (1 - alpha_bars[t]) * x
        )
        if t:
            x = x + math.sqrt(betas[t] * (1 - before) / (1 - alpha_bars[t])) * noise(x)
    result = sample_ddpm(wavy, gauss(), EXACT, steps=100, noise=noises())
    torch.testing.assert_close(result, x, rtol=0, atol=1e-12)


def test_strided_ddpm_has_the_posterior_between_the_visited_levels() -> None:
    x0 = torch.full((1, 1, 200, 200), 0.3, dtype=torch.float64)
    schedule, x_T = EXACT, torch.full_like(x0, -0.8)
    seen: list[Tensor] = []

    def oracle(xt: Tensor, t: Tensor) -> Tensor:
        seen.append(xt)
        return predict_eps(xt, x0.to(xt), schedule.alpha_bars[int(t[0])])

    sample_ddpm(oracle, x_T, schedule, steps=3, start=60, noise=PositionNoise([0]))
    later, earlier = (schedule.alpha_bars[t] for t in (60, 30))
    alpha, v = later / earlier, 1 - earlier
    gain = v * math.sqrt(alpha) / (alpha * v + 1 - alpha)
    prior = math.sqrt(earlier) * 0.3
    mean = prior + gain * (-0.8 - math.sqrt(alpha) * prior)
    assert float(seen[1].mean()) == pytest.approx(mean, abs=0.02)
    assert float(seen[1].var()) == pytest.approx(v * (1 - alpha) / (alpha * v + 1 - alpha), rel=0.05)


def test_dpmpp_2m_follows_the_exact_path_more_closely_than_ddim() -> None:
    # For Gaussian data of deviation s the probability flow scales x by the ratio of marginal deviations.
    s, schedule, x_T = 0.3, EXACT, gauss()

    def posterior_eps(xt: Tensor, t: Tensor) -> Tensor:
        alpha_bar = schedule.at(schedule.alphas_cumprod, t)
        return (1 - alpha_bar).sqrt() * xt / (alpha_bar * s**2 + 1 - alpha_bar)

    first = schedule.alpha_bars[90]
    exact = x_T * s / math.sqrt(first * s**2 + 1 - first)

    def error(sampler: Any, steps: int) -> float:
        options = {"start": 90, "clip": math.inf, "noise": noises(), "spacing": "trailing"}
        return float((sampler(posterior_eps, x_T, schedule, steps=steps, **options) - exact).abs().max())

    for steps in (16, 32):
        assert error(sample_dpmpp_2m, steps) < 0.5 * error(sample_ddim, steps)
    assert error(sample_dpmpp_2m, 32) < 0.35 * error(sample_dpmpp_2m, 16)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 100])
def test_results_are_finite_and_clipped_even_for_a_useless_network(name: SamplerName, steps: int) -> None:
    for scale in (0.0, 1.0, 100.0):
        denoise: Denoiser = lambda xt, t, scale=scale: scale * wavy(xt, t)  # noqa: E731
        result = SAMPLERS[name](denoise, gauss().float(), SCHEDULE, steps=steps, noise=noises(), clip=0.5)
        assert result.dtype == torch.float32
        assert result.isfinite().all()
        assert result.abs().max() <= 0.5


def test_every_name_has_a_sampler_with_the_common_signature() -> None:
    assert tuple(SAMPLERS) == NAMES
    common = inspect.signature(sample_ddpm).parameters
    for sampler in SAMPLERS.values():
        own = inspect.signature(sampler).parameters
        assert {key: own[key] for key in common} == dict(common)


@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_sees_the_grid(name: SamplerName) -> None:
    seen: list[Tensor] = []

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return wavy(xt, t)

    sampler = SAMPLERS[name]
    cases: list[tuple[int, Any]] = [
        (4, {}),
        (3, {"start": 57}),
        (3, {"spacing": "trailing"}),
        (1, {"start": 0}),
    ]
    for steps, options in cases:
        seen.clear()
        sampler(denoise, gauss(), SCHEDULE, steps=steps, noise=noises(), **options)
        assert [t.tolist() for t in seen] == [[t, t] for t in time_grid(100, steps, **options)]
        assert all(t.dtype == torch.int64 for t in seen)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [("ddpm", {}, 5), ("ddim", {}, 0), ("ddim", {"eta": 0.5}, 5), ("dpmpp_2m", {}, 0)],
)
def test_noise_is_drawn_between_steps_or_never(name: SamplerName, options: Any, expected: int) -> None:
    calls: list[Tensor] = []

    def noise(like: Tensor) -> Tensor:
        calls.append(like)
        return torch.zeros_like(like)

    sampler: Any = SAMPLERS[name]
    x_T = gauss()
    sampler(wavy, x_T, SCHEDULE, steps=6, noise=noise, **options)
    assert len(calls) == expected


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_not_changed_and_a_seed_repeats_bit_for_bit(name: SamplerName) -> None:
    x_T = gauss().float()
    before, state = x_T.clone(), torch.get_rng_state()
    first, second = (SAMPLERS[name](wavy, x_T, SCHEDULE, steps=5, noise=noises()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x_T, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_single_images(name: SamplerName) -> None:
    x_T = gauss()
    batch = SAMPLERS[name](wavy, x_T, SCHEDULE, steps=5, noise=PositionNoise([7, 8]))
    for index, seed in enumerate((7, 8)):
        single = SAMPLERS[name](wavy, x_T[index : index + 1], SCHEDULE, steps=5, noise=PositionNoise([seed]))
        torch.testing.assert_close(single, batch[index : index + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_in_half_precision_leaves_the_state_in_float32(name: SamplerName) -> None:
    result = SAMPLERS[name](
        lambda xt, t: wavy(xt, t).bfloat16(), gauss().float(), SCHEDULE, steps=5, noise=noises()
    )
    assert result.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_the_callback_hears_of_every_step(name: SamplerName) -> None:
    heard: list[tuple[int, int, Tensor]] = []
    result = SAMPLERS[name](
        wavy, gauss(), SCHEDULE, steps=3, noise=noises(), callback=lambda *news: heard.append(news)
    )
    assert [(step, total) for step, total, _ in heard] == [(1, 3), (2, 3), (3, 3)]
    assert all(x0.abs().max() <= 1 for _, _, x0 in heard)
    assert torch.equal(heard[-1][2], result)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_callback_raises_ends_the_sampling(name: SamplerName) -> None:
    calls: list[int] = []

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        calls.append(1)
        return wavy(xt, t)

    def stop(step: int, total: int, x0: Tensor) -> None:
        if step == 2:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        SAMPLERS[name](denoise, gauss(), SCHEDULE, steps=9, noise=noises(), callback=stop)
    assert len(calls) == 2


class NoReadback(TorchDispatchMode):
    """Fails where a tensor's value is read by the host, or a float64 tensor is made (MPS has none)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(func), "the host waits for the device"
        result = func(*args, **(kwargs or {}))
        assert not (isinstance(result, Tensor) and result.dtype == torch.float64), f"{func} made float64"
        return result


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_reads_nothing_back(name: SamplerName) -> None:
    x_T, noise = gauss().float(), torch.zeros(SHAPE)
    schedule = NoiseSchedule.from_config(ScheduleConfig())
    with NoReadback():
        SAMPLERS[name](wavy, x_T, schedule, steps=4, noise=lambda like: noise)
    with pytest.raises(AssertionError, match="the host waits"), NoReadback():
        float(x_T.sum())


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_loop_never_waits_for_a_gpu(name: SamplerName) -> None:
    x_T, noise = gauss().float().cuda(), noises()
    noise(x_T)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        SAMPLERS[name](wavy, x_T, SCHEDULE, steps=4, noise=noise)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_refused_before_the_network_runs(name: SamplerName) -> None:
    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        pytest.fail("the network ran")

    def sample(x_T: Tensor | None = None, **options: Any) -> Tensor:
        sampler: Any = SAMPLERS[name]
        arguments = {"steps": 4, "noise": noises(), **options}
        return sampler(denoise, gauss() if x_T is None else x_T, SCHEDULE, **arguments)

    with pytest.raises(ArgumentError, match=r"steps must be in 1..100"):
        sample(steps=101)
    with pytest.raises(ArgumentError, match=r"start must be a timestep in 0..99, got 100"):
        sample(start=100)
    with pytest.raises(ArgumentError, match=r"spacing must be one of"):
        sample(spacing="even")
    for clip in (0.0, -1.0, math.nan):
        with pytest.raises(ArgumentError, match=r"clip must be > 0 \(math.inf for none\), got"):
            sample(clip=clip)
    with pytest.raises(
        ArgumentError, match=r"x_T must be \(B, C, H, W\) floats, got \(3, 4, 5\) of torch.float64"
    ):
        sample(gauss()[0])
    with pytest.raises(ArgumentError, match=r"floats, got .* of torch.int64"):
        sample(gauss().long())


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_ddim_refuses_another_eta(eta: float) -> None:
    with pytest.raises(ArgumentError, match=r"eta must be in \[0, 1\], got"):
        sample_ddim(wavy, gauss(), SCHEDULE, steps=4, noise=noises(), eta=eta)


def test_results_of_another_shape_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"same shape, got xt \(2, 3, 4, 5\), eps \(2, 3, 4, 4\)"):
        sample_ddpm(lambda xt, t: xt[..., 1:], gauss(), SCHEDULE, steps=4, noise=noises())

    with pytest.raises(ArgumentError, match=r"noise must return the shape it is given .*got \(1, 3, 4, 5\)"):
        sample_ddpm(wavy, gauss(), SCHEDULE, steps=4, noise=lambda like: like[:1])
