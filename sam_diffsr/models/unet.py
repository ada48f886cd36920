"""UNet that predicts the (modulated) noise from the noisy residual, the timestep and the condition.

Released architecture: no attention, no normalisation, reflection padding, Mish. The finest level has no
skip connection; the condition is added after its blocks.

Shape legend: B batch, H W high resolution, h w low resolution, C0 channels of the finest level.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.config import DenoiserConfig
from sam_diffsr.models.layers import ConvBlock, Downsample, ResidualBlock, TimeEmbedding

_IMAGE_CHANNELS = 3


class DownLevel(nn.Module):
    """Two residual blocks; the caller adds the condition and downsamples between levels."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int, *, last: bool) -> None:
        super().__init__()
        self.block1 = ResidualBlock(in_channels, out_channels, time_dim)
        self.block2 = ResidualBlock(out_channels, out_channels, time_dim)
        self.downsample: nn.Module = nn.Identity() if last else Downsample(out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``(B, in, H, W)`` to ``(B, out, H, W)``."""
        return self.block2(self.block1(x, time), time)


class UpLevel(nn.Module):
    """Concatenated skip, two residual blocks, transposed convolution to twice the size."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.block1 = ResidualBlock(2 * in_channels, out_channels, time_dim)
        self.block2 = ResidualBlock(out_channels, out_channels, time_dim)
        self.upsample = nn.ConvTranspose2d(out_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """Two ``(B, in, H, W)`` features to ``(B, out, 2H, 2W)``."""
        x = torch.cat((x, skip), dim=1)
        return self.upsample(self.block2(self.block1(x, time), time))


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
        last, pairs = len(channels) - 1, pairwise((_IMAGE_CHANNELS, *channels))
        self.downs = nn.ModuleList(
            DownLevel(before, after, dim, last=level == last) for level, (before, after) in enumerate(pairs)
        )
        self.mid1 = ResidualBlock(channels[-1], channels[-1], dim)
        self.mid2 = ResidualBlock(channels[-1], channels[-1], dim)
        self.ups = nn.ModuleList(
            UpLevel(channels[level], channels[level - 1], dim) for level in range(last, 0, -1)
        )
        self.final_block = ConvBlock(channels[0], channels[0])
        self.final_conv = nn.Conv2d(channels[0], _IMAGE_CHANNELS, 1)

    def project_condition(self, features: list[Tensor]) -> Tensor:
        """Encoder features ``(B, C, h, w)`` as ``(B, C0, H, W)``; independent of ``t``, so once per image."""
        return self.condition_projection(torch.cat(features, dim=1))

    def forward(self, xt: Tensor, t: Tensor, projected: Tensor) -> Tensor:
        """Predict the noise ``(B, 3, H, W)``.

        Args:
            xt: ``(B, 3, H, W)`` noisy residual.
            t: ``(B,)`` int64 timesteps, 0-based.
            projected: ``(B, C0, H, W)`` from :meth:`project_condition`.
        """
        time = functional.mish(self.time_embedding(t))
        # Down: the condition joins after the first level, whose output is not kept as a skip.
        skips: list[Tensor] = []
        x = xt
        for index, module in enumerate(self.downs):
            level = cast("DownLevel", module)
            x = level(x, time)
            if index == 0:
                x = x.add_(projected)
            else:
                skips.append(x)
            x = level.downsample(x)
        x = self.mid2(self.mid1(x, time), time)
        # Up: the coarsest level's skip first.
        for up in self.ups:
            x = up(x, skips.pop(), time)
        return self.final_conv(self.final_block(x))
