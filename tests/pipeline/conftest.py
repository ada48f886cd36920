"""A tiny network with random weights, for tests of everything around the networks."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.models import DenoiserConfig, DiffSR, EncoderConfig, ModelConfig, build_model
from sam_diffsr.pipeline import ResolverConfig, SamplingConfig, SuperResolver


@pytest.fixture
def config() -> ResolverConfig:
    model = ModelConfig(
        encoder=EncoderConfig(blocks=2, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=8, multipliers=(1, 2)),
    )
    return ResolverConfig(model=model, sampling=SamplingConfig(sampler="ddpm", steps=2))


@pytest.fixture
def model(config: ResolverConfig) -> DiffSR:
    torch.manual_seed(0)
    return build_model(config.model).eval()


@pytest.fixture
def resolver(model: DiffSR, config: ResolverConfig) -> SuperResolver:
    return SuperResolver(model, config, device="cpu", name="tiny")
