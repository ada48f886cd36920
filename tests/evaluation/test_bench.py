"""The benchmark counts and measures what it says."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import sam_diffsr.evaluation.bench as bench
import sam_diffsr.evaluation.timing as timing
from sam_diffsr.errors import ArgumentError, OutputError
from sam_diffsr.evaluation import memory as memory_module
from sam_diffsr.evaluation import work_bench
from sam_diffsr.evaluation.bench import run_bench, step_flops
from sam_diffsr.evaluation.environment import describe_environment, describe_machine
from sam_diffsr.evaluation.memory import MemoryUse, measure_memory, memory_table, resident_peak
from sam_diffsr.evaluation.rates import convolutions
from sam_diffsr.evaluation.tile_bench import bench_tiles
from sam_diffsr.evaluation.timing import interleave
from sam_diffsr.evaluation.work_bench import bench_folder, bench_start, smooth_photo
from sam_diffsr.models import ModelConfig, build_model

RATIOS = (
    "step_ratio",
    "image_speedup",
    "image_speedup_bundled",
    "image_speedup_bundled_same_networks",
    "gemm_fraction",
    "conv_fraction",
)


def counted_by_hand(model, xt: torch.Tensor, condition) -> int:
    """Twice the multiply-adds of every convolution and linear layer, from the shapes that go through them."""
    total = 0

    def count(layer, inputs, output) -> None:
        nonlocal total
        if isinstance(layer, torch.nn.ConvTranspose2d):
            pixels = inputs[0].shape[-2] * inputs[0].shape[-1]
            total += 2 * pixels * layer.weight.numel()
        elif isinstance(layer, torch.nn.Conv2d):
            total += 2 * output.shape[-2] * output.shape[-1] * layer.weight.numel()
        elif isinstance(layer, torch.nn.Linear):
            total += 2 * layer.weight.numel()

    hooks = [layer.register_forward_hook(count) for layer in model.denoiser.modules()]
    model(xt, torch.zeros(1, dtype=torch.int64), condition)
    for hook in hooks:
        hook.remove()
    return total


def test_flops_are_those_counted_by_hand(resolver) -> None:
    model = build_model(resolver.config.model)
    with torch.no_grad():
        condition = model.encode(torch.rand(1, 3, 8, 8))
        expected = counted_by_hand(model, torch.rand(1, 3, 32, 32), condition)
    assert step_flops(resolver.config.model, size=8) == expected


def test_flops_of_the_released_architecture() -> None:
    assert step_flops(ModelConfig(), size=32) / 1e9 == pytest.approx(21.43, abs=0.01)


def test_convolutions_are_counted_and_computed_without_padding() -> None:
    config = ModelConfig()
    compute, flops = convolutions(config, size=8, device=torch.device("cpu"), dtype=torch.float32)
    assert flops == 2 * 9 * sum(
        width**2 * (32 >> level) ** 2 for level, width in enumerate(config.denoiser.channels)
    )
    with FlopCounterMode(display=False) as counter:
        compute()
    assert counter.get_total_flops() == flops


def test_tasks_take_turns_after_one_round_that_does_not_count() -> None:
    order: list[str] = []
    seconds = interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        repeats=3,
        device=torch.device("cpu"),
    )
    assert "".join(order) == "abababab"
    assert [len(values) for values in seconds.values()] == [3, 3]


@pytest.mark.parametrize("full", [False, True])
def test_result(resolver, full, monkeypatch) -> None:
    monkeypatch.setitem(timing.GEMM_SIDE, "cpu", 64)
    state = torch.get_rng_state()
    said: list[str] = []
    result = run_bench(
        resolver,
        model_name="tiny",
        size=8,
        repeats=1,
        full=full,
        memory=False,
        architecture=resolver.config.model,
        say=said.append,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(getattr(result, name) > 0 for name in RATIOS)
    assert said == ["released architecture, 8x8", "tiny, 8x8"]
    data = json.loads(json.dumps(result.to_json()))
    assert list(data)[: len(RATIOS)] == list(RATIOS)
    assert data["settings"]["reference_steps"] == 100
    assert data["settings"]["steps"] == 2
    assert ("run in full" in data["settings"]["reference_image"]) == full
    assert data["machine"]["threads"] == torch.get_num_threads()
    assert result.image_speedup == pytest.approx(
        data["seconds"]["reference_image"] / data["seconds"]["image"]
    )


@pytest.mark.parametrize("options", [{"size": 4}, {"repeats": 0}])
def test_refuses(resolver, options) -> None:
    with pytest.raises(ArgumentError, match="size must be >= 8 and repeats >= 1"):
        run_bench(resolver, model_name="tiny", **options)


def test_memory_is_that_of_a_process_of_its_own(resolver) -> None:
    use = measure_memory(resolver.config, size=16, device="cpu", dtype="fp32", threads=1)
    if resident_peak() is None:
        assert use is None
        return
    assert use is not None
    assert 50 < use.before_mb <= use.peak_mb < 3000


def test_a_process_that_fails_is_reported(resolver, caplog) -> None:
    """The rest of the benchmark is not thrown away for it."""
    assert measure_memory(resolver.config, size=16, device="nowhere", dtype="fp32", threads=1) is None
    assert "memory could not be measured in a process of its own: " in caplog.text
    assert "device must be 'auto'" in caplog.text


def test_environment_is_json_and_names_an_unknown_device() -> None:
    data = json.loads(json.dumps(describe_environment()))
    assert {"versions", "machine", "hub", "models"} <= data.keys()
    assert data["versions"]["sam-diffsr"]
    with pytest.raises(ArgumentError, match="CUDA devices"):
        describe_machine("cuda:99")


@pytest.mark.parametrize("fast", [False, True])
def test_bfloat16_is_measured_beside_float32_where_it_is_fast(resolver, fast, monkeypatch) -> None:
    monkeypatch.setitem(timing.GEMM_SIDE, "cpu", 64)
    monkeypatch.setattr(bench, "has_fast_bf16", lambda device: fast)
    model = resolver.config.model
    result = run_bench(resolver, model_name="tiny", size=8, repeats=1, memory=False, architecture=model)
    if not fast:
        assert result.bf16 is None
        return
    assert result.bf16 is not None
    assert all(result.bf16[name] > 0 for name in RATIOS[:3])
    assert 20 < result.bf16["psnr_to_fp32_db"] < 150


def test_growth_is_that_of_the_two_largest_sizes(resolver, monkeypatch) -> None:
    used = {8: 10.0, 16: 11.0, 32: 15.0}

    def fake(config, *, size, **options) -> MemoryUse:
        assert options["tile"] == 4
        assert options["max_memory"] == 2**30
        return MemoryUse(peak_mb=100 + used[size], before_mb=100.0, seconds=0.5)

    monkeypatch.setattr(memory_module, "measure_memory", fake)
    table = memory_table(
        resolver.config, model_name="tiny", sizes=[8, 16, 32], tile=4, max_memory=2**30, dtype="fp32"
    )
    data = json.loads(json.dumps(table.to_json()))
    assert [row["used_mb"] for row in data["rows"]] == [10, 11, 15]
    assert data["growth_bytes"] == pytest.approx(4 * 2**20 / (128**2 - 64**2))
    assert data["growth_beyond_canvas_bytes"] == pytest.approx(data["growth_bytes"] - 12)
    monkeypatch.setattr(memory_module, "measure_memory", lambda config, **options: None)
    assert memory_table(resolver.config, model_name="tiny", sizes=[8]).growth_bytes is None


@pytest.mark.parametrize("sizes", [[], [0], [16, 8], [8, 8]])
def test_sizes_that_do_not_grow(resolver, sizes) -> None:
    with pytest.raises(ArgumentError, match="sizes must be sides >= 1 that grow"):
        memory_table(resolver.config, model_name="tiny", sizes=sizes)


def test_a_folder_against_its_files(resolver) -> None:
    said: list[str] = []
    result = bench_folder(resolver, files=3, size=8, repeats=1, say=said.append)
    figures = result.to_json()
    for kind in ("", "mixed_"):
        assert figures[f"{kind}folder_speedup"] == pytest.approx(
            figures[f"{kind}one_by_one_seconds"] / figures[f"{kind}folder_seconds"]
        )
    settings = figures["settings"]
    assert [settings[key] for key in ("files", "size", "mixed_sizes")] == [3, "12x8", "12x8 to 15x10"]
    assert said[::2] == ["equal size, 3 files, round 0", "different sizes, 3 files, round 0"]


@pytest.mark.parametrize("options", [{"files": 0}, {"size": 7}, {"repeats": 0}])
def test_a_folder_out_of_range(resolver, options) -> None:
    with pytest.raises(ArgumentError, match="files and repeats must be >= 1 and size >= 8"):
        bench_folder(resolver, **options)


def test_what_a_folder_cannot_do_is_not_timed(resolver, monkeypatch) -> None:
    def fail(image, **options):
        raise OutputError("the disk is full")

    monkeypatch.setattr(resolver, "upscale", fail)
    with pytest.raises(OutputError, match="the disk is full"):
        bench_folder(resolver, files=1, size=8, repeats=1)


def test_start_is_what_the_command_spends_outside_of_its_image(monkeypatch) -> None:
    answers = iter(["0.01", "0.2", "a.png -> b.png (256x256, 0.0 s)"])
    monkeypatch.setattr(work_bench, "_run_python", lambda *arguments: next(answers))
    figures = bench_start(repeats=1).figures
    assert figures["import_seconds"] == 0.01
    assert figures["own_modules_seconds"] == 0.2
    assert figures["command_network_seconds"] == 0
    assert figures["command_outside_network_seconds"] > 0
    with pytest.raises(ArgumentError, match="repeats must be >= 1, got 0"):
        bench_start(repeats=0)


def test_start_says_what_went_wrong(monkeypatch) -> None:
    with pytest.raises(OutputError, match=r"(?s)failed: .*SyntaxError"):
        work_bench._import_seconds("import (", "pass")
    assert work_bench._import_seconds("", "pass") < 1
    monkeypatch.setattr(work_bench, "_run_python", lambda *arguments: "nothing")
    with pytest.raises(OutputError, match="did not say how long its image took, but: 'nothing'"):
        work_bench._command_seconds(work_bench.Path("a"), work_bench.Path("b"))


def test_a_made_up_photo_is_an_image() -> None:
    photo = smooth_photo(24, 36, seed=1)
    assert photo.shape == (24, 36, 3)
    assert photo.std() > 10
    assert (photo != smooth_photo(24, 36, seed=2)).any()


def test_tiles_are_timed_and_compared(resolver):
    said: list[str] = []
    result = bench_tiles(
        resolver, size=64, max_memory=40 * 2**20, repeats=1, halos=(8, 16), side=24, say=said.append
    ).to_json()
    assert result["tile_cost"] > 0
    assert max(result["settings"]["tile"]) < 257 > min(result["settings"]["tile"])
    narrow, wide = result["halos"]
    assert (narrow["halo"], wide["halo"]) == (8, 16)
    for kind in ("photo", "noise", "checks"):
        assert narrow[f"denoiser_{kind}"] >= wide[f"denoiser_{kind}"]
        assert narrow[f"encoder_{kind}"] > 0
    assert said[0].startswith("64x64 in tiles of ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"size, repeats, side and max_memory must be >= 1 and halos >= 0, got 0, 3, 64"),
        ({"halos": [-1]}, r"halos >= 0, got .*\[-1\]"),
        ({"size": 8}, r"an image of 8 x 8 needs no tiles in 1024 MB; give a smaller max_memory or a larger"),
    ],
)
def test_tiles_that_cannot_be_measured(resolver, options, message):
    with pytest.raises(ArgumentError, match=message):
        bench_tiles(resolver, **options)
