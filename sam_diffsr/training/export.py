"""Exports a denoiser run to a model folder for ``from_pretrained``, with the averaged weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from sam_diffsr.device import Precision
from sam_diffsr.errors import CheckpointMismatchError, DataError
from sam_diffsr.pipeline.card import model_card
from sam_diffsr.pipeline.checkpoint import save_pretrained_folder
from sam_diffsr.pipeline.config import NormalizationConfig, ResolverConfig, SamplingConfig
from sam_diffsr.training.card import data_section, scores_for_card, training_section
from sam_diffsr.training.config import TrainConfig
from sam_diffsr.training.state import read_checkpoint


def export_run(
    run: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    sampling: SamplingConfig,
    name: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    scores: str | os.PathLike[str] | None = None,
    details: str = "",
    dtype: Precision | torch.dtype | None = None,
) -> ResolverConfig:
    """Write ``config.json``, ``model.safetensors`` and a model card from a denoiser run.

    The card describes the training data (from the manifest of the crops, with the licence of every
    photograph), settings and hours of both stages (from their checkpoints and logs), and scores. Facts that
    cannot be found are left out, with a warning.

    Args:
        run: folder of a denoiser run (its newest checkpoint) or one checkpoint, which has both networks.
        out_dir: folder to write.
        sampling: default sampling of the exported model.
        name: title of the card; None takes the folder's name.
        license: SPDX identifier of the weights' licence.
        datasets: Hub ids or names of the data sets, for the card's front matter.
        scores: JSON file of ``sam-diffsr evaluate`` that has a model with this sampling on inputs without
            damage; of several models the one called ``name``.
        details: Markdown for the end of the card.
        dtype: floating type to store; None keeps float32, ``"fp16"`` halves the file.

    Returns:
        The config that was written.

    Raises:
        CheckpointMismatchError: the run is of the encoder, which is half a model.
        ModelLoadError: there is no checkpoint, or it is damaged.
        DataError: the file of scores cannot be read, has another scale, or does not have this model.
        OutputError: the folder cannot be written.
    """
    # everything is read and checked before anything is written
    checkpoint = read_checkpoint(run)
    if checkpoint.stage != "denoiser":
        raise CheckpointMismatchError(
            f"{checkpoint.path} is of stage {checkpoint.stage!r}; train the denoiser with it and export that "
            "run"
        )
    config = resolver_config(checkpoint.train_config(), sampling=sampling)
    name = name or os.path.basename(os.path.abspath(out_dir))
    front, scored = ([], "") if scores is None else scores_for_card(scores, config, name=name)
    sections = filter(None, (scored, data_section(checkpoint), training_section(checkpoint), details.strip()))
    card = model_card(
        config, name=name, license=license, datasets=datasets, front=front, details="\n\n".join(sections)
    )
    state_dict = {f"encoder.{key}": value for key, value in checkpoint.frozen.items()}
    state_dict |= {f"denoiser.{key}": value for key, value in checkpoint.ema.items()}
    save_pretrained_folder(out_dir, config, state_dict, card=card, dtype=dtype)
    return config


def resolver_config(config: TrainConfig, *, sampling: SamplingConfig) -> ResolverConfig:
    """Config for inference that follows from a training configuration."""
    diffusion = config.diffusion
    return ResolverConfig(
        model=config.model,
        schedule=diffusion.schedule,
        normalization=NormalizationConfig(
            residual_scale=diffusion.residual_scale, lr_up_levels=diffusion.lr_up_levels
        ),
        modulation=diffusion.modulation,
        degradation="bicubic" if config.data.damage is None else "photo",
        sampling=sampling,
    )


def read_details(path: str | os.PathLike[str]) -> str:
    """Read a Markdown file for the card; raises ``DataError`` if it is not readable UTF-8 text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the details in {path}: {error}") from error
