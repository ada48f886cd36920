"""Divides an image into tiles with a halo that fit into memory, each of which is upscaled on its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sam_diffsr.device import free_memory
from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.settings import Settings

__all__ = ["LARGEST_BATCH", "SMALLEST_TILE", "Tile", "TileGrid", "batch_size", "divide", "window_bytes"]

LARGEST_TILE = 256
"""Side of the largest automatic tile, in LR pixels; larger ones are no faster."""
SMALLEST_TILE = 16
"""Side of the smallest tile, in LR pixels."""
LARGEST_BATCH = 8
"""Images or windows that are computed together at most, unless the caller asks for more."""
CPU_BATCH_PIXELS = 64 * 64
"""LR pixels of a batch on the CPU, which gains nothing from larger ones."""

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
        cuts = self._cuts(self.height, side), self._cuts(self.width, side)
        return self._with_windows(itertools.product(*cuts))

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


def window_bytes(config: ResolverConfig, height: int, width: int, *, itemsize: int) -> int:
    """Peak memory of a window of LR pixels, with numbers of ``itemsize`` bytes; measured on the CPU."""
    model, per_pixel = config.model, config.bytes_per_pixel
    if per_pixel is None:
        # Activations of the denoiser's finest level or of the encoder's head, and some RGB images in float32.
        per_pixel = itemsize * max(6 * model.denoiser.channels[0], 3 * model.encoder.channels) + 100
    return height * width * model.scale**2 * per_pixel


def divide(
    config: ResolverConfig, settings: Settings, height: int, width: int, *, parameter: Tensor
) -> tuple[TileGrid, list[Tile]]:
    """Divide an image of LR pixels into tiles of the given side, or into the largest that fit into memory.

    Without a given limit a window may take half of the free memory. ``parameter`` is one of the networks'
    weights, on the device and in the dtype of the computation.

    Raises:
        DeviceMemoryError: ``settings.max_memory`` is too small for the smallest tile.
    """
    model, halo = config.model, settings.halo
    height, width = model.fit(height), model.fit(width)
    grid = TileGrid(
        height=height, width=width, halo=halo, multiple=model.lr_multiple, minimum=model.lr_minimum
    )
    if settings.tile is not None:
        return grid, grid.tiles(settings.tile)
    limit, needed = _limit(settings, parameter), 0
    for side in range(LARGEST_TILE, 0, -SMALLEST_TILE):
        window = min(height, side + 2 * halo), min(width, side + 2 * halo)
        needed = window_bytes(config, *window, itemsize=parameter.element_size())
        if needed <= limit:
            return grid, grid.tiles(side)
    if settings.max_memory is None:  # the figure of the system is an estimate, too
        return grid, grid.tiles(SMALLEST_TILE)
    raise DeviceMemoryError(
        f"max_memory is {limit} bytes, but the smallest tile needs about {needed} "
        f"({-(-needed // 2**20)} MB); allow more, or use a smaller halo"
    )


def batch_size(config: ResolverConfig, settings: Settings, tile: Tile, *, parameter: Tensor) -> int:
    """Windows that are computed together: as asked for, few small ones on a CPU, else as many as fit."""
    if settings.batch_size is not None:
        return settings.batch_size
    height, width = tile.window_size
    if parameter.device.type == "cpu":
        fitting = CPU_BATCH_PIXELS // (height * width)
    else:
        window = window_bytes(config, height, width, itemsize=parameter.element_size())
        fitting = _limit(settings, parameter) // window
    return max(1, min(LARGEST_BATCH, fitting))


def _limit(settings: Settings, parameter: Tensor) -> int:
    return free_memory(parameter.device) // 2 if settings.max_memory is None else settings.max_memory
