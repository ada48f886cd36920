"""Weights: read from the files of other projects, renamed, compared with a network, and named by a hash.

Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.models.config import ModelConfig
from sam_diffsr.models.diffsr import DiffSR

__all__ = ["check_module_weights", "check_state_dict", "fingerprint", "read_tensors"]

SHOWN = 10
"""Names that an error lists."""
_PREFIX = re.compile(r"^(module\.|model\.)+")


def read_tensors(source: Path, *, wrappers: Sequence[str]) -> dict[str, Tensor]:
    """Read the state dict of a ``.safetensors`` file, or of one by ``torch.save`` with ``weights_only=True``.

    ``wrappers`` are keys of nested dictionaries that lead to it, if they are there. Prefixes ``module.``
    and ``model.`` are removed from the names.

    Raises:
        ModelLoadError: the file is missing, truncated, or holds anything but tensors and plain values.
        CheckpointMismatchError: it has no state dict.
    """
    content = _load(source)
    for key in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):  # pyright: ignore[reportUnknownMemberType]
            content = cast("Mapping[str, Any]", content)[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointMismatchError(
            f"{source} holds no state dict; expected tensors by name, possibly under {' -> '.join(wrappers)}"
        )
    entries = cast("Mapping[Any, Any]", content)
    strange = [str(key) for key, value in entries.items() if not isinstance(value, Tensor)]
    if strange:
        raise CheckpointMismatchError(
            f"{source}: expected only tensors in its state dict, but {strange[:SHOWN]} are not"
        )
    return {_PREFIX.sub("", str(key)): value.detach() for key, value in entries.items()}


def float_weights(tensors: Mapping[str, Tensor], *tables: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Dense float32 tensors under other names.

    Of each table the first pattern that matches is applied; ``<5>`` in its replacement stands for 4, ``<+5>``
    for 6.
    """
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        for table in tables:
            pattern, replacement = next((row for row in table if re.search(row[0], key)), ("^", ""))
            key = re.sub(pattern, replacement, key)
            key = re.sub(r"<(\+?)(\d+)>", lambda hit: str(int(hit[2]) + (1 if hit[1] else -1)), key)
        weights[key] = value.to(torch.float32).contiguous()
    return weights


def count_modules(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest index that a pattern finds; 0 if it finds none."""
    found = [int(match[1]) for key in keys if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


def _load(source: Path) -> Any:
    if not source.is_file():
        state = "is a folder" if source.is_dir() else "does not exist"
        raise ModelLoadError(f"no checkpoint at {source}, which {state}; expected a file of weights")
    try:
        if source.suffix == ".safetensors":
            return load_file(source, device="cpu")
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{source} is not a readable checkpoint, or it holds more than tensors and plain values and "
            "was refused, because loading such a file can run code; re-save only its state dict"
        ) from error
    except Exception as error:  # a damaged stream can make the unpickler raise anything
        known = isinstance(error, OSError | safetensors.SafetensorError)
        reason = error if known else "it is damaged, empty or no checkpoint"
        raise ModelLoadError(f"{source} cannot be read: {reason}; download it again") from error


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
    if any(problems.values()):
        text = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
            for kind, names in problems.items()
            if names
        )
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
