"""Devices: floating type, memory layout and free memory of a computation, and torch's state meanwhile."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from sam_diffsr.errors import ArgumentError

Precision = Literal["auto", "fp32", "fp16", "bf16"]
"""Names of the floating types of the networks; "auto" depends on the device."""

_CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, usage and statistics of a container, in version 2 and version 1 of control groups."""
_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(device: str | torch.device) -> torch.device:
    """Find the device of a name; ``"auto"`` is CUDA, else MPS, else the CPU.

    Raises:
        ArgumentError: not a device, or this machine or this build of torch does not have it.
    """
    mps = torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
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
    if resolved.type == "mps" and not mps:
        raise ArgumentError("device 'mps' was asked for, but this machine has none; use device='auto'")
    if resolved.type not in ("cpu", "mps"):
        try:
            torch.empty(1, device=resolved).cpu()
        except Exception as error:  # whatever a build of torch without this device raises
            reason = str(error).splitlines()[0]
            raise ArgumentError(
                f"device {device!r} cannot be used here ({reason}); use device='auto'"
            ) from error
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


def network_layout(device: torch.device) -> torch.memory_format:
    """Memory layout of tensors and weights in which a device is fast at convolutions."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@contextmanager
def plain_torch(device: torch.device) -> Generator[None, None, None]:
    """Run with torch's own defaults, whatever the caller has set, and leave the caller's state as it was.

    Autocast is off for the device and the CPU, gradients are off, and new tensors are made on the CPU unless
    they name a device. Code in here names its dtypes: the default dtype is global to all threads and is not
    touched.
    """
    with torch.inference_mode(), ExitStack() as stack:
        if torch.empty(0).device.type != "cpu":  # else not, as the context slows every operation
            stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def free_memory(device: torch.device, *, root: Path = Path("/")) -> int:
    """Estimate the bytes that can still be allocated on a device.

    What torch's cache holds unused on CUDA is free; a container's limit counts on the CPU. ``root`` is the
    parent folder of ``proc`` and ``sys``.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # from torch 2.5 on
        return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
    available = _number(root / "proc/meminfo", "MemAvailable:")
    free = 1024 * available if available is not None else _assumed_memory()
    for names in _CGROUP_FILES:
        limit_file, usage_file, statistics_file = (root / "sys/fs/cgroup" / name for name in names)
        limit, usage = _number(limit_file), _number(usage_file)
        if limit is not None and usage is not None:  # else no such control group, or the word "max"
            droppable = _number(statistics_file, "inactive_file") or 0  # pages of files
            free = min(free, max(limit - usage + droppable, 0))
    return free


def _number(path: Path, name: str = "") -> int | None:
    """The number after a name at the start of a line of a file."""
    try:
        found = re.search(rf"^{name}\s*(\d+)", path.read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return None
    return None if found is None else int(found[1])


def _assumed_memory() -> int:
    """Half of the memory that the machine has, where the system tells that."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed, on any device and in any version of torch."""
    told = isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
    return told or isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)


def release_memory(device: torch.device) -> None:
    """Give unused memory of torch's cache back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
