"""Sizes that follow from the model configuration."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.errors import ConfigError
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig


def test_defaults_are_the_released_architecture() -> None:
    config = ModelConfig()
    assert config.scale == 4
    assert list(config.encoder.condition_indices) == [2, 5, 8, 11, 14, 17]
    assert config.denoiser.channels == (64, 128, 192, 256)


@pytest.mark.parametrize(("scale", "multiple", "minimum"), [(2, 4, 8), (4, 2, 4), (8, 1, 2)])
def test_low_resolution_sizes_fit_the_strides(scale: int, multiple: int, minimum: int) -> None:
    config = from_dict(ModelConfig, {"scale": scale})
    assert (config.lr_multiple, config.lr_minimum) == (multiple, minimum)


def test_reflection_needs_two_pixels() -> None:
    sizes: Any = {"scale": 8, "denoiser": DenoiserConfig(multipliers=(1, 2))}
    assert ModelConfig(**sizes).lr_minimum == 1
    assert ModelConfig(**sizes, encoder=EncoderConfig(padding="reflect")).lr_minimum == 2


def test_configs_survive_the_round_trip_and_are_frozen() -> None:
    config = ModelConfig(
        scale=2,
        encoder=EncoderConfig(blocks=3, padding="reflect"),
        denoiser=DenoiserConfig(multipliers=(1, 4)),
    )
    assert from_dict(ModelConfig, to_dict(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.scale = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncoderConfig(blocks=1), r"encoder\.blocks must be >= 2, got 1"),
        (lambda: EncoderConfig(channels=0), r"encoder\.channels must be >= 1, got 0"),
        (lambda: EncoderConfig(growth=0), r"encoder\.growth must be >= 1, got 0"),
        (
            lambda: EncoderConfig(padding=cast("Any", "same")),
            r"encoder\.padding must be one of zeros, reflect; got 'same'",
        ),
        (lambda: DenoiserConfig(dim=7), r"denoiser\.dim must be even and >= 4, got 7"),
        (lambda: DenoiserConfig(dim=2), r"denoiser\.dim must be even and >= 4, got 2"),
        (lambda: DenoiserConfig(multipliers=(1,)), r"two or more positive integers, got \(1,\)"),
        (lambda: DenoiserConfig(multipliers=(1, 0)), r"two or more positive integers, got \(1, 0\)"),
        (lambda: ModelConfig(scale=3), r"model\.scale must be one of 2, 4, 8; got 3"),  # type: ignore[arg-type]
    ],
)
def test_bad_values_are_named(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
