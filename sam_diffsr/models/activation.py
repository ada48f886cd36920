"""Mish, computed some lines at a time in the cache, where nobody needs its gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.models.rims import MaybeRimmed, Rimmed

__all__ = [
    "cache_elements",
    "images_of",
    "lines_of",
    "mish_of_fresh",
    "mish_of_piece",
    "rimmed_mish",
    "writes_in_place",
]

_CACHE_ELEMENTS = 131072
"""Values that a CPU thread computes at a time: they and their scratch stay in its cache between the
operations, and there are few enough pieces that threads seldom wait for each other."""
_LEAST_TO_REFLECT = 2
"""Pixels that a side needs for a rim of one."""


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
    height, *line = images.shape[1:]
    lines = max(1, min(height, cache_elements() // math.prod(line)))
    scratch = torch.empty((lines, *line))
    wide = torch.empty((lines, *line)) if narrow else scratch
    for image, result, addition in zip(images, results, images_of(plus, len(images)), strict=True):
        for first in range(0, height, lines):
            piece, target = image[first : first + lines], result[first : first + lines]
            e, value = scratch[: len(piece)], piece
            if narrow:
                value = wide[: len(piece)].copy_(piece)
            part = lines_of(addition, slice(first, first + lines))
            mish_of_piece(value, e, part, value if narrow else target)
            if narrow:
                target.copy_(value)


def mish_of_piece(value: Tensor, scratch: Tensor, plus: Tensor | None, out: Tensor) -> None:
    """Mish of a piece that fits into the cache, in float32, plus another one.

    Args:
        value: any shape; its content is lost.
        scratch: like ``value``.
        plus: what is added after the activation, or None; broadcast.
        out: may be ``value``.
    """
    torch.exp(value, out=scratch)
    scratch.add_(1).square_().add_(1)
    torch.addcdiv(value, value, scratch, value=-2, out=out if plus is None else value)
    if plus is not None:
        torch.add(value, plus, out=out)


def lines_of(image: Tensor | None, rows: slice) -> Tensor | None:
    """Lines of ``(H, W, C)``; ``(1, 1, C)``, which is meant for all lines, as it is."""
    return image if image is None or len(image) == 1 else image[rows]


def images_of(x: Tensor | None, batch: int) -> list[Tensor | None]:
    """The images ``(H, W, C)`` of a tensor ``(B, C, H, W)`` as views, or a None for each."""
    return [None] * batch if x is None else [*x.permute(0, 2, 3, 1)]


def cache_elements() -> int:
    """Values that are computed at a time, by all threads together."""
    return _CACHE_ELEMENTS * torch.get_num_threads()
