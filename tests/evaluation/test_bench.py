"""The benchmark counts and measures what it says."""

from __future__ import annotations

import json

import pytest
import torch

import sam_diffsr.evaluation.bench as bench
from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.bench import interleave, run_bench, step_flops
from sam_diffsr.evaluation.environment import describe_environment, describe_machine
from sam_diffsr.evaluation.memory import measure_memory, resident_peak
from sam_diffsr.models import ModelConfig, build_model

RATIOS = (
    "step_ratio",
    "image_speedup",
    "image_speedup_bundled",
    "image_speedup_bundled_same_networks",
    "gemm_fraction",
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
    monkeypatch.setitem(bench._GEMM_SIDE, "cpu", 64)
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
