"""LPIPS as a loss agrees with LPIPS as a score, has gradients and needs no half precision."""

from __future__ import annotations

import warnings

import pytest
import torch

from sam_diffsr.evaluation.perceptual import lpips_loss


def test_lpips_loss_is_the_networks_own_value_for_each_pair() -> None:
    lpips = pytest.importorskip("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    loss = lpips_loss(network=network)
    generator = torch.Generator().manual_seed(0)
    sr, hr = (torch.rand(2, 3, 40, 36, generator=generator) * 2 - 1 for _ in range(2))
    sr.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        values = loss(sr, hr)
    assert values.shape == (2,)
    assert values.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(values.detach(), network(sr, hr).flatten())
    values.sum().backward()
    assert sr.grad is not None
    assert float(sr.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in network.parameters())
