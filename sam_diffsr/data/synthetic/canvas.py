"""Shapes painted into a label map at twice the size, one number for each."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["FINE", "Canvas"]

FINE = 2
"""How much finer than the image shapes are painted."""
LETTERS = "etaoinshrdlucmfwypvbgkjqxzETAOINSHRDLUCMFWYPVBGKJQXZ0123456789"


class Canvas:
    """A label map under construction; every painting method takes image coordinates and gives the new number.

    Args:
        size: side of the image; the map is ``FINE`` times as large.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 1
        self._map = Image.new("I", (FINE * size, FINE * size), 1)
        self._draw = ImageDraw.Draw(self._map)

    def polygons(self, corners: NDArray[np.float64]) -> None:
        """Paint polygons one over the other.

        Args:
            corners: ``(n, v, 2)``, x and y.
        """
        paint = self._draw.polygon
        for flat in np.rint(FINE * corners - 0.5).reshape(len(corners), -1).astype(np.int64).tolist():
            self.count += 1
            paint(flat, fill=self.count)

    def line(self, points: NDArray[np.float64], width: float) -> None:
        """Paint a line through ``(n, 2)`` points."""
        self.lines([points], width)

    def lines(self, strokes: list[NDArray[np.float64]], width: float) -> None:
        """Paint lines, each through ``(n, 2)`` points, that are one region together."""
        self.count += 1
        thick = max(1, round(FINE * width))
        for points in strokes:
            self._draw.line(
                (FINE * points).ravel().tolist(),
                fill=self.count,
                width=thick,
                joint="curve" if thick > 2 else None,
            )

    def outline(self, box: tuple[float, float, float, float], width: float, *, round_: bool) -> None:
        """Paint the outline of a rectangle or ellipse."""
        self.count += 1
        scaled = [FINE * side for side in box]
        paint = self._draw.ellipse if round_ else self._draw.rectangle
        paint(scaled, outline=self.count, width=max(1, round(FINE * width)))

    def text(self, words: str, place: tuple[float, float], height: float, *, angle: float = 0.0) -> None:
        """Paint text with Pillow's own font, its middle at ``place`` (x, y)."""
        self.count += 1
        font = _font(max(6, round(FINE * height)))
        left, top, right, bottom = (int(side) for side in font.getbbox(words))
        stamp = Image.new("L", (max(1, right - left + 4), max(1, bottom - top + 4)), 0)
        ImageDraw.Draw(stamp).text((2 - left, 2 - top), words, fill=255, font=font)
        if angle:
            stamp = stamp.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        corner = (round(FINE * place[0] - stamp.width / 2), round(FINE * place[1] - stamp.height / 2))
        self._map.paste(self.count, corner, stamp.point(_HALF, "1"))

    def labels(self) -> NDArray[np.uint16]:
        """``(FINE * S, FINE * S)`` numbers from 1."""
        return np.asarray(self._map).astype(np.uint16)


_HALF = [0] * 128 + [255] * 128


@lru_cache(maxsize=64)
def _font(height: int) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(height))


def some_words(rng: np.random.Generator, count: int) -> str:
    """Made-up words; letters are as frequent as in text."""
    weights = 1.0 / (np.arange(len(LETTERS)) + 6)
    lengths = rng.integers(1, 9, count)
    letters = rng.choice(list(LETTERS), int(lengths.sum()), p=weights / weights.sum())
    cuts = np.cumsum(lengths)[:-1]
    return " ".join("".join(part) for part in np.split(letters, cuts))
