"""A finished run to a ``from_pretrained`` folder, with the averaged weights."""

from __future__ import annotations

import os

import torch

from sam_diffsr.config import from_dict
from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.checkpoint import save_pretrained_folder
from sam_diffsr.pipeline.config import NormalizationConfig, ResolverConfig, SamplingConfig
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.state import Checkpoint, read_checkpoint

__all__ = ["export_run", "resolver_config"]


def export_run(
    run: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    sampling: SamplingConfig,
    name: str | None = None,
    license: str | None = None,
    details: str = "",
    dtype: torch.dtype | None = None,
) -> ResolverConfig:
    """Write ``config.json``, ``model.safetensors`` and a model card from a denoiser run.

    Args:
        run: folder of a denoiser run (its newest checkpoint) or one checkpoint; both networks are in it.
        out_dir: folder to write.
        sampling: what ``upscale`` does by default.
        name: title of the card; None takes the folder's name.
        license: SPDX identifier of the weights' licence.
        details: Markdown for the card: data, scores. How the run was made is added.
        dtype: floating type to store; None keeps float32, ``torch.float16`` halves the file.

    Returns:
        The config that was written.

    Raises:
        CheckpointMismatchError: the run is of the encoder, which is only half a model.
        ModelLoadError: there is no checkpoint, or it is damaged.
        OutputError: the folder cannot be written.
    """
    checkpoint = read_checkpoint(run)
    if checkpoint.stage != "denoiser":
        raise CheckpointMismatchError(
            f"{checkpoint.path} is of stage {checkpoint.stage!r}; train the denoiser on it and export "
            "that run"
        )
    train_config = from_dict(TrainConfig, checkpoint.config, where=f"config in {checkpoint.path}")
    config = resolver_config(train_config, sampling=sampling)
    state_dict = {f"encoder.{key}": value for key, value in checkpoint.frozen.items()}
    state_dict |= {f"denoiser.{key}": value for key, value in checkpoint.ema.items()}
    title = name or os.path.basename(os.path.abspath(out_dir))
    text = "\n\n".join(
        part for part in (details.strip(), _training_section(checkpoint, train_config)) if part
    )
    card = model_card(config, name=title, license=license, details=text)
    save_pretrained_folder(out_dir, config, state_dict, card=card, dtype=dtype)
    return config


def resolver_config(config: TrainConfig, *, sampling: SamplingConfig) -> ResolverConfig:
    """What inference needs to know of a training configuration."""
    diffusion = config.diffusion
    return ResolverConfig(
        model=config.model,
        schedule=diffusion.schedule,
        normalization=NormalizationConfig(
            residual_scale=diffusion.residual_scale, lr_up_levels=diffusion.lr_up_levels
        ),
        modulation=diffusion.modulation,
        sampling=sampling,
    )


def _training_section(checkpoint: Checkpoint, config: TrainConfig) -> str:
    data, optimizer, run = config.data, config.optimizer, config.run
    rows = {
        "denoiser steps": f"{checkpoint.step} of batch {data.batch}",
        "patch": f"{data.patch} x {data.patch} HR pixels",
        "optimizer": f"{optimizer.name}, lr {optimizer.lr:g} ({optimizer.schedule}), clip {optimizer.clip:g}",
        "averaged weights": f"decay {run.ema_decay:g}",
        "seed": str(run.seed),
    }
    lines = ["## Training", "", "| | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in rows.items()])
