"""A compiled denoiser is kept only if it is faster."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.pipeline import compiled


@pytest.mark.parametrize(("least", "kept"), [(0.0, True), (1e9, False)])
def test_it_is_kept_where_it_is_fast_enough(resolver, monkeypatch, least: float, kept: bool) -> None:
    monkeypatch.setattr(compiled, "_LEAST_SPEEDUP", least)
    lr = torch.rand(1, 3, 16, 16)
    before = resolver.upscale_tensor(lr, seeds=[0])
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        calls.append(1)
        return graph.forward

    report = resolver.compile(size=16, backend=backend)
    assert calls
    assert report.kept is kept
    assert report.speedup is not None
    assert report.warmup_seconds > 0
    assert "times as fast" in report.reason
    assert (resolver.model.denoiser._compiled_call_impl is not None) is kept
    torch.testing.assert_close(resolver.upscale_tensor(lr, seeds=[0]), before, atol=1e-4, rtol=0)


def test_a_compiler_that_fails_leaves_everything_as_it_was(resolver) -> None:
    def backend(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler here")

    report = resolver.compile(size=16, backend=backend)
    assert (report.kept, report.speedup) == (False, None)
    assert "it could not be compiled" in report.reason
    assert "no compiler here" in report.reason
    assert resolver.upscale_tensor(torch.rand(1, 3, 16, 16), seeds=[0]).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("size", [0, 1, -4])
def test_a_size_that_the_networks_do_not_take(resolver, size: int) -> None:
    with pytest.raises(ArgumentError, match="size must be a multiple of"):
        resolver.compile(size=size)
