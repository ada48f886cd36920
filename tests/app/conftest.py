"""A tiny model and a worker that upscales with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sam_diffsr.app.worker import Worker
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
        sampling=SamplingConfig(sampler="ddim", steps=5),
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    SuperResolver(build_model(model), config, device="cpu").save_pretrained(folder)
    return folder


@pytest.fixture
def worker(model_dir: Path, tmp_path: Path) -> Worker:
    folder = tmp_path / "results"
    folder.mkdir()
    return Worker(folder, model=str(model_dir), device="cpu", max_pixels=10_000)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.effect_noise((40, 30), 60).convert("RGB").save(path, exif=exif)
    return path
