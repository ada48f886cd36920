"""Tiles: they cover the canvas, agree with the whole, and survive running out of memory."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.pipeline.sweep import Sweep
from sam_diffsr.pipeline.tiling import Tile, TileRunner, axis_weights, plan_tiles, window_size

CPU = torch.device("cpu")


def runner(height: int, width: int, *, size: int, halo: int = 8, receptive_field: int = 4) -> TileRunner:
    return TileRunner(
        height, width, size=(size, size), halo=halo, receptive_field=receptive_field, align=4, device=CPU
    )


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(4, 4, (4, 4)), (64, 64, (64, 64)), (64, 36, (16, 12)), (100, 4, (12, 8)), (60, 40, (8, 40))],
)
def test_tiles_cover_the_canvas_once_and_are_nearly_equal(height: int, width: int, size: tuple[int, int]):
    tiles = plan_tiles(Tile(top=0, bottom=height, left=0, right=width), size=size, align=4)
    covered = torch.zeros(height, width, dtype=torch.int64)
    for tile in tiles:
        assert not any(bound % 4 for bound in (tile.top, tile.bottom, tile.left, tile.right))
        covered[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert bool((covered == 1).all())
    heights, widths = {tile.bottom - tile.top for tile in tiles}, {tile.right - tile.left for tile in tiles}
    assert max(heights) <= size[0]
    assert max(widths) <= size[1]
    assert max(heights) - min(heights) <= 4
    assert max(widths) - min(widths) <= 4
    assert len(tiles) == -(-height // size[0]) * -(-width // size[1])


@pytest.mark.parametrize("radius", [0, 3, 8])
def test_weights_of_tiles_sum_to_one(radius: int):
    for cuts in ([0, 40], [0, 8, 16, 40], [0, 4, 8, 12, 16, 20, 40]):
        total = torch.zeros(40)
        for start, stop in itertools.pairwise(cuts):
            first, weights = axis_weights(start, stop, length=40, radius=radius)
            assert first == max(start - radius, 0)
            assert float(weights.min()) >= 0
            total[first : first + len(weights)] += weights
        torch.testing.assert_close(total, torch.ones(40))


def blur(x: Tensor) -> Tensor:
    """A network with a receptive field of 4 and reflecting borders."""
    kernel = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(1)) / 81
    return functional.conv2d(functional.pad(x, (4, 4, 4, 4), mode="reflect"), kernel, groups=3)


@pytest.mark.parametrize(("halo", "tolerance"), [(4, 1e-6), (8, 1e-6), (3, 1e-6), (0, 1e-6)])
def test_a_full_halo_changes_nothing(halo: int, tolerance: float):
    x = torch.rand(2, 3, 48, 36)
    tiles = runner(48, 36, size=12, halo=halo)  # rounded up to 4, which is the receptive field
    result = Sweep(
        tiles, lambda rows, columns: blur(x[:, :, rows, columns]), device=CPU, dtype=torch.float32
    ).whole()
    torch.testing.assert_close(result, blur(x), atol=tolerance, rtol=0)


def test_a_narrow_halo_is_blended_to_something_near():
    x = torch.rand(1, 3, 48, 48)
    tiles = runner(48, 48, size=12, halo=4, receptive_field=40)
    result = Sweep(
        tiles, lambda rows, columns: blur(x[:, :, rows, columns]), device=CPU, dtype=torch.float32
    ).whole()
    assert 0 < float((result - blur(x)).abs().max()) < 0.05


def test_the_whole_canvas_is_evaluated_at_once_and_in_the_wanted_dtype():
    windows: list[tuple[slice, slice]] = []

    def evaluate(rows: slice, columns: slice) -> Tensor:
        windows.append((rows, columns))
        return torch.ones(1, 2, 20, 12, dtype=torch.float16)

    for size in (20, 400):
        result = Sweep(runner(20, 12, size=size), evaluate, device=CPU, dtype=torch.float32).whole()
        assert result.dtype == torch.float32
    assert windows == [(slice(0, 20), slice(0, 12))] * 2


@pytest.mark.parametrize(("side", "size"), [(48, 12), (52, 16), (48, 24), (40, 40)])
def test_all_windows_are_of_the_size_that_was_planned_for(side: int, size: int):
    shapes: set[tuple[int, int]] = set()

    def evaluate(rows: slice, columns: slice) -> Tensor:
        shapes.add((rows.stop - rows.start, columns.stop - columns.start))
        return torch.zeros(1, 1, rows.stop - rows.start, columns.stop - columns.start)

    Sweep(runner(side, 20, size=size), evaluate, device=CPU, dtype=torch.float32).whole()
    assert shapes == {window_size(side, 20, tile=(size, size), halo=8)}
    assert max(shapes)[0] == min(side, size + 8 * min(-(-side // size) - 1, 2))


class Scarce:
    """An identity that runs out of memory in windows of more than ``limit`` pixels a side."""

    def __init__(self, x: Tensor, limit: int, error: type[Exception] = RuntimeError) -> None:
        self.x, self.limit, self.error = x, limit, error
        self.done: list[tuple[int, int]] = []
        self.failed: list[tuple[int, int]] = []

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        shape = rows.stop - rows.start, columns.stop - columns.start
        if max(shape) > self.limit:
            self.failed.append(shape)
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.done.append((rows.start, columns.start))
        return self.x[:, :, rows, columns]


@pytest.mark.parametrize("error", [RuntimeError, torch.cuda.OutOfMemoryError, MemoryError])
def test_out_of_memory_halves_the_tiles_and_keeps_them_small(error, caplog: pytest.LogCaptureFixture):
    x = torch.rand(1, 3, 64, 64)
    scarce, tiles = Scarce(x, 32, error), runner(64, 64, size=64)
    with caplog.at_level(logging.WARNING, logger="sam_diffsr"):
        result = Sweep(tiles, scarce, device=CPU, dtype=torch.float32).whole()
    torch.testing.assert_close(result, x)
    assert scarce.failed == [(64, 64), (40, 40)]
    assert tiles.size == (16, 16)
    assert "out of memory on cpu with a tile of 64 x 64 output pixels; going on with 32 x 32" in caplog.text
    torch.testing.assert_close(Sweep(tiles, scarce, device=CPU, dtype=torch.float32).whole(), x)
    assert len(scarce.failed) == 2


def test_finished_tiles_are_not_repeated():
    x = torch.rand(1, 3, 64, 64)
    tiles, calls = runner(64, 64, size=32), itertools.count()
    starts: list[tuple[int, int]] = []

    def evaluate(rows: slice, columns: slice) -> Tensor:
        if next(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        starts.append((rows.start, columns.start))
        return x[:, :, rows, columns]

    shares: list[float] = []
    result = Sweep(tiles, evaluate, device=CPU, dtype=torch.float32, on_tile=shares.append).whole()
    torch.testing.assert_close(result, x)
    assert starts[:2] == [(0, 0), (0, 24)]
    assert len(starts) == len(set(starts)) == 2 + 8  # the two that were left, in four parts each
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_too_little_memory_for_the_smallest_tile_is_an_error():
    tiles = runner(64, 64, size=64)
    with pytest.raises(
        DeviceMemoryError,
        match=r"out of memory on cpu even with tiles of 4 pixels and a halo of 8; free memory",
    ):
        Sweep(tiles, Scarce(torch.rand(1, 3, 64, 64), 4), device=CPU, dtype=torch.float32).whole()


def test_other_errors_pass():
    def fail(rows: slice, columns: slice) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Sweep(runner(8, 8, size=64), fail, device=CPU, dtype=torch.float32).whole()
