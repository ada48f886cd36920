"""The same results on a GPU, in half precision, and with too little memory on it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sam_diffsr.pipeline import SuperResolver, tiles

pytestmark = pytest.mark.gpu


@pytest.fixture
def pair(model, config) -> tuple[SuperResolver, SuperResolver]:
    gpu = SuperResolver(copy.deepcopy(model), config, device="cuda", dtype="fp32")
    return SuperResolver(model, config, device="cpu"), gpu


def test_float32_agrees_with_the_cpu(pair):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cpu, gpu = (resolver.upscale(image, seed=3, start=30).astype(int) for resolver in pair)
    assert abs(cpu - gpu).max() <= 1


def test_auto_is_half_precision_and_near(model, config):
    lr = torch.rand(2, 3, 16, 16)
    wide = SuperResolver(copy.deepcopy(model), config, device="cpu").upscale_tensor(
        lr, seeds=[0, 1], start=30
    )
    resolver = SuperResolver(model, config)
    assert resolver.dtype == torch.float16
    narrow = resolver.upscale_tensor(lr.cuda(), seeds=[0, 1], start=30)
    assert narrow.device == resolver.device
    assert float((narrow.cpu() - wide).abs().mean()) < 0.01


def test_too_little_memory_means_tiles_in_batches(pair, monkeypatch):
    lr = torch.rand(1, 3, 48, 80, device="cuda")
    whole = pair[1].upscale_tensor(lr, seeds=[0], start=30, tile=0)
    monkeypatch.setattr(tiles, "free_memory", lambda device: 48 * 2**20)
    tiled = pair[1].upscale_tensor(lr, seeds=[0], start=30)
    torch.testing.assert_close(tiled, whole, atol=1e-3, rtol=0)
