"""Flaws that a person sees and a mean error hides (ringing, grain, shifted colours), and the table of them.

Each is one number per image, in levels of 255. Luma is BT.601 in full range (0..255).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.metrics import LUMA_OFFSET, check_pair, inside, luma, to_float64

__all__ = ["MEASURES", "Measure", "check_measures", "colour_shift", "grain", "ringing", "take"]

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
"""Least number of pixels for a mean."""


def ringing(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Mean overshoot of luma near strong edges; lower is better, blur and the truth score 0.

    A pixel's overshoot is how far it lies above the highest or below the lowest luma of the truth in the
    9 x 9 pixels around it. A strong edge is where luma of the truth differs by more than 60 levels within 3
    x 3 pixels; near means at most 8 steps left, right, up or down.

    Args:
        sr: ``(B, 3, H, W)`` RGB in [0, ``data_range``].
        hr: Ground truth, same shape.
        border: Pixels on every side that do not count; neighbourhoods reach into them.
        data_range: Value of full brightness: 1 for float images, 255 for 8-bit images.

    Returns:
        ``(B,)`` float64 >= 0 in levels of 255; NaN for an image with fewer than 500 pixels near such an edge.

    Raises:
        ArgumentError: Shapes differ, wrong rank or channels, or no pixel lies inside the border.
    """
    ours, truth = _levels(sr, hr, border=border, data_range=data_range)
    highest, lowest = _highest(truth, _RINGING_RADIUS), _lowest(truth, _RINGING_RADIUS)
    beyond = (ours - highest).clamp_min(0) + (lowest - ours).clamp_min(0)
    near = (_highest(truth, 1) - _lowest(truth, 1) > _STEEP + _TIE).to(torch.float64)
    for _ in range(_NEAR_EDGE):
        near = torch.maximum(_highest(near, (1, 0)), _highest(near, (0, 1)))
    return _each(torch.mean, beyond, near > 0, border=border)


def grain(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Standard deviation of luma from its 5 x 5 mean where the truth is flat, such as skies and walls.

    Flat is where luma of the truth stays within 8 levels in the 17 x 17 pixels around. White noise of
    deviation s scores s times the root of 24/25. Neither high nor low is better: compare with ``grain(hr,
    hr)``. More is added grain, less is grain smoothed away. Arguments and errors are as in :func:`ringing`.

    Returns:
        ``(B,)`` float64 >= 0 in levels of 255; NaN for an image with fewer than 500 flat pixels.
    """
    ours, truth = _levels(sr, hr, border=border, data_range=data_range)
    mean = functional.avg_pool2d(
        ours, _GRAIN_WINDOW, stride=1, padding=_GRAIN_WINDOW // 2, count_include_pad=False
    )
    flat = _highest(truth, _FLAT_RADIUS) - _lowest(truth, _FLAT_RADIUS) < _FLAT - _TIE
    return _each(partial(torch.std, correction=0), ours - mean, flat, border=border)


def colour_shift(sr: Tensor, reference: Tensor, *, border: int, data_range: float) -> Tensor:
    """Largest difference of a channel's mean from that of a reference, over R, G and B; lower is better.

    ``evaluate`` takes bicubic's enlargement of the same input as the reference: it keeps the input's colours,
    which may differ from the truth's. Arguments and errors are as in :func:`ringing`.

    Returns:
        ``(B,)`` float64 >= 0 in levels of 255.
    """
    check_pair(sr, reference, border=border, data_range=data_range)
    ours, theirs = (to_float64(inside(image, border)).mean(dim=(-2, -1)) for image in (sr, reference))
    return (ours - theirs).abs().amax(dim=1) * (255.0 / data_range)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How a measure is computed and shown."""

    score: Callable[..., Tensor]
    """The function, called as ``score(sr, other, border=..., data_range=...)``; NaN where undefined."""
    against: Literal["truth", "bicubic"] = "truth"
    """What results are compared with: the truth, or bicubic's enlargement of the same input."""
    worst: bool = False
    """A row holds the largest value of its images instead of their mean."""
    lower_is_better: bool = False
    """False where neither direction is better."""
    note: str
    """One line that explains the column."""

    def of_row(self, values: Sequence[float | None]) -> float | None:
        """Summary over the images that have a value, or None."""
        known = [value for value in values if value is not None]
        if self.worst:
            return max(known, default=None)
        return sum(known) / len(known) if known else None


MEASURES: dict[str, Measure] = {
    "ringing": Measure(
        score=ringing, lower_is_better=True, note="mean overshoot of luma near strong edges, levels of 255"
    ),
    "grain": Measure(
        score=grain,
        note="deviation of luma from its local mean where the truth is flat, levels of 255; truths have some",
    ),
    "colour": Measure(
        score=colour_shift,
        against="bicubic",
        worst=True,
        lower_is_better=True,
        note="largest shift of a channel's mean from bicubic's, levels of 255, in the worst image",
    ),
}
"""Measures by the name of their column and of ``--measures``."""


def check_measures(names: Sequence[str]) -> tuple[str, ...]:
    """The names without duplicates; an unknown one is an ``ArgumentError``."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise ArgumentError(f"unknown measures {', '.join(unknown)}; expected some of {', '.join(MEASURES)}")
    return tuple(dict.fromkeys(names))


def take(name: str, sr: Tensor, other: Tensor, *, border: int) -> float | None:
    """Compute one measure of one 8-bit image ``(1, 3, H, W)``; None where it is undefined."""
    value = MEASURES[name].score(sr, other, border=border, data_range=255).item()
    return None if math.isnan(value) else value


def _levels(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> tuple[Tensor, Tensor]:
    """Check both images; their luma in 0..255, ``(B, 1, H, W)`` float64 on the CPU."""
    check_pair(sr, hr, border=border, data_range=data_range)
    x, y = ((luma(image, data_range=data_range).cpu() - LUMA_OFFSET) * (255 / 219) for image in (sr, hr))
    return x, y


def _highest(image: Tensor, radius: int | tuple[int, int]) -> Tensor:
    """Largest value in the rectangle around each pixel, clipped to the image."""
    rows, columns = (radius, radius) if isinstance(radius, int) else radius
    tall = functional.max_pool2d(image, (2 * rows + 1, 1), stride=1, padding=(rows, 0))
    return functional.max_pool2d(tall, (1, 2 * columns + 1), stride=1, padding=(0, columns))


def _lowest(image: Tensor, radius: int) -> Tensor:
    return -_highest(-image, radius)


def _each(reduce: Callable[[Tensor], Tensor], values: Tensor, counts: Tensor, *, border: int) -> Tensor:
    """Reduce the pixels that count to one number per image; NaN where they are too few."""
    pairs = zip(inside(values, border), inside(counts, border), strict=True)
    chosen = [image[which] for image, which in pairs]
    return torch.stack(
        [reduce(pixels) if len(pixels) >= _FEWEST else pixels.new_tensor(math.nan) for pixels in chosen]
    )
