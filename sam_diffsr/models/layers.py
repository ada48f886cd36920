"""Building blocks of the denoiser: reflection-padded convolutions, Mish, sinusoidal time embedding.

No attention and no normalisation anywhere, so the network is purely convolutional: a window with a halo
of its receptive field gives exactly what the whole image gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "ConvBlock",
    "Downsample",
    "ResidualBlock",
    "TimeEmbedding",
    "mish_of_fresh",
    "sinusoidal_embedding",
]

_CACHE_ELEMENTS = 131072
"""Values that a CPU thread activates at a time: they and their scratch stay in its cache between the
operations, and there are few enough pieces that threads seldom wait for each other."""


def mish_of_fresh(x: Tensor, *, plus: Tensor | None = None) -> Tensor:
    """Mish, ``x tanh(log(1 + exp(x)))``, of a tensor that nobody else needs, plus another one.

    Without autograd in float32 or bfloat16 on a CPU it overwrites ``x`` piece by piece, computing in float32
    by ``tanh(log(1 + e)) = 1 - 2 / ((1 + e)^2 + 1)``, which is right where the square overflows, too: no new
    memory, seven times as fast as torch's own.

    Args:
        x: any shape and floating type; its content is lost.
        plus: what is added after the activation: ``(B, C, 1, 1)``, or like ``x``.

    Returns:
        The same shape and type.
    """
    narrow = x.dtype == torch.bfloat16
    fast = x.device.type == "cpu" and (narrow or x.dtype == torch.float32) and not torch.is_grad_enabled()
    if (
        torch.compiler.is_compiling()
        or not fast
        or x.ndim != 4
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        activated = functional.mish(x)
        return activated if plus is None else activated.add_(plus)
    images = x.permute(0, 2, 3, 1).flatten(1, 2)
    additions = [None] * len(images) if plus is None else [*plus.permute(0, 2, 3, 1).flatten(1, 2)]
    rows = max(1, _CACHE_ELEMENTS * torch.get_num_threads() // x.shape[1])
    shape = (min(rows, images.shape[1]), x.shape[1])
    scratch = torch.empty(shape)
    wide = torch.empty(shape) if narrow else scratch
    for image, addition in zip(images, additions, strict=True):
        for first in range(0, len(image), rows):
            piece = image[first : first + rows]
            e, value = scratch[: len(piece)], piece
            if narrow:
                value = wide[: len(piece)].copy_(piece)
            torch.exp(value, out=e)
            e.add_(1).square_().add_(1)
            torch.addcdiv(value, value, e, value=-2, out=value)
            if addition is not None:
                value.add_(addition if len(addition) == 1 else addition[first : first + rows])
            if narrow:
                piece.copy_(value)
    return x


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of ``t`` at ``dim / 2`` frequencies falling from 1 to 1/10000.

    Args:
        t: ``(B,)`` timesteps of any real dtype.
        dim: even number of features, at least 4.

    Returns:
        ``(B, dim)`` float32.
    """
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

    def forward(self, x: Tensor, *, plus: Tensor | None = None) -> Tensor:
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: features.
            plus: added to the result: ``(B, out, 1, 1)``, or ``(B, out, H, W)``.
        """
        return mish_of_fresh(self.conv(x), plus=plus)


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
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: features.
            activated_time: ``(B, time_dim)``, the time embedding after Mish (the same for all blocks).
        """
        hidden = self.block1(x, plus=self.time(activated_time)[:, :, None, None])
        return self.block2(hidden, plus=self.shortcut(x))


class Downsample(nn.Module):
    """Reflection pad and 3x3 convolution of stride 2: halves height and width (both even)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H/2, W/2)``."""
        return self.conv(x)
