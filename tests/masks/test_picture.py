"""The picture shows each region once, in its place, and the field in the colours of its bar."""

from __future__ import annotations

import numpy as np
import pytest

from sam_diffsr.errors import DataError, ImageError
from sam_diffsr.masks.picture import draw_structure, field_colours, region_colours
from sam_diffsr.masks.spe import StructureField


def halves(size: tuple[int, int]) -> StructureField:
    labels = np.zeros(size, np.uint16)
    labels[:, size[1] // 2 :] = 1
    return StructureField(labels, np.array([0, 0.25], np.float32))


def test_panels_stand_side_by_side() -> None:
    image = np.full((400, 500, 3), 90, np.uint8)
    pixels = np.asarray(draw_structure(image, halves((400, 500))))
    top, left = 38, 16
    assert (pixels[top + 5, left + 5] == 90).all()  # no region keeps the photo
    expected = np.rint(0.45 * 90 + 0.55 * region_colours(2)[1].astype(float))
    assert (pixels[top + 5, left + 400] == expected).all()
    right = left + 500 + 16
    zero, quarter = field_colours(np.array([0, 0.25], np.float32), reach=0.25)
    assert (pixels[top + 5, right + 5] == zero).all()
    assert (pixels[top + 5, right + 400] == quarter).all()
    assert (pixels[top : top + 400, left + 250] < 90).any()  # the border between the two


def test_colours_of_the_field_are_symmetric_about_white() -> None:
    low, zero, high = field_colours(np.array([-9, 0, 1], np.float32), reach=1).tolist()
    assert zero == [245, 245, 240]
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert len(np.unique(region_colours(50), axis=0)) == 50


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (1500, 90), (900, 1600)])
def test_any_size_becomes_handy(size) -> None:
    picture = draw_structure(np.zeros((*size, 3), np.uint8), halves(size))
    assert picture.width < 2000
    assert picture.height < 900
    assert picture.height >= 160


def test_no_regions_can_be_drawn() -> None:
    structure = StructureField(np.zeros((20, 20), np.uint16), np.zeros(1, np.float32))
    assert draw_structure(np.zeros((20, 20, 3), np.uint8), structure).mode == "RGB"


def test_sizes_must_fit() -> None:
    with pytest.raises(DataError, match=r"regions are of an image of \(20, 20\).*the photo has \(20, 21\)"):
        draw_structure(np.zeros((20, 21, 3), np.uint8), halves((20, 20)))
    with pytest.raises(ImageError, match="needs a uint8 array"):
        draw_structure(np.zeros((20, 20, 3), np.float32), halves((20, 20)))  # pyright: ignore
