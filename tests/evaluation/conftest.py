"""A tiny model with random weights and two small photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.diffusion import ScheduleConfig
from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.methods import bicubic_method, model_methods
from sam_diffsr.evaluation.result import Evaluation
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model
from sam_diffsr.pipeline import ResolverConfig, SamplingConfig, SuperResolver

TINY = ModelConfig(
    encoder=EncoderConfig(blocks=2, channels=8, growth=4),
    denoiser=DenoiserConfig(dim=8, multipliers=(1, 2)),
)


@pytest.fixture
def resolver() -> SuperResolver:
    config = ResolverConfig(
        model=TINY,
        schedule=ScheduleConfig(timesteps=10),
        sampling=SamplingConfig(sampler="ddim", steps=2),
    )
    torch.manual_seed(0)
    return SuperResolver(build_model(TINY), config, device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Smooth pictures of odd sizes, 8-bit RGB."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths: list[Path] = []
    for index, size in enumerate([(47, 38), (33, 50)]):
        paths.append(folder / f"{index}.png")
        coarse = np.random.default_rng(index).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture
def evaluate_model(resolver: SuperResolver) -> Callable[..., Evaluation]:
    """Scores bicubic, the encoder alone and the model on files."""

    def evaluate(files, *, name: str = "tiny", settings=None, **options) -> Evaluation:
        methods = [bicubic_method(4), *model_methods(resolver, name=name, settings=settings)]
        return evaluate_methods(files, methods, scale=4, **options)

    return evaluate
