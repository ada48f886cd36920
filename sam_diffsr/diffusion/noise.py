"""Reproducible noise: one generator per image, so that neither batch nor device nor tiles change a result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sam_diffsr.errors import ArgumentError

__all__ = ["ImageNoise"]

SEED_LIMIT = 2**63
_BLOCK = 16
"""Numbers that torch makes together."""
_PIECE = 2**18
"""Numbers in a piece, a multiple of the block."""


class ImageNoise:
    """Standard normal noise for a batch, where image i's numbers depend on ``seeds[i]`` alone.

    Numbers are always drawn in float32 on the CPU and then moved, because generators on other devices give
    other numbers for the same seed. Each call continues the images' sequences; the global generator is not
    touched.

    Args:
        seeds: one for each image, in -2**63..2**63-1.

    Raises:
        ArgumentError: there is no seed, or one is not a whole number in range.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        if not len(seeds):
            raise ArgumentError("seeds must hold one seed for each image, got none")
        self._generators = [_generator(seed) for seed in seeds]

    def __call__(self, like: Tensor) -> Tensor:
        """Draw once for each image.

        Args:
            like: ``(B, C, H, W)`` with B the number of seeds; only its shape, dtype and device are used.

        Returns:
            Noise of that shape, dtype and device.

        Raises:
            ArgumentError: B is not the number of seeds.
        """
        self._check(like)
        # Page-locked memory lets CUDA copy without the host waiting for the work queued before.
        noise = torch.empty(like.shape, dtype=torch.float32, pin_memory=like.is_cuda)
        for image, generator in zip(noise, self._generators, strict=True):
            image.normal_(generator=generator)
        return noise.to(like.device, non_blocking=like.is_cuda).to(like.dtype)

    def fill(self, x: Tensor) -> None:
        """Draw once for each image, in place and a little at a time.

        Args:
            x: ``(B, C, H, W)``, contiguous, on any device.

        Raises:
            ArgumentError: B is not the number of seeds.
        """
        for part, numbers in self._pieces_of(x):
            part.copy_(numbers)

    def add_to(self, x: Tensor, deviation: float) -> None:
        """Draw once for each image and add that times ``deviation`` in place, a little at a time.

        Args:
            x: ``(B, C, H, W)``, contiguous, on any device.
            deviation: what the noise is multiplied with; for 0 it is drawn and not used.

        Raises:
            ArgumentError: B is not the number of seeds.
        """
        for part, numbers in self._pieces_of(x):
            if deviation:
                part.add_(numbers.to(part), alpha=deviation)

    def _pieces_of(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Parts of the memory of a contiguous batch, and the numbers that a call would give them."""
        self._check(x)
        for index, image in enumerate(x):
            flat = image.view(-1)
            for piece, numbers in self.pieces(index, flat.numel()):
                yield flat[piece], numbers

    def _check(self, like: Tensor) -> None:
        if like.ndim != 4 or like.shape[0] != len(self._generators):
            raise ArgumentError(
                f"expected a batch (B, C, H, W) of {len(self._generators)} images, one for each seed; "
                f"got {tuple(like.shape)}"
            )

    def pieces(self, image: int, count: int) -> Iterator[tuple[slice, Tensor]]:
        """Draw once for one image, a little at a time: the numbers that a call would give it.

        Args:
            image: its index in the batch.
            count: numbers in all, channels times height times width.

        Yields:
            Positions in the flattened image, and their float32 numbers on the CPU.
        """
        ends = [*range(_PIECE, count - _BLOCK, _PIECE), count]  # torch has another way for fewer than a block
        for first, last in pairwise([0, *ends]):
            yield slice(first, last), torch.empty(last - first).normal_(generator=self._generators[image])


def _generator(seed: int) -> torch.Generator:
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not -SEED_LIMIT <= seed < SEED_LIMIT:
        raise ArgumentError(f"a seed must be a whole number in -2**63..2**63-1, got {seed!r}")
    generator = torch.Generator(device="cpu")
    generator.manual_seed(int(seed))
    return generator
