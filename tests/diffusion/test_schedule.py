"""Schedules: identities in float64 first, then the config's and the look-up's contract."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.diffusion import NoiseSchedule, ScheduleConfig, ScheduleName
from sam_diffsr.errors import ArgumentError, ConfigError

NAMES = get_args(ScheduleName)


def exact(name: ScheduleName = "cosine", timesteps: int = 100) -> NoiseSchedule:
    return NoiseSchedule.from_config(ScheduleConfig(name=name, timesteps=timesteps), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_structure_shift_is_its_closed_sum(name: ScheduleName) -> None:
    schedule = exact(name)
    alpha_bars, betas = schedule.alphas_cumprod, schedule.betas
    closed = [
        (alpha_bars[t] * betas[: t + 1] / alpha_bars[: t + 1]).sqrt().sum() for t in range(schedule.timesteps)
    ]
    torch.testing.assert_close(schedule.structure_shift, torch.stack(closed), rtol=1e-12, atol=1e-12)


def test_structure_weights_of_the_published_schedule_have_the_strength_that_the_docs_give() -> None:
    schedule = exact()
    assert schedule.structure_shift[0] == schedule.betas[0].sqrt()
    assert float(schedule.structure_shift.max()) == pytest.approx(6.56, abs=0.01)
    assert float(schedule.structure_target.max()) == pytest.approx(4.07, abs=0.01)
    assert float(schedule.structure_noise[:50].max()) < 0.03 < float(schedule.structure_noise[66])


@pytest.mark.parametrize("timesteps", [1, 2, 7, 100])
@pytest.mark.parametrize("name", NAMES)
def test_tables_are_finite_and_the_signal_decays(name: ScheduleName, timesteps: int) -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig(name=name, timesteps=timesteps))
    for table in schedule.buffers():
        assert table.shape == (timesteps,)
        assert table.dtype == torch.float32
        assert table.isfinite().all()
    assert 0 < schedule.betas.min() <= schedule.betas.max() <= 0.999
    assert all(later < earlier for earlier, later in pairwise((1.0, *schedule.alpha_bars)))


def test_betas_have_their_published_shapes() -> None:
    assert exact("linear").betas[[0, 1, -1]].tolist() == pytest.approx([1e-4, 1e-4 + 0.0199 / 99, 0.999])
    quad = exact("quad").betas.sqrt()
    torch.testing.assert_close(quad.diff(), quad.diff()[:1].expand(99))
    assert quad[[0, -1]].square().tolist() == pytest.approx([1e-4, 2e-2])
    assert exact("const").betas.unique().tolist() == [2e-2]
    assert exact("jsd", 4).betas.tolist() == pytest.approx([1 / 4, 1 / 3, 1 / 2, 0.999])
    for betas, rising in ((exact("warmup10").betas, 10), (exact("warmup50").betas, 50)):
        assert betas[[0, rising - 1, rising, -1]].tolist() == pytest.approx([1e-4, 2e-2, 2e-2, 2e-2])
        assert betas[rising - 2] < 2e-2
    assert exact("cosine").betas[-1] == 0.999


def test_exact_alpha_bars_survive_a_conversion_of_the_module() -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig()).half()
    assert schedule.alpha_bars == tuple(exact().alphas_cumprod.tolist())
    assert copy.deepcopy(schedule).alpha_bars == schedule.alpha_bars
    assert schedule.alpha_bars[-1] == pytest.approx(2.4e-7, rel=0.02)


def test_no_table_is_ever_part_of_a_checkpoint() -> None:
    schedule = exact()
    assert schedule.state_dict() == {}
    assert repr(schedule) == "NoiseSchedule(name='cosine', timesteps=100)"


def test_at_gives_one_entry_for_each_image() -> None:
    schedule = exact()
    found = schedule.at(schedule.betas, torch.tensor([3, 99, 3]))
    assert found.shape == (3, 1, 1, 1)
    assert found.flatten().tolist() == schedule.betas[[3, 99, 3]].tolist()


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (torch.tensor([1.0]), r"t must be int64 of shape \(B,\).*got torch.float32"),
        (torch.tensor([1], dtype=torch.int32), "got torch.int32"),
        (torch.tensor(1), r"of shape \(\)"),
        (torch.tensor([0, 100]), r"t must lie in 0..99, got \[0, 100\]"),
        (torch.tensor([-1]), r"t must lie in 0..99, got \[-1\]"),
    ],
)
def test_at_refuses_other_timesteps(t: torch.Tensor, message: str) -> None:
    schedule = exact()
    with pytest.raises(ArgumentError, match=message):
        schedule.at(schedule.betas, t)


def test_config_goes_through_json() -> None:
    config = ScheduleConfig(timesteps=20, name="jsd")
    assert from_dict(ScheduleConfig, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ConfigError, match="unknown keys"):
        from_dict(ScheduleConfig, {"steps": 20})


def test_config_is_frozen() -> None:
    config: Any = ScheduleConfig()
    with pytest.raises(dataclasses.FrozenInstanceError, match="timesteps"):
        config.timesteps = 5


@pytest.mark.parametrize("timesteps", [0, -1, 2.5, True, math.inf, "100"])
def test_config_refuses_other_timesteps(timesteps: Any) -> None:
    with pytest.raises(ConfigError, match=r"schedule.timesteps must be a whole number >= 1, got"):
        ScheduleConfig(timesteps=timesteps)


def test_config_refuses_an_unknown_name() -> None:
    name: Any = "sigmoid"
    with pytest.raises(ConfigError, match=r"schedule.name must be one of cosine, .*got 'sigmoid'"):
        ScheduleConfig(name=name)
