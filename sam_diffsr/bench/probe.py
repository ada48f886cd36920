"""Upscales one image and prints the time and the peak memory as JSON; to be run as a program of its own.

Reads a JSON object from standard input: ``model`` (null for the bundled one), ``size``, ``threads``, ``init``
and ``upscale`` (keywords of ``from_pretrained`` and of ``upscale``). It uses the public interface only and
imports nothing else from the package, so that any installed version can run it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(request: dict[str, Any]) -> dict[str, float | None]:
    """Load the model, upscale a small image, then the image that is measured.

    Returns:
        ``seconds`` of the image, ``before_mb`` (the peak before it began) and ``peak_mb``.
    """
    import numpy as np
    import torch

    import sam_diffsr

    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    resolver = sam_diffsr.SuperResolver.from_pretrained(request["model"], **request["init"])
    on_cuda = resolver.device.type == "cuda"

    def upscale(size: int) -> float:
        image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        started = time.perf_counter()
        resolver.upscale(image, max_pixels=None, progress=False, **request["upscale"])
        return time.perf_counter() - started

    upscale(8)  # what is built once belongs to the loaded process
    before = peak_mb(on_cuda=on_cuda)
    return {"seconds": upscale(request["size"]), "before_mb": before, "peak_mb": peak_mb(on_cuda=on_cuda)}


def peak_mb(*, on_cuda: bool) -> float | None:
    """Peak memory of this process, on CUDA the memory allocated there, in units of 2**20 bytes.

    None where the system does not tell.
    """
    if on_cuda:
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would start from the parent's peak
        fields = status.read_text(encoding="ascii", errors="replace").split()
        return int(fields[fields.index("VmHWM:") + 1]) / 1024 if "VmHWM:" in fields else None
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return None


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))  # noqa: T201
