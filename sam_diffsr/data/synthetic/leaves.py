"""Where the shapes of an image lie: dead leaves with lines and text, or pages of text and line art."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.data.synthetic.canvas import Canvas, some_words

__all__ = ["paint_leaves", "paint_page", "power_law_radii"]

SMALL_CORNERS = 8
LARGE_CORNERS = 32


def power_law_radii(
    rng: np.random.Generator, count: int, *, smallest: float, largest: float
) -> NDArray[np.float64]:
    """Radii with density proportional to ``r ** -3`` between two limits."""
    u = rng.random(count)
    return (smallest**-2 - u * (smallest**-2 - largest**-2)) ** -0.5


def paint_leaves(canvas: Canvas, rng: np.random.Generator) -> None:
    """Cover a canvas: large shapes until no ground is seen, then shapes of all sizes, then lines and text."""
    size = canvas.size
    smallest, largest = 2.0 * 6.0 ** rng.random(), size / rng.uniform(2, 4)
    for low, cover in ((max(smallest, largest / 8), 4.0), (smallest, 0.15 * 12 ** rng.random())):
        mean_area = 2.2 * 2 * np.log(largest / low) / (low**-2 - largest**-2)
        count = int(cover * size**2 / mean_area) + 1
        _paint_shapes(canvas, rng, power_law_radii(rng, count, smallest=low, largest=largest))
    for _ in range(rng.poisson(4)):
        canvas.line(_curve(rng, size), 0.5 * 8 ** rng.random())
    for _ in range(rng.poisson(0.8)):
        place = rng.uniform(0, size, 2)
        words = some_words(rng, int(rng.integers(1, 4)))
        canvas.text(
            words,
            (place[0], place[1]),
            min(size / 4, 8 * 6 ** rng.random()),
            angle=float(rng.uniform(-90, 90)),
        )


def _paint_shapes(canvas: Canvas, rng: np.random.Generator, radii: NDArray[np.float64]) -> None:
    """Painted in random order; neighbours of the order have the same number of corners, which is quicker."""
    for part in np.array_split(radii, max(1, len(radii) // 64)):
        for many in (False, True):
            chosen = part[(part > 8) == many]
            if len(chosen):
                outlines = _outlines(rng, len(chosen), LARGE_CORNERS if many else SMALL_CORNERS)
                places = rng.uniform(-0.05, 1.05, (len(chosen), 1, 2)) * canvas.size
                canvas.polygons(places + chosen[:, None, None] * outlines)


def _outlines(rng: np.random.Generator, count: int, corners: int) -> NDArray[np.float64]:
    """Outlines of radius about 1, ``(count, corners, 2)``: ellipses, blobs and straight-sided polygons."""
    angle = (np.arange(corners) + rng.random((count, 1))) * (2 * np.pi / corners)
    radius = np.ones((count, corners))
    kind = rng.integers(0, 4, count)[:, None]
    waves = sum(
        rng.normal(0, 0.35 / order, (count, 1)) * np.cos(order * angle + rng.uniform(0, 6.3, (count, 1)))
        for order in range(2, 6)
    )
    radius = np.where(kind == 1, 1 + waves, radius)
    # A regular polygon of s sides in polar form; moving its corners about is left to the stretching below.
    sides = rng.integers(3, 7, count)[:, None]
    turned = angle % (2 * np.pi / sides) - np.pi / sides
    radius = np.where(kind >= 2, np.cos(np.pi / sides) / np.cos(turned) * 1.2, radius)
    stretch = np.exp(rng.normal(0, 0.45, (count, 1)))
    x, y = radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch
    turn = rng.uniform(0, 2 * np.pi, (count, 1))
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=-1)


def _curve(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """A cubic Bezier curve or, one time in three, a straight line; ``(n, 2)``."""
    ends = rng.uniform(-0.1, 1.1, (4, 2)) * size
    if rng.random() < 1 / 3:
        return ends[:2]
    t = np.linspace(0, 1, 40)[:, None]
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    return np.sum([weight * end for weight, end in zip(weights, ends, strict=True)], axis=0)


def paint_page(canvas: Canvas, rng: np.random.Generator) -> None:
    """Text in lines, outlines, hatching, curves and filled boxes on a plain ground."""
    size = canvas.size
    for _ in range(int(rng.integers(0, 4))):
        _box(canvas, rng)
    y = float(rng.uniform(0, 0.2)) * size
    while y < size:
        choice = rng.random()
        height = min(size / 4, 7 * 5 ** rng.random())
        if choice < 0.55:
            for _ in range(int(rng.integers(1, 5))):
                words = some_words(rng, max(1, int(1.2 * size / height / 5)))
                canvas.text(words, (size * rng.uniform(0.4, 0.6), y + height / 2), height)
                y += 1.3 * height
        elif choice < 0.8:
            _drawing(canvas, rng, y)
            y += size * 0.2
        else:
            canvas.lines([np.array([[0.0, y], [size, y]])], 0.5 * 6 ** rng.random())
        y += size * float(rng.uniform(0.02, 0.1))


def _box(canvas: Canvas, rng: np.random.Generator) -> None:
    x, y = rng.uniform(-0.1, 0.8, 2) * canvas.size
    width, height = rng.uniform(0.1, 0.6, 2) * canvas.size
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    canvas.polygons(corners[None])


def _drawing(canvas: Canvas, rng: np.random.Generator, y: float) -> None:
    """Outlines, hatching or curves in a band of the page."""
    size, thick = canvas.size, 0.5 * 6 ** rng.random()
    kind = rng.integers(0, 3)
    if kind == 0:
        for _ in range(int(rng.integers(1, 5))):
            x, width, height = rng.uniform(0, 0.8) * size, *(rng.uniform(0.05, 0.25, 2) * size)
            canvas.outline((x, y, x + width, y + height), thick, round_=bool(rng.random() < 0.5))
    elif kind == 1:
        step, lean = rng.uniform(3, 12), rng.normal() * 0.2 * size
        starts = np.arange(rng.uniform(0, 0.5) * size, rng.uniform(0.5, 1) * size, step)
        canvas.lines([np.array([[x, y], [x + lean, y + 0.2 * size]]) for x in starts], min(thick, 0.5 * step))
    else:
        for _ in range(int(rng.integers(1, 4))):
            steps = np.cumsum(rng.normal(0, 0.03 * size, 24))
            canvas.line(np.stack([np.linspace(0, size, 24), y + 0.1 * size + steps], axis=-1), thick)
