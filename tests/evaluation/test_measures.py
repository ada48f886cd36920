"""Ringing, grain and colour: 0 for the truth, what was added for made images, and scipy as oracle."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from sam_diffsr.errors import ArgumentError
from sam_diffsr.evaluation.measures import colour_shift, grain, ringing


def gray(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    """``(1, 3, H, W)`` of levels, equal in all channels, so that luma is the level."""
    return torch.as_tensor(values, dtype=torch.float64).expand(1, 3, -1, -1).clone()


def edge(height: int = 64, width: int = 80, *, low: float = 50, high: float = 200) -> torch.Tensor:
    """Dark on the left, bright from the middle on."""
    levels = torch.full((height, width), low, dtype=torch.float64)
    levels[:, width // 2 :] = high
    return gray(levels)


def photo(seed: int) -> torch.Tensor:
    """8-bit image with flat parts and edges."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.repeat(rng.integers(0, 256, (3, 4, 5)), 30, axis=1), 24, axis=2)
    image = np.clip(image + rng.integers(-2, 3, image.shape), 0, 255)
    return torch.from_numpy(image.astype(np.uint8))[None]


def test_the_truth_and_what_is_softer_do_not_ring() -> None:
    hr = photo(0)
    assert ringing(hr, hr, border=4, data_range=255).item() == 0
    soft = edge()
    soft[..., 38:42] = torch.tensor([80.0, 110, 140, 170])
    assert ringing(soft, edge(), border=0, data_range=255).item() == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_overshoot_is_counted_as_it_was_added(sign: int) -> None:
    hr, sr = edge(), edge()
    column = 40 if sign > 0 else 39  # the bright side of the edge, and the dark one
    sr[..., column] += sign * 12
    # near are the two columns where the step is and 8 on each side, of which one overshoots
    assert ringing(sr, hr, border=0, data_range=255).item() == pytest.approx(12 / 18)
    sr[..., column] -= sign * 24
    assert ringing(sr, hr, border=0, data_range=255).item() == 0  # inwards is blur, not ringing
    far = edge()
    far[..., 60] += 12
    assert ringing(far, hr, border=0, data_range=255).item() == 0


def test_an_image_without_strong_edges_has_no_ringing_to_measure() -> None:
    assert math.isnan(ringing(edge(), edge(low=100, high=160), border=0, data_range=255).item())
    assert ringing(edge(), edge(low=100, high=161), border=0, data_range=255).item() > 0
    assert math.isnan(ringing(edge(20, 80), edge(20, 80), border=0, data_range=255).item())  # 360 pixels


@pytest.mark.parametrize("deviation", [0.5, 3.0])
def test_white_noise_in_a_flat_image_is_grain(deviation: float) -> None:
    noise = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat = torch.full((1, 3, 400, 400), 128.0, dtype=torch.float64)
    sr = flat + deviation * noise
    expected = deviation * math.sqrt(24 / 25)
    assert grain(sr, flat, border=2, data_range=255).item() == pytest.approx(expected, rel=0.01)
    assert grain(flat, flat, border=0, data_range=255).item() == pytest.approx(0, abs=1e-9)
    assert grain(flat + 7, flat, border=0, data_range=255).item() == pytest.approx(0, abs=1e-9)


def test_grain_counts_only_where_the_truth_is_flat() -> None:
    hr = torch.full((1, 3, 80, 120), 100.0, dtype=torch.float64)
    hr[..., 60:] += 50
    noise = torch.randn(80, 120, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sr = hr.clone()
    sr[..., 54:66] += 20 * noise[:, 54:66]  # all of it, and its means, within the reach of the edge
    assert grain(sr, hr, border=0, data_range=255).item() < 1e-9
    busy = gray(50 * noise)
    assert math.isnan(grain(hr, busy, border=0, data_range=255).item())


def test_a_constant_offset_is_exactly_that_shift_of_colour() -> None:
    hr = photo(3).double()
    offset = torch.tensor([0.5, -3.25, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    assert colour_shift(hr + offset, hr, border=4, data_range=255).item() == pytest.approx(3.25)
    assert colour_shift((hr + offset) / 255, hr / 255, border=4, data_range=1.0).item() == pytest.approx(3.25)
    assert colour_shift(hr, hr, border=0, data_range=255).item() == 0
    framed = hr.clone()
    framed[..., :3, :] += 100
    assert colour_shift(framed, hr, border=3, data_range=255).item() == 0


def test_they_are_what_scipy_makes_of_the_definitions() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    hr = photo(4)
    noise = np.random.default_rng(5).integers(-9, 10, hr.shape)
    sr = torch.from_numpy(np.clip(hr.numpy() + noise, 0, 255).astype(np.uint8))

    def levels(image: torch.Tensor) -> np.ndarray:
        weights = np.array([65.481, 128.553, 24.966]) / 219
        return np.tensordot(weights, image[0].numpy().astype(np.float64), axes=1)

    def spread(image: np.ndarray, side: int) -> np.ndarray:
        return ndimage.maximum_filter(image, side) - ndimage.minimum_filter(image, side)

    ours, truth = levels(sr), levels(hr)
    beyond = np.maximum(ours - ndimage.maximum_filter(truth, 9), 0)
    beyond += np.maximum(ndimage.minimum_filter(truth, 9) - ours, 0)
    near = ndimage.binary_dilation(spread(truth, 3) > 60, iterations=8)
    inside = (slice(4, -4), slice(4, -4))
    got = ringing(sr, hr, border=4, data_range=255).item()
    assert got == pytest.approx(beyond[inside][near[inside]].mean())
    flat = spread(truth, 17) < 8
    fine = ours - ndimage.uniform_filter(ours, 5)
    got = grain(sr, hr, border=4, data_range=255).item()
    assert got == pytest.approx(fine[inside][flat[inside]].std())


@pytest.mark.parametrize("measure", [ringing, grain, colour_shift])
def test_batches_are_single_images_and_the_range_is_known(measure) -> None:
    hr = torch.cat([photo(6), photo(7)])
    sr = torch.cat([photo(7), photo(6)]) // 2 + hr // 2
    together = measure(sr, hr, border=4, data_range=255)
    assert together.dtype == torch.float64
    single = [measure(sr[i : i + 1], hr[i : i + 1], border=4, data_range=255).item() for i in range(2)]
    assert together.tolist() == pytest.approx(single)
    as_floats = measure(sr.double() / 255, hr.double() / 255, border=4, data_range=1.0)
    assert torch.allclose(as_floats, together)
    assert (together > 0).all()


@pytest.mark.parametrize("measure", [ringing, grain, colour_shift])
@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((1, 3, 16, 16), (1, 3, 16, 12)), {}, r"must have one shape, got \(1, 3, 16, 16\)"),
        (((1, 1, 16, 16), (1, 1, 16, 16)), {}, r"expected RGB images of shape \(B, 3, H, W\), got \(1, 1, "),
        (((1, 3, 16, 16), (1, 3, 16, 16)), {"border": -1}, "border must be >= 0"),
        (((1, 3, 16, 16), (1, 3, 16, 16)), {"border": 8}, "at least 1x1 must be left inside a border of 8"),
        (((1, 3, 16, 16), (1, 3, 16, 16)), {"data_range": 0.0}, "data_range must be positive"),
    ],
)
def test_refuses(measure, shapes, options, message) -> None:
    sr, hr = (torch.zeros(shape) for shape in shapes)
    given: dict[str, Any] = {"border": 0, "data_range": 1.0, **options}
    with pytest.raises(ArgumentError, match=message):
        measure(sr, hr, **given)
