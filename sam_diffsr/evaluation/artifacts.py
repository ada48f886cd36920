"""LDL's artefact score: how much of an image's error varies locally, as ringing and invented texture do."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sam_diffsr.evaluation.metrics import check_pair, inside, to_float64

__all__ = ["artifact_map", "artifact_score"]

_WINDOW = 7
_HALF = _WINDOW // 2
_ROOT = 5
_SMALLEST = _HALF + 1
"""Least side of an image, because reflection at the edge mirrors three pixels."""


def artifact_map(sr: Tensor, hr: Tensor, *, data_range: float) -> Tensor:
    """LDL's map: local variance of the residual, times the fifth root of its variance over the image.

    ``M(i, j) = var(R) ** (1 / 5) * var(R in the 7 x 7 window around (i, j))`` (Liang, Zeng and Zhang, CVPR
    2022, arXiv 2203.09195), where the residual ``R`` is the absolute difference summed over R, G and B, in
    units of full brightness. Both variances are unbiased; windows at the edge are completed by reflection.
    The paper's comparison with an averaged model belongs to training and is left out.

    Args:
        sr: ``(B, 3, H, W)`` of any real dtype in [0, ``data_range``], H and W >= 4.
        hr: Ground truth, same shape.
        data_range: Value of full brightness: 1 for float images, 255 for 8-bit images.

    Returns:
        ``(B, 1, H, W)`` float64 >= 0; 0 where the residual is constant. An error c times as large gives
        ``c ** 2.4`` times the map.

    Raises:
        ArgumentError: Shapes differ, wrong rank or channels, an image is too small, or ``data_range`` is not
            positive.
    """
    check_pair(sr, hr, border=0, data_range=data_range, smallest=_SMALLEST)
    residual = (to_float64(sr) - to_float64(hr)).abs().sum(dim=1, keepdim=True) / data_range
    whole = residual.var(dim=(1, 2, 3), keepdim=True) ** (1 / _ROOT)

    # variance in the window around each pixel; without its mean, the difference of squares stays exact
    centred = residual - residual.mean(dim=(1, 2, 3), keepdim=True)
    padded = functional.pad(centred, (_HALF, _HALF, _HALF, _HALF), mode="reflect")
    mean = functional.avg_pool2d(padded, _WINDOW, stride=1)
    square = functional.avg_pool2d(padded.square(), _WINDOW, stride=1)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    return whole * ((square - mean.square()).clamp_min(0.0) * unbiased)


def artifact_score(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Mean of :func:`artifact_map` inside a border, ``(B,)`` float64 >= 0; lower is better.

    This is not the "artifact" number of the SAM-DiffSR paper, whose script was never published. Compare
    scores of this function only with each other. ``border`` is the number of pixels left out on every side
    before anything is computed; other arguments and errors are those of :func:`artifact_map`.
    """
    check_pair(sr, hr, border=border, data_range=data_range, smallest=_SMALLEST)
    return artifact_map(inside(sr, border), inside(hr, border), data_range=data_range).mean(dim=(1, 2, 3))
