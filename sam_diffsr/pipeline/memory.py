"""Memory: how much is free, what a window costs, and errors that mean there was too little."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.tiles import Tile, TileGrid

__all__ = [
    "CPU_BATCH_PIXELS",
    "LARGEST_BATCH",
    "batch_size",
    "free_memory",
    "is_out_of_memory",
    "release_memory",
    "tile_side",
    "window_bytes",
]

LARGEST_TILE = 256
"""Side of the largest automatic tile, in LR pixels; larger ones are no faster."""
SMALLEST_TILE = 16
"""Side of the smallest tile, in LR pixels."""
LARGEST_BATCH = 8
"""Images or windows that are computed together at most, unless the caller asks for more."""
CPU_BATCH_PIXELS = 64 * 64
"""LR pixels of a batch on the CPU, which gains nothing from larger ones."""

_ASSUMED_FREE = 4 * 2**30
"""Assumed if the system does not say how much memory is free."""
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


def window_bytes(config: ResolverConfig, height: int, width: int, *, itemsize: int) -> int:
    """Estimate the peak memory of one window while it is upscaled, measured on the CPU and rounded up.

    Args:
        config: sizes of the networks.
        height: rows of the window in LR pixels.
        width: columns of the window in LR pixels.
        itemsize: bytes of a number in the networks.
    """
    model = config.model
    per_pixel = config.bytes_per_pixel
    if per_pixel is None:
        # Activations of the denoiser's finest level or of the encoder's head, and some RGB images in float32.
        per_pixel = itemsize * max(6 * model.denoiser.channels[0], 3 * model.encoder.channels) + 100
    return height * width * model.scale**2 * per_pixel


def tile_side(config: ResolverConfig, grid: TileGrid, *, max_memory: int | None, parameter: Tensor) -> int:
    """Choose the largest tile whose window fits into ``max_memory``, or into half of the free memory.

    Args:
        config: sizes of the networks.
        grid: the image and its halo.
        max_memory: bytes that a window may take; None for half of what is free.
        parameter: a weight of the networks, on the device and in the dtype of the computation.

    Returns:
        Side of a tile in LR pixels, from ``SMALLEST_TILE`` to ``LARGEST_TILE``.

    Raises:
        DeviceMemoryError: ``max_memory`` is too small for the smallest tile.
    """
    limit = free_memory(parameter.device) // 2 if max_memory is None else max_memory
    needed = 0
    for side in range(LARGEST_TILE, 0, -SMALLEST_TILE):
        window = min(grid.height, side + 2 * grid.halo), min(grid.width, side + 2 * grid.halo)
        needed = window_bytes(config, *window, itemsize=parameter.element_size())
        if needed <= limit:
            return side
    if max_memory is None:  # the figure of the system is an estimate, too
        return SMALLEST_TILE
    raise DeviceMemoryError(
        f"max_memory is {max_memory} bytes, but the smallest tile needs about {needed} "
        f"({-(-needed // 2**20)} MB); allow more, or use a smaller halo"
    )


def batch_size(config: ResolverConfig, tile: Tile, *, max_memory: int | None, parameter: Tensor) -> int:
    """Choose how many windows are computed together: only small ones on a CPU, else as many as fit, up to 8.

    Args:
        config: sizes of the networks.
        tile: one of the tiles.
        max_memory: as for :func:`tile_side`.
        parameter: as for :func:`tile_side`.
    """
    height, width = tile.window_size
    if parameter.device.type == "cpu":
        return max(1, min(LARGEST_BATCH, CPU_BATCH_PIXELS // (height * width)))
    limit = free_memory(parameter.device) // 2 if max_memory is None else max_memory
    fitting = limit // window_bytes(config, height, width, itemsize=parameter.element_size())
    return max(1, min(LARGEST_BATCH, fitting))


def free_memory(device: torch.device, *, root: Path = Path("/")) -> int:
    """Estimate the bytes that can still be allocated on a device.

    Args:
        device: CUDA counts what torch's cache holds unused as free; the CPU respects a container's limit.
        root: parent folder of ``proc`` and ``sys``.
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
    """Give unused memory of torch's cache back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _free_of_system(root: Path) -> int:
    """``MemAvailable`` on Linux, else half of the physical memory."""
    available = _statistic(root / "proc/meminfo", "MemAvailable:")
    if available is not None:
        return available * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _ASSUMED_FREE


def _free_of_container(root: Path) -> int:
    """Memory that a container's limit leaves; file pages that can be dropped do not count as used."""
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
