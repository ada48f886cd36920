"""Strips give what the whole gives."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.diffusion import (
    NoiseSchedule,
    ScheduleConfig,
    image_to_residual,
    predict_x0,
    q_sample,
    residual_to_image,
)
from sam_diffsr.pipeline import canvas
from sam_diffsr.pipeline.canvas import Enlarged, NoisyStart
from sam_diffsr.pipeline.sweep import Sweep
from sam_diffsr.pipeline.tiling import TileRunner
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


def test_there_and_back(enlarged) -> None:
    strips, up = enlarged
    image = torch.rand(2, 3, 84, 44)
    inside = image_to_residual(image[..., :40] * 2 - 1, up, residual_scale=2.0)
    for rows in (slice(0, 84), slice(0, 12), slice(28, 32), slice(60, 84)):
        residual = strips.residual(image[:, :, rows], rows)
        assert torch.equal(residual[..., :40], inside[:, :, rows])
        assert torch.equal(residual[..., 40:], inside[:, :, rows, -1:].expand(-1, -1, -1, 4))
    sr = ((residual_to_image(inside, up, residual_scale=2.0) + 1) / 2).clamp(0, 1)
    x0 = torch.zeros(2, 3, 88, 44)
    x0[:, :, :84, :40] = inside
    made = strips.to_image(x0)
    torch.testing.assert_close(made, sr)
    assert torch.equal(strips.to_image(x0, overwrite=True), made)
    assert torch.equal(x0[:, :, :84, :40], made)
    exact = inside.clone()
    assert strips.to_image(exact, overwrite=True) is exact
    assert torch.equal(exact, made)


@pytest.mark.parametrize("size", [(8, 12), (16, 44), (88, 44), (40, 20)])
@pytest.mark.parametrize("step", [1, 17, 88])
def test_a_noisy_start_is_q_sample_of_the_residual_and_its_last_row(enlarged, size, step: int) -> None:
    strips, up = enlarged
    schedule, noise = NoiseSchedule.from_config(ScheduleConfig()), torch.randn(2, 3, 88, 44)
    image = torch.rand(2, 3, 88, 44)
    runner = TileRunner(88, 44, size=size, halo=8, receptive_field=15, align=4, device=noise.device)
    whole = Sweep(
        runner,
        lambda rows, columns: image[:, :, rows, columns],
        device=noise.device,
        dtype=torch.float32,
    ).whole()
    x0 = torch.zeros(2, 3, 88, 44)
    x0[:, :, :84, :40] = image_to_residual(whole[:, :, :84, :40] * 2 - 1, up, residual_scale=2.0)
    x0[:, :, :, 40:] = x0[:, :, :, 39:40]
    x0[:, :, 84:] = x0[:, :, 83:84]
    expected = q_sample(x0, torch.tensor([30, 30]), noise, schedule)
    sweep = Sweep(
        *(runner, lambda rows, columns: image[:, :, rows, columns].clone()),
        device=noise.device,
        dtype=torch.float32,
    )
    state = noise.clone()
    start = NoisyStart(state, sweep, strips, t=30, schedule=schedule)
    for row in range(step, 89, step):
        start.until(row)
        assert torch.equal(state[:, :, :row], expected[:, :, :row])
    start.until(88)
    assert torch.equal(state, expected)
    assert start.unseen == 88


def test_the_padding_may_be_made_later_than_the_row_that_it_repeats() -> None:
    """A canvas of 24 rows for an enlargement of 4, in tiles of 8."""
    strips = Enlarged(torch.rand(1, 3, 1, 1), scale=4, residual_scale=2.0)
    schedule, noise = NoiseSchedule.from_config(ScheduleConfig()), torch.randn(1, 3, 24, 8)
    runner = TileRunner(24, 8, size=(8, 8), halo=8, receptive_field=8, align=8, device=noise.device)
    sweep = Sweep(
        *(runner, lambda rows, columns: torch.rand(1, 3, rows.stop - rows.start, columns.stop)),
        device=noise.device,
        dtype=torch.float32,
    )
    state = noise.clone()
    start = NoisyStart(state, sweep, strips, t=0, schedule=schedule)
    start.until(24)
    residual = predict_x0(state, torch.tensor([0]), noise, schedule)
    torch.testing.assert_close(residual[:, :, 4:], residual[:, :, 3:4].expand(1, 3, 20, 8), rtol=0, atol=1e-5)
    torch.testing.assert_close(residual[..., 4:], residual[..., 3:4].expand(1, 3, 24, 4), rtol=0, atol=1e-5)
