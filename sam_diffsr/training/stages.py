"""The loss of each training stage: the encoder's image, then the denoiser's noise (paper section 3.2).

A stage is a module whose ``forward`` is the loss: accelerate wraps it to share gradients between processes
and to compute in half precision.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.data import TrainingBatch
from sam_diffsr.diffusion.modulation import modulate
from sam_diffsr.diffusion.process import image_to_residual
from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.models import DiffSR
from sam_diffsr.resize import imresize
from sam_diffsr.training.config import DiffusionConfig

__all__ = ["DenoiserStage", "EncoderStage", "ImageLoss", "Stage", "StageName"]

StageName = Literal["encoder", "denoiser"]
ImageLoss = Literal["l1", "l2", "charbonnier"]

_CHARBONNIER = 1e-3
"""Epsilon of the Charbonnier loss, for images in [0, 1] (LapSRN, arXiv 1710.01992, eq. 6)."""


class EncoderStage(nn.Module):
    """Stage 1: loss between the encoder's own image, not clamped, and the HR image.

    Args:
        model: both networks; only the encoder is trained.
        loss: mean of absolute differences, of squares, or of ``sqrt(difference^2 + 0.001^2)``.
    """

    def __init__(self, model: DiffSR, *, loss: ImageLoss = "l1") -> None:
        super().__init__()
        self.model, self.loss_name = model, loss
        model.requires_grad_(False)
        model.encoder.requires_grad_(True).train()

    def draw(self, hr_shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random tensors of one step: none."""
        return ()

    def forward(self, batch: TrainingBatch, *drawn: Tensor) -> Tensor:
        """Scalar loss of some rows of a batch, for images in [0, 1]."""
        image = self.model.encoder(batch.lr).float()
        if self.loss_name == "l2":
            return functional.mse_loss(image, batch.hr)
        if self.loss_name == "charbonnier":
            return ((image - batch.hr).square() + _CHARBONNIER**2).sqrt().mean()
        return functional.l1_loss(image, batch.hr)


class DenoiserStage(nn.Module):
    """Stage 2: L1 between predicted and modulated noise.

    Args:
        model: both networks; only the denoiser is trained.
        config: forward process.
        device: device of the schedule's tables.
    """

    def __init__(self, model: DiffSR, config: DiffusionConfig, *, device: torch.device) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.schedule = NoiseSchedule.from_config(config.schedule).to(device)
        model.requires_grad_(False)
        model.encoder.eval()
        model.denoiser.requires_grad_(True).train()

    def draw(self, hr_shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random tensors of one step: uniform timesteps ``(B,)`` and normal noise ``(B, 3, H, W)``.

        Args:
            hr_shape: ``(B, 3, H, W)`` of the step's whole batch, over all processes.
            generator: source of all random numbers; its device is that of the tensors.
        """
        device = generator.device
        t = torch.randint(self.schedule.timesteps, hr_shape[:1], generator=generator, device=device)
        return t, torch.randn(hr_shape, generator=generator, device=device)

    def forward(self, batch: TrainingBatch, *drawn: Tensor) -> Tensor:
        """Scalar loss of some rows of a batch; ``drawn`` are the same rows of what :meth:`draw` returned."""
        t, noise = drawn
        config, scale = self.config, self.model.config.scale
        with torch.no_grad():
            lr_up = imresize(batch.lr * (255 / config.lr_up_levels), scale)
            x0 = image_to_residual(batch.hr * 2 - 1, lr_up * 2 - 1, residual_scale=config.residual_scale)
            xt, target = modulate(x0, t, noise, batch.structure, self.schedule, mode=config.modulation)
        predicted = self.model(xt, t, self.model.encode(batch.lr))
        return functional.l1_loss(predicted.float(), target)


Stage = EncoderStage | DenoiserStage
