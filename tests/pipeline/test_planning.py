"""Which tiles are chosen, and where canvas and condition go, for how much memory."""

from __future__ import annotations

import logging

import pytest
import torch

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.models import ModelConfig
from sam_diffsr.pipeline import planning
from sam_diffsr.pipeline.planning import MemoryPlan, plan_batches, plan_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MODEL = ModelConfig()  # the released architecture
GIB = 2**30


def plan(
    side: int,
    free: float,
    *,
    device: torch.device = CPU,
    tile: int | None = None,
    host: float = 64,
    limit: float | None = None,
    model: ModelConfig = MODEL,
):
    return plan_memory(
        model,
        batch=1,
        height=side,
        width=side,
        itemsize=2 if device == GPU else 4,
        tile=tile,
        halo=64,
        device=device,
        free=int(free * GIB),
        free_on_host=int(host * GIB),
        limit=None if limit is None else int(limit * GIB),
    )


def test_what_fits_is_done_in_one_piece(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        assert plan(1024, 8) == MemoryPlan(tile=0, canvas=CPU, condition="whole", store=CPU)
    assert "1024 x 1024 output pixels in one piece on cpu" in caplog.text


def test_zero_asks_for_one_piece_however_large():
    assert plan(100_000, 1, tile=0).tile == 0


def test_an_asked_for_tile_is_kept():
    assert plan(1024, 64, tile=96).tile == 96


def test_less_memory_means_smaller_tiles_and_then_less_that_is_kept(caplog: pytest.LogCaptureFixture):
    sizes, kept = [], []
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        for free in (32, 8, 4, 2, 1.2, 0.5):
            chosen = plan(2048, free)
            sizes.append(chosen.tile)
            kept.append(chosen.condition)
            assert chosen.canvas == chosen.store == CPU
    assert kept == ["whole", "encoded", "encoded", "stored", "recomputed", "recomputed"]
    assert sizes[0] == 0
    assert sizes[1] > sizes[2] > sizes[3] >= 64
    assert sizes[-1] == 64
    assert f"in tiles of {sizes[1]} with a halo of 64; canvas on cpu, features encoded on cpu" in caplog.text


def test_a_gpu_leaves_to_the_host_what_it_cannot_keep():
    assert plan(4096, 80, device=GPU) == MemoryPlan(tile=0, canvas=GPU, condition="whole", store=GPU)
    tiled = plan(4096, 20, device=GPU)
    assert (tiled.canvas, tiled.condition, tiled.store) == (GPU, "encoded", GPU)
    assert 64 <= tiled.tile < 4096
    crowded = plan(4096, 1.2, device=GPU)
    assert (crowded.canvas, crowded.condition, crowded.store) == (CPU, "stored", CPU)
    assert plan(4096, 2, device=GPU, host=1).condition == "recomputed"


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("limited", [False, True])
def test_the_plan_takes_at_least_half_of_the_memory_it_was_given_and_not_more(
    device: torch.device, limited: bool
):
    itemsize = 2 if device == GPU else 4
    costs = planning._Costs.of(MODEL, itemsize)
    for side in (512, 2048, 4096):
        for free in (2, 4, 8, 16, 32):
            chosen = plan(side, 64, device=device, limit=free) if limited else plan(side, free, device=device)
            window = (min(chosen.tile + 128, side) if chosen.tile else side) ** 2
            used = window * costs.window()
            used += (
                costs.features * side**2
                if chosen.condition != "recomputed" and chosen.tile and chosen.store == device
                else 0
            )
            used += planning._CANVAS_BYTES * side**2 if chosen.canvas == device else 0
            assert used < free * GIB
            if chosen.tile and chosen.tile + 128 < side:
                assert used > free * GIB / 2


def test_a_limit_takes_the_place_of_what_is_free():
    assert plan(2048, 64, limit=32) == plan(2048, 64)
    assert 0 < plan(2048, 64, limit=2).tile < plan(2048, 64, limit=4).tile < 2048
    assert plan(1024, 64, limit=0.16).tile < 64 <= plan(1024, 0.16).tile


@pytest.mark.parametrize(
    ("tile", "message"),
    [(None, "and one tile: about"), (512, "and one tile: about"), (0, "without tiles: about")],
)
def test_a_limit_that_cannot_hold_one_tile(tile: int | None, message: str):
    with pytest.raises(DeviceMemoryError, match=message) as caught:
        plan(2048, 64, tile=tile, limit=0.1)
    needed = int(str(caught.value).split("about ")[1].split(" ")[0]) / 1024
    chosen = plan(2048, 64, tile=tile, limit=needed + 0.01).tile
    assert chosen < 32 if tile is None else chosen == tile


def test_batches_hold_images_of_one_size_in_order():
    sizes = [(8, 8), (8, 4), (8, 8), (8, 8), (8, 4)]

    def batches(batch_size: int | None, device: torch.device = CPU) -> list[list[int]]:
        return plan_batches(MODEL, sizes, batch_size=batch_size, tiled=False, itemsize=4, device=device)

    assert batches(1) == [[0], [2], [3], [1], [4]]
    assert batches(None) == [[0, 2, 3], [1, 4]]
    assert batches(2) == [[0, 2], [3], [1, 4]]
    assert batches(None, GPU) == batches(9) == [[0, 2, 3], [1, 4]]
    assert plan_batches(MODEL, [], batch_size=2, tiled=True, itemsize=4, device=CPU) == []


def test_a_cpu_batch_is_not_larger_than_what_is_computed_fastest():
    def longest(side: int) -> int:
        sizes = [(side, side)] * 9
        batches = plan_batches(MODEL, sizes, batch_size=None, tiled=True, itemsize=4, device=CPU)
        return max(len(batch) for batch in batches)

    assert [longest(side) for side in (16, 32, 48, 64, 128)] == [5, 5, 3, 2, 1]  # of equal size: 5 + 4


def test_a_batch_shrinks_before_it_is_tiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(planning, "free_memory", lambda device: 8 * GIB)

    def longest(side: int) -> int:
        batches = plan_batches(MODEL, [(side, side)] * 20, batch_size=20, tiled=True, itemsize=4, device=CPU)
        assert sorted(index for batch in batches for index in batch) == list(range(20))
        return max(len(batch) for batch in batches)

    assert longest(32) == 20
    assert 1 < longest(128) < 20
    assert longest(4096) == 1
