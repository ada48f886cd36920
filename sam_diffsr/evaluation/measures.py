"""Flaws that a person sees and a mean error hides: artefacts, ringing, grain, shifted colours.

Each is one number per image. Luma is BT.601 in full range (0..255).
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

from sam_diffsr.evaluation.metrics import LUMA_OFFSET, check_pair, inside, luma, to_float64

_ARTIFACT_WINDOW = 7
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


def artifact_map(sr: Tensor, hr: Tensor, *, data_range: float) -> Tensor:
    """LDL's map: local variance of the residual, times the fifth root of its variance over the image.

    ``M(i, j) = var(R) ** (1 / 5) * var(R in the 7 x 7 window around (i, j))`` (Liang, Zeng and Zhang, CVPR
    2022, arXiv 2203.09195), where the residual ``R`` is the absolute difference summed over R, G and B, in
    units of full brightness. Both variances are unbiased; windows at the edge are completed by reflection, so
    images have at least 4x4 pixels. The paper's comparison with an averaged model belongs to training and is
    left out. Arguments and errors are as in :func:`~sam_diffsr.evaluation.metrics.psnr_y`.

    Returns:
        ``(B, 1, H, W)`` float64 >= 0; 0 where the residual is constant. An error c times as large gives
        ``c ** 2.4`` times the map.
    """
    check_pair(sr, hr, border=0, data_range=data_range, smallest=_ARTIFACT_WINDOW // 2 + 1)
    residual = (to_float64(sr) - to_float64(hr)).abs().sum(dim=1, keepdim=True) / data_range
    whole = residual.var(dim=(1, 2, 3), keepdim=True) ** (1 / 5)

    # variance in the window around each pixel; without its mean, the difference of squares stays exact
    centred = residual - residual.mean(dim=(1, 2, 3), keepdim=True)
    padded = functional.pad(centred, [_ARTIFACT_WINDOW // 2] * 4, mode="reflect")
    mean = functional.avg_pool2d(padded, _ARTIFACT_WINDOW, stride=1)
    square = functional.avg_pool2d(padded.square(), _ARTIFACT_WINDOW, stride=1)
    unbiased = _ARTIFACT_WINDOW**2 / (_ARTIFACT_WINDOW**2 - 1)
    return whole * ((square - mean.square()).clamp_min(0.0) * unbiased)


def artifact_score(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Mean of :func:`artifact_map` inside a border, ``(B,)`` float64 >= 0; lower is better.

    This is not the "artifact" number of the SAM-DiffSR paper, whose script was never published: compare
    scores of this function only with each other. Pixels in the border do not even count for the windows.
    """
    check_pair(sr, hr, border=border, data_range=data_range, smallest=_ARTIFACT_WINDOW // 2 + 1)
    return artifact_map(inside(sr, border), inside(hr, border), data_range=data_range).mean(dim=(1, 2, 3))


def ringing(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Mean overshoot of luma near strong edges; lower is better, blur and the truth score 0.

    A pixel's overshoot is how far it lies above the highest or below the lowest luma of the truth in the
    9 x 9 pixels around it. A strong edge is where luma of the truth differs by more than 60 levels within 3
    x 3 pixels; near means at most 8 steps left, right, up or down.

    Arguments and errors are as in :func:`~sam_diffsr.evaluation.metrics.psnr_y`, but neighbourhoods reach
    into the border.

    Returns:
        ``(B,)`` float64 >= 0 in levels of 255; NaN for an image with fewer than 500 pixels near such an edge.
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


def average(values: Sequence[float]) -> float:
    """Mean of at least one number."""
    return sum(values) / len(values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How a measure is computed and shown."""

    score: Callable[..., Tensor]
    """The function, called as ``score(sr, other, border=..., data_range=...)``; NaN where undefined."""
    against: Literal["truth", "bicubic"] = "truth"
    """What results are compared with: the truth, or bicubic's enlargement of the same input."""
    over_images: Callable[[Sequence[float]], float] = average
    """The value of a row from those of its images."""
    lower_is_better: bool = False
    """False where neither direction is better."""
    note: str
    """One line that explains the column."""

    def of_image(self, sr: Tensor, truth: Tensor, bicubic: Tensor, *, border: int) -> float | None:
        """Value of one 8-bit image ``(1, 3, H, W)``; None where it is undefined."""
        other = truth if self.against == "truth" else bicubic
        value = self.score(sr, other, border=border, data_range=255).item()
        return None if math.isnan(value) else value

    def of_row(self, values: Sequence[float | None]) -> float | None:
        """Summary over the images that have a value, or None."""
        known = [value for value in values if value is not None]
        return self.over_images(known) if known else None


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
        over_images=max,
        lower_is_better=True,
        note="largest shift of a channel's mean from bicubic's, levels of 255, in the worst image",
    ),
}
"""Measures by the name of their column and of ``--measures``."""


def _levels(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> list[Tensor]:
    """Check both images; their luma in 0..255, ``(B, 1, H, W)`` float64 on the CPU."""
    check_pair(sr, hr, border=border, data_range=data_range)
    return [(luma(image, data_range=data_range).cpu() - LUMA_OFFSET) * (255 / 219) for image in (sr, hr)]


def _highest(image: Tensor, radius: int | tuple[int, int]) -> Tensor:
    """Largest value in the rectangle around each pixel, clipped to the image."""
    rows, columns = (radius, radius) if isinstance(radius, int) else radius
    tall = functional.max_pool2d(image, (2 * rows + 1, 1), stride=1, padding=(rows, 0))
    return functional.max_pool2d(tall, (1, 2 * columns + 1), stride=1, padding=(0, columns))


def _lowest(image: Tensor, radius: int) -> Tensor:
    return -_highest(-image, radius)


def _each(reduce: Callable[[Tensor], Tensor], values: Tensor, counts: Tensor, *, border: int) -> Tensor:
    """Reduce the pixels that count to one number per image; NaN where they are too few."""
    images = zip(inside(values, border), inside(counts, border), strict=True)
    chosen = [image[which] for image, which in images]
    return torch.stack([reduce(own) if len(own) >= _FEWEST else own.new_tensor(math.nan) for own in chosen])
