"""Peak memory of upscaling one image, measured in a process of its own.

Run as ``python -m sam_diffsr.evaluation.memory`` with a JSON object on standard input.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sam_diffsr.config import from_dict, to_dict
from sam_diffsr.models import build_model
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["MemoryUse", "measure_memory", "resident_peak"]

logger = logging.getLogger(__name__)

_MEBIBYTE = 1024**2
_ROOT = str(Path(__file__).resolve().parents[2])
"""Where the process finds this very package, installed or not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """Megabytes (2**20 bytes) of a process that upscales one image."""

    peak_mb: float
    """Most that it held at any time: resident memory on the CPU, allocated memory on CUDA."""
    before_mb: float
    """Most that it had held when Python, torch and the weights were loaded and the image was not begun."""


def measure_memory(
    config: ResolverConfig, *, size: int, device: str, dtype: str, threads: int, timeout: float = 600.0
) -> MemoryUse | None:
    """Upscale one ``size`` x ``size`` image in a fresh process, with random weights.

    Args:
        config: networks and sampling.
        size: side of the low-resolution image.
        device: as :class:`SuperResolver` takes it.
        dtype: likewise.
        threads: CPU threads of torch.
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
    lr = torch.rand(1, 3, request["size"], request["size"]).to(resolver.device)
    cuda = resolver.device.type == "cuda"
    before = torch.cuda.max_memory_allocated() / _MEBIBYTE if cuda else resident_peak()
    resolver.upscale_tensor(lr, seeds=[0])
    peak = torch.cuda.max_memory_allocated() / _MEBIBYTE if cuda else resident_peak()
    return {"peak_mb": peak, "before_mb": before}


if __name__ == "__main__":
    print(json.dumps(_answer(json.load(sys.stdin))))  # noqa: T201
