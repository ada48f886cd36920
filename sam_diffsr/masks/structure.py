"""The structure field E of an image in compact form: a label map, and one value per region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.errors import DataError
from sam_diffsr.masks.regions import MaskInput, collect_runs, lay_out
from sam_diffsr.masks.rle import flip_positions
from sam_diffsr.masks.spe import EncodingOptions, check_encoding, values_of_runs

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["MAX_REGIONS", "StructureField"]

MAX_REGIONS = 65535
"""Largest label of a uint16 label map; 0 is "no region"."""


@dataclass(frozen=True, slots=True, eq=False)
class StructureField:
    """The field E of one image, as ``values[labels]``.

    Raises:
        DataError: an array has another rank or dtype, a label has no value, a value is NaN or infinite,
            or the value of "no region" is not 0.
    """

    labels: NDArray[np.uint16]
    """``(H, W)``: 0 is no region."""
    values: NDArray[np.float32]
    """``(V,)`` value of each label; entry 0 is 0."""
    encoding: str | None = None
    """Encoding of the values; ``None`` if unknown, as for the next two."""
    reduction: str | None = None
    seed: int | None = None
    """Seed of ``"random"`` values; ``None`` for other encodings."""

    def __post_init__(self) -> None:
        labels, values = self.labels, self.values
        if labels.ndim != 2 or labels.dtype != np.uint16 or labels.size == 0:
            raise DataError(f"labels must be (H, W) uint16, got {labels.dtype} of shape {labels.shape}")
        if values.ndim != 1 or values.dtype != np.float32:
            raise DataError(f"values must be (V,) float32, got {values.dtype} of shape {values.shape}")
        highest = int(labels.max())
        if highest >= len(values):
            raise DataError(f"label {highest} has no value: there are {len(values)} values")
        if not np.isfinite(values).all():
            raise DataError("the structure field holds NaN or infinite values; encode the masks again")
        if values[0] != 0:
            raise DataError(f"the value of label 0 (no region) must be 0, got {float(values[0])}")

    @classmethod
    def from_masks(
        cls, masks: MaskInput, *, size: tuple[int, int] | None = None, **options: Unpack[EncodingOptions]
    ) -> StructureField:
        """Encode masks; arguments as for ``encode_structure``, and the same field.

        Raises:
            ArgumentError: an unknown ``encoding`` or ``reduction``, or a negative ``seed``.
            DataError: malformed masks, or more than 65535 visible regions.
        """
        runs = collect_runs(masks, size=size)
        encoding, reduction, seed = check_encoding(**options)
        values = np.append(np.float32(0), values_of_runs(runs, **options))
        labels, stops = runs.segments()
        # Regions that are painted over entirely get no label.
        visible, labels = np.unique(np.append(labels, 0), return_inverse=True)
        if len(visible) - 1 > MAX_REGIONS:
            raise DataError(f"got {len(visible) - 1} visible regions, at most {MAX_REGIONS} can be stored")
        label_map = lay_out(labels[:-1].astype(np.uint16), stops, runs.size)
        return cls(label_map, values[visible], encoding, reduction, seed if encoding == "random" else None)

    @classmethod
    def from_field(cls, field: NDArray[Any]) -> StructureField:
        """Split an ``(H, W)`` floating field into labels and values; equal values share a label.

        Raises:
            DataError: another rank or dtype, NaN, or more than 65535 different values.
        """
        if field.ndim != 2 or field.size == 0 or field.dtype.kind != "f":
            raise DataError(
                f"a structure field must be (H, W) floating point, got {field.dtype} of shape {field.shape}"
            )
        field = field.astype(np.float32)
        starts = np.append(0, flip_positions(field))
        column, row = np.divmod(starts, field.shape[0])
        values, which = np.unique(field[row, column], return_inverse=True)
        if (count := np.count_nonzero(values)) > MAX_REGIONS:
            raise DataError(f"got {count} values, more than a field of {MAX_REGIONS} regions has")
        # Label 0 stands for the value 0, whether the field has it or not; the others follow in order.
        labels = np.where(values == 0, 0, np.cumsum(values != 0)).astype(np.uint16)[which]
        label_map = lay_out(labels, np.append(starts[1:], field.size), (field.shape[0], field.shape[1]))
        return cls(label_map, np.append(np.float32(0), values[values != 0]))

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)``."""
        return (self.labels.shape[0], self.labels.shape[1])

    def crop(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """Give a window of the field, ``(height, width)`` float32.

        Raises:
            DataError: the window is empty or not inside the field.
        """
        inside = 0 <= top <= self.size[0] - height and 0 <= left <= self.size[1] - width
        if not inside or min(height, width) < 1:
            raise DataError(
                f"window at {(top, left)} of size {(height, width)} is not inside the field of {self.size}"
            )
        return self.values[self.labels[top : top + height, left : left + width]]

    def to_tensor(self) -> Tensor:
        """Give the whole field, ``(H, W)`` float32 on the CPU."""
        return torch.from_numpy(self.values[self.labels])
