"""Paints the numbered shapes of a synthetic image: dead leaves with lines and text, or a page of line art."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sam_diffsr.masks.spe import MAX_REGIONS

FINE = 2
"""Rows and columns of the label map per pixel of the image."""
SMALL_CORNERS, LARGE_CORNERS = 8, 32
"""Corners of small and large shapes."""
LETTERS = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ0123456789"

Rng = np.random.Generator
Points = NDArray[np.float64]


class Canvas:
    """A label map that shapes are painted into, in image coordinates; it is ``FINE`` times as large.

    It takes as many shapes as there can be regions, the ground among them; further ones are not painted.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 1
        self._map = Image.new("I", (FINE * size, FINE * size), 1)
        self._draw = ImageDraw.Draw(self._map)

    def _begin(self) -> bool:
        """Take the next number; False if there is none left."""
        free = self.count < MAX_REGIONS
        self.count += free
        return free

    def polygons(self, corners: Points) -> None:
        """Paint ``(n, v, 2)`` polygons of (x, y) corners, one over the other."""
        for flat in np.rint(FINE * corners - 0.5).reshape(len(corners), -1).astype(np.int64).tolist():
            if self._begin():
                self._draw.polygon(flat, fill=self.count)

    def lines(self, strokes: list[Points], width: float) -> None:
        """Paint lines, each through ``(n, 2)`` points, as one region."""
        if not self._begin():
            return
        thick = max(1, round(FINE * width))
        joint = "curve" if thick > 2 else None
        for points in strokes:
            self._draw.line((FINE * points).ravel().tolist(), fill=self.count, width=thick, joint=joint)

    def outline(self, box: Points, width: float, *, round_: bool) -> None:
        """Paint the outline of a rectangle or ellipse in a box, (left, top, right, bottom)."""
        if not self._begin():
            return
        paint = self._draw.ellipse if round_ else self._draw.rectangle
        paint((FINE * box).tolist(), outline=self.count, width=max(1, round(FINE * width)))

    def text(self, words: str, place: tuple[float, float], height: float, *, angle: float = 0.0) -> None:
        """Paint text in Pillow's own font, centred at ``place`` (x, y)."""
        if not self._begin():
            return
        font = _font(max(6, round(FINE * height)))
        left, top, right, bottom = (int(side) for side in font.getbbox(words))
        stamp = Image.new("L", (max(1, right - left + 4), max(1, bottom - top + 4)), 0)
        ImageDraw.Draw(stamp).text((2 - left, 2 - top), words, fill=255, font=font)
        if angle:
            stamp = stamp.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        corner = (round(FINE * place[0] - stamp.width / 2), round(FINE * place[1] - stamp.height / 2))
        self._map.paste(self.count, corner, stamp.point([0] * 128 + [255] * 128, "1"))

    def labels(self) -> NDArray[np.uint16]:
        """``(FINE * S, FINE * S)`` numbers from 1."""
        return np.asarray(self._map).astype(np.uint16)


@lru_cache(maxsize=64)
def _font(height: int) -> Any:
    return ImageFont.load_default(height)


def _words(rng: Rng, count: int) -> str:
    """Random words with the letter frequencies of text."""
    weights = 1.0 / (np.arange(len(LETTERS)) + 6)
    lengths = rng.integers(1, 9, count)
    letters = rng.choice(list(LETTERS), int(lengths.sum()), p=weights / weights.sum())
    return " ".join("".join(part) for part in np.split(letters, np.cumsum(lengths)[:-1]))


def power_law_radii(rng: Rng, count: int, *, smallest: float, largest: float) -> Points:
    """Radii with density proportional to ``r ** -3`` between two limits."""
    u = rng.random(count)
    return (smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5


def paint_leaves(canvas: Canvas, rng: Rng) -> None:
    """Cover a canvas with large shapes, then shapes of all sizes, then lines and text."""
    size = canvas.size
    smallest, largest = 2.0 * 6.0 ** rng.random(), size / rng.uniform(2, 4)
    for low, cover in ((max(smallest, largest / 8), 4.0), (smallest, 0.15 * 12 ** rng.random())):
        mean_area = 2.2 * 2 * np.log(largest / low) / (low**-2 - largest**-2)
        count = int(cover * size**2 / mean_area) + 1
        _paint_shapes(canvas, rng, power_law_radii(rng, count, smallest=low, largest=largest))
    for _ in range(rng.poisson(4)):
        canvas.lines([_curve(rng, size)], 0.5 * 8 ** rng.random())
    for _ in range(rng.poisson(0.8)):
        x, y = rng.uniform(0, size, 2)
        words = _words(rng, int(rng.integers(1, 4)))
        height = min(size / 4, 8 * 6 ** rng.random())
        canvas.text(words, (x, y), height, angle=float(rng.uniform(-90, 90)))


def _paint_shapes(canvas: Canvas, rng: Rng, radii: Points) -> None:
    """Paint shapes in random order, in batches of equal numbers of corners for speed."""
    for part in np.array_split(radii, max(1, len(radii) // 64)):
        for chosen, corners in ((part[part <= 8], SMALL_CORNERS), (part[part > 8], LARGE_CORNERS)):
            if len(chosen):
                outlines = _outlines(rng, len(chosen), corners)
                places = rng.uniform(-0.05, 1.05, (len(chosen), 1, 2)) * canvas.size
                canvas.polygons(places + chosen[:, None, None] * outlines)


def _outlines(rng: Rng, count: int, corners: int) -> Points:
    """Outlines of radius about 1, ``(count, corners, 2)``: ellipses, blobs and straight-sided polygons."""
    angle = (np.arange(corners) + rng.random((count, 1))) * (2 * np.pi / corners)
    kind = rng.integers(0, 4, count)[:, None]
    waves = sum(
        rng.normal(0, 0.35 / order, (count, 1)) * np.cos(order * angle + rng.uniform(0, 6.3, (count, 1)))
        for order in range(2, 6)
    )
    # A regular polygon of s sides in polar form; the stretching below makes it irregular.
    sides = rng.integers(3, 7, count)[:, None]
    turned = angle % (2 * np.pi / sides) - np.pi / sides
    polygon = np.cos(np.pi / sides) / np.cos(turned) * 1.2
    radius = np.select([kind == 0, kind == 1], [1.0, 1 + waves], polygon)
    stretch = np.exp(rng.normal(0, 0.45, (count, 1)))
    x, y = radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch
    turn = rng.uniform(0, 2 * np.pi, (count, 1))
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=-1)


def _curve(rng: Rng, size: int) -> Points:
    """A cubic Bezier curve or, one time in three, a straight line; ``(n, 2)``."""
    ends = rng.uniform(-0.1, 1.1, (4, 2)) * size
    if rng.random() < 1 / 3:
        return ends[:2]
    t = np.linspace(0, 1, 40)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return np.sum([weight * end for weight, end in zip(weights, ends, strict=True)], axis=0)


def paint_page(canvas: Canvas, rng: Rng) -> None:
    """Paint lines of text, outlines, hatching, curves and filled boxes on a plain ground."""
    size = canvas.size
    for _ in range(int(rng.integers(0, 4))):
        corner, sides = rng.uniform(-0.1, 0.8, 2) * size, rng.uniform(0.1, 0.6, 2) * size
        canvas.polygons((corner + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides)[None])
    y = float(rng.uniform(0, 0.2)) * size
    while y < size:
        choice = rng.random()
        height = min(size / 4, 7 * 5 ** rng.random())
        if choice < 0.55:
            for _ in range(int(rng.integers(1, 5))):
                words = _words(rng, max(1, int(1.2 * size / height / 5)))
                canvas.text(words, (size * rng.uniform(0.4, 0.6), y + height / 2), height)
                y += 1.3 * height
        elif choice < 0.8:
            _drawing(canvas, rng, y)
            y += size * 0.2
        else:
            canvas.lines([np.array([[0.0, y], [size, y]])], 0.5 * 6 ** rng.random())
        y += size * float(rng.uniform(0.02, 0.1))


def _drawing(canvas: Canvas, rng: Rng, y: float) -> None:
    """Outlines, hatching or curves in a band of the page."""
    size, thick = canvas.size, 0.5 * 6 ** rng.random()
    kind = rng.integers(0, 3)
    if kind == 0:
        for _ in range(int(rng.integers(1, 5))):
            corner = np.array([rng.uniform(0, 0.8) * size, y])
            box = np.append(corner, corner + rng.uniform(0.05, 0.25, 2) * size)
            canvas.outline(box, thick, round_=bool(rng.random() < 0.5))
    elif kind == 1:
        step, lean = rng.uniform(3, 12), rng.normal() * 0.2 * size
        starts = np.arange(rng.uniform(0, 0.5) * size, rng.uniform(0.5, 1) * size, step)
        canvas.lines([np.array([[x, y], [x + lean, y + 0.2 * size]]) for x in starts], min(thick, 0.5 * step))
    else:
        for _ in range(int(rng.integers(1, 4))):
            steps = np.cumsum(rng.normal(0, 0.03 * size, 24))
            canvas.lines([np.stack([np.linspace(0, size, 24), y + 0.1 * size + steps], axis=-1)], thick)
