"""Building blocks of the denoiser: reflection-padded convolutions, Mish, sinusoidal time embedding.

There is no attention and no normalisation, so the network is purely convolutional: a tile with a halo of the
receptive field gives exactly what the whole image gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.fast import conv3x3, mish


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of ``t`` ``(B,)`` at ``dim / 2`` frequencies from 1 to 1/10000, ``(B, dim)``."""
    half = dim // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float32) / (half - 1)
    angles = t.to(torch.float32)[:, None] * torch.exp(-math.log(10000.0) * exponents)[None, :]
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class TimeEmbedding(nn.Module):
    """Timestep ``(B,)`` to features ``(B, dim)``: sinusoids, linear, Mish, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.expand = nn.Linear(dim, 4 * dim)
        self.project = nn.Linear(4 * dim, dim)

    def forward(self, t: Tensor) -> Tensor:
        """Embed int64 timesteps ``(B,)`` as ``(B, dim)`` in the dtype of the weights."""
        sinusoids = sinusoidal_embedding(t, self.dim).to(self.expand.weight.dtype)
        return self.project(functional.mish(self.expand(sinusoids)))


class ConvBlock(nn.Module):
    """Reflection pad, 3x3 convolution, Mish; keeps height and width (both at least 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W)`` to ``(B, out, H, W)``."""
        return mish(conv3x3(self.conv, x))


class ResidualBlock(nn.Module):
    """Two :class:`ConvBlock` with the time embedding added between them and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.time = nn.Linear(time_dim, out_channels)
        self.block1 = ConvBlock(in_channels, out_channels)
        self.block2 = ConvBlock(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, activated_time: Tensor) -> Tensor:
        """``(B, in, H, W)`` to ``(B, out, H, W)``; the time embedding ``(B, time_dim)`` comes after Mish."""
        hidden = self.block1(x).add_(self.time(activated_time)[:, :, None, None])
        return self.block2(hidden).add_(self.shortcut(x))


class Downsample(nn.Module):
    """Reflection pad and 3x3 convolution of stride 2: halves height and width (both even)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H/2, W/2)``."""
        return self.conv(x)
