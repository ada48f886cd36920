"""Reproducible noise: a function of seed, step and place, so that batch, tiles and device change nothing."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from sam_diffsr.errors import ArgumentError

BLOCK = 64
"""Side of the squares of pixels that are drawn together, each from a generator of its own."""
_SEED_LIMIT = 2**63


class PositionNoise:
    """Standard normal noise for a batch of windows of images.

    An image is divided into squares of 64 pixels. The numbers of a square depend on the seed, the square and
    the step alone, so a window has the same noise as the same pixels of the whole image. Numbers are drawn in
    float32 on the CPU, because generators on other devices give other numbers for the same seed. The global
    generator is not touched.

    Args:
        seeds: seed of each window's image, in -2**63..2**63-1.
        corners: top left pixel ``(top, left)`` of each window in its image; None is ``(0, 0)``.
        period: ``(height, width)`` after which the noise repeats, for an image that wraps.

    Raises:
        ArgumentError: there is no seed, or one is not a whole number in range.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        corners: Sequence[tuple[int, int]] | None = None,
        *,
        period: tuple[int, int] | None = None,
    ) -> None:
        if not len(seeds):
            raise ArgumentError("seeds must hold one seed for each image, got none")
        for seed in seeds:
            whole = hasattr(seed, "__index__") and not isinstance(seed, bool)
            if not (whole and -_SEED_LIMIT <= seed < _SEED_LIMIT):
                raise ArgumentError(f"a seed must be a whole number in -2**63..2**63-1, got {seed!r}")
        self._seeds = [int(seed) for seed in seeds]
        self._corners = [(0, 0)] * len(seeds) if corners is None else list(corners)
        self._period = period or (None, None)
        self._step = 0
        self._generator = torch.Generator(device="cpu")

    def __call__(self, like: Tensor) -> Tensor:
        """Draw the noise of the next step, of the shape ``(B, C, H, W)``, dtype and device of a tensor.

        Raises:
            ArgumentError: B is not the number of seeds.
        """
        if like.ndim != 4 or like.shape[0] != len(self._seeds):
            raise ArgumentError(
                f"expected a batch (B, C, H, W) of {len(self._seeds)} images, one for each seed; "
                f"got {tuple(like.shape)}"
            )
        # Page-locked memory lets CUDA copy without waiting for the work queued before.
        noise = torch.empty(like.shape, dtype=torch.float32, device="cpu", pin_memory=like.is_cuda)
        for window, seed, (top, left) in zip(noise, self._seeds, self._corners, strict=True):
            rows = _pieces(top, window.shape[-2], self._period[0])
            columns = _pieces(left, window.shape[-1], self._period[1])
            for (row, y), (column, x) in itertools.product(rows, columns):
                self._fill(window[:, row, column], seed, y, x)
        self._step += 1
        return noise.to(like.device, non_blocking=like.is_cuda).to(like.dtype)

    def _fill(self, window: Tensor, seed: int, top: int, left: int) -> None:
        """Write the noise of pixels ``(top, left)`` and following into ``window`` ``(C, H, W)``."""
        channels, height, width = window.shape
        block = torch.empty(channels, BLOCK, BLOCK, dtype=torch.float32, device="cpu")
        for row in range(top // BLOCK, -(-(top + height) // BLOCK)):
            for column in range(left // BLOCK, -(-(left + width) // BLOCK)):
                key = struct.pack("<4q", seed, self._step, row, column)
                digest = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
                self._generator.manual_seed(digest >> 1)
                block.normal_(generator=self._generator)
                # The part of the block that lies in the window.
                y, x = row * BLOCK - top, column * BLOCK - left
                rows = slice(max(-y, 0), min(BLOCK, height - y))
                columns = slice(max(-x, 0), min(BLOCK, width - x))
                target = window[:, max(y, 0) : y + BLOCK, max(x, 0) : x + BLOCK]
                target.copy_(block[:, rows, columns])


def _pieces(start: int, length: int, period: int | None) -> list[tuple[slice, int]]:
    """Parts of a line of pixels that lie within one period, each with the place where it begins."""
    if period is None:
        return [(slice(0, length), start)]
    bounds = sorted({0, length, *range(-start % period, length, period)})
    return [(slice(*pair), (start + pair[0]) % period) for pair in itertools.pairwise(bounds)]
