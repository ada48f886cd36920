"""UNet that predicts the (modulated) noise from the noisy residual, the timestep and the condition.

Released architecture: no attention, no normalisation, reflection padding, Mish. The finest level has no
skip connection; the condition is added after its blocks.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.config import DenoiserConfig
from sam_diffsr.models.layers import ConvBlock, Downsample, ResidualBlock, TimeEmbedding
from sam_diffsr.models.rims import MaybeRimmed, inside, joined

__all__ = ["UNet"]

_IMAGE_CHANNELS = 3


class DownLevel(nn.Module):
    """Two residual blocks; the caller adds the condition and downsamples between levels."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, *, last: bool) -> None:
        super().__init__()
        self.block1 = ResidualBlock(in_channels, out_channels, time_dim)
        self.block2 = ResidualBlock(out_channels, out_channels, time_dim)
        self.downsample: nn.Module = nn.Identity() if last else Downsample(out_channels)


class UpLevel(nn.Module):
    """Concatenated skip, two residual blocks, transposed convolution to twice the size."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.block1 = ResidualBlock(2 * in_channels, out_channels, time_dim)
        self.block2 = ResidualBlock(out_channels, out_channels, time_dim)
        self.upsample = nn.ConvTranspose2d(out_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, skip: MaybeRimmed, time: Tensor) -> Tensor:
        """Two ``(B, in, H, W)`` features to ``(B, out, 2H, 2W)``."""
        return self.upsample(self.block2(self.block1(joined(x, skip), time, rim=True), time))


class UNet(nn.Module):
    """Noise predictor; sizes must be multiples of ``config.stride`` and at least twice it."""

    def __init__(self, config: DenoiserConfig, *, condition_channels: int, scale: int) -> None:
        super().__init__()
        self.config = config
        dim, channels = config.dim, config.channels
        self.time_embedding = TimeEmbedding(dim)
        self.condition_projection = nn.ConvTranspose2d(
            condition_channels, channels[0], 2 * scale, stride=scale, padding=scale // 2
        )
        last = len(channels) - 1
        self.downs = nn.ModuleList(
            DownLevel(before, after, dim, last=level == last)
            for level, (before, after) in enumerate(
                zip((_IMAGE_CHANNELS, *channels[:-1]), channels, strict=True)
            )
        )
        self.mid1 = ResidualBlock(channels[-1], channels[-1], dim)
        self.mid2 = ResidualBlock(channels[-1], channels[-1], dim)
        self.ups = nn.ModuleList(
            UpLevel(channels[level], channels[level - 1], dim) for level in range(last, 0, -1)
        )
        self.final_block = ConvBlock(channels[0], channels[0])
        self.final_conv = nn.Conv2d(channels[0], _IMAGE_CHANNELS, 1)

    def prepare(self) -> None:
        """Make now what is otherwise made of the weights in the first step (twice as large as they are)."""
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.prepare()

    @torch.no_grad()
    def start_from_identity(self) -> bool:
        """Change fresh weights so that the predicted noise is roughly the input itself.

        That is right where the input is almost all noise, and a network without a skip connection at its
        finest level spends its first thousands of steps on finding it. The colours go through the shortcuts;
        four pixels of the finest level become twelve channels of the next one and come back through its skip;
        ``mish(x) - mish(-x)``, which is close to ``1.1 x``, takes them through the last activation.

        Returns:
            False, and nothing changes, if a level has fewer than the twelve channels that this needs.
        """
        packed = 4 * _IMAGE_CHANNELS
        if min(self.config.channels) < packed:
            return False
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.block2.conv.weight.mul_(0.1)
                module.block2.conv.get_parameter("bias").zero_()
        first, second = cast("DownLevel", self.downs[0]), cast("DownLevel", self.downs[1])
        last = cast("UpLevel", self.ups[-1])
        pack = cast("Downsample", first.downsample).conv
        unpack = last.upsample
        self._copy(first.block1, channels=_IMAGE_CHANNELS, source=0)
        self._copy(second.block1, channels=packed, source=0)
        self._copy(last.block1, channels=packed, source=self.config.channels[1])
        pack.weight[:packed] = 0.0
        unpack.weight[:, :_IMAGE_CHANNELS] = 0.0
        unpack.weight[packed:, :] *= 0.1
        for pixel in range(4):
            row, column = divmod(pixel, 2)
            for colour in range(_IMAGE_CHANNELS):
                pack.weight[_IMAGE_CHANNELS * pixel + colour, colour, 1 + row, 1 + column] = 1.0
                unpack.weight[_IMAGE_CHANNELS * pixel + colour, :, 1 + row, 1 + column] = 0.0
                unpack.weight[_IMAGE_CHANNELS * pixel + colour, colour, 1 + row, 1 + column] = 1.0
        self.final_block.conv.weight[: 2 * _IMAGE_CHANNELS] = 0.0
        self.final_conv.weight.mul_(0.1)
        for colour in range(_IMAGE_CHANNELS):
            for sign in (1.0, -1.0):
                row = colour if sign > 0 else _IMAGE_CHANNELS + colour
                self.final_block.conv.weight[row, colour, 1, 1] = sign
                self.final_conv.weight[:, row] = 0.0
                self.final_conv.weight[colour, row] = sign / 1.1
        for conv in (pack, unpack, self.final_block.conv, self.final_conv):
            conv.get_parameter("bias").zero_()
        return True

    @staticmethod
    def _copy(block: ResidualBlock, *, channels: int, source: int) -> None:
        """Let a block's shortcut hand channels ``source ...`` on as its first ones."""
        shortcut = block.shortcut
        if isinstance(shortcut, nn.Identity):
            return
        weight = shortcut.get_parameter("weight")
        weight[:channels] = 0.0
        shortcut.get_parameter("bias").zero_()
        for channel in range(channels):
            weight[channel, source + channel] = 1.0

    def project_condition(self, features: list[Tensor]) -> Tensor:
        """Encoder features to the resolution of the output; independent of ``t``, so once per image.

        Args:
            features: tensors ``(B, C, h, w)`` that are concatenated along the channels.

        Returns:
            ``(B, C0, scale*h, scale*w)``, C0 the channels of the finest level.
        """
        return self.condition_projection(torch.cat(features, dim=1))

    def forward(self, xt: Tensor, t: Tensor, projected: Tensor) -> Tensor:
        """Predict the noise.

        Args:
            xt: ``(B, 3, H, W)`` noisy residual.
            t: ``(B,)`` int64 timesteps, 0-based.
            projected: ``(B, C0, H, W)`` from :meth:`project_condition`.

        Returns:
            ``(B, 3, H, W)``.
        """
        time = functional.mish(self.time_embedding(t))
        skips: list[MaybeRimmed] = []
        x: MaybeRimmed = xt
        for index, module in enumerate(self.downs):
            level = cast("DownLevel", module)
            x = level.block2(level.block1(x, time, rim=True), time, rim=True)
            if index == 0:
                inside(x).add_(projected)
            else:
                skips.append(x)
            x = level.downsample(x)
        x = self.mid2(self.mid1(x, time, rim=True), time)
        for up in self.ups:
            x = up(x, skips.pop(), time)
        return self.final_conv(self.final_block(x))
