"""Features with room for a reflection padding, so that a convolution needs no copy of them for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["MaybeRimmed", "Rimmed", "inside", "joined"]


@dataclass(frozen=True, slots=True)
class Rimmed:
    """Features with room for the reflection padding of the convolution that follows.

    Padding is otherwise a copy of everything for the sake of one pixel around it. Only where
    :func:`~sam_diffsr.models.activation.writes_in_place` says so; training and other devices have plain tensors.
    """

    parts: tuple[Tensor, ...]
    """``(B, C, H + 2, W + 2)``, channels-last, one behind the other along the channels; their rims are undefined
    until :meth:`reflect`. More than one only where nobody needs them in one piece."""

    @classmethod
    def like(cls, x: Tensor, channels: int) -> Rimmed:
        """Undefined values for the height and width of ``x``."""
        batch, _, height, width = x.shape
        shape = (batch, channels, height + 2, width + 2)
        whole = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return cls((whole,))

    @classmethod
    def around(cls, x: MaybeRimmed) -> Rimmed:
        """``x`` itself, or a copy with a rim of a plain tensor; with its rim filled."""
        return (
            x.reflect() if isinstance(x, Rimmed) else cls((functional.pad(x, (1, 1, 1, 1), mode="reflect"),))
        )

    @property
    def whole(self) -> Tensor:
        """All channels with their rim."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts, dim=1)

    @property
    def inside(self) -> Tensor:
        """The features ``(B, C, H, W)``, a view where there is one part."""
        return self.whole[:, :, 1:-1, 1:-1]

    def reflect(self) -> Rimmed:
        """Fill the rim from the inside, and give itself."""
        for part in self.parts:
            part[:, :, 0], part[:, :, -1] = part[:, :, 2], part[:, :, -3]
            part[:, :, :, 0], part[:, :, :, -1] = part[:, :, :, 2], part[:, :, :, -3]
        return self


MaybeRimmed: TypeAlias = Tensor | Rimmed
"""What the blocks hand on."""


def inside(x: MaybeRimmed) -> Tensor:
    """The features themselves, ``(B, C, H, W)``."""
    return x.inside if isinstance(x, Rimmed) else x


def joined(first: Tensor, second: MaybeRimmed, *, apart: bool) -> MaybeRimmed:
    """Concatenate along the channels.

    Args:
        first: ``(B, C, H, W)``.
        second: ``(B, D, H, W)``.
        apart: leave them where they are, if ``second`` has a rim; only ``first`` is copied, for its own.
    """
    if not isinstance(second, Rimmed):
        return torch.cat((first, second), dim=1)
    if apart:
        return Rimmed((*Rimmed.around(first).parts, *second.parts))
    channels = first.shape[1]
    both = Rimmed.like(first, channels + second.whole.shape[1])
    both.inside[:, :channels] = first
    both.inside[:, channels:] = second.inside
    return both
