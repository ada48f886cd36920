"""Structural position encoding: regions become one scalar field E (paper section 3.2, the SPE module).

Shapes: field and E ``(H, W)``; values ``(N,)``, one per region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.config import check_choice
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks.regions import MaskInput, RegionRuns, collect_runs, label_runs, lay_out
from sam_diffsr.masks.rle import flip_positions

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_REGIONS = 65535
"""Largest label of a uint16 label map; 0 is "no region"."""
_BASE = 10000.0

Encoding = Literal["rope", "cosine", "sincos", "random"]
Reduction = Literal["image", "region"]


class EncodingOptions(TypedDict, total=False):
    """Keywords that say how the value of a region is made; see ``encode_structure``."""

    encoding: Encoding
    reduction: Reduction
    seed: int


def encode_structure(
    masks: MaskInput, *, size: tuple[int, int] | None = None, **options: Unpack[EncodingOptions]
) -> Tensor:
    """Turn the regions of an image into its structure field E.

    Regions are painted in list order, later over earlier; pixels of no region are 0. RLE records are never
    decoded, so the cost is O(H*W + runs). The keywords ``options`` are:

    * ``encoding``, the value of a region. ``"rope"`` (default): the mean of mask times rotary field;
      ``"sincos"``: the same with a sinusoidal field; ``"cosine"``: the cosine similarity of the mask and an
      all-ones image; ``"random"``: a seeded draw from [0, 1).
    * ``reduction``: the mean is over all H * W pixels (``"image"``, default, as for the published weights) or
      over the region (``"region"``, the paper's text). ``"cosine"`` and ``"random"`` have no mean.
    * ``seed`` (0) of ``"random"``; region k gets draw k.

    Args:
        masks: ``(N, H, W)`` bool or uint8 array or tensor; or a list of ``(H, W)`` masks, of COCO RLE
            dictionaries (compressed or not), or of records that hold one under ``"segmentation"``.
        size: ``(height, width)`` that the masks must have; needed for an empty list.
        options: ``encoding``, ``reduction`` and ``seed``.

    Returns:
        ``(H, W)`` float32 on the CPU.

    Raises:
        ArgumentError: an unknown ``encoding`` or ``reduction``, or a negative ``seed``.
        DataError: masks of another form, malformed RLE, sizes that differ, or an empty list without
            ``size``.
    """
    runs = collect_runs(masks, size=size)
    values = _label_values(runs, **options)
    labels, stops = runs.segments()
    return torch.from_numpy(lay_out(values[labels], stops, runs.size))


def region_values(
    masks: MaskInput, *, size: tuple[int, int] | None = None, **options: Unpack[EncodingOptions]
) -> NDArray[np.float32]:
    """Give the value of each region; arguments and errors as for ``encode_structure``.

    Returns:
        ``(N,)`` float32 in list order; 0 for an empty region, except with ``"random"``.
    """
    return _label_values(collect_runs(masks, size=size), **options)[1:]


def encode_label_map(labels: NDArray[Any], **options: Unpack[EncodingOptions]) -> NDArray[np.float32]:
    """Give the value of each label of an ``(H, W)`` integer map; options as for ``encode_structure``.

    ``values[labels]`` is the field of the masks ``labels == 1``, ``labels == 2`` and so on.

    Returns:
        ``(labels.max() + 1,)`` float32; entry 0, of no region, is 0.

    Raises:
        ArgumentError: an unknown ``encoding`` or ``reduction``, or a negative ``seed``.
        DataError: another rank or dtype, an empty map or a negative label.
    """
    return _label_values(label_runs(labels), **options)


def position_field(size: tuple[int, int], *, encoding: Encoding = "rope") -> NDArray[np.float64]:
    """Evaluate the position field of an image of ``size``: ``(H, W)`` float64.

    Row ``i`` is the position, columns are the feature dimension: with ``theta_k = 10000**(-2k / W)``,
    columns ``2k`` and ``2k + 1`` hold ``cos(i theta_k) - sin(i theta_k)`` and ``cos(i theta_k) +
    sin(i theta_k)`` for ``"rope"`` (a rotated all-ones field), ``sin(i theta_k)`` and ``cos(i theta_k)``
    for ``"sincos"``. The last column of an odd width has no partner and is 1.

    Raises:
        ArgumentError: an encoding that has no position field.
    """
    if encoding not in ("rope", "sincos"):
        raise ArgumentError(f"only 'rope' and 'sincos' have a position field, got {encoding!r}")
    height, width = size
    pairs = width // 2
    angle = np.outer(np.arange(height), _BASE ** (-2.0 * np.arange(pairs) / width))
    cosine, sine = np.cos(angle), np.sin(angle)
    even, odd = (cosine - sine, cosine + sine) if encoding == "rope" else (sine, cosine)
    field = np.ones(size)
    field[:, 0 : 2 * pairs : 2] = even
    field[:, 1 : 2 * pairs : 2] = odd
    return field


@dataclass(frozen=True, slots=True, eq=False)
class StructureField:
    """The field E of one image in compact form, as ``values[labels]``.

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
        if (highest := int(labels.max())) >= len(values):
            raise DataError(f"label {highest} has no value: there are {len(values)} values")
        if not np.isfinite(values).all():
            raise DataError("the structure field holds NaN or infinite values; encode the masks again")
        if values[0] != 0:
            raise DataError(f"the value of label 0 (no region) must be 0, got {float(values[0])}")

    @classmethod
    def from_masks(
        cls, masks: MaskInput, *, size: tuple[int, int] | None = None, **options: Unpack[EncodingOptions]
    ) -> StructureField:
        """Encode masks as ``encode_structure`` does; more than 65535 visible regions are a ``DataError``."""
        runs = collect_runs(masks, size=size)
        encoding, reduction, seed = check_encoding(**options)
        values = _label_values(runs, **options)
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

    def to_tensor(self) -> Tensor:
        """Give the whole field, ``(H, W)`` float32 on the CPU."""
        return torch.from_numpy(self.values[self.labels])


def check_encoding(
    *, encoding: Encoding = "rope", reduction: Reduction = "image", seed: int = 0
) -> tuple[Encoding, Reduction, int]:
    """Fill in the defaults of ``EncodingOptions``; raise ``ArgumentError`` for other values."""
    check_choice(encoding, Encoding, what="encoding", error=ArgumentError)
    check_choice(reduction, Reduction, what="reduction", error=ArgumentError)
    if seed < 0:
        raise ArgumentError(f"seed must be >= 0, got {seed}")
    return encoding, reduction, seed


def _label_values(runs: RegionRuns, **options: Unpack[EncodingOptions]) -> NDArray[np.float32]:
    """Values of the labels 0 (no region, 0) to N, ``(N + 1,)``; errors as for ``check_encoding``."""
    encoding, reduction, seed = check_encoding(**options)
    pixels, areas = runs.size[0] * runs.size[1], runs.areas()
    if encoding == "random":
        values = np.random.default_rng(seed).random(runs.count)
    elif encoding == "cosine":  # of a 0/1 mask and ones: area / (sqrt(area) * sqrt(pixels))
        values = np.sqrt(areas / pixels)
    else:
        before, until = (_running_total(ends, runs.size, encoding) for ends in (runs.starts, runs.stops))
        sums = np.bincount(runs.owner, weights=until - before, minlength=runs.count)
        values = sums / (pixels if reduction == "image" else np.maximum(areas, 1))
    return np.append(0, values).astype(np.float32)


def _running_total(
    positions: NDArray[np.int64], size: tuple[int, int], encoding: Encoding
) -> NDArray[np.float64]:
    """Sum the position field over the first ``positions`` pixels in column-major order.

    With z = exp(i theta_k), the first r rows of columns 2k and 2k + 1 sum to the real and imaginary parts of
    the geometric sum (z**r - 1) / (z - 1), so the field itself is not needed. With 1 / (z - 1) = -1/2 + i s,
    s = -cot(theta_k / 2) / 2, which does not cancel for small theta_k, each part is
    (cos(r theta_k) - 1) a + sin(r theta_k) b, with a and b constant per column.
    """
    height, width = size
    every = np.arange(width + 1)  # one more, for the position after the last pixel
    theta = _BASE ** (-2.0 * (every // 2) / width)
    slope = -0.5 / np.tan(theta / 2)
    is_odd = every % 2 == 1
    if encoding == "rope":  # the real part plus (odd) or minus (even) the imaginary part
        sign = np.where(is_odd, 1.0, -1.0)
        of_cosine, of_sine = sign * slope - 0.5, -slope - 0.5 * sign
    else:  # the real (odd) or the imaginary part
        of_cosine, of_sine = np.where(is_odd, -0.5, slope), np.where(is_odd, -slope, -0.5)

    def partial(column: NDArray[np.int64], row: NDArray[np.int64] | int) -> NDArray[np.float64]:
        angle = torch.from_numpy(theta[column] * row)  # torch's sine is an order faster than numpy's
        cosine, sine = torch.cos(angle).numpy(), torch.sin(angle).numpy()
        total = (cosine - 1) * of_cosine[column] + sine * of_sine[column]
        return np.where(column == width - 1, row, total) if width % 2 else total

    column = positions // height
    row = positions - column * height
    before = np.concatenate([np.zeros(1), np.cumsum(partial(every[:-1], height))])
    return before[column] + partial(column, row)
