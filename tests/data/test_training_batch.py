"""Image, LR and structure field of a batch belong to the same pixels, whichever way they are turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam_diffsr.data import degrade, dihedral, make_batch
from sam_diffsr.errors import ArgumentError
from sam_diffsr.resize import imresize


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


def test_dihedral_needs_squares() -> None:
    with pytest.raises(ArgumentError, match=r"expected square images, got \(4, 5\)"):
        dihedral(torch.zeros(1, 1, 4, 5), torch.tensor([0]))


@pytest.mark.parametrize("code", range(8))
def test_field_stays_on_its_pixels(code: int) -> None:
    """The field repeats the red channel, so a shift by one pixel on any side would show."""
    generator = torch.Generator().manual_seed(code)
    images = torch.randint(0, 256, (2, 48, 48, 3), generator=generator, dtype=torch.uint8)
    batch = make_batch(images, images[..., 0].float(), torch.full((2,), code), scale=4)
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
    batch = degrade(window, window[:, :1].float(), scale=scale)
    expected = imresize(whole, 1 / scale)[..., 3 + 2 : 3 + 10 - 2, 5 + 2 : 5 + 10 - 2]
    assert torch.equal(batch.lr, expected.float() / 255)
    assert torch.equal(batch.hr, window[..., 2 * scale : -2 * scale, 2 * scale : -2 * scale].float() / 255)


def test_lr_of_a_turned_image_is_the_turned_lr() -> None:
    """But for ties of the rounding, which the order of the sums decides."""
    images = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8)
    field, codes = torch.zeros(8, 1, 40, 40), torch.arange(8)
    straight, turned = degrade(images, field, scale=4), degrade(dihedral(images, codes), field, scale=4)
    assert (turned.lr - dihedral(straight.lr, codes)).abs().max() < 1.01 / 255
