"""The whole model against numbers of the published procedure: encoder, denoiser, training pair, reverse loop.

``golden/README.md`` says how the numbers were made. The weights are small and random.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from sam_diffsr.diffusion import (
    NoiseSchedule,
    ScheduleConfig,
    image_to_residual,
    modulate,
    residual_to_image,
    sample_ddpm,
)
from sam_diffsr.models import Condition, DiffSR, build_model, load_reference_checkpoint
from sam_diffsr.resize import imresize

NETWORK_TOLERANCE = 1e-5
LOOP_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Reference:
    """A published-layout checkpoint, built by our reader, beside the numbers it must reproduce."""

    model: DiffSR
    schedule: NoiseSchedule
    residual_scale: float
    numbers: dict[str, Tensor]

    @property
    def lr(self) -> Tensor:
        return (self.numbers["lr"] + 1) / 2

    def condition(self) -> Condition:
        return self.model.encode(self.lr)


@pytest.fixture(scope="module")
def reference(golden_dir: Path) -> Reference:
    settings = json.loads((golden_dir / "reference_tiny.json").read_text())
    config, state = load_reference_checkpoint(golden_dir / "reference_tiny.ckpt")
    model = build_model(config)
    model.load_state_dict(state, strict=True)
    assert config.denoiser.dim == settings["dim"]
    assert config.denoiser.multipliers == tuple(settings["mults"])
    assert (config.encoder.blocks, config.encoder.channels) == (settings["nb"], settings["nf"])
    return Reference(
        model=model.eval(),
        schedule=NoiseSchedule.from_config(
            ScheduleConfig(timesteps=settings["T"], name=settings["beta_schedule"])
        ),
        residual_scale=settings["res_rescale"],
        numbers={
            **load_file(golden_dir / "diffusion.safetensors"),
            **load_file(golden_dir / "reference_tiny.safetensors"),
        },
    )


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def enlarged(reference: Reference) -> Tensor:
    """The bicubic image as the published procedure makes it, in [-1, 1]: from 8 bit, divided by 256."""
    lr = reference.numbers["lr_uint8"].permute(2, 0, 1)[None].double()
    return (imresize(lr / 256, 4) * 2 - 1).float()


def test_bicubic_enlargement(reference: Reference) -> None:
    assert_near(enlarged(reference), reference.numbers["lr_up"], 1e-6)


def test_encoder(reference: Reference) -> None:
    features, _ = reference.model.encoder.features(reference.lr)
    for index, feature in zip((2, 5), features, strict=True):
        assert_near(feature, reference.numbers[f"rrdb_feature_{index}"], NETWORK_TOLERANCE)
    image = reference.model.encoder_image(reference.condition())
    assert_near(image * 2 - 1, reference.numbers["rrdb_sr"], NETWORK_TOLERANCE)


def test_denoiser(reference: Reference) -> None:
    numbers = reference.numbers
    eps = reference.model(numbers["unet_x"], numbers["unet_t"], reference.condition())
    assert_near(eps, numbers["unet_noise_pred"], NETWORK_TOLERANCE)


def test_training_step(reference: Reference) -> None:
    numbers, t = reference.numbers, reference.numbers["train_t"]
    x0 = image_to_residual(numbers["hr"], numbers["lr_up"], residual_scale=reference.residual_scale)
    assert_near(x0, numbers["train_x0"], 1e-6)
    xt, target = modulate(x0, t, numbers["train_noise"], numbers["train_mask"], reference.schedule)
    assert_near(xt, numbers["train_xt"], NETWORK_TOLERANCE)
    assert_near(target, numbers["train_target"], NETWORK_TOLERANCE)
    eps = reference.model(xt, t, reference.condition())
    assert_near(eps, numbers["train_noise_pred"], NETWORK_TOLERANCE)
    assert_near(functional.l1_loss(eps, target), numbers["train_loss"].squeeze(), NETWORK_TOLERANCE)


def test_whole_reverse_loop(reference: Reference) -> None:
    numbers, condition = reference.numbers, reference.condition()
    draws = iter(numbers["sample_step_noise"])
    x0 = sample_ddpm(
        lambda xt, t: reference.model(xt, t, condition),
        numbers["sample_x_T"],
        reference.schedule,
        steps=reference.schedule.timesteps,
        noise=lambda like: next(draws)[None],
    )
    assert len(list(draws)) == 1, "all draws are used but the last, which the published loop multiplies by 0"
    sr = residual_to_image(x0, enlarged(reference), residual_scale=reference.residual_scale)
    assert_near(sr, numbers["sample_sr"], LOOP_TOLERANCE)
    pixels = ((sr.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    assert (pixels - numbers["sample_sr_uint8"]).abs().max() <= 1
