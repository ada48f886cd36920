"""Structural position encoding: regions become one scalar field E (paper section 3.2, the SPE module).

Shapes: field and E ``(H, W)``; values ``(N,)``, one per region.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.config import check_choice
from sam_diffsr.errors import ArgumentError
from sam_diffsr.masks.regions import MaskInput, RegionRuns, collect_runs, label_runs, lay_out

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Encoding",
    "EncodingOptions",
    "Reduction",
    "encode_label_map",
    "encode_structure",
    "position_field",
    "region_values",
]

Encoding = Literal["rope", "cosine", "sincos", "random"]
Reduction = Literal["image", "region"]


class EncodingOptions(TypedDict, total=False):
    """Keywords that say how the value of a region is made; see ``encode_structure``."""

    encoding: Encoding
    reduction: Reduction
    seed: int


_BASE = 10000.0


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
    values = values_of_runs(runs, **options)
    labels, stops = runs.segments()
    return torch.from_numpy(lay_out(np.append(np.float32(0), values)[labels], stops, runs.size))


def region_values(
    masks: MaskInput, *, size: tuple[int, int] | None = None, **options: Unpack[EncodingOptions]
) -> NDArray[np.float32]:
    """Give the value of each region; arguments and errors as for ``encode_structure``.

    Returns:
        ``(N,)`` float32 in list order; 0 for an empty region, except with ``"random"``.
    """
    return values_of_runs(collect_runs(masks, size=size), **options)


def encode_label_map(labels: NDArray[Any], **options: Unpack[EncodingOptions]) -> NDArray[np.float32]:
    """Give the value of each label of an ``(H, W)`` integer map; options as for ``encode_structure``.

    ``values[labels]`` is the field of the masks ``labels == 1``, ``labels == 2`` and so on.

    Returns:
        ``(labels.max() + 1,)`` float32; entry 0, of no region, is 0.

    Raises:
        ArgumentError: an unknown ``encoding`` or ``reduction``, or a negative ``seed``.
        DataError: another rank or dtype, an empty map or a negative label.
    """
    return np.append(np.float32(0), values_of_runs(label_runs(labels), **options))


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


def check_encoding(
    encoding: Encoding = "rope", reduction: Reduction = "image", seed: int = 0
) -> tuple[Encoding, Reduction, int]:
    """Fill in the defaults of ``EncodingOptions``; raise ``ArgumentError`` for other values."""
    check_choice(encoding, Encoding, what="encoding", error=ArgumentError)
    check_choice(reduction, Reduction, what="reduction", error=ArgumentError)
    if seed < 0:
        raise ArgumentError(f"seed must be >= 0, got {seed}")
    return encoding, reduction, seed


def values_of_runs(runs: RegionRuns, **options: Unpack[EncodingOptions]) -> NDArray[np.float32]:
    """Give the value of each region, ``(N,)`` float32; arguments and errors as for ``encode_structure``."""
    encoding, reduction, seed = check_encoding(**options)
    if encoding == "random":
        return np.random.default_rng(seed).random(runs.count).astype(np.float32)
    pixels = runs.size[0] * runs.size[1]
    areas = runs.areas()
    if encoding == "cosine":  # of a 0/1 mask and ones: area / (sqrt(area) * sqrt(pixels))
        return np.sqrt(areas / pixels).astype(np.float32)
    totals = _running_total(np.concatenate([runs.starts, runs.stops]), runs.size, encoding)
    weights = totals[len(runs.starts) :] - totals[: len(runs.starts)]
    sums = np.bincount(runs.owner, weights=weights, minlength=runs.count)
    divisor = pixels if reduction == "image" else np.maximum(areas, 1)
    return (sums / divisor).astype(np.float32)
