"""The two stages: the encoder by its image, then the denoiser on the modulated noise (section 3.2).

A stage is a module whose ``forward`` is the loss, because that is what is wrapped to share gradients between
processes and to compute in half precision.
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

__all__ = ["DenoiserStage", "Distance", "EncoderStage", "ImageLoss", "Stage", "StageName"]

StageName = Literal["encoder", "denoiser"]
ImageLoss = Literal["l1", "l2", "charbonnier"]

Distance = Callable[[Tensor, Tensor], Tensor]
"""Differentiable distance of two batches of images ``(B, 3, H, W)`` in [-1, 1]; any shape with B values."""

_LAST_OWN_START = 0.6
"""Highest timestep that the encoder's image is noised to, as a share of T."""
_CHARBONNIER = 1e-3
"""The smooth bottom of the Charbonnier loss, in units of [0, 1] images (LapSRN, arXiv 1710.01992, eq. 6)."""


class Stage(nn.Module):
    """What the loop needs to know of a stage.

    Args:
        model: both networks.
        network: the part of it that is trained; everything else is frozen.
        frozen: the part that must be in a checkpoint although it is not trained.
    """

    def __init__(self, model: DiffSR, *, network: nn.Module, frozen: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.network = network
        self.frozen = frozen
        model.requires_grad_(False)
        network.requires_grad_(True).train()

    def draw(self, hr_shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The random tensors of one step, a row for each image of its whole batch.

        Args:
            hr_shape: ``(B, 3, H, W)`` of all images of the step, whichever process sees them.
            generator: where every random number comes from; its device is the tensors'.
        """
        raise NotImplementedError("a stage says what it draws")

    def forward(self, batch: TrainingBatch, *drawn: Tensor) -> Tensor:
        """Scalar loss of some rows of a batch.

        Args:
            batch: the rows.
            drawn: the same rows of what :meth:`draw` gave.
        """
        raise NotImplementedError("a stage says what its loss is")


class EncoderStage(Stage):
    """Stage 1: the encoder's own image, not clamped, against HR.

    Args:
        model: both networks.
        loss: mean of absolute differences, of squares, or of ``sqrt(difference^2 + 0.001^2)``.
    """

    def __init__(self, model: DiffSR, *, loss: ImageLoss = "l1") -> None:
        super().__init__(model, network=model.encoder, frozen=None)
        self.loss_name: ImageLoss = loss

    def draw(self, hr_shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Nothing here is random."""
        return ()

    def forward(self, batch: TrainingBatch, *drawn: Tensor) -> Tensor:
        """Error of the image in [0, 1] units."""
        image = self.network(batch.lr).float()
        if self.loss_name == "l2":
            return functional.mse_loss(image, batch.hr)
        if self.loss_name == "charbonnier":
            return ((image - batch.hr).square() + _CHARBONNIER**2).sqrt().mean()
        return functional.l1_loss(image, batch.hr)


class DenoiserStage(Stage):
    """Stage 2: L1 between predicted and modulated noise, with the encoder frozen.

    Args:
        model: both networks.
        config: the forward process and the parts of the loss.
        device: where the schedule lies.
        distance: LPIPS of two batches of images in [-1, 1], a number for each pair; needed where
            ``config.perceptual`` is above 0.

    Raises:
        ConfigError: ``config.perceptual`` is above 0 and there is no ``distance``.
    """

    def __init__(
        self,
        model: DiffSR,
        config: DiffusionConfig,
        *,
        device: torch.device,
        distance: Distance | None = None,
    ) -> None:
        super().__init__(model, network=model.denoiser, frozen=model.encoder)
        if config.perceptual > 0 and distance is None:
            raise ConfigError(
                "diffusion.perceptual is above 0, but there is no perceptual distance; pass distance="
            )
        self.config = config
        self.distance = distance
        self.schedule = NoiseSchedule.from_config(config.schedule).to(device)
        model.encoder.eval()

    def draw(self, hr_shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Timesteps ``(B,)``, normal noise ``(B, 3, H, W)``, and rows ``(B,)`` from the encoder's image."""
        device, steps, rows = generator.device, self.schedule.timesteps, hr_shape[0]
        uniform = torch.rand(rows, generator=generator, device=device)
        t = (uniform.pow(self.config.timestep_power) * steps).long().clamp(max=steps - 1)
        noise = torch.randn(hr_shape, generator=generator, device=device)
        own = torch.rand(rows, generator=generator, device=device) < self.config.encoder_starts
        return torch.where(own, t.clamp(max=int(_LAST_OWN_START * steps)), t), noise, own

    def forward(self, batch: TrainingBatch, *drawn: Tensor) -> Tensor:
        """Mean absolute error of the predicted noise; of the residual where the encoder's image is noised."""
        t, noise, own = drawn
        model, config = self.model, self.config
        with torch.no_grad():
            features, trunk = model.encoder.features(batch.lr)
            lr_up = 2 * imresize(batch.lr * (255 / config.lr_up_levels), model.config.scale) - 1
            x0 = image_to_residual(batch.hr * 2 - 1, lr_up, residual_scale=config.residual_scale)
            start = x0
            if config.encoder_starts > 0:
                image = model.encoder.image(trunk).float().clamp(0, 1) * 2 - 1
                guess = image_to_residual(image, lr_up, residual_scale=config.residual_scale)
                start = torch.where(own[:, None, None, None], guess, x0)
            xt, target = modulate(start, t, noise, batch.structure, self.schedule, mode=config.modulation)
        condition = model.denoiser.project_condition([feature.float() for feature in features])
        predicted = model.denoiser(xt, t, condition).float()
        if config.encoder_starts == 0:
            return functional.l1_loss(predicted, target)

        # rows from the truth: error of the noise
        share = 1 / len(own)
        loss = ((predicted - target).abs().mean((1, 2, 3)) * ~own).sum() * share
        if not bool(own.any()):
            return loss

        # rows from the encoder's image: error of the residual, and of what the eye sees
        signal = self.schedule.at(self.schedule.sqrt_alphas_cumprod, t)
        spread = self.schedule.at(self.schedule.sqrt_one_minus_alphas_cumprod, t)
        residual = ((xt - spread * predicted) / signal)[own]
        loss = loss + (residual - x0[own]).abs().mean((1, 2, 3)).sum() * share
        if self.distance is not None and config.perceptual > 0:
            sr = residual / config.residual_scale + lr_up[own]
            loss = loss + config.perceptual * share * self.distance(sr, batch.hr[own] * 2 - 1).sum()
        return loss
