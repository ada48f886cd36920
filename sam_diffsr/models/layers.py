"""Building blocks of the denoiser: reflection-padded convolutions, Mish, sinusoidal time embedding.

No attention and no normalisation anywhere, so the network is purely convolutional: a window with a halo
of its receptive field gives exactly what the whole image gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.winograd import RowFilters, convolved_lines

__all__ = [
    "ConvBlock",
    "Downsample",
    "MaybeRimmed",
    "ResidualBlock",
    "Rimmed",
    "TimeEmbedding",
    "inside",
    "joined",
    "mish_of_fresh",
    "rimmed_mish",
    "sinusoidal_embedding",
]

_CACHE_ELEMENTS = 131072
"""Values that a CPU thread activates at a time: they and their scratch stay in its cache between the
operations, and there are few enough pieces that threads seldom wait for each other."""
_LEAST_CHANNELS = 48
_LEAST_LINES = 4
_LEAST_TO_REFLECT = 2
"""Pixels that a side needs for a rim of one."""


@dataclass(frozen=True, slots=True)
class Rimmed:
    """Features with room for the reflection padding of the convolution that follows.

    Padding is otherwise a copy of everything for the sake of one pixel around it. Only where
    :func:`writes_in_place` says so; training and other devices have plain tensors.
    """

    whole: Tensor
    """``(B, C, H + 2, W + 2)``, channels-last; its rim is undefined until :meth:`reflect`."""

    @classmethod
    def like(cls, x: Tensor, channels: int) -> Rimmed:
        """Undefined values for the height and width of ``x``."""
        batch, _, height, width = x.shape
        shape = (batch, channels, height + 2, width + 2)
        whole = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        return cls(whole)

    @property
    def inside(self) -> Tensor:
        """The features ``(B, C, H, W)``, a view."""
        return self.whole[:, :, 1:-1, 1:-1]

    def reflect(self) -> Tensor:
        """Fill the rim from the inside, and give ``whole``."""
        whole = self.whole
        whole[:, :, 0], whole[:, :, -1] = whole[:, :, 2], whole[:, :, -3]
        whole[:, :, :, 0], whole[:, :, :, -1] = whole[:, :, :, 2], whole[:, :, :, -3]
        return whole


MaybeRimmed: TypeAlias = Tensor | Rimmed
"""What the blocks hand on."""


def inside(x: MaybeRimmed) -> Tensor:
    """The features themselves, ``(B, C, H, W)``."""
    return x.inside if isinstance(x, Rimmed) else x


def joined(first: Tensor, second: MaybeRimmed) -> MaybeRimmed:
    """Concatenate along the channels."""
    if not isinstance(second, Rimmed):
        return torch.cat((first, second), dim=1)
    channels = first.shape[1]
    both = Rimmed.like(first, channels + second.whole.shape[1])
    both.inside[:, :channels] = first
    both.inside[:, channels:] = second.inside
    return both


def reflect_conv(conv: nn.Conv2d, x: MaybeRimmed) -> Tensor:
    """Apply a 3x3 convolution that pads by reflection."""
    if isinstance(x, Rimmed):
        return functional.conv2d(x.reflect(), conv.weight, conv.bias, conv.stride)
    return conv(x)


def writes_in_place(x: Tensor) -> bool:
    """Whether activations may be computed piece by piece in given memory.

    So in float32 or bfloat16 and channels-last on a CPU, without autograd and compiler.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def mish_of_fresh(x: Tensor, *, plus: Tensor | None = None) -> Tensor:
    """Mish, ``x tanh(log(1 + exp(x)))``, of a tensor that nobody else needs, plus another one.

    Where :func:`writes_in_place` it overwrites ``x`` piece by piece, computing in float32 by
    ``tanh(log(1 + e)) = 1 - 2 / ((1 + e)^2 + 1)``, which is right where the square overflows, too: no new
    memory, seven times as fast as torch's own.

    Args:
        x: any shape and floating type; its content is lost.
        plus: what is added after the activation: ``(B, C, 1, 1)``, or like ``x``.

    Returns:
        The same shape and type.
    """
    if writes_in_place(x):
        _mish_in_pieces(x, plus, x)
        return x
    activated = functional.mish(x)
    return activated if plus is None else activated.add_(plus)


def rimmed_mish(x: Tensor, *, plus: Tensor | None = None) -> MaybeRimmed:
    """:func:`mish_of_fresh` with a rim for the next convolution, where that can be had for nothing."""
    if not writes_in_place(x) or min(x.shape[-2:]) < _LEAST_TO_REFLECT:
        return mish_of_fresh(x, plus=plus)
    result = Rimmed.like(x, x.shape[1])
    _mish_in_pieces(x, plus, result.inside)
    return result


def _mish_in_pieces(x: Tensor, plus: Tensor | None, out: Tensor) -> None:
    """Some lines of an image at a time, from ``x``, which is overwritten, to ``out``, which may be ``x``."""
    narrow = x.dtype == torch.bfloat16
    images, results = x.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1)  # (B, H, W, C)
    additions = [None] * len(images) if plus is None else [*plus.permute(0, 2, 3, 1)]
    height, *line = images.shape[1:]
    lines = max(1, min(height, _CACHE_ELEMENTS * torch.get_num_threads() // math.prod(line)))
    scratch = torch.empty((lines, *line))
    wide = torch.empty((lines, *line)) if narrow else scratch
    for image, result, addition in zip(images, results, additions, strict=True):
        for first in range(0, height, lines):
            piece, target = image[first : first + lines], result[first : first + lines]
            e, value = scratch[: len(piece)], piece
            if narrow:
                value = wide[: len(piece)].copy_(piece)
            part = addition if addition is None or len(addition) == 1 else addition[first : first + lines]
            _mish_of_piece(value, e, part, value if narrow else target)
            if narrow:
                target.copy_(value)


def _mish_of_piece(value: Tensor, scratch: Tensor, plus: Tensor | None, out: Tensor) -> None:
    """From ``value``, which is overwritten, to ``out``, which may be ``value``; all small and float32."""
    torch.exp(value, out=scratch)
    scratch.add_(1).square_().add_(1)
    torch.addcdiv(value, value, scratch, value=-2, out=out if plus is None else value)
    if plus is not None:
        torch.add(value, plus, out=out)


def filters_rows(conv: nn.Conv2d, x: MaybeRimmed) -> bool:
    """Whether :mod:`~sam_diffsr.models.winograd` can convolve this, and is faster at it."""
    features = x.whole if isinstance(x, Rimmed) else x
    height = features.shape[-2] - 2 * isinstance(x, Rimmed)
    return (
        writes_in_place(features)
        and features.dtype == conv.weight.dtype == torch.float32
        and min(conv.in_channels, conv.out_channels) >= _LEAST_CHANNELS
        and height >= _LEAST_LINES
        and torch.backends.mkl.is_available()
        and torch.get_float32_matmul_precision() == "highest"
        and not conv.weight.is_inference()
    )


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

        self.row_filters = RowFilters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConvBlock:
        """Weights that move or are cast take their filters' place and leave their address to others."""
        self.row_filters.forget()
        return super()._apply(fn, recurse)

    def forward(self, x: MaybeRimmed, *, plus: Tensor | None = None, rim: bool = False) -> MaybeRimmed:
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: features.
            plus: added to the result: ``(B, out, 1, 1)``, or ``(B, out, H, W)``.
            rim: give the result a rim, if possible, because another 3x3 convolution follows.
        """
        if filters_rows(self.conv, x):
            return self._by_row_filters(x, plus, rim)
        convolved = reflect_conv(self.conv, x)
        return rimmed_mish(convolved, plus=plus) if rim else mish_of_fresh(convolved, plus=plus)


    def _by_row_filters(self, x: MaybeRimmed, plus: Tensor | None, rim: bool) -> MaybeRimmed:
        """The same some lines at a time: what is convolved is activated before it leaves the cache."""
        whole = x.reflect() if isinstance(x, Rimmed) else functional.pad(x, (1, 1, 1, 1), mode="reflect")
        images = whole.permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C)
        filters, bias = self.row_filters.of(self.conv), self.conv.get_parameter("bias")
        result = Rimmed.like(inside(x), self.conv.out_channels)
        result = result if rim else torch.empty_like(result.inside, memory_format=torch.channels_last)
        additions = [None] * len(images) if plus is None else [*plus.permute(0, 2, 3, 1)]
        cache = _CACHE_ELEMENTS * torch.get_num_threads()
        scratch = whole.new_empty(0)
        for image, target, addition in zip(images, inside(result).permute(0, 2, 3, 1), additions, strict=True):
            for first, lines in convolved_lines(image, filters, bias, cache_elements=cache):
                if scratch.shape != lines.shape:
                    scratch = torch.empty_like(lines)
                rows = slice(first, first + len(lines))
                part = addition if addition is None or len(addition) == 1 else addition[rows]
                _mish_of_piece(lines, scratch, part, target[rows])
        return result


class ResidualBlock(nn.Module):
    """Two :class:`ConvBlock` with the time embedding added between them and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, time_dim: int) -> None:
        super().__init__()
        self.time = nn.Linear(time_dim, out_channels)
        self.block1 = ConvBlock(in_channels, out_channels)
        self.block2 = ConvBlock(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: MaybeRimmed, activated_time: Tensor, *, rim: bool = False) -> MaybeRimmed:
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: features.
            activated_time: ``(B, time_dim)``, the time embedding after Mish (the same for all blocks).
            rim: as in :class:`ConvBlock`.
        """
        hidden = self.block1(x, plus=self.time(activated_time)[:, :, None, None], rim=True)
        # With its rim, which block1 has filled: a view without it would be copied.
        around = Rimmed(self.shortcut(x.whole)).inside if isinstance(x, Rimmed) else self.shortcut(x)
        return self.block2(hidden, plus=around, rim=rim)


class Downsample(nn.Module):
    """Reflection pad and 3x3 convolution of stride 2: halves height and width (both even)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, padding_mode="reflect")

    def forward(self, x: MaybeRimmed) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H/2, W/2)``."""
        return reflect_conv(self.conv, x)
