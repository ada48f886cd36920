"""The two stages: the encoder by its image, then the denoiser on the modulated noise (section 3.2).

A stage is a module whose ``forward`` is the loss, because that is what is wrapped to share gradients between
processes and to compute in half precision.
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
    """Stage 2: L1 between predicted and modulated noise, with the encoder frozen."""

    def __init__(self, model: DiffSR, config: DiffusionConfig, *, device: torch.device) -> None:
        super().__init__(model, network=model.denoiser, frozen=model.encoder)
        self.config = config
        self.schedule = NoiseSchedule.from_config(config.schedule).to(device)
        model.encoder.eval()

    def draw(self, hr_shape: tuple[int, ...], *, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Timesteps ``(B,)``, see ``DiffusionConfig.timestep_power``, and normal noise ``(B, 3, H, W)``."""
        device, steps = generator.device, self.schedule.timesteps
        uniform = torch.rand(hr_shape[0], generator=generator, device=device)
        t = (uniform.pow(self.config.timestep_power) * steps).long().clamp(max=steps - 1)
        return t, torch.randn(hr_shape, generator=generator, device=device)

    def forward(self, batch: TrainingBatch, *drawn: Tensor) -> Tensor:
        """Mean absolute error of the predicted noise."""
        t, noise = drawn
        model, scale = self.model, self.model.config.scale
        with torch.no_grad():
            features = [feature.float() for feature in model.encoder.features(batch.lr)[0]]
            lr_up = imresize(batch.lr * (255 / self.config.lr_up_levels), scale)
            x0 = image_to_residual(batch.hr * 2 - 1, lr_up * 2 - 1, residual_scale=self.config.residual_scale)
            xt, target = modulate(x0, t, noise, batch.structure, self.schedule, mode=self.config.modulation)
        predicted = model.denoiser(xt, t, model.denoiser.project_condition(features))
        return functional.l1_loss(predicted.float(), target)
