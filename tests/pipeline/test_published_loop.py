"""The whole published procedure through the public door: a converted checkpoint gives the published image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sam_diffsr.pipeline import SuperResolver, run
from sam_diffsr.pipeline.checkpoint import convert_checkpoint


@pytest.fixture
def golden(golden_dir: Path) -> dict[str, Tensor]:
    return load_file(golden_dir / "reference_tiny.safetensors")


@pytest.fixture
def published(
    golden: dict[str, Tensor], golden_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SuperResolver:
    class Recorded:
        """The noise that the published run drew."""

        def __init__(self, seeds: list[int], corners: list[tuple[int, int]], period: None) -> None:
            self.corners = corners
            self.draws = iter([golden["sample_x_T"], *golden["sample_step_noise"].split(1)])

        def __call__(self, like: Tensor) -> Tensor:
            image, (height, width) = next(self.draws), like.shape[-2:]
            return torch.cat([image[..., y : y + height, x : x + width] for y, x in self.corners])

    monkeypatch.setattr(run, "PositionNoise", Recorded)
    convert_checkpoint(golden_dir / "reference_tiny.ckpt", tmp_path)
    return SuperResolver.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize("tile", [0, 4])
def test_the_image_is_the_published_one(published: SuperResolver, golden: dict[str, Tensor], tile: int):
    lr = golden["lr_uint8"].permute(2, 0, 1)[None].float() / 255
    result = published.upscale_tensor(lr, seeds=[0], tile=tile)
    expected = (golden["sample_sr"] + 1) / 2
    torch.testing.assert_close(result, expected.clamp(0, 1), atol=1e-4, rtol=0)


def test_its_8_bit_form_is_within_one(published: SuperResolver, golden: dict[str, Tensor]):
    result = published.upscale(golden["lr_uint8"].numpy())
    difference = result.astype(int) - golden["sample_sr_uint8"][0].numpy()
    assert np.abs(difference).max() <= 1
