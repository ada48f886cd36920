"""Converts checkpoints of other code into model folders: published SAM-DiffSR and SRDiff, and RRDBNet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from sam_diffsr.device import Precision, resolve_dtype
from sam_diffsr.diffusion.schedule import ScheduleConfig, ScheduleName
from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models import DenoiserConfig, DiffSR, ModelConfig, read_reference_checkpoint
from sam_diffsr.models.esrgan import is_rrdbnet_file, load_rrdbnet_checkpoint
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.checkpoint import save_pretrained_folder
from sam_diffsr.pipeline.config import NormalizationConfig, ResolverConfig, SamplingConfig

__all__ = ["convert_checkpoint"]

_HALO = 96
"""Output pixels; the published denoiser looks further than the bundled ones."""


def convert_checkpoint(
    checkpoint: str | os.PathLike[str], folder: str | os.PathLike[str], *, dtype: Precision = "auto"
) -> ResolverConfig:
    """Write a folder that :meth:`SuperResolver.from_pretrained` loads, and give its config.

    Sizes are inferred from the tensors; nothing in the file is executed. A published ``.ckpt`` is used as
    published: the schedule of its own betas (or the published one), all ancestral steps, bicubic input
    divided by 256, structure in mode ``released``. An RRDBNet (``.pth`` or ``.safetensors``) becomes a model
    that gives the encoder's image alone; its denoiser is all zeros until it is trained (``diffusion.encoder``
    of a training config). ``dtype`` is the floating type to store; ``auto`` keeps float32.

    Raises:
        ModelLoadError: the checkpoint cannot be read.
        CheckpointMismatchError: its tensors are those of neither network, or its betas are none of the known
            schedules.
        OutputError: the folder cannot be written.
    """
    stored = torch.float32 if dtype == "auto" else resolve_dtype(dtype, torch.device("meta"))
    source = Path(checkpoint)
    if is_rrdbnet_file(source):
        config, state_dict = _from_rrdbnet(source)
        details = f"Converted from the RRDBNet `{source.name}`. The denoiser is not trained."
    else:
        config, state_dict = _from_reference(source)
        details = f"Converted from the published checkpoint `{source.name}`."
    card = model_card(config, name=Path(folder).resolve().name, details=details)
    save_pretrained_folder(folder, config, state_dict, card=card, dtype=stored)
    return config


def _from_reference(source: Path) -> tuple[ResolverConfig, dict[str, Tensor]]:
    model, state_dict, betas = read_reference_checkpoint(source)
    schedule: ScheduleConfig | None = ScheduleConfig()
    if betas is not None and (schedule := ScheduleConfig.of_betas(betas.numpy())) is None:
        raise CheckpointMismatchError(
            f"the {len(betas)} betas of {source} ({betas[0]:.4g} to {betas[-1]:.4g}) are none of the "
            f"schedules {', '.join(get_args(ScheduleName))}; a model with them cannot be sampled correctly"
        )
    config = ResolverConfig(
        model=model,
        schedule=schedule,
        normalization=NormalizationConfig(lr_up_levels=256),
        modulation="released",
        sampling=SamplingConfig(sampler="ddpm", steps=schedule.timesteps),
        halo=_HALO,
    )
    return config, state_dict


def _from_rrdbnet(source: Path) -> tuple[ResolverConfig, dict[str, Tensor]]:
    encoder, scale, tensors = load_rrdbnet_checkpoint(source)
    model = ModelConfig(scale=scale, encoder=encoder, denoiser=DenoiserConfig(dim=8, multipliers=(1, 1)))
    with torch.device("meta"):
        state_dict = DiffSR(model).state_dict()
    state_dict = {
        name: tensors.get(
            name.removeprefix("encoder."), torch.zeros(value.shape, dtype=torch.float32, device="cpu")
        )
        for name, value in state_dict.items()
    }
    return ResolverConfig(model=model, sampling=SamplingConfig(sampler="ddim", steps=0)), state_dict
