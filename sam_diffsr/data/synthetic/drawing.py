"""An image before its pixels are made: labels at twice the size and what each label is filled with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.data.synthetic.canvas import FINE, Canvas
from sam_diffsr.data.synthetic.leaves import paint_leaves, paint_page
from sam_diffsr.data.synthetic.textures import TILE, TextureBank
from sam_diffsr.masks.spe import Encoding, Reduction, encode_label_map

__all__ = ["Drawing", "draw_image"]


@dataclass(frozen=True, eq=False)
class Drawing:
    """Everything that the pixels and the structure field of one synthetic image are made from."""

    index: int
    """Which image of the endless sequence."""
    fine: NDArray[np.uint16]
    """``(FINE * S, FINE * S)`` numbers of the shapes, from 1."""
    fills: NDArray[np.float32]
    """``(L + 1, 10)`` a shape's R, G, B in [0, 1]; light = ``a + b * y + c * x``; what its texture's R, G, B
    are multiplied by; softness."""
    textures: NDArray[np.int32]
    """``(L + 1, 3)`` a shape's texture and where in it the image's first pixel lies."""
    blur: float
    """Standard deviation in pixels of what soft shapes are blurred by; 0 is a sharp image."""
    encoding: Encoding
    """See ``masks.spe``."""
    reduction: Reduction
    """See ``masks.spe``."""

    @cached_property
    def labels(self) -> NDArray[np.uint16]:
        """``(S, S)`` region of each pixel, from 1."""
        return np.ascontiguousarray(self.fine[::FINE, ::FINE])

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """``(L + 1,)`` structure value of each region; of label 0 it is 0."""
        return encode_label_map(self.labels, encoding=self.encoding, reduction=self.reduction)

    def structure(self, top: int, left: int, side: int) -> NDArray[np.float32]:
        """Window of the structure field, ``(side, side)`` float32."""
        return np.take(self.values, self.labels[top : top + side, left : left + side])


def draw_image(
    index: int,
    *,
    size: int,
    seed: int,
    pages: float,
    bank: TextureBank,
    encoding: Encoding = "rope",
    reduction: Reduction = "image",
) -> Drawing:
    """Draw image ``index`` of the sequence of a seed.

    Args:
        index: >= 0.
        size: side of the image.
        seed: of the sequence.
        pages: share of pages of text and line art among the images.
        bank: what shapes are filled with.
        encoding: see ``masks.spe``.
        reduction: see ``masks.spe``.
    """
    rng = np.random.default_rng([seed, 4, index])
    canvas = Canvas(size)
    page = rng.random() < pages
    (paint_page if page else paint_leaves)(canvas, rng)
    count = canvas.count + 1
    textures = np.empty((count, 3), np.int32)
    textures[:, 0] = rng.integers(0, len(bank.tiles), count)
    textures[:, 1:] = rng.integers(0, TILE, (count, 2))
    taken = bank.colours is not None
    fills = np.empty((count, 10), np.float32)
    fills[:, :3] = _page_colours(rng, count) if page else _leaf_colours(rng, textures[:, 0], bank)
    # Light falls off across a shape and, less, across the scene: a plane, dim or bright by some per cent.
    slopes = rng.normal(0, 0.03 if page else 0.25, (count, 2)) / size
    if not page:
        slopes += rng.normal(0, 0.2, 2) / size
    fills[:, 4:6] = slopes
    fills[:, 3] = 1 - slopes.sum(1) * size * rng.random(count)
    strength = _strengths(rng, count, page=page, taken=taken)[:, None]
    # A surface's own texture is its colour made lighter and darker; that of a photo has its colours in it.
    fills[:, 6:9] = strength if taken else strength * (0.2 + 1.4 * fills[:, :3])
    fills[:, 9] = rng.random(count) < rng.random()
    blur = float(rng.uniform(0.4, 1.5)) if rng.random() < 0.4 else 0.0
    return Drawing(index, canvas.labels(), fills, textures, blur, encoding, reduction)


def _leaf_colours(
    rng: np.random.Generator, textures: NDArray[np.int32], bank: TextureBank
) -> NDArray[np.float64]:
    """Colours of one scene: a few hues, mostly dull, with light and dark all over the range."""
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
    """How much of its texture each shape shows: many next to nothing, a few a lot."""
    if page:
        return np.where(rng.random(count) < 0.2, 0.1, 0.0)
    if taken:
        return rng.uniform(0.5, 1.2, count)
    return np.exp(rng.normal(-1.3, 0.9, count)).clip(0, 1.5)
