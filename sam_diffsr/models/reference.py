"""Reads checkpoints in the layout of the published SAM-DiffSR and SRDiff code.

The published file is a pickled dictionary ``{"state_dict": {"model": {...}}, ...}``. It is read with
``weights_only=True``, so nothing in it is ever executed; sizes are inferred from the tensors' shapes.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.models.config import DenoiserConfig, EncoderConfig, ModelConfig
from sam_diffsr.models.diffsr import DiffSR

__all__ = ["load_reference_betas", "load_reference_checkpoint"]

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
_WRAPPER = re.compile(r"^(module\.|model\.)+")
_SHOWN = 10


def load_reference_checkpoint(path: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a published ``.ckpt`` (zip or legacy format) as a config and our own state dict.

    Args:
        path: the file. ``module.`` and ``model.`` prefixes are stripped; optimizer states and the
            schedule's tables are ignored.

    Returns:
        The config inferred from the tensors' shapes, and float32 tensors with the keys of
        ``build_model(config).state_dict()``.

    Raises:
        ModelLoadError: the file is missing, truncated, or holds anything but tensors and plain values.
        CheckpointMismatchError: its keys or shapes are not those of the published networks.
    """
    source = Path(path)
    tensors = _strip(_find_state_dict(_read(source), source))
    renamed = {_rename(key): value for key, value in tensors.items() if not _SCHEDULE_TABLES.match(key)}
    config = _infer_config(renamed, source)
    _check(renamed, config, source)
    return config, {key: value.detach().to(torch.float32).contiguous() for key, value in renamed.items()}


def load_reference_betas(path: str | os.PathLike[str]) -> Tensor | None:
    """Read the noise variances that a published ``.ckpt`` was trained with.

    Args:
        path: the file.

    Returns:
        ``(T,)`` float64, or None if the file does not say.

    Raises:
        ModelLoadError: the file is missing, truncated, or holds anything but tensors and plain values.
        CheckpointMismatchError: it holds no state dict.
    """
    source = Path(path)
    betas = _strip(_find_state_dict(_read(source), source)).get("betas")
    return None if betas is None else betas.detach().to(torch.float64)


def _read(source: Path) -> Any:
    if not source.is_file():
        raise ModelLoadError(f"no checkpoint at {source}; expected a published .ckpt file")
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{source} is not a readable checkpoint, or it holds more than tensors and plain values and "
            "was refused, because loading such a file can run code; re-save only its state dict"
        ) from error
    except Exception as error:  # a damaged stream can make the unpickler raise anything
        raise ModelLoadError(
            f"{source} cannot be read as a torch checkpoint (truncated or not one at all): {error}"
        ) from error


def _find_state_dict(content: Any, source: Path) -> dict[str, Tensor]:
    """Descend through ``state_dict`` and ``model`` to the mapping of names to tensors."""
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):  # pyright: ignore[reportUnknownMemberType]
            content = cast("Mapping[str, Any]", content)[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointMismatchError(
            f"{source} holds no state dict; expected state_dict -> model -> tensors"
        )
    entries = cast("Mapping[Any, Any]", content)
    strange = [str(key) for key, value in entries.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointMismatchError(
            f"{source}: expected only tensors in its state dict, but {strange[:_SHOWN]} are not"
        )
    return {str(key): value for key, value in entries.items()}


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_WRAPPER.sub("", key): value for key, value in tensors.items()}


def _rename(key: str) -> str:
    for pattern, replacement in _RENAMES:
        key, hits = re.subn(pattern, replacement, key)
        if hits:
            break
    for pattern, replacement in _RESIDUAL_RENAMES:
        key = re.sub(pattern, replacement, key)
    key = re.sub(r"<\+(\d+)>", lambda match: str(int(match[1]) + 1), key)
    return re.sub(r"<(\d+)>", lambda match: str(int(match[1]) - 1), key)


def _infer_config(tensors: dict[str, Tensor], source: Path) -> ModelConfig:
    try:
        first = tensors["encoder.conv_first.weight"]
        growth = tensors["encoder.trunk.0.dense.0.convs.0.weight"].shape[0]
        dim = tensors["denoiser.time_embedding.project.weight"].shape[0]
        kernel = tensors["denoiser.condition_projection.weight"].shape[-1]
        levels = _count(tensors, r"^denoiser\.downs\.(\d+)\.")
        widths = [
            tensors[f"denoiser.downs.{level}.block1.block1.conv.weight"].shape[0] for level in range(levels)
        ]
    except KeyError as error:
        raise CheckpointMismatchError(
            f"{source} is not a SAM-DiffSR checkpoint: no tensor for {error}; it has "
            f"{sorted(tensors)[:_SHOWN]} ..."
        ) from error
    scale = kernel // 2
    if kernel % 2 or scale not in (2, 4, 8) or any(width % dim for width in widths):
        raise CheckpointMismatchError(
            f"{source}: cannot infer the sizes from a condition kernel of {kernel} (expected 4, 8 or 16) "
            f"and level widths {widths} (expected multiples of {dim})"
        )
    return ModelConfig(
        scale=scale,
        encoder=EncoderConfig(
            blocks=_count(tensors, r"^encoder\.trunk\.(\d+)\."), channels=first.shape[0], growth=growth
        ),
        denoiser=DenoiserConfig(dim=dim, multipliers=tuple(width // dim for width in widths)),
    )


def _count(keys: Iterable[str], pattern: str) -> int:
    found = [int(match[1]) for key in keys if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


def _check(tensors: dict[str, Tensor], config: ModelConfig, source: Path) -> None:
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in DiffSR(config).state_dict().items()}
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    shapes = sorted(
        f"{key} {tuple(tensors[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    )
    if missing or unexpected or shapes:
        raise CheckpointMismatchError(
            f"{source} does not fit the published networks: missing {missing[:_SHOWN]}, "
            f"unexpected {unexpected[:_SHOWN]}, wrong shapes {shapes[:_SHOWN]}"
        )
