"""The artefact map against a naive loop, its invariances, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.measures import artifact_map, artifact_score


def images(
    seed: int = 0, *, batch: int = 2, size: tuple[int, int] = (20, 33)
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hr = torch.rand(batch, 3, *size, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(hr.shape, generator=generator, dtype=torch.float64)
    return (hr + noise).clamp(0, 1), hr


def naive(sr: torch.Tensor, hr: torch.Tensor) -> np.ndarray:
    """One image ``(3, H, W)``, pixel by pixel, as the paper's formulas read."""
    residual = np.abs(sr.numpy() - hr.numpy()).sum(axis=0)
    padded = np.pad(residual, 3, mode="reflect")
    height, width = residual.shape
    local = np.empty_like(residual)
    for row in range(height):
        for column in range(width):
            local[row, column] = padded[row : row + 7, column : column + 7].var(ddof=1)
    return residual.var(ddof=1) ** (1 / 5) * local


def test_the_map_is_that_of_a_naive_loop() -> None:
    sr, hr = images()
    got = artifact_map(sr, hr, data_range=1.0)
    assert got.shape == (2, 1, 20, 33)
    assert got.dtype == torch.float64
    for index in range(2):
        np.testing.assert_allclose(got[index, 0].numpy(), naive(sr[index], hr[index]), rtol=1e-9, atol=1e-15)


def test_the_score_is_the_mean_of_the_map_inside_the_border() -> None:
    sr, hr = images()
    inside = sr[:, :, 4:-4, 4:-4], hr[:, :, 4:-4, 4:-4]
    expected = artifact_map(*inside, data_range=1.0).mean(dim=(1, 2, 3))
    assert torch.equal(artifact_score(sr, hr, border=4, data_range=1.0), expected)


def test_no_error_and_an_even_error_score_nothing() -> None:
    _, hr = images()
    assert artifact_score(hr, hr, border=0, data_range=1.0).tolist() == [0.0, 0.0]
    shifted = artifact_score(hr + 0.25, hr, border=0, data_range=1.0)
    assert shifted.max() < 1e-20


def test_it_is_homogeneous_and_knows_the_range() -> None:
    sr, hr = images()
    once = artifact_score(hr + 0.1 * (sr - hr), hr, border=0, data_range=1.0)
    thrice = artifact_score(hr + 0.3 * (sr - hr), hr, border=0, data_range=1.0)
    assert torch.allclose(thrice, once * 3**2.4, rtol=1e-9)
    eight_bit = (sr * 255).round().to(torch.uint8), (hr * 255).round().to(torch.uint8)
    floats = eight_bit[0].double() / 255, eight_bit[1].double() / 255
    assert torch.allclose(
        artifact_score(*eight_bit, border=1, data_range=255),
        artifact_score(*floats, border=1, data_range=1.0),
        rtol=1e-9,
    )


def test_it_does_not_depend_on_orientation_order_of_channels_or_of_arguments() -> None:
    sr, hr = images()
    score = artifact_score(sr, hr, border=2, data_range=1.0)
    for change in (
        lambda image: image.flip(-1),
        lambda image: image.flip(-2),
        lambda image: image.transpose(-1, -2),
        lambda image: image[:, [2, 0, 1]],
    ):
        assert torch.allclose(
            artifact_score(change(sr), change(hr), border=2, data_range=1.0), score, rtol=1e-9
        )
    assert torch.equal(artifact_score(hr, sr, border=2, data_range=1.0), score)


def test_more_noise_scores_more_and_blur_less_than_noise_of_the_same_size() -> None:
    generator = torch.Generator().manual_seed(3)
    ramp = torch.linspace(0.2, 0.8, 64, dtype=torch.float64).expand(1, 3, 64, 64)
    noise = torch.randn(ramp.shape, generator=generator, dtype=torch.float64)
    scores = [
        artifact_score(ramp + level * noise, ramp, border=0, data_range=1.0).item()
        for level in (0.01, 0.02, 0.05, 0.1)
    ]
    assert scores == sorted(scores)
    assert scores[0] > 0
    wave = torch.sin(torch.linspace(0, 3, 64, dtype=torch.float64)).expand_as(ramp)
    smooth = wave / wave.square().mean().sqrt() * noise.square().mean().sqrt()
    assert artifact_score(ramp + 0.1 * smooth, ramp, border=0, data_range=1.0).item() < scores[-1] / 10


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((1, 3, 16, 16), (1, 3, 16, 12)), {}, r"must have one shape, got \(1, 3, 16, 16\)"),
        (((3, 16, 16), (3, 16, 16)), {}, r"expected RGB images of shape \(B, 3, H, W\)"),
        (((1, 1, 16, 16), (1, 1, 16, 16)), {}, r"got \(1, 1, "),
        (((1, 3, 16, 16), (1, 3, 16, 16)), {"border": -1}, "border must be >= 0"),
        (((1, 3, 16, 16), (1, 3, 16, 16)), {"border": 7}, "at least 4x4 must be left inside a border of 7"),
        (((1, 3, 16, 16), (1, 3, 16, 16)), {"border": 9}, "at least 4x4 must be left inside a border of 9"),
        (((1, 3, 16, 16), (1, 3, 16, 16)), {"data_range": 0.0}, "data_range must be positive"),
    ],
)
def test_refuses(shapes, options, message) -> None:
    sr, hr = (torch.zeros(shape) for shape in shapes)
    given: dict[str, Any] = {"border": 0, "data_range": 1.0, **options}
    with pytest.raises(ArgumentError, match=message):
        artifact_score(sr, hr, **given)
