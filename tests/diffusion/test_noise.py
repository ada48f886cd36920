"""Noise as a function of seed, step and place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sam_diffsr.diffusion import PositionNoise
from sam_diffsr.errors import ArgumentError

SEEDS = [5, 0, -7, 2**63 - 1]


def test_a_window_has_the_noise_of_its_place() -> None:
    whole = PositionNoise([3])
    corners = [(0, 0), (5, 60), (64, 64), (100, 1)]
    windows = PositionNoise([3] * 4, corners)
    for _ in range(3):
        image = whole(torch.empty(1, 3, 200, 170))
        drawn = windows(torch.empty(4, 3, 90, 100))
        for window, (top, left) in zip(drawn, corners, strict=True):
            assert torch.equal(window, image[0, :, top : top + 90, left : left + 100])


def test_noise_with_a_period_repeats_the_image_in_all_directions() -> None:
    height, width = 70, 5
    whole = PositionNoise([3])
    around = PositionNoise([3], [(-9, -12)], period=(height, width))
    for _ in range(2):
        image = whole(torch.empty(1, 3, height, width))
        rows, columns = torch.arange(-9, 141) % height, torch.arange(-12, 28) % width
        assert torch.equal(around(torch.empty(1, 3, 150, 40)), image[:, :, rows[:, None], columns])


def test_neighbouring_blocks_steps_and_seeds_differ() -> None:
    noise = PositionNoise([3])
    first, second = noise(torch.empty(1, 3, 128, 128)), noise(torch.empty(1, 3, 128, 128))
    others = [PositionNoise([4])(first), second]
    others += [first.roll(64, axis) for axis in (2, 3)]
    for other in others:
        assert abs(float((first * other).mean())) < 0.02  # 49152 independent products


def test_a_batch_of_four_is_four_singles() -> None:
    like = torch.empty(4, 3, 5, 7)
    batch = PositionNoise(SEEDS)
    singles = [PositionNoise([seed]) for seed in SEEDS]
    for _ in range(3):
        drawn = batch(like)
        assert torch.equal(drawn, torch.cat([single(like[:1]) for single in singles]))


def test_a_seed_gives_a_sequence_that_repeats() -> None:
    like = torch.empty(1, 3, 5, 7)
    first, second = PositionNoise([3]), PositionNoise([3])
    for _ in range(2):
        assert torch.equal(first(like), second(like))


def test_the_callers_torch_state_is_neither_used_nor_changed() -> None:
    like = torch.empty(2, 3, 4, 4)
    expected = PositionNoise([1, 2])(like)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            drawn = PositionNoise([1, 2])(like)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(drawn, expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_and_layout_gets_the_same_numbers(dtype: torch.dtype) -> None:
    like = torch.empty(1, 3, 5, 7, dtype=dtype)
    drawn = PositionNoise([9])(like)
    assert drawn.dtype == dtype
    assert torch.equal(drawn, PositionNoise([9])(like.float()).to(dtype))
    assert torch.equal(drawn, PositionNoise([9])(like.to(memory_format=torch.channels_last)))


def test_it_is_standard_normal() -> None:
    drawn = PositionNoise([1])(torch.empty(1, 3, 200, 200))
    assert float(drawn.mean()) == pytest.approx(0, abs=0.015)
    assert float(drawn.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.gpu
def test_a_gpu_gets_the_same_numbers() -> None:
    like = torch.empty(2, 3, 5, 7)
    assert torch.equal(PositionNoise([1, 2])(like.cuda()).cpu(), PositionNoise([1, 2])(like))


def test_numpy_integers_are_seeds() -> None:
    seeds: Any = np.array([3, 4])
    like = torch.empty(2, 1, 2, 2)
    assert torch.equal(PositionNoise(seeds)(like), PositionNoise([3, 4])(like))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="seeds must hold one seed for each image, got none"):
        PositionNoise([])
    bad: Any
    for bad in (1.5, True, "7", None, 2**63, -(2**63) - 1):
        with pytest.raises(ArgumentError, match=r"a seed must be a whole number in .*, got"):
            PositionNoise([0, bad])
    noise = PositionNoise([1, 2])
    with pytest.raises(ArgumentError, match=r"batch \(B, C, H, W\) of 2 images.*got \(3, 1, 2, 2\)"):
        noise(torch.empty(3, 1, 2, 2))
    with pytest.raises(ArgumentError, match=r"got \(2, 2\)"):
        noise(torch.empty(2, 2))
