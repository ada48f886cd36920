"""COCO run-length codec in numpy, byte-identical to pycocotools.

Pixels are in column-major order, and the first run counts zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import DataError

Runs = tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, int]]
"""Starts and ends (exclusive) of a region's runs, ascending, and the ``(height, width)`` of its image."""

_MAX_DIGITS = 12
"""Most digits of a number in the compressed form (60 bits, so that int64 cannot overflow)."""
_LAST_DIGIT = np.where(np.arange(32) & 16, np.arange(32) - 32, np.arange(32)).astype(np.int64)
"""Value of the highest digit of a number, whose bit 16 is the sign."""


def encode(mask: NDArray[Any], *, compressed: bool = True) -> dict[str, Any]:
    """Encode one mask.

    Args:
        mask: ``(H, W)`` bool or integer, H, W >= 1; non-zero pixels belong to the region.
        compressed: write ``counts`` as COCO's ASCII string instead of a list of integers.

    Returns:
        ``{"size": [H, W], "counts": str | list[int]}``, ready for JSON.

    Raises:
        DataError: ``mask`` is not two-dimensional, empty, or of a floating type.
    """
    return encode_runs(*mask_runs(mask), compressed=compressed)


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Decode one mask to ``(H, W)`` bool, in Fortran order; argument and errors as for ``run_lengths``."""
    counts, (height, width) = run_lengths(rle)
    columns: NDArray[np.bool_] = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height)
    return columns.T


def area(rle: Mapping[str, Any]) -> int:
    """Count the pixels of a region without decoding it; errors as for ``run_lengths``."""
    return int(run_lengths(rle)[0][1::2].sum())


def bbox_xywh(rle: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Find the box ``(x, y, width, height)`` of a region in pixels; errors as for ``run_lengths``.

    A single pixel has width and height 1, an empty region is all zero. (``bbox`` in SAM's records is one less
    in width and height.)
    """
    return runs_bbox_xywh(*rle_runs(rle))


def run_lengths(rle: Mapping[str, Any]) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Check a record and give its run lengths.

    Args:
        rle: ``{"size": [H, W], "counts": ...}`` with compressed (str or bytes) or uncompressed counts.

    Returns:
        int64 lengths of alternating runs (zeros first), and ``(H, W)``.

    Raises:
        DataError: a key is missing, ``size`` is not two positive integers, or ``counts`` are no whole
            numbers, negative, truncated, or do not cover exactly H * W pixels.
    """
    if not isinstance(rle, Mapping) or not {"size", "counts"} <= rle.keys():  # pyright: ignore[reportUnnecessaryIsInstance]
        keys = sorted(map(str, rle)) if isinstance(rle, Mapping) else type(rle).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"an RLE record needs the keys 'size' and 'counts', got {keys}")
    (height, width), given = record_size(rle), rle["counts"]
    counts = decompress([given])[0] if isinstance(given, (str, bytes)) else _integers(given)
    if counts is None:
        raise DataError(f"RLE counts must be a list of whole numbers or a COCO string, got {short(given)}")
    if int(counts.min(initial=0)) < 0:
        raise DataError(f"RLE counts must not be negative, got {int(counts.min())}")
    total = height * width
    longest = int(counts.max(initial=0))  # looked at first, so that the sum cannot overflow
    covered = longest if longest > total else int(counts.sum())
    if covered != total:
        raise DataError(f"RLE counts must cover the {total} pixels of size {[height, width]}, got {covered}")
    return counts, (height, width)


def record_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    """Give the ``(height, width)`` of a record; raises ``DataError``."""
    size = _integers(rle["size"])
    if size is None or size.shape != (2,) or int(size.min()) < 1:
        raise DataError(f"RLE size must be [height, width], two integers >= 1, got {rle['size']!r}")
    return int(size[0]), int(size[1])


def rle_runs(rle: Mapping[str, Any]) -> Runs:
    """Give the runs of a record; errors as for ``run_lengths``."""
    counts, size = run_lengths(rle)
    stops, ones = np.cumsum(counts)[1::2], counts[1::2]
    return (stops - ones)[ones > 0], stops[ones > 0], size


def mask_runs(mask: NDArray[Any]) -> Runs:
    """Give the runs of a mask; argument and errors as for ``encode``."""
    if mask.ndim != 2 or mask.size == 0:
        raise DataError(f"a mask must be (H, W) with H, W >= 1, got shape {tuple(mask.shape)}")
    if mask.dtype.kind not in "biu":
        raise DataError(f"a mask must be bool or integer, got {mask.dtype}; threshold it first")
    inside = mask if mask.dtype == np.bool_ else mask != 0
    flips = flip_positions(inside)
    if inside[0, 0]:
        flips = np.append(np.int64(0), flips)
    if len(flips) % 2:
        flips = np.append(flips, np.int64(mask.size))
    return flips[0::2], flips[1::2], (mask.shape[0], mask.shape[1])


def flip_positions(values: NDArray[Any]) -> NDArray[np.int64]:
    """Column-major positions p >= 1 of an ``(H, W)`` array at which pixel p differs from pixel p - 1."""
    height, width = values.shape
    # Rows are compared in memory order; sorting the few hits is cheaper than transposing.
    row, column = np.divmod(np.flatnonzero(values[1:] != values[:-1]), width)
    wrapped = np.flatnonzero(values[0, 1:] != values[-1, :-1]) + 1
    return np.sort(np.concatenate([column * height + row + 1, wrapped * height]).astype(np.int64))


def encode_runs(
    starts: NDArray[np.int64], stops: NDArray[np.int64], size: tuple[int, int], *, compressed: bool = True
) -> dict[str, Any]:
    """Encode half-open runs of ones, ascending and with gaps between them."""
    height, width = size
    bounds = np.stack([starts, stops], axis=1).ravel()
    counts = np.diff(bounds, prepend=0, append=height * width)
    if counts[-1] == 0 and len(counts) > 1:
        counts = counts[:-1]
    return {"size": [height, width], "counts": _compress(counts) if compressed else counts.tolist()}


def runs_bbox_xywh(
    starts: NDArray[np.int64], stops: NDArray[np.int64], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Bounding box of runs; all zero when there is none."""
    if not len(starts):
        return (0, 0, 0, 0)
    left, top = np.divmod(starts, size[0])
    right, bottom = np.divmod(stops - 1, size[0])
    x, width = int(left[0]), int(right[-1] - left[0]) + 1
    if bool((right > left).any()):  # a run across two columns touches both edges
        return (x, 0, width, size[0])
    y = int(top.min())
    return (x, y, width, int(bottom.max()) - y + 1)


def _integers(value: Any) -> NDArray[np.int64] | None:
    """The int64 array of a list of whole numbers; ``None`` for anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        return None
    whole = array.ndim == 1 and (array.dtype.kind in "iu" or not array.size)
    return array.astype(np.int64) if whole else None


def _compress(counts: NDArray[np.int64]) -> str:
    """Write differences to the count two before, five bits per character, lowest first."""
    rest: NDArray[np.int64] = counts.copy()
    rest[3:] -= counts[1:-2]
    digits: list[NDArray[np.int64]] = []
    used: list[NDArray[np.bool_]] = []
    going = np.ones(len(rest), np.bool_)
    while going.any():
        digit: NDArray[np.int64] = rest & 31
        rest = rest >> 5
        more = rest != -(digit // 16)  # done when only the sign is left
        digits.append(digit + 32 * more + 48)
        used.append(going)
        going = going & more
    return np.stack(digits, axis=1)[np.stack(used, axis=1)].astype(np.uint8).tobytes().decode("ascii")


def decompress(
    texts: Sequence[str | bytes],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Read the counts of compressed records, all at once; raises ``DataError``.

    Returns:
        Counts of all records one after the other, the record of each count, and its place in the record.
    """
    raw = [text.encode("utf-8") if isinstance(text, str) else text for text in texts]
    codes = np.frombuffer(b"".join(raw), np.uint8) - np.uint8(48)  # codes below 48 wrap around
    ends = np.cumsum([len(text) for text in raw])
    if codes.max(initial=0) > 63:
        raise DataError(f"compressed RLE counts hold a character that COCO does not use: {short(texts[0])}")
    if codes.size and (codes[ends - 1] >= 32).any():
        raise DataError(f"compressed RLE counts are cut off in the middle of a number: {short(texts[0])}")

    # Bit 32 is set in all six-bit digits of a number but the last; the lowest digit comes first.
    last = np.flatnonzero(codes < 32)
    lengths = np.diff(last, prepend=-1)
    longest = int(lengths.max(initial=0))
    if longest > _MAX_DIGITS:
        raise DataError(f"compressed RLE counts hold a number of more than 60 bits: {short(texts[0])}")
    values = _LAST_DIGIT[codes[last]]
    for back in range(1, longest):
        longer = np.flatnonzero(lengths > back)
        values[longer] = (values[longer] << 5) | (codes[last[longer] - back] & 31)

    # From the fourth on, a number of a record is the difference to the number two before.
    many = np.diff(np.searchsorted(last, ends), prepend=0)
    record = np.repeat(np.arange(len(raw)), many)
    place = np.arange(len(values)) - (np.cumsum(many) - many)[record]
    for chosen in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        index = np.flatnonzero(chosen)
        head = np.flatnonzero(np.diff(record[index], prepend=-1))
        sums = np.cumsum(values[index])
        before = sums[head] - values[index[head]]
        values[index] = sums - np.repeat(before, np.diff(head, append=len(index)))
    if int(values.min(initial=0)) < 0:
        raise DataError(f"compressed RLE counts hold a negative run of {values.min()}: {short(texts[0])}")
    return values, record, place
