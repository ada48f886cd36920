"""Augmentation of training windows: turns, channel permutation, mixup.

The host draws for the whole batch, so that the draws do not depend on the number of processes. Pixels change
on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.config import AugmentConfig

__all__ = ["CHANNEL_ORDERS", "Drawn", "Mixture", "draw", "mix_windows", "permute_channels", "share_rows"]

CHANNEL_ORDERS = tuple(permutations(range(3)))
"""The orders of three channels; the first one is the identity."""

_WEIGHT_BITS = 7
WEIGHT_STEPS = 1 << _WEIGHT_BITS
"""Denominator of the weights of a blend. Sums fit into 16 bits and are equal on every device."""


@dataclass(frozen=True)
class Drawn:
    """Random choices for every row of a batch, over all processes."""

    turns: NDArray[np.int64]
    """``(B,)`` in 0..7, see ``dihedral``."""
    orders: NDArray[np.int64]
    """``(B,)`` in 0..5, index into ``CHANNEL_ORDERS``."""
    partners: NDArray[np.int64]
    """``(B,)``, the row blended into each row; the row itself for no blend."""
    weights: NDArray[np.int64]
    """``(B,)``, the row's own weight in parts of ``WEIGHT_STEPS``."""


@dataclass(frozen=True)
class Mixture:
    """Blends of windows of a batch."""

    rows: Tensor
    """``(K,)`` int64, the windows that are replaced by a blend."""
    partners: Tensor
    """``(K,)`` int64, the partner of each window, before any blend."""
    weights: Tensor
    """``(K,)`` int16, the window's own weight in parts of ``WEIGHT_STEPS``; the rest is its partner's."""
    guests: int = 0
    """Number of windows at the end that belong to other processes and serve as partners only."""

    def to(self, device: torch.device) -> Mixture:
        """Move to a device."""
        tensors = (each.to(device) for each in (self.rows, self.partners, self.weights))
        return Mixture(*tensors, guests=self.guests)


def draw(rng: np.random.Generator, config: AugmentConfig, *, batch: int) -> Drawn:
    """Draw for a whole batch of 2 or more; turns come first, so that they do not depend on the config."""
    turns = rng.integers(0, 8, size=batch)
    orders = np.where(rng.random(batch) < config.permute_channels, rng.integers(0, 6, size=batch), 0)
    steps = np.where(rng.random(batch) < config.mixup, rng.integers(1, max(batch, 2), size=batch), 0)
    weights = np.rint(WEIGHT_STEPS * rng.beta(config.mixup_alpha, config.mixup_alpha, size=batch))
    return Drawn(turns, orders, (np.arange(batch) + steps) % batch, weights.astype(np.int64))


def share_rows(drawn: Drawn, *, rank: int, world: int) -> tuple[list[int], Mixture | None]:
    """Rows that a process cuts, and their blends.

    Returns:
        The rows ``rank``, ``rank + world``, ..., then the partners that belong to other processes; and the
        mixture by place in that list, None without blends.
    """
    rows = list(range(rank, len(drawn.turns), world))
    mixed = [row for row in rows if drawn.partners[row] != row]
    if not mixed:
        return rows, None
    partners = [int(drawn.partners[row]) for row in mixed]
    guests = sorted(set(partners).difference(rows))
    places = {row: place for place, row in enumerate([*rows, *guests])}
    return list(places), Mixture(
        rows=torch.tensor([places[row] for row in mixed]),
        partners=torch.tensor([places[row] for row in partners]),
        weights=torch.from_numpy(drawn.weights[mixed]).short(),
        guests=len(guests),
    )


def permute_channels(images: Tensor, orders: Tensor) -> Tensor:
    """Permute the channels of ``(B, 3, H, W)`` images; ``orders``, ``(B,)``, index ``CHANNEL_ORDERS``."""
    channels = torch.tensor(CHANNEL_ORDERS, device=images.device)[orders]
    return images[torch.arange(len(images), device=images.device)[:, None], channels]


def mix_windows(images: Tensor, structure: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Blend pairs of windows, rounded to 8 bit (mixup for super-resolution, arXiv 2004.00448).

    Two segmentations have no mean: a blend takes the structure field of the window with the larger weight,
    its own at equal weights.

    Args:
        images: ``(B, 3, H, W)`` uint8.
        structure: ``(B, 1, H, W)`` fields.
        mixture: blends, on the same device.

    Returns:
        Images and fields without the guests.
    """
    rows, partners = mixture.rows, mixture.partners
    weights = mixture.weights.view(-1, 1, 1, 1)
    sums = weights * images[rows].short() + (WEIGHT_STEPS - weights) * images[partners].short()
    fields = torch.where(2 * weights >= WEIGHT_STEPS, structure[rows], structure[partners])
    kept = len(images) - mixture.guests
    images, structure = images[:kept].clone(), structure[:kept].clone()
    images[rows] = ((sums + WEIGHT_STEPS // 2) >> _WEIGHT_BITS).to(images.dtype)
    structure[rows] = fields
    return images, structure
