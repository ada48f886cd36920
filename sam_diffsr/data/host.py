"""What the host hands to the device for one step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sam_diffsr.data.augment import Mixture
from sam_diffsr.data.degrade import Recipe
from sam_diffsr.data.synthetic import Drawing

__all__ = ["HostBatch", "SyntheticWindow"]


@dataclass(frozen=True)
class SyntheticWindow:
    """A window of a synthetic image whose pixels are made on the device."""

    row: int
    """Which row of the batch it is."""
    drawing: Drawing
    """What the image is made from."""
    top: int
    """First row of the window in the image."""
    left: int
    """First column."""


@dataclass(frozen=True)
class HostBatch:
    """Windows with their margin m, still on the host and as cut; guests of ``mixture`` count in B."""

    images: Tensor
    """``(B, P + 2m, P + 2m, 3)`` uint8; rows of ``synthetic`` are not filled in yet."""
    structure: Tensor
    """``(B, P + 2m, P + 2m)`` float32."""
    turns: Tensor
    """``(B,)`` int64 in 0..7, see ``dihedral``."""
    synthetic: tuple[SyntheticWindow, ...] = ()
    """The rows that are synthetic."""
    orders: Tensor | None = None
    """``(B,)`` int64 in 0..5, orders of the channels, or None; see ``permute_channels``."""
    mixture: Mixture | None = None
    """Which rows are blended, or None; its guests are the last rows, which are no part of the batch."""
    recipes: tuple[Recipe, ...] = ()
    """Damage of each row that is no guest; empty for bicubic LR images."""
    seed: int = 0
    """Chooses the noise of the recipes."""
