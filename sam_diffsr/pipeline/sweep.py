"""Tiles from top to bottom, of whose results only the rows that are still wanted are kept.

The memory of a sweep grows with the width of the canvas, not with its height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sam_diffsr.pipeline.tiling import Evaluate, TileRunner

__all__ = ["RollingRows", "Sweep"]


class RollingRows:
    """A tall tensor ``(B, C, rows, W)`` that begins as zeros and forgets its upper rows on demand.

    Args:
        reserve: rows that are going to be there at the same time; more makes it move to larger memory.
    """

    def __init__(self, *, reserve: int = 0) -> None:
        self._reserve = reserve
        self._memory = torch.empty(0)
        self._base = 0  # the row that the memory begins with
        self.first = 0
        """The first row that is remembered."""
        self.stop = 0
        """The row after the last one that is there."""

    def take(self, whole: Tensor) -> None:
        """Make all rows those of a tensor, without a copy."""
        self._memory, self._base, self.first, self.stop = whole, 0, 0, whole.shape[2]

    def reach(self, stop: int, *, like: Tensor) -> None:
        """Make room for rows up to ``stop``.

        Args:
            stop: the row after the last one.
            like: ``(B, C, 0, W)``; of its shape, dtype and device.
        """
        if stop <= self.stop:
            return
        capacity = self._memory.shape[2] if self._memory.ndim == 4 else 0
        if stop - self._base > capacity:
            self._move(max(stop - self.first, self._reserve), capacity, like=like)
        self._memory[:, :, self.stop - self._base : stop - self._base] = 0
        self.stop = stop

    def _move(self, wanted: int, capacity: int, *, like: Tensor) -> None:
        """Put the remembered rows at the beginning, of larger memory if they need that."""
        used, offset = self.stop - self.first, self.first - self._base
        source, target = self._memory, self._memory
        if wanted > capacity:
            target = like.new_empty(*like.shape[:2], wanted, like.shape[3])
        step = used if target is not source else offset  # no more rows at a time than lie between the two
        for top in range(0, used, max(step, 1)):
            count = min(step, used - top)
            target[:, :, top : top + count] = source[:, :, offset + top : offset + top + count]
        self._memory, self._base = target, self.first

    def rows(self, top: int, bottom: int) -> Tensor:
        """A view of some rows, which lasts until room is made for more."""
        return self._memory[:, :, top - self._base : bottom - self._base]

    def drop(self, row: int) -> None:
        """Forget the rows above one."""
        self.first = min(max(self.first, row), self.stop)


class Sweep:
    """One evaluation of a function of windows on the whole canvas, tile by tile.

    Args:
        runner: of the tiles.
        evaluate: makes the result of a window.
        device: where results are kept.
        dtype: of the results that are kept.
        shrink: pixels of the canvas for one of the results, a divisor of the runner's ``align``.
        on_tile: called with the share of the canvas that is finished, after every tile.
        prepare: called before a window is evaluated, with the first row of the canvas that it or a later one
            looks at and the row after its own last one; what it raises is not taken for a window that is too
            large.
        reserve: rows of the result to have room for; None for a row of tiles.
    """

    def __init__(
        self,
        runner: TileRunner,
        evaluate: Evaluate,
        *,
        device: torch.device,
        dtype: torch.dtype,
        shrink: int = 1,
        on_tile: Callable[[float], None] | None = None,
        prepare: Callable[[int, int], None] | None = None,
        reserve: int | None = None,
    ) -> None:
        self._runner = runner
        self._evaluate = evaluate
        self._device = device
        self._dtype = dtype
        self._shrink = shrink
        self._on_tile = on_tile
        self._prepare = prepare
        self._pending = runner.tiles()
        row_of_tiles = runner.rows_at_once(self._pending) // shrink
        self._rows = RollingRows(reserve=row_of_tiles if reserve is None else reserve)
        self._height = runner.height // shrink

    @property
    def final(self) -> int:
        """Rows of the result, from the top, to which nothing is going to be added."""
        if not self._pending:
            return self._height
        radius = self._runner.radius // self._shrink
        return max(min(tile.top for tile in self._pending) // self._shrink - radius, 0)

    @property
    def unseen(self) -> int:
        """Rows of the canvas, from the top, that no window to come looks at."""
        if not self._pending:
            return self._runner.height
        return min(self._runner.window(tile)[0].start for tile in self._pending)

    def until(self, row: int) -> None:
        """Evaluate until this many rows of the result are final.

        Raises:
            DeviceMemoryError: memory ran out with the smallest tile.
        """
        while self.final < row:
            self.advance()

    def whole(self) -> Tensor:
        """All of the result; has to be asked for before rows of it are dropped, best with as many reserved.

        Raises:
            DeviceMemoryError: memory ran out with the smallest tile.
        """
        self.until(self._height)
        return self.rows(0, self._height)

    def rows(self, top: int, bottom: int) -> Tensor:
        """A view of rows of the result, to be used before the next tile."""
        return self._rows.rows(top, bottom)

    def drop(self, row: int) -> None:
        """Forget the rows of the result above one."""
        self._rows.drop(row)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows of the result from top to bottom, each when it is final and no window to come sees it.

        Yields:
            Rows, and the result there, which is lost when the next one is asked for.

        Raises:
            DeviceMemoryError: memory ran out with the smallest tile.
        """
        given = 0
        while given < self._height:
            self.advance()
            done = min(self.final, self.unseen // self._shrink)
            if done > given:
                yield slice(given, done), self.rows(given, done)
                self.drop(done)
                given = done

    def advance(self) -> None:
        """Evaluate one tile.

        Raises:
            DeviceMemoryError: memory ran out with the smallest tile.
        """
        tile, window = self._runner.next_window(self._pending, self._evaluate, prepare=self._before)
        if self._runner.is_whole(tile):
            self._rows.take(window.to(device=self._device, dtype=self._dtype))
        else:
            radius, shrink = self._runner.radius // self._shrink, self._shrink
            batch, channels = window.shape[:2]
            empty = torch.empty(
                (batch, channels, 0, self._runner.width // shrink), device=self._device, dtype=self._dtype
            )
            self._rows.reach(min(tile.bottom // shrink + radius, self._height), like=empty)
            first = self._rows.first
            kept = self._rows.rows(first, self._rows.stop)
            self._runner.blend(kept, window, tile, shrink=shrink, first=first)
        del window
        if self._on_tile is not None:
            self._on_tile(self._runner.share(self._pending))

    def _before(self, rows: slice) -> None:
        if self._prepare is not None:
            self._prepare(self.unseen, rows.stop)
