"""Shapes and contracts of the encoder and the denoiser together."""

from __future__ import annotations

import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model, pad_to_fit


def tiny_model(scale: int = 4, multipliers: tuple[int, ...] = (1, 2), padding: str = "zeros"):
    config = ModelConfig(
        scale=scale,  # type: ignore[arg-type]
        encoder=EncoderConfig(blocks=5, channels=8, growth=4, padding=padding),  # type: ignore[arg-type]
        denoiser=DenoiserConfig(dim=8, multipliers=multipliers),
    )
    return build_model(config).eval()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_every_scale_gives_its_sizes(scale: int) -> None:
    model = tiny_model(scale, (1, 2, 3, 4))
    height, width = 2 * model.config.lr_minimum, 3 * model.config.lr_minimum
    lr = torch.rand(2, 3, height, width)
    with torch.no_grad():
        condition = model.encode(lr)
        image = model.encoder_image(condition)
        xt = torch.randn(2, 3, scale * height, scale * width)
        eps = model(xt, torch.tensor([0, 7]), condition)
    assert image.shape == eps.shape == xt.shape
    assert 0.0 <= image.min() <= image.max() <= 1.0
    assert condition.projected.shape == (2, 8, scale * height, scale * width)
    assert condition.trunk.shape == (2, 8, height, width)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("multipliers", [(1, 2), (1, 2, 3, 4)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_smallest_size_runs(scale: int, multipliers: tuple[int, ...], padding: str) -> None:
    model = tiny_model(scale, multipliers, padding)
    size = model.config.lr_minimum
    with torch.no_grad():
        condition = model.encode(torch.rand(1, 3, size, size))
        assert model.encoder_image(condition).isfinite().all()
        xt = torch.randn(1, 3, scale * size, scale * size)
        assert model(xt, torch.tensor([3]), condition).isfinite().all()


def test_the_denoiser_sees_exactly_the_chosen_features() -> None:
    model = tiny_model()
    lr = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        features, trunk = model.encoder.features(lr)
        condition = model.encode(lr)
        assert torch.equal(condition.projected, model.denoiser.project_condition(features))
        assert torch.equal(condition.trunk, trunk)
        assert torch.equal(model.encoder_image(condition), model.encoder(lr).clamp(0, 1))


def test_the_image_reaches_the_output() -> None:
    model = tiny_model()
    with torch.no_grad():
        one, other = (model.encode(torch.rand(1, 3, 8, 8)) for _ in range(2))
        xt, t = torch.randn(1, 3, 32, 32), torch.tensor([4])
        assert not torch.allclose(model(xt, t, one), model(xt, t, other))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8)])
def test_wrong_rank_or_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"lr must have shape \(B, 3, h, w\)"):
        tiny_model().encode(torch.rand(shape))


@pytest.mark.parametrize("size", [(3, 8), (8, 9), (2, 8)])
def test_sizes_that_do_not_fit(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="multiples of 2 and at least 4"):
        tiny_model(4, (1, 2, 3, 4)).encode(torch.rand(1, 3, *size))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (33, 50), (8, 8)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_padding_meets_the_networks_needs_and_keeps_the_image(size, scale):
    model = ModelConfig(scale=scale)
    lr = torch.rand(2, 3, *size)
    padded = pad_to_fit(lr, model)
    assert torch.equal(padded[:, :, : size[0], : size[1]], lr)
    for length, before in zip(padded.shape[-2:], size, strict=True):
        assert length % model.lr_multiple == 0
        assert model.lr_minimum <= length < max(model.lr_minimum + 1, before + model.lr_multiple)


def test_padding_reflects_and_then_repeats():
    lr = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    padded = pad_to_fit(lr, ModelConfig(scale=2))
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 1, 1, 1]
    assert torch.equal(padded, padded[:, :, :1].expand_as(padded))
