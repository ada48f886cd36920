"""Building blocks of the denoiser: reflection-padded convolutions, Mish, sinusoidal time embedding.

No attention and no normalisation anywhere, so the network is purely convolutional: a window with a halo
of its receptive field gives exactly what the whole image gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.activation import cache_elements, lines_of, mish_of_fresh, mish_of_piece, rimmed_mish
from sam_diffsr.models.rims import MaybeRimmed, Rimmed, inside
from sam_diffsr.models.winograd import RowFilters, convolved_lines, convolves_rows

__all__ = ["ConvBlock", "Downsample", "ResidualBlock", "TimeEmbedding", "coloured", "sinusoidal_embedding"]


def reflect_conv(conv: nn.Conv2d, x: MaybeRimmed) -> Tensor:
    """Apply a 3x3 convolution that pads by reflection."""
    if isinstance(x, Rimmed):
        return functional.conv2d(x.reflect().whole, conv.weight, conv.bias, conv.stride)
    return conv(x)


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


@dataclass(frozen=True)
class Projection:
    """A 1x1 convolution that is computed some lines at a time, where what it is added to is in the cache."""

    conv: nn.Conv2d
    x: MaybeRimmed
    """With its rim filled."""
    _buffers: list[Tensor] = field(default_factory=list[Tensor])

    def whole(self) -> Tensor:
        """``(B, out, H, W)``; with the rim, which is cut off then, because a view without it would be copied."""
        if isinstance(self.x, Rimmed):
            return Rimmed((self.conv(self.x.whole),)).inside
        return self.conv(self.x)

    def lines(self, image: int, rows: slice) -> Tensor:
        """``(h, W, out)`` of an image, which the next ones overwrite."""
        parts = [part[:, :, 1:-1, 1:-1] for part in self.x.parts] if isinstance(self.x, Rimmed) else [self.x]
        weight, bias = self.conv.weight[:, :, 0, 0].t(), self.conv.get_parameter("bias")
        seen = 0
        for part in parts:
            lines = part[image].permute(1, 2, 0)[rows]
            height, width, channels = lines.shape
            shape = (height, width, len(bias))
            if not self._buffers or self._buffers[0].shape != shape:
                self._buffers[:] = [torch.empty(shape)]
            matrix = weight[seen : seen + channels].expand(height, -1, -1)
            so_far = self._buffers[0] if seen else bias.expand(shape)
            torch.baddbmm(so_far, lines, matrix, out=self._buffers[0])
            seen += channels
        return self._buffers[0]


Addition: TypeAlias = Tensor | Projection
"""What is added after an activation: ``(B, C, 1, 1)``, ``(B, C, H, W)``, or what becomes that."""


class ConvBlock(nn.Module):
    """Reflection pad, 3x3 convolution, Mish; keeps height and width (both at least 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
        self._filters = RowFilters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConvBlock:
        """Weights that are moved or cast leave their address, by which the filters know them, to others."""
        self._filters.forget()
        return super()._apply(fn, recurse)

    def forward(self, x: MaybeRimmed, *, plus: Sequence[Addition] = (), rim: bool = False) -> MaybeRimmed:
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: features.
            plus: added to the result.
            rim: give the result a rim, if possible, because another 3x3 convolution follows.
        """
        if convolves_rows(self.conv, x):
            return self._some_lines_at_a_time(x, plus, rim)
        convolved = reflect_conv(self.conv, x)
        wholes = [addition.whole() if isinstance(addition, Projection) else addition for addition in plus]
        first = wholes[0] if wholes else None
        result = rimmed_mish(convolved, plus=first) if rim else mish_of_fresh(convolved, plus=first)
        for addition in wholes[1:]:
            inside(result).add_(addition)
        return result

    def pieces(self, x: MaybeRimmed) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
        """What is convolved, before the activation, in pieces that fit into the cache.

        Yields:
            Number of the image, its lines, what they hold ``(h, W, out)``, which is valid until the next ones,
            and scratch memory like that.
        """
        parts = [part.permute(0, 2, 3, 1) for part in Rimmed.around(x).parts]  # (B, H + 2, W + 2, C)
        filters, bias = self._filters.of(self.conv), self.conv.get_parameter("bias")
        scratch = torch.empty(0)
        for image in range(len(parts[0])):
            planes = [part[image] for part in parts]
            for first, lines in convolved_lines(planes, filters, bias, cache_elements=cache_elements()):
                if scratch.shape != lines.shape:
                    scratch = torch.empty_like(lines)
                yield image, slice(first, first + len(lines)), lines, scratch

    def _some_lines_at_a_time(self, x: MaybeRimmed, plus: Sequence[Addition], rim: bool) -> MaybeRimmed:
        features = x.parts[0][:, :, 1:-1, 1:-1] if isinstance(x, Rimmed) else x
        batch, _, height, width = features.shape
        channels = self.conv.out_channels
        result: MaybeRimmed
        if rim:
            result = Rimmed.like(features, channels)
        else:
            result = torch.empty((batch, channels, height, width), memory_format=torch.channels_last)
        targets = inside(result).permute(0, 2, 3, 1)
        for image, rows, lines, scratch in self.pieces(x):
            parts = [
                addition.lines(image, rows)
                if isinstance(addition, Projection)
                else lines_of(addition[image].permute(1, 2, 0), rows)
                for addition in plus
            ]
            mish_of_piece(lines, scratch, parts, targets[image, rows])
        return result


def coloured(block: ConvBlock, conv: nn.Conv2d, x: MaybeRimmed) -> Tensor:
    """``conv(block(x))`` for a 1x1 convolution to few channels; what is between them stays in the cache."""
    if not convolves_rows(block.conv, x):
        return conv(block(x))
    features = inside(x)
    batch, _, height, width = features.shape
    result = torch.empty((batch, height, width, conv.out_channels))
    weight, bias = conv.weight[:, :, 0, 0].t(), conv.get_parameter("bias")
    for image, rows, lines, scratch in block.pieces(x):
        mish_of_piece(lines, scratch, (), lines)
        torch.addmm(bias, lines.flatten(0, 1), weight, out=result[image, rows].flatten(0, 1))
    return result.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two :class:`ConvBlock` with the time embedding added between them and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.time = nn.Linear(time_dim, out_channels)
        self.block1 = ConvBlock(in_channels, out_channels)
        self.block2 = ConvBlock(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(
        self, x: MaybeRimmed, activated_time: Tensor, *, plus: Sequence[Tensor] = (), rim: bool = False
    ) -> MaybeRimmed:
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: features.
            activated_time: ``(B, time_dim)``, the time embedding after Mish (the same for all blocks).
            plus: added to the result: ``(B, out, H, W)``.
            rim: as in :class:`ConvBlock`.
        """
        hidden = self.block1(x, plus=[self.time(activated_time)[:, :, None, None]], rim=True)
        shortcut = self.shortcut
        around = (
            inside(x) if isinstance(shortcut, nn.Identity) else Projection(cast("nn.Conv2d", shortcut), x)
        )
        return self.block2(hidden, plus=[around, *plus], rim=rim)


class Downsample(nn.Module):
    """Reflection pad and 3x3 convolution of stride 2: halves height and width (both even)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, padding_mode="reflect")

    def forward(self, x: MaybeRimmed) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H/2, W/2)``."""
        return reflect_conv(self.conv, x)
