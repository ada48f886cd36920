"""A synthetic image: its labels at twice the size and the fill of each label, and the pixels made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sam_diffsr.data.config import SyntheticConfig
from sam_diffsr.data.synthetic.shapes import FINE, Canvas, paint_leaves, paint_page
from sam_diffsr.data.synthetic.textures import LEVELS, TILE, TextureBank
from sam_diffsr.masks.spe import Encoding, Reduction, encode_label_map


@dataclass(frozen=True, eq=False)
class Drawing:
    """One synthetic image before its pixels are made."""

    index: int
    """Number of the image in the endless sequence."""
    fine: NDArray[np.uint16]
    """``(FINE * S, FINE * S)`` numbers of the shapes, from 1."""
    fills: NDArray[np.float32]
    """``(L + 1, 10)``, per shape: R, G, B in [0, 1]; a, b, c of the light ``a + b * y + c * x``; factors of
    its texture's R, G, B; softness."""
    textures: NDArray[np.int32]
    """``(L + 1, 3)``, per shape: its texture, and the row and column of the image's first pixel in it."""
    blur: float
    """Standard deviation of the blur of soft shapes, in pixels; 0 is none."""
    labels: NDArray[np.uint16]
    """``(S, S)`` region of each pixel, from 1."""
    values: NDArray[np.float32]
    """``(L + 1,)`` structure value of each region; 0 for label 0."""

    def structure(self, top: int, left: int, side: int) -> NDArray[np.float32]:
        """Window of the structure field, ``(side, side)`` float32."""
        return np.take(self.values, self.labels[top : top + side, left : left + side])


def draw_image(
    index: int,
    config: SyntheticConfig,
    *,
    seed: int,
    bank: TextureBank,
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
) -> Drawing:
    """Draw image ``index`` (>= 0) of a seed's sequence, with textures of ``bank``."""
    rng = np.random.default_rng([seed, 4, index])
    size, canvas = config.size, Canvas(config.size)
    page = rng.random() < config.pages
    (paint_page if page else paint_leaves)(canvas, rng)
    count = canvas.count + 1
    textures = np.empty((count, 3), np.int32)
    textures[:, 0] = rng.integers(0, len(bank.tiles), count)
    textures[:, 1:] = rng.integers(0, TILE, (count, 2))
    colours = _page_colours(rng, count) if page else _leaf_colours(rng, textures[:, 0], bank)
    colours = colours.astype(np.float32)
    # Light is a plane: it changes across each shape and, less, across the scene.
    slopes = rng.normal(0, 0.03 if page else 0.25, (count, 2)) / size
    if not page:
        slopes += rng.normal(0, 0.2, 2) / size
    light = 1 - slopes.sum(1) * size * rng.random(count)
    # A natural texture scales the colour of its shape; the texture of a photo brings its own colours.
    taken = bank.colours is not None
    strength = _strengths(rng, count, page=page, taken=taken)[:, None]
    strength = strength * (np.ones_like(colours) if taken else 0.2 + 1.4 * colours)
    soft = rng.random(count) < rng.random()
    fills = np.column_stack([colours, light, slopes, strength, soft]).astype(np.float32)
    blur = float(rng.uniform(0.4, 1.5)) if rng.random() < 0.4 else 0.0
    fine = canvas.labels()
    labels = np.ascontiguousarray(fine[::FINE, ::FINE])
    values = encode_label_map(labels, encoding=encoding, reduction=reduction)
    return Drawing(index, fine, fills, textures, blur, labels, values)


def _leaf_colours(
    rng: np.random.Generator, textures: NDArray[np.int32], bank: TextureBank
) -> NDArray[np.float64]:
    """Colours of one scene: a few hues, mostly dull, from dark to light."""
    count = len(textures)
    if bank.colours is not None:
        return np.clip(bank.colours[textures] + rng.normal(0, 0.06, (count, 1)), 0, 1)
    saturation = 0.04 * 8 ** rng.random()
    hues = 1 + np.cumsum(rng.normal(0, saturation, (int(rng.integers(2, 7)), 3)), axis=1)
    hues = hues.clip(0.15) / hues.clip(0.15).mean(1, keepdims=True)
    middle, spread = rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.26)
    light = np.clip(rng.normal(middle, spread, (count, 1)), 0.02, 0.98)
    chosen = hues[rng.integers(0, len(hues), count)] + rng.normal(0, 0.04, (count, 3))
    return np.clip(light * chosen, 0, 1)


def _page_colours(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Dark on light or light on dark; some shapes in colour."""
    dark = rng.random() < 0.3
    light = rng.uniform(0, 0.45, (count, 1))
    light[1] = rng.uniform(0.8, 1)
    colours = np.clip(light + rng.normal(0, 0.15, (count, 3)) * (rng.random((count, 1)) < 0.4), 0, 1)
    return 1 - colours if dark else colours


def _strengths(rng: np.random.Generator, count: int, *, page: bool, taken: bool) -> NDArray[np.float64]:
    """Strength of each shape's texture: weak for many, strong for a few."""
    if page:
        return np.where(rng.random(count) < 0.2, 0.1, 0.0)
    if taken:
        return rng.uniform(0.5, 1.2, count)
    return np.exp(rng.normal(-1.3, 0.9, count)).clip(0, 1.5)


@torch.no_grad()
def render(drawing: Drawing, tiles: Tensor) -> Tensor:
    """Make the pixels of a drawing: fill the shapes, antialias their edges, blur soft shapes.

    ``tiles`` are the textures of the drawing's bank; the result is ``(S, S, 3)`` uint8.
    """
    side = len(drawing.labels)
    words = tiles.view(torch.int32).view(-1)
    fills = torch.from_numpy(drawing.fills)
    places = torch.from_numpy(drawing.textures)
    fine = torch.from_numpy(drawing.fine.view(np.int16)).int() & 0xFFFF

    def shade(labels: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Colours ``(N, 3)`` of pixels, by their labels and places in the image."""
        fill, place = fills.index_select(0, labels), places.index_select(0, labels)
        row, column = (place[:, 1] + y) & (TILE - 1), (place[:, 2] + x) & (TILE - 1)
        where = place[:, 0] * TILE**2 + row * TILE + column
        texture = words.index_select(0, where).view(torch.int8).view(-1, 4)[:, :3].float()
        light = fill[:, 3] + fill[:, 4] * y + fill[:, 5] * x
        return fill[:, :3] * light[:, None] + texture * (fill[:, 6:9] / LEVELS)

    # A pixel has FINE * FINE labels; where they differ, its colour is their mean.
    parts = functional.pixel_unshuffle(fine[None], FINE).flatten(1)
    line = torch.arange(side, dtype=torch.int32)
    y, x = line.repeat_interleave(side), line.repeat(side)
    image = shade(parts[0], y, x)
    edge = (parts != parts[0]).any(0).nonzero()[:, 0]
    image[edge] = sum(shade(part, y[edge], x[edge]) for part in parts[:, edge]) / len(parts)
    image = image.view(side, side, 3)
    if drawing.blur:
        soft = fills[:, 9][parts[0].long()].view(side, side, 1)
        image = torch.lerp(image, _blur(image, drawing.blur), soft)
    return image.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8)


def _blur(image: Tensor, deviation: float) -> Tensor:
    """Gaussian, rows then columns, edges repeated."""
    reach = max(1, math.ceil(2.5 * deviation))
    weights = [math.exp(-0.5 * (tap / deviation) ** 2) for tap in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis, side in enumerate(image.shape[:2]):
        places = torch.arange(-reach, side + reach).clamp_(0, side - 1)
        padded = image.index_select(axis, places)
        image = image * (weights[0] / total)
        for tap in range(1, reach + 1):
            for start in (reach - tap, reach + tap):
                image.add_(padded.narrow(axis, start, side), alpha=weights[tap] / total)
    return image
