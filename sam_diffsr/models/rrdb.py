"""RRDB encoder of the low-resolution image (ESRGAN, arXiv 1809.00219), as SRDiff conditions on it.

Shape legend: B batch, C feature channels, h w low resolution, s scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sam_diffsr.models.config import EncoderConfig, Padding, Scale

_RESIDUAL_WEIGHT = 0.2


def _activate(x: Tensor) -> Tensor:
    """LeakyReLU in place; only for the result of a convolution, which has no other user."""
    return functional.leaky_relu(x, 0.2, inplace=True)


class DenseBlock(nn.Module):
    """Five convolutions, each seeing the input and all earlier outputs; scaled residual around them."""

    def __init__(self, channels: int, growth: int, padding: Padding) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            _conv3x3(channels + index * growth, growth if index < 4 else channels, padding)
            for index in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat((seen, _activate(conv(seen))), dim=1)
        return torch.add(x, self.convs[-1](seen), alpha=_RESIDUAL_WEIGHT)


class RRDB(nn.Module):
    """Residual in residual dense block: three dense blocks and a scaled residual around them."""

    def __init__(self, channels: int, growth: int, padding: Padding) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(channels, growth, padding) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        return torch.add(x, self.dense(x), alpha=_RESIDUAL_WEIGHT)


class RRDBEncoder(nn.Module):
    """Features of the low-resolution image for the denoiser, and the encoder's own super-resolved image.

    Stage 1 trains the image; at inference the image head runs only if its image is needed.
    """

    def __init__(self, config: EncoderConfig, *, scale: Scale) -> None:
        super().__init__()
        self.config = config
        channels, padding = config.channels, config.padding
        self.conv_first = _conv3x3(3, channels, padding)
        self.trunk = nn.ModuleList(RRDB(channels, config.growth, padding) for _ in range(config.blocks))
        self.trunk_conv = _conv3x3(channels, channels, padding)
        # The image head: one doubling per upsample convolution.
        self.upsample = nn.ModuleList(
            _conv3x3(channels, channels, padding) for _ in range(round(math.log2(scale)))
        )
        self.conv_hr = _conv3x3(channels, channels, padding)
        self.conv_last = _conv3x3(channels, 3, padding)

    def features(self, lr: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features for the denoiser (those of ``config.condition_indices``) and the fused trunk.

        ``lr`` is ``(B, 3, h, w)`` in [0, 1]; every feature is ``(B, C, h, w)``.
        """
        indices = self.config.condition_indices
        x = first = self.conv_first(lr)
        chosen: list[Tensor] = []
        for index, block in enumerate(self.trunk):
            x = block(x)
            if index in indices:
                chosen.append(x)
        trunk = first + self.trunk_conv(x)
        return [*chosen, trunk] if len(self.trunk) in indices else chosen, trunk

    def image(self, trunk: Tensor) -> Tensor:
        """Super-resolved image ``(B, 3, s*h, s*w)`` from the fused trunk, nominally in [0, 1]."""
        x = trunk.to(self.conv_last.weight.dtype)
        for conv in self.upsample:
            x = _activate(conv(functional.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(_activate(self.conv_hr(x)))

    def widen_head(self) -> None:
        """Compute the image head in float32 after a trunk of a narrower type.

        The colours pass through the head directly, and bfloat16 has only 256 levels near white.
        """
        for module in (*self.upsample, self.conv_hr, self.conv_last):
            module.float()

    def forward(self, lr: Tensor) -> Tensor:
        """``(B, 3, h, w)`` in [0, 1] to the unclamped image ``(B, 3, s*h, s*w)``; the network of stage 1."""
        return self.image(self.features(lr)[1])


def _conv3x3(in_channels: int, out_channels: int, padding: Padding) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode=padding)
