"""Regions of one image as pixel runs: the common form of masks, RLE records and label maps.

The cost is O(pixels + runs log runs), for any number of regions and any overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sam_diffsr.errors import DataError
from sam_diffsr.masks.rle import decompress, flip_positions, mask_runs, record_size, rle_runs

MaskInput = NDArray[Any] | Tensor | Sequence[Any]
"""``(N, H, W)`` bool or uint8 array or tensor; or a list whose items are ``(H, W)`` masks, COCO RLE
dictionaries, or records that hold either of the two under ``"segmentation"``."""

ValueT = TypeVar("ValueT", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class RegionRuns:
    """Half-open runs ``[start, stop)`` of column-major pixel numbers, ordered by region, then position."""

    size: tuple[int, int]
    """``(height, width)`` of the image."""
    count: int
    """Number of regions, empty ones included."""
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    owner: NDArray[np.int64]
    """``(R,)`` region of each run, 0-based, ascending."""

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each region, ``(N,)``; an overlap counts for each of its regions."""
        lengths = np.bincount(self.owner, weights=self.stops - self.starts, minlength=self.count)
        return lengths.astype(np.int64)

    def segments(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Paint the regions in order, later over earlier, on runs instead of pixels.

        Gives labels (int32; 0 is no region, k + 1 is region k) and ends (int64, exclusive) of consecutive
        column-major stretches that cover the whole image.
        """
        pixels = np.array([0, self.size[0] * self.size[1]])
        ends, rank = np.unique(np.concatenate([self.starts, self.stops, pixels]), return_inverse=True)
        first, after = rank[: len(self.starts)], rank[len(self.starts) : -2]
        labels = self.owner.astype(np.int32) + 1

        # The highest label among the runs that cover a stretch, by a sparse table run backwards: a run is the
        # union of two blocks of 2**level stretches; from the top level down, a block hands its label to its
        # two halves.
        level_of = np.frexp((after - first).astype(np.float64))[1] - 1
        cover: NDArray[np.int32] = np.zeros(len(ends) - 1, np.int32)
        for level in range(int(level_of.max(initial=0)), -1, -1):
            half = 1 << level
            upper = cover
            cover = upper.copy()
            np.maximum(cover[half:], upper[:-half], out=cover[half:])
            chosen = np.flatnonzero(level_of == level)
            for block in (first[chosen], after[chosen] - half):
                cover[block] = np.maximum(cover[block], labels[chosen])  # of equal blocks the last one stays
        return cover, ends[1:]


def lay_out(values: NDArray[ValueT], stops: NDArray[np.int64], size: tuple[int, int]) -> NDArray[ValueT]:
    """Turn ``(S,)`` values of consecutive column-major stretches with the ends ``stops`` into ``(H, W)``."""
    height, width = size
    # Each stretch's bits minus those of the stretch before are put where it begins. Summing each column row
    # by row, modulo 2**bits, restores the bits exactly, and no array is transposed.
    bits = values.view(f"u{values.dtype.itemsize}")
    column, row = np.divmod(stops[:-1], height)
    image = np.zeros(size, bits.dtype)
    image.reshape(-1)[row * width + column] = bits[1:] - bits[:-1]
    image[0] = bits[np.searchsorted(stops, np.arange(width) * height, side="right")]
    rows = list(image)
    for above, below in pairwise(rows):
        np.add(above, below, out=below)
    return image.view(values.dtype)


def collect_runs(masks: MaskInput, *, size: tuple[int, int] | None = None) -> RegionRuns:
    """Turn masks into runs; arguments and ``DataError`` as for ``encode_structure``."""
    if isinstance(masks, Tensor):
        masks = masks.detach().cpu().numpy()
    if isinstance(masks, np.ndarray):
        if masks.ndim != 3:
            raise DataError(
                f"masks as one array must be (N, H, W), got shape {masks.shape}; use mask[None] for one mask"
            )
        size = _same_size(size, masks.shape[1:], 0)
    elif not isinstance(masks, Sequence) or isinstance(masks, (str, bytes)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(
            "masks must be an (N, H, W) array or a list of (H, W) arrays or COCO RLE records, "
            f"got {type(masks).__name__}"
        )
    items = [_segmentation(mask) for mask in cast("Iterable[Any]", masks)]
    if (together := _read_together(items, size)) is not None:
        return together
    starts, stops = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for index, item in enumerate(items):
        try:
            is_array = isinstance(item, np.ndarray)
            begin, end, shape = mask_runs(cast("Any", item)) if is_array else rle_runs(item)
        except DataError as error:
            raise DataError(f"mask {index}: {error}") from error
        size = _same_size(size, shape, index)
        starts.append(begin)
        stops.append(end)
    if size is None:
        raise DataError(
            "an empty list of masks does not say how large the image is; pass size=(height, width)"
        )
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"size must be (height, width), both >= 1, got {size}")
    owner = np.repeat(np.arange(len(items)), [len(begin) for begin in starts[1:]])
    return RegionRuns(size, len(items), np.concatenate(starts), np.concatenate(stops), owner)


def label_runs(labels: NDArray[Any]) -> RegionRuns:
    """Split an ``(H, W)`` label map into runs; label k >= 1 becomes region k - 1, label 0 is no region.

    Raises ``DataError`` for another rank or dtype, an empty map or a negative label.
    """
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise DataError(
            f"a label map must be (H, W) integers with H, W >= 1, got {labels.dtype} {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0:
        raise DataError(f"a label map must hold numbers >= 0 (0 is no region), got {int(labels.min())}")
    height, width = labels.shape
    flips = np.concatenate([[0], flip_positions(labels), [labels.size]]).astype(np.int64)
    column, row = np.divmod(flips[:-1], height)
    label = labels[row, column].astype(np.int64)
    order = np.argsort(label, kind="stable")
    order = order[np.searchsorted(label[order], 1) :]
    return RegionRuns(
        (height, width), int(labels.max()), flips[:-1][order], flips[1:][order], label[order] - 1
    )


def _segmentation(mask: Any) -> Any:
    """The segmentation of a record, or the mask itself; never a tensor."""
    if isinstance(mask, Mapping) and "segmentation" in mask:
        mask = cast("Mapping[str, Any]", mask)["segmentation"]
    return mask.detach().cpu().numpy() if isinstance(mask, Tensor) else cast(Any, mask)


def _read_together(items: Sequence[Any], size: tuple[int, int] | None) -> RegionRuns | None:
    """Read compressed records of one size all at once, 5 times faster than one by one.

    Returns ``None`` for any other input and for malformed records; reading them one by one finds the error.
    """
    if not items or not all(isinstance(item, dict) and isinstance(item.get("counts"), str) for item in items):
        return None
    given = items[0].get("size")
    if not isinstance(given, (list, tuple)) or any(item.get("size") != given for item in items):
        return None
    try:
        shape = record_size(items[0])
        counts, record, place = decompress([item["counts"] for item in items])
    except DataError:
        return None

    # The runs of each record must cover the image exactly.
    pixels = shape[0] * shape[1]
    covered = np.bincount(record, weights=counts, minlength=len(items))
    if size not in (None, shape) or (covered != pixels).any():
        return None
    ones = np.flatnonzero((place % 2 == 1) & (counts > 0))
    stops = np.cumsum(counts)[ones] - pixels * record[ones]
    return RegionRuns(shape, len(items), stops - counts[ones], stops, record[ones])


def _same_size(expected: tuple[int, int] | None, got: Sequence[int], index: int) -> tuple[int, int]:
    size = (int(got[0]), int(got[1]))
    if expected is not None and tuple(expected) != size:
        raise DataError(f"mask {index}: expected size {tuple(expected)} (height, width), got {size}")
    return size
