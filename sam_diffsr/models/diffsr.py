"""Encoder and denoiser as one network, and the condition that passes between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sam_diffsr.errors import ArgumentError
from sam_diffsr.models.config import ModelConfig
from sam_diffsr.models.rrdb import RRDBEncoder
from sam_diffsr.models.unet import UNet

__all__ = ["Condition", "DiffSR", "Features", "build_model"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What the denoiser knows of the low-resolution image; computed once per image."""

    projected: Tensor
    """``(B, C0, scale*h, scale*w)``, added after the first level of the denoiser."""
    trunk: Tensor
    """``(B, C, h, w)``, the encoder's fused trunk; its image head starts from it."""
    scale: int
    """High-resolution pixels per low-resolution pixel."""

    def window(self, rows: slice, columns: slice) -> Condition:
        """The condition of a rectangle, as views.

        Args:
            rows: high-resolution rows; start and stop must be multiples of the scale.
            columns: high-resolution columns, likewise.

        Raises:
            ArgumentError: a bound is missing or not a multiple of the scale.
        """
        top, bottom, left, right = low_resolution_bounds(rows, columns, scale=self.scale)
        return Condition(
            projected=self.projected[:, :, rows, columns],
            trunk=self.trunk[:, :, top:bottom, left:right],
            scale=self.scale,
        )


@dataclass(frozen=True, slots=True)
class Features:
    """What the encoder sees, before it is brought to high resolution: a fraction of a condition's memory."""

    chosen: Tensor
    """``(B, n*C, h, w)``, the outputs that the denoiser is conditioned on, one after the other."""
    trunk: Tensor
    """``(B, C, h, w)``, the fused trunk; a view of the last of them where it is one of them."""


def low_resolution_bounds(rows: slice, columns: slice, *, scale: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right in low-resolution pixels of a window of high-resolution ones.

    Raises:
        ArgumentError: a bound is missing or not a multiple of the scale.
    """
    bounds = (rows.start, rows.stop, columns.start, columns.stop)
    if any(bound is None or bound % scale for bound in bounds):
        raise ArgumentError(
            f"a condition window needs bounds that are multiples of the scale {scale}, got "
            f"rows {rows.start}:{rows.stop} and columns {columns.start}:{columns.stop}"
        )
    top, bottom, left, right = (bound // scale for bound in bounds)
    return top, bottom, left, right


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
        """Look at the low-resolution image; :meth:`features`, then :meth:`project`.

        Args:
            lr: see :meth:`features`.

        Returns:
            The condition for :meth:`forward`.

        Raises:
            ArgumentError: wrong rank, channels or size.
        """
        return self.project(self.features(lr))

    def features(self, lr: Tensor) -> Features:
        """Look at the low-resolution image, at its own resolution.

        Args:
            lr: ``(B, 3, h, w)`` float in [0, 1]; ``h`` and ``w`` multiples of ``config.lr_multiple``
                and at least ``config.lr_minimum``.

        Returns:
            For :meth:`project`.

        Raises:
            ArgumentError: wrong rank, channels or size.
        """
        multiple, minimum = self.config.lr_multiple, self.config.lr_minimum
        if lr.ndim != 4 or lr.shape[1] != 3:
            raise ArgumentError(f"lr must have shape (B, 3, h, w), got {tuple(lr.shape)}")
        if min(lr.shape[-2:]) < minimum or any(size % multiple for size in lr.shape[-2:]):
            raise ArgumentError(
                f"lr height and width must be multiples of {multiple} and at least {minimum}, got "
                f"{tuple(lr.shape[-2:])}; pad the image first (SuperResolver does)"
            )
        indices = self.config.encoder.condition_indices
        last = self.config.encoder.blocks
        kept = self.encoder.features(lr, keep={*indices, last})
        chosen = torch.cat(kept if last in indices else kept[:-1], dim=1)
        channels = self.config.encoder.channels
        return Features(chosen=chosen, trunk=chosen[:, -channels:] if last in indices else kept[-1])

    def project(self, features: Features) -> Condition:
        """Bring features to high resolution, where the denoiser adds them; independent of ``t``."""
        projected = self.denoiser.project_condition([features.chosen])
        return Condition(projected=projected, trunk=features.trunk, scale=self.config.scale)

    def encoder_image(self, condition: Condition | Features) -> Tensor:
        """The encoder's own super-resolved image ``(B, 3, scale*h, scale*w)``, clamped to [0, 1]."""
        return self.encoder.image(condition.trunk).clamp(0.0, 1.0)

    def forward(self, xt: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict the noise in ``xt``.

        Args:
            xt: ``(B, 3, scale*h, scale*w)`` noisy residual.
            t: ``(B,)`` int64, 0-based.
            condition: from :meth:`encode`.

        Returns:
            ``(B, 3, scale*h, scale*w)``.
        """
        return self.denoiser(xt, t, condition.projected)


def build_model(config: ModelConfig) -> DiffSR:
    """A freshly initialised float32 network in training mode; load weights before you use it."""
    return DiffSR(config)
