"""Which tiles are chosen, and where canvas and condition go, for how much memory."""

from __future__ import annotations

import logging

import pytest
import torch

from sam_diffsr.errors import DeviceMemoryError
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig
from sam_diffsr.pipeline import planning
from sam_diffsr.pipeline.planning import DEFAULT_HALOS, MemoryPlan, plan_batches, plan_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MODEL = ModelConfig()  # the released architecture
GIB = 2**30


def plan(
    side: int | tuple[int, int],
    free: float,
    *,
    device: torch.device = CPU,
    tile: int | None = None,
    host: float = 64,
    limit: float | None = None,
    model: ModelConfig = MODEL,
    canvases: int = 1,
    once: bool = False,
):
    height, width = (side, side) if isinstance(side, int) else side
    return plan_memory(
        model,
        batch=1,
        height=height,
        width=width,
        itemsize=2 if device == GPU else 4,
        tile=tile,
        halos=DEFAULT_HALOS,
        canvases=canvases,
        once=once,
        device=device,
        free=int(free * GIB),
        free_on_host=int(host * GIB),
        limit=None if limit is None else int(limit * GIB),
    )


def in_one_piece(chosen: MemoryPlan, side: int) -> bool:
    return chosen.tile == chosen.encoder_tile == (side, side)


def area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def test_what_fits_is_done_in_one_piece(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        chosen = plan(1024, 8)
    assert in_one_piece(chosen, 1024)
    assert chosen.canvas == chosen.store == CPU
    assert "1024 x 1024 output pixels in one piece on cpu" in caplog.text


def test_zero_asks_for_one_piece_however_large():
    assert in_one_piece(plan(100_000, 1, tile=0), 100_000)


def test_an_asked_for_tile_is_kept():
    chosen = plan((1024, 80), 64, tile=90)
    assert chosen.tile == (96, 80)
    assert chosen.encoder_tile is not None


def test_less_memory_means_smaller_tiles_and_then_less_that_is_kept(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        plans = [plan(2048, free) for free in (32, 8, 4, 2, 1, 0.2)]
    assert all(chosen.canvas == chosen.store == CPU for chosen in plans)
    assert in_one_piece(plans[0], 2048)
    areas = [area(chosen.tile) for chosen in plans]
    assert areas == sorted(areas, reverse=True)
    assert plans[-1].tile == (64, 64)
    encoded = [0 if chosen.encoder_tile is None else area(chosen.encoder_tile) for chosen in plans]
    assert encoded == sorted(encoded, reverse=True)
    assert all(part >= whole for part, whole in zip(encoded, areas[:4], strict=False))
    assert encoded[-1] == 0
    rows, columns = plans[1].tile
    assert f"tiles of {rows} x {columns}, encoded in one piece and kept on cpu; canvas on cpu" in caplog.text
    rows, columns = plans[3].encoder_tile or (0, 0)
    assert f"encoded in tiles of {rows} x {columns} and kept on cpu; canvas on cpu" in caplog.text
    assert "in tiles of 64 x 64, encoded anew for every tile; canvas on cpu; about" in caplog.text


def test_a_gpu_leaves_to_the_host_what_it_cannot_keep():
    assert in_one_piece(plan(4096, 80, device=GPU), 4096)
    tiled = plan(4096, 20, device=GPU)
    assert (tiled.canvas, tiled.store) == (GPU, GPU)
    assert tiled.tile != tiled.encoder_tile == (4096, 4096)
    crowded = plan(4096, 0.4, device=GPU)
    assert (crowded.canvas, crowded.store) == (CPU, CPU)
    assert crowded.encoder_tile is not None
    assert plan(4096, 0.4, device=GPU, host=1).encoder_tile is None


SIZES = [(512, 512), (1000, 1200), (2048, 2048), (640, 4096), (4096, 64), (8192, 8192)]
BUNDLED = ModelConfig(
    encoder=EncoderConfig(blocks=5, channels=32, growth=16), denoiser=DenoiserConfig(dim=24)
)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("model", [MODEL, BUNDLED])
@pytest.mark.parametrize("once", [False, True])
def test_the_plan_takes_at_least_half_of_the_limit_and_not_more(
    device: torch.device, model: ModelConfig, once: bool
):
    tiled = 0
    for size in SIZES:
        for limit in (0.2, 0.4, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32):
            try:
                chosen = plan(size, 64, device=device, limit=limit, model=model, once=once)
            except DeviceMemoryError:
                assert area(size) > 0.01 * limit * GIB  # more than a hundredth of a pixel a byte
                continue
            assert chosen.peak <= limit * GIB
            if not chosen.tile == chosen.encoder_tile == size:
                tiled += 1
                assert chosen.peak > 0.5 * limit * GIB
    assert tiled > 20


def test_tiles_are_cut_along_the_axis_that_costs_less():
    wide, high = plan((512, 4096), 64, limit=2), plan((4096, 512), 64, limit=2)
    assert wide.tile[0] == 512 < wide.tile[1] < 4096
    assert high.tile == wide.tile[::-1]


def test_more_canvases_leave_less_for_tiles():
    assert area(plan(4096, 64, limit=2, canvases=4).tile) < area(plan(4096, 64, limit=2).tile)


def test_the_finished_image_has_to_fit_beside_the_canvas():
    """On the CPU, where it is made, a canvas of 192 MB and an image of 112 MB."""
    with pytest.raises(DeviceMemoryError, match="a limit of 350 MB"):
        plan(4096, 64, limit=350 / 1024, model=BUNDLED)
    assert min(plan(4096, 64, limit=420 / 1024, model=BUNDLED).tile) >= 64
    assert min(plan(4096, 64, limit=350 / 1024, model=BUNDLED, device=GPU).tile) >= 64


def test_features_are_kept_only_where_that_leaves_tiles_large_enough():
    """Kept features of 4096 x 4096 pixels take 1.5 GB of 1.9 GB here."""
    assert plan(4096, 64, limit=4).encoder_tile is not None
    scarce = plan(4096, 64, limit=1.9)
    assert scarce.encoder_tile is None
    assert min(scarce.tile) > 400


def test_features_of_one_step_roll_where_there_are_rows_of_tiles(caplog: pytest.LogCaptureFixture):
    assert not any(plan(side, 8, once=True).rolling for side in (512, 1024))  # in one piece
    assert not plan((256, 8192), 4, once=True, tile=256).rolling  # one row of tiles is the whole image
    assert not plan(2048, 64, limit=1).rolling  # more steps look at them again
    with caplog.at_level(logging.INFO, logger="sam_diffsr"):
        chosen = plan(2048, 64, limit=2, once=True)
    assert chosen.rolling
    rows, columns = chosen.encoder_tile or (0, 0)
    assert f"encoded in tiles of {rows} x {columns} ahead of them on cpu; canvas on cpu" in caplog.text


def test_what_one_step_takes_beyond_canvas_and_input_does_not_grow_with_the_height():
    peaks = [plan((height, 2048), 64, tile=256, once=True).peak for height in (4096, 8192, 16384)]
    for low, high, height in zip(peaks, peaks[1:], (4096, 8192), strict=False):
        assert high - low == 2048 * height * (12 + 2)  # one canvas, and an input that is two at worst
    kept = [plan((height, 2048), 64, tile=256).peak for height in (4096, 8192)]
    assert kept[1] - kept[0] > 2048 * 4096 * 100


def test_an_asked_for_tile_takes_no_more_memory_than_it_needs():
    asked = plan(4096, 64, tile=1024, once=True, model=BUNDLED)
    chosen = plan(4096, 64, limit=3, once=True, model=BUNDLED)
    assert asked.encoder_tile is not None
    assert chosen.encoder_tile is not None
    assert asked.encoder_tile[0] <= 512 < chosen.encoder_tile[0]


def test_a_gpu_that_cannot_keep_rolling_features_leaves_them_to_the_host():
    crowded = plan(8192, 0.4, device=GPU, once=True)
    assert (crowded.store, crowded.rolling) == (CPU, True)
    assert plan(8192, 0.4, device=GPU, once=True, host=1).encoder_tile is None


def test_a_limit_takes_the_place_of_what_is_free():
    assert plan(1024, 64, limit=32).tile == plan(1024, 64).tile
    assert 0 < area(plan(2048, 64, limit=2).tile) < area(plan(2048, 64, limit=4).tile) < 2048**2
    assert min(plan(1024, 64, limit=0.085).tile) < 64 <= min(plan(1024, 0.085).tile)


@pytest.mark.parametrize(
    ("tile", "message"),
    [(None, "and one tile: about"), (512, "and one tile: about"), (0, "without tiles: about")],
)
def test_a_limit_that_cannot_hold_one_tile(tile: int | None, message: str):
    with pytest.raises(DeviceMemoryError, match=message) as caught:
        plan(2048, 64, tile=tile, limit=0.1)
    needed = int(str(caught.value).split("about ")[1].split(" ")[0]) / 1024
    chosen = plan(2048, 64, tile=tile, limit=needed + 0.001).tile
    assert max(chosen) < 256 if tile is None else chosen == ((tile or 2048),) * 2
    with pytest.raises(DeviceMemoryError, match=message):
        plan(2048, 64, tile=tile, limit=needed - 0.002)


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
