"""Training batches: windows of crops, turned and mirrored with their structure field, and their LR images.

The host only cuts windows; everything else happens on the device after one uint8 copy. A batch is a
function of ``(seed, step)`` alone, so a resumed run sees exactly the batches that it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.data.crops import CropStore
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.resize import imresize

__all__ = ["BatchSource", "HostBatch", "TrainingBatch", "degrade", "dihedral", "make_batch"]

MARGIN_LR = 2
"""LR pixels cut away on each side: the reach of the antialiased cubic."""


@dataclass(frozen=True)
class TrainingBatch:
    """What a training step sees, on the device."""

    lr: Tensor
    """``(B, 3, h, w)`` float32 in [0, 1], on the 8-bit grid."""
    hr: Tensor
    """``(B, 3, s*h, s*w)`` float32 in [0, 1]."""
    structure: Tensor
    """``(B, 1, s*h, s*w)`` float32."""


@dataclass(frozen=True)
class HostBatch:
    """Windows with their margin, still on the host and not yet turned."""

    images: Tensor
    """``(B, P + 2m, P + 2m, 3)`` uint8."""
    structure: Tensor
    """``(B, P + 2m, P + 2m)`` float32."""
    turns: Tensor
    """``(B,)`` int64 in 0..7, see ``dihedral``."""


class BatchSource:
    """Batches of random windows; every crop is used once an epoch, in a new order each epoch.

    Args:
        store: prepared crops.
        patch: HR side of what the networks see.
        scale: 2, 4 or 8; ``patch`` is a multiple of it.
        batch: images a step.
        seed: chooses order, windows and turns.

    Raises:
        ArgumentError: the patch is no multiple of the scale, or the batch is empty.
        DataError: crops are too small for the patch and its margin.
    """

    def __init__(self, store: CropStore, *, patch: int, scale: int, batch: int, seed: int) -> None:
        if patch < scale or patch % scale:
            raise ArgumentError(f"patch must be a multiple of the scale {scale}, got {patch}")
        if batch < 1:
            raise ArgumentError(f"batch must be at least 1, got {batch}")
        self.store, self.batch, self.seed = store, batch, seed
        self.window = patch + 2 * MARGIN_LR * scale
        if self.window > store.crop_size:
            raise DataError(
                f"patches of {patch} pixels need crops of at least {self.window} (patch and margin), but "
                f"{store.path} has crops of {store.crop_size}; use a smaller patch or prepare larger crops"
            )
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def host_batch(self, step: int) -> HostBatch:
        """Cut the windows of one step (0-based)."""
        rng = np.random.default_rng([self.seed, 1, step])
        side, slack = self.window, self.store.crop_size - self.window
        images = np.empty((self.batch, side, side, 3), np.uint8)
        structure = np.empty((self.batch, side, side), np.float32)
        for row in range(self.batch):
            index = self._index(step * self.batch + row)
            top, left = (int(offset) for offset in rng.integers(0, slack, size=2, endpoint=True))
            window = (slice(top, top + side), slice(left, left + side))
            images[row] = self.store.images[index][window]
            structure[row] = self.store.structure(index)[window]
        turns = rng.integers(0, 8, size=self.batch)
        return HostBatch(torch.from_numpy(images), torch.from_numpy(structure), torch.from_numpy(turns))

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.store))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.store))
            self._epoch = epoch
        return int(self._order[place])


def make_batch(host: HostBatch, *, scale: int, device: torch.device) -> TrainingBatch:
    """Copy to the device, turn image and field together, and make the LR image.

    Args:
        host: windows with a margin of ``2 * scale`` HR pixels on each side.
        scale: how much smaller LR is.
        device: where the batch is needed.
    """
    turns = host.turns.to(device)
    images = host.images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    structure = host.structure.to(device, non_blocking=True)[:, None]
    return degrade(dihedral(images, turns), dihedral(structure, turns), scale=scale)


def degrade(windows: Tensor, structure: Tensor, *, scale: int) -> TrainingBatch:
    """LR by the MATLAB bicubic, rounded to 8 bit; the margin, which edges would spoil, is cut away.

    Args:
        windows: ``(B, 3, P + 2m, P + 2m)`` uint8 with ``m = 2 * scale``.
        structure: ``(B, 1, P + 2m, P + 2m)`` float32.
        scale: how much smaller LR is.
    """
    margin = MARGIN_LR * scale
    lr = imresize(windows, 1 / scale)[..., MARGIN_LR:-MARGIN_LR, MARGIN_LR:-MARGIN_LR]
    hr = windows[..., margin:-margin, margin:-margin]
    return TrainingBatch(
        lr=lr.float() / 255,
        hr=hr.float() / 255,
        structure=structure[..., margin:-margin, margin:-margin].contiguous(),
    )


def dihedral(images: Tensor, turns: Tensor) -> Tensor:
    """One of the 8 symmetries of the square for each image.

    Args:
        images: ``(B, C, S, S)``, any dtype.
        turns: ``(B,)`` int64 in 0..7: 1 mirrors columns, 2 mirrors rows, 4 transposes (last).

    Returns:
        ``(B, C, S, S)``, a new tensor.

    Raises:
        ArgumentError: images are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ArgumentError(f"expected square images, got {tuple(images.shape[-2:])}")
    bits = turns.view(-1, 1, 1, 1)
    images = torch.where((bits & 1).bool(), images.flip(-1), images)
    images = torch.where((bits & 2).bool(), images.flip(-2), images)
    return torch.where((bits & 4).bool(), images.transpose(-1, -2), images)
