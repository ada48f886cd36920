"""PSNR and SSIM on luma as super-resolution papers report them (MATLAB's), and PSNR on RGB.

Every function returns one value per image; a table is the mean of these. Images are not rounded here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sam_diffsr.errors import ArgumentError

_LUMA_WEIGHTS = (65.481, 128.553, 24.966)
LUMA_OFFSET = 16.0
"""Luma of black."""
SSIM_WINDOW = 11
"""Side of SSIM's window, which is the least side of an image."""
_SIGMA = 1.5
_PEAK = 255.0
_C1 = (0.01 * _PEAK) ** 2
_C2 = (0.03 * _PEAK) ** 2


def luma(image: Tensor, *, data_range: float, gray: bool = False) -> Tensor:
    """Studio-range BT.601 luma, ``16 + 65.481 R + 128.553 G + 24.966 B`` with R, G, B in [0, 1].

    Args:
        image: ``(B, 3, H, W)`` RGB of any real dtype in [0, ``data_range``].
        data_range: Value of full brightness: 1 for float images, 255 for 8-bit images.
        gray: Return the mean of the channels in 0..255 instead, as MATLAB scripts score gray files.

    Returns:
        ``(B, 1, H, W)`` float64 in [16, 235], or in [0, 255] with ``gray``.

    Raises:
        ArgumentError: wrong rank or channels, or ``data_range`` is not positive.
    """
    check_pair(image, image, border=0, data_range=data_range)
    image = to_float64(image)
    if gray:
        return image.mean(dim=1, keepdim=True) * (_PEAK / data_range)
    weights = torch.tensor(_LUMA_WEIGHTS, dtype=torch.float64, device=image.device) / data_range
    return torch.einsum("bchw,c->bhw", image, weights)[:, None] + LUMA_OFFSET


def psnr_y(sr: Tensor, hr: Tensor, *, border: int, data_range: float, gray: bool = False) -> Tensor:
    """Peak signal-to-noise ratio on luma, ``10 log10(255^2 / MSE)``.

    Args:
        sr: ``(B, 3, H, W)`` RGB in [0, ``data_range``].
        hr: Ground truth, same shape.
        border: Pixels left out on every side: the scale in MATLAB's protocol, 0 in the paper's.
        data_range: Value of full brightness: 1 for float images, 255 for 8-bit images.
        gray: Compare gray values as they are, see :func:`luma`.

    Returns:
        ``(B,)`` float64 in dB; infinite for equal images.

    Raises:
        ArgumentError: Shapes differ, wrong rank or channels, or no pixel lies inside the border.
    """
    check_pair(sr, hr, border=border, data_range=data_range)
    x, y = (inside(luma(image, data_range=data_range, gray=gray), border) for image in (sr, hr))
    return _psnr(x - y)


def psnr_rgb(sr: Tensor, hr: Tensor, *, border: int, data_range: float) -> Tensor:
    """Peak signal-to-noise ratio over R, G and B together; arguments and errors as in :func:`psnr_y`."""
    check_pair(sr, hr, border=border, data_range=data_range)
    difference = to_float64(inside(sr, border)) - to_float64(inside(hr, border))
    return _psnr(difference * (_PEAK / data_range))


def ssim_y(sr: Tensor, hr: Tensor, *, border: int, data_range: float, gray: bool = False) -> Tensor:
    """Structural similarity on luma (Wang et al. 2004): Gaussian 11x11 window of sigma 1.5, L = 255.

    Only windows inside the image count, as in MATLAB's reference code (its "valid" region), so 11x11 pixels
    must lie inside the border. Arguments and errors are as in :func:`psnr_y`; ``(B,)`` float64 in [-1, 1].
    """
    check_pair(sr, hr, border=border, data_range=data_range, smallest=SSIM_WINDOW)
    x, y = (inside(luma(image, data_range=data_range, gray=gray), border) for image in (sr, hr))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x.square()
    variance_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    denominator = (mean_x.square() + mean_y.square() + _C1) * (variance_x + variance_y + _C2)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def check_pair(sr: Tensor, hr: Tensor, *, border: int, data_range: float, smallest: int = 1) -> None:
    """Refuse images that cannot be compared, or of which a border leaves too little; ``ArgumentError``."""
    if sr.shape != hr.shape:
        raise ArgumentError(
            f"both images must have one shape, got {tuple(sr.shape)} and {tuple(hr.shape)}; "
            "an output of the wrong size is never resized here"
        )
    if border < 0:
        raise ArgumentError(f"border must be >= 0 pixels, got {border}")
    if sr.ndim != 4 or sr.shape[1] != 3:
        raise ArgumentError(f"expected RGB images of shape (B, 3, H, W), got {tuple(sr.shape)}")
    if not data_range > 0:
        raise ArgumentError(f"data_range must be positive (1.0 or 255), got {data_range}")
    height, width = sr.shape[-2:]
    if min(height, width) - 2 * border < smallest:
        raise ArgumentError(
            f"images of {width}x{height} pixels are too small: at least {smallest}x{smallest} must be left "
            f"inside a border of {border}"
        )


def inside(image: Tensor, border: int) -> Tensor:
    """The pixels of ``(..., H, W)`` inside a border, as a view."""
    height, width = image.shape[-2:]
    return image[..., border : height - border, border : width - border]


def to_float64(image: Tensor) -> Tensor:
    """The image in float64, on its own device if that has such numbers."""
    return (image.cpu() if image.device.type == "mps" else image).to(torch.float64)


def _psnr(difference: Tensor) -> Tensor:
    return 10.0 * torch.log10(_PEAK**2 / difference.square().mean(dim=(1, 2, 3)))


def _blur(x: Tensor) -> Tensor:
    """Gaussian window sums of a ``(B, 1, H, W)`` map, valid region only."""
    offsets = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    x = functional.conv2d(x, kernel.view(1, 1, -1, 1))
    return functional.conv2d(x, kernel.view(1, 1, 1, -1))
