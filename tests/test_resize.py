"""``imresize``: identities, then an independent implementation, then published numbers."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sam_diffsr.errors import ArgumentError, ImageError
from sam_diffsr.resize import imresize

SCALES = [0.25, 0.5, 0.37, 1 / 3, 1.5, 2.0, 3.3, 4.0]


def random_image(*shape, dtype=torch.float64, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def cubic(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def naive_line(values, length, factor):
    """One output pixel at a time, one source pixel at a time, on a line that is mirrored for real."""
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    reach = 3 + math.ceil(2 / min(factor, 1.0))
    line = np.concatenate([values, values[::-1]])
    result = []
    for position in range(length):
        centre = (position + 0.5) / factor - 0.5
        total = weight_sum = 0.0
        for source in range(math.floor(centre) - reach, math.ceil(centre) + reach + 1):
            weight = cubic((centre - source) * min(factor, 1.0))
            total += weight * line[source % (2 * count)]
            weight_sum += weight
        result.append(total / weight_sum)
    return np.array(result)


def naive_resize(image, factors, size):
    rows = np.stack([naive_line(column, size[0], factors[0]) for column in image.T], axis=1)
    return np.stack([naive_line(row, size[1], factors[1]) for row in rows])


# Identities


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scale_one_is_an_exact_copy(dtype):
    image = (random_image(3, 9, 7) * 255).to(dtype)
    result = imresize(image, 1)
    assert result.dtype == dtype
    assert torch.equal(result, image)
    assert result.data_ptr() != image.data_ptr()


@pytest.mark.parametrize("scale", SCALES)
def test_constants_are_preserved(scale):
    result = imresize(torch.full((13, 10), 0.7, dtype=torch.float64), scale)
    torch.testing.assert_close(result, torch.full_like(result, 0.7), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0, 4.0, 3.3])
def test_ramps_are_preserved_in_the_interior(scale):
    ramp = torch.arange(40, dtype=torch.float64).expand(5, 40)
    result = imresize(ramp, scale)[0]
    expected = (torch.arange(len(result), dtype=torch.float64) + 0.5) / scale - 0.5
    border = math.ceil(3 * max(scale, 1.0))
    torch.testing.assert_close(
        result[border:-border], expected[border:-border], rtol=0, atol=1e-12 if scale >= 0.5 else 1e-9
    )


@pytest.mark.parametrize("size", [(33, 20), (9, 61), (2, 3)])
def test_a_seamless_image_is_resized_like_the_middle_of_its_repetition(size):
    image = random_image(20, 17)
    middle = imresize(image.repeat(3, 3), size=(3 * size[0], 3 * size[1]))
    expected = middle[size[0] : -size[0], size[1] : -size[1]]
    torch.testing.assert_close(imresize(image, size=size, wrap=True), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", SCALES)
def test_transposed_input_gives_transposed_output(scale):
    image = random_image(2, 14, 11)
    torch.testing.assert_close(imresize(image.mT, scale), imresize(image, scale).mT, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("axis", [-1, -2])
def test_flipped_input_gives_flipped_output(scale, axis):
    image = random_image(12, 16)
    torch.testing.assert_close(
        imresize(image.flip(axis), scale), imresize(image, scale).flip(axis), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (33, 50), (5, 2)])
def test_output_size_is_the_ceiling(shape, scale):
    result = imresize(random_image(*shape), scale)
    assert result.shape == (math.ceil(shape[0] * scale), math.ceil(shape[1] * scale))
    assert bool(torch.isfinite(result).all())


def test_one_pixel_becomes_a_constant_image():
    assert torch.equal(imresize(torch.full((1, 1), 0.25), 4), torch.full((4, 4), 0.25))


def test_any_leading_dimensions_are_images_of_their_own():
    batch = random_image(2, 3, 4, 8, 6)
    result = imresize(batch, 1.5)
    assert result.shape == (2, 3, 4, 12, 9)
    assert torch.equal(result[1, 2, 3], imresize(batch[1, 2, 3], 1.5))


def test_an_integer_factor_is_the_same_as_its_size():
    image = random_image(3, 8, 12)
    assert torch.equal(imresize(image, 2), imresize(image, size=(16, 24)))
    assert imresize(image, size=(5, 31)).shape == (3, 5, 31)


def test_memory_layout_does_not_matter():
    image = random_image(2, 3, 8, 12)
    assert torch.equal(imresize(image.to(memory_format=torch.channels_last), 2), imresize(image, 2))
    assert torch.equal(imresize(image[..., ::2], 0.5), imresize(image[..., ::2].contiguous(), 0.5))


def test_input_is_left_alone():
    image = random_image(6, 6, dtype=torch.float32)
    before = image.clone()
    imresize(image, 2)
    assert torch.equal(image, before)


# Differentiation


def test_gradcheck():
    image = random_image(2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: imresize(x, 1.5), image)
    assert torch.autograd.gradcheck(lambda x: imresize(x, 0.5), image)


def test_tables_made_in_inference_mode_serve_a_later_training_step():
    shape = (1, 17, 19)  # used by no other test: the tables must be made here
    with torch.inference_mode():
        imresize(random_image(*shape, dtype=torch.float32), 2)
    image = random_image(*shape, dtype=torch.float32).requires_grad_()
    imresize(image, 2).sum().backward()
    assert image.grad is not None
    torch.testing.assert_close(image.grad.sum(), torch.tensor(4.0 * 17 * 19), rtol=1e-5, atol=0)


def test_autocast_does_not_lower_the_precision():
    image = random_image(3, 8, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(imresize(image, 2), imresize(image, 2.0))
    torch.testing.assert_close(imresize(image, 2).double(), imresize(image.double(), 2), rtol=0, atol=1e-6)


# Types


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_types_are_computed_in_float32(dtype, tolerance):
    image = random_image(3, 12, 12, dtype=dtype)
    result = imresize(image, 0.25)
    assert result.dtype == dtype
    assert torch.equal(result, imresize(image.float(), 0.25).to(dtype))
    torch.testing.assert_close(result.double(), imresize(image.double(), 0.25), rtol=0, atol=tolerance)


def test_uint8_is_clipped_and_rounded():
    step = torch.zeros(8, 16, dtype=torch.uint8)
    step[:, 8:] = 255
    result = imresize(step, 4)
    assert result.dtype == torch.uint8
    overshoot = imresize(step.double(), 4)
    assert overshoot.min() < -1
    assert overshoot.max() > 256
    assert torch.equal(result.double(), overshoot.round().clamp(0, 255))


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_cuda_equals_cpu(scale):
    image = random_image(2, 3, 32, 24)
    torch.testing.assert_close(
        imresize(image.cuda(), scale).cpu(), imresize(image, scale), rtol=0, atol=1e-13
    )
    eight_bit = (image * 255).to(torch.uint8)
    assert torch.equal(imresize(eight_bit.cuda(), scale).cpu(), imresize(eight_bit, scale))


# Parity and golden numbers


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(11, 8), (3, 17), (1, 2)])
def test_parity_with_a_naive_double_loop(shape, scale):
    image = random_image(*shape)
    size = tuple(math.ceil(n * scale) for n in shape)
    expected = torch.from_numpy(naive_resize(image.numpy(), (scale, scale), size))
    torch.testing.assert_close(imresize(image, scale), expected, rtol=0, atol=1e-13)


def test_parity_of_size_with_a_naive_double_loop():
    image = random_image(9, 12)
    expected = torch.from_numpy(naive_resize(image.numpy(), (20 / 9, 5 / 12), (20, 5)))
    torch.testing.assert_close(imresize(image, size=(20, 5)), expected, rtol=0, atol=1e-13)


@pytest.fixture(scope="module")
def golden(golden_dir):
    return load_file(golden_dir / "resize.safetensors")


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("case", [0, 1, 2])
def test_published_uint8_reduction_is_exact(golden, case, factor):
    image = golden[f"resize{case}_in"].permute(2, 0, 1)
    expected = golden[f"resize{case}_down{factor}_uint8"].permute(2, 0, 1)
    assert torch.equal(imresize(image, 1 / factor), expected)


@pytest.mark.parametrize("factor", [2, 4])
def test_published_enlargement(golden, factor):
    image = golden["resize2_in"].permute(2, 0, 1).double() / 256
    expected = golden[f"resize2_up{factor}_channel0"]
    torch.testing.assert_close(imresize(image, factor)[0], expected, rtol=0, atol=1e-9)


# Errors


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool, torch.complex64])
def test_other_types_are_refused(dtype):
    with pytest.raises(ImageError, match=r"takes uint8, float16.* got torch\."):
        imresize(torch.ones(4, 4).to(dtype), 2)


def test_wrong_rank_is_refused():
    with pytest.raises(
        ImageError, match=r"an image \(\.\.\., H, W\) of at least one pixel, got shape \(5,\)"
    ):
        imresize(torch.rand(5), 2)


def test_empty_image_is_refused():
    with pytest.raises(ImageError, match="at least one pixel"):
        imresize(torch.rand(3, 0, 4), 2)


@pytest.mark.parametrize("scale", [0, -2.0, float("nan"), float("inf")])
def test_scale_out_of_range_is_refused(scale):
    with pytest.raises(ArgumentError, match="finite scale > 0"):
        imresize(torch.rand(4, 4), scale)


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4,), (1, 2, 3), 5, (2.7, 3)])
def test_size_out_of_range_is_refused(size):
    with pytest.raises(ArgumentError, match="two whole numbers >= 1"):
        imresize(torch.rand(4, 4), size=size)


def test_arrays_are_refused():
    with pytest.raises(ImageError, match="imresize takes a tensor, got ndarray"):
        imresize(cast("Any", np.zeros((3, 3))), 2)


def test_scale_and_size_together_are_refused():
    with pytest.raises(ArgumentError, match="got both"):
        imresize(torch.rand(4, 4), 2, size=(8, 8))


def test_neither_scale_nor_size_is_refused():
    with pytest.raises(ArgumentError, match="got neither"):
        imresize(torch.rand(4, 4))
