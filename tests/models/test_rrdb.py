"""The encoder: features, image head, padding, receptive field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from sam_diffsr.models import EncoderConfig, RRDBEncoder, load_rrdbnet_checkpoint

TINY = EncoderConfig(blocks=5, channels=8, growth=4)


@pytest.mark.parametrize(("blocks", "count"), [(5, 2), (7, 2), (8, 3)])
def test_features_are_every_third_output_and_the_trunk(blocks: int, count: int) -> None:
    encoder = RRDBEncoder(dataclasses.replace(TINY, blocks=blocks), scale=4)
    outputs: list[Any] = []
    for block in encoder.trunk:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    lr = torch.rand(1, 3, 6, 9)
    with torch.no_grad():
        features, trunk = encoder.features(lr)
        expected = encoder.conv_first(lr) + encoder.trunk_conv(outputs[-1])
        assert torch.equal(encoder(lr), encoder.image(trunk))
    assert torch.equal(trunk, expected)
    assert len(features) == count
    for index, feature in zip(range(2, blocks + 1, 3), features, strict=True):
        assert torch.equal(feature, trunk if index == blocks else outputs[index])


@pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("size", [(2, 2), (5, 7)])
def test_every_convolution_pads_alike(
    padding, mode, size, tmp_path, published_rrdbnet, published_rrdbnet_weights
) -> None:
    weights = published_rrdbnet_weights(blocks=2, channels=8, growth=4)
    torch.save(weights, tmp_path / "net.pth")
    config, scale, state_dict = load_rrdbnet_checkpoint(tmp_path / "net.pth")
    encoder = RRDBEncoder(dataclasses.replace(config, padding=padding), scale=scale)
    encoder.load_state_dict(state_dict)
    lr = torch.rand(2, 3, *size)
    expected = published_rrdbnet(weights, lr, blocks=2, padding=mode)
    with torch.no_grad():
        torch.testing.assert_close(encoder(lr), expected, rtol=1e-5, atol=1e-5)
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    assert {conv.padding_mode for conv in convolutions} == {padding}


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_padding_changes_nothing_inside(padding) -> None:
    """Beyond the receptive field of the border, the borders do not matter."""
    config = dataclasses.replace(TINY, blocks=2, padding=padding)
    encoder = RRDBEncoder(config, scale=4)
    radius = config.receptive_field
    lr = torch.rand(1, 3, 2 * radius + 3, 2 * radius + 5)
    with torch.no_grad():
        whole = encoder.features(lr)[1]
        inner = encoder.features(lr[:, :, 1:, :-1])[1]
    torch.testing.assert_close(
        whole[:, :, radius + 1 : -radius, radius : -radius - 1],
        inner[:, :, radius:-radius, radius:-radius],
        rtol=1e-5,
        atol=1e-6,
    )


def test_reflection_keeps_a_flat_image_flat() -> None:
    encoder = RRDBEncoder(dataclasses.replace(TINY, padding="reflect"), scale=4)
    lr = torch.tensor([1.0, 0.2, 0.0])[None, :, None, None].expand(1, 3, 6, 8).contiguous()
    with torch.no_grad():
        image = encoder(lr)
    torch.testing.assert_close(image, image[:, :, :1, :1].expand_as(image), rtol=0, atol=1e-5)


def test_a_wide_head_after_a_narrow_trunk() -> None:
    encoder = RRDBEncoder(TINY, scale=4).bfloat16()
    encoder.widen_head()
    with torch.no_grad():
        trunk = encoder.features(torch.rand(1, 3, 8, 8).bfloat16())[1]
        assert trunk.dtype == torch.bfloat16
        assert encoder.image(trunk).dtype == torch.float32
