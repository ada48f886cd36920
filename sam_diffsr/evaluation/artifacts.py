"""LDL's artefact score: how much of an image's error varies locally, as ringing and invented texture do.

Liang, Zeng and Zhang, "Details or Artifacts: A Locally Discriminative Learning Approach to Realistic Image
Super-Resolution", CVPR 2022, arXiv 2203.09195. With the residual ``R`` of an image and the truth,

    M(i, j) = var(R in the n x n window around (i, j)),   n = 7
    sigma   = var(R over the whole image) ** (1 / a),     a = 5
    map     = sigma * M

A smooth error, such as a shift of brightness, has little local variance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.evaluation.metrics import check_pair, inside

__all__ = ["artifact_map", "artifact_score"]

_WINDOW = 7
_ROOT = 5
_SMALLEST = _WINDOW // 2 + 1
"""Least side of an image, because reflection at the edge mirrors three pixels."""


def artifact_map(sr: Tensor, hr: Tensor, *, data_range: float) -> Tensor:
    """LDL's map: local variance of the residual, times the fifth root of its variance over the image.

    The residual is the absolute difference summed over R, G and B, in units of full brightness. Both
    variances are unbiased; windows at the edge are completed by reflection. The paper's comparison with an
    averaged model belongs to training and is left out.

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
    if sr.device.type == "mps":  # it has no float64
        sr, hr = sr.cpu(), hr.cpu()
    difference = sr.to(torch.float64) - hr.to(torch.float64)
    residual = difference.abs().sum(dim=1, keepdim=True) / data_range
    whole = residual.var(dim=(1, 2, 3), keepdim=True) ** (1 / _ROOT)
    return whole * _local_variance(residual)


def artifact_score(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Mean of :func:`artifact_map` inside a border, ``(B,)`` float64 >= 0; lower is better.

    This is not the "artifact" number of the SAM-DiffSR paper, whose script was never published. Compare
    scores of this function only with each other. ``border`` is the number of pixels left out on every side
    before anything is computed; other arguments and errors are those of :func:`artifact_map`.
    """
    check_pair(sr, hr, border=border, data_range=data_range, smallest=_SMALLEST)
    return artifact_map(inside(sr, border), inside(hr, border), data_range=data_range).mean(dim=(1, 2, 3))


def _local_variance(residual: Tensor) -> Tensor:
    """Unbiased variance in the window around each pixel of a ``(B, 1, H, W)`` map."""
    half, count = _WINDOW // 2, _WINDOW**2
    centred = residual - residual.mean(dim=(1, 2, 3), keepdim=True)  # keeps the difference of squares exact
    padded = functional.pad(centred, (half, half, half, half), mode="reflect")
    mean = functional.avg_pool2d(padded, _WINDOW, stride=1)
    square = functional.avg_pool2d(padded.square(), _WINDOW, stride=1)
    return (square - mean.square()).clamp_min(0.0) * (count / (count - 1))
