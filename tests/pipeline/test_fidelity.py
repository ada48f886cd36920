"""One knob from the faithful answer to full texture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.fidelity import TIMESTEPS_PER_STEP, sampling_of_fidelity
from sam_diffsr.pipeline.prepare import resolve_sampling

CONFIG = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=1, start=6))


def test_the_ends_are_one_step_from_the_image_and_the_whole_way_from_noise():
    assert sampling_of_fidelity(1, timesteps=100) == SamplingConfig(sampler="ddpm", steps=1, start=0)
    noise = sampling_of_fidelity(0, timesteps=100)
    assert noise == SamplingConfig(sampler="ddpm", steps=100 // TIMESTEPS_PER_STEP, start=None)


@pytest.mark.parametrize("timesteps", [1, 2, 20, 100, 1000])
def test_less_fidelity_never_starts_later_nor_takes_fewer_steps(timesteps):
    settings = [sampling_of_fidelity(float(value), timesteps=timesteps) for value in np.linspace(1, 0, 41)]
    starts = [timesteps - 1 if setting.start is None else setting.start for setting in settings]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert starts[-1] == timesteps - 1
    steps = [setting.steps for setting in settings]
    assert steps == sorted(steps)
    for setting in settings:  # every one is valid for a model of this schedule
        first = timesteps - 1 if setting.start is None else setting.start
        assert 1 <= setting.steps <= first + 1


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "high", True, None])
def test_anything_but_a_number_from_0_to_1_is_refused(value):
    with pytest.raises(ArgumentError, match="fidelity must be a number from 0"):
        sampling_of_fidelity(value, timesteps=100)


def test_steps_and_sampler_that_are_given_go_before_those_of_the_fidelity():
    chosen = resolve_sampling(CONFIG, sampler="dpmpp_2m", steps=7, start=None, fidelity=0.5)
    assert chosen == SamplingConfig(sampler="dpmpp_2m", steps=7, start=50)
    assert resolve_sampling(CONFIG, sampler=None, steps=None, start=None) == CONFIG.sampling


def test_a_start_beside_a_fidelity_is_refused():
    with pytest.raises(ArgumentError, match="give one"):
        resolve_sampling(CONFIG, sampler=None, steps=None, start=3, fidelity=0.5)


def test_upscale_does_what_the_sampling_of_the_fidelity_does(resolver):
    lr = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    setting = sampling_of_fidelity(0.7, timesteps=resolver.config.schedule.timesteps)
    named = resolver.upscale_tensor(lr, seeds=[3], fidelity=0.7)
    spelt = resolver.upscale_tensor(
        lr, seeds=[3], sampler=setting.sampler, steps=setting.steps, start=setting.start
    )
    assert torch.equal(named, spelt)
    assert not torch.equal(named, resolver.upscale_tensor(lr, seeds=[3], fidelity=0.2))
    array = (lr[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert resolver.upscale(array, fidelity=0.0).shape == (36, 48, 3)
