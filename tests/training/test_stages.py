"""What each stage's loss is, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from sam_diffsr.data import TrainingBatch
from sam_diffsr.diffusion.modulation import ModulationMode, modulate
from sam_diffsr.diffusion.process import image_to_residual
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
    t = torch.randint(100, (2,), generator=generator)
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
