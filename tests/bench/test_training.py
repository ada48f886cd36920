"""Training steps on real batches take turns with steps on random tensors, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam_diffsr.bench import measure_training
from sam_diffsr.config import from_dict
from sam_diffsr.errors import ArgumentError
from sam_diffsr.training import TrainConfig


@pytest.fixture
def config() -> TrainConfig:
    model = {
        "scale": 2,
        "encoder": {"blocks": 2, "channels": 6, "growth": 4},
        "denoiser": {"dim": 4, "multipliers": [1, 2]},
    }
    data, run = {"crops": "unused", "patch": 16, "batch": 2}, {"steps": 6, "device": "cpu"}
    return from_dict(TrainConfig, {"data": data, "model": model, "run": run})


@pytest.mark.parametrize("stage", ["encoder", "denoiser"])
def test_crops_and_synthetic_images_by_default(config, stage, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = measure_training(stage, config, repeats=1, steps=2)
    rows: Any = result.tables["train"]
    assert [row["batches"] for row in rows] == ["crops", "synthetic"]
    for row in rows:
        seconds = result.seconds[row["batches"]]
        assert row["images_per_second"] == pytest.approx(2 * 2 / seconds)
        assert row["ratio"] == pytest.approx(seconds / result.seconds["random"])
        assert 0 < row["data_wait"] < 1
    assert result.settings["stage"] == stage
    assert not list(tmp_path.glob("sam-diffsr-*"))


def test_a_perceptual_loss_is_measured_too(config, monkeypatch) -> None:
    monkeypatch.setattr("sam_diffsr.bench.training.lpips_loss", lambda: lambda sr, hr: (sr - hr).abs().mean())
    diffusion = replace(config.diffusion, encoder_starts=0.5, perceptual=0.1)
    result = measure_training("denoiser", replace(config, diffusion=diffusion), repeats=1, steps=2)
    assert len(result.tables["train"]) == 2


def test_no_steps(config) -> None:
    with pytest.raises(ArgumentError, match="steps must be >= 1, got 0"):
        measure_training("encoder", config, repeats=1, steps=0)
