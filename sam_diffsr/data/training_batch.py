"""Training batches: windows are turned, permuted, blended and reduced (paper section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam_diffsr.data.config import AugmentConfig
from sam_diffsr.data.degrade import Recipe, apply_recipe
from sam_diffsr.resize import imresize

MARGIN_LR = 2
"""LR pixels cut away on each side: the reach of the antialiased cubic."""

CHANNEL_ORDERS = tuple(permutations(range(3)))
"""The orders of three channels; the first one is the identity."""

_WEIGHT_BITS = 7
WEIGHT_STEPS = 1 << _WEIGHT_BITS
"""Denominator of the weights of a blend. Sums fit into 16 bits."""


class TrainingBatch(NamedTuple):
    """Tensors of one training step."""

    lr: Tensor
    """``(B, 3, h, w)`` float32 in [0, 1], on the 8-bit grid."""
    hr: Tensor
    """``(B, 3, s*h, s*w)`` float32 in [0, 1]."""
    structure: Tensor
    """``(B, 1, s*h, s*w)`` float32."""


class Draws(NamedTuple):
    """Random choices for B windows, of which the first K are rows and the others only partners; int64."""

    turns: Tensor
    """``(B,)`` in 0..7, see ``dihedral``."""
    orders: Tensor
    """``(B,)`` in 0..5, index into ``CHANNEL_ORDERS``."""
    partners: Tensor
    """``(K,)``, the window blended into each row; the row itself for no blend."""
    weights: Tensor
    """``(K,)``, the row's own weight in parts of ``WEIGHT_STEPS``; the rest is its partner's."""

    @classmethod
    def of_batch(cls, rng: np.random.Generator, config: AugmentConfig, *, batch: int) -> Draws:
        """Draw for a whole batch; turns come first, so that they do not depend on the config."""
        turns = rng.integers(0, 8, size=batch)
        orders = np.where(rng.random(batch) < config.permute_channels, rng.integers(0, 6, size=batch), 0)
        steps = np.where(rng.random(batch) < config.mixup, rng.integers(1, max(batch, 2), size=batch), 0)
        weights = np.rint(WEIGHT_STEPS * rng.beta(config.mixup_alpha, config.mixup_alpha, size=batch))
        partners = (np.arange(batch) + steps) % batch
        return cls(*map(torch.as_tensor, (turns, orders, partners, weights.astype(np.int64))))

    def share(self, *, rank: int, world: int) -> tuple[list[int], Draws]:
        """Give the rows that a process cuts, and their draws.

        They are ``rank``, ``rank + world``, ..., then the partners that belong to other processes.
        """
        rows = list(range(rank, len(self.turns), world))
        partners = [int(row) for row in self.partners[rows]]
        cut = rows + sorted(set(partners) - set(rows))
        places = torch.tensor([cut.index(row) for row in partners])
        return cut, Draws(self.turns[cut], self.orders[cut], places, self.weights[rows])


@dataclass(frozen=True)
class Windows:
    """Windows of one step with a margin m of ``2 * scale`` HR pixels, and the augmentation drawn for them.

    B includes, at the end, windows that are blended into the others and whose rows belong to other processes.
    """

    images: Tensor
    """``(B, P + 2m, P + 2m, 3)`` uint8."""
    structure: Tensor
    """``(B, P + 2m, P + 2m)`` float32."""
    draws: Draws
    """Turns, channel orders and blends."""
    recipes: tuple[Recipe, ...] = ()
    """Damage of each row; a row without steps, or no recipes at all, is the MATLAB bicubic."""
    seed: int = 0
    """Seed of the noise of recipes; row ``n`` takes ``seed + n * stride``."""
    stride: int = 1
    """Number of processes: rows that follow each other here are that far apart in the whole batch."""


def make_batch(windows: Windows, *, scale: int) -> TrainingBatch:
    """Turn images and fields together, permute channels, blend, and make LR images.

    LR images are rounded to 8 bit. The margin is cut away, because the padding at its edges affects it.
    """
    draws = windows.draws
    images = dihedral(windows.images.permute(0, 3, 1, 2).contiguous(), draws.turns)
    fields = dihedral(windows.structure[:, None], draws.turns)
    if draws.orders.any():
        channels = torch.tensor(CHANNEL_ORDERS)[draws.orders]
        images = images[torch.arange(len(images))[:, None], channels]
    images, fields = mix_windows(images, fields, draws)

    lr = _reduce(images, scale)
    for row, recipe in enumerate(windows.recipes):
        if recipe:
            seed = windows.seed + row * windows.stride
            damaged = apply_recipe(images[row : row + 1], recipe, scale=scale, seed=seed)
            lr[row] = damaged[0, :, MARGIN_LR:-MARGIN_LR, MARGIN_LR:-MARGIN_LR]
    inner = slice(MARGIN_LR * scale, -MARGIN_LR * scale)
    hr = images[..., inner, inner].float() / 255
    return TrainingBatch(lr / 255, hr, fields[..., inner, inner].contiguous())


def dihedral(images: Tensor, turns: Tensor) -> Tensor:
    """One of the 8 symmetries of the square for each image.

    ``images`` are ``(B, C, S, S)`` of any dtype; of ``turns``, ``(B,)`` int64 in 0..7, 1 mirrors columns, 2
    mirrors rows and 4 transposes (last).
    """
    bits = turns.view(-1, 1, 1, 1)
    images = torch.where((bits & 1).bool(), images.flip(-1), images)
    images = torch.where((bits & 2).bool(), images.flip(-2), images)
    return torch.where((bits & 4).bool(), images.mT, images)


def mix_windows(images: Tensor, structure: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Blend pairs of windows, rounded to 8 bit (mixup for super-resolution, arXiv 2004.00448).

    Of images ``(B, 3, H, W)`` uint8 and fields ``(B, 1, H, W)`` the first K come back. Two segmentations
    have no mean: a blend takes the field of the window with the larger weight, its own at equal weights.
    """
    if draws.partners.tolist() == list(range(len(images))):
        return images, structure
    partners, weights = draws.partners, draws.weights.short().view(-1, 1, 1, 1)
    rows = slice(len(partners))
    sums = weights * images[rows].short() + (WEIGHT_STEPS - weights) * images[partners].short()
    fields = torch.where(2 * weights >= WEIGHT_STEPS, structure[rows], structure[partners])
    return ((sums + WEIGHT_STEPS // 2) >> _WEIGHT_BITS).to(images.dtype), fields


def _reduce(images: Tensor, scale: int) -> Tensor:
    """``imresize(images, 1 / scale)`` without the margin, by exact products, 10 times faster."""
    matrix = _reduction_matrix(images.shape[-1], scale)
    # Rounded between the passes as imresize does. Exact products leave ties to the rounding, not to chance.
    half = torch.matmul(matrix, images.to(matrix.dtype)).round_().clamp_(0, 255)
    return torch.matmul(half, matrix.T).round_().clamp_(0, 255).float()


@lru_cache(maxsize=32)
def _reduction_matrix(side: int, scale: int) -> Tensor:
    """``(h, side)`` weights of the rows that are left; float32 where its sums of 8-bit pixels are exact."""
    with torch.inference_mode(False), torch.no_grad():
        full = imresize(torch.eye(side, dtype=torch.float64), size=(side // scale, side))
        matrix = full[MARGIN_LR:-MARGIN_LR].contiguous()
    # Weights are whole multiples of 2**-13 at scale 4: products and sums with 8-bit pixels fit into 24 bits.
    units = matrix * 2**13
    exact = bool((units == units.round()).all()) and float(units.abs().sum(1).max()) * 255 < 2**24
    return matrix.float() if exact else matrix
