"""Compares weights with a network, and names them by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models.config import ModelConfig
from sam_diffsr.models.diffsr import DiffSR

SHOWN = 10
"""Names that an error lists."""


def check_state_dict(state_dict: Mapping[str, Tensor], config: ModelConfig, *, source: str) -> None:
    """Compare tensors with the configured model, as :func:`check_module_weights` does."""
    with torch.device("meta"):
        model = DiffSR(config)
    check_module_weights(state_dict, model, source=source)


def check_module_weights(state_dict: Mapping[str, Tensor], module: nn.Module, *, source: str) -> None:
    """Compare names, shapes and types of tensors with those of one network, on any device.

    Raises:
        CheckpointMismatchError: tensors of ``source`` are missing, unexpected, of another shape or not
            floating point. The first ten of each kind are named.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state_dict.items()}
    both = sorted(expected.keys() & found.keys())
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of the wrong shape": [
            f"{key} {found[key]} instead of {expected[key]}" for key in both if found[key] != expected[key]
        ],
        "not floating point": [
            f"{key} {state_dict[key].dtype}" for key in both if not state_dict[key].is_floating_point()
        ],
    }
    text = "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
        for kind, names in problems.items()
        if names
    )
    if text:
        raise CheckpointMismatchError(
            f"the weights of {source} do not fit the configured networks: {text}; use the config that was "
            "saved with these weights"
        )


def fingerprint(module: nn.Module) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the weights in float32."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        numbers = value.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(numbers.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()[:12]
