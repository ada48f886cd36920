"""Compiles the denoiser where that pays, and says what it cost and brought."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.models import DiffSR
from sam_diffsr.pipeline.device import network_layout

__all__ = ["CompileReport", "compile_denoiser"]

_LEAST_SPEEDUP = 1.05
"""A compiled network that is not faster than this is not kept."""
_ROUNDS = 3
_REASON_LENGTH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class CompileReport:
    """What compiling came to."""

    kept: bool
    """Whether the compiled network is used from now on."""
    warmup_seconds: float
    """Until the first compiled step was done."""
    speedup: float | None
    """Seconds of a step before over seconds of a compiled one; None where it could not be compiled."""
    reason: str
    """Why it was kept or not."""


def compile_denoiser(model: DiffSR, *, size: int, backend: str) -> CompileReport:
    """Compile in place, compare with the network as it was, and go back to that unless it became faster.

    Args:
        model: in evaluation mode, on the device and in the type that count.
        size: side of the low-resolution images; others are compiled anew at their first use.
        backend: of ``torch.compile``.

    Raises:
        ArgumentError: the networks do not take this size.
    """
    config, denoiser = model.config, model.denoiser
    if size < config.lr_minimum or size % config.lr_multiple:
        raise ArgumentError(
            f"size must be a multiple of {config.lr_multiple} and at least {config.lr_minimum}, got {size}"
        )
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    layout = network_layout(parameter.device)
    with torch.inference_mode():
        lr = torch.rand(1, 3, size, size, device=device, dtype=dtype).contiguous(memory_format=layout)
        projected = model.encode(lr).projected
        side = size * config.scale
        xt = torch.randn(1, 3, side, side, device=device, dtype=dtype).contiguous(memory_format=layout)
        t = torch.zeros(1, dtype=torch.int64, device=parameter.device)

        def seconds() -> float:
            started = time.perf_counter()
            denoiser(xt, t, projected).sum().item()  # waits for the device
            return time.perf_counter() - started

        seconds()
        before = statistics.median(seconds() for _ in range(_ROUNDS))
        started = time.perf_counter()
        denoiser.compile(backend=backend)
        try:
            seconds()
        except Exception as error:  # no compiler, an operation it does not know: the library runs without
            denoiser._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage]
            words = " ".join(str(error).split())[:_REASON_LENGTH]
            return CompileReport(
                kept=False,
                warmup_seconds=time.perf_counter() - started,
                speedup=None,
                reason=f"it could not be compiled: {type(error).__name__}: {words}",
            )
        warmup = time.perf_counter() - started
        speedup = before / statistics.median(seconds() for _ in range(_ROUNDS))
    kept = speedup >= _LEAST_SPEEDUP
    if not kept:
        denoiser._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage]
    reason = f"a compiled step is {speedup:.2f} times as fast; {_LEAST_SPEEDUP} was wanted"
    return CompileReport(kept=kept, warmup_seconds=warmup, speedup=speedup, reason=reason)
