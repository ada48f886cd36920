"""Parity of the metrics with numpy and scikit-image, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.metrics import luma, psnr_y, ssim_y

BORDER = 4


def images(
    seed: int = 0, batch: int = 2, size: tuple[int, int] = (37, 52)
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hr = torch.randint(0, 256, (batch, 3, *size), generator=generator)
    noise = torch.randint(-20, 21, hr.shape, generator=generator)
    return (hr + noise).clamp(0, 255).to(torch.uint8), hr.to(torch.uint8)


def matlab_luma(image: torch.Tensor) -> np.ndarray:
    """``(3, H, W)`` uint8 to luma, written out as MATLAB's documentation has it."""
    red, green, blue = image.numpy().astype(np.float64) / 255.0
    return 16.0 + 65.481 * red + 128.553 * green + 24.966 * blue


def test_luma_has_studio_range() -> None:
    black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert torch.allclose(
        luma(black_and_white, data_range=1.0).flatten(), torch.tensor([16.0, 235.0]).double()
    )


def test_psnr_equals_numpy() -> None:
    sr, hr = images()
    got = psnr_y(sr, hr, border=BORDER, data_range=255)
    for index in range(2):
        error = (matlab_luma(sr[index]) - matlab_luma(hr[index]))[BORDER:-BORDER, BORDER:-BORDER]
        assert got[index].item() == pytest.approx(10 * np.log10(255.0**2 / np.mean(error**2)), abs=1e-10)


def test_psnr_and_ssim_equal_skimage() -> None:
    """scikit-image leaves out half a window at each side of its map, which is MATLAB's valid region."""
    skimage_metrics = pytest.importorskip("skimage.metrics")
    sr, hr = images(1)
    psnr = psnr_y(sr, hr, border=BORDER, data_range=255)
    ssim = ssim_y(sr, hr, border=BORDER, data_range=255)
    for index in range(2):
        x, y = (matlab_luma(image[index])[BORDER:-BORDER, BORDER:-BORDER] for image in (sr, hr))
        assert psnr[index].item() == pytest.approx(
            skimage_metrics.peak_signal_noise_ratio(y, x, data_range=255), abs=1e-9
        )
        expected = skimage_metrics.structural_similarity(
            y, x, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert ssim[index].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_values_are_per_image(metric) -> None:
    sr, hr = images(2, batch=3)
    together = metric(sr, hr, border=0, data_range=255)
    alone = torch.cat([metric(sr[i : i + 1], hr[i : i + 1], border=0, data_range=255) for i in range(3)])
    assert together.shape == (3,)
    assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_float_and_uint8_agree(metric) -> None:
    sr, hr = images(3)
    eight_bit = metric(sr, hr, border=BORDER, data_range=255)
    floats = metric(sr.double() / 255, hr.double() / 255, border=BORDER, data_range=1.0)
    assert torch.allclose(eight_bit, floats, atol=1e-9)


def test_equal_images() -> None:
    _, hr = images()
    assert psnr_y(hr, hr, border=0, data_range=255).isinf().all()
    assert torch.allclose(ssim_y(hr, hr, border=0, data_range=255), torch.ones(2).double(), atol=1e-12)


def test_inputs_are_not_changed() -> None:
    sr, hr = images()
    before = sr.clone(), hr.clone()
    ssim_y(sr, hr, border=1, data_range=255)
    assert torch.equal(sr, before[0])
    assert torch.equal(hr, before[1])


@pytest.mark.parametrize(
    ("sr", "hr", "border", "data_range", "message"),
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 12), 0, 1.0, "must have one shape"),
        (
            torch.zeros(3, 16, 16),
            torch.zeros(3, 16, 16),
            0,
            1.0,
            r"expected RGB images of shape \(B, 3, H, W\)",
        ),
        (torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), 0, 1.0, r"got \(1, 1, 16, 16\)"),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), -1, 1.0, "border must be >= 0"),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), 8, 1.0, "too small.*border of 8"),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), 0, 0.0, "data_range must be positive"),
    ],
)
@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_refuses(metric, sr, hr, border, data_range, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        metric(sr, hr, border=border, data_range=data_range)


def test_ssim_needs_a_whole_window() -> None:
    with pytest.raises(ArgumentError, match="at least 11x11"):
        ssim_y(torch.zeros(1, 3, 18, 18), torch.zeros(1, 3, 18, 18), border=4, data_range=1.0)
