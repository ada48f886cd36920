"""A run becomes a folder that the pipeline reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sam_diffsr.errors import CheckpointMismatchError, DataError
from sam_diffsr.models import build_model
from sam_diffsr.pipeline.checkpoint import load_pretrained
from sam_diffsr.pipeline.config import SamplingConfig
from sam_diffsr.training import TrainConfig, export_run, read_checkpoint, train
from sam_diffsr.training.export import read_details

MakeConfig = Callable[..., TrainConfig]
SAMPLING = SamplingConfig(sampler="ddim", steps=4)


@pytest.fixture(scope="session")
def run(make_config: MakeConfig, encoder_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoiser")
    diffusion = {"encoder": str(encoder_run), "modulation": "paper", "residual_scale": 3.0}
    train("denoiser", make_config(diffusion=diffusion, run={"log_every": 2}), folder)
    return folder


def write_scores(path: Path, *, scale: int = 2, **sampling: Any) -> Path:
    setting = {"sampler": "ddim", "steps": 4, "start": None, "spacing": "linspace"}
    setting |= {"encoder_share": 0.0, **sampling}
    row = {"label": "model", "sampling": setting, "psnr_y": 30.5, "ssim_y": 0.9, "images": [{}]}
    settings = {"dataset": "five", "protocol": "paper", "border": 0, "seed": 0, "commit": None}
    path.write_text(json.dumps({**settings, "scale": scale, "versions": {"sam-diffsr": "1"}, "rows": [row]}))
    return path


def test_export(run: Path, make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    written = export_run(
        run,
        tmp_path / "model",
        sampling=SAMPLING,
        license="cc-by-sa-4.0",
        datasets=["five photos"],
        scores=write_scores(tmp_path / "scores.json"),
        details="## Notes\n\nx.",
    )
    loaded, weights = load_pretrained(tmp_path / "model")
    assert loaded == written
    assert (loaded.modulation, loaded.normalization.residual_scale) == ("paper", 3.0)
    assert (loaded.model, loaded.schedule.timesteps, loaded.sampling) == (config.model, 10, SAMPLING)
    build_model(loaded.model).load_state_dict(weights)
    checkpoint = read_checkpoint(run)
    assert all(torch.equal(weights[f"denoiser.{key}"], value) for key, value in checkpoint.ema.items())
    assert all(torch.equal(weights[f"encoder.{key}"], value) for key, value in checkpoint.frozen.items())
    card = (tmp_path / "model" / "README.md").read_text()
    for text in (
        "# model\n",
        "license: cc-by-sa-4.0",
        '- "five photos"',
        "| structure in training | paper |",
        "16 crops of 32 x 32 pixels from 1 photograph.",
        "**The regions of the photographs are not SAM's.** They come from `thirds`.",
        "| | encoder | denoiser |",
        "| steps | 2 | 6 |",
        "| model | 30.50 | 0.9000 |",
        "model-index:",
    ):
        assert text in card
    assert card.endswith("## Notes\n\nx.\n")


def test_half_the_bytes(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "whole", sampling=SAMPLING)
    export_run(run, tmp_path / "half", sampling=SAMPLING, dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]


def test_encoder_alone_is_refused(encoder_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatchError, match="is of stage 'encoder'; train the denoiser with it"):
        export_run(encoder_run, tmp_path / "model", sampling=SAMPLING)


def test_scores_of_another_model_are_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    scores = write_scores(tmp_path / "a.json", scale=4)
    with pytest.raises(DataError, match="has scores at x4, but the model is x2"):
        export_run(run, tmp_path / "model", sampling=SAMPLING, scores=scores)
    scores = write_scores(tmp_path / "b.json", steps=3)
    message = r"has no model with the default sampling \(ddim, 4 steps, start noise, linspace\)"
    with pytest.raises(DataError, match=message):
        export_run(run, tmp_path / "model", sampling=SAMPLING, scores=scores)
    assert not (tmp_path / "model").exists()


def test_details_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_text("é", encoding="utf-8")
    assert read_details(tmp_path / "x.md") == "é"
    (tmp_path / "y.md").write_bytes(b"\xff\xfe\xff")
    for name in ("y.md", "gone.md"):
        with pytest.raises(DataError, match=f"cannot read the details in .*{name}"):
            read_details(tmp_path / name)
