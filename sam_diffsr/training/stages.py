"""The loss of each training stage: the encoder's image, then the denoiser's noise (paper section 3.2).

A stage is a module whose ``forward`` is the loss: accelerate wraps it to share gradients between processes
and to compute in half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.data import TrainingBatch
from sam_diffsr.diffusion.modulation import modulate
from sam_diffsr.diffusion.process import image_to_residual
from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.errors import ConfigError
from sam_diffsr.models import DiffSR
from sam_diffsr.resize import imresize
from sam_diffsr.training.config import DiffusionConfig

StageName = Literal["encoder", "denoiser"]
ImageLoss = Literal["l1", "l2", "charbonnier"]

Distance = Callable[[Tensor, Tensor], Tensor]
"""Differentiable distance of two batches of images ``(B, 3, H, W)`` in [-1, 1]; any shape with B values."""

_LAST_ENCODER_START = 0.6
"""Highest timestep that the encoder's image is noised to, as a share of T."""
_CHARBONNIER = 1e-3
"""Epsilon of the Charbonnier loss, for images in [0, 1] (LapSRN, arXiv 1710.01992, eq. 6)."""


class EncoderStage(nn.Module):
    """Stage 1: loss between the encoder's own image, not clamped, and the HR image; trains the encoder alone.

    ``loss`` is the mean of absolute differences, of squares, or of ``sqrt(difference^2 + 0.001^2)``.
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
    """Stage 2: L1 between predicted and modulated noise; trains the denoiser alone.

    ``distance`` is needed if ``config.perceptual`` is above 0.
    """

    def __init__(
        self,
        model: DiffSR,
        config: DiffusionConfig,
        *,
        device: torch.device,
        distance: Distance | None = None,
    ) -> None:
        super().__init__()
        if config.perceptual > 0 and distance is None:
            raise ConfigError(
                "diffusion.perceptual is above 0, but there is no perceptual distance; pass distance="
            )
        self.model, self.config, self.distance = model, config, distance
        self.schedule = NoiseSchedule.from_config(config.schedule).to(device)
        model.requires_grad_(False)
        model.encoder.eval()
        model.denoiser.requires_grad_(True).train()

    def draw(self, hr_shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Random tensors of one step: timesteps ``(B,)``, normal noise ``(B, 3, H, W)``, and ``(B,)`` bool.

        The last one marks the rows that begin at the encoder's image. ``hr_shape`` is ``(B, 3, H, W)`` of the
        batch over all processes. The tensors are on the generator's device.
        """
        device, steps, rows = generator.device, self.schedule.timesteps, hr_shape[0]
        uniform = torch.rand(rows, generator=generator, device=device)
        t = (uniform.pow(self.config.timestep_power) * steps).long().clamp(max=steps - 1)
        noise = torch.randn(hr_shape, generator=generator, device=device)
        own = torch.rand(rows, generator=generator, device=device) < self.config.encoder_starts
        return torch.where(own, t.clamp(max=int(_LAST_ENCODER_START * steps)), t), noise, own

    def forward(self, batch: TrainingBatch, *drawn: Tensor) -> Tensor:
        """Scalar loss of some rows of a batch; ``drawn`` are the same rows of what :meth:`draw` returned."""
        t, noise, own = drawn
        model, config, scale = self.model, self.config, self.config.residual_scale
        condition = model.encode(batch.lr)
        with torch.no_grad():
            lr_up = 2 * imresize(batch.lr * (255 / config.lr_up_levels), model.config.scale) - 1
            x0 = image_to_residual(batch.hr * 2 - 1, lr_up, residual_scale=scale)
            start = x0
            if config.encoder_starts > 0:
                image = model.encoder_image(condition).float() * 2 - 1
                guess = image_to_residual(image, lr_up, residual_scale=scale)
                start = torch.where(own[:, None, None, None], guess, x0)
            xt, target = modulate(start, t, noise, batch.structure, self.schedule, mode=config.modulation)
        predicted = model(xt, t, condition).float()
        if config.encoder_starts == 0:
            return functional.l1_loss(predicted, target)

        # rows that begin at the truth: error of the noise
        share = 1 / len(own)
        loss = ((predicted - target).abs().mean((1, 2, 3)) * ~own).sum() * share
        if not bool(own.any()):
            return loss

        # rows that begin at the encoder's image: error of the residual, and of what the eye sees
        signal = self.schedule.at(self.schedule.sqrt_alphas_cumprod, t)
        spread = self.schedule.at(self.schedule.sqrt_one_minus_alphas_cumprod, t)
        residual = ((xt - spread * predicted) / signal)[own]
        loss = loss + (residual - x0[own]).abs().mean((1, 2, 3)).sum() * share
        if self.distance is not None and config.perceptual > 0:
            sr = residual / scale + lr_up[own]
            loss = loss + config.perceptual * share * self.distance(sr, batch.hr[own] * 2 - 1).sum()
        return loss


Stage = EncoderStage | DenoiserStage
