"""Reads ``config.json`` and safetensors files, and checks that they fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import safetensors
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.models import ModelConfig, build_model
from sam_diffsr.pipeline.config import ResolverConfig, config_from_json

__all__ = [
    "CONFIG_NAME",
    "METADATA_KEY",
    "PICKLED_SUFFIXES",
    "WEIGHTS_NAME",
    "check_state_dict",
    "read_file",
    "read_folder",
    "read_pair",
]

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
METADATA_KEY = "config"
"""Entry of the safetensors header with the text of config.json, so that one file is enough."""
PICKLED_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
"""Endings of files that are never read, because reading them can run code."""

_SHOWN = 10


def check_state_dict(state_dict: Mapping[str, Tensor], config: ModelConfig, *, source: str) -> None:
    """Compare names and shapes of tensors with those of the configured model.

    Raises:
        CheckpointMismatchError: tensors are missing, unexpected or of another shape; the first ten of each
            are named.
    """
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in build_model(config).state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state_dict.items()}
    wrong = [key for key in expected if key in found and found[key] != expected[key]]
    problems = {
        "missing keys": sorted(expected.keys() - found.keys()),
        "unexpected keys": sorted(found.keys() - expected.keys()),
        "wrong shapes": [f"{key} {found[key]} instead of {expected[key]}" for key in sorted(wrong)],
        "not floating point": sorted(key for key in state_dict if not state_dict[key].is_floating_point()),
    }
    if any(problems.values()):
        text = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' ...' if len(names) > _SHOWN else ''}"
            for what, names in problems.items()
            if names
        )
        raise CheckpointMismatchError(
            f"the weights of {source} do not fit their config: {text}; use the config.json that was saved "
            "with these weights"
        )


def read_folder(folder: Path) -> tuple[ResolverConfig, dict[str, Tensor]]:
    """Read the config and the weights of a folder, which must have both.

    Raises:
        ModelLoadError: the folder or one of the two files is not there or cannot be read.
        CheckpointMismatchError: they do not fit each other.
        ConfigError: from the config.
    """
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if name not in present]
    if missing:
        pickled = [name for name in present if name.lower().endswith(PICKLED_SUFFIXES)]
        advice = (
            f"to use {pickled[0]}, run `sam-diffsr convert {folder / pickled[0]} OUT_DIR`"
            if pickled
            else "a model folder is written by save_pretrained or `sam-diffsr convert`"
        )
        raise ModelLoadError(f"the folder {folder} has no {' and no '.join(missing)}; {advice}")
    return read_pair(folder / CONFIG_NAME, folder / WEIGHTS_NAME)


def read_pair(config_path: Path, weights_path: Path) -> tuple[ResolverConfig, dict[str, Tensor]]:
    """Read a config and the weights that belong to it; raises as :func:`read_folder`."""
    try:
        text = config_path.read_bytes()
    except OSError as error:
        raise ModelLoadError(f"cannot read {config_path}: {error}") from error
    config = config_from_json(text, source=str(config_path))
    return config, _read_weights(weights_path, config)


def read_file(path: Path) -> tuple[ResolverConfig, dict[str, Tensor]]:
    """Read a safetensors file with a config beside it or in its header; raises as :func:`read_folder`."""
    sibling = path.with_name(CONFIG_NAME)
    if sibling.is_file():
        return read_pair(sibling, path)
    text = _read_metadata(path).get(METADATA_KEY)
    if text is None:
        raise ModelLoadError(
            f"{path} says nothing about its model: expected a {CONFIG_NAME} beside it or a config in its "
            f"header; put the {CONFIG_NAME} that it was saved with into the same folder"
        )
    config = config_from_json(text, source=f"the header of {path}")
    return config, _read_weights(path, config)


def _read_metadata(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            return cast("dict[str, str]", file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _read_weights(path: Path, config: ResolverConfig) -> dict[str, Tensor]:
    try:
        state_dict = load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    check_state_dict(state_dict, config.model, source=str(path))
    return state_dict


def _unreadable(path: Path, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{path} is not a complete safetensors file ({error}); it is truncated or something else under "
        "this name: download or save it again"
    )
