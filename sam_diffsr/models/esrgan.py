"""Reads RRDBNet checkpoints of the ESRGAN family (BSRGAN, Real-ESRGAN, ...) as weights of the encoder.

RRDBNet computes what our encoder with zero padding computes. Only the names of the tensors differ.
"""

from __future__ import annotations

import os
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from sam_diffsr.errors import CheckpointMismatchError
from sam_diffsr.models.config import EncoderConfig, Scale
from sam_diffsr.models.rrdb import RRDBEncoder
from sam_diffsr.models.weights import SHOWN, check_module_weights, count_modules, float_weights, read_tensors

__all__ = ["is_rrdbnet_file", "load_rrdbnet_checkpoint"]

_WRAPPERS = ("params_ema", "params")
_FIRST = "conv_first.weight"
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\.", r"trunk.\1.dense.<\2>.convs.<\3>."),  # ESRGAN, BSRGAN
    (r"^body\.(\d+)\.rdb(\d)\.conv(\d)\.", r"trunk.\1.dense.<\2>.convs.<\3>."),  # BasicSR, Real-ESRGAN
    (r"^(?:upconv|conv_up)(\d)\.", r"upsample.<\1>."),
    (r"^conv_body\.", "trunk_conv."),
    (r"^HRconv\.", "conv_hr."),
)


def load_rrdbnet_checkpoint(path: str | os.PathLike[str]) -> tuple[EncoderConfig, Scale, dict[str, Tensor]]:
    """Read an RRDBNet ``.pth`` or ``.safetensors`` file.

    It has the old names (``RRDB_trunk.0.RDB1.conv1``) or the new ones (``body.0.rdb1.conv1``), at the top or
    under ``params_ema`` (preferred) or ``params``.

    Returns:
        The encoder's config, the upscaling factor, and float32 tensors with the keys of
        ``RRDBEncoder(config, scale=scale).state_dict()``.

    Raises:
        ModelLoadError: the file is missing, truncated, or holds anything but tensors and plain values.
        CheckpointMismatchError: it holds another network, or one that takes or gives other than RGB images.
    """
    source = Path(path)
    tensors = read_tensors(source, wrappers=_WRAPPERS)
    state_dict = float_weights(tensors, _RENAMES)
    try:
        channels, inputs = state_dict[_FIRST].shape[:2]
        growth = state_dict["trunk.0.dense.0.convs.0.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointMismatchError(
            f"{source} is not an RRDBNet of the ESRGAN family: no usable {error}; it has "
            f"{sorted(tensors)[:SHOWN]} ..."
        ) from error
    if inputs != 3:
        raise CheckpointMismatchError(
            f"{source} takes {inputs} input channels, expected 3 (RGB); networks of the family for 1x and 2x "
            "fold pixels into channels and cannot be used"
        )
    scale = 2 ** count_modules(state_dict, r"^upsample\.(\d+)\.")
    if scale not in (2, 4, 8):
        raise CheckpointMismatchError(f"{source} enlarges {scale}x, expected 2x, 4x or 8x")
    config = EncoderConfig(
        blocks=count_modules(state_dict, r"^trunk\.(\d+)\."), channels=channels, growth=growth
    )
    with torch.device("meta"):
        encoder = RRDBEncoder(config, scale=scale)
    check_module_weights(state_dict, encoder, source=str(source))
    return config, scale, state_dict


def is_rrdbnet_file(path: Path) -> bool:
    """Whether a file may be an RRDBNet: any ``.pth``, or a ``.safetensors`` with its names and no prefix."""
    if path.suffix == ".pth":
        return path.is_file()
    if path.suffix != ".safetensors":
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # pyright: ignore[reportUnknownVariableType]
            return _FIRST in file.keys()  # noqa: SIM118  # pyright: ignore[reportUnknownMemberType]
    except (OSError, safetensors.SafetensorError):
        return False
