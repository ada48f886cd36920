"""From a photo and its mask file to the noise of a training step: image and field lie on the same pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.masks.store import write_records
from sam_diffsr.training import TrainConfig, stages, train


def agreement(x0: torch.Tensor, structure: torch.Tensor) -> float:
    """How often the sign of the residual says whether the pixel is in the region."""
    return ((x0.mean(dim=1, keepdim=True) > 0) == (structure != 0)).double().mean().item()


def test_the_trainer_adds_the_field_to_its_own_pixels(
    make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region is every white pixel of black and white noise, which is where the residual is positive."""
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir()
    masks.mkdir()
    white = np.random.default_rng(2).random((100, 132)) < 0.5
    Image.fromarray(np.repeat(white[..., None] * np.uint8(255), 3, axis=2)).save(photos / "a.png")
    write_records(masks / "a.json", [{"segmentation": white}])
    crops = prepare_crops(photos, tmp_path / "crops", crop_size=32, reductions=(1,), masks=masks).path

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = stages.modulate

    def spy(x0: torch.Tensor, t: Any, noise: Any, structure: torch.Tensor, *rest: Any, **named: Any) -> Any:
        seen.append((x0, structure))
        return real(x0, t, noise, structure, *rest, **named)

    monkeypatch.setattr(stages, "modulate", spy)
    data = {"crops": str(crops), "batch": 4}
    train("encoder", make_config(data=data, run={"steps": 1}), tmp_path / "encoder")
    train(
        "denoiser", make_config(data=data, diffusion={"encoder": str(tmp_path / "encoder")}), tmp_path / "run"
    )
    assert len(seen) == 6
    x0 = torch.cat([x0 for x0, _ in seen])
    structure = torch.cat([structure for _, structure in seen])
    assert agreement(x0, structure) > 0.97
    for shift in (-1, 1):
        for dimension in (-1, -2):
            assert agreement(x0, structure.roll(shift, dimension)) < 0.6
