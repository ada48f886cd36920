"""Small photographs and the crops cut from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.prepare import prepare_crops


def red_labels(image: np.ndarray) -> np.ndarray:
    """Regions of equal red, so that a label says which pixel it belongs to."""
    return image[..., 0].astype(np.int32)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for name, size in (("a.png", (150, 170)), ("b.png", (130, 128))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a photo")
    return folder


@pytest.fixture(scope="session")
def store(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> CropStore:
    out = tmp_path_factory.mktemp("crops")
    return prepare_crops(photos, out, crop_size=64, reductions=(1, 2), segmenter=red_labels)
