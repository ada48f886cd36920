"""Means of what a training step reports, without waiting for the device at every step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

import torch

__all__ = ["Meter"]


class Meter:
    """Means since the last summary; sums stay on the device, so nothing waits for it in between.

    Args:
        device: where losses come from.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
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
        """Count one step: its loss and gradient norm, scalars on the device."""
        self.loss += loss
        self.norm += norm
        self.steps += 1
        self.images += images

    def restart_clock(self) -> None:
        """Leave the time since the last summary out of the rate, because it was spent on something else."""
        self.since = time.perf_counter()
        self.waited = 0.0

    def summary(self) -> dict[str, float]:
        """Mean loss and gradient norm, images a second and the share of time spent waiting for data."""
        if not self.steps:
            return {}
        values = {"loss": self.loss.item() / self.steps, "grad_norm": self.norm.item() / self.steps}
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        values["images_per_second"] = round(self.images / elapsed, 3)
        values["data_wait"] = round(self.waited / elapsed, 4)
        self._reset()
        return values
