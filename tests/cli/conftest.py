"""A tiny model on disk, and pictures to upscale with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def model_dir(save_tiny_model: Callable[[int], Path]) -> Path:
    return save_tiny_model(2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures, one in a subfolder, and something that is no picture."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    Image.effect_noise((9, 7), 60).convert("RGB").save(folder / "a.png")
    Image.effect_noise((6, 8), 60).save(folder / "trip" / "b.jpg")
    (folder / "Thumbs.db").write_bytes(b"x")
    return folder
