"""Measures the memory and the time of images of growing size, each in a fresh process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from sam_diffsr.bench.result import BenchResult
from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.pipeline.resolver import SuperResolver

__all__ = ["measure_memory", "run_probe"]

_LOGGER = logging.getLogger(__name__)

_PROBE = Path(__file__).with_name("probe.py")
"""Run by its path: as a module it would load this whole package first."""
_PRECISION = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def measure_memory(
    resolver: SuperResolver,
    *,
    sizes: Sequence[int] = (512, 1024, 2048),
    tile: int | Literal["auto"] = "auto",
    max_memory: int | None = None,
) -> BenchResult:
    """Upscale one square image per size in a fresh process and report its peak memory.

    ``sizes`` are growing sides of low-resolution images; ``tile`` and ``max_memory`` (bytes) are those of
    :meth:`SuperResolver.upscale`. Device and dtype are those of ``resolver``.

    Raises:
        ArgumentError: ``sizes`` is empty or does not grow.
        OutputError: a process failed, for example because the limit is too small.
    """
    if not sizes or sizes[0] < 1 or any(small >= large for small, large in pairwise(sizes)):
        raise ArgumentError(f"sizes must be sides >= 1 that grow, got {list(sizes)}")
    options: dict[str, Any] = {"tile": tile, **({} if max_memory is None else {"max_memory": max_memory})}
    rows: list[dict[str, float | None]] = []
    for size in sizes:
        _LOGGER.info("measuring: memory, %sx%s", size, size)
        answer = run_probe(resolver, size=size, options=options)
        before, peak = answer["before_mb"], answer["peak_mb"]  # None where the system does not tell
        megapixels = (size * resolver.scale) ** 2 / 1e6
        rows.append(
            {
                "size": size,
                "output_megapixels": round(megapixels, 2),
                "used_mb": None if before is None else round(peak - before, 1),
                "peak_mb": None if before is None else round(peak, 1),
                "seconds_per_megapixel": round(answer["seconds"] / megapixels, 3),
            }
        )
    settings = {"model": resolver.name, "dtype": _PRECISION[resolver.dtype], **options}
    return BenchResult(name="memory", tables={"memory": rows}, settings=settings)


def run_probe(resolver: SuperResolver, *, size: int, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Upscale one ``size x size`` image in a fresh process that loads a copy of the model.

    ``options`` are keywords of :meth:`SuperResolver.upscale`. Returns ``seconds``, ``before_mb`` and
    ``peak_mb``, see :mod:`sam_diffsr.bench.probe`.

    Raises:
        OutputError: the process failed; the message ends with the last line of its standard error.
    """
    # the new process imports this package, installed or not
    path = os.pathsep.join(filter(None, [str(_PROBE.parents[2]), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="sam-diffsr-") as folder:
        model = str(Path(folder, "model"))
        resolver.save_pretrained(model)
        request = {
            "model": model,
            "size": size,
            "threads": torch.get_num_threads(),
            "init": {"device": str(resolver.device), "dtype": _PRECISION[resolver.dtype]},
            "upscale": options or {},
        }
        done = subprocess.run(
            [sys.executable, str(_PROBE)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise OutputError(f"the measured process failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])
