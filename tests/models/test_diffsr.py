"""Shapes, contracts and locality of the encoder, the denoiser and the two together."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sam_diffsr.errors import ArgumentError
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, UNet, build_model
from sam_diffsr.models.activation import mish_of_fresh, rimmed_mish
from sam_diffsr.models.layers import (
    ConvBlock,
    Downsample,
    sinusoidal_embedding,
)
from sam_diffsr.models.rims import Rimmed, inside

TINY_ENCODER = EncoderConfig(blocks=5, channels=8, growth=4)


def tiny_model(scale: int = 4, multipliers: tuple[int, ...] = (1, 2)):
    config = ModelConfig(
        scale=scale,  # type: ignore[arg-type]
        encoder=TINY_ENCODER,
        denoiser=DenoiserConfig(dim=8, multipliers=multipliers),
    )
    return build_model(config).eval()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_every_scale_gives_its_sizes(scale: int) -> None:
    model = tiny_model(scale, (1, 2, 3, 4))
    height = width = 3 * model.config.lr_minimum
    lr = torch.rand(2, 3, height, width)
    with torch.no_grad():
        condition = model.encode(lr)
        image = model.encoder_image(condition)
        xt = torch.randn(2, 3, scale * height, scale * width)
        eps = model(xt, torch.tensor([0, 7]), condition)
    assert image.shape == eps.shape == xt.shape
    assert 0.0 <= image.min() <= image.max() <= 1.0
    assert condition.projected.shape == (2, 8, scale * height, scale * width)


def test_smallest_size_runs() -> None:
    model = tiny_model(4, (1, 2, 3, 4))
    size = model.config.lr_minimum
    with torch.no_grad():
        condition = model.encode(torch.rand(1, 3, size, size))
        assert model(torch.randn(1, 3, 4 * size, 4 * size), torch.tensor([3]), condition).isfinite().all()


def test_encoder_returns_one_feature_a_block_and_the_fused_trunk() -> None:
    encoder = tiny_model().encoder
    lr = torch.rand(1, 3, 6, 9)
    with torch.no_grad():
        features = encoder.features(lr)
        assert len(features) == TINY_ENCODER.blocks + 1
        assert torch.equal(encoder(lr), encoder.image(features[-1]))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_start_from_interpolation_is_bilinear_enlargement(scale: int) -> None:
    encoder = tiny_model(scale).encoder
    encoder.start_from_interpolation()
    lr = torch.rand(2, 3, 16, 14)
    expected = lr
    for _ in encoder.upsample:
        expected = functional.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        image = encoder(lr)
    inside = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    torch.testing.assert_close(image[inside], expected[inside])


def test_the_denoiser_sees_exactly_the_chosen_features() -> None:
    model = tiny_model()
    lr = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        features = model.encoder.features(lr)
        expected = model.denoiser.project_condition([features[2], features[5]])
        assert torch.equal(model.encode(lr).projected, expected)


def test_condition_and_time_reach_the_output() -> None:
    model = tiny_model()
    with torch.no_grad():
        one, other = (model.encode(torch.rand(1, 3, 8, 8)) for _ in range(2))
        xt = torch.randn(1, 3, 32, 32)
        t = torch.tensor([4])
        base = model(xt, t, one)
        assert not torch.allclose(base, model(xt, t, other))
        assert not torch.allclose(base, model(xt, t + 1, one))


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


def test_window_of_the_condition_is_the_condition_of_the_window() -> None:
    model = tiny_model()
    with torch.no_grad():
        condition = model.encode(torch.rand(1, 3, 12, 10))
    window = condition.window(slice(8, 24), slice(0, 40))
    assert torch.equal(window.projected, condition.projected[:, :, 8:24, 0:40])
    assert torch.equal(window.trunk, condition.trunk[:, :, 2:6, 0:10])


def test_window_needs_multiples_of_the_scale() -> None:
    with torch.no_grad():
        condition = tiny_model().encode(torch.rand(1, 3, 8, 8))
    with pytest.raises(ArgumentError, match="multiples of the scale 4, got rows 2:16"):
        condition.window(slice(2, 16), slice(0, 16))
    with pytest.raises(ArgumentError, match="multiples of the scale 4"):
        condition.window(slice(None, 16), slice(0, 16))


@pytest.mark.parametrize("multipliers", [(1, 2), (1, 1, 2), (1, 2, 3, 4)])
def test_start_from_identity_predicts_roughly_the_input(multipliers: tuple[int, ...]) -> None:
    net = UNet(DenoiserConfig(dim=12, multipliers=multipliers), condition_channels=8, scale=4)
    xt, projected = torch.randn(2, 3, 32, 32), torch.zeros(2, 12, 32, 32)
    with torch.no_grad():
        assert (net(xt, torch.tensor([5, 90]), projected) - xt).abs().mean() > 0.5
        assert net.start_from_identity()
        assert (net(xt, torch.tensor([5, 90]), projected) - xt).abs().mean() < 0.1


def test_start_from_identity_leaves_networks_that_are_too_narrow_alone() -> None:
    net = UNet(DenoiserConfig(dim=8), condition_channels=8, scale=4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert not net.start_from_identity()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8)])
def test_wrong_rank_or_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=r"lr must have shape \(B, 3, h, w\)"):
        tiny_model().encode(torch.rand(shape))


@pytest.mark.parametrize("size", [(3, 8), (8, 9), (2, 8)])
def test_sizes_that_do_not_fit(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="multiples of 2 and at least 4"):
        tiny_model(4, (1, 2, 3, 4)).encode(torch.rand(1, 3, *size))


def test_sinusoidal_embedding_by_hand() -> None:
    embedding = sinusoidal_embedding(torch.tensor([0, 5]), 4)
    expected = torch.tensor([0.0, 5.0])[:, None] * torch.tensor([1.0, 1e-4])
    torch.testing.assert_close(embedding, torch.cat((expected.sin(), expected.cos()), dim=1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 8, 128, 128)])
def test_mish_in_pieces_is_mish(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x = (torch.randn(shape) * 8).contiguous(memory_format=layout)
    x[0, 0, 0, :4] = torch.tensor([-1e4, -30.0, 30.0, 1e4])
    expected = functional.mish(x)
    with torch.no_grad():
        result = mish_of_fresh(x.clone())
    assert result.is_contiguous(memory_format=layout)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=2e-6)


def test_mish_leaves_what_it_cannot_overwrite_alone() -> None:
    x = torch.randn(2, 4, 6, 6)
    kept = x.clone()
    for strided in (x[:, ::2], x[..., 1:]):
        with torch.no_grad():
            torch.testing.assert_close(mish_of_fresh(strided), functional.mish(strided))
    weights = x.clone().requires_grad_()
    mish_of_fresh(weights).sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(mish_of_fresh(x.double()), functional.mish(x.double()))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (2, 8, 160, 160)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.bfloat16, 0.04)])
def test_mish_adds_what_follows(shape, layout, dtype, atol) -> None:
    x = (torch.randn(2, 8, 160, 160) * 3).to(dtype).contiguous(memory_format=layout)
    plus = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
    expected = functional.mish(x.float()) + plus.float()
    with torch.no_grad():
        result = mish_of_fresh(x.clone(), plus=plus)
        alone = mish_of_fresh(x.clone())
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=atol)
    torch.testing.assert_close(alone.float(), functional.mish(x.float()), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("plus", ["nothing", "time", "shortcut", "rimmed shortcut"])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (160, 70)])
def test_activating_into_a_rim_and_reflecting_it_is_padding(dtype, plus, size) -> None:
    x = (torch.randn(2, 8, *size) * 3).to(dtype).contiguous(memory_format=torch.channels_last)
    addition = None if plus == "nothing" else torch.randn_like(x[:, :, :1, :1] if plus == "time" else x)
    if plus == "rimmed shortcut" and addition is not None:
        rim = Rimmed.like(x, 8)
        rim.inside.copy_(addition)
        addition = rim.inside
    with torch.no_grad():
        result = rimmed_mish(x.clone(memory_format=torch.preserve_format), plus=addition)
        expected = mish_of_fresh(x.clone(memory_format=torch.preserve_format), plus=addition)
    assert isinstance(result, Rimmed)
    assert torch.equal(inside(result), expected)
    assert torch.equal(result.reflect(), functional.pad(expected, (1, 1, 1, 1), mode="reflect"))
    assert result.whole.is_contiguous(memory_format=torch.channels_last)


def test_there_is_no_rim_where_autograd_or_the_layout_needs_plain_tensors() -> None:
    x = torch.randn(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert isinstance(rimmed_mish(x.contiguous()), torch.Tensor)
        assert isinstance(rimmed_mish(x.double()), torch.Tensor)
        assert isinstance(rimmed_mish(x[:, :, :1].clone(memory_format=torch.channels_last)), torch.Tensor)
    assert isinstance(rimmed_mish(x.clone().requires_grad_()), torch.Tensor)


@pytest.mark.parametrize("height", [16, 40])
def test_the_denoiser_with_rims_is_the_plain_one(height: int) -> None:
    """The path without autograd against the one with it, in the layout that allows rims."""
    torch.manual_seed(3)
    model = tiny_model(4, (1, 2, 3)).to(memory_format=torch.channels_last)
    xt = torch.randn(2, 3, height, 24).contiguous(memory_format=torch.channels_last)
    projected = torch.randn(2, 8, height, 24).contiguous(memory_format=torch.channels_last)
    t, kept = torch.tensor([0, 7]), projected.clone()
    plain = model.denoiser(xt, t, projected)
    with torch.no_grad():
        rims: list[bool] = []
        model.denoiser.mid1.block2.conv.register_forward_hook(lambda *args: rims.append(False))
        result = model.denoiser(xt, t, projected)
    assert not rims, "the padding convolution was used"
    torch.testing.assert_close(result, plain.detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(projected, kept)


def test_only_the_features_that_are_wanted_are_kept() -> None:
    config = ModelConfig(
        encoder=EncoderConfig(blocks=7, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=8, multipliers=(1, 2)),
    )
    model = build_model(config).eval()
    lr = torch.rand(1, 3, 8, 6)
    with torch.no_grad():
        every = model.encoder.features(lr)
        features = model.features(lr)
        assert len(every) == 8
        assert tuple(config.encoder.condition_indices) == (2, 5)
        torch.testing.assert_close(features.chosen, torch.cat((every[2], every[5]), dim=1))
        torch.testing.assert_close(features.trunk, every[-1])
        torch.testing.assert_close(model.project(features).projected, model.encode(lr).projected)
        assert torch.equal(model.encoder_image(features), model.encoder_image(model.encode(lr)))


def test_a_wide_head_behind_a_narrow_trunk() -> None:
    config = ModelConfig(
        encoder=EncoderConfig(blocks=2, channels=8, growth=4),
        denoiser=DenoiserConfig(dim=8, multipliers=(1, 2)),
    )
    model = build_model(config).eval()
    model.encoder.start_from_interpolation()
    lr = torch.rand(1, 3, 8, 8) * 0.2 + 0.8  # near white bfloat16 has steps of 1 / 256
    with torch.no_grad():
        exact = model.encoder_image(model.encode(lr))
        model.bfloat16()
        narrow = model.encoder_image(model.encode(lr.bfloat16())).float()
        model.encoder.widen_head()
        wide = model.encoder_image(model.encode(lr.bfloat16()))
    assert wide.dtype == torch.float32
    assert (wide - exact).square().mean() < (narrow - exact).square().mean() / 2


def test_padding_reflects() -> None:
    x = torch.randn(1, 4, 6, 6)
    for block, activation in ((ConvBlock(4, 5), functional.mish), (Downsample(4), lambda y: y)):
        conv = block.conv
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        plain = functional.conv2d(padded, conv.weight, conv.bias, stride=conv.stride)
        torch.testing.assert_close(block(x), activation(plain))
