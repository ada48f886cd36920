"""Tiles cover every pixel once, and every window holds its tile and halo."""

from __future__ import annotations

import itertools

import pytest
import torch

from sam_diffsr.pipeline.tiles import Tile, TileGrid

SIZES = [(1, 1), (2, 40), (33, 50), (96, 97), (300, 4000)]


def check(grid: TileGrid, tiles: list[Tile]) -> None:
    covered = torch.zeros(grid.height, grid.width, dtype=torch.int32)
    assert len({tile.window_size for tile in tiles}) == 1
    for tile in tiles:
        covered[tile.area(1)] += 1
        for span, window, length in (
            (tile.rows, tile.window_rows, grid.height),
            (tile.columns, tile.window_columns, grid.width),
        ):
            assert 0 <= window.start <= max(span.start - grid.halo, 0)
            assert min(span.stop + grid.halo, length) <= window.stop <= length
            assert window.start % grid.multiple == window.stop % grid.multiple == 0
            assert len(window) >= grid.minimum
    assert (covered == 1).all()


@pytest.mark.parametrize(("side", "halo"), [(0, 0), (1, 0), (1, 500), (8, 3), (16, 0), (64, 16)])
def test_any_division_covers_the_image_once(side: int, halo: int) -> None:
    for (height, width), multiple in itertools.product(SIZES[:4], (1, 2, 4)):
        height, width = (-(-length // multiple) * multiple for length in (height, width))
        minimum = min(height, width, 4)
        grid = TileGrid(height=height, width=width, side=side, halo=halo, multiple=multiple, minimum=minimum)
        tiles = grid.tiles()
        check(grid, tiles)
        check(grid, grid.quarters(tiles))


def test_a_long_image_and_its_quarters() -> None:
    grid = TileGrid(height=4, width=4000, side=256, halo=16, multiple=2)
    tiles = grid.tiles()
    assert len(tiles) == 16
    check(grid, tiles)
    quarters = grid.quarters(tiles[3:])
    assert {tile.window_size for tile in quarters} == {(4, 164)}
    assert min(tile.columns.start for tile in quarters) == tiles[3].columns.start


def test_an_image_that_fits_into_one_window_is_one_window_without_an_extra_pixel() -> None:
    def tiles(side: int) -> list[Tile]:
        return TileGrid(height=96, width=60, side=side, halo=16).tiles()

    assert tiles(64) == tiles(0) == [Tile(range(96), range(60), range(96), range(60))]
    assert len(tiles(63)) == 2


def test_a_single_pixel_is_not_divided_further() -> None:
    grid = TileGrid(height=2, width=2, side=1, halo=0, multiple=2)
    assert grid.quarters(grid.tiles()) == grid.tiles()


def test_cutting_and_pasting_give_the_image_back() -> None:
    image = torch.rand(3, 37, 50)
    grid = TileGrid(height=37, width=50, side=9, halo=4)
    output = torch.zeros(3, 74, 98)  # smaller than the tiles, as where the image was padded
    for tile in grid.tiles():
        window = tile.cut(image).repeat_interleave(2, -1).repeat_interleave(2, -2)
        tile.paste(window, output, scale=2)
    assert torch.equal(output, image.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :98])
