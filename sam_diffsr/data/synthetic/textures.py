"""Periodic textures that fill the shapes, from natural statistics or from photographs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sam_diffsr.errors import DataError
from sam_diffsr.image import decode_image
from sam_diffsr.image.photos import list_photos

TILE = 256
"""Side of a texture; it repeats without a seam."""
LEVELS = 254.0
"""Levels of a texture for a difference of 1 in an image of [0, 1]."""
COUNT = 32
STRENGTH = 0.16
"""Standard deviation of a natural texture, image in [0, 1]."""


@dataclass(frozen=True, eq=False)
class TextureBank:
    """Textures as differences from a mean colour, and the mean colours if they come from photographs."""

    tiles: NDArray[np.int8]
    """``(T, 256, 256, 4)``: R, G, B in ``LEVELS`` and 0, so that a pixel is one word of 4 bytes."""
    colours: NDArray[np.float32] | None
    """``(T, 3)`` mean colours in [0, 1]; None when the drawing chooses them."""


@lru_cache(maxsize=4)
def natural_textures(seed: int) -> TextureBank:
    """Noise of 1/f spectra, stretched noise, blotches, gratings and lattices, slightly coloured."""
    rng = np.random.default_rng([seed, 5])
    kinds = (_noise, _noise, _noise, _stretched, _stretched, _blotches, _grating, _lattice)
    tiles: list[NDArray[np.int8]] = []
    for kind in kinds * (COUNT // len(kinds)):
        plane = kind(rng)
        plane = (plane - plane.mean()) / (plane.std() + 1e-6)
        colour = 1 + rng.normal(0, 0.06, 3)  # mostly lightness, a little hue
        tiles.append(_as_tile(plane[..., None] * colour * STRENGTH))
    return TextureBank(np.stack(tiles), None)


def photo_textures(photos: str, *, seed: int) -> TextureBank:
    """Parts of the photographs of a folder, mirrored to repeat without a seam, with their mean colours.

    Raises ``DataError`` if no photo has sides of at least 32 pixels, ``ImageError`` for a damaged one.
    """
    rng = np.random.default_rng([seed, 6])
    files = list_photos(photos)
    chosen = [files[int(index)] for index in rng.permutation(len(files))[:COUNT]]
    half = TILE // 2
    tiles: list[NDArray[np.int8]] = []
    colours: list[NDArray[np.float32]] = []
    for index, file in enumerate(chosen):
        rgb = decode_image(file).rgb[0].permute(1, 2, 0).numpy()
        if min(rgb.shape[:2]) < 32:
            continue
        for _ in range(index, COUNT, len(chosen)):
            top, left = (int(rng.integers(0, max(1, side - half + 1))) for side in rgb.shape[:2])
            part = rgb[top : top + half, left : left + half]
            missing = [(0, TILE - side) for side in part.shape[:2]]
            tile = np.pad(part, (*missing, (0, 0)), mode="symmetric")
            mean = tile.mean((0, 1))
            tiles.append(_as_tile(tile - mean))
            colours.append(mean)
    if not tiles:
        raise DataError(f"none of the {len(chosen)} photos has sides of at least 32 pixels; give larger ones")
    return TextureBank(np.stack(tiles), np.stack(colours))


def _as_tile(differences: NDArray[np.floating]) -> NDArray[np.int8]:
    """One of ``TextureBank.tiles`` from differences ``(256, 256, 3)``, image in [0, 1]."""
    levels = np.clip(np.rint(differences * LEVELS), -127, 127).astype(np.int8)
    return np.pad(levels, ((0, 0), (0, 0), (0, 1)))


_ROWS, _COLUMNS = np.fft.fftfreq(TILE, 1 / TILE)[:, None], np.fft.rfftfreq(TILE, 1 / TILE)[None]
"""Whole waves per tile, ``(256, 1)`` and ``(1, 129)``."""
_RADIUS = np.hypot(_ROWS, _COLUMNS)


def _filtered(rng: np.random.Generator, gain: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.fft.irfft2(np.fft.rfft2(rng.normal(size=(TILE, TILE))) * gain, s=(TILE, TILE))


def _noise(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of amplitude 1/f**a, as natural surfaces have."""
    return _filtered(rng, _RADIUS.clip(rng.choice([1, 4, 10])) ** -rng.uniform(0.8, 1.6))


def _stretched(rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise stretched in one direction, like grain of wood, grass or hair."""
    angle, factor = rng.uniform(0, np.pi), rng.uniform(4, 12)
    along = np.cos(angle) * _ROWS + np.sin(angle) * _COLUMNS
    across = (np.cos(angle) * _COLUMNS - np.sin(angle) * _ROWS) / factor
    return _filtered(rng, np.hypot(along, across).clip(2) ** -rng.uniform(1.1, 1.6))


def _blotches(rng: np.random.Generator) -> NDArray[np.float64]:
    """Soft-edged spots: smooth noise pushed to two levels."""
    plane = _filtered(rng, np.exp(-((_RADIUS / rng.uniform(8, 30)) ** 2)))
    return np.tanh(plane / plane.std() * rng.uniform(2, 5) + rng.uniform(-1, 1))


def _grating(rng: np.random.Generator) -> NDArray[np.float64]:
    """Waves of one frequency, from sinusoidal to nearly square, bent by smooth noise."""
    bend = _filtered(rng, np.exp(-((_RADIUS / 4) ** 2)))
    y, x = np.mgrid[:TILE, :TILE] / TILE
    radius, angle = rng.uniform(12, 48), rng.uniform(0, np.pi)
    waves = np.rint(radius * np.cos(angle)) * y + np.rint(radius * np.sin(angle)) * x
    phase = 2 * np.pi * waves + bend / bend.std() * rng.uniform(0, 0.6)
    return np.tanh(np.sin(phase) * rng.uniform(0.5, 3))


def _lattice(rng: np.random.Generator) -> NDArray[np.float64]:
    """Bricks or tiles with joints, over noise."""
    y, x = np.mgrid[:TILE, :TILE]
    height, width = (int(side) for side in rng.choice([16, 32, 64], 2))
    shifted = x + (y // height % 2) * (width // 2) * int(rng.integers(0, 2))
    joint = (y % height < 2) | (shifted % width < 2)
    brick = (y // height * 7 + shifted % TILE // width * 13) % 11 / 11
    noise = _noise(rng)
    return np.where(joint, -1.5, 0.6 * brick) + 0.25 * noise / noise.std()
