"""Arguments of upscale resolved into settings: defaults, fidelity, and errors."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
import torch

from sam_diffsr.diffusion import ScheduleConfig
from sam_diffsr.errors import ArgumentError, ConfigError
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.settings import resolve_settings, sampling_of_fidelity

CONFIG = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=8, start=40, spacing="trailing"))


def sampling(**given):
    return resolve_settings(CONFIG, **given).sampling


def test_what_is_not_given_comes_from_the_model():
    assert sampling() == CONFIG.sampling
    assert sampling(sampler="ddpm", steps=np.int64(3)) == SamplingConfig(
        sampler="ddpm", steps=3, start=40, spacing="trailing"
    )
    assert sampling(start="noise").start is None
    assert sampling(start="noise", steps=100).steps == 100
    assert sampling(start=0).steps == 1
    assert sampling(start=5).steps == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampler": "euler"}, r"sampler must be one of ddpm, ddim, dpmpp_2m; got 'euler'"),
        ({"steps": -1}, r"steps must be a whole number from 0 .* to 41 .*, got -1"),
        ({"steps": 42}, r"steps must be a whole number from 0 .* to 41 .*, got 42"),
        ({"steps": 101, "start": "noise"}, r"steps must be a whole number from 0 .* to 100"),
        ({"steps": 2.0}, r"steps must be a whole number .*, got 2\.0"),
        ({"steps": True}, r"steps must be a whole number .*, got True"),
        ({"start": -1}, r"start must be 'noise' or a timestep from 0 to 99, got -1"),
        ({"start": 100}, r"start must be 'noise' or a timestep from 0 to 99, got 100"),
        ({"start": "image"}, r"start must be 'noise' or a timestep .* got 'image'"),
    ],
)
def test_sampling_out_of_range_is_named(given, message):
    with pytest.raises(ArgumentError, match=message):
        sampling(**given)


def test_lengths_are_in_input_pixels():
    settings = resolve_settings(CONFIG)
    assert (settings.tile, settings.halo) == (None, 16)  # 64 output pixels
    assert resolve_settings(dataclasses.replace(CONFIG, halo=97)).halo == 25
    settings = resolve_settings(CONFIG, tile=cast("Any", np.int64(32)), halo=0)
    assert (settings.tile, settings.halo) == (32, 0)
    assert resolve_settings(CONFIG, wrap=True, halo=10**6).margin == 16  # as far as the networks look
    assert resolve_settings(CONFIG, tile=0).tile == 0


def test_an_ensemble_has_eight_times_the_steps():
    assert resolve_settings(CONFIG).steps_per_tile == 8
    assert resolve_settings(CONFIG, ensemble=True).steps_per_tile == 64
    assert resolve_settings(CONFIG, ensemble=True, steps=0).steps_per_tile == 8


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("tile", [-1, 1.5, "big", True, None], r"tile must be 'auto', 0 \(no tiles\) or a side in pixels"),
        ("halo", [-1, 1.5, "auto", True], r"halo must be None or a number >= 0 of pixels of the input"),
        ("batch_size", [0, -1, 2.5, True, "4"], r"batch_size must be None or a whole number >= 1, got"),
        ("max_memory", [0, -1, 1.5, True, "2G"], r"max_memory must be None or a number of bytes >= 1"),
        ("ensemble", [1, "yes", None], r"ensemble must be True or False, got"),
    ],
)
def test_values_of_another_kind_are_refused(name, values, message):
    for value in values:
        with pytest.raises(ArgumentError, match=message):
            resolve_settings(CONFIG, **{name: value})


# Fidelity


def test_fidelity_goes_from_the_encoders_image_to_half_of_the_noise():
    encoder = SamplingConfig(sampler="dpmpp_2m", steps=0, start=0, encoder_share=1.0)
    assert sampling_of_fidelity(1, CONFIG) == encoder
    assert sampling_of_fidelity(0, CONFIG) == SamplingConfig(sampler="dpmpp_2m", steps=4, start=50)


def test_a_model_of_one_step_blends_with_the_encoders_image_and_then_starts_earlier():
    one_step = dataclasses.replace(CONFIG, sampling=SamplingConfig(sampler="ddim", steps=1, start=3))

    def found(fidelity: float) -> tuple[int, int | None, float]:
        sampling = sampling_of_fidelity(fidelity, one_step)
        assert sampling.sampler == "ddim"
        return sampling.steps, sampling.start, sampling.encoder_share

    assert [found(value) for value in (1, 0.75, 0.5, 0.25, 0)] == [
        (0, 3, 1.0), (1, 3, 0.5), (1, 3, 0.0), (1, 18, 0.0), (1, 35, 0.0),
    ]  # fmt: skip


def test_at_fidelity_1_a_given_step_is_blended_away():
    one_step = dataclasses.replace(CONFIG, sampling=SamplingConfig(sampler="ddim", steps=1, start=3))
    shares = [
        resolve_settings(one_step, fidelity=fidelity, steps=1).sampling.encoder_share
        for fidelity in (1, 0.75, 0.5)
    ]
    assert shares == [1.0, 0.5, 0.0]
    assert resolve_settings(one_step, fidelity=1).sampling.encoder_share == 0.0  # nothing to blend
    assert resolve_settings(CONFIG, fidelity=1, steps=1).sampling.encoder_share == 1.0  # four steps


def test_a_given_start_is_not_blended():
    config = dataclasses.replace(
        CONFIG, sampling=SamplingConfig(sampler="ddim", steps=1, start=3, encoder_share=0.25)
    )
    assert resolve_settings(config).sampling.encoder_share == 0.25
    assert resolve_settings(config, sampler="ddpm").sampling.encoder_share == 0.25
    assert resolve_settings(config, start=3).sampling.encoder_share == 0
    assert resolve_settings(config, fidelity=0.75).sampling.encoder_share == 0.5
    with pytest.raises(ConfigError, match=r"encoder_share must lie in \[0, 1\], got 1.5"):
        SamplingConfig(sampler="ddim", steps=1, encoder_share=1.5)


@pytest.mark.parametrize("timesteps", [1, 2, 20, 100, 1000])
def test_less_fidelity_never_starts_later_and_never_takes_more_than_six_steps(timesteps):
    schedule = ScheduleConfig(timesteps=timesteps)
    config = ResolverConfig(
        schedule=schedule, sampling=SamplingConfig(sampler="ddpm", steps=min(2, timesteps))
    )
    settings = [sampling_of_fidelity(float(value), config) for value in np.linspace(1, 0, 41)]
    starts = [setting.start or 0 for setting in settings]
    assert starts == sorted(starts)
    for setting in settings:  # every one is valid for a model of this schedule
        ResolverConfig(schedule=schedule, sampling=setting)
        assert 0 <= setting.steps <= min(6, (setting.start or 0) + 1)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_fidelity_may_be_a_number_of_numpy(kind):
    assert sampling(fidelity=kind(0.5)) == sampling(fidelity=0.5)
    assert sampling(fidelity=np.int64(1)) == sampling(fidelity=1)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "high", True, np.float32(1.5), np.True_])
def test_anything_but_a_number_from_0_to_1_is_refused(value):
    with pytest.raises(ArgumentError, match="fidelity must be a number from 0"):
        sampling_of_fidelity(value, CONFIG)
    with pytest.raises(ArgumentError, match="fidelity must be a number from 0"):
        resolve_settings(CONFIG, fidelity=value)


def test_given_steps_and_sampler_go_before_those_of_the_fidelity():
    assert sampling(sampler="ddpm", steps=7, fidelity=0.5) == SamplingConfig(
        sampler="ddpm", steps=7, start=25
    )
    with pytest.raises(ArgumentError, match="give one"):
        sampling(start=3, fidelity=0.5)


def test_upscale_does_what_the_sampling_of_the_fidelity_does(resolver):
    lr = torch.rand(1, 3, 9, 12)
    setting = sampling_of_fidelity(0.7, resolver.config)
    named = resolver.upscale_tensor(lr, seeds=[3], fidelity=0.7)
    spelt = resolver.upscale_tensor(
        lr, seeds=[3], sampler=setting.sampler, steps=setting.steps, start=setting.start
    )
    assert torch.equal(named, spelt)
    assert not torch.equal(named, resolver.upscale_tensor(lr, seeds=[3], fidelity=0.2))
