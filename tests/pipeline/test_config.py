"""config.json: what is written is what is read, and anything else is refused."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

import sam_diffsr
from sam_diffsr.config import to_dict
from sam_diffsr.diffusion import ScheduleConfig
from sam_diffsr.errors import ConfigError, ModelLoadError
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline.config import (
    FORMAT_VERSION,
    NormalizationConfig,
    ResolverConfig,
    SamplingConfig,
    config_from_json,
    config_to_json,
)

JPEG: Any = "jpeg"
SAMPLING = SamplingConfig(sampler="ddim", steps=4, start=30)


@pytest.mark.parametrize(
    "config",
    [
        ResolverConfig(sampling=SamplingConfig(sampler="ddpm", steps=100)),
        ResolverConfig(
            model=ModelConfig(scale=8),
            schedule=ScheduleConfig(timesteps=50, name="linear"),
            normalization=NormalizationConfig(residual_scale=1.5, lr_up_levels=256),
            modulation="paper",
            sampling=SAMPLING,
        ),
    ],
)
def test_the_round_trip_keeps_everything(config):
    text = config_to_json(config)
    assert config_from_json(text, source="x") == config
    assert config_from_json(text.encode(), source="x") == config
    assert json.loads(text) == {**to_dict(config), "sam_diffsr_version": sam_diffsr.__version__}


def test_configs_are_frozen():
    for config in (NormalizationConfig(), SAMPLING, ResolverConfig(sampling=SAMPLING)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, dataclasses.fields(config)[0].name, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormalizationConfig(residual_scale=0.0), r"residual_scale must be > 0 and finite, got 0\.0"),
        (
            lambda: NormalizationConfig(residual_scale=float("nan")),
            r"residual_scale must be > 0 and finite, got nan",
        ),
        (lambda: NormalizationConfig(lr_up_levels=128), r"lr_up_levels must be one of 255, 256; got 128"),  # type: ignore[arg-type]
        (
            lambda: SamplingConfig(sampler="euler", steps=4),  # type: ignore[arg-type]
            r"sampling\.sampler must be one of ddpm, .*'euler'",
        ),
        (
            lambda: SamplingConfig(sampler="ddim", steps=4, spacing="even"),  # type: ignore[arg-type]
            r"sampling\.spacing must be one of linspace, trailing; got 'even'",
        ),
        (lambda: SamplingConfig(sampler="ddim", steps=-1), r"sampling\.steps must be >= 0, got -1"),
        (lambda: ResolverConfig(sampling=SAMPLING, halo=-1), r"halo must be >= 0, got -1"),
        (
            lambda: ResolverConfig(sampling=SAMPLING, bytes_per_pixel=0),
            r"bytes_per_pixel must be >= 1 or null, got 0",
        ),
        (
            lambda: ResolverConfig(sampling=SAMPLING, degradation=JPEG),
            r"degradation must be one of .*'jpeg'",
        ),  # type: ignore[arg-type]
        (
            lambda: SamplingConfig(sampler="ddim", steps=1, start=-1),
            r"sampling\.start must be >= 0 or null, got -1",
        ),
        (
            lambda: ResolverConfig(sampling=SAMPLING, format_version=FORMAT_VERSION + 1),
            r"format_version must be 1, got 2",
        ),
        (lambda: ResolverConfig(sampling=SAMPLING, modulation="sam"), r"modulation must be one of .*'sam'"),  # type: ignore[arg-type]
        (
            lambda: ResolverConfig(sampling=SAMPLING, schedule=ScheduleConfig(timesteps=30)),
            r"sampling\.start must be below schedule\.timesteps \(30\), got 30",
        ),
        (
            lambda: ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=4, start=2)),
            r"sampling\.steps must be at most 3 \(the timesteps from 2 down to 0\), got 4",
        ),
        (
            lambda: ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=101)),
            r"sampling\.steps must be at most 100",
        ),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scale": 4}, ConfigError, r"x/config\.json has unknown keys \['scale'\]"),
        (
            {"sampling": {"steps": 4}},
            ConfigError,
            r"x/config\.json\.sampling lacks the required keys \['sampler'\]",
        ),
        ({"modulation": 3}, ConfigError, r"x/config\.json\.modulation must be one of"),
        ({"format_version": 2}, ModelLoadError, r"format version 2, written by sam_diffsr 9\.9; .*upgrade"),
        ({"format_version": True}, ModelLoadError, r"format version True"),
    ],
)
def test_files_of_another_form_are_refused(change, error, message):
    data = json.loads(config_to_json(ResolverConfig(sampling=SAMPLING)))
    with pytest.raises(error, match=message):
        config_from_json(json.dumps({**data, "sam_diffsr_version": "9.9", **change}), source="x/config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"x is not valid JSON \(.*\); download or save"),
        (b"\xff\xfe\x00", r"x is not valid JSON"),
        ("[]", r"x is not a sam_diffsr config: expected a JSON object with a 'format_version'"),
        ('{"_class_name": "UNet2DModel"}', r"x is not a sam_diffsr config"),
    ],
)
def test_what_is_no_config_is_refused(text, message):
    with pytest.raises(ModelLoadError, match=message):
        config_from_json(text, source="x")


def test_a_missing_sampling_is_not_made_up():
    data = json.loads(config_to_json(ResolverConfig(sampling=SAMPLING)))
    del data["sampling"]
    with pytest.raises(ConfigError, match=re.escape("lacks the required keys ['sampling']")):
        config_from_json(json.dumps(data), source="x")
