"""Strips give what the whole gives."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.diffusion import (
    ImageNoise,
    NoiseSchedule,
    ScheduleConfig,
    image_to_residual,
    q_sample,
    residual_to_image,
)
from sam_diffsr.pipeline import canvas
from sam_diffsr.pipeline.canvas import Enlarged, noisy_start
from sam_diffsr.resize import imresize

LR = (2, 3, 21, 10)


@pytest.fixture(params=[2**20, 4 * 4 * 10 * 5, 1], ids=["one", "several", "thin"])
def enlarged(request, monkeypatch: pytest.MonkeyPatch) -> tuple[Enlarged, torch.Tensor]:
    monkeypatch.setattr(canvas, "_STRIP_PIXELS", request.param)
    lr = torch.rand(LR)
    return Enlarged(lr, scale=4, residual_scale=2.0, white=0.9), imresize(lr * 0.9, 4) * 2 - 1


def test_strips_are_those_of_the_whole_enlargement(enlarged) -> None:
    strips, whole = enlarged
    covered = torch.zeros(whole.shape[-2])
    for rows, up in strips.strips():
        assert torch.equal(up, whole[:, :, rows])
        covered[rows] += 1
    assert (covered == 1).all()


def test_there_and_back_with_what_lies_beyond(enlarged) -> None:
    strips, up = enlarged
    image = torch.rand(2, 3, 88, 44)
    residual = image.clone()
    strips.to_residual(residual)
    inside = image_to_residual(image[:, :, :84, :40] * 2 - 1, up, residual_scale=2.0)
    assert torch.equal(residual[:, :, :84, :40], inside)
    assert torch.equal(residual[:, :, :84, 40:], inside[:, :, :, -1:].expand(2, 3, 84, 4))
    assert torch.equal(residual[:, :, 84:], residual[:, :, 83:84].expand(2, 3, 4, 44))
    sr = ((residual_to_image(inside, up, residual_scale=2.0) + 1) / 2).clamp(0, 1)
    made = strips.to_image(residual)
    torch.testing.assert_close(made, sr)
    assert torch.equal(strips.to_image(residual, overwrite=True), made)
    assert torch.equal(residual[:, :, :84, :40], made)


def test_a_noisy_start_is_q_sample_in_the_residuals_memory() -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig())
    residual, seeds = torch.randn(2, 3, 24, 16), [3, 4]
    expected = q_sample(residual, torch.full((2,), 30), ImageNoise(seeds)(residual), schedule)
    result = noisy_start(residual, ImageNoise(seeds), t=30, schedule=schedule)
    assert result is residual
    assert torch.equal(result, expected)
