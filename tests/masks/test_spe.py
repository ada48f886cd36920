from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks import encode_label_map, encode_structure, region_values, rle
from sam_diffsr.masks.spe import position_field

GOLDEN = Path(__file__).parents[1] / "golden" / "spe.safetensors"


def golden(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = load_file(GOLDEN)
    shape = tuple(numbers[f"spe{index}_shape"])
    bits = np.unpackbits(numbers[f"spe{index}_masks_packed"], count=int(np.prod(shape)))
    return bits.reshape(shape), numbers[f"spe{index}_embedding"], numbers[f"spe{index}_cosine"]


def straightforward(masks: np.ndarray, field: np.ndarray, *, region: bool = False) -> np.ndarray:
    out = np.zeros(masks.shape[1:])
    for mask in masks.astype(bool):
        out[mask] = field[mask].sum() / (max(mask.sum(), 1) if region else mask.size)
    return out


def test_parity_with_published_fields():
    for index, form in product(range(3), ("array", "rle")):
        masks, embedding, cosine = golden(index)
        assert len(masks) == 9
        given = masks if form == "array" else [rle.encode(mask) for mask in masks]
        field = encode_structure(given)
        assert field.dtype == torch.float32
        assert field.is_contiguous()
        np.testing.assert_allclose(field.numpy(), embedding, rtol=0, atol=1e-6)
        np.testing.assert_allclose(
            encode_structure(given, encoding="cosine").numpy(), cosine, rtol=0, atol=1e-6
        )


def test_equals_painting_mask_by_mask():
    for size, encoding, reduction in product(
        ((1, 1), (1, 2), (2, 1), (7, 5), (40, 33), (33, 40), (300, 21)),
        ("rope", "sincos"),
        ("image", "region"),
    ):
        masks = np.random.default_rng(0).random((6, *size)) < 0.4
        masks[2] = False  # an empty region
        masks[3] = False
        masks[3, -1, -1] = True  # the very last pixel
        expected = straightforward(
            masks, position_field(size, encoding=encoding), region=reduction == "region"
        )
        got = encode_structure(masks, encoding=encoding, reduction=reduction)
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-6)


def test_single_pixels_read_the_field_itself():
    size = (6, 7)
    masks = np.eye(42, dtype=bool).reshape(42, *size)
    got = encode_structure(masks, reduction="region")
    np.testing.assert_allclose(got.numpy(), position_field(size), rtol=0, atol=1e-6)


def test_field_by_the_formula():
    field = position_field((50, 9))
    theta = 10000.0 ** (-2 * 3 / 9)
    assert field[20, 6] == pytest.approx(np.cos(20 * theta) - np.sin(20 * theta))
    assert field[20, 7] == pytest.approx(np.cos(20 * theta) + np.sin(20 * theta))
    assert (field[:, 8] == 1).all()  # an odd width leaves one column without a partner
    assert (field[0] == 1).all()
    waves = position_field((50, 9), encoding="sincos")
    assert waves[20, 6] == pytest.approx(np.sin(20 * theta))
    assert waves[20, 7] == pytest.approx(np.cos(20 * theta))
    assert (waves[:, 8] == 1).all()


def test_rows_are_positions_on_a_non_square_image():
    # The published code swaps the two where it unpacks the shape; transposing must not be the identity.
    mask = np.zeros((1, 12, 20), bool)
    mask[0, 8:, :4] = True
    wide = region_values(mask)[0]
    assert wide == pytest.approx(position_field((12, 20))[8:, :4].sum() / 240, abs=1e-7)
    assert abs(wide - region_values(mask.transpose(0, 2, 1))[0]) > 1e-3


def test_later_regions_paint_over_earlier_ones():
    masks = np.zeros((2, 4, 4), bool)
    masks[0] = True
    masks[1, :2] = True
    values = region_values(masks)
    assert values.dtype == np.float32
    field = encode_structure(masks).numpy()
    assert (field[:2] == values[1]).all()
    assert (field[2:] == values[0]).all()
    assert (encode_structure(masks[::-1].copy()).numpy() == values[0]).all()


def test_no_regions_give_zeros():
    for encoding in ("rope", "cosine", "sincos", "random"):
        field = encode_structure([], size=(3, 5), encoding=encoding)
        assert field.shape == (3, 5)
        assert not field.any()
    assert region_values([], size=(3, 5)).shape == (0,)
    with pytest.raises(DataError, match="pass size="):
        encode_structure([])


def test_random_is_seeded_and_per_region():
    masks = np.random.default_rng(1).random((5, 8, 8)) < 0.5
    values = region_values(masks, encoding="random", seed=3)
    np.testing.assert_array_equal(values, region_values(masks, encoding="random", seed=3))
    np.testing.assert_array_equal(values[:2], region_values(masks[:2], encoding="random", seed=3))
    assert (values != region_values(masks, encoding="random", seed=4)).all()
    assert ((values >= 0) & (values < 1)).all()


def test_label_map_equals_its_masks():
    for encoding, reduction, dtype in product(
        ("rope", "cosine", "sincos", "random"), ("image", "region"), (np.uint16, np.int64)
    ):
        labels = np.random.default_rng(2).integers(0, 6, (19, 27)).astype(dtype)
        values = encode_label_map(labels, encoding=encoding, reduction=reduction)
        assert values.shape == (6,)
        assert values.dtype == np.float32
        assert values[0] == 0
        masks = np.stack([labels == number for number in range(1, 6)])
        expected = encode_structure(masks, encoding=encoding, reduction=reduction)
        np.testing.assert_allclose(values[labels], expected.numpy(), rtol=0, atol=1e-7)
        np.testing.assert_array_equal(encode_label_map(np.zeros((2, 2), dtype)), [0])


def test_precision_on_a_large_image():
    size = (1356, 2040)
    labels = (np.arange(size[0])[:, None] // 100 * 21 + np.arange(size[1])[None] // 100).astype(np.uint16)
    sums = np.bincount(labels.ravel(), weights=position_field(size).ravel())
    expected = sums / np.bincount(labels.ravel())
    got = encode_label_map(labels, reduction="region")
    np.testing.assert_allclose(got[1:], expected[1:], rtol=0, atol=1e-6)


def test_the_callers_masks_are_left_alone():
    masks = np.random.default_rng(7).random((3, 8, 8)) < 0.5
    before = masks.copy()
    encode_structure(masks)
    np.testing.assert_array_equal(masks, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "rotary"}, "encoding must be one of rope, cosine, sincos, random; got 'rotary'"),
        ({"reduction": "mean"}, "reduction must be one of image, region; got 'mean'"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        encode_structure([], size=(2, 2), **options)
    with pytest.raises(ArgumentError, match=message):
        encode_label_map(np.ones((2, 2), int), **options)


def test_only_two_encodings_have_a_field():
    with pytest.raises(ArgumentError, match="only 'rope' and 'sincos' have a position field, got 'cosine'"):
        position_field((2, 2), encoding="cosine")
