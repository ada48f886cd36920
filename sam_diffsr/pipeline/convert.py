"""Converts a published checkpoint into a model folder, with the settings of its training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from sam_diffsr.device import Precision, resolve_dtype
from sam_diffsr.diffusion.schedule import NoiseSchedule, ScheduleConfig, ScheduleName
from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models import read_reference_checkpoint
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.checkpoint import save_pretrained_folder
from sam_diffsr.pipeline.config import NormalizationConfig, ResolverConfig, SamplingConfig

__all__ = ["convert_reference_checkpoint"]

_TOLERANCE = 1e-5
_HALO = 96
"""Output pixels; the published denoiser looks further than the bundled ones."""


def convert_reference_checkpoint(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    dtype: Precision = "auto",
) -> ResolverConfig:
    """Write a folder that :meth:`SuperResolver.from_pretrained` loads.

    The sizes are inferred from the tensors and the schedule from the checkpoint's own betas; a file without
    betas is taken to have the published schedule. The weights are used as published: all ancestral steps,
    bicubic input divided by 256, structure in mode ``released``.

    Args:
        checkpoint: a published ``.ckpt``; nothing in it is executed.
        folder: created if it does not exist.
        dtype: floating type to store; ``auto`` keeps float32.

    Returns:
        The config that was written.

    Raises:
        ModelLoadError: the checkpoint cannot be read.
        CheckpointMismatchError: its tensors are not those of the published networks, or its betas are none
            of the known schedules.
        OutputError: the folder cannot be written.
    """
    stored = torch.float32 if dtype == "auto" else resolve_dtype(dtype, torch.device("meta"))
    model, state_dict, betas = read_reference_checkpoint(checkpoint)
    schedule = ScheduleConfig() if betas is None else _identify(betas, source=checkpoint)
    config = ResolverConfig(
        model=model,
        schedule=schedule,
        normalization=NormalizationConfig(lr_up_levels=256),
        modulation="released",
        sampling=SamplingConfig(sampler="ddpm", steps=schedule.timesteps),
        halo=_HALO,
    )
    details = f"Converted from the published checkpoint `{Path(checkpoint).name}`."
    card = model_card(config, name=Path(folder).resolve().name, details=details)
    save_pretrained_folder(folder, config, state_dict, card=card, dtype=stored)
    return config


def _identify(betas: Tensor, *, source: str | os.PathLike[str]) -> ScheduleConfig:
    """The named schedule that has these betas."""
    for name in get_args(ScheduleName):
        config = ScheduleConfig(timesteps=len(betas), name=name)
        known = NoiseSchedule.from_config(config, dtype=torch.float64).betas
        if torch.allclose(known, betas, rtol=0.0, atol=_TOLERANCE):
            return config
    raise CheckpointMismatchError(
        f"the {len(betas)} betas of {os.fspath(source)} ({betas[0]:.4g} to {betas[-1]:.4g}) are none of the "
        f"schedules {', '.join(get_args(ScheduleName))}; a model with them cannot be sampled correctly"
    )
