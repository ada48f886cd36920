"""Sweeps: from top to bottom, the numbers of the whole, without a second tensor of the canvas's size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.pipeline.sweep import RollingRows, Sweep
from sam_diffsr.pipeline.tiling import TileRunner

CPU = torch.device("cpu")


def runner(
    height: int, width: int, *, size: tuple[int, int], halo: int = 8, receptive_field: int = 20
) -> TileRunner:
    return TileRunner(
        height, width, size=size, halo=halo, receptive_field=receptive_field, align=4, device=CPU
    )


def blur(x: Tensor) -> Tensor:
    """Looks at 4 pixels around."""
    kernel = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(1)) / 81
    return functional.conv2d(functional.pad(x, (4, 4, 4, 4), mode="reflect"), kernel, groups=3)


def test_rows_roll_like_a_tensor_that_keeps_all_of_them() -> None:
    whole, rolling = torch.zeros(2, 3, 60, 4), RollingRows(reserve=5)
    empty = torch.empty(2, 3, 0, 4)
    for first, stop in ((0, 5), (0, 3), (2, 7), (6, 8), (8, 13), (9, 30), (25, 31), (31, 60)):
        rolling.drop(first)
        rolling.reach(stop, like=empty)
        assert (rolling.first, rolling.stop) == (first, max(stop, 5))
        rows = slice(first, rolling.stop)
        assert torch.equal(rolling.rows(first, rolling.stop), whole[:, :, rows])
        more = torch.rand(2, 3, rolling.stop - first, 4)
        rolling.rows(first, rolling.stop).add_(more)
        whole[:, :, rows] += more
    rolling.drop(100)
    assert rolling.first == rolling.stop == 60


def test_rows_that_were_reserved_stay_where_they_are() -> None:
    rolling, empty = RollingRows(reserve=6), torch.empty(1, 1, 0, 4)
    places: set[int] = set()
    for stop in range(4, 100, 2):
        rolling.drop(stop - 4)
        rolling.reach(stop, like=empty)
        places.add(rolling.rows(rolling.first, stop).untyped_storage().data_ptr())
    assert len(places) == 1


@pytest.mark.parametrize("shrink", [1, 2])
@pytest.mark.parametrize("size", [(12, 12), (8, 36), (48, 12), (20, 16), (48, 36), (100, 100)])
def test_strips_are_the_result_and_what_was_handed_out_is_not_looked_at(
    size: tuple[int, int], shrink: int
) -> None:
    x = torch.rand(2, 3, 48, 36)
    tiles = runner(48, 36, size=size)

    def evaluate(rows: slice, columns: slice) -> Tensor:
        return blur(x[:, :, rows, columns])[:, :, ::shrink, ::shrink].clone()

    whole = Sweep(tiles, evaluate, device=CPU, dtype=torch.float32, shrink=shrink).whole()
    shares: list[float] = []
    sweep = Sweep(tiles, evaluate, device=CPU, dtype=torch.float32, shrink=shrink, on_tile=shares.append)
    following = 0
    for rows, strip in sweep.strips():
        assert rows.start == following < rows.stop
        assert torch.equal(strip, whole[:, :, rows])
        strip.fill_(float("nan"))
        x[:, :, rows.start * shrink : rows.stop * shrink] = float("nan")
        following = rows.stop
    assert following == 48 // shrink
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_no_more_rows_are_kept_than_a_row_of_tiles_has() -> None:
    x = torch.rand(1, 3, 400, 24)
    tiles = runner(400, 24, size=(20, 12))
    sweep = Sweep(tiles, lambda rows, columns: blur(x[:, :, rows, columns]), device=CPU, dtype=torch.float32)
    sizes = {strip.untyped_storage().nbytes() for _, strip in sweep.strips()}
    assert len(sizes) == 1
    assert sizes.pop() <= 4 * 3 * (20 + 2 * 8 + 8) * 24


def test_results_are_final_before_the_canvas_is_unseen() -> None:
    x = torch.rand(1, 3, 60, 24)
    seen: list[tuple[int, int]] = []
    tiles = runner(60, 24, size=(20, 24))
    sweep = Sweep(
        *(tiles, lambda rows, columns: blur(x[:, :, rows, columns])),
        device=CPU,
        dtype=torch.float32,
        prepare=lambda first, stop: seen.append((first, stop)),
    )
    sweep.until(10)
    assert (sweep.final, sweep.unseen) == (20 - 4, 20 - 8)
    sweep.until(16)
    assert len(seen) == 1
    sweep.until(17)
    assert (sweep.final, sweep.unseen) == (36, 24)  # the last window begins earlier, to be of the same size
    assert seen == [(0, 36), (12, 48)]
    sweep.until(60)
    assert (sweep.final, sweep.unseen) == (60, 60)


@pytest.mark.parametrize("fails", [{0}, {1}, {4}, {3, 4, 5}, {0, 1, 2}])
def test_out_of_memory_on_the_way_changes_only_the_tiles(fails: set[int]) -> None:
    """Also in the middle of a row of tiles, whose other tiles are not divided yet."""
    x = torch.rand(1, 3, 96, 64)
    expected = blur(x)
    calls = 0

    def evaluate(rows: slice, columns: slice) -> Tensor:
        nonlocal calls
        calls += 1
        if calls - 1 in fails:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return blur(x[:, :, rows, columns])

    sweep = Sweep(runner(96, 64, size=(32, 32), receptive_field=4), evaluate, device=CPU, dtype=torch.float32)
    for rows, strip in sweep.strips():
        torch.testing.assert_close(strip, expected[:, :, rows])
        x[:, :, rows] = float("nan")
    assert calls > 6 + len(fails)


def test_an_error_while_preparing_is_not_too_large_a_window() -> None:
    def fail(first: int, stop: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory: for what is prepared")

    tiles = runner(48, 36, size=(12, 12))
    sweep = Sweep(
        *(tiles, lambda rows, columns: torch.zeros(())), device=CPU, dtype=torch.float32, prepare=fail
    )
    with pytest.raises(torch.cuda.OutOfMemoryError, match="for what is prepared"):
        list(sweep.strips())
    assert tiles.size == (12, 12)


def test_too_little_memory_for_the_smallest_tile_is_an_error() -> None:
    def fail(rows: slice, columns: slice) -> Tensor:
        raise MemoryError

    sweep = Sweep(runner(48, 36, size=(48, 36)), fail, device=CPU, dtype=torch.float32)
    with pytest.raises(DeviceMemoryError, match=r"out of memory on cpu even with tiles of 4 pixels"):
        sweep.until(1)
