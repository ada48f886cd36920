"""Blocks of the denoiser, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sam_diffsr.models.layers import ConvBlock, Downsample, ResidualBlock, TimeEmbedding, sinusoidal_embedding


def test_sinusoidal_embedding_by_hand() -> None:
    embedding = sinusoidal_embedding(torch.tensor([0, 5]), 4)
    expected = torch.tensor([0.0, 5.0])[:, None] * torch.tensor([1.0, 1e-4])
    torch.testing.assert_close(embedding, torch.cat((expected.sin(), expected.cos()), dim=1))


def test_time_embedding_has_the_dtype_of_its_weights() -> None:
    assert TimeEmbedding(8)(torch.tensor([3])).dtype == torch.float32
    assert TimeEmbedding(8).bfloat16()(torch.tensor([3])).dtype == torch.bfloat16


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_padding_reflects(layout: torch.memory_format) -> None:
    x = torch.randn(1, 4, 6, 6).contiguous(memory_format=layout)
    for block, activation in ((ConvBlock(4, 5), functional.mish), (Downsample(4), lambda y: y)):
        conv = block.conv
        padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        plain = functional.conv2d(padded, conv.weight, conv.bias, stride=conv.stride)
        torch.testing.assert_close(block(x), activation(plain))
        with torch.no_grad():
            torch.testing.assert_close(block(x), activation(plain))


@pytest.mark.parametrize("channels", [(4, 4), (4, 6)])
@pytest.mark.parametrize("grad", [True, False])
def test_a_residual_block_adds_time_and_shortcut(channels: tuple[int, int], grad: bool) -> None:
    block = ResidualBlock(*channels, 8).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels[0], 5, 7).contiguous(memory_format=torch.channels_last)
    kept, time = x.clone(), torch.randn(2, 8)
    with torch.set_grad_enabled(grad):
        hidden = block.block1(x) + block.time(time)[:, :, None, None]
        expected = block.block2(hidden) + block.shortcut(x)
        torch.testing.assert_close(block(x, time), expected)
    assert torch.equal(x, kept)
