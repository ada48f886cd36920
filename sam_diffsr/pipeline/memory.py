"""Memory: how much is free, what a window costs, how large tiles can be, and errors that mean too little."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.settings import Settings
from sam_diffsr.pipeline.tiles import Tile, TileGrid

__all__ = [
    "CPU_BATCH_PIXELS",
    "LARGEST_BATCH",
    "batch_size",
    "divide",
    "free_memory",
    "is_out_of_memory",
    "release_memory",
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
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)
"""Limit, usage and statistics of a container, in version 2 and version 1 of control groups."""
_PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")


def window_bytes(config: ResolverConfig, height: int, width: int, *, itemsize: int) -> int:
    """Estimate the peak memory of one window of LR pixels, measured on the CPU and rounded up.

    ``itemsize`` is the number of bytes of a number in the networks.
    """
    model, per_pixel = config.model, config.bytes_per_pixel
    if per_pixel is None:
        # Activations of the denoiser's finest level or of the encoder's head, and some RGB images in float32.
        per_pixel = itemsize * max(6 * model.denoiser.channels[0], 3 * model.encoder.channels) + 100
    return height * width * model.scale**2 * per_pixel


def divide(
    config: ResolverConfig, settings: Settings, height: int, width: int, *, parameter: Tensor
) -> tuple[TileGrid, list[Tile]]:
    """Divide an image of LR pixels into tiles of the given side, or into the largest that fit into memory.

    Args:
        config: sizes of the networks.
        settings: tile, halo and memory limit; without a limit a window may take half of the free memory.
        height: rows of the image.
        width: columns of the image.
        parameter: a weight of the networks, on the device and in the dtype of the computation.

    Raises:
        DeviceMemoryError: ``settings.max_memory`` is too small for the smallest tile.
    """
    model, halo = config.model, settings.halo
    height, width = model.fit(height), model.fit(width)
    grid = TileGrid(
        height=height, width=width, halo=halo, multiple=model.lr_multiple, minimum=model.lr_minimum
    )
    if settings.tile is not None:
        return grid, grid.tiles(settings.tile)
    limit, needed = _limit(settings, parameter), 0
    for side in range(LARGEST_TILE, 0, -SMALLEST_TILE):
        window = min(height, side + 2 * halo), min(width, side + 2 * halo)
        needed = window_bytes(config, *window, itemsize=parameter.element_size())
        if needed <= limit:
            return grid, grid.tiles(side)
    if settings.max_memory is None:  # the figure of the system is an estimate, too
        return grid, grid.tiles(SMALLEST_TILE)
    raise DeviceMemoryError(
        f"max_memory is {limit} bytes, but the smallest tile needs about {needed} "
        f"({-(-needed // 2**20)} MB); allow more, or use a smaller halo"
    )


def batch_size(config: ResolverConfig, settings: Settings, tile: Tile, *, parameter: Tensor) -> int:
    """Windows that are computed together: as asked for, few small ones on a CPU, else as many as fit."""
    if settings.batch_size is not None:
        return settings.batch_size
    height, width = tile.window_size
    if parameter.device.type == "cpu":
        fitting = CPU_BATCH_PIXELS // (height * width)
    else:
        window = window_bytes(config, height, width, itemsize=parameter.element_size())
        fitting = _limit(settings, parameter) // window
    return max(1, min(LARGEST_BATCH, fitting))


def _limit(settings: Settings, parameter: Tensor) -> int:
    return free_memory(parameter.device) // 2 if settings.max_memory is None else settings.max_memory


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
    available = _number(root / "proc/meminfo", "MemAvailable:")
    free = _half_of_the_physical_memory() if available is None else 1024 * available
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


def _half_of_the_physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return _ASSUMED_FREE


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
