"""Further measures that ``evaluate`` takes on request: one line of a table each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.flaws import colour_shift, grain, ringing

__all__ = ["MEASURES", "Measure", "check_measures", "take"]


class Score(Protocol):
    """A function of two batches of images, such as ``psnr_y``."""

    def __call__(self, sr: Tensor, other: Tensor, /, *, border: int, data_range: float) -> Tensor:
        """``(B,)`` of two ``(B, 3, H, W)``; NaN where it is not defined."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How a measure is taken and shown."""

    score: Score
    """One number an image."""
    against: Literal["truth", "bicubic"] = "truth"
    """What a result is compared with: the truth, or bicubic's enlargement of the same input."""
    worst: bool = False
    """A row holds the largest value of its images instead of their mean."""
    lower_is_better: bool = False
    """False where neither direction is."""
    note: str
    """One line that explains the column."""

    def of_row(self, values: Sequence[float | None]) -> float | None:
        """Summary over the images where it is defined, or None."""
        known = [value for value in values if value is not None]
        if self.worst:
            return max(known, default=None)
        return sum(known) / len(known) if known else None


MEASURES: dict[str, Measure] = {
    "ringing": Measure(
        score=ringing,
        lower_is_better=True,
        note="mean overshoot of luma near strong edges, levels of 255",
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
"""By the name that ``--measures`` and the columns have."""


def check_measures(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ArgumentError: there is no such measure.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise ArgumentError(f"unknown measures {', '.join(unknown)}; expected some of {', '.join(MEASURES)}")
    return tuple(dict.fromkeys(names))


def take(name: str, sr: Tensor, other: Tensor, *, border: int) -> float | None:
    """One measure of one 8-bit image ``(1, 3, H, W)``; None where it is not defined."""
    value = MEASURES[name].score(sr, other, border=border, data_range=255).item()
    return None if math.isnan(value) else value
