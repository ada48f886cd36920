"""A handful of crops and the smallest networks, so that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.config import from_dict
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.training import TrainConfig, train

MakeConfig = Callable[..., TrainConfig]

MODEL = {
    "scale": 2,
    "encoder": {"blocks": 2, "channels": 6, "growth": 4},
    "denoiser": {"dim": 4, "multipliers": [1, 2]},
}


def thirds(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.arange(image.shape[1]) * 3 // image.shape[1] + 1, image.shape[:2])


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC).save(folder / "photo.png")
    store = prepare_crops(
        folder,
        folder / "crops",
        crop_size=32,
        reductions=(1,),
        min_gradient=0,
        segmenter=thirds,
        reduction="region",
    )
    return store.path


@pytest.fixture(scope="session")
def make_config(crops: Path) -> MakeConfig:
    def make(**sections: dict) -> TrainConfig:
        tree = {
            "data": {"crops": str(crops), "patch": 16, "batch": 2, **sections.get("data", {})},
            "model": MODEL,
            "optimizer": {"lr": 1e-3, "warmup_steps": 2, **sections.get("optimizer", {})},
            "diffusion": {"schedule": {"timesteps": 10}, **sections.get("diffusion", {})},
            "validation": sections.get("validation", {}),
            "run": {
                "steps": 6,
                "device": "cpu",
                "ema_decay": 0.5,
                "keep": 9,
                "tracker": "jsonl",
                **sections.get("run", {}),
            },
        }
        return from_dict(TrainConfig, tree)

    return make


@pytest.fixture(scope="session")
def encoder_run(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    train("encoder", make_config(run={"steps": 2}), folder)
    return folder
