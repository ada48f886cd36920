"""The tiny preset learns one image by heart; docs/training.md has the numbers of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sam_diffsr.data import TrainingSource
from sam_diffsr.evaluation.metrics import psnr_y
from sam_diffsr.models import build_model
from sam_diffsr.resize import imresize
from sam_diffsr.training import load_config, read_checkpoint, read_log, train

ONE_PATCH = [
    "data.synthetic={size: 40, pool: 1, windows: 1000000}",  # one image, as large as a window with its margin
    "data.patch=24",
    "optimizer.lr=4e-3",
    "run.start=random",
    "run.log_every=20",
    "run.device=cpu",
]


@pytest.mark.slow
def test_one_image_is_learnt_by_heart(tmp_path: Path) -> None:
    config = load_config("tiny/rrdb", overrides=[*ONE_PATCH, "run.steps=1000"])
    train("encoder", config, tmp_path)
    losses = [record["loss"] for record in read_log(tmp_path)]
    assert losses[-1] < losses[0] / 10

    model = build_model(config.model).eval()
    model.encoder.load_state_dict(read_checkpoint(tmp_path).ema)
    source = TrainingSource(config.data, scale=4, seed=config.run.seed)
    batch = source.batch(0)
    with torch.no_grad():
        image = model.encoder(batch.lr).clamp(0, 1)
    learnt, bicubic = (
        psnr_y((each.clamp(0, 1) * 255).round(), batch.hr * 255, border=0, data_range=255).mean().item()
        for each in (image, imresize(batch.lr, 4))
    )
    assert learnt > bicubic + 3
