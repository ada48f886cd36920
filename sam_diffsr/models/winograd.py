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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sam_diffsr.models.activation import writes_in_place
from sam_diffsr.models.rims import MaybeRimmed, Rimmed

__all__ = ["RowFilters", "convolved_lines", "convolves_rows"]

_LEAST_CHANNELS = 48
"""With fewer, what is saved on products goes into sums: 32 came out even, 24 slower."""
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


def convolves_rows(conv: nn.Conv2d, x: MaybeRimmed) -> bool:
    """Whether this module can do this convolution of stride 1, and is faster at it.

    Without MKL nobody has measured it. Where float32 products may be rounded, the plain convolution is not.
    """
    features = x.parts[0] if isinstance(x, Rimmed) else x
    height = features.shape[-2] - (2 if isinstance(x, Rimmed) else 0)
    return (
        writes_in_place(features)
        and features.dtype == conv.weight.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        and height >= _LINES
        and torch.backends.mkl.is_available()
        and torch.get_float32_matmul_precision() == "highest"
        and not conv.weight.is_inference()  # these do not say when they change
    )


def convolved_lines(
    parts: Sequence[Tensor], filters: Tensor, bias: Tensor, *, cache_elements: int
) -> Iterator[tuple[int, Tensor]]:
    """Convolve an image some lines at a time.

    Args:
        parts: ``(H + 2, W + 2, C)`` contiguous float32 on the CPU, padded, H at least 4; several are taken as
            concatenated along the channels.
        filters: from :class:`RowFilters`.
        bias: ``(O,)``.
        cache_elements: numbers that the caches in use hold, about.

    Yields:
        The first line of a piece and its lines ``(h, W, O)``, which the next piece overwrites. The last piece may
        begin with lines that were in the one before, so that all are equally high.
    """
    height, padded = parts[0].shape[0] - 2, parts[0].shape[1]
    width, channels, outputs = padded - 2, filters.shape[2], filters.shape[3]
    most = max(
        1, cache_elements // (_SUMS * padded * max(channels, outputs)), math.ceil(_LEAST_ROWS / padded)
    )
    groups = math.ceil(height / _LINES)
    groups = min(math.ceil(groups / math.ceil(groups / most)), height // _LINES)
    step = _LINES * groups
    # Lines one after the other are the rows of one matrix: two pixels at the end of each line mean nothing.
    pixels = groups * padded - 2
    to_sums, to_lines = bias.new_tensor(_FROM_INPUT), bias.new_tensor(_TO_OUTPUT)
    taken = [_Part.of(x, groups) for x in parts]
    sizes = [x.shape[2] for x in parts]
    # What is multiplied: every part at each of three shifts along the columns.
    factors = [
        (part.sums[:, tap : tap + pixels], weights)
        for tap in range(_TAPS)
        for part, weights in zip(taken, filters[tap].split(sizes, dim=1), strict=True)
    ]
    # Contiguous, or the batched matrix product becomes single ones.
    products = bias.new_empty(_SUMS, pixels, outputs)
    of_group = products.as_strided(
        (groups, _SUMS, width * outputs), (padded * outputs, pixels * outputs, 1)
    ).unbind(0)
    lines = bias.new_empty(groups, _LINES, width, outputs)
    for start in range(0, height, step):
        first = min(start, height - step)
        for part in taken:
            part.sum_lines(to_sums, first)
        torch.bmm(*factors[0], out=products)
        for shifted, weights in factors[1:]:
            products.baddbmm_(shifted, weights)
        products[_BIASED_SUM].add_(bias)
        for group in range(groups):
            torch.mm(to_lines, of_group[group], out=lines[group].view(_LINES, -1))
        yield first, lines.view(step, width, outputs)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some channels of the input, and the sums of their lines."""

    flat: Tensor
    """``(H + 2, (W + 2) * C)``"""
    sums: Tensor
    """``(6, groups * (W + 2), C)``"""
    of_group: tuple[Tensor, ...]
    """Views of ``sums``, ``(6, (W + 2) * C)``."""

    @classmethod
    def of(cls, x: Tensor, groups: int) -> _Part:
        sums = x.new_empty(_SUMS, groups * x.shape[1], x.shape[2])
        return cls(x.view(len(x), -1), sums, sums.view(_SUMS, groups, -1).unbind(1))

    def sum_lines(self, to_sums: Tensor, first: int) -> None:
        for group, out in enumerate(self.of_group):
            top = first + _LINES * group
            torch.mm(to_sums, self.flat[top : top + _SUMS], out=out)
