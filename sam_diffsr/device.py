"""Device, floating type and memory layout of a computation, and torch's state while it runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Literal, cast, get_args

import torch

from sam_diffsr.errors import ArgumentError

__all__ = [
    "Precision",
    "has_fast_bf16",
    "network_layout",
    "plain_torch",
    "resolve_device",
    "resolve_dtype",
]

Precision = Literal["auto", "fp32", "fp16", "bf16"]
"""Names of the floating types of the networks; "auto" depends on the device."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(device: str | torch.device) -> torch.device:
    """Find the device of a name.

    Args:
        device: ``"auto"`` (CUDA, else MPS, else CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or a
            ``torch.device``.

    Raises:
        ArgumentError: not a device, or this machine or this build of torch does not have it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ArgumentError(
            f"device must be 'auto', 'cpu', 'cuda', 'cuda:N', 'mps' or a torch.device, got {device!r}"
        ) from error
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = cast("int | None", resolved.index)
        if (index or 0) >= count:
            raise ArgumentError(
                f"device {device!r} was asked for, but torch sees {count} CUDA devices; use device='auto', "
                "or install a CUDA build of torch and its driver"
            )
        return torch.device("cuda", torch.cuda.current_device() if index is None else index)
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ArgumentError("device 'mps' was asked for, but this machine has none; use device='auto'")
    return resolved


def resolve_dtype(dtype: Precision | torch.dtype, device: torch.device) -> torch.dtype:
    """Find the floating type of the networks.

    ``"auto"`` is float16 on CUDA, where a result that is not finite is computed again in float32, and float32
    elsewhere: also on a CPU with fast bfloat16, because a result must not depend on the CPU.

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
            "float16 is too slow on a CPU to be useful; use dtype='fp32' (or 'bf16', if the CPU has it)"
        )
    return resolved


def has_fast_bf16(device: torch.device) -> bool:
    """Whether this is a CPU with matrix units for bfloat16 (AMX), on which ``"bf16"`` is worth asking for."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not in every version of torch
    return device.type == "cpu" and ask is not None and bool(ask())


def network_layout(device: torch.device) -> torch.memory_format:
    """Memory layout of tensors and weights in which a device is fast at convolutions."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@contextmanager
def plain_torch(device: torch.device) -> Generator[None, None, None]:
    """Run with torch's own defaults, whatever the caller has set, and leave the caller's state as it was.

    Autocast is off, gradients are off, and new tensors are made on the CPU unless they name a device. Code in
    here names its dtypes: the default dtype is global to all threads and is not touched.

    Args:
        device: device of the computation.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
