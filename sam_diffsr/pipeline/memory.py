"""How much memory is free, and whether an error means that there was too little."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

__all__ = ["free_memory", "is_out_of_memory", "release_memory", "trim_heap"]

_ASSUMED_FREE = 4 * 2**30
"""Taken where the system does not say how much memory is free."""
_CGROUP_FILES = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat"),
    (
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Limit, usage and statistics of a container, in version 2 and version 1 of control groups."""
_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")


def free_memory(device: torch.device, *, root: Path = Path("/")) -> int:
    """Bytes that can still be allocated on a device; an estimate.

    Args:
        device: CUDA counts what torch's cache holds unused as free; the CPU respects a container's limit.
        root: where ``proc`` and ``sys`` are.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # from torch 2.5 on
        return max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0)
    return min(_free_of_system(root), _free_of_container(root))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed, on any device and in any version of torch."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)


def release_memory(device: torch.device) -> None:
    """Give what torch's cache holds unused back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def trim_heap(device: torch.device) -> None:
    """On a CPU with glibc, give free pages back to the system; elsewhere do nothing.

    glibc keeps freed blocks below 32 MB for later, and what one stage leaves does not fit the next: the gaps
    add up to half as much again as is in use.
    """
    if device.type == "cpu":
        trim = _malloc_trim()
        if trim is not None:
            trim(0)


@cache
def _malloc_trim() -> Callable[[int], object] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def _free_of_system(root: Path) -> int:
    """``MemAvailable`` on Linux; half of what is built in where the system at least says that."""
    available = _statistic(root / "proc/meminfo", "MemAvailable:")
    if available is not None:
        return available * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _ASSUMED_FREE


def _free_of_container(root: Path) -> int:
    """What a container's limit leaves; file pages that can be dropped do not count as used."""
    free = 2**63
    for limit_file, usage_file, statistics_file in _CGROUP_FILES:
        try:
            limit = int((root / limit_file).read_text())
            usage = int((root / usage_file).read_text())
        except (OSError, ValueError):  # no such control group, or the word "max": no limit
            continue
        droppable = _statistic(root / statistics_file, "inactive_file") or 0
        free = min(free, max(limit - usage + droppable, 0))
    return free


def _statistic(path: Path, name: str) -> int | None:
    """The number after ``name`` in a file of lines ``name number``."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None
