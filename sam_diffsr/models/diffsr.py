"""Encoder and denoiser as one network, and the condition that passes between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.errors import ArgumentError
from sam_diffsr.models.config import ModelConfig
from sam_diffsr.models.rrdb import RRDBEncoder
from sam_diffsr.models.unet import UNet


@dataclass(frozen=True, slots=True)
class Condition:
    """The encoded low-resolution image, computed once per image."""

    projected: Tensor
    """``(B, C0, scale*h, scale*w)``, added after the first level of the denoiser."""
    trunk: Tensor
    """``(B, C, h, w)``, the encoder's fused trunk, from which its image head starts."""


class DiffSR(nn.Module):
    """Residual diffusion network: ``eps = model(xt, t, model.encode(lr))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = RRDBEncoder(config.encoder, scale=config.scale)
        self.denoiser = UNet(
            config.denoiser,
            condition_channels=config.encoder.channels * len(config.encoder.condition_indices),
            scale=config.scale,
        )

    def encode(self, lr: Tensor) -> Condition:
        """Encode ``(B, 3, h, w)`` float in [0, 1], of a height and width that ``config.fit`` gives.

        Raises:
            ArgumentError: wrong rank, channels or size.
        """
        if lr.ndim != 4 or lr.shape[1] != 3:
            raise ArgumentError(f"lr must have shape (B, 3, h, w), got {tuple(lr.shape)}")
        if any(self.config.fit(size) != size for size in lr.shape[-2:]):
            raise ArgumentError(
                f"lr height and width must be multiples of {self.config.lr_multiple} and at least "
                f"{self.config.lr_minimum}, got {tuple(lr.shape[-2:])}; pad the image with pad_to_fit"
            )
        features, trunk = self.encoder.features(lr)
        return Condition(projected=self.denoiser.project_condition(features), trunk=trunk)

    def encoder_image(self, condition: Condition) -> Tensor:
        """The encoder's own super-resolved image ``(B, 3, scale*h, scale*w)``, clamped to [0, 1]."""
        return self.encoder.image(condition.trunk).clamp(0.0, 1.0)

    def forward(self, xt: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict the noise in ``xt`` ``(B, 3, scale*h, scale*w)`` at the timesteps ``t`` ``(B,)`` int64."""
        return self.denoiser(xt, t, condition.projected)


def build_model(config: ModelConfig) -> DiffSR:
    """A freshly initialised float32 network in training mode; load weights before you use it."""
    return DiffSR(config).float()  # whatever the default dtype is


def pad_to_fit(images: Tensor, config: ModelConfig) -> Tensor:
    """Pad ``(B, C, h, w)`` at the bottom and on the right to a size that the networks accept.

    The padding is a reflection as far as that goes, then the last pixel repeated.
    """
    height, width = (config.fit(side) for side in images.shape[-2:])
    for mode in ("reflect", "replicate"):
        down, across = height - images.shape[-2], width - images.shape[-1]
        if mode == "reflect":
            down, across = min(down, images.shape[-2] - 1), min(across, images.shape[-1] - 1)
        if down or across:
            images = functional.pad(images, (0, across, 0, down), mode=mode)
    return images
