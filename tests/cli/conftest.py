"""A tiny model on disk, and pictures to upscale with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sam_diffsr.diffusion import ScheduleConfig
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model
from sam_diffsr.pipeline import ResolverConfig, SamplingConfig, SuperResolver


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = ModelConfig(
        encoder=EncoderConfig(blocks=2, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=8, multipliers=(1, 2)),
    )
    config = ResolverConfig(
        model=model,
        schedule=ScheduleConfig(timesteps=10),
        sampling=SamplingConfig(sampler="ddim", steps=2),
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    SuperResolver(build_model(model), config, device="cpu").save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures, one in a subfolder, and something that is no picture."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    Image.effect_noise((9, 7), 60).convert("RGB").save(folder / "a.png")
    Image.effect_noise((6, 8), 60).save(folder / "trip" / "b.jpg")
    (folder / "Thumbs.db").write_bytes(b"x")
    return folder
