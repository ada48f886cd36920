"""A tiny model and a worker that upscales with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sam_diffsr.app.worker import Worker


@pytest.fixture(scope="session")
def model_dir(save_tiny_model: Callable[[int], Path]) -> Path:
    return save_tiny_model(5)


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
