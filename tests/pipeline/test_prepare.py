"""Arguments of upscale: what fills the gaps, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.models import DenoiserConfig, ModelConfig
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.pipeline.prepare import (
    PaddedInput,
    check_tensor,
    pad_to_multiple,
    resolve_halo,
    resolve_sampling,
    resolve_seeds,
    resolve_tile,
)

CONFIG = ResolverConfig(sampling=SamplingConfig(sampler="ddim", steps=8, start=40, spacing="trailing"))


def sampling(**given):
    return resolve_sampling(CONFIG, **{"sampler": None, "steps": None, "start": None, **given})


def test_what_is_not_given_comes_from_the_model():
    assert sampling() == CONFIG.sampling
    assert sampling(sampler="ddpm", steps=np.int64(3)) == SamplingConfig(
        sampler="ddpm", steps=3, start=40, spacing="trailing"
    )
    assert sampling(start="noise").start is None
    assert sampling(start="noise", steps=100).steps == 100
    assert sampling(start=0).steps == 1
    assert sampling(start=5).steps == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampler": "euler"}, r"sampler must be one of ddpm, ddim, dpmpp_2m; got 'euler'"),
        ({"steps": 0}, r"steps must be a whole number from 1 to 41 .*, got 0"),
        ({"steps": 42}, r"steps must be a whole number from 1 to 41 .*, got 42"),
        ({"steps": 101, "start": "noise"}, r"steps must be a whole number from 1 to 100"),
        ({"steps": 2.0}, r"steps must be a whole number .*, got 2\.0"),
        ({"steps": True}, r"steps must be a whole number .*, got True"),
        ({"start": -1}, r"start must be 'noise' or a timestep from 0 to 99, got -1"),
        ({"start": 100}, r"start must be 'noise' or a timestep from 0 to 99, got 100"),
        ({"start": "image"}, r"start must be 'noise' or a timestep .* got 'image'"),
    ],
)
def test_sampling_out_of_range_is_named(given, message):
    with pytest.raises(ArgumentError, match=message):
        sampling(**given)


def test_every_image_has_a_seed():
    assert resolve_seeds(5, 3) == [5, 6, 7]
    assert resolve_seeds([9, 9], 2) == [9, 9]
    assert resolve_seeds([np.int64(2)], 1) == [2]  # type: ignore[list-item]
    assert resolve_seeds(4, 0) == []


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ([1, 2], r"one integer or 3 of them, one an image; got 2"),
        (-1, r"integers from 0 to 2\*\*63 - 1, got \[-1, 0, 1\]"),
        (2**63, r"integers from 0 to"),
        (None, r"integers from 0 to .*None"),
        (0.5, r"integers from 0 to .*0\.5"),
        (True, r"integers from 0 to .*True"),
        ("abc", r"integers from 0 to .*'a'"),
    ],
)
def test_seeds_that_are_none_are_refused(seed, message):
    with pytest.raises(ArgumentError, match=message):
        resolve_seeds(seed, 3)


def test_tiles_are_given_in_input_pixels():
    assert resolve_tile("auto", 4) is None
    assert resolve_tile(0, 4) == 0
    assert resolve_tile(32, 4) == 128
    assert resolve_halo(None, scale=4) is None
    assert resolve_halo(3, scale=4) == 12


@pytest.mark.parametrize("value", [-1, 1.5, "big", True])
def test_bad_tiles_are_refused(value):
    with pytest.raises(ArgumentError, match=r"tile must be 'auto', 0 \(no tiles\) or a side in pixels"):
        resolve_tile(value, 4)
    with pytest.raises(ArgumentError, match=r"tile_overlap must be None or a number >= 0 of pixels"):
        resolve_halo(value, scale=4)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (33, 50), (8, 8)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_padding_meets_the_networks_needs_and_keeps_the_image(size, scale):
    model = ModelConfig(scale=scale)
    lr = torch.rand(2, 3, *size)
    padded = pad_to_multiple(lr, model)
    assert torch.equal(padded[:, :, : size[0], : size[1]], lr)
    for length, before in zip(padded.shape[-2:], size, strict=True):
        assert length % model.lr_multiple == 0
        assert model.lr_minimum <= length < max(model.lr_minimum + 1, before + model.lr_multiple)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 7), (2, 3), (5, 2), (3, 4), (7, 9), (8, 8), (16, 15), (15, 16), (24, 17)]
)
def test_windows_of_a_padded_input_are_cut_from_the_padded_one(size: tuple[int, int]):
    model = ModelConfig(denoiser=DenoiserConfig(multipliers=(1, 2, 3, 4, 5)))
    lr = torch.rand(2, 3, *size)
    whole, padded = pad_to_multiple(lr, model), PaddedInput(lr, model)
    assert (padded.height, padded.width) == whole.shape[-2:]
    windows = [
        (0, 99, 0, 99),
        (-3, 2, -1, 4),
        (1, 6, 3, 7),
        (size[0], size[0] + 2, 0, 3),
        (0, 3, size[1], 99),
    ]
    for top, bottom, left, right in windows:
        expected = whole[:, :, max(top, 0) : bottom, max(left, 0) : right]
        assert torch.equal(padded.window(top, bottom, left, right), expected)
    inside = padded.window(0, 1, 0, 1)
    assert inside.untyped_storage().data_ptr() == lr.untyped_storage().data_ptr()


def test_padding_reflects_and_then_repeats():
    lr = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    padded = pad_to_multiple(lr, ModelConfig(scale=2))
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0].tolist() == [1, 2, 3, 2, 1, 1, 1, 1]
    assert torch.equal(padded, padded[:, :, :1].expand_as(padded))


@pytest.mark.parametrize(
    ("lr", "seeds", "message"),
    [
        (torch.rand(3, 4, 4), [0], r"expected a tensor \(B, 3, H, W\) .*, got shape \(3, 4, 4\)"),
        (torch.rand(1, 4, 4, 4), [0], r"got shape \(1, 4, 4, 4\)"),
        (torch.rand(0, 3, 4, 4), [], r"got shape \(0, 3, 4, 4\)"),
        (torch.rand(1, 3, 0, 4), [0], r"got shape \(1, 3, 0, 4\)"),
        (torch.rand(1, 3, 4, 4).double(), [0], r"expected float32 in \[0, 1\], got torch\.float64"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [0], r"got torch\.uint8; convert it"),
        (torch.rand(1, 3, 4, 4, device="meta"), [0], r"expected a tensor on cpu, got one on meta; move it"),
        (torch.rand(2, 3, 4, 4), [0], r"expected one seed an image, 2 in all, got 1"),
        (torch.full((1, 3, 4, 4), 1.01), [0], r"expected values in \[0, 1\], got 1\.01 to 1\.01"),
        (torch.full((1, 3, 4, 4), -0.5), [0], r"got -0\.5 to -0\.5"),
        (torch.full((1, 3, 4, 4), float("nan")), [0], r"got nan to nan"),
    ],
)
def test_the_contract_of_tensors_is_enforced(lr, seeds, message):
    with pytest.raises(ImageError, match=message):
        check_tensor(lr, seeds=seeds, device=torch.device("cpu"))
