"""Reading a run's configuration, and the learning rate that follows from it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, cast

import pytest

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.errors import ConfigError
from sam_diffsr.training import OptimizerConfig, RunConfig, TrainConfig


def test_round_trip() -> None:
    config = from_dict(TrainConfig, {"data": {"crops": "x"}, "optimizer": {"betas": [0.5, 0.9]}})
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert config.optimizer.betas == (0.5, 0.9)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_paper_values_are_the_defaults() -> None:
    config = OptimizerConfig()
    assert (config.lr, config.clip, config.halve_every) == (2e-4, 10.0, 200_000)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("data", "patch", 0, r"data\.patch must be >= 1, got 0"),
        ("data", "batch", 0, r"data\.batch must be >= 1, got 0"),
        ("data", "patch", 30, r"data\.patch must be a multiple of model\.scale 4, got 30"),
        ("optimizer", "lr", 0.0, r"optimizer\.lr must be > 0 and finite, got 0"),
        ("optimizer", "lr", float("inf"), r"optimizer\.lr must be > 0 and finite, got inf"),
        ("optimizer", "clip", -1, r"optimizer\.clip must be > 0 and finite, got -1"),
        ("optimizer", "betas", [0.9, 1.0], r"optimizer\.betas must lie in \[0, 1\)"),
        ("optimizer", "halve_every", 0, r"optimizer\.halve_every must be >= 1"),
        ("optimizer", "warmup_steps", -1, r"optimizer\.warmup_steps must be >= 0, got -1"),
        ("optimizer", "final_fraction", 2, r"optimizer\.final_fraction must lie in \[0, 1\]"),
        ("optimizer", "schedule", "linear", r"optimizer\.schedule must be one of"),
        ("diffusion", "residual_scale", 0, r"diffusion\.residual_scale must be > 0"),
        ("diffusion", "timestep_power", 0, r"diffusion\.timestep_power must lie in \(0, 10\], got 0"),
        ("diffusion", "encoder_starts", 2, r"diffusion\.encoder_starts must lie in \[0, 1\], got 2"),
        ("diffusion", "perceptual", -1, r"diffusion\.perceptual must be >= 0, got -1"),
        ("diffusion", "perceptual", 1, r"diffusion\.perceptual needs diffusion\.encoder_starts above 0"),
        ("diffusion", "lr_up_levels", 254, r"diffusion\.lr_up_levels must be one of 255, 256"),
        ("diffusion", "modulation", "strong", r"diffusion\.modulation must be one of"),
        ("run", "steps", 0, r"run\.steps must be >= 1"),
        ("run", "keep", 0, r"run\.keep must be >= 1"),
        ("run", "log_every", 0, r"run\.log_every must be >= 1"),
        ("run", "checkpoint_every", 0, r"run\.checkpoint_every must be >= 1"),
        ("run", "validate_every", 0, r"run\.validate_every must be >= 1"),
        ("run", "ema_decay", 1.0, r"run\.ema_decay must lie in \[0, 1\)"),
        ("run", "seed", -1, r"run\.seed must lie in \[0, 9223372036854775808\), got -1"),
        ("run", "seed", 2**63, r"run\.seed must lie in \[0, 9223372036854775808\), got 9223372036854775808"),
        ("run", "threads", 0, r"run\.threads must be >= 1 or null"),
        ("run", "accumulate", 0, r"run\.accumulate must be >= 1"),
        ("run", "accumulate", 3, r"data\.batch must be a multiple of run\.accumulate 3, got 16"),
        ("run", "tracker", 3, r"run\.tracker must be str, got 3"),
        ("optimizer", "weight_decay", -1, r"optimizer\.weight_decay must be >= 0, got -1"),
        ("optimizer", "name", "sgd", r"optimizer\.name must be one of"),
        ("validation", "limit", 0, r"validation\.limit must be >= 1 or null, got 0"),
        ("validation", "crop", -4, r"validation\.crop must be >= 1 or null, got -4"),
        ("validation", "pictures", -1, r"validation\.pictures must be >= 0, got -1"),
        ("run", "max_seconds", 0, r"run\.max_seconds must be > 0 or null, got 0"),
        ("run", "precision", "fp8", r"run\.precision must be one of"),
        ("run", "stepz", 3, r"unknown keys \['stepz'\] \(did you mean 'steps' instead of 'stepz'\?\)"),
    ],
)
def test_one_bad_value(section: str, key: str, value: Any, message: str) -> None:
    tree: dict[str, dict[str, Any]] = {"data": {"crops": "x"}}
    tree.setdefault(section, {})[key] = value
    with pytest.raises(ConfigError, match=message):
        from_dict(TrainConfig, tree)


def test_rate_is_halved() -> None:
    config = OptimizerConfig(lr=8.0, halve_every=10)
    assert [config.rate(step, steps=99) for step in (0, 9, 10, 19, 20)] == [8, 8, 4, 4, 2]


def test_rate_warms_up_and_follows_a_cosine() -> None:
    config = OptimizerConfig(lr=1.0, schedule="cosine", warmup_steps=4, final_fraction=0.1)
    rates = [config.rate(step, steps=24) for step in range(24)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert rates[14] == pytest.approx(0.55)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))
    assert config.rate(24, steps=24) == pytest.approx(0.1)


def test_rate_stays() -> None:
    config = OptimizerConfig(lr=1.0, schedule="constant")
    assert {config.rate(step, steps=9) for step in range(9)} == {1.0}


def test_choices_are_checked_in_python_as_well() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.loss must be one of l1, l2, charbonnier; got 'L2'"):
        OptimizerConfig(loss=cast("Any", "L2"))
    with pytest.raises(ConfigError, match=r"run\.start must be one of"):
        RunConfig(start=cast("Any", "Random"))
