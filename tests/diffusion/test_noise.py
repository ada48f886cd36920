"""Noise that depends on each image's seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sam_diffsr.diffusion import ImageNoise, noise
from sam_diffsr.errors import ArgumentError

SEEDS = [5, 0, -7, 2**63 - 1]


def test_a_batch_of_four_is_four_singles() -> None:
    like = torch.empty(4, 3, 5, 7)
    batch = ImageNoise(SEEDS)
    singles = [ImageNoise([seed]) for seed in SEEDS]
    for _ in range(3):
        drawn = batch(like)
        assert torch.equal(drawn, torch.cat([single(like[:1]) for single in singles]))


def test_a_seed_gives_a_sequence_that_repeats() -> None:
    like = torch.empty(1, 3, 5, 7)
    first, second = ImageNoise([3]), ImageNoise([3])
    draws = [first(like) for _ in range(2)]
    assert not torch.equal(draws[0], draws[1])
    assert all(torch.equal(draw, second(like)) for draw in draws)
    assert not torch.equal(draws[0], ImageNoise([4])(like))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    ImageNoise([1, 2])(torch.empty(2, 3, 4, 4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_gets_the_same_numbers(dtype: torch.dtype) -> None:
    like = torch.empty(1, 3, 5, 7, dtype=dtype)
    drawn = ImageNoise([9])(like)
    assert drawn.dtype == dtype
    assert torch.equal(drawn, ImageNoise([9])(like.float()).to(dtype))


def test_a_channels_last_canvas_gets_the_same_numbers() -> None:
    like = torch.empty(2, 3, 5, 7).to(memory_format=torch.channels_last)
    assert torch.equal(ImageNoise([1, 2])(like), ImageNoise([1, 2])(like.contiguous()))


@pytest.mark.parametrize("count", [1, 15, 16, 64, 79, 80, 81, 143, 144, 3 * 40 * 24])
def test_pieces_are_the_same_numbers(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_PIECE", 64)
    whole, pieces = ImageNoise(SEEDS[:2]), ImageNoise(SEEDS[:2])
    for _ in range(2):
        drawn = whole(torch.empty(2, 1, 1, count))
        for image in range(2):
            joined = torch.full((count,), float("nan"))
            for piece, numbers in pieces.pieces(image, count):
                joined[piece] = numbers
            assert torch.equal(joined, drawn[image].flatten())


def test_filling_in_pieces_is_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_PIECE", 64)
    x = torch.empty(2, 3, 5, 9)
    ImageNoise(SEEDS[:2]).fill(x)
    assert torch.equal(x, ImageNoise(SEEDS[:2])(x))
    with pytest.raises(ArgumentError, match=r"batch \(B, C, H, W\) of 1 images.*got \(2, 3, 5, 9\)"):
        ImageNoise([1]).fill(x)


@pytest.mark.parametrize("deviation", [0.0, 0.3])
def test_adding_in_pieces_is_adding_a_draw(deviation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_PIECE", 64)
    whole, pieces = ImageNoise(SEEDS[:2]), ImageNoise(SEEDS[:2])
    x = torch.rand(2, 3, 5, 9)
    expected = x.add(whole(x), alpha=deviation)
    pieces.add_to(x, deviation)
    assert torch.equal(x, expected)
    assert torch.equal(whole(x), pieces(x))  # both went on by one draw
    with pytest.raises(ArgumentError, match=r"batch \(B, C, H, W\) of 2 images.*got \(3, 3, 5, 9\)"):
        pieces.add_to(torch.rand(3, 3, 5, 9), deviation)


def test_it_is_standard_normal() -> None:
    drawn = ImageNoise([1])(torch.empty(1, 1, 200, 200))
    assert float(drawn.mean()) == pytest.approx(0, abs=0.025)
    assert float(drawn.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.gpu
def test_a_gpu_gets_the_same_numbers() -> None:
    like = torch.empty(2, 3, 5, 7)
    assert torch.equal(ImageNoise([1, 2])(like.cuda()).cpu(), ImageNoise([1, 2])(like))


def test_numpy_integers_are_seeds() -> None:
    seeds: Any = np.array([3, 4])
    like = torch.empty(2, 1, 2, 2)
    assert torch.equal(ImageNoise(seeds)(like), ImageNoise([3, 4])(like))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="seeds must hold one seed for each image, got none"):
        ImageNoise([])
    bad: Any
    for bad in (1.5, True, "7", None, 2**63, -(2**63) - 1):
        with pytest.raises(ArgumentError, match=r"a seed must be a whole number in .*, got"):
            ImageNoise([0, bad])
    noise = ImageNoise([1, 2])
    with pytest.raises(ArgumentError, match=r"batch \(B, C, H, W\) of 2 images.*got \(3, 1, 2, 2\)"):
        noise(torch.empty(3, 1, 2, 2))
    with pytest.raises(ArgumentError, match=r"got \(2, 2\)"):
        noise(torch.empty(2, 2))
