"""Reads checkpoints in the layout of the published SAM-DiffSR and SRDiff code.

The published file is a pickled dictionary ``{"state_dict": {"model": {...}}, ...}``. Only its tensors are
read; sizes are inferred from their shapes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models.config import DenoiserConfig, EncoderConfig, ModelConfig
from sam_diffsr.models.weights import SHOWN, check_state_dict, count_modules, float_weights, read_tensors

__all__ = ["load_reference_checkpoint", "read_reference_checkpoint"]

_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^rrdb\.RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\.", r"encoder.trunk.\1.dense.<\2>.convs.<\3>."),
    (r"^rrdb\.upconv(\d)\.", r"encoder.upsample.<\1>."),
    (r"^rrdb\.HRconv\.", "encoder.conv_hr."),
    (r"^rrdb\.", "encoder."),
    (r"^denoise_fn\.cond_proj\.", "denoiser.condition_projection."),
    (r"^denoise_fn\.mlp\.0\.", "denoiser.time_embedding.expand."),
    (r"^denoise_fn\.mlp\.2\.", "denoiser.time_embedding.project."),
    (r"^denoise_fn\.(downs|ups)\.(\d+)\.([01])\.", r"denoiser.\1.\2.block<+\3>."),
    (r"^denoise_fn\.downs\.(\d+)\.2\.conv\.1\.", r"denoiser.downs.\1.downsample.conv."),
    (r"^denoise_fn\.ups\.(\d+)\.2\.conv\.0\.", r"denoiser.ups.\1.upsample."),
    (r"^denoise_fn\.mid_block([12])\.", r"denoiser.mid\1."),
    (r"^denoise_fn\.final_conv\.0\.block\.1\.", "denoiser.final_block.conv."),
    (r"^denoise_fn\.final_conv\.1\.", "denoiser.final_conv."),
)
_RESIDUAL_RENAMES: tuple[tuple[str, str], ...] = (
    (r"\.mlp\.1\.(weight|bias)$", r".time.\1"),
    (r"\.block([12])\.block\.1\.", r".block\1.conv."),
    (r"\.res_conv\.", ".shortcut."),
)
_SCHEDULE_TABLES = re.compile(r"^(betas|alphas_cumprod(_prev)?|posterior_\w+|(sqrt|log)_\w*alphas_cumprod)$")


def read_reference_checkpoint(
    path: str | os.PathLike[str],
) -> tuple[ModelConfig, dict[str, Tensor], Tensor | None]:
    """Read a published ``.ckpt`` (zip or legacy format); optimizer states are ignored.

    Returns:
        The config inferred from the tensors' shapes; float32 tensors with the keys of
        ``build_model(config).state_dict()``; the ``(T,)`` float64 noise variances, if the file has them.

    Raises:
        ModelLoadError: the file is missing, truncated, or holds anything but tensors and plain values.
        CheckpointMismatchError: its keys or shapes are not those of the published networks.
    """
    source = Path(path)
    tensors = read_tensors(source, wrappers=("state_dict", "model"))
    weights = {key: value for key, value in tensors.items() if not _SCHEDULE_TABLES.match(key)}
    state_dict = float_weights(weights, _RENAMES, _RESIDUAL_RENAMES)
    config = _infer_config(state_dict, source)
    check_state_dict(state_dict, config, source=str(source))
    betas = tensors.get("betas")
    return config, state_dict, None if betas is None else betas.to(torch.float64)


def load_reference_checkpoint(path: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and the weights of :func:`read_reference_checkpoint`, with the same errors."""
    config, state_dict, _ = read_reference_checkpoint(path)
    return config, state_dict


def _infer_config(tensors: dict[str, Tensor], source: Path) -> ModelConfig:
    try:
        channels = tensors["encoder.conv_first.weight"].shape[0]
        growth = tensors["encoder.trunk.0.dense.0.convs.0.weight"].shape[0]
        dim = tensors["denoiser.time_embedding.project.weight"].shape[0]
        kernel = tensors["denoiser.condition_projection.weight"].shape[-1]
        blocks = count_modules(tensors, r"^encoder\.trunk\.(\d+)\.")
        levels = count_modules(tensors, r"^denoiser\.downs\.(\d+)\.")
        widths = [
            tensors[f"denoiser.downs.{level}.block1.block1.conv.weight"].shape[0] for level in range(levels)
        ]
    except KeyError as error:
        raise CheckpointMismatchError(
            f"{source} is not a SAM-DiffSR checkpoint: no tensor for {error}; it has "
            f"{sorted(tensors)[:SHOWN]} ..."
        ) from error
    scale = kernel // 2
    if kernel % 2 or scale not in (2, 4, 8) or any(width % dim for width in widths):
        raise CheckpointMismatchError(
            f"{source}: cannot infer the sizes from a condition kernel of {kernel} (expected 4, 8 or 16) "
            f"and level widths {widths} (expected multiples of {dim})"
        )
    return ModelConfig(
        scale=scale,
        encoder=EncoderConfig(blocks=blocks, channels=channels, growth=growth),
        denoiser=DenoiserConfig(dim=dim, multipliers=tuple(width // dim for width in widths)),
    )
