"""The two stages of training: the encoder by L1, then the denoiser on the modulated noise (section 3.2)."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.data.degrade import TrainingBatch
from sam_diffsr.diffusion.modulation import modulate
from sam_diffsr.diffusion.process import image_to_residual
from sam_diffsr.diffusion.schedule import NoiseSchedule
from sam_diffsr.models import DiffSR
from sam_diffsr.resize import imresize
from sam_diffsr.training.config import DiffusionConfig

__all__ = ["DenoiserStage", "EncoderStage", "Stage", "StageName"]

StageName = Literal["encoder", "denoiser"]


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    model: DiffSR
    """Both networks."""
    network: nn.Module
    """The part that is trained."""
    frozen: nn.Module | None
    """The part that must be in a checkpoint although it is not trained."""

    def loss(self, batch: TrainingBatch, *, generator: torch.Generator) -> Tensor:
        """Scalar loss of one batch; every random number comes from ``generator``."""
        ...


class EncoderStage:
    """Stage 1: L1 between the encoder's own image, not clamped, and HR."""

    def __init__(self, model: DiffSR) -> None:
        self.model = model
        self.network: nn.Module = model.encoder
        self.frozen: nn.Module | None = None
        model.encoder.train()

    def loss(self, batch: TrainingBatch, *, generator: torch.Generator) -> Tensor:
        """Mean absolute error in [0, 1] units; nothing here is random."""
        return functional.l1_loss(self.network(batch.lr), batch.hr)


class DenoiserStage:
    """Stage 2: L1 between predicted and modulated noise, with the encoder frozen."""

    def __init__(self, model: DiffSR, config: DiffusionConfig, *, device: torch.device) -> None:
        self.model = model
        self.network: nn.Module = model.denoiser
        self.frozen: nn.Module | None = model.encoder
        self.config = config
        self.schedule = NoiseSchedule.from_config(config.schedule).to(device)
        model.encoder.eval().requires_grad_(False)
        model.denoiser.train()

    def loss(self, batch: TrainingBatch, *, generator: torch.Generator) -> Tensor:
        """Mean absolute error of the predicted noise at uniformly drawn time steps."""
        model, scale = self.model, self.model.config.scale
        with torch.no_grad():
            features = model.encoder.features(batch.lr)
            chosen = [features[index].float() for index in model.config.encoder.condition_indices]
            lr_up = imresize(batch.lr * (255 / self.config.lr_up_levels), scale)
            x0 = image_to_residual(batch.hr * 2 - 1, lr_up * 2 - 1, residual_scale=self.config.residual_scale)
            device, count = x0.device, len(x0)
            t = torch.randint(self.schedule.timesteps, (count,), generator=generator, device=device)
            noise = torch.randn(x0.shape, generator=generator, device=device)
            xt, target = modulate(x0, t, noise, batch.structure, self.schedule, mode=self.config.modulation)
        predicted = model.denoiser(xt, t, model.denoiser.project_condition(chosen))
        return functional.l1_loss(predicted.float(), target)
