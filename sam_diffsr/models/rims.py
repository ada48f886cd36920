"""Features with room for a reflection padding, so that a convolution needs no copy of them for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["MaybeRimmed", "Rimmed", "inside", "joined", "padded"]


@dataclass(frozen=True, slots=True)
class Rimmed:
    """Features with room for the reflection padding of the convolution that follows.

    Padding is otherwise a copy of everything for the sake of one pixel around it. Only where
    :func:`~sam_diffsr.models.activation.writes_in_place` says so; training and other devices have plain
    tensors.
    """

    whole: Tensor
    """``(B, C, H + 2, W + 2)``, channels-last; its rim is undefined until :meth:`reflect`."""

    @classmethod
    def like(cls, x: Tensor, channels: int) -> Rimmed:
        """Undefined values for the height and width of ``x``."""
        batch, _, height, width = x.shape
        shape = (batch, channels, height + 2, width + 2)
        whole = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return cls(whole)

    @property
    def inside(self) -> Tensor:
        """The features ``(B, C, H, W)``, a view."""
        return self.whole[:, :, 1:-1, 1:-1]

    def reflect(self) -> Tensor:
        """Fill the rim from the inside, and give ``whole``."""
        whole = self.whole
        whole[:, :, 0], whole[:, :, -1] = whole[:, :, 2], whole[:, :, -3]
        whole[:, :, :, 0], whole[:, :, :, -1] = whole[:, :, :, 2], whole[:, :, :, -3]
        return whole


MaybeRimmed: TypeAlias = Tensor | Rimmed
"""What the blocks hand on."""


def inside(x: MaybeRimmed) -> Tensor:
    """The features themselves, ``(B, C, H, W)``."""
    return x.inside if isinstance(x, Rimmed) else x


def padded(x: MaybeRimmed) -> Tensor:
    """``(B, C, H + 2, W + 2)``, padded by reflection: in its own rim, or a copy."""
    return x.reflect() if isinstance(x, Rimmed) else functional.pad(x, (1, 1, 1, 1), mode="reflect")


def joined(first: Tensor, second: MaybeRimmed) -> MaybeRimmed:
    """Concatenate along the channels."""
    if not isinstance(second, Rimmed):
        return torch.cat((first, second), dim=1)
    channels = first.shape[1]
    both = Rimmed.like(first, channels + second.whole.shape[1])
    both.inside[:, :channels] = first
    both.inside[:, channels:] = second.inside
    return both
