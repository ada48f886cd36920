from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from sam_diffsr.errors import DataError
from sam_diffsr.masks import rle


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    masks = [
        np.zeros((5, 7), bool),
        np.ones((5, 7), bool),
        np.zeros((1, 1), bool),
        np.ones((1, 1), bool),
        np.ones((1, 9), bool),
        np.ones((9, 1), bool),
        np.eye(6, 11, dtype=bool),
        np.ones((300, 500), bool),  # counts of several characters
    ]
    for height, width in [(1, 1), (1, 13), (13, 1), (17, 23), (64, 48), (101, 77)]:
        masks += [rng.random((height, width)) < density for density in (0.02, 0.5, 0.98)]
    corner = np.zeros((40, 30), bool)
    corner[-1, -1] = True
    first = np.zeros((40, 30), bool)
    first[0, 0] = True
    blob = np.zeros((700, 900), bool)
    blob[100:650, 300:305] = True
    blob[3:4, 850] = True
    return [*masks, corner, first, blob]


MASKS = random_masks()


def test_round_trip():
    for mask, compressed in product(MASKS, (True, False)):
        record = rle.encode(mask, compressed=compressed)
        assert json.loads(json.dumps(record)) == record
        decoded = rle.decode(record)
        assert decoded.dtype == np.bool_
        np.testing.assert_array_equal(decoded, mask)
        counts, size = rle.run_lengths(record)
        assert size == mask.shape
        assert (counts[1:] > 0).all()
        assert rle.area(record) == mask.sum()


def test_bbox_without_decoding():
    for mask in MASKS:
        rows, columns = np.nonzero(mask)
        expected = (0, 0, 0, 0)
        if len(rows):
            x, y = columns.min(), rows.min()
            expected = (x, y, columns.max() - x + 1, rows.max() - y + 1)
        assert rle.bbox_xywh(rle.encode(mask)) == expected


def test_same_bytes_as_pycocotools():
    oracle = pytest.importorskip("pycocotools.mask")
    for mask in MASKS:
        theirs = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
        ours = rle.encode(mask)
        assert ours["counts"].encode() == theirs["counts"]
        assert ours["size"] == list(theirs["size"])
        assert rle.area(ours) == oracle.area(theirs)
        np.testing.assert_array_equal(rle.bbox_xywh(ours), oracle.toBbox(theirs))
        # bytes are what pycocotools gives, str is what is in JSON files
        np.testing.assert_array_equal(rle.decode(theirs), mask)
        uncompressed = oracle.frPyObjects(rle.encode(mask, compressed=False), *mask.shape)
        assert uncompressed["counts"] == theirs["counts"]


def test_any_memory_order_and_integer_type():
    mask = MASKS[-1]
    expected = rle.encode(mask)
    assert rle.encode(np.asfortranarray(mask)) == expected
    assert rle.encode(mask.astype(np.uint8) * 255) == expected
    assert rle.encode(mask[::-1][::-1]) == expected


def test_empty_runs_are_read():
    record = {"size": [2, 2], "counts": [0, 1, 0, 0, 0, 2, 1]}
    np.testing.assert_array_equal(rle.decode(record), [[True, True], [True, False]])
    assert rle.area(record) == 3
    assert rle.bbox_xywh(record) == (0, 0, 2, 2)
    assert rle.bbox_xywh({"size": [2, 2], "counts": [1, 0, 3]}) == (0, 0, 0, 0)


def test_counts_may_be_an_array_or_tuple():
    assert rle.area({"size": (2, 3), "counts": np.array([1, 5])}) == 5
    assert rle.area({"size": np.array([2, 3]), "counts": (1, 5)}) == 5


def test_size_one_record_of_every_length_of_number():
    for total in [1, 15, 16, 31, 32, 511, 512, 2**14, 2**20 + 3, 2**40]:
        record = {
            "size": [total, 1],
            "counts": rle.encode_runs(np.array([0]), np.array([total]), (total, 1))["counts"],
        }
        assert rle.area(record) == total


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"size": [2, 2]}, r"needs the keys 'size' and 'counts', got \['size'\]"),
        ("abc", "needs the keys 'size' and 'counts', got str"),
        ({"size": 4, "counts": [4]}, r"size must be \[height, width\]"),
        ({"size": [2, 2, 1], "counts": [4]}, r"size must be \[height, width\]"),
        ({"size": [2.0, 2.0], "counts": [4]}, r"size must be \[height, width\]"),
        ({"size": [0, 2], "counts": [0]}, r"size must be \[height, width\]"),
        ({"size": ["2", "2"], "counts": [4]}, r"size must be \[height, width\]"),
        ({"size": [2, 2], "counts": [1, 4]}, "must cover the 4 pixels of size .2, 2., got 5"),
        ({"size": [2, 2], "counts": [2**62, 2**62, 2**62]}, "must cover the 4 pixels"),
        ({"size": [2, 2], "counts": [1, 2]}, "must cover the 4 pixels of size .2, 2., got 3"),
        ({"size": [2, 2], "counts": []}, "must cover the 4 pixels"),
        ({"size": [2, 2], "counts": ""}, "must cover the 4 pixels"),
        ({"size": [2, 2], "counts": None}, "must be a list of whole numbers or a COCO string, got None"),
        ({"size": [2, 2], "counts": 4}, "must be a list of whole numbers"),
        ({"size": [2, 2], "counts": ["1", "3"]}, "must be a list of whole numbers"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "must be a list of whole numbers"),
        ({"size": [2, 2], "counts": [True, False]}, "must be a list of whole numbers"),
        ({"size": [2, 2], "counts": [[1, 3]]}, "must be a list of whole numbers"),
        ({"size": [2, 2], "counts": [[1], [1, 2]]}, "must be a list of whole numbers"),
        ({"size": [2, 2], "counts": [10**30]}, "must be a list of whole numbers"),
        ({"size": [2, 2], "counts": [-1, 5]}, "must not be negative, got -1"),
        ({"size": [2, 2], "counts": "1 3"}, "a character that COCO does not use"),
        ({"size": [2, 2], "counts": "é"}, "a character that COCO does not use"),
        ({"size": [2, 2], "counts": "P"}, "cut off in the middle of a number"),
        ({"size": [2, 2], "counts": "o" * 13 + "0"}, "more than 60 bits"),
        ({"size": [2, 2], "counts": "O"}, "a negative run of -1"),
    ],
)
def test_malformed_records(record, message):
    with pytest.raises(DataError, match=message):
        rle.decode(record)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((2, 2, 2), bool), r"must be \(H, W\)"),
        (np.zeros((0, 2), bool), r"must be \(H, W\)"),
        (np.zeros((2, 2), np.float32), "bool or integer, got float32; threshold it first"),
    ],
)
def test_malformed_masks(mask, message):
    with pytest.raises(DataError, match=message):
        rle.encode(mask)
