from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks import encode_structure
from sam_diffsr.masks.spe import MAX_REGIONS, StructureField


@pytest.fixture
def masks() -> np.ndarray:
    return np.random.default_rng(0).random((5, 13, 22)) < 0.4


def test_from_masks_is_the_same_field(masks):
    for encoding, reduction in product(("rope", "cosine", "sincos", "random"), ("image", "region")):
        structure = StructureField.from_masks(masks, encoding=encoding, reduction=reduction, seed=2)
        expected = encode_structure(masks, encoding=encoding, reduction=reduction, seed=2)
        np.testing.assert_array_equal(structure.to_tensor().numpy(), expected.numpy())
        assert structure.size == (13, 22)
        assert (structure.encoding, structure.reduction) == (encoding, reduction)


def test_hidden_regions_take_no_number(masks):
    covered = np.concatenate([masks, np.ones((1, 13, 22), bool)])
    structure = StructureField.from_masks(covered)
    assert len(structure.values) == 2
    np.testing.assert_array_equal(structure.to_tensor().numpy(), encode_structure(covered).numpy())


def test_no_regions():
    structure = StructureField.from_masks([], size=(3, 4))
    assert structure.labels.shape == (3, 4)
    assert not structure.to_tensor().numpy().any()


def test_from_field_keeps_every_value():
    for dtype, with_zero in product((np.float16, np.float32, np.float64), (True, False)):
        values = [-0.5, 0.0 if with_zero else 0.25, 0.125, 3.0]
        field = np.random.default_rng(2).choice(values, (9, 14)).astype(dtype)
        structure = StructureField.from_field(field)
        np.testing.assert_array_equal(structure.to_tensor().numpy(), field)
        assert len(structure.values) == (4 if with_zero else 5)
        assert structure.encoding is None


@pytest.mark.parametrize(
    ("labels", "values", "message"),
    [
        (np.zeros((2, 2), np.int64), [0], r"labels must be \(H, W\) uint16, got int64"),
        (np.zeros(4, np.uint16), [0], r"labels must be \(H, W\) uint16, got uint16 of shape \(4,\)"),
        (np.zeros((0, 2), np.uint16), [0], r"labels must be \(H, W\) uint16"),
        (np.zeros((2, 2), np.uint16), [[0]], r"values must be \(V,\) float32"),
        (np.full((2, 2), 3, np.uint16), [0, 1], "label 3 has no value: there are 2 values"),
        (np.zeros((2, 2), np.uint16), [], "label 0 has no value"),
        (np.zeros((2, 2), np.uint16), [0, np.nan], "holds NaN or infinite values"),
        (np.zeros((2, 2), np.uint16), [0, np.inf], "holds NaN or infinite values"),
        (np.zeros((2, 2), np.uint16), [1.5], r"value of label 0 \(no region\) must be 0, got 1.5"),
    ],
)
def test_arrays_that_do_not_fit(labels, values, message):
    with pytest.raises(DataError, match=message):
        StructureField(labels, np.array(values, np.float32))
    with pytest.raises(DataError, match=r"values must be .* got float64"):
        StructureField(np.zeros((2, 2), np.uint16), np.zeros(1))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (np.zeros((2, 2), int), r"must be \(H, W\) floating point, got int"),
        (np.zeros((1, 2, 2)), r"must be \(H, W\) floating point"),
        (np.zeros((0, 2)), r"must be \(H, W\) floating point"),
        (np.array([[0.0, np.nan]]), "holds NaN or infinite values"),
        (
            np.random.default_rng(0).random((300, 300)),
            "values, more than a field of 65535 regions has",
        ),
    ],
)
def test_fields_that_are_none(field, message):
    with pytest.raises(DataError, match=message):
        StructureField.from_field(field)


def test_more_regions_than_can_be_numbered(masks, monkeypatch):
    assert np.iinfo(np.uint16).max == MAX_REGIONS
    monkeypatch.setattr("sam_diffsr.masks.spe.MAX_REGIONS", 4)
    with pytest.raises(DataError, match="got 5 visible regions, at most 4 can be stored"):
        StructureField.from_masks(masks)


def test_unknown_encoding(masks):
    with pytest.raises(ArgumentError, match="encoding must be one of"):
        StructureField.from_masks(masks, encoding="rotary")  # pyright: ignore[reportArgumentType]
