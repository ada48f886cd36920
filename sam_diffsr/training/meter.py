"""Means of what a training step reports, without waiting for the device at every step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import cast

import torch

__all__ = ["Meter"]


class Meter:
    """Means since the last summary; sums stay on the device, so nothing waits for it in between.

    Args:
        device: where losses come from.
        skips: whether a step without a finite gradient is skipped and no reason to worry.
    """

    def __init__(self, device: torch.device, *, skips: bool = False) -> None:
        self.device, self.skips = device, skips
        self._reset()

    def _reset(self) -> None:
        self.loss = torch.zeros((), device=self.device)
        self.norm = torch.zeros((), device=self.device)
        self.steps, self.images, self.waited, self.since = 0, 0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Time spent in here counts as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def add(self, loss: torch.Tensor, norm: torch.Tensor, *, images: int) -> None:
        """Count one step: its loss and gradient norm, scalars on the device.

        A norm that is not finite counts as nothing if ``skips``: the loss scaling of fp16 skips such steps.
        """
        self.loss += loss
        self.norm += torch.nan_to_num(norm, nan=0.0, posinf=0.0) if self.skips else norm
        self.steps += 1
        self.images += images

    @contextlib.contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Time spent in here is not counted: it was not training."""
        start = time.perf_counter()
        yield
        self.since += time.perf_counter() - start

    def summary(self, *, reduce: Callable[[torch.Tensor], torch.Tensor] | None = None) -> dict[str, float]:
        """Mean loss and gradient norm, images a second and the share of time spent waiting for data.

        Args:
            reduce: makes one mean of every process's values, a vector of two.
        """
        if not self.steps:
            return {}
        means = torch.stack((self.loss, self.norm)) / self.steps
        loss, norm = cast("list[float]", (means if reduce is None else reduce(means)).tolist())
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        values = {
            "loss": loss,
            "grad_norm": norm,
            "images_per_second": round(self.images / elapsed, 3),
            "data_wait": round(self.waited / elapsed, 4),
        }
        self._reset()
        return values
