"""Division of an image into tiles with a halo, each of which is upscaled on its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Tile", "TileGrid"]

Span = tuple[int, int]
"""First row or column, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of an image and the window around it that it is computed from, in LR pixels."""

    rows: Span
    columns: Span
    window_rows: Span
    window_columns: Span

    @property
    def window_size(self) -> tuple[int, int]:
        """Height and width of the window."""
        return self.window_rows[1] - self.window_rows[0], self.window_columns[1] - self.window_columns[0]

    def origin(self, scale: int) -> tuple[int, int]:
        """Top left corner of the window in an image that is ``scale`` times as large."""
        return scale * self.window_rows[0], scale * self.window_columns[0]

    def cut(self, image: Tensor) -> Tensor:
        """View of the window in an image ``(..., H, W)`` of LR pixels."""
        return image[..., slice(*self.window_rows), slice(*self.window_columns)]

    def area(self, scale: int) -> tuple[slice, slice]:
        """Rows and columns of the tile in an image that is ``scale`` times as large."""
        top, bottom, left, right = (scale * bound for bound in (*self.rows, *self.columns))
        return slice(top, bottom), slice(left, right)

    def paste(self, window: Tensor, output: Tensor, *, scale: int) -> None:
        """Copy the tile from its upscaled window ``(C, scale*h, scale*w)`` into ``(C, scale*H, scale*W)``.

        The halo, and rows and columns beyond the output, are left out.
        """
        rows, columns = self.area(scale)
        target = output[..., rows, columns]
        top, left = rows.start - self.origin(scale)[0], columns.start - self.origin(scale)[1]
        target.copy_(window[..., top : top + target.shape[-2], left : left + target.shape[-1]])


@dataclass(frozen=True, kw_only=True, slots=True)
class TileGrid:
    """Rules by which one image is divided. All windows of a division have one size."""

    height: int
    """Rows of the image, a multiple of ``multiple``."""
    width: int
    """Columns of the image, a multiple of ``multiple``."""
    halo: int
    """Pixels around a tile that its window has at least, where the image has them."""
    multiple: int = 1
    """Bounds of tiles and windows are multiples of this."""
    minimum: int = 1
    """Smallest side of a window, at most the sides of the image."""

    def tiles(self, side: int) -> list[Tile]:
        """Divide the image into tiles of at most ``side`` pixels in reading order; 0 for a single tile.

        An image that fits into the window of one tile is one tile, and its window is the image.
        """
        return self._with_windows(
            itertools.product(self._cuts(self.height, side), self._cuts(self.width, side))
        )

    def quarters(self, pending: Iterable[Tile]) -> list[Tile]:
        """Divide tiles again, each into four; one whose sides cannot be halved stays as it is."""
        halves = ((self._halves(tile.rows), self._halves(tile.columns)) for tile in pending)
        return self._with_windows(core for pair in halves for core in itertools.product(*pair))

    def _cuts(self, length: int, side: int) -> list[Span]:
        """Spans along one axis. The outermost tiles need no halo outside and are larger by it."""
        if side == 0 or length <= side + 2 * self.halo:
            return [(0, length)]
        inside = length - 2 * self.halo
        count = -(-inside // side)
        bounds = {self._up(self.halo + inside * index // count) for index in range(1, count)}
        return list(itertools.pairwise(sorted({0, *bounds, length})))

    def _halves(self, span: Span) -> list[Span]:
        middle = self._up((span[0] + span[1]) // 2)
        return [span] if middle >= span[1] else [(span[0], middle), (middle, span[1])]

    def _with_windows(self, cores: Iterable[tuple[Span, Span]]) -> list[Tile]:
        rows, columns = zip(*cores, strict=True)
        windows = self._windows(rows, self.height), self._windows(columns, self.width)
        return [Tile(*spans) for spans in zip(rows, columns, *windows, strict=True)]

    def _windows(self, spans: Sequence[Span], length: int) -> list[Span]:
        """Windows of one size along one axis: each holds its span and halo, moved inwards at the borders."""
        halo = self._up(self.halo)
        needed = [min(stop + halo, length) - max(start - halo, 0) for start, stop in spans]
        size = max(*needed, self.minimum)
        starts = [min(max(start - halo, 0), length - size) for start, _ in spans]
        return [(start, start + size) for start in starts]

    def _up(self, value: int) -> int:
        return -(-value // self.multiple) * self.multiple
