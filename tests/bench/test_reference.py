"""The plainly written procedure: against published numbers, and against the fast path as an oracle."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sam_diffsr.bench.reference import ReferenceProcedure
from sam_diffsr.diffusion import NoiseSchedule, ScheduleConfig, residual_to_image
from sam_diffsr.diffusion.samplers import sample_ddpm
from sam_diffsr.models import (
    DenoiserConfig,
    EncoderConfig,
    ModelConfig,
    build_model,
    load_reference_checkpoint,
)


@torch.no_grad()
def reference_sample(
    procedure: ReferenceProcedure,
    lr: Tensor,
    lr_up: Tensor,
    *,
    betas: Tensor,
    x_T: Tensor,
    noise: Callable[[Tensor], Tensor],
    residual_scale: float = 2.0,
) -> Tensor:
    """Super-resolve by the published reverse process (ancestral, every step, whole image).

    Args:
        procedure: networks and weights.
        lr: ``(B, 3, h, w)`` float32 in [0, 1]; sides as in ``DiffSR.encode``.
        lr_up: ``(B, 3, s*h, s*w)`` float32 bicubic image in [-1, 1], to which the residual is added.
        betas: ``(T,)`` noise variances of the forward process.
        x_T: ``(B, 3, s*h, s*w)`` float32 start of the reverse process.
        noise: returns standard normal noise of its argument's shape; called once per step, first for t = T-1.
        residual_scale: factor of the residual in training.

    Returns:
        ``(B, 3, s*h, s*w)`` float32, nominally in [0, 1] but not clamped.
    """
    table = betas.double().cpu()
    alpha_bar = torch.cumprod(1.0 - table, dim=0)
    alpha_bar_before = torch.cat((torch.ones(1, dtype=torch.float64), alpha_bar[:-1]))
    features = procedure.features(lr)
    procedure.encoder_image(features)  # the published forward pass makes it, needed or not
    x = x_T
    for step in range(len(table) - 1, -1, -1):
        beta, now, before = (float(values[step]) for values in (table, alpha_bar, alpha_bar_before))
        t = torch.full((len(x),), step, dtype=torch.int64, device=x.device)
        eps = procedure.step(x, t, features)
        x0 = (math.sqrt(1.0 / now) * x - math.sqrt(1.0 / now - 1.0) * eps).clamp(-1.0, 1.0)
        variance = beta * (1.0 - before) / (1.0 - now)
        mean = (beta * math.sqrt(before) * x0 + (1.0 - before) * math.sqrt(1.0 - beta) * x) / (1.0 - now)
        drawn = noise(x)
        x = mean + math.sqrt(max(variance, 1e-20)) * drawn if step else mean
    sr = x.clamp(-1.0, 1.0) / residual_scale + lr_up
    return (sr + 1.0) / 2.0


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_networks_equal_the_fast_ones(scale) -> None:
    config = ModelConfig(
        scale=scale,
        encoder=EncoderConfig(blocks=6, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=8, multipliers=(1, 2, 3)),
    )
    model = build_model(config).eval()
    procedure = ReferenceProcedure(config, model.state_dict())
    lr = torch.rand(2, 3, 8, 12)
    xt = torch.randn(2, 3, 8 * scale, 12 * scale)
    t = torch.tensor([3, 77])
    with torch.no_grad():
        condition = model.encode(lr)
        features = procedure.features(lr)
        assert torch.allclose(procedure.step(xt, t, features), model(xt, t, condition), atol=1e-5)
        assert torch.allclose(procedure.encoder_image(features), model.encoder_image(condition), atol=1e-5)


def test_whole_loop_equals_the_fast_one() -> None:
    config = ModelConfig(
        encoder=EncoderConfig(blocks=3, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=8, multipliers=(1, 2)),
    )
    model = build_model(config).eval()
    schedule = NoiseSchedule.from_config(ScheduleConfig(timesteps=10))
    lr = torch.rand(1, 3, 6, 8)
    lr_up, x_T = torch.rand(1, 3, 24, 32) * 2 - 1, torch.randn(1, 3, 24, 32)
    draws = torch.randn(10, 1, 3, 24, 32)
    once, again = iter(draws), iter(draws)
    plain = reference_sample(
        ReferenceProcedure(config, model.state_dict()),
        lr,
        lr_up,
        betas=schedule.betas,
        x_T=x_T,
        noise=lambda like: next(once),
    )
    with torch.no_grad():
        condition = model.encode(lr)
        x0 = sample_ddpm(
            lambda xt, t: model(xt, t, condition), x_T, schedule, steps=10, noise=lambda like: next(again)
        )
        fast = (residual_to_image(x0, lr_up, residual_scale=2.0) + 1) / 2
    assert torch.allclose(plain, fast, atol=1e-4)


def test_published_numbers(golden_dir: Path) -> None:
    golden = load_file(golden_dir / "reference_tiny.safetensors")
    config, weights = load_reference_checkpoint(golden_dir / "reference_tiny.ckpt")
    procedure = ReferenceProcedure(config, weights)
    lr = (golden["lr"] + 1) / 2
    features = procedure.features(lr)
    assert torch.allclose(features[2], golden["rrdb_feature_2"], atol=1e-5)
    eps = procedure.step(golden["unet_x"], golden["unet_t"], features)
    assert torch.allclose(eps, golden["unet_noise_pred"], atol=1e-5)
    draws = iter(golden["sample_step_noise"])
    sr = reference_sample(
        procedure,
        lr,
        golden["lr_up"],
        betas=NoiseSchedule.from_config(ScheduleConfig(timesteps=20)).betas,
        x_T=golden["sample_x_T"],
        noise=lambda like: next(draws)[None],
    )
    assert torch.allclose(sr * 2 - 1, golden["sample_sr"], atol=1e-4)
