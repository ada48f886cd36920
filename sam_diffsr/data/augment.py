"""What a window goes through beside its place: turns, other orders of the channels, blends of two windows.

The host draws for the whole batch, so that every process knows what the others do; pixels change on the
device.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.config import AugmentConfig

__all__ = [
    "CHANNEL_ORDERS",
    "WEIGHT_STEPS",
    "Drawn",
    "Mixture",
    "draw",
    "mix_windows",
    "permute_channels",
    "share_rows",
]

CHANNEL_ORDERS = tuple(permutations(range(3)))
"""The orders of three channels; the first one leaves them as they are."""

_WEIGHT_BITS = 7
WEIGHT_STEPS = 1 << _WEIGHT_BITS
"""Weights of a blend are whole parts of this: sums fit into 16 bits and are the same on every device."""


@dataclass(frozen=True)
class Drawn:
    """What was drawn for every row of a batch, whichever process it belongs to."""

    turns: NDArray[np.int64]
    """``(B,)`` in 0..7, see ``dihedral``."""
    orders: NDArray[np.int64]
    """``(B,)`` in 0..5, which of ``CHANNEL_ORDERS``."""
    partners: NDArray[np.int64]
    """``(B,)``, the row that is blended into each; a row itself where nothing is."""
    weights: NDArray[np.int64]
    """``(B,)``, the row's own weight in parts of ``WEIGHT_STEPS``."""


@dataclass(frozen=True)
class Mixture:
    """Which windows are blended with which."""

    rows: Tensor
    """``(K,)`` int64, windows that become a blend."""
    partners: Tensor
    """``(K,)`` int64, the window that each is blended with, as it was before any blend."""
    weights: Tensor
    """``(K,)`` int16, the window's own weight in parts of ``WEIGHT_STEPS``; its partner has the rest."""
    guests: int = 0
    """How many windows at the end are there for this only: they belong to other processes."""

    def to(self, device: torch.device) -> Mixture:
        """The same on a device."""
        rows, partners, weights = (each.to(device) for each in (self.rows, self.partners, self.weights))
        return Mixture(rows, partners, weights, self.guests)


def draw(rng: np.random.Generator, config: AugmentConfig, *, batch: int) -> Drawn:
    """Draw for a whole batch; turns come first, so that they are the same whatever else is on.

    Args:
        rng: of the step.
        config: how likely what is.
        batch: rows, at least 2 if ``config.mixup`` is not 0.
    """
    turns = rng.integers(0, 8, size=batch)
    orders = np.where(rng.random(batch) < config.permute_channels, rng.integers(0, 6, size=batch), 0)
    steps = np.where(rng.random(batch) < config.mixup, rng.integers(1, max(batch, 2), size=batch), 0)
    weights = np.rint(WEIGHT_STEPS * rng.beta(config.mixup_alpha, config.mixup_alpha, size=batch))
    return Drawn(turns, orders, (np.arange(batch) + steps) % batch, weights.astype(np.int64))


def share_rows(drawn: Drawn, *, rank: int, world: int) -> tuple[list[int], Mixture | None]:
    """Rows of a batch that a process cuts, and how it blends them.

    Returns:
        Its own rows ``rank``, ``rank + world``, ... and, last, those of other processes that are blended into
        them; and the mixture by place in that list, None if none is blended.
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
    """Put the channels of each image in another order.

    Args:
        images: ``(B, 3, H, W)``, any dtype.
        orders: ``(B,)`` int64 in 0..5: channel c of image b is its former channel
            ``CHANNEL_ORDERS[orders[b]][c]``.

    Returns:
        ``(B, 3, H, W)``, a new tensor.
    """
    channels = torch.tensor(CHANNEL_ORDERS, device=images.device)[orders]
    return images[torch.arange(len(images), device=images.device)[:, None], channels]


def mix_windows(images: Tensor, structure: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Blend windows of a batch by twos, rounded to 8 bit (mixup for super-resolution, arXiv 2004.00448).

    The structure field has no mean of two segmentations: it is that of the window with the larger weight, and
    the window's own at equal weights.

    Args:
        images: ``(B, 3, H, W)`` uint8.
        structure: ``(B, 1, H, W)``.
        mixture: on the same device.

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
