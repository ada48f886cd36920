"""A run becomes a folder that the pipeline reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models import build_model
from sam_diffsr.pipeline.checkpoint import load_pretrained
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.training import TrainConfig, export_run, read_checkpoint, train

MakeConfig = Callable[..., TrainConfig]
SAMPLING = SamplingConfig(sampler="ddim", steps=4)


def test_export(make_config: MakeConfig, tmp_path: Path) -> None:
    train("encoder", make_config(), tmp_path / "encoder")
    config = make_config(
        diffusion={"encoder": str(tmp_path / "encoder"), "modulation": "paper", "residual_scale": 3.0}
    )
    train("denoiser", config, tmp_path / "run")
    written = export_run(
        tmp_path / "run", tmp_path / "model", sampling=SAMPLING, license="cc-by-sa-4.0", details="Data: x."
    )
    loaded, weights = load_pretrained(tmp_path / "model")
    assert loaded == written
    assert (loaded.modulation, loaded.normalization.residual_scale) == ("paper", 3.0)
    assert (loaded.model, loaded.schedule.timesteps, loaded.sampling) == (config.model, 10, SAMPLING)
    build_model(loaded.model).load_state_dict(weights)
    checkpoint = read_checkpoint(tmp_path / "run")
    assert all(torch.equal(weights[f"denoiser.{key}"], value) for key, value in checkpoint.ema.items())
    assert all(torch.equal(weights[f"encoder.{key}"], value) for key, value in checkpoint.frozen.items())
    card = (tmp_path / "model" / "README.md").read_text()
    for text in ("# model\n", "license: cc-by-sa-4.0", "Data: x.", "| denoiser steps | 6 of batch 2 |"):
        assert text in card


def test_encoder_alone_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    train("encoder", make_config(), tmp_path / "encoder")
    with pytest.raises(CheckpointMismatchError, match="is of stage 'encoder'; train the denoiser on it"):
        export_run(tmp_path / "encoder", tmp_path / "model", sampling=SAMPLING)
