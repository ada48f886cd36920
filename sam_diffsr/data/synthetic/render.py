"""From a drawing to pixels, on any device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sam_diffsr.data.synthetic.canvas import FINE
from sam_diffsr.data.synthetic.drawing import Drawing
from sam_diffsr.data.synthetic.textures import LEVELS, TILE

__all__ = ["render"]


@torch.no_grad()
def render(drawing: Drawing, tiles: Tensor) -> Tensor:
    """Fill the shapes, mix the colours of pixels that an edge crosses, and blur what is soft.

    Args:
        drawing: what to render.
        tiles: ``(T, 256, 256, 4)`` int8, the textures that the drawing was made for, on the device.

    Returns:
        ``(S, S, 3)`` uint8 on that device.
    """
    device = tiles.device
    words = tiles.view(torch.int32).view(-1)
    fills = torch.from_numpy(drawing.fills).to(device)
    places = torch.from_numpy(drawing.textures).to(device)
    fine = torch.from_numpy(drawing.fine.view(np.int16)).to(device)
    side = fine.shape[0] // FINE
    parts = [fine[row::FINE, column::FINE].int() & 0xFFFF for row in range(FINE) for column in range(FINE)]
    y = torch.arange(side, dtype=torch.int32, device=device)[:, None].expand(side, side).reshape(-1)
    x = torch.arange(side, dtype=torch.int32, device=device).expand(side, side).reshape(-1)
    labels = [part.reshape(-1) for part in parts]
    image = _shade(labels[0], y, x, fills, places, words)
    crossed = (labels[0] != labels[1]) | (labels[0] != labels[2]) | (labels[0] != labels[3])
    edge = crossed.nonzero()[:, 0]
    if len(edge):
        rows, columns = y[edge], x[edge]
        total = sum(_shade(part[edge], rows, columns, fills, places, words) for part in labels)
        image[edge] = total / len(labels)
    image = image.view(side, side, 3)
    if drawing.blur:
        soft = fills[:, 9][labels[0].long()].view(side, side, 1)
        image = torch.lerp(image, _blur(image, drawing.blur), soft)
    return image.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)


def _shade(labels: Tensor, y: Tensor, x: Tensor, fills: Tensor, places: Tensor, words: Tensor) -> Tensor:
    """Colour ``(N, 3)`` of N pixels of the given labels; everything is a look-up."""
    fill = fills.index_select(0, labels)
    place = places.index_select(0, labels)
    row = (place[:, 1] + y).bitwise_and_(TILE - 1)
    column = (place[:, 2] + x).bitwise_and_(TILE - 1)
    where = place[:, 0] * TILE**2 + row * TILE + column
    texture = words.index_select(0, where).view(torch.int8).view(-1, 4)[:, :3].float()
    light = fill[:, 3] + fill[:, 4] * y + fill[:, 5] * x
    return fill[:, :3] * light[:, None] + texture * (fill[:, 6:9] / LEVELS)


def _blur(image: Tensor, deviation: float) -> Tensor:
    """Gaussian, rows then columns, edges repeated."""
    reach = max(1, math.ceil(2.5 * deviation))
    weights = [math.exp(-0.5 * (tap / deviation) ** 2) for tap in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in (0, 1):
        side = image.shape[axis]
        ends = [
            image.narrow(axis, place, 1).expand_as(image.narrow(axis, 0, reach)) for place in (0, side - 1)
        ]
        padded = torch.cat([ends[0], image, ends[1]], axis)
        image = image * (weights[0] / total)
        for tap in range(1, reach + 1):
            for start in (reach - tap, reach + tap):
                image.add_(padded.narrow(axis, start, side), alpha=weights[tap] / total)
    return image
