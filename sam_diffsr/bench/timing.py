"""Times several functions in turn, so that all of them see the machine in the same state."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["median_ratio", "medians", "time_in_turns"]

Seconds = Mapping[str, Sequence[float]]


def time_in_turns(
    tasks: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device | None = None,
) -> dict[str, list[float]]:
    """Run every task once per round, in order, and give its seconds, one per round.

    A first round does not count. ``device`` is waited for before and after each task; None is the CPU.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_number in range(repeats + 1):
        for name, task in tasks.items():
            _synchronize(device)
            started = time.perf_counter()
            task()
            _synchronize(device)
            if round_number > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def medians(seconds: Seconds) -> dict[str, float]:
    """Median seconds of each task."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def median_ratio(seconds: Seconds, numerator: str, denominator: str) -> float:
    """Median over the rounds of the ratio of two tasks; a round on a busy machine counts once."""
    pairs = zip(seconds[numerator], seconds[denominator], strict=True)
    return statistics.median(above / below for above, below in pairs)


def _synchronize(device: torch.device | None) -> None:
    """Wait until the device has finished its work."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "mps":
        torch.mps.synchronize()
