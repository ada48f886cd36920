"""A tiny model with random weights, and tiny released networks beside it."""

from __future__ import annotations

import pytest
import torch

import sam_diffsr.bench.upscaling as upscaling
from sam_diffsr.diffusion import ScheduleConfig
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model
from sam_diffsr.pipeline import ResolverConfig, SamplingConfig, SuperResolver

TINY = ModelConfig(
    encoder=EncoderConfig(blocks=2, channels=8, growth=4), denoiser=DenoiserConfig(dim=8, multipliers=(1, 2))
)


@pytest.fixture
def resolver() -> SuperResolver:
    config = ResolverConfig(
        model=TINY, schedule=ScheduleConfig(timesteps=10), sampling=SamplingConfig(sampler="ddim", steps=2)
    )
    torch.manual_seed(0)
    return SuperResolver(build_model(TINY), config, device="cpu")


@pytest.fixture
def small_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put tiny networks in the place of the released architecture, and a small matrix product."""
    monkeypatch.setattr(upscaling, "ModelConfig", lambda: TINY)
    monkeypatch.setitem(upscaling._MATRIX_SIDE, "cpu", 64)
