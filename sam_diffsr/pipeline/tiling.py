"""Tiles inside one evaluation of a network: overlapping windows, blended on one shared canvas.

The networks are purely convolutional. A window that reaches a receptive field beyond its tile gives inside of
the tile exactly what the whole canvas gives; a narrower halo gives it nearly, and neighbours are blended.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.pipeline.memory import is_out_of_memory, release_memory, trim_heap

__all__ = ["Evaluate", "Tile", "TileRunner", "aligned_halo", "axis_weights", "plan_tiles", "window_size"]

_LOGGER = logging.getLogger(__name__)

Evaluate = Callable[[slice, slice], Tensor]
"""Rows and columns of a window to its result ``(B, C, rows / shrink, columns / shrink)``."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the canvas; the tiles of a plan cover it without overlap."""

    top: int
    bottom: int
    left: int
    right: int


def plan_tiles(area: Tile, *, size: tuple[int, int], align: int) -> list[Tile]:
    """Divide a rectangle into the fewest tiles of nearly equal size.

    Args:
        area: bounds are multiples of ``align``.
        size: most rows and columns of a tile, multiples of ``align``.
        align: every bound of a tile is a multiple of this.

    Returns:
        Tiles from top left to bottom right.
    """
    rows = _cuts(area.top, area.bottom, size=size[0], align=align)
    columns = _cuts(area.left, area.right, size=size[1], align=align)
    return [
        Tile(top=top, bottom=bottom, left=left, right=right)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _cuts(start: int, stop: int, *, size: int, align: int) -> list[int]:
    units = (stop - start) // align
    count = math.ceil((stop - start) / size)
    return [start + index * units // count * align for index in range(count + 1)]


def aligned_halo(halo: int, align: int) -> int:
    """The next multiple of ``align``, and not 0: a window of one unit would be too small to reflect."""
    return max(_round_up(halo, align), align)


def window_size(height: int, width: int, *, tile: tuple[int, int], halo: int) -> tuple[int, int]:
    """Rows and columns of the windows of a canvas; of two tiles side by side each has one halo, not two."""
    rows, columns = (
        min(side, part + halo * min(math.ceil(side / part) - 1, 2))
        for side, part in zip((height, width), tile, strict=True)
    )
    return rows, columns


def axis_weights(start: int, stop: int, *, length: int, radius: int) -> tuple[int, Tensor]:
    """Weights of a tile along one axis of the canvas.

    The weight is the difference of two ramps, one at each bound; so the weights of tiles that cover the axis
    sum to 1 everywhere, also after one of them was divided further.

    Args:
        start: first pixel of the tile.
        stop: pixel after its last one.
        length: of the axis; there is no ramp at its ends.
        radius: a ramp reaches this many pixels to both sides of its bound; 0 is a step.

    Returns:
        The first pixel with a weight, at least 0, and the float32 weights from there on.
    """
    first, last = max(start - radius, 0), min(stop + radius, length)
    pixels = torch.arange(first, last, dtype=torch.float32) + 0.5
    before = torch.ones_like(pixels) if start == 0 else _ramp(pixels - start, radius)
    after = torch.zeros_like(pixels) if stop == length else _ramp(pixels - stop, radius)
    return first, before - after


def _ramp(distance: Tensor, radius: int) -> Tensor:
    """Raised cosine from 0 at ``-radius`` to 1 at ``radius``."""
    if radius == 0:
        return (distance > 0).to(distance.dtype)
    return 0.5 - 0.5 * torch.cos(math.pi * (distance / (2 * radius) + 0.5).clamp(0, 1))


class TileRunner:
    """Cuts a canvas into windows and evaluates one after the other, smaller ones from where memory ran out.

    Args:
        height: of the canvas, a multiple of ``align``.
        width: of the canvas, a multiple of ``align``.
        size: most rows and columns of a tile.
        halo: pixels by which a window is larger than its tile on each side.
        receptive_field: halo from which on tiles are exact and need no blending.
        align: windows start and end at multiples of this; ``size`` and ``halo`` are rounded up to it.
        device: whose cache is emptied when memory ran out.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        size: tuple[int, int],
        halo: int,
        receptive_field: int,
        align: int,
        device: torch.device,
    ) -> None:
        self._canvas = Tile(top=0, bottom=height, left=0, right=width)
        self._align = align
        self._halo = aligned_halo(halo, align)
        self.radius = min(self._halo // 2, max(receptive_field - self._halo, 0))
        """Pixels by which a tile is blended with its neighbours beyond its bounds."""
        self.height = height
        """Of the canvas."""
        self.width = width
        """Of the canvas."""
        self._device = device
        self.size = min(_round_up(size[0], align), height), min(_round_up(size[1], align), width)
        """Most rows and columns of a tile, fewer after memory ran out."""

    def tiles(self) -> deque[Tile]:
        """What is to be evaluated, from top left to bottom right."""
        return deque(plan_tiles(self._canvas, size=self.size, align=self._align))

    def is_whole(self, tile: Tile) -> bool:
        """Whether a tile is the whole canvas, so that its window is the result."""
        return tile == self._canvas

    def share(self, pending: Iterable[Tile]) -> float:
        """The share of the canvas that is finished."""
        unfinished = sum((part.bottom - part.top) * (part.right - part.left) for part in pending)
        return 1 - unfinished / (self.height * self.width)

    def rows_at_once(self, pending: Iterable[Tile]) -> int:
        """Most rows of the canvas from the first that a window sees to the last that its tile is added to."""
        return max(
            min(tile.bottom + self.radius, self.height) - self.window(tile)[0].start for tile in pending
        )

    def next_window(
        self,
        pending: deque[Tile],
        evaluate: Evaluate,
        *,
        prepare: Callable[[slice], None] | None = None,
    ) -> tuple[Tile, Tensor]:
        """Take the next tile, or the first part of it that fits into memory, and evaluate its window.

        Args:
            pending: what is left to do, and is divided where memory ran out.
            evaluate: makes the result of a window.
            prepare: called with the rows of the window before.

        Raises:
            DeviceMemoryError: memory ran out with the smallest tile.
        """
        while True:
            rows, columns = self.window(pending[0])
            if prepare is not None:
                prepare(rows)
            if not self.is_whole(pending[0]):
                trim_heap(self._device)
            try:
                result = evaluate(rows, columns)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return pending.popleft(), result
            self._halve(pending[0])  # outside of the handler, whose traceback holds tensors
            parts = [part for tile in pending for part in plan_tiles(tile, size=self.size, align=self._align)]
            pending.clear()
            pending.extend(parts)

    def window(self, tile: Tile) -> tuple[slice, slice]:
        """The tile and its halo, inside of the canvas.

        At its borders windows begin earlier or end later, so that all are of one size: what a network
        prepares for a size (kernels, weights in another order: megabytes) is needed once.
        """
        rows, columns = window_size(self._canvas.bottom, self._canvas.right, tile=self.size, halo=self._halo)
        return (
            self._side(tile.top, tile.bottom, length=rows, end=self._canvas.bottom),
            self._side(tile.left, tile.right, length=columns, end=self._canvas.right),
        )

    def _side(self, start: int, stop: int, *, length: int, end: int) -> slice:
        first = max(min(start - self._halo, end - length), 0)
        return slice(first, max(first + length, min(stop + self._halo, end)))

    def blend(self, result: Tensor, window: Tensor, tile: Tile, *, shrink: int, first: int = 0) -> None:
        """Add what a window gave for its tile, weighted, to the result.

        Args:
            result: ``(B, C, rows, width / shrink)``, changed in place.
            window: what :meth:`next_window` returned.
            tile: likewise.
            shrink: pixels of the canvas for one of the results.
            first: the row that the result begins with.
        """
        rows, columns = self.window(tile)
        canvas, radius = self._canvas, self.radius // shrink
        top, down = axis_weights(
            tile.top // shrink, tile.bottom // shrink, length=canvas.bottom // shrink, radius=radius
        )
        left, across = axis_weights(
            tile.left // shrink, tile.right // shrink, length=canvas.right // shrink, radius=radius
        )
        height, width = len(down), len(across)
        above, start = top - rows.start // shrink, left - columns.start // shrink
        part = window[:, :, above : above + height, start : start + width]
        part = part.to(device=result.device, dtype=result.dtype)
        weight = (down[:, None] * across[None, :]).to(device=result.device, dtype=result.dtype)
        result[:, :, top - first : top - first + height, left : left + width].addcmul_(part, weight)

    def _halve(self, tile: Tile) -> None:
        failed = tile.bottom - tile.top, tile.right - tile.left
        if max(failed) <= self._align:
            raise DeviceMemoryError(
                f"out of memory on {self._device} even with tiles of {failed[0]} pixels and a halo of "
                f"{self._halo}; free memory on the device, use a smaller tile_overlap or batch_size, or "
                "device='cpu'"
            )
        release_memory(self._device)
        self.size = _round_up(failed[0] // 2, self._align), _round_up(failed[1] // 2, self._align)
        _LOGGER.warning(
            "out of memory on %s with a tile of %d x %d output pixels; going on with %d x %d",
            *(self._device, *failed, *self.size),
        )


def _round_up(value: int, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
