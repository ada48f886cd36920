"""Training batches: random choices on the host; turns, channels, blends and LR images on the device.

The host draws for the whole batch, so that the draws do not depend on the number of processes. The LR images
are those of the paper's section 4.1, or damaged ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.config import AugmentConfig
from sam_diffsr.data.degrade import Recipe, apply_recipe
from sam_diffsr.errors import ArgumentError
from sam_diffsr.resize import imresize

__all__ = [
    "CHANNEL_ORDERS",
    "MARGIN_LR",
    "Drawn",
    "Mixture",
    "TrainingBatch",
    "degrade",
    "dihedral",
    "draw",
    "make_batch",
    "mix_windows",
    "permute_channels",
    "share_rows",
]

MARGIN_LR = 2
"""LR pixels cut away on each side: the reach of the antialiased cubic."""

CHANNEL_ORDERS = tuple(permutations(range(3)))
"""The orders of three channels; the first one is the identity."""

_WEIGHT_BITS = 7
WEIGHT_STEPS = 1 << _WEIGHT_BITS
"""Denominator of the weights of a blend. Sums fit into 16 bits and are equal on every device."""


@dataclass(frozen=True)
class TrainingBatch:
    """Tensors of one training step, on the device."""

    lr: Tensor
    """``(B, 3, h, w)`` float32 in [0, 1], on the 8-bit grid."""
    hr: Tensor
    """``(B, 3, s*h, s*w)`` float32 in [0, 1]."""
    structure: Tensor
    """``(B, 1, s*h, s*w)`` float32."""


class Drawn(NamedTuple):
    """Random choices for every row of a batch, over all processes; each ``(B,)`` int64."""

    turns: NDArray[np.int64]
    """In 0..7, see ``dihedral``."""
    orders: NDArray[np.int64]
    """In 0..5, index into ``CHANNEL_ORDERS``."""
    partners: NDArray[np.int64]
    """The row blended into each row; the row itself for no blend."""
    weights: NDArray[np.int64]
    """The row's own weight in parts of ``WEIGHT_STEPS``."""


class Mixture(NamedTuple):
    """Blends of the first K windows of a batch; further windows serve as partners only."""

    partners: Tensor
    """``(K,)`` int64, the window blended into each window; the window itself for no blend."""
    weights: Tensor
    """``(K,)`` int16, the window's own weight in parts of ``WEIGHT_STEPS``; the rest is its partner's."""

    def to(self, device: torch.device) -> Mixture:
        """Move to a device."""
        return Mixture(self.partners.to(device), self.weights.to(device))


def draw(rng: np.random.Generator, config: AugmentConfig, *, batch: int) -> Drawn:
    """Draw for a whole batch of 2 or more; turns come first, so that they do not depend on the config."""
    turns = rng.integers(0, 8, size=batch)
    orders = np.where(rng.random(batch) < config.permute_channels, rng.integers(0, 6, size=batch), 0)
    steps = np.where(rng.random(batch) < config.mixup, rng.integers(1, max(batch, 2), size=batch), 0)
    weights = np.rint(WEIGHT_STEPS * rng.beta(config.mixup_alpha, config.mixup_alpha, size=batch))
    return Drawn(turns, orders, (np.arange(batch) + steps) % batch, weights.astype(np.int64))


def share_rows(drawn: Drawn, *, rank: int, world: int) -> tuple[list[int], Mixture | None]:
    """Give the rows that a process cuts, and their blends by place in that list; None without blends.

    The rows are ``rank``, ``rank + world``, ..., then the partners that belong to other processes.
    """
    rows = list(range(rank, len(drawn.turns), world))
    partners = drawn.partners[rows].tolist()
    if partners == rows:
        return rows, None
    cut = rows + sorted(set(partners) - set(rows))
    places = torch.tensor([cut.index(row) for row in partners])
    return cut, Mixture(places, torch.from_numpy(drawn.weights[rows]).short())


def permute_channels(images: Tensor, orders: Tensor) -> Tensor:
    """Permute the channels of ``(B, 3, H, W)`` images; ``orders``, ``(B,)``, index ``CHANNEL_ORDERS``."""
    channels = torch.tensor(CHANNEL_ORDERS, device=images.device)[orders]
    return images[torch.arange(len(images), device=images.device)[:, None], channels]


def mix_windows(images: Tensor, structure: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Blend pairs of windows, rounded to 8 bit (mixup for super-resolution, arXiv 2004.00448).

    Of images ``(B, 3, H, W)`` uint8 and fields ``(B, 1, H, W)`` the first K come back. Two segmentations
    have no mean: a blend takes the field of the window with the larger weight, its own at equal weights.
    """
    kept, partners = slice(len(mixture.partners)), mixture.partners
    weights = mixture.weights.view(-1, 1, 1, 1)
    sums = weights * images[kept].short() + (WEIGHT_STEPS - weights) * images[partners].short()
    fields = torch.where(2 * weights >= WEIGHT_STEPS, structure[kept], structure[partners])
    return ((sums + WEIGHT_STEPS // 2) >> _WEIGHT_BITS).to(images.dtype), fields


def make_batch(
    images: Tensor,
    structure: Tensor,
    turns: Tensor,
    *,
    scale: int,
    orders: Tensor | None = None,
    mixture: Mixture | None = None,
    recipes: Sequence[Recipe] = (),
    seed: int = 0,
) -> TrainingBatch:
    """Turn images and fields together, permute channels, blend, and make the LR images, all on one device.

    Args:
        images: ``(B, S, S, 3)`` uint8, windows with a margin of ``2 * scale`` HR pixels on each side.
        structure: ``(B, S, S)`` float32.
        turns: ``(B,)`` int64, see ``dihedral``.
        scale: scale of the LR images.
        orders: ``(B,)`` int64, see ``permute_channels``; None keeps the channels.
        mixture: blends, see ``mix_windows``; None for none.
        recipes: see ``degrade``.
        seed: see ``degrade``.
    """
    planes = dihedral(images.permute(0, 3, 1, 2).contiguous(), turns)
    fields = dihedral(structure[:, None], turns)
    if orders is not None:
        planes = permute_channels(planes, orders)
    if mixture is not None:
        planes, fields = mix_windows(planes, fields, mixture)
    return degrade(planes, fields, scale=scale, recipes=recipes, seed=seed)


def degrade(
    windows: Tensor, structure: Tensor, *, scale: int, recipes: Sequence[Recipe] = (), seed: int = 0
) -> TrainingBatch:
    """Make the LR images, rounded to 8 bit; the margin, which edges would spoil, is cut away.

    Args:
        windows: ``(B, 3, P + 2m, P + 2m)`` uint8 with ``m = 2 * scale``.
        structure: ``(B, 1, P + 2m, P + 2m)`` float32.
        scale: scale of the LR images.
        recipes: damage of each row; a row without steps, or no recipes at all, is the MATLAB bicubic.
        seed: seed of the noise; row ``n`` takes ``seed + n``.
    """
    lr = _reduce(windows, scale)
    inner = slice(MARGIN_LR, -MARGIN_LR)
    for row, recipe in enumerate(recipes):
        if recipe:
            damaged = apply_recipe(windows[row : row + 1], recipe, scale=scale, seed=seed + row)
            lr[row] = damaged[0, :, inner, inner]
    cut = (..., *[slice(MARGIN_LR * scale, -MARGIN_LR * scale)] * 2)
    return TrainingBatch(lr / 255, windows[cut].float() / 255, structure[cut].contiguous())


def _reduce(windows: Tensor, scale: int) -> Tensor:
    """``imresize(windows, 1 / scale)`` without the margin; on the CPU by exact products, 10 times faster."""
    if windows.device.type != "cpu":
        return imresize(windows, 1 / scale)[..., MARGIN_LR:-MARGIN_LR, MARGIN_LR:-MARGIN_LR].float()
    rows, columns = (_reduction_matrix(side, scale) for side in windows.shape[-2:])
    # Rounded between the passes as imresize does. Exact products leave ties to the rounding, not to chance.
    half = torch.matmul(rows, windows.to(rows.dtype)).round_().clamp_(0, 255).to(columns.dtype)
    return torch.matmul(half, columns.T).round_().clamp_(0, 255).float()


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


def dihedral(images: Tensor, turns: Tensor) -> Tensor:
    """One of the 8 symmetries of the square for each image.

    ``images`` are ``(B, C, S, S)`` of any dtype; of ``turns``, ``(B,)`` int64 in 0..7, 1 mirrors columns, 2
    mirrors rows and 4 transposes (last). Raises ``ArgumentError`` unless images are square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ArgumentError(f"expected square images, got {tuple(images.shape[-2:])}")
    bits = turns.view(-1, 1, 1, 1)
    images = torch.where((bits & 1).bool(), images.flip(-1), images)
    images = torch.where((bits & 2).bool(), images.flip(-2), images)
    return torch.where((bits & 4).bool(), images.mT, images)
