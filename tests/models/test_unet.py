"""The denoiser: how far it looks, and that condition and time reach its output."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.models import DenoiserConfig, UNet


def influence_radius(net: UNet, size: int) -> int:
    """Largest distance at which moving one input pixel moves the output, in float64."""
    net = net.double()
    centre = size // 2
    xt = torch.randn(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    projected = torch.zeros(1, net.config.channels[0], size, size, dtype=torch.float64)
    net(xt, torch.tensor([2]), projected)[0, :, centre, centre].sum().backward()
    assert xt.grad is not None
    rows, columns = torch.nonzero(xt.grad[0].abs().sum(0), as_tuple=True)
    return int(max((rows - centre).abs().max(), (columns - centre).abs().max()))


@pytest.mark.parametrize(("multipliers", "size"), [((1, 2), 64), ((1, 1, 1), 192)])
def test_receptive_field_is_a_tight_bound(multipliers: tuple[int, ...], size: int) -> None:
    config = DenoiserConfig(dim=4, multipliers=multipliers)
    radius = influence_radius(UNet(config, condition_channels=4, scale=4), size)
    assert config.receptive_field - 2 * config.stride <= radius <= config.receptive_field


def test_features_are_concatenated_for_the_projection() -> None:
    net = UNet(DenoiserConfig(dim=8, multipliers=(1, 2)), condition_channels=6, scale=4)
    one, other = torch.randn(1, 2, 3, 5), torch.randn(1, 4, 3, 5)
    projected = net.project_condition([one, other])
    assert projected.shape == (1, 8, 12, 20)
    assert torch.equal(projected, net.condition_projection(torch.cat((one, other), dim=1)))


@pytest.mark.parametrize("grad", [True, False])
def test_condition_and_time_reach_the_output_and_arguments_stay(grad: bool) -> None:
    net = UNet(DenoiserConfig(dim=8, multipliers=(1, 2)), condition_channels=8, scale=4)
    arguments = (torch.randn(2, 3, 8, 12), torch.tensor([4, 9]), torch.randn(2, 8, 8, 12))
    arguments = tuple(
        value.to(memory_format=torch.channels_last) if value.ndim == 4 else value for value in arguments
    )
    kept = [value.clone() for value in arguments]
    with torch.set_grad_enabled(grad):
        base = net(*arguments)
        xt, t, projected = arguments
        assert not torch.allclose(base, net(xt, t + 1, projected))
        assert not torch.allclose(base, net(xt, t, projected + 1))
    assert all(torch.equal(value, before) for value, before in zip(arguments, kept, strict=True))
