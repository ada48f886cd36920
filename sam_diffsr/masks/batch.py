"""Reads the compressed RLE records of an image all at once, since an image may have a thousand of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.masks.rle import decode_digits

__all__ = ["runs_of_strings"]

OwnedRuns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Starts, stops and owner of runs, as in ``RegionRuns``."""


def runs_of_strings(strings: Sequence[Any], pixels: int) -> OwnedRuns | None:
    """Give the runs of many compressed ``counts``, in as many numpy calls as one of them needs.

    Args:
        strings: ``counts`` of records of one image.
        pixels: H * W of that image.

    Returns:
        The runs, or ``None`` when anything is not as it must be: then reading the records one by one
        finds out what, and which.
    """
    if not strings or not all(isinstance(text, str) and text for text in strings):
        return None
    codes = np.frombuffer("".join(strings).encode("utf-8"), np.uint8) - np.uint8(48)
    ends = np.cumsum([len(text) for text in strings])
    if codes.max() > 63 or (codes[ends - 1] >= 32).any():
        return None
    numbers = decode_digits(codes)
    if numbers is None:
        return None
    values, last = numbers
    after = np.searchsorted(last, ends)
    many = np.diff(after, prepend=0)
    first = after - many
    place = np.arange(len(values)) - np.repeat(first, many)
    is_one = place % 2 == 1
    # Each number but the first is the difference to the number two before.
    values = np.where(is_one, _sum_in_groups(values * is_one, first, many), values)
    is_later_zero = (place % 2 == 0) & (place > 0)
    values = np.where(is_later_zero, _sum_in_groups(values * is_later_zero, first, many), values)
    if values.min() < 0 or values.max() > pixels:
        return None
    bounds = _sum_in_groups(values, first, many)
    if (bounds[after - 1] != pixels).any():
        return None
    filled = is_one & (values > 0)
    stops = bounds[filled]
    owner = np.repeat(np.arange(len(strings), dtype=np.int64), many)
    return stops - values[filled], stops, owner[filled]


def _sum_in_groups(
    values: NDArray[np.int64], first: NDArray[np.int64], many: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Running sum that starts anew at each group."""
    total = np.cumsum(values)
    return total - np.repeat(total[first] - values[first], many)
