"""Peak memory of upscaling one image, measured in a process of its own.

Run as ``python -m sam_diffsr.evaluation.memory`` with a JSON object on standard input.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.environment import describe_machine, describe_versions
from sam_diffsr.models import build_model
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["MemoryTable", "MemoryUse", "measure_memory", "memory_table", "resident_peak"]

logger = logging.getLogger(__name__)

_MEBIBYTE = 1024**2
_CANVAS_BYTES = 12
"""Of one pixel of one float32 RGB image."""
_ROOT = str(Path(__file__).resolve().parents[2])
"""Where the process finds this very package, installed or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """Megabytes (2**20 bytes) of a process that upscales one image."""

    peak_mb: float
    """Most that it held at any time: resident memory on the CPU, allocated memory on CUDA."""
    before_mb: float
    """Most that it had held when Python, torch and the weights were loaded, a small image was done and the
    image was not begun."""
    seconds: float
    """Of the image."""

    @property
    def used_mb(self) -> float:
        """What the image took."""
        return self.peak_mb - self.before_mb


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryTable:
    """Memory of images of growing size."""

    rows: Sequence[Mapping[str, float | int]]
    """Per size: its side, output pixels, what the image took and how long."""
    growth_bytes: float | None
    """Bytes of memory for one more output pixel, between the two largest sizes."""
    growth_beyond_canvas_bytes: float | None
    """Of these, what is not one float32 RGB image."""
    settings: Mapping[str, Any]
    """Model, tiles and limit."""
    machine: Mapping[str, Any]
    """Device and threads."""
    versions: Mapping[str, str]
    """Software."""

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def memory_table(
    config: ResolverConfig,
    *,
    model_name: str,
    sizes: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
    tile: int | Literal["auto"] = "auto",
    max_memory: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    say: Callable[[str], object] = lambda line: None,
) -> MemoryTable:
    """Upscale one image of every size, each in a process of its own, with random weights.

    Args:
        config: networks and sampling.
        model_name: what the result calls them.
        sizes: sides of the low-resolution images, growing.
        tile: as :meth:`SuperResolver.upscale` takes it.
        max_memory: likewise.
        device: as :class:`SuperResolver` takes it.
        dtype: likewise.
        say: told what is being measured.

    Raises:
        ArgumentError: no size, or one that is not larger than the one before.
    """
    if not sizes or sizes[0] < 1 or any(small >= large for small, large in pairwise(sizes)):
        raise ArgumentError(f"sizes must be sides >= 1 that grow, got {list(sizes)}")
    rows: list[dict[str, float | int]] = []
    for size in sizes:
        say(f"{size}x{size}")
        use = measure_memory(
            config,
            size=size,
            device=device,
            dtype=dtype,
            threads=torch.get_num_threads(),
            tile=tile,
            max_memory=max_memory,
            timeout=3600.0,
        )
        if use is None:
            break
        pixels = (size * config.model.scale) ** 2
        rows.append(
            {
                "size": size,
                "output_pixels": pixels,
                "used_mb": round(use.used_mb, 1),
                "canvas_mb": round(_CANVAS_BYTES * pixels / _MEBIBYTE, 1),
                "peak_mb": round(use.peak_mb, 1),
                "seconds": round(use.seconds, 2),
                "seconds_per_megapixel": round(use.seconds / pixels * 1e6, 3),
            }
        )
    growth = None
    if len(rows) > 1:
        before, last = rows[-2], rows[-1]
        growth = (last["used_mb"] - before["used_mb"]) * _MEBIBYTE
        growth /= last["output_pixels"] - before["output_pixels"]
    return MemoryTable(
        rows=rows,
        growth_bytes=growth,
        growth_beyond_canvas_bytes=None if growth is None else growth - _CANVAS_BYTES,
        settings={
            "model": model_name,
            "tile": tile,
            "max_memory_mb": None if max_memory is None else max_memory / _MEBIBYTE,
            "dtype": dtype,
            "sampler": config.sampling.sampler,
            "steps": config.sampling.steps,
        },
        machine=describe_machine(device),
        versions=describe_versions(),
    )


def measure_memory(
    config: ResolverConfig,
    *,
    size: int,
    device: str,
    dtype: str,
    threads: int,
    tile: int | Literal["auto"] = "auto",
    max_memory: int | None = None,
    timeout: float = 600.0,
) -> MemoryUse | None:
    """Upscale one ``size`` x ``size`` image in a fresh process, with random weights.

    Args:
        config: networks and sampling.
        size: side of the low-resolution image.
        device: as :class:`SuperResolver` takes it.
        dtype: likewise.
        threads: CPU threads of torch.
        tile: as :meth:`SuperResolver.upscale` takes it.
        max_memory: likewise.
        timeout: seconds after which it is given up.

    Returns:
        None where the system does not tell a process's peak, or the process failed, which the log says.
    """
    request = {
        "config": to_dict(config),
        "size": size,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "tile": tile,
        "max_memory": max_memory,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sam_diffsr.evaluation.memory"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])},
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        logger.warning("memory could not be measured in a process of its own: %s", reason)
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return None if answer["peak_mb"] is None else MemoryUse(**answer)


def resident_peak() -> float | None:
    """Most resident memory of this process so far, in megabytes; None where it cannot be asked."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike ru_maxrss, this does not begin with the parent's peak
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MEBIBYTE
    return None


def _answer(request: dict[str, Any]) -> dict[str, float | None]:
    torch.set_num_threads(request["threads"])
    config = from_dict(ResolverConfig, request["config"])
    resolver = SuperResolver(
        build_model(config.model), config, device=request["device"], dtype=request["dtype"]
    )
    cuda = resolver.device.type == "cuda"

    def upscale(side: int) -> float:
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        started = time.perf_counter()
        resolver.upscale(
            image, tile=request["tile"], max_memory=request["max_memory"], max_pixels=None, progress=False
        )
        return time.perf_counter() - started

    upscale(8)  # what is built at the first use does not belong to the image
    before = torch.cuda.max_memory_allocated() / _MEBIBYTE if cuda else resident_peak()
    seconds = upscale(request["size"])
    peak = torch.cuda.max_memory_allocated() / _MEBIBYTE if cuda else resident_peak()
    return {"peak_mb": peak, "before_mb": before, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))  # noqa: T201
