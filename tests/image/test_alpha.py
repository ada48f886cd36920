"""Hidden colours do not reach the visible ones, and visible ones are not touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sam_diffsr.image import decode_image
from sam_diffsr.image.alpha import fill_hidden


def disc(colour, hidden, *, smooth: bool, mixed: bool = False) -> np.ndarray:
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).ellipse((40, 40, 215, 215), fill=255)
    alpha = (
        np.asarray(mask.resize((64, 64), Image.Resampling.BOX if smooth else Image.Resampling.NEAREST))
        / 255.0
    )
    a = alpha[..., None]
    seen = a * np.array(colour) + (1 - a) * np.array(hidden) if mixed else np.where(a > 0, colour, hidden)
    return np.dstack([seen.round(), alpha * 255]).astype(np.uint8)


@pytest.mark.parametrize(
    ("colour", "hidden"),
    [((255, 255, 255), (0, 0, 0)), ((220, 40, 40), (255, 255, 255)), ((0, 60, 200), (9, 255, 7))],
)
@pytest.mark.parametrize("kind", ["hard", "smooth", "mixed with what is behind"])
def test_nothing_but_the_shapes_colour_is_left(colour, hidden, kind):
    array = disc(colour, hidden, smooth=kind != "hard", mixed=kind.startswith("mixed"))
    rgb = decode_image(array).rgb[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(rgb - colour).max() <= 2


def test_a_faint_pixel_takes_its_neighbours_colour():
    array = np.full((9, 9, 4), 255, np.uint8)
    array[:, 5:] = (0, 0, 0, 2)
    assert decode_image(array).rgb.min() > 0.8


def test_hidden_colours_follow_the_nearest_visible_ones():
    array = np.zeros((8, 32, 4), np.uint8)
    array[:, :4], array[:, -4:] = (255, 0, 0, 255), (0, 0, 255, 255)
    rgb = decode_image(array).rgb[0]
    assert (rgb[0, :, :8] == 1).all()
    assert (rgb[2, :, -8:] == 1).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_uniform_alpha_hides_nothing(alpha):
    rgb = torch.rand(1, 3, 6, 7)
    assert torch.equal(fill_hidden(rgb, torch.full((1, 1, 6, 7), alpha)), rgb)


def test_a_fade_and_a_shadow_keep_their_colours():
    texture = torch.rand(1, 3, 16, 64)
    fade = torch.linspace(0.05, 1, 64).expand(1, 1, 16, 64)
    assert torch.equal(fill_hidden(texture, fade), texture)
    white, shadow = torch.ones(1, 3, 12, 12), torch.ones(1, 1, 12, 12)
    white[..., 6:8], white[..., 8:], shadow[..., 6:8], shadow[..., 8:] = 0, 0, 0.4, 0
    filled = fill_hidden(white, shadow)
    assert torch.equal(filled[..., :8], white[..., :8]), "a black shadow beside a white shape"


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (7, 5), (33, 18)])
def test_any_size(shape):
    alpha = (torch.rand(1, 1, *shape) > 0.7).float()
    filled = fill_hidden(torch.rand(1, 3, *shape), alpha)
    assert filled.shape == (1, 3, *shape)
    assert filled.isfinite().all()
