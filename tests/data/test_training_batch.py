"""Image, LR and structure field of a batch belong to the same pixels, whichever way they are turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam_diffsr.data import TrainingBatch, Windows, make_batch
from sam_diffsr.data.training_batch import Draws, dihedral
from sam_diffsr.resize import imresize


def turned_batch(
    images: torch.Tensor, fields: torch.Tensor, turns: torch.Tensor, *, scale: int
) -> TrainingBatch:
    """A batch of ``(B, S, S, 3)`` images that are turned and nothing else."""
    none = torch.zeros_like(turns)
    draws = Draws(turns, none, torch.arange(len(turns)), none)
    return make_batch(Windows(images, fields, draws), scale=scale)


def coordinates(side: int) -> torch.Tensor:
    """An image whose every pixel is different."""
    return torch.arange(side * side).view(1, 1, side, side)


def test_dihedral_is_the_symmetries_of_the_square() -> None:
    image = coordinates(5)
    turned = [dihedral(image, torch.tensor([code]))[0, 0].numpy() for code in range(8)]
    square = image[0, 0].numpy()
    flips, quarters = (square, square[:, ::-1]), range(4)
    group = {np.rot90(flip, quarter).tobytes() for flip in flips for quarter in quarters}
    assert {array.tobytes() for array in turned} == group
    assert len(group) == 8
    np.testing.assert_array_equal(turned[0], square)
    np.testing.assert_array_equal(turned[1], square[:, ::-1])
    np.testing.assert_array_equal(turned[2], square[::-1])
    np.testing.assert_array_equal(turned[4], square.T)


def test_dihedral_turns_each_image_by_its_own_code() -> None:
    images = coordinates(4).expand(8, 2, 4, 4)
    together = dihedral(images, torch.arange(8))
    for code in range(8):
        assert torch.equal(together[code : code + 1], dihedral(images[:1], torch.tensor([code])))


@pytest.mark.parametrize("code", range(8))
def test_field_stays_on_its_pixels(code: int) -> None:
    """The field repeats the red channel, so a shift by one pixel on any side would show."""
    generator = torch.Generator().manual_seed(code)
    images = torch.randint(0, 256, (2, 48, 48, 3), generator=generator, dtype=torch.uint8)
    batch = turned_batch(images, images[..., 0].float(), torch.full((2,), code), scale=4)
    assert batch.hr.shape == (2, 3, 32, 32)
    assert batch.lr.shape == (2, 3, 8, 8)
    assert batch.structure.shape == (2, 1, 32, 32)
    assert torch.equal(batch.structure, (batch.hr[:, :1] * 255).round())
    for shift, dimension in ((1, -1), (-1, -1), (1, -2), (-1, -2)):
        assert not torch.equal(batch.structure.roll(shift, dimension), (batch.hr[:, :1] * 255).round())


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_lr_is_a_window_of_the_whole_images_lr(scale: int) -> None:
    whole = torch.randint(0, 256, (1, 3, 20 * scale, 20 * scale), dtype=torch.uint8)
    top, left, side = 3 * scale, 5 * scale, 10 * scale
    window = whole[..., top : top + side, left : left + side]
    still = torch.zeros(1, dtype=torch.int64)
    batch = turned_batch(window.permute(0, 2, 3, 1), window[:, 0].float(), still, scale=scale)
    expected = imresize(whole, 1 / scale)[..., 3 + 2 : 3 + 10 - 2, 5 + 2 : 5 + 10 - 2]
    assert torch.equal(batch.lr, expected.float() / 255)
    assert torch.equal(batch.hr, window[..., 2 * scale : -2 * scale, 2 * scale : -2 * scale].float() / 255)


def test_lr_of_a_turned_image_is_the_turned_lr() -> None:
    """But for ties of the rounding, which the order of the sums decides."""
    images, fields = torch.randint(0, 256, (8, 40, 40, 3), dtype=torch.uint8), torch.zeros(8, 40, 40)
    codes = torch.arange(8)
    straight, turned = (turned_batch(images, fields, turns, scale=4) for turns in (0 * codes, codes))
    assert (turned.lr - dihedral(straight.lr, codes)).abs().max() < 1.01 / 255
