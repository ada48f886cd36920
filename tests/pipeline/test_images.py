"""Transparency, final size and place in a list."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam_diffsr.errors import ArgumentError, ImageError, ImageTooLargeError
from sam_diffsr.image import decode_image
from sam_diffsr.pipeline.images import Picture, check_tensor, encode_output, output_size
from sam_diffsr.resize import imresize


def test_the_networks_own_size_needs_no_resizing():
    assert output_size(3, 5, scale=4, outscale=None, max_pixels=None) == (12, 20)
    assert output_size(3, 5, scale=4, outscale=4.0, max_pixels=1) == (12, 20)


@pytest.mark.parametrize(
    ("outscale", "size"),
    [
        (2, (6, 10)),
        (1.5, (4, 8)),
        (0.01, (1, 1)),
        (8, (24, 40)),
        (np.float64(1), (3, 5)),
        (np.float32(2), (6, 10)),
    ],
)
def test_any_other_factor_is_rounded_to_pixels(outscale, size):
    assert output_size(3, 5, scale=4, outscale=outscale, max_pixels=1000) == size


def test_a_size_beyond_all_numbers_is_refused():
    with pytest.raises(ArgumentError, match=r"outscale 1e\+308 is too large for an image of 20 x 10 pixels"):
        output_size(10, 20, scale=4, outscale=1e308, max_pixels=None)


@pytest.mark.parametrize("outscale", [0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_is_none_is_refused(outscale):
    with pytest.raises(ArgumentError, match=r"outscale must be None or a finite factor > 0, got"):
        output_size(3, 5, scale=4, outscale=outscale, max_pixels=None)


def test_an_absurd_factor_is_refused_before_anything_is_computed():
    with pytest.raises(
        ImageTooLargeError, match=r"the result would have 2000 x 1000 pixels, more than the limit"
    ):
        output_size(10, 20, scale=4, outscale=100, max_pixels=1000)


def test_alpha_is_bicubic_and_clamped():
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    array[..., 3] = np.arange(30).reshape(5, 6) % 2 * 255
    result = encode_output(torch.zeros(1, 3, 20, 24), decode_image(array), size=(20, 24))
    expected = imresize(torch.from_numpy(array[..., 3] / 255.0).float(), 4).clamp(0, 1)
    np.testing.assert_array_equal(np.asarray(result)[..., 3], (expected * 255).round().numpy())


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_alpha_that_is_the_same_everywhere_stays_exactly_so(value: int):
    array = np.full((3, 4, 4), value, dtype=np.uint8)
    result = encode_output(torch.zeros(1, 3, 12, 16), decode_image(array), size=(7, 5))
    assert np.asarray(result).shape == (7, 5, 4)
    assert (np.asarray(result)[..., 3] == value).all()


def test_the_final_size_is_resized_bicubically_and_clamped():
    array = np.random.default_rng(0).random((4, 4, 3), dtype=np.float32)
    sr = torch.rand(1, 3, 16, 16).round()
    result = encode_output(sr, decode_image(array), size=(10, 9))
    expected = imresize(sr, size=(10, 9)).clamp(0, 1)[0].permute(1, 2, 0)
    np.testing.assert_allclose(np.asarray(result), expected.numpy(), atol=1e-6)


def picture(image, index, max_pixels=None):
    return Picture(image, seed=0, index=index, scale=4, outscale=None, max_pixels=max_pixels, wrap=False)


def test_an_error_in_a_list_says_where():
    bad = np.zeros((2, 2, 7))
    with pytest.raises(ImageError, match=r"^image 3 of the list: "):
        picture(bad, 3)
    with pytest.raises(ImageTooLargeError, match=r"^image 0 of the list: "):
        picture(np.zeros((9, 9)), 0, max_pixels=80)
    with pytest.raises(ImageError, match=r"^an image array must be"):
        picture(bad, None)


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (
            torch.rand(3, 4, 4),
            r"expected a float32 tensor \(B, 3, H, W\) .* on cpu, got torch.float32 \(3, 4, 4\) on cpu",
        ),
        (torch.rand(1, 4, 4, 4), r"got torch.float32 \(1, 4, 4, 4\)"),
        (torch.rand(0, 3, 4, 4), r"\(0, 3, 4, 4\)"),
        (torch.rand(1, 3, 0, 4), r"\(1, 3, 0, 4\)"),
        (torch.rand(1, 3, 4, 4).double(), r"got torch\.float64 \(1"),
        (
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            r"got torch\.uint8 .*; 8-bit values become float32 with",
        ),
        (torch.rand(1, 3, 4, 4, device="meta"), r"on cpu, got .* on meta"),
        (np.zeros((1, 3, 4, 4), np.float32), r"on cpu, got ndarray; images and arrays go to upscale"),
        (torch.full((1, 3, 4, 4), 1.01), r"expected values in \[0, 1\], got 1\.01 to 1\.01"),
        (torch.full((1, 3, 4, 4), -0.5), r"got -0\.5 to -0\.5"),
        (torch.full((1, 3, 4, 4), float("nan")), r"got nan to nan"),
    ],
)
def test_the_contract_of_tensors_is_enforced(lr, message):
    with pytest.raises(ImageError, match=message):
        check_tensor(lr, device=torch.device("cpu"))
