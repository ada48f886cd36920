"""Tables and a training pair against numbers of the published procedure (``golden/README.md``)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sam_diffsr.diffusion import NoiseSchedule, ScheduleConfig, modulate, q_posterior

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Tensor]:
    return load_file(golden_dir / "diffusion.safetensors")


@pytest.fixture(scope="module")
def schedule() -> NoiseSchedule:
    return NoiseSchedule.from_config(ScheduleConfig(timesteps=20, name="cosine"))


@pytest.mark.parametrize(
    ("table", "published"), [("betas", "betas"), ("structure_noise", "mask_coefficient")]
)
def test_tables(golden: dict[str, Tensor], schedule: NoiseSchedule, table: str, published: str) -> None:
    torch.testing.assert_close(schedule.get_buffer(table), golden[published], rtol=0, atol=TOLERANCE)


def test_posterior_variance(golden: dict[str, Tensor], schedule: NoiseSchedule) -> None:
    x = torch.zeros(1, 3, 2, 2)
    for t, published in enumerate(golden["posterior_log_variance"].tolist()):
        _, variance = q_posterior(x, x, schedule.alpha_bars[t], schedule.alpha_bars[t - 1] if t else 1.0)
        assert math.log(max(variance, 1e-20)) == pytest.approx(published, abs=5 * TOLERANCE)


def test_training_pair(golden: dict[str, Tensor], schedule: NoiseSchedule) -> None:
    inputs = [golden[f"train_{name}"] for name in ("x0", "t", "noise", "mask")]
    x0, t, noise, structure = inputs
    xt, target = modulate(x0, t, noise, structure, schedule, mode="released")
    torch.testing.assert_close(xt, golden["train_xt"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(target, golden["train_target"], rtol=0, atol=TOLERANCE)
