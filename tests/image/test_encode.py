"""``encode_image``: rounding, clipping, gray, alpha, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ImageError
from sam_diffsr.image import ImageFormat, encode_image

RGB8 = ImageFormat(container="array", channels=3, sample_type="uint8")
RGBA8 = ImageFormat(container="array", channels=4, sample_type="uint8")


def test_halves_are_rounded_up_and_values_clipped():
    values = torch.tensor([-0.2, 0.5 / 255, 1.49 / 255, 2.5 / 255, 254.6 / 255, 1.3], dtype=torch.float64)
    result = encode_image(values.reshape(1, 1, 1, 6).expand(1, 3, 1, 6), None, RGB8)
    assert isinstance(result, np.ndarray)
    assert result[0, :, 0].tolist() == [0, 1, 1, 3, 255, 255]


def test_floats_are_clipped_and_not_rounded():
    form = ImageFormat(container="array", channels=3, sample_type="float64")
    result = encode_image(torch.tensor([-1.0, 0.25, 2.0]).reshape(1, 3, 1, 1), None, form)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float64
    assert result.flatten().tolist() == [0, 0.25, 1]


def test_gray_is_the_mean_of_the_channels():
    form = ImageFormat(container="array", channels=1, sample_type="uint8", array_rank=2)
    result = encode_image(torch.tensor([10.0, 20.0, 60.0]).reshape(1, 3, 1, 1) / 255, None, form)
    assert isinstance(result, np.ndarray)
    assert result.tolist() == [[30]]


def test_alpha_is_merged_as_the_last_channel():
    rgb, alpha = torch.zeros(1, 3, 2, 5), torch.ones(1, 1, 2, 5)
    result = encode_image(rgb, alpha, RGBA8)
    assert isinstance(result, np.ndarray)
    assert result.shape == (2, 5, 4)
    assert result[0, 0].tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_pil_modes(channels, mode):
    form = ImageFormat(container="pil", channels=channels, sample_type="uint8")
    alpha = torch.rand(1, 1, 4, 6) if form.has_alpha else None
    result = encode_image(torch.rand(1, 3, 4, 6), alpha, form)
    assert isinstance(result, Image.Image)
    assert (result.mode, result.size) == (mode, (6, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_and_graph_is_taken(dtype):
    rgb = torch.ones(1, 3, 2, 2, dtype=dtype, requires_grad=True)
    result = encode_image(rgb, torch.ones(1, 1, 2, 2), RGBA8)
    assert isinstance(result, np.ndarray)
    assert (result == 255).all()
    assert rgb.detach().min() == 1


@pytest.mark.parametrize("rgb", [torch.zeros(3, 2, 2), torch.zeros(2, 3, 2, 2), torch.zeros(1, 1, 2, 2)])
def test_wrong_shapes_are_refused(rgb):
    with pytest.raises(ImageError, match=r"rgb must be float or uint8 \(1, 3, H, W\)"):
        encode_image(rgb, None, RGB8)


@pytest.mark.parametrize("form", [RGB8, RGBA8])
def test_uint8_is_taken_as_it_is(form):
    rgb = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 2, 2)
    alpha = torch.ones(1, 1, 2, 2) if form.has_alpha else None
    result = np.asarray(encode_image(rgb, alpha, form))
    np.testing.assert_array_equal(result[..., :3], rgb[0].permute(1, 2, 0))


def test_integers_are_refused():
    with pytest.raises(ImageError, match=r"rgb must be float or uint8 .* got torch\.int32"):
        encode_image(torch.zeros(1, 3, 2, 2, dtype=torch.int32), None, RGB8)


def test_missing_alpha_is_refused():
    with pytest.raises(
        ImageError, match=r"alpha must be \(1, 1, 2, 2\) for an image of 4 channels .* got None"
    ):
        encode_image(torch.zeros(1, 3, 2, 2), None, RGBA8)


def test_unexpected_alpha_is_refused():
    with pytest.raises(ImageError, match="alpha must be None for an image of 3 channels"):
        encode_image(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), RGB8)


def test_alpha_of_another_size_is_refused():
    with pytest.raises(ImageError, match=r"alpha must be \(1, 1, 2, 2\) .* got \(1, 1, 3, 2\)"):
        encode_image(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 3, 2), RGBA8)
