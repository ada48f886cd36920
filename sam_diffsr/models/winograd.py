"""3x3 convolutions in float32 on a CPU with half the products: Winograd's F(4, 3) along the rows.

Six lines of the input hold four lines of the result. Six sums of the former, each convolved along the columns
with a sum of the kernel's rows, are enough for the latter; the plain way convolves three lines for each of
the four (Winograd, "Arithmetic complexity of computations", 1980; Lavin and Gray, arXiv 1509.09308, who do it
in both directions). In one direction numbers stay about as close to the exact result as those of a plain
convolution, lines stay whole, and all sums are small matrix products that cost next to nothing.

Shape legend: H W height and width, C input and O output channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

__all__ = ["LEAST_LINES", "RowFilters", "convolved_lines", "has_row_filters"]

_LEAST_CHANNELS = 48
"""With fewer, what is saved on products is spent on sums."""
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
LEAST_LINES = _LINES
"""Height that an image needs."""


class RowFilters:
    """The kernel of a convolution as sums of its rows: made when first asked for, and when it has changed."""

    def __init__(self) -> None:
        self._made: tuple[tuple[int, int], Tensor] | None = None

    def of(self, weight: Tensor) -> Tensor:
        """The three taps along the columns of each sum.

        Args:
            weight: ``(O, C, 3, 3)``.

        Returns:
            ``(3, 6, C, O)``.
        """
        state = (weight.data_ptr(), weight._version)  # pyright: ignore[reportPrivateUsage]
        made = self._made
        if made is None or made[0] != state:
            outputs, channels = weight.shape[:2]
            with torch.inference_mode(False), torch.no_grad():
                rows = weight.detach().permute(2, 3, 1, 0).reshape(_TAPS, -1)
                sums = (weight.new_tensor(_FROM_KERNEL) @ rows).view(_SUMS, _TAPS, channels, outputs)
                made = (state, sums.transpose(0, 1).contiguous())
            self._made = made  # in one go, so that another thread has the old ones or the new ones
        return made[1]

    def forget(self) -> None:
        """Give the memory back."""
        self._made = None

    def __reduce__(self) -> tuple[type[RowFilters], tuple[()]]:
        """Copies make their own."""
        return RowFilters, ()


def has_row_filters(conv: nn.Conv2d) -> bool:
    """Whether a 3x3 convolution of stride 1 is better done here than by torch, as far as its weights tell.

    Without MKL that was not measured.
    """
    weight = conv.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        and torch.backends.mkl.is_available()
        and not _rounds_factors()
        and not weight.is_inference()  # such a tensor does not say that it has changed
    )


def _rounds_factors() -> bool:
    """Whether the user lets torch round the factors of matrix products, which torch's convolutions do not."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # from 2.9 on, where the older question may fail
    if matmul is None:
        return torch.get_float32_matmul_precision() != "highest"
    return matmul.fp32_precision not in ("none", "ieee")


def convolved_lines(
    x: Tensor, filters: Tensor, bias: Tensor, *, elements: int
) -> Iterator[tuple[int, Tensor]]:
    """Convolve an image some lines at a time.

    Args:
        x: ``(H + 2, W + 2, C)``, contiguous float32 on the CPU, padded; H at least 4.
        filters: from :class:`RowFilters`.
        bias: ``(O,)``.
        elements: how many numbers the sums or products of a piece may be, about.

    Yields:
        The first line of a piece, and its lines ``(h, W, O)``, which are the caller's until the next piece.
        All are equally high; the last one may begin with lines that the one before ended with.
    """
    height, padded, channels = x.shape[0] - 2, x.shape[1], x.shape[2]
    width, outputs = padded - 2, filters.shape[3]
    fitting = elements // (_SUMS * padded * max(channels, outputs))
    most = max(1, fitting, math.ceil(_LEAST_ROWS / padded))
    groups = math.ceil(height / _LINES)
    groups = min(math.ceil(groups / math.ceil(groups / most)), height // _LINES)  # equal pieces
    # The lines of all groups, one after the other, are the rows of one matrix; the two pixels between lines
    # mean nothing.
    pixels = groups * padded - 2
    to_sums, to_lines = x.new_tensor(_FROM_INPUT), x.new_tensor(_TO_OUTPUT).expand(groups, -1, -1)
    sums = x.new_empty(_SUMS, groups * padded, channels)
    shifted = [sums[:, tap : tap + pixels] for tap in range(_TAPS)]
    sums_of = sums.view(_SUMS, groups, -1).unbind(1)
    products = x.new_empty(_SUMS, pixels, outputs)  # contiguous: otherwise bmm does one sum after the other
    products_of = products.as_strided(
        (groups, _SUMS, width * outputs), (padded * outputs, pixels * outputs, 1)
    )
    lines = x.new_empty(groups, _LINES, width * outputs)
    flat, step = x.view(height + 2, -1), _LINES * groups
    for start in range(0, height, step):
        first = min(start, height - step)
        for group in range(groups):
            top = first + _LINES * group
            torch.mm(to_sums, flat[top : top + _SUMS], out=sums_of[group])
        torch.bmm(shifted[0], filters[0], out=products)
        for tap in range(1, _TAPS):
            products.baddbmm_(shifted[tap], filters[tap])
        products[_BIASED_SUM].add_(bias)
        torch.bmm(to_lines, products_of, out=lines)
        yield first, lines.view(step, width, outputs)
