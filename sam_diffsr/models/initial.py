"""First weights that let a short training start near interpolation and near the identity, not at noise."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from sam_diffsr.models.layers import Downsample, ResidualBlock
from sam_diffsr.models.rrdb import DenseBlock, RRDBEncoder
from sam_diffsr.models.unet import DownLevel, UNet, UpLevel

_COLOURS = 3


@torch.no_grad()
def start_from_interpolation(encoder: RRDBEncoder) -> None:
    """Change fresh weights so that the encoder's image is the bilinearly enlarged input.

    Three channels carry the colours through the head by smoothing kernels: nearest enlargement followed by
    ``[1, 2, 1] / 4`` is bilinear, once per doubling, and LeakyReLU keeps colours in [0, 1]. The trunk starts
    at zero in these channels.
    """
    smooth, copy = torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.0, 1.0, 0.0])
    kernels = dict.fromkeys(encoder.upsample, smooth)
    kernels |= dict.fromkeys((encoder.conv_first, encoder.conv_hr, encoder.conv_last), copy)
    for conv, taps in kernels.items():
        weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
        weight[:_COLOURS] = bias[:_COLOURS] = 0.0
        weight[range(_COLOURS), range(_COLOURS)] = taps.outer(taps)
    closing = [block.convs[-1] for block in encoder.modules() if isinstance(block, DenseBlock)]
    for conv in (encoder.trunk_conv, *closing):
        conv.get_parameter("weight").mul_(0.1)
        conv.get_parameter("bias").zero_()
    encoder.trunk_conv.weight[:_COLOURS] = 0.0


@torch.no_grad()
def start_from_identity(denoiser: UNet) -> bool:
    """Change fresh weights so that the predicted noise is roughly the input.

    That is right where the input is almost all noise, and a network without a skip connection at its finest
    level needs thousands of steps to find it. The shortcuts carry the colours. Four pixels of the finest
    level become twelve channels of the next one and come back through its skip. ``mish(x) - mish(-x)``, which
    is close to ``1.1 x``, takes them through the last activation.

    Returns:
        False, with no change, if a level has fewer than twelve channels.
    """
    packed = 4 * _COLOURS
    if min(denoiser.config.channels) < packed:
        return False
    for module in denoiser.modules():
        if isinstance(module, ResidualBlock):
            module.block2.conv.weight.mul_(0.1)
            module.block2.conv.get_parameter("bias").zero_()
    # The shortcuts carry the colours, then the packed pixels.
    first, second = cast("DownLevel", denoiser.downs[0]), cast("DownLevel", denoiser.downs[1])
    last = cast("UpLevel", denoiser.ups[-1])
    _copy_channels(first.block1, channels=_COLOURS, source=0)
    _copy_channels(second.block1, channels=packed, source=0)
    _copy_channels(last.block1, channels=packed, source=denoiser.config.channels[1])
    # Four pixels become twelve channels on the way down, and pixels again on the way up.
    pack, unpack = cast("Downsample", first.downsample).conv, last.upsample
    pack.weight[:packed] = 0.0
    unpack.weight[:, :_COLOURS] = 0.0
    unpack.weight[packed:] *= 0.1
    for channel in range(packed):
        pixel, colour = divmod(channel, _COLOURS)
        row, column = 1 + pixel // 2, 1 + pixel % 2
        unpack.weight[channel, :, row, column] = 0.0
        pack.weight[channel, colour, row, column] = unpack.weight[channel, colour, row, column] = 1.0
    # The last block computes mish(x) and mish(-x) of each colour; the last convolution subtracts them.
    final, closing = denoiser.final_block.conv, denoiser.final_conv
    final.weight[: 2 * _COLOURS] = 0.0
    closing.weight.mul_(0.1)
    closing.weight[:, : 2 * _COLOURS] = 0.0
    for colour in range(_COLOURS):
        for row, sign in ((colour, 1.0), (_COLOURS + colour, -1.0)):
            final.weight[row, colour, 1, 1] = sign
            closing.weight[colour, row] = sign / 1.1
    for conv in (pack, unpack, final, closing):
        conv.get_parameter("bias").zero_()
    return True


def _copy_channels(block: ResidualBlock, *, channels: int, source: int) -> None:
    """Let a block's shortcut copy channels ``source`` and following to its first ones."""
    if isinstance(block.shortcut, nn.Conv2d):
        block.shortcut.weight[:channels] = 0.0
        block.shortcut.weight[range(channels), range(source, source + channels)] = 1.0
        block.shortcut.get_parameter("bias").zero_()
