"""Three flaws that a person sees and a mean error hides: ringing at edges, grain, and shifted colours.

Each is one number an image, in levels of 255. Luma is BT.601 in full range here (0..255): that of ``metrics``
without its offset, 255 / 219 times as large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.evaluation.metrics import LUMA_OFFSET, check_pair, inside, luma

__all__ = ["colour_shift", "grain", "ringing"]

_STEEP = 60.0
"""Levels between neighbours that make an edge strong."""
_NEAR_EDGE = 8
_RINGING_RADIUS = 4
_FLAT = 8.0
_FLAT_RADIUS = 8
_GRAIN_WINDOW = 5
_TIE = 1e-6
"""Levels that rounding may put between equal numbers."""
_FEWEST = 500
"""Pixels below which a mean would be chance."""


def ringing(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Overshoot at strong edges: how far luma goes beyond all that the truth has nearby; lower is better.

    For each pixel, by how much luma is above the highest or below the lowest luma of the truth in the 9 x 9
    pixels around it; the mean over the pixels near a strong edge. A strong edge is where luma of the truth
    differs by more than 60 levels within 3 x 3 pixels, near is at most 8 steps to the side, up or down.
    Blur scores 0, and so does the truth itself.

    Args:
        sr: ``(B, 3, H, W)`` RGB in [0, ``data_range``].
        hr: the ground truth, same shape.
        border: pixels on every side that are no part of the mean; neighbourhoods reach into it.
        data_range: the value of full brightness, 1 for float images and 255 for 8-bit ones.

    Returns:
        ``(B,)`` float64 >= 0 in levels of 255; NaN for an image with fewer than 500 pixels near such an edge.

    Raises:
        ArgumentError: shapes differ, wrong rank or channels, or the border leaves nothing over.
    """
    check_pair(sr, hr, border=border, data_range=data_range)
    ours, truth = _levels(sr, data_range=data_range), _levels(hr, data_range=data_range)
    highest, lowest = _highest(truth, _RINGING_RADIUS), _lowest(truth, _RINGING_RADIUS)
    beyond = (ours - highest).clamp_min(0) + (lowest - ours).clamp_min(0)
    near = (_highest(truth, 1) - _lowest(truth, 1) > _STEEP + _TIE).to(torch.float64)
    for _ in range(_NEAR_EDGE):
        near = torch.maximum(_highest(near, (1, 0)), _highest(near, (0, 1)))
    return _each(torch.mean, beyond, near > 0, border=border)


def grain(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Deviation of luma from its local mean where the truth is flat: skies, walls, blurred backgrounds.

    The local mean is over the 5 x 5 pixels around, as far as they lie in the image; the deviation is the
    standard one over all flat pixels together. Flat is where luma of the truth stays within 8 levels in
    the 17 x 17 pixels around. White noise of deviation s scores s times the root of 24/25.

    Neither high nor low is better: compare with the truth's own, ``grain(hr, hr)``. More is grain that was
    added, less is grain that was smoothed away.

    Args:
        sr: ``(B, 3, H, W)`` RGB in [0, ``data_range``].
        hr: the ground truth, same shape.
        border: pixels on every side that do not count; neighbourhoods reach into it.
        data_range: the value of full brightness, 1 for float images and 255 for 8-bit ones.

    Returns:
        ``(B,)`` float64 >= 0 in levels of 255; NaN for an image with fewer than 500 flat pixels.

    Raises:
        ArgumentError: shapes differ, wrong rank or channels, or the border leaves nothing over.
    """
    check_pair(sr, hr, border=border, data_range=data_range)
    ours, truth = _levels(sr, data_range=data_range), _levels(hr, data_range=data_range)
    mean = functional.avg_pool2d(
        ours, _GRAIN_WINDOW, stride=1, padding=_GRAIN_WINDOW // 2, count_include_pad=False
    )
    flat = _highest(truth, _FLAT_RADIUS) - _lowest(truth, _FLAT_RADIUS) < _FLAT - _TIE
    return _each(partial(torch.std, correction=0), ours - mean, flat, border=border)


def colour_shift(sr: Tensor, reference: Tensor, *, border: int, data_range: float) -> Tensor:
    """Largest difference of a channel's mean from that of a reference, over R, G and B; lower is better.

    The reference of ``evaluate`` is bicubic's enlargement of the same input, which keeps the input's colours;
    the truth may have others where inputs are given and damaged.

    Args:
        sr: ``(B, 3, H, W)`` RGB in [0, ``data_range``].
        reference: same shape.
        border: pixels to leave out on every side.
        data_range: the value of full brightness, 1 for float images and 255 for 8-bit ones.

    Returns:
        ``(B,)`` float64 >= 0 in levels of 255.

    Raises:
        ArgumentError: shapes differ, wrong rank or channels, or the border leaves nothing over.
    """
    check_pair(sr, reference, border=border, data_range=data_range)
    ours, theirs = (
        inside(image.cpu(), border).to(torch.float64).mean(dim=(-2, -1)) for image in (sr, reference)
    )
    return (ours - theirs).abs().amax(dim=1) * (255.0 / data_range)


def _levels(image: Tensor, *, data_range: float) -> Tensor:
    """Luma in 0..255, ``(B, 1, H, W)`` float64 on the CPU."""
    return (luma(image, data_range=data_range).cpu() - LUMA_OFFSET) * (255 / 219)


def _highest(image: Tensor, radius: int | tuple[int, int]) -> Tensor:
    """Largest value in the rectangle around each pixel, as far as it lies in the image."""
    rows, columns = (radius, radius) if isinstance(radius, int) else radius
    tall = functional.max_pool2d(image, (2 * rows + 1, 1), stride=1, padding=(rows, 0))
    return functional.max_pool2d(tall, (1, 2 * columns + 1), stride=1, padding=(0, columns))


def _lowest(image: Tensor, radius: int) -> Tensor:
    return -_highest(-image, radius)


def _each(reduce: Callable[[Tensor], Tensor], values: Tensor, counts: Tensor, *, border: int) -> Tensor:
    """Reduce the pixels that count to one number for each image; NaN where they are too few."""
    values, counts = inside(values, border), inside(counts, border)
    chosen = [one[which] for one, which in zip(values, counts, strict=True)]
    return torch.stack(
        [reduce(pixels) if len(pixels) >= _FEWEST else pixels.new_tensor(math.nan) for pixels in chosen]
    )
