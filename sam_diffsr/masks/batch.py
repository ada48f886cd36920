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
    # One row for each run of ones and the zeros behind it. A row of its own is in front of each record, for
    # the zeros that it starts with; where it ends with ones, the zeros behind them are filled up.
    rows = many // 2 + 1
    top = np.cumsum(rows) - rows
    table = np.zeros((int(rows.sum()), 2), np.int64)
    flat = table.reshape(-1)
    flat[np.arange(len(values)) + np.repeat(2 * top + 1 - (after - many), many)] = values
    # Each number but the first three is the difference to the number two before.
    leading = table[top, 1]
    table[top, 1] = 0
    np.cumsum(table, axis=0, out=table)
    table -= np.repeat(table[top], rows, axis=0)
    table[top, 1] = leading
    bottom = top + rows - 1
    table[bottom[many % 2 == 0], 1] = 0
    if table.min() < 0 or table.max() > pixels:
        return None
    bounds = np.cumsum(flat)
    count = len(strings)
    if (bounds[2 * bottom + 1] != pixels * np.arange(1, count + 1)).any():
        return None
    filled = np.flatnonzero(table[:, 0])
    owner = np.repeat(np.arange(count, dtype=np.int64), rows)[filled]
    stops = bounds[2 * filled] - owner * pixels
    return stops - table[filled, 0], stops, owner
