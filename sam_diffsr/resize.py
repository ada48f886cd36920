"""MATLAB-compatible bicubic resizing (cubic with a = -0.5, antialiased when shrinking, symmetric edges).

The degradation and the ``up`` of the residual in the paper (section 3) are both this function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from sam_diffsr.errors import ArgumentError, ImageError

__all__ = ["imresize"]

_FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SUPPORT = 4.0
"""Width of the cubic kernel, in input pixels when enlarging."""

Taps = tuple[tuple[Tensor, Tensor], ...]
"""For each tap of the kernel: int64 source index and weight of every output position."""


def imresize(
    image: Tensor, scale: float | None = None, *, size: tuple[int, int] | None = None, wrap: bool = False
) -> Tensor:
    """Resize the last two dimensions as MATLAB's ``imresize(image, scale, "bicubic")`` does.

    Differentiable for floating types, which are not clipped: the cubic overshoots at edges.

    Args:
        image: ``(..., H, W)`` with H, W >= 1, on any device, of any range. uint8, float16, bfloat16, float32
            or float64; the half types are computed in float32, uint8 in float64 (float32 on MPS).
        scale: one factor > 0 for both dimensions. The output is ``(ceil(H * scale), ceil(W * scale))``.
        size: output ``(height, width)`` instead of ``scale``; each dimension then has its own factor.
        wrap: beyond each border lies the opposite one, as in a seamless texture, and not the mirrored image.

    Returns:
        ``(..., H', W')`` of the same dtype on the same device; uint8 is rounded and clipped.

    Raises:
        ArgumentError: neither or both of ``scale`` and ``size`` are given, or one is out of range.
        ImageError: no tensor, fewer than two dimensions, an empty image, or another dtype.
    """
    if not isinstance(image, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ImageError(f"imresize takes a tensor, got {type(image).__name__}; use torch.from_numpy")
    if image.ndim < 2 or image.numel() == 0:
        raise ImageError(
            f"imresize needs an image (..., H, W) of at least one pixel, got shape {tuple(image.shape)}"
        )
    if image.dtype != torch.uint8 and image.dtype not in _FLOAT_TYPES:
        raise ImageError(
            f"imresize takes uint8, float16, bfloat16, float32 or float64, got {image.dtype}; "
            "convert the image to a floating type first"
        )
    factors, target = _plan(tuple(image.shape[-2:]), scale, size)
    exact = image.dtype == torch.float64 or (image.dtype == torch.uint8 and image.device.type != "mps")
    result = image.to(torch.float64 if exact else torch.float32)
    # The dimension that shrinks more goes first: fewer pixels are left for the second pass.
    for axis in sorted((0, 1), key=lambda axis: factors[axis]):
        taps = _taps(image.shape[axis - 2], target[axis], factors[axis], wrap, result.dtype, result.device)
        result = _resize_axis(result, axis - 2, taps)
        if image.dtype == torch.uint8:  # as MATLAB, which keeps the image's class between the passes
            result = result.round().clamp(0, 255)
    return result.to(image.dtype)


def _plan(
    source: tuple[int, ...], scale: float | None, size: tuple[int, int] | None
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Give the factor and the output length of both dimensions."""
    if (scale is None) == (size is None):
        given = "neither" if scale is None else "both"
        raise ArgumentError(f"imresize needs either scale or size=(height, width), got {given}")
    height, width = source
    if scale is not None:
        factor = float(scale)
        if not (math.isfinite(factor) and factor > 0):
            raise ArgumentError(f"imresize needs a finite scale > 0, got {scale}")
        return (factor, factor), (math.ceil(height * factor), math.ceil(width * factor))
    if not (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(hasattr(n, "__index__") and n >= 1 for n in size)
    ):
        raise ArgumentError(f"imresize needs size=(height, width), two whole numbers >= 1, got {size!r}")
    target = (int(size[0]), int(size[1]))
    return (target[0] / height, target[1] / width), target


def _resize_axis(image: Tensor, axis: int, taps: Taps) -> Tensor:
    """Sum the taps along one axis (-2 or -1); rows are gathered whole, which is why -1 is transposed."""
    if axis == -1:
        return _resize_axis(image.mT.contiguous(), -2, taps).mT.contiguous()
    (first, weight), *others = taps
    result = image.index_select(-2, first) * weight
    for index, weight in others:
        result = torch.addcmul(result, image.index_select(-2, index), weight)
    return result


@lru_cache(maxsize=256)
def _taps(
    source: int, target: int, factor: float, wrap: bool, dtype: torch.dtype, device: torch.device
) -> Taps:
    """Compute one axis' gather tables in float64 on the CPU and move them to ``device``.

    Taps whose weight is zero everywhere are left out, so a factor of 1 is one exact copy.
    """
    # Tables made under inference_mode could not take part in a later training step.
    with torch.inference_mode(False), torch.no_grad():
        stretch = min(factor, 1.0)  # antialiasing: the kernel widens by 1 / factor when shrinking
        support = _SUPPORT / stretch
        centre = (torch.arange(target, dtype=torch.float64, device="cpu") + 0.5) / factor - 0.5
        first = torch.floor(centre - support / 2).to(torch.int64)
        index = first[:, None] + torch.arange(math.ceil(support) + 2, device="cpu")
        weight = _cubic((centre[:, None] - index) * stretch)
        weight = weight / weight.sum(dim=1, keepdim=True)
        if wrap:
            index = index.remainder(source)
        else:  # symmetric edges: the image, then its mirror, repeated
            index = index.remainder(2 * source)
            index = torch.minimum(index, 2 * source - 1 - index)
        used = [tap for tap in range(weight.shape[1]) if bool((weight[:, tap] != 0).any())]
        weight = weight.to(device=device, dtype=dtype)
        index = index.to(device)
        return tuple((index[:, tap].contiguous(), weight[:, tap, None].contiguous()) for tap in used)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5, for any real ``x``."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
