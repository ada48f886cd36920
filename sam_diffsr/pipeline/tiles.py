"""Divides an image into tiles with a halo that fit into memory, each of which is upscaled on its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sam_diffsr.device import free_memory
from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.pipeline.config import ResolverConfig
from sam_diffsr.pipeline.settings import Settings

LARGEST_TILE = 224
"""Side of the largest automatic tile, in LR pixels; larger ones are no faster."""
SMALLEST_TILE = 16
"""Side of the smallest tile, in LR pixels."""
LARGEST_BATCH = 8
"""Images or windows that are computed together at most, unless the caller asks for more."""
CPU_BATCH_PIXELS = 64 * 64
"""LR pixels of a batch on the CPU, which gains nothing from larger ones."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of an image and the window around it that it is computed from, in LR pixels."""

    rows: range
    columns: range
    window_rows: range
    window_columns: range

    @property
    def window_size(self) -> tuple[int, int]:
        """Height and width of the window."""
        return len(self.window_rows), len(self.window_columns)

    def origin(self, scale: int) -> tuple[int, int]:
        """Top left corner of the window in an image that is ``scale`` times as large."""
        return scale * self.window_rows.start, scale * self.window_columns.start

    def cut(self, image: Tensor) -> Tensor:
        """View of the window in an image ``(..., H, W)`` of LR pixels."""
        return image[..., _scaled(self.window_rows, 1), _scaled(self.window_columns, 1)]

    def area(self, scale: int) -> tuple[slice, slice]:
        """Rows and columns of the tile in an image that is ``scale`` times as large."""
        return _scaled(self.rows, scale), _scaled(self.columns, scale)

    def paste(self, window: Tensor, output: Tensor, *, scale: int) -> None:
        """Copy the tile from its upscaled window ``(C, scale*h, scale*w)`` into the upscaled image.

        Rows and columns beyond the output are left out.
        """
        rows, columns = self.area(scale)
        target = output[..., rows, columns]
        top, left = rows.start - self.origin(scale)[0], columns.start - self.origin(scale)[1]
        target.copy_(window[..., top : top + target.shape[-2], left : left + target.shape[-1]])


def _scaled(span: range, scale: int) -> slice:
    return slice(scale * span.start, scale * span.stop)


@dataclass(frozen=True, kw_only=True, slots=True)
class TileGrid:
    """Rules by which an image of LR pixels is divided. All windows of a division have one size."""

    height: int
    """Rows of the image, a multiple of ``multiple``."""
    width: int
    """Columns of the image, a multiple of ``multiple``."""
    side: int
    """Largest side of a tile; 0 for a single tile."""
    halo: int
    """Pixels around a tile that its window has at least, where the image has them."""
    multiple: int = 1
    """Bounds of tiles and windows are multiples of this."""
    minimum: int = 1
    """Smallest side of a window, at most the sides of the image."""

    def tiles(self) -> list[Tile]:
        """Divide the image, in reading order; one that fits into the window of a tile is a single tile."""
        return self._with_windows(itertools.product(self._cuts(self.height), self._cuts(self.width)))

    def quarters(self, pending: Iterable[Tile]) -> list[Tile]:
        """Divide tiles again, each into four; one whose sides cannot be halved stays as it is."""
        halves = ((self._halves(tile.rows), self._halves(tile.columns)) for tile in pending)
        return self._with_windows(core for pair in halves for core in itertools.product(*pair))

    def _cuts(self, length: int) -> list[range]:
        """Tiles along one axis. The outermost tiles need no halo outside and are larger by it."""
        inside = length - 2 * self.halo
        if self.side == 0 or inside <= self.side:
            return [range(length)]
        count = -(-inside // self.side)
        bounds = {self._up(self.halo + inside * index // count) for index in range(1, count)}
        return [range(*pair) for pair in itertools.pairwise(sorted({0, *bounds, length}))]

    def _halves(self, span: range) -> list[range]:
        middle = self._up((span.start + span.stop) // 2)
        return [span] if middle >= span.stop else [range(span.start, middle), range(middle, span.stop)]

    def _with_windows(self, cores: Iterable[tuple[range, range]]) -> list[Tile]:
        rows, columns = zip(*cores, strict=True)
        windows = self._windows(rows, self.height), self._windows(columns, self.width)
        return [Tile(*spans) for spans in zip(rows, columns, *windows, strict=True)]

    def _windows(self, spans: Sequence[range], length: int) -> list[range]:
        """Windows of one size along one axis: each holds its span and halo, moved inwards at the borders."""
        halo = self._up(self.halo)
        needed = [min(span.stop + halo, length) - max(span.start - halo, 0) for span in spans]
        size = max(*needed, self.minimum)
        starts = [min(max(span.start - halo, 0), length - size) for span in spans]
        return [range(start, start + size) for start in starts]

    def _up(self, value: int) -> int:
        return -(-value // self.multiple) * self.multiple


def divide(
    config: ResolverConfig, settings: Settings, height: int, width: int, *, parameter: Tensor
) -> TileGrid:
    """Divide an image of LR pixels into tiles of the given side, or into the largest that fit into memory.

    The image gets its margin first. ``parameter`` is one of the networks' weights, on the device and in the
    dtype of the computation.

    Raises:
        DeviceMemoryError: ``settings.max_memory`` is too small for the smallest tile.
    """
    model, halo = config.model, settings.halo
    height, width = (model.fit(side + 2 * settings.margin) for side in (height, width))

    def largest_side() -> int:
        limit, itemsize, needed = _limit(settings, parameter), parameter.element_size(), 0
        for side in range(LARGEST_TILE, 0, -SMALLEST_TILE):
            window = min(height, side + 2 * halo), min(width, side + 2 * halo)
            needed = window_bytes(config, *window, itemsize=itemsize)
            if needed <= limit:
                return side
        if settings.max_memory is None:  # the figure of the system is an estimate, too
            return SMALLEST_TILE
        raise DeviceMemoryError(
            f"max_memory is {limit / 2**20:.3g} MB, but the smallest tile needs about "
            f"{math.ceil(needed / 2**20)} MB; allow more, or use a smaller halo"
        )

    side = largest_side() if settings.tile is None else settings.tile
    return TileGrid(
        height=height, width=width, side=side, halo=halo, multiple=model.lr_multiple, minimum=model.lr_minimum
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


def window_bytes(config: ResolverConfig, height: int, width: int, *, itemsize: int) -> int:
    """Peak memory of a window of LR pixels, with numbers of ``itemsize`` bytes; measured on the CPU."""
    model, per_pixel = config.model, config.bytes_per_pixel
    if per_pixel is None:
        # Activations of the denoiser's finest level or of the encoder's head, and some RGB images in float32.
        per_pixel = itemsize * max(6 * model.denoiser.channels[0], 3 * model.encoder.channels) + 100
    return height * width * model.scale**2 * per_pixel


def _limit(settings: Settings, parameter: Tensor) -> int:
    """Bytes that a window may take: as asked for, or half of what is free."""
    return free_memory(parameter.device) // 2 if settings.max_memory is None else settings.max_memory
