"""Which floating type and which memory layout the networks run in."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from sam_diffsr.errors import ArgumentError

__all__ = ["Precision", "has_fast_bf16", "network_layout", "resolve_dtype"]

Precision = Literal["auto", "fp32", "fp16", "bf16"]
"""Names of the floating types of the networks; "auto" depends on the device."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_dtype(dtype: Precision | torch.dtype, device: torch.device) -> torch.dtype:
    """The floating type of the networks.

    ``"auto"`` is float16 on CUDA, where results are checked and repeated in float32 if it overflowed, and
    float32 elsewhere: also on a CPU with fast bfloat16, because a result must not depend on the CPU that it
    was made on.

    Raises:
        ArgumentError: another type, or float16 on a CPU.
    """
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    resolved = dtype if isinstance(dtype, torch.dtype) else _DTYPES.get(dtype)
    if resolved is None or resolved not in _DTYPES.values():
        raise ArgumentError(
            f"dtype must be one of {', '.join(get_args(Precision))} or the torch.dtype of one, got {dtype!r}"
        )
    if resolved == torch.float16 and device.type == "cpu":
        raise ArgumentError(
            "float16 is too slow on a CPU to be useful; use dtype='fp32' (or 'bf16', where the CPU has it)"
        )
    return resolved


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this is a CPU with matrix units for bfloat16 (AMX), which ``"bf16"`` is worth asking for on."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not in every version of torch
    return device.type == "cpu" and ask is not None and bool(ask())


def network_layout(device: torch.device) -> torch.memory_format:
    """The memory layout of tensors and weights in which a device is fast at convolutions."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last
