"""Crops lie where results differ, maps show the error, and every picture is inside its address."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from sam_diffsr.evaluation.metrics import luma
from sam_diffsr.evaluation.pairs import Pair
from sam_diffsr.evaluation.pictures import (
    ERROR_COLOURS,
    Box,
    ErrorScale,
    error_scale,
    largest_disagreement,
    overview,
    overview_error,
    panels,
    picture,
)


def gray(height: int = 64, width: int = 80) -> torch.Tensor:
    return torch.full((1, 3, height, width), 120, dtype=torch.uint8)


def pair_of(hr: torch.Tensor) -> Pair:
    return Pair(name="a.png", hr=hr, lr=hr[..., ::4, ::4], full_size=(hr.shape[-2], hr.shape[-1]))


def opened(address: str) -> Image.Image:
    head, _, data = address.partition(";base64,")
    assert head in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_the_box_holds_the_largest_disagreement() -> None:
    truth, output = gray(), gray()
    output[..., 41:49, 50:58] = 200
    output[..., 2:4, 2:4] = 255  # larger, but of fewer pixels
    box = largest_disagreement(truth, [output], scale=4, side=17)
    assert (box.height, box.width) == (16, 16)
    assert (box.top % 4, box.left % 4) == (0, 0)
    assert box.top <= 41
    assert box.top + 16 >= 49
    assert box.left <= 50
    assert box.left + 16 >= 58


def test_a_box_is_no_larger_than_the_image_and_in_its_middle_where_nothing_differs() -> None:
    assert largest_disagreement(gray(), [gray()], scale=4, side=24) == Box(
        top=20, left=28, height=24, width=24
    )
    assert largest_disagreement(gray(8, 80), [gray(8, 80)], scale=4).height == 8
    output = gray(8, 16)
    output[..., 0, 0] = 0
    assert largest_disagreement(gray(8, 16), [output], scale=4) == Box(top=0, left=0, height=8, width=16)


def test_a_box_cuts_the_same_place_of_both_sizes() -> None:
    large = torch.arange(32 * 40).view(1, 1, 32, 40)
    box = Box(top=8, left=12, height=16, width=20)
    assert torch.equal(box.cut(large)[..., ::4, ::4], box.cut(large[..., ::4, ::4], scale=4))


def test_pictures_keep_every_pixel() -> None:
    image = torch.randint(0, 256, (1, 3, 9, 7)).to(torch.uint8)
    got = np.asarray(opened(picture(image)))
    assert np.array_equal(got, image[0].permute(1, 2, 0).numpy())


def test_panels_show_the_part_and_its_error() -> None:
    truth, output = gray(16, 16), gray(16, 16)
    output[..., 3, 5] += 20
    pair, box = pair_of(truth), Box(top=0, left=4, height=8, width=8)
    scale = error_scale(pair, [truth, output], box)
    assert scale.limit == 4  # fewer than two percent of the pixels are beyond it
    shown = panels(pair, [truth, output], box, scale)
    assert np.array_equal(np.asarray(opened(shown[1].picture)), box.cut(output)[0].permute(1, 2, 0).numpy())
    nothing, error = (np.asarray(opened(panel.error).convert("RGB")) for panel in shown)
    assert (nothing == ERROR_COLOURS[0]).all()
    assert tuple(error[3, 1]) == ERROR_COLOURS[-1]
    assert (np.delete(error.reshape(-1, 3), 3 * 8 + 1, axis=0) == ERROR_COLOURS[0]).all()


def test_colours_grow_brighter_with_the_error() -> None:
    image = opened(ErrorScale(limit=32).paint(np.linspace(0, 40, 41)[None])).convert("RGB")
    brightness = np.asarray(image)[0].astype(int).sum(axis=1)
    assert (np.diff(brightness[:33]) > 0).all()
    assert (brightness[32:] == brightness[32]).all()


def test_a_scale_takes_in_almost_all_of_the_error() -> None:
    truth, output = gray(), gray()
    output[..., :30, :] += 60
    pair = pair_of(truth)
    box = Box(top=0, left=0, height=64, width=80)
    high = (luma(output, data_range=255) - luma(truth, data_range=255)).max().item()
    assert 32 < high < 64
    assert error_scale(pair, [output], box).limit == 64
    assert error_scale(pair_of(gray() * 0), [gray() * 0 + 255], box).limit == 219


def test_thumbnails_are_small_and_mean() -> None:
    large = gray(700, 900)
    assert opened(overview(large)).size == (320, 249)
    output = large.clone()
    output[..., ::2, :] += 40
    error = opened(overview_error(output, large, ErrorScale(limit=64)))
    assert error.size == (320, 249)
    levels = np.asarray(error).astype(float) / 255 * 64
    assert abs(levels.mean() - 20 * 219 / 255) < 0.5
