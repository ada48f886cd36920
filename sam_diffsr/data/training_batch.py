"""Makes a training batch of windows on the device: augmentation, then the LR image (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sam_diffsr.data.augment import Mixture, mix_windows, permute_channels
from sam_diffsr.data.degrade import Recipe, apply_recipe
from sam_diffsr.errors import ArgumentError
from sam_diffsr.resize import imresize

__all__ = ["MARGIN_LR", "TrainingBatch", "degrade", "dihedral", "make_batch"]

MARGIN_LR = 2
"""LR pixels cut away on each side: the reach of the antialiased cubic."""


@dataclass(frozen=True)
class TrainingBatch:
    """Tensors of one training step, on the device."""

    lr: Tensor
    """``(B, 3, h, w)`` float32 in [0, 1], on the 8-bit grid."""
    hr: Tensor
    """``(B, 3, s*h, s*w)`` float32 in [0, 1]."""
    structure: Tensor
    """``(B, 1, s*h, s*w)`` float32."""


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
        mixture: blends, see ``mix_windows``; its guests are not in the batch.
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
    # rounded between the passes as imresize does, which keeps the image's class as MATLAB
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

    Args:
        images: ``(B, C, S, S)``, any dtype; so is the result.
        turns: ``(B,)`` int64 in 0..7: 1 mirrors columns, 2 mirrors rows, 4 transposes (last).

    Raises:
        ArgumentError: images are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ArgumentError(f"expected square images, got {tuple(images.shape[-2:])}")
    for bit in (1, 2, 4):
        turned = images.mT if bit == 4 else images.flip(-bit)
        images = torch.where((turns & bit).bool().view(-1, 1, 1, 1), turned, images)
    return images
