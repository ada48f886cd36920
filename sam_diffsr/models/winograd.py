"""3x3 convolutions of float32 on a CPU with half the products: Winograd's minimal filtering F(4, 3), along the rows.

Four lines of a result come from six lines of the input. Six sums of these lines, each convolved along the columns with
a sum of the kernel's rows, are enough for them, where the plain way takes three convolutions for each of the four
(Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, arXiv 1509.09308, in both directions).
All sums are small matrix products. Only one direction: the numbers stay as close to the exact result as those of the
plain convolution (both directions: twice as far), lines stay whole, and the transforms cost next to nothing.

Shape legend: H W height and width, C input and O output channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["RowFilters", "convolved_lines"]

_LINES = 4
_TAPS = 3
_SUMS = _LINES + _TAPS - 1
_LEAST_ROWS = 128
"""Pixels that a matrix product should have at least, so that it is not spent on fetching the weights."""
# The points 0, 1, -1, 2, -2 and infinity: exact in float32, and the smallest that there are.
_FROM_INPUT = (
    (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
    (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
    (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
    (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
)
_FROM_KERNEL = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
_TO_OUTPUT = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
    (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
    (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
)
_BIASED_SUM = 1
"""What is added to this sum comes out in all lines alike (the column of ones of ``_TO_OUTPUT``)."""


class RowFilters:
    """The kernel of a convolution as the sums of its rows, made when it is first asked for and when it has changed."""

    def __init__(self) -> None:
        self._made: tuple[tuple[int, int], Tensor] | None = None

    def of(self, conv: nn.Conv2d) -> Tensor:
        """``(3, 6, C, O)``, the three taps along the columns of the six sums."""
        weight = conv.weight
        state = (weight.data_ptr(), weight._version)  # pyright: ignore[reportPrivateUsage]
        made = self._made
        if made is None or made[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                sums = torch.tensor(_FROM_KERNEL) @ weight.detach().permute(2, 3, 1, 0).reshape(_TAPS, -1)
                taps, channels = weight.shape[3], weight.shape[1]
                made = (state, sums.view(_SUMS, taps, channels, -1).transpose(0, 1).contiguous())
            self._made = made  # in one go: another thread sees the old ones or the new ones
        return made[1]

    def forget(self) -> None:
        """Give the memory back."""
        self._made = None

    def __reduce__(self) -> tuple[type[RowFilters], tuple[()]]:
        """Copies make their own."""
        return RowFilters, ()


def convolved_lines(
    x: Tensor, filters: Tensor, bias: Tensor, *, cache_elements: int
) -> Iterator[tuple[int, Tensor]]:
    """Convolve an image some lines at a time.

    Args:
        x: ``(H + 2, W + 2, C)`` contiguous float32 on the CPU, padded; H at least 4.
        filters: from :class:`RowFilters`.
        bias: ``(O,)``.
        cache_elements: numbers that the caches in use hold, about.

    Yields:
        The first line of a piece and its lines ``(h, W, O)``, which the next piece overwrites. The last piece may
        begin with lines that were in the one before, so that all are equally high.
    """
    height, width, channels = x.shape[0] - 2, x.shape[1] - 2, x.shape[2]
    outputs, padded = filters.shape[3], width + 2
    size = _SUMS * padded * max(channels, outputs)
    most = max(1, cache_elements // size, math.ceil(_LEAST_ROWS / padded))
    groups = math.ceil(height / _LINES)
    groups = min(math.ceil(groups / math.ceil(groups / most)), height // _LINES)
    step = _LINES * groups
    # Lines one after the other as the rows of one matrix: two pixels at the end of each line mean nothing.
    pixels = groups * padded - 2
    sums = x.new_empty(_SUMS, groups * padded, channels)
    products = x.new_empty(_SUMS, pixels, outputs)
    lines = x.new_empty(groups, _LINES, width, outputs)
    to_sums, to_lines = x.new_tensor(_FROM_INPUT), x.new_tensor(_TO_OUTPUT)
    sums_of_group = sums.view(_SUMS, groups, -1).unbind(1)
    products_of_group = products.as_strided(
        (groups, _SUMS, width * outputs), (padded * outputs, pixels * outputs, 1)
    ).unbind(0)
    lines_of_group = lines.view(groups, _LINES, -1).unbind(0)
    biased = products[_BIASED_SUM]
    shifted = [sums[:, tap : tap + pixels] for tap in range(_TAPS)]
    flat = x.view(height + 2, -1)
    for start in range(0, height, step):
        first = min(start, height - step)
        for group in range(groups):
            top = first + _LINES * group
            torch.mm(to_sums, flat[top : top + _SUMS], out=sums_of_group[group])
        torch.bmm(shifted[0], filters[0], out=products)
        for tap in range(1, _TAPS):
            products.baddbmm_(shifted[tap], filters[tap])
        biased.add_(bias)
        for group in range(groups):
            torch.mm(to_lines, products_of_group[group], out=lines_of_group[group])
        yield first, lines.view(step, width, outputs)
