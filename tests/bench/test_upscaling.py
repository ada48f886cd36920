"""Ours and the reference are compared on the same networks, and operations are counted right."""

from __future__ import annotations

import json

import pytest
import torch

import sam_diffsr.bench.upscaling as upscaling
from sam_diffsr.bench import measure_image, measure_step, to_json
from sam_diffsr.bench.upscaling import _step_flops
from sam_diffsr.errors import ArgumentError
from sam_diffsr.models import ModelConfig, build_model


def test_flops_equal_those_counted_from_the_layers(resolver) -> None:
    """Twice the multiply-adds of every convolution and linear layer, from the shapes that go through them."""
    model, total = build_model(resolver.config.model), 0

    def count(layer, inputs, output) -> None:
        nonlocal total
        if isinstance(layer, torch.nn.ConvTranspose2d):
            total += 2 * inputs[0].shape[-2] * inputs[0].shape[-1] * layer.weight.numel()
        elif isinstance(layer, torch.nn.Conv2d):
            total += 2 * output.shape[-2] * output.shape[-1] * layer.weight.numel()
        elif isinstance(layer, torch.nn.Linear):
            total += 2 * layer.weight.numel()

    for layer in model.denoiser.modules():
        layer.register_forward_hook(count)
    with torch.no_grad():
        condition = model.encode(torch.rand(1, 3, 8, 8))
        total = 0
        model(torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64), condition)
    assert _step_flops(resolver.config.model, size=8) == total


def test_flops_of_the_released_architecture() -> None:
    assert _step_flops(ModelConfig(), size=32) / 1e9 == pytest.approx(21.43, abs=0.01)


@pytest.mark.usefixtures("small_reference")
def test_step(resolver) -> None:
    state = torch.get_rng_state()
    result = measure_step(resolver, size=8, repeats=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(result.figures) == ["step_ratio", "step_ratio_bundled", "gemm_fraction"]
    assert all(value is not None and value > 0 for value in result.figures.values())
    assert "released architecture" in result.text()


@pytest.mark.usefixtures("small_reference")
def test_image(resolver, monkeypatch) -> None:
    peaks = iter([200.0, 100.0])
    monkeypatch.setattr(upscaling, "run_probe", lambda resolver, *, size: {"peak_mb": next(peaks)})
    result = measure_image(resolver, size=8, repeats=1)
    data = json.loads(json.dumps(to_json([result], device="cpu")))
    seconds, settings = data["seconds"]["image"], data["settings"]["image"]
    assert (data["peak_memory_mb"], data["peak_memory_mb_bundled"]) == (200.0, 100.0)
    assert data["image_speedup"] == pytest.approx(seconds["reference_image"] / seconds["image"])
    assert data["image_speedup_bundled"] == pytest.approx(
        seconds["reference_image"] / seconds["image_bundled"]
    )
    assert data["image_speedup_bundled_same_networks"] > 0
    assert (settings["steps"], settings["reference_steps"]) == (2, 100)
    parts = seconds["reference_encoder"] + 100 * seconds["reference_step"]
    assert seconds["reference_image"] == pytest.approx(parts)


@pytest.mark.parametrize("measure", [measure_step, measure_image])
@pytest.mark.parametrize("options", [{"size": 4}, {"size": 9}, {"repeats": 0}])
def test_refuses(resolver, measure, options) -> None:
    with pytest.raises(ArgumentError, match=r"(size|repeats) must be >= (1|8)"):
        measure(resolver, **options)
