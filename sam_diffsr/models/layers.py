"""Building blocks of the denoiser: reflection-padded convolutions, Mish, sinusoidal time embedding.

No attention and no normalisation anywhere, so the network is purely convolutional: a window with a halo
of its receptive field gives exactly what the whole image gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.activation import (
    cache_elements,
    images_of,
    lines_of,
    mish_of_fresh,
    mish_of_piece,
    rimmed_mish,
    writes_in_place,
)
from sam_diffsr.models.rims import MaybeRimmed, Rimmed, inside, padded
from sam_diffsr.models.winograd import LEAST_LINES, RowFilters, convolved_lines, has_row_filters

__all__ = ["ConvBlock", "Downsample", "ResidualBlock", "TimeEmbedding", "sinusoidal_embedding"]

_SHARED_ELEMENTS = 2**21
"""Values that several threads convolve at a time, measured with two."""


def reflect_conv(conv: nn.Conv2d, x: MaybeRimmed) -> Tensor:
    """Apply a 3x3 convolution that pads by reflection."""
    if isinstance(x, Rimmed):
        return functional.conv2d(x.reflect(), conv.weight, conv.bias, conv.stride)
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


class ConvBlock(nn.Module):
    """Reflection pad, 3x3 convolution, Mish; keeps height and width (both at least 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")
        self._filters = RowFilters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConvBlock:
        """Weights that are moved or cast leave the address that the filters know them by to others."""
        self._filters.forget()
        return super()._apply(fn, recurse)

    def prepare(self) -> None:
        """Make now what is otherwise made of the weights when it is first needed."""
        if has_row_filters(self.conv):
            self._filters.of(self.conv.weight)

    def forward(self, x: MaybeRimmed, *, plus: Tensor | None = None, rim: bool = False) -> MaybeRimmed:
        """Map ``(B, in, H, W)`` to ``(B, out, H, W)``.

        Args:
            x: features.
            plus: added to the result: ``(B, out, 1, 1)``, or ``(B, out, H, W)``.
            rim: give the result a rim, if possible, because another 3x3 convolution follows.
        """
        features = inside(x)
        plain = x.whole if isinstance(x, Rimmed) else x
        if has_row_filters(self.conv) and writes_in_place(plain) and features.shape[-2] >= LEAST_LINES:
            channels = self.conv.out_channels
            result = Rimmed.like(features, channels) if rim else _like(features, channels)
            self._write_lines(padded(x), plus, inside(result))
            return result
        convolved = reflect_conv(self.conv, x)
        return rimmed_mish(convolved, plus=plus) if rim else mish_of_fresh(convolved, plus=plus)

    def _write_lines(self, x: Tensor, plus: Tensor | None, out: Tensor) -> None:
        """Convolve some lines at a time and activate them while they are at hand; ``x`` is padded."""
        filters, bias = self._filters.of(self.conv.weight), self.conv.get_parameter("bias")
        scratch = x.new_empty(0)
        for image, addition, target in zip(
            x.permute(0, 2, 3, 1), images_of(plus, len(x)), out.permute(0, 2, 3, 1), strict=True
        ):
            for first, lines in convolved_lines(image, filters, bias, elements=_piece_elements()):
                rows = slice(first, first + len(lines))
                if scratch.shape != lines.shape:
                    scratch = torch.empty_like(lines)
                mish_of_piece(lines, scratch, lines_of(addition, rows), target[rows])


def _piece_elements() -> int:
    """Values of a convolution that are computed at a time.

    For one thread what its cache holds. Several have parts of each other's work to fetch anyway, so that few
    waits for each other count for more.
    """
    elements = cache_elements()
    return elements if torch.get_num_threads() == 1 else max(elements, _SHARED_ELEMENTS)


def _like(x: Tensor, channels: int) -> Tensor:
    """Undefined values for the height and width of ``x``, channels-last."""
    batch, _, height, width = x.shape
    return x.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


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
