"""RRDB encoder of the low-resolution image (ESRGAN, arXiv 1809.00219), as SRDiff conditions on it.

Shape legend: B batch, C feature channels, h w low resolution, s scale.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.config import EncoderConfig, Scale

__all__ = ["RRDB", "DenseBlock", "RRDBEncoder"]

_SLOPE = 0.2
_RESIDUAL_WEIGHT = 0.2


def _activate_fresh(x: Tensor) -> Tensor:
    """LeakyReLU of a tensor that nobody else needs."""
    return functional.leaky_relu(x, _SLOPE, inplace=True)


class DenseBlock(nn.Module):
    """Five convolutions, each seeing the input and all earlier outputs; scaled residual around them."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels + index * growth, growth if index < 4 else channels, 3, padding=1)
            for index in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat((seen, _activate_fresh(conv(seen))), dim=1)
        return torch.add(x, self.convs[-1](seen), alpha=_RESIDUAL_WEIGHT)


class RRDB(nn.Module):
    """Residual in residual dense block: three dense blocks and a scaled residual around them."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        return torch.add(x, self.dense(x), alpha=_RESIDUAL_WEIGHT)


class RRDBEncoder(nn.Module):
    """Features of the low-resolution image for the denoiser, and its own super-resolved image.

    The image head is trained in stage 1 (it is what the loss looks at) and used afterwards only when
    its image is asked for.
    """

    def __init__(self, config: EncoderConfig, *, scale: Scale) -> None:
        super().__init__()
        channels = config.channels
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.trunk = nn.ModuleList(RRDB(channels, config.growth) for _ in range(config.blocks))
        self.trunk_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(round(math.log2(scale)))
        )
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    @torch.no_grad()
    def start_from_interpolation(self) -> None:
        """Change fresh weights so that the image is the bilinearly enlarged input.

        Three channels carry the colours through the head by smoothing kernels (nearest enlargement
        followed by ``[1, 2, 1] / 4`` is bilinear, once per doubling, and the activation leaves colours in
        [0, 1] alone); the trunk adds nothing until it has learnt to. Short runs then start near
        interpolation, not at noise.
        """
        smooth = torch.tensor([0.25, 0.5, 0.25])
        copy = torch.tensor([0.0, 1.0, 0.0])
        for conv in (self.conv_first, *self.upsample, self.conv_hr, self.conv_last):
            taps = smooth if conv in [*self.upsample] else copy
            weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
            weight[:3] = 0.0
            bias[:3] = 0.0
            for colour in range(3):
                weight[colour, colour] = taps.outer(taps)
        closing = [block.convs[-1] for block in self.modules() if isinstance(block, DenseBlock)]
        for conv in (self.trunk_conv, *closing):
            conv.get_parameter("weight").mul_(0.1)
            conv.get_parameter("bias").zero_()
        self.trunk_conv.weight[:3] = 0.0

    def features(self, lr: Tensor, *, keep: Collection[int] | None = None) -> list[Tensor]:
        """Outputs of the blocks and, last, of the fused trunk.

        Args:
            lr: ``(B, 3, h, w)`` in [0, 1].
            keep: indices of the outputs that are wanted, so that the others need no memory; None for all
                ``blocks + 1``.

        Returns:
            Tensors ``(B, C, h, w)`` in order.
        """
        first = self.conv_first(lr)
        outputs: list[Tensor] = []
        x = first
        for index, block in enumerate(self.trunk):
            x = cast("Tensor", block(x))
            if keep is None or index in keep:
                outputs.append(x)
        if keep is None or len(self.trunk) in keep:
            outputs.append(first + self.trunk_conv(x))
        return outputs

    def image(self, trunk: Tensor) -> Tensor:
        """Super-resolved image from the fused trunk, not clamped.

        Args:
            trunk: ``(B, C, h, w)``, the last entry of :meth:`features`.

        Returns:
            ``(B, 3, s*h, s*w)``, nominally in [0, 1].
        """
        x = trunk.to(self.conv_last.weight.dtype)
        for conv in self.upsample:
            x = _activate_fresh(conv(functional.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(_activate_fresh(self.conv_hr(x)))

    def widen_head(self) -> None:
        """Keep the image head in float32 beside a trunk of a narrower type.

        Colours go through the head as they are, and bfloat16 has no more than 256 levels near white.
        """
        for module in (*self.upsample, self.conv_hr, self.conv_last):
            module.float()

    def forward(self, lr: Tensor) -> Tensor:
        """``(B, 3, h, w)`` in [0, 1] to the unclamped image ``(B, 3, s*h, s*w)``; the stage-1 network."""
        return self.image(self.features(lr)[-1])
