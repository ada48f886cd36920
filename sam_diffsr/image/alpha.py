"""Colours that transparency hides, replaced before an image is resized."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_HIDDEN_SHARE = 0.125
"""A pixel is (partly) hidden if its alpha is below this share of the largest alpha around it."""
_INVISIBLE = 0.02
"""Alpha below which a colour is taken for the background's."""
_MIXED = 0.03
"""Largest error, in [0, 1], with which an edge pixel counts as a mixture of shape and hidden colour."""
_REACH = 5
"""Side of the square, in pixels, in which the most opaque and the least opaque neighbour are looked for."""


def fill_hidden(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give hidden pixels the colour that their visible neighbours suggest.

    A network, and any resizing filter, would otherwise draw colours that nobody can see into the visible
    pixels next to them, as rims. Two kinds of pixels change: those whose alpha is (nearly) 0 compared with
    their neighbours', and edge pixels that an editor has mixed with the hidden colour behind them:
    ``colour = alpha * shape + (1 - alpha) * hidden``. All other pixels keep their colour exactly.

    Args:
        rgb: ``(1, 3, H, W)`` in [0, 1].
        alpha: ``(1, 1, H, W)`` in [0, 1].

    Returns:
        Colours of the same shape; ``rgb`` itself where nothing is hidden.
    """
    most = _largest(alpha)
    if not bool(alpha.any()):  # nothing is seen
        return rgb
    kept = (alpha / (most * _HIDDEN_SHARE).clamp(min=1e-6)).clamp(max=1.0)
    kept = torch.where(alpha < _INVISIBLE * alpha.max(), 0.0, kept)
    if bool((kept == 1).all()):
        return rgb
    # Neighbours that are seen best, and the colours behind the shape.
    shape = _spread(rgb, alpha * ((alpha >= 0.98 * most) & (kept == 1)))
    hidden = _spread(rgb, (alpha < _INVISIBLE).to(rgb))
    # Edge pixels that are a mixture of the two take the shape's colour.
    mixture = alpha * shape + (1 - alpha) * hidden
    error = (rgb - mixture).abs().amax(dim=1, keepdim=True)
    edge = (most > alpha) & (_largest(-alpha) > -_INVISIBLE)
    kept = torch.where(edge & (error < _MIXED), 0.0, kept)
    return torch.lerp(shape, rgb, kept)


def _largest(values: Tensor) -> Tensor:
    return functional.max_pool2d(values, _REACH, stride=1, padding=_REACH // 2)


def _spread(rgb: Tensor, weight: Tensor) -> Tensor:
    """Fill pixels of weight 0 with averages of the nearest blocks of 2, 4, 8, ... that have a weight."""
    seen = weight > 0
    if rgb.shape[-2:] == (1, 1) or bool(seen.all()):
        return rgb
    sums = functional.avg_pool2d(torch.cat([rgb * weight, weight], 1), 2, ceil_mode=True)
    blocks = _spread(sums[:, :3] / sums[:, 3:].clamp(min=1e-30), sums[:, 3:])
    filled = functional.interpolate(blocks, scale_factor=2, mode="nearest")
    return torch.where(seen, rgb, filled[..., : rgb.shape[-2], : rgb.shape[-1]])
