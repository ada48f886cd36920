"""Sizes of the two networks; the defaults are the released architecture of SAM-DiffSR."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sam_diffsr.config import check_fields
from sam_diffsr.errors import ConfigError

Padding = Literal["zeros", "reflect"]
Scale = Literal[2, 4, 8]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """RRDB encoder of the low-resolution image (table ``model.encoder`` of config.json)."""

    blocks: int = 17
    """Residual-in-residual dense blocks; at least 2, because the denoiser sees every third, from index 2."""
    channels: int = 64
    """Feature channels between the blocks."""
    growth: int = 32
    """Channels that each inner convolution of a dense block adds."""
    padding: Padding = "zeros"
    """What the 3x3 convolutions see beyond the border: zeros (released), or the image's reflection, which
    keeps the outermost pixels right."""

    def __post_init__(self) -> None:
        check_fields(self, "encoder.", {"blocks": "[2, inf)", "channels": "[1, inf)", "growth": "[1, inf)"})

    @property
    def condition_indices(self) -> range:
        """Entries of the feature list (block outputs, then the fused trunk) that the denoiser sees."""
        return range(2, self.blocks + 1, 3)

    @property
    def receptive_field(self) -> int:
        """Radius in low-resolution pixels beyond which an input pixel cannot change a feature."""
        return 15 * self.blocks + 2  # a block has 15 convolutions in a row


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserConfig:
    """UNet that predicts the noise (table ``model.denoiser`` of config.json)."""

    dim: int = 64
    """Channels of the first level; even and at least 4, because the time embedding has as many."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Channels of each level as multiples of ``dim``; one entry per level."""

    def __post_init__(self) -> None:
        if self.dim < 4 or self.dim % 2:
            raise ConfigError(f"denoiser.dim must be even and >= 4, got {self.dim}")
        if len(self.multipliers) < 2 or min(self.multipliers) < 1:
            raise ConfigError(
                f"denoiser.multipliers must be two or more positive integers, got {self.multipliers}"
            )

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.dim * multiplier for multiplier in self.multipliers)

    @property
    def stride(self) -> int:
        """High-resolution pixels per pixel of the coarsest level; sizes must be multiples of it."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def receptive_field(self) -> int:
        """Radius in high-resolution pixels beyond which an input pixel cannot change an output pixel."""
        levels = [2**level for level in range(len(self.multipliers))]
        down = sum(4 * level for level in levels) + sum(levels[:-1])
        up = sum(5 * level for level in levels[1:])
        return down + 4 * levels[-1] + up + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Encoder and denoiser together (table ``model`` of config.json)."""

    scale: Scale = 4
    """Upscaling factor of each side."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The network that encodes the low-resolution image."""
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The network that predicts the noise."""

    def __post_init__(self) -> None:
        check_fields(self, "model.", {})

    @property
    def lr_multiple(self) -> int:
        """Low-resolution height and width must be multiples of this (pad, then crop the result)."""
        return self.denoiser.stride // math.gcd(self.denoiser.stride, self.scale)

    @property
    def lr_minimum(self) -> int:
        """Smallest low-resolution height and width; reflection needs two pixels at every level."""
        smallest = max(2 * self.denoiser.stride / self.scale, 2 if self.encoder.padding == "reflect" else 1)
        return math.ceil(smallest / self.lr_multiple) * self.lr_multiple

    def fit(self, length: int) -> int:
        """The smallest low-resolution height or width from ``length`` on that the networks accept."""
        return max(math.ceil(length / self.lr_multiple) * self.lr_multiple, self.lr_minimum)
