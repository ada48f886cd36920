"""What a machine can do at best, to compare a network with: its rate of convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.models import ModelConfig
from sam_diffsr.device import network_layout

__all__ = ["convolutions"]


def convolutions(
    model: ModelConfig, *, size: int, device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], object], int]:
    """Plain 3x3 convolutions, one of each level's width and resolution, with nothing between them.

    Args:
        model: whose denoiser has these levels.
        size: side of the low-resolution image, a multiple of ``model.lr_multiple``.
        device: where they are computed.
        dtype: their type.

    Returns:
        A function that computes all of them once, and their floating-point operations.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    flops = 0
    generator = torch.Generator().manual_seed(0)
    for level, width in enumerate(model.denoiser.channels):
        side = size * model.scale >> level
        x = torch.rand(1, width, side + 2, side + 2, generator=generator)
        weight = torch.rand(width, width, 3, 3, generator=generator)
        layout = network_layout(device)
        pairs.append(
            (
                x.to(device=device, dtype=dtype).contiguous(memory_format=layout),
                weight.to(device=device, dtype=dtype).contiguous(memory_format=layout),
            )
        )
        flops += 2 * side**2 * weight.numel()

    def compute() -> None:
        for x, weight in pairs:
            functional.conv2d(x, weight)

    return compute, flops
