"""A compiled denoiser is kept only if it is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.pipeline import compiled


@pytest.fixture
def compiling(resolver, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Let ``torch.compile`` make a given function of the denoiser, which takes no time."""

    def become(function: Callable[..., Any]) -> None:
        def fake(self: torch.nn.Module, *, backend: str) -> None:
            assert backend == "inductor"
            self._compiled_call_impl = function

        monkeypatch.setattr(type(resolver.model.denoiser), "compile", fake)

    return become


@pytest.mark.parametrize(("least", "kept"), [(0.0, True), (1e9, False)])
def test_it_is_kept_where_it_is_fast_enough(resolver, compiling, monkeypatch, least, kept) -> None:
    monkeypatch.setattr(compiled, "_LEAST_SPEEDUP", least)
    denoiser, calls = resolver.model.denoiser, []

    def quick(*args: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return denoiser.forward(*args)

    compiling(quick)
    report = resolver.compile(size=16)
    assert calls
    assert report.kept is kept
    assert report.speedup is not None
    assert report.warmup_seconds > 0
    assert "times as fast" in report.reason
    before = len(calls)
    resolver.upscale_tensor(torch.rand(1, 3, 16, 16), seeds=[0])
    assert (len(calls) > before) is kept


def test_a_compiler_that_fails_leaves_everything_as_it_was(resolver, compiling) -> None:
    def fail(*args: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler here")

    compiling(fail)
    report = resolver.compile(size=16)
    assert (report.kept, report.speedup) == (False, None)
    assert report.reason == "it could not be compiled: RuntimeError: no compiler here"
    assert resolver.upscale_tensor(torch.rand(1, 3, 16, 16), seeds=[0]).shape == (1, 3, 64, 64)


@pytest.mark.slow
def test_torch_compiles_the_denoiser(resolver, monkeypatch) -> None:
    monkeypatch.setattr(compiled, "_LEAST_SPEEDUP", 0.0)
    lr = torch.rand(1, 3, 16, 16)
    before = resolver.upscale_tensor(lr, seeds=[0])
    assert resolver.compile(size=16, backend="eager").kept
    torch.testing.assert_close(resolver.upscale_tensor(lr, seeds=[0]), before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [0, -4])
def test_a_size_that_the_networks_do_not_take(resolver, size: int) -> None:
    with pytest.raises(ArgumentError, match="size must be a multiple of"):
        resolver.compile(size=size)
