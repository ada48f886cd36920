"""First weights: the encoder interpolates, the denoiser returns its input."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sam_diffsr.models import DenoiserConfig, EncoderConfig, RRDBEncoder, UNet
from sam_diffsr.models.initial import start_from_identity, start_from_interpolation


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_start_from_interpolation_is_bilinear_enlargement(scale, padding) -> None:
    encoder = RRDBEncoder(EncoderConfig(blocks=5, channels=8, growth=4, padding=padding), scale=scale)
    start_from_interpolation(encoder)
    lr = torch.rand(2, 3, 16, 14)
    expected = lr
    for _ in encoder.upsample:
        expected = functional.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        image = encoder(lr)
    inside = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    torch.testing.assert_close(image[inside], expected[inside])


def test_a_wide_head_keeps_colours_that_a_narrow_one_rounds() -> None:
    encoder = RRDBEncoder(EncoderConfig(blocks=2, channels=8, growth=4), scale=4)
    start_from_interpolation(encoder)
    lr = torch.rand(1, 3, 8, 8) * 0.2 + 0.8  # near white bfloat16 has steps of 1 / 256
    with torch.no_grad():
        exact = encoder(lr)
        narrow = encoder.bfloat16()(lr.bfloat16()).float()
        encoder.widen_head()
        wide = encoder(lr.bfloat16())
    assert (wide - exact).square().mean() < (narrow - exact).square().mean() / 2


@pytest.mark.parametrize("multipliers", [(1, 2), (1, 1, 2), (1, 2, 3, 4)])
def test_start_from_identity_predicts_roughly_the_input(multipliers: tuple[int, ...]) -> None:
    net = UNet(DenoiserConfig(dim=12, multipliers=multipliers), condition_channels=8, scale=4)
    xt, projected = torch.randn(2, 3, 32, 32), torch.zeros(2, 12, 32, 32)
    with torch.no_grad():
        assert (net(xt, torch.tensor([5, 90]), projected) - xt).abs().mean() > 0.5
        assert start_from_identity(net)
        assert (net(xt, torch.tensor([5, 90]), projected) - xt).abs().mean() < 0.1


def test_start_from_identity_leaves_narrow_networks_alone() -> None:
    net = UNet(DenoiserConfig(dim=8), condition_channels=8, scale=4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert not start_from_identity(net)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
