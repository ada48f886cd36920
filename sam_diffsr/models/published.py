"""Reads weights of other projects: SAM-DiffSR's and SRDiff's published layout, and ESRGAN's family.

Only tensors are read, nothing in a file is executed; sizes are inferred from the tensors' shapes.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError, ModelLoadError
from sam_diffsr.models.config import DenoiserConfig, EncoderConfig, ModelConfig, Scale
from sam_diffsr.models.rrdb import RRDBEncoder
from sam_diffsr.models.weights import SHOWN, check_module_weights, check_state_dict

_PREFIX = re.compile(r"^(module\.|model\.)+")
_SCHEDULE_TABLES = re.compile(r"^(betas|alphas_cumprod(_prev)?|posterior_\w+|(sqrt|log)_\w*alphas_cumprod)$")
_RENAMES: tuple[tuple[str, str], ...] = (
    # RRDBNet: ESRGAN and BSRGAN, or BasicSR and Real-ESRGAN
    (r"\b(?:RRDB_trunk|body)\.(\d+)\.(?:RDB|rdb)(\d)\.conv(\d)\.", r"trunk.\1.dense.<\2>.convs.<\3>."),
    (r"\b(?:upconv|conv_up)(\d)\.", r"upsample.<\1>."),
    (r"\bconv_body\.", "trunk_conv."),
    (r"\bHRconv\.", "conv_hr."),
    # SAM-DiffSR and SRDiff, whose encoder is an RRDBNet with the old names
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
    (r"\.mlp\.1\.(weight|bias)$", r".time.\1"),
    (r"\.block([12])\.block\.1\.", r".block\1.conv."),
    (r"\.res_conv\.", ".shortcut."),
)
"""Patterns and replacements, applied one after the other; ``<5>`` stands for 4, ``<+5>`` for 6."""


def read_reference_checkpoint(
    path: str | os.PathLike[str],
) -> tuple[ModelConfig, dict[str, Tensor], Tensor | None]:
    """Read a published ``.ckpt`` (zip or legacy format), ``{"state_dict": {"model": {...}}, ...}``.

    Returns:
        The config inferred from the tensors' shapes; float32 tensors with the keys of
        ``build_model(config).state_dict()``; the ``(T,)`` float64 noise variances, if the file has them.

    Raises:
        ModelLoadError: the file is missing, truncated, or holds anything but tensors and plain values.
        CheckpointMismatchError: its keys or shapes are not those of the published networks.
    """
    source = Path(path)
    tensors = _read_tensors(source, wrappers=("state_dict", "model"))
    betas = tensors.get("betas")
    tensors = _renamed({key: value for key, value in tensors.items() if not _SCHEDULE_TABLES.match(key)})
    try:
        channels = tensors["encoder.conv_first.weight"].shape[0]
        growth = tensors["encoder.trunk.0.dense.0.convs.0.weight"].shape[0]
        dim = tensors["denoiser.time_embedding.project.weight"].shape[0]
        kernel = tensors["denoiser.condition_projection.weight"].shape[-1]
        levels = range(_count(tensors, r"denoiser\.downs\.(\d+)\."))
        widths = [tensors[f"denoiser.downs.{level}.block1.block1.conv.weight"].shape[0] for level in levels]
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
    blocks = _count(tensors, r"encoder\.trunk\.(\d+)\.")
    config = ModelConfig(
        scale=scale,
        encoder=EncoderConfig(blocks=blocks, channels=channels, growth=growth),
        denoiser=DenoiserConfig(dim=dim, multipliers=tuple(width // dim for width in widths)),
    )
    check_state_dict(tensors, config, source=str(source))
    return config, tensors, None if betas is None else betas.to(torch.float64)


def load_reference_checkpoint(path: str | os.PathLike[str]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and the weights of :func:`read_reference_checkpoint`, with the same errors."""
    config, state_dict, _ = read_reference_checkpoint(path)
    return config, state_dict


def load_rrdbnet_checkpoint(path: str | os.PathLike[str]) -> tuple[EncoderConfig, Scale, dict[str, Tensor]]:
    """Read an RRDBNet ``.pth`` or ``.safetensors`` file of the ESRGAN family (BSRGAN, Real-ESRGAN, ...).

    It has the old names (``RRDB_trunk.0.RDB1.conv1``) or the new ones (``body.0.rdb1.conv1``), at the top or
    under ``params_ema`` (preferred) or ``params``. The network is our encoder with zero padding.

    Returns:
        The encoder's config, the upscaling factor, and float32 tensors with the keys of
        ``RRDBEncoder(config, scale=scale).state_dict()``.

    Raises:
        ModelLoadError: the file is missing, truncated, or holds anything but tensors and plain values.
        CheckpointMismatchError: it holds another network, or one that takes or gives other than RGB images.
    """
    source = Path(path)
    tensors = _renamed(_read_tensors(source, wrappers=("params_ema", "params")))
    try:
        channels, inputs = tensors["conv_first.weight"].shape[:2]
        growth = tensors["trunk.0.dense.0.convs.0.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointMismatchError(
            f"{source} is not an RRDBNet of the ESRGAN family: its first convolutions are missing or "
            f"have another shape; it has {sorted(tensors)[:SHOWN]} ..."
        ) from error
    if inputs != 3:
        raise CheckpointMismatchError(
            f"{source} takes {inputs} input channels, expected 3 (RGB); networks of the family for 1x and 2x "
            "fold pixels into channels and cannot be used"
        )
    scale = 2 ** _count(tensors, r"upsample\.(\d+)\.")
    if scale not in (2, 4, 8):
        raise CheckpointMismatchError(f"{source} enlarges {scale}x, expected 2x, 4x or 8x")
    config = EncoderConfig(blocks=_count(tensors, r"trunk\.(\d+)\."), channels=channels, growth=growth)
    with torch.device("meta"):
        encoder = RRDBEncoder(config, scale=scale)
    check_module_weights(tensors, encoder, source=str(source))
    return config, scale, tensors


def is_rrdbnet_file(path: Path) -> bool:
    """Whether a file may be an RRDBNet: any ``.pth``, or a ``.safetensors`` with its names and no prefix."""
    if path.suffix == ".pth":
        return path.is_file()
    return path.suffix == ".safetensors" and "conv_first.weight" in read_header(path)[0]


def read_header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of the tensors and metadata of a safetensors file; nothing of any other file."""
    try:
        with safetensors.safe_open(path, framework="pt") as opened:  # pyright: ignore[reportUnknownVariableType]
            file = cast("Any", opened)
            return list(file.keys()), file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return [], {}


def _read_tensors(source: Path, *, wrappers: Sequence[str]) -> dict[str, Tensor]:
    """The state dict of a file, without prefixes; ``wrappers`` are keys that may lead to it."""
    if not source.is_file():
        state = "is a folder" if source.is_dir() else "does not exist"
        raise ModelLoadError(f"no checkpoint at {source}, which {state}; expected a file of weights")
    try:
        safe = source.suffix == ".safetensors"
        content: Any = (
            load_file(source) if safe else torch.load(source, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{source} is not a readable checkpoint, or it holds more than tensors and plain values and "
            "was refused, because loading such a file can run code; re-save only its state dict"
        ) from error
    except Exception as error:  # a damaged stream can make the unpickler raise anything
        known = isinstance(error, OSError | safetensors.SafetensorError)
        reason = error if known else "it is damaged, empty or no checkpoint"
        raise ModelLoadError(f"{source} cannot be read: {reason}; download it again") from error
    for key in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):  # pyright: ignore[reportUnknownMemberType]
            content = content[key]  # pyright: ignore[reportUnknownVariableType]
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


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense float32 tensors under our names."""
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        key = re.sub(r"<(\+?)(\d+)>", lambda hit: str(int(hit[2]) + (1 if hit[1] else -1)), key)
        weights[key] = value.to(torch.float32).contiguous()
    return weights


def _count(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest index that a pattern finds; 0 if it finds none."""
    return max((int(match[1]) for key in keys if (match := re.match(pattern, key))), default=-1) + 1
