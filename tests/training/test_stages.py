"""What each stage's loss is, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from sam_diffsr.data import TrainingBatch
from sam_diffsr.diffusion.modulation import ModulationMode, modulate
from sam_diffsr.diffusion.process import image_to_residual, q_sample
from sam_diffsr.errors import ConfigError
from sam_diffsr.models import DenoiserConfig, DiffSR, EncoderConfig, ModelConfig, build_model
from sam_diffsr.resize import imresize
from sam_diffsr.training.config import DiffusionConfig
from sam_diffsr.training.stages import DenoiserStage, EncoderStage, Stage

CPU = torch.device("cpu")


def tiny() -> DiffSR:
    return build_model(
        ModelConfig(
            scale=2,
            encoder=EncoderConfig(blocks=2, channels=4, growth=2),
            denoiser=DenoiserConfig(dim=4, multipliers=(1, 2)),
        )
    )


@pytest.fixture
def batch() -> TrainingBatch:
    return TrainingBatch(
        lr=torch.rand(2, 3, 8, 8), hr=torch.rand(2, 3, 16, 16), structure=torch.randn(2, 1, 16, 16)
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def loss_of(stage: Stage, batch: TrainingBatch) -> torch.Tensor:
    return stage(batch, *stage.draw(tuple(batch.hr.shape), generator=seeded()))


def test_encoder_loss_sees_the_image_before_it_is_clamped(batch: TrainingBatch) -> None:
    model = tiny()
    with torch.no_grad():
        model.encoder.conv_last.weight.zero_()
        model.encoder.state_dict()["conv_last.bias"].fill_(5.0)
    loss = loss_of(EncoderStage(model), batch)
    assert torch.equal(loss, functional.l1_loss(model.encoder(batch.lr), batch.hr))
    assert loss > 3
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())


@pytest.mark.parametrize("mode", ["none", "released", "paper"])
@pytest.mark.parametrize("levels", [255, 256])
def test_denoiser_loss_is_l1_on_the_modulated_noise(batch: TrainingBatch, mode: str, levels: int) -> None:
    model = tiny()
    config = DiffusionConfig(modulation=mode, lr_up_levels=levels)  # pyright: ignore[reportArgumentType]
    stage = DenoiserStage(model, config, device=CPU)
    generator = seeded()
    t = (torch.rand(2, generator=generator) * 100).long()
    noise = torch.randn(2, 3, 16, 16, generator=generator)
    lr_up = imresize(batch.lr * 255 / levels, 2)
    x0 = image_to_residual(batch.hr * 2 - 1, lr_up * 2 - 1, residual_scale=2.0)
    xt, target = modulate(x0, t, noise, batch.structure, stage.schedule, mode=config.modulation)
    expected = functional.l1_loss(model(xt, t, model.encode(batch.lr)), target)
    torch.testing.assert_close(loss_of(stage, batch), expected)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("l1", lambda d: d.abs().mean()),
        ("l2", lambda d: (d * d).mean()),
        ("charbonnier", lambda d: (d * d + 1e-6).sqrt().mean()),
    ],
)
def test_losses_of_the_encoder(batch: TrainingBatch, name: str, expected: Callable) -> None:
    model = tiny()
    loss = loss_of(EncoderStage(model, loss=name), batch)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(loss, expected(model.encoder(batch.lr) - batch.hr))


@pytest.mark.parametrize(("power", "share"), [(1.0, 0.25), (2.0, 0.5)])
def test_timesteps_can_be_weighted_towards_the_start(power: float, share: float) -> None:
    config = DiffusionConfig(timestep_power=power)
    stage = DenoiserStage(tiny(), config, device=torch.device("cpu"))
    t, _, own = stage.draw((4000, 1, 1, 1), generator=seeded())
    assert not own.any()
    assert t.dtype == torch.int64
    assert int(t.min()) >= 0
    assert int(t.max()) < config.schedule.timesteps
    assert float((t < config.schedule.timesteps // 4).float().mean()) == pytest.approx(share, abs=0.03)


def test_rows_from_the_encoders_image_are_scored_on_the_residual(batch: TrainingBatch) -> None:
    model = tiny()
    config = DiffusionConfig(encoder_starts=1.0, perceptual=0.5, modulation="none")
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def distance(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        pairs.append((sr, hr))
        return (sr - hr).square().mean((1, 2, 3))

    stage = DenoiserStage(model, config, device=CPU, distance=distance)
    t, noise, own = stage.draw((2, 3, 16, 16), generator=seeded())
    assert own.all()
    assert int(t.max()) <= 60
    loss = stage(batch, t, noise, own)
    loss.backward()
    lr_up = imresize(batch.lr, 2) * 2 - 1
    image = model.encoder_image(model.encode(batch.lr)) * 2 - 1
    xt = q_sample(image_to_residual(image, lr_up, residual_scale=2.0), t, noise, stage.schedule)
    eps = model(xt, t, model.encode(batch.lr))
    signal = stage.schedule.at(stage.schedule.sqrt_alphas_cumprod, t)
    residual = (xt - stage.schedule.at(stage.schedule.sqrt_one_minus_alphas_cumprod, t) * eps) / signal
    truth = image_to_residual(batch.hr * 2 - 1, lr_up, residual_scale=2.0)
    [(sr, hr)] = pairs
    torch.testing.assert_close(sr, residual / 2 + lr_up)
    torch.testing.assert_close(hr, batch.hr * 2 - 1)
    expected = functional.l1_loss(residual, truth) + 0.5 * functional.mse_loss(sr, hr)
    torch.testing.assert_close(loss, expected)
    assert all(parameter.grad is None for parameter in model.encoder.parameters())


@torch.no_grad()
def test_rows_of_both_kinds_share_a_batch(batch: TrainingBatch) -> None:
    """Each row counts as in a batch of its own kind."""
    stages = [
        DenoiserStage(tiny(), DiffusionConfig(encoder_starts=share), device=CPU) for share in (0.5, 0.5)
    ]
    for stage in stages:
        stage.load_state_dict(stages[0].state_dict())
    t, noise, _ = stages[0].draw((2, 3, 16, 16), generator=seeded())
    t = t.clamp(max=60)
    both = stages[0](batch, t, noise, torch.tensor([True, False]))
    own = stages[1](batch, t, noise, torch.tensor([True, True]))
    none = stages[1](batch, t, noise, torch.tensor([False, False]))
    assert min(float(own), float(none)) > 0
    assert float(both) < float(own) + float(none)


def test_a_perceptual_term_needs_a_distance() -> None:
    config = DiffusionConfig(encoder_starts=0.5, perceptual=1.0)
    with pytest.raises(ConfigError, match="there is no perceptual distance; pass distance="):
        DenoiserStage(tiny(), config, device=CPU)


def test_rows_and_their_noise_can_be_shared_out(batch: TrainingBatch) -> None:
    stage = DenoiserStage(tiny(), DiffusionConfig(), device=CPU)
    drawn = stage.draw((2, 3, 16, 16), generator=seeded())
    parts = [
        stage(
            TrainingBatch(lr=batch.lr[row:][:1], hr=batch.hr[row:][:1], structure=batch.structure[row:][:1]),
            *(tensor[row:][:1] for tensor in drawn),
        )
        for row in range(2)
    ]
    torch.testing.assert_close(sum(parts) / 2, loss_of(stage, batch))


def test_encoder_is_frozen_in_stage_2(batch: TrainingBatch) -> None:
    model = tiny()
    stage = DenoiserStage(model, DiffusionConfig(), device=CPU)
    loss_of(stage, batch).backward()
    assert not model.encoder.training
    assert all(not parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.denoiser.parameters())


def test_structure_is_ignored_without_modulation_and_matters_with_it(batch: TrainingBatch) -> None:
    other = TrainingBatch(lr=batch.lr, hr=batch.hr, structure=batch.structure + 1)
    modes: tuple[tuple[ModulationMode, bool], ...] = (("none", True), ("released", False), ("paper", False))
    for mode, same in modes:
        torch.manual_seed(0)
        stage = DenoiserStage(tiny(), DiffusionConfig(modulation=mode), device=CPU)
        losses = [loss_of(stage, each).item() for each in (batch, other)]
        assert (losses[0] == losses[1]) is same
