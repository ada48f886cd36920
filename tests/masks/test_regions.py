from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from sam_diffsr.errors import DataError
from sam_diffsr.masks import rle
from sam_diffsr.masks.regions import RegionRuns, collect_runs, label_runs, lay_out


def labels_of(runs: RegionRuns) -> np.ndarray:
    return lay_out(*runs.segments(), runs.size)


def paint(masks: np.ndarray) -> np.ndarray:
    labels = np.zeros(masks.shape[1:], np.int32)
    for index, mask in enumerate(masks):
        labels[mask] = index + 1
    return labels


def test_labels_equal_painting_in_order():
    for size, density in product(((1, 1), (1, 20), (20, 1), (33, 58), (64, 48)), (0.01, 0.3, 0.95)):
        rng = np.random.default_rng(3)
        masks = rng.random((25, *size)) < density
        np.testing.assert_array_equal(labels_of(collect_runs(masks)), paint(masks))


def test_labels_of_blobs_and_of_whole_image():
    rng = np.random.default_rng(4)
    yy, xx = np.mgrid[:50, :70]
    masks = np.stack(
        [((yy - y) ** 2 + (xx - x) ** 2) < r**2 for y, x, r in rng.uniform(3, 50, (40, 3))]
        + [np.ones((50, 70), bool)]
    )
    for order in (masks, masks[::-1]):
        np.testing.assert_array_equal(labels_of(collect_runs(order)), paint(order))


def test_every_form_gives_the_same_runs():
    masks = np.random.default_rng(5).random((4, 9, 13)) < 0.5
    expected = collect_runs(masks)
    forms = [
        masks.astype(np.uint8) * 255,
        torch.from_numpy(masks),
        list(masks),
        tuple(torch.from_numpy(masks)),
        [rle.encode(mask) for mask in masks],
        [rle.encode(mask, compressed=False) for mask in masks],
        [{"segmentation": rle.encode(mask), "area": 1} for mask in masks],
        [{"segmentation": mask} for mask in masks],
        [masks[0], rle.encode(masks[1]), {"segmentation": masks[2]}, torch.from_numpy(masks[3])],
    ]
    for form in forms:
        runs = collect_runs(form, size=(9, 13))
        assert runs.size == expected.size
        assert runs.count == expected.count
        for name in ("starts", "stops", "owner"):
            np.testing.assert_array_equal(getattr(runs, name), getattr(expected, name))
    np.testing.assert_array_equal(expected.areas(), masks.sum(axis=(1, 2)))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_many_compressed_records_are_read_as_one_by_one(count):
    rng = np.random.default_rng(count)
    masks = rng.random((count, 61, 83)) < rng.choice([0.0, 0.01, 0.5, 1.0], (count, 1, 1))
    masks[0, :, :30] = True  # numbers of more than one digit
    records = [rle.encode(mask) for mask in masks]
    runs, singly = collect_runs(records), [collect_runs([record]) for record in records]
    assert runs.count == count
    for name in ("starts", "stops"):
        np.testing.assert_array_equal(getattr(runs, name), np.concatenate([getattr(r, name) for r in singly]))
    np.testing.assert_array_equal(runs.owner, np.repeat(np.arange(count), [len(r.starts) for r in singly]))
    np.testing.assert_array_equal(labels_of(runs), paint(masks))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("5", "mask 1: RLE counts must cover"),
        ("51", "mask 1: RLE counts must cover"),
        ("`1", "mask 1: RLE counts must cover .* got 48"),
        ("o0", "mask 1: RLE counts must cover"),
        ("", "mask 1: RLE counts must cover"),
        ("O", "mask 1: .* a negative run of -1"),
        ("8O", "mask 1: .* a negative run of -1"),
        ("P", "mask 1: .* cut off"),
        ("o" * 13 + "0", "mask 1: .* more than 60 bits"),
        ("é", "mask 1: .* a character that COCO does not use"),
        (7, "mask 1: RLE counts must be a list"),
    ],
)
def test_one_bad_record_among_good_ones_is_named(counts, message):
    good = rle.encode(np.eye(4, dtype=bool))
    with pytest.raises(DataError, match=message):
        collect_runs([good, {"size": [4, 4], "counts": counts}, good])


@pytest.mark.parametrize("size", ["44", [4, 4, 1], [4.0, 4.0], [0, 4]])
def test_one_bad_size_everywhere(size):
    record = {"size": size, "counts": rle.encode(np.eye(4, dtype=bool))["counts"]}
    with pytest.raises(DataError, match="mask 0: RLE"):
        collect_runs([record, record])


def test_no_regions():
    for runs in (collect_runs([], size=(3, 4)), collect_runs(np.zeros((0, 3, 4), bool))):
        assert runs.size == (3, 4)
        assert runs.count == 0
        assert not labels_of(runs).any()
        assert runs.areas().shape == (0,)


def test_label_map_round_trip():
    labels = np.random.default_rng(6).integers(0, 7, (23, 17)).astype(np.uint16)
    labels[labels == 3] = 0  # a number that does not occur is an empty region
    runs = label_runs(labels)
    assert runs.count == 6
    np.testing.assert_array_equal(labels_of(runs), labels)
    np.testing.assert_array_equal(runs.areas(), np.bincount(labels.ravel(), minlength=7)[1:])
    assert label_runs(np.zeros((2, 3), np.uint8)).count == 0


@pytest.mark.parametrize(
    ("masks", "size", "message"),
    [
        (np.zeros((4, 4), bool), None, r"must be \(N, H, W\), got shape \(4, 4\); use mask\[None\]"),
        (np.zeros((1, 4, 4), bool), (4, 5), r"expected size \(4, 5\) \(height, width\), got \(4, 4\)"),
        (np.zeros((1, 4, 4), np.float32), None, "mask 0: a mask must be bool or integer"),
        ({"size": [4, 4], "counts": [16]}, None, "must be an .* array or a list .* got dict"),
        ("masks", None, "got str"),
        ([np.zeros((4, 4), bool), np.zeros((4, 5), bool)], None, r"mask 1: expected size \(4, 4\)"),
        ([{"size": [4, 4], "counts": [16]}], (5, 4), r"mask 0: expected size \(5, 4\)"),
        ([{"size": [4, 4], "counts": [17]}], None, "mask 0: RLE counts must cover"),
        ([np.zeros((1, 4, 4), bool)], None, r"mask 0: a mask must be \(H, W\)"),
        ([None], None, "mask 0: an RLE record needs the keys"),
        ([], None, r"does not say how large the image is; pass size=\(height, width\)"),
        ([], (0, 4), r"size must be \(height, width\), both >= 1, got \(0, 4\)"),
    ],
)
def test_malformed_input(masks, size, message):
    with pytest.raises(DataError, match=message):
        collect_runs(masks, size=size)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2), np.float32), "must be .H, W. integers .* got float32"),
        (np.zeros((2,), int), "must be .H, W. integers"),
        (np.zeros((0, 2), int), "must be .H, W. integers"),
        (np.full((2, 2), -1), "must hold numbers >= 0 .* got -1"),
    ],
)
def test_malformed_label_maps(labels, message):
    with pytest.raises(DataError, match=message):
        label_runs(labels)


@pytest.mark.parametrize(("height", "width"), [(5, 700), (3, 256), (1, 513), (40, 2)])
def test_stretches_become_an_image(height, width):
    rng = np.random.default_rng(height)
    inner = np.sort(rng.choice(np.arange(1, height * width), size=min(60, height * width - 1), replace=False))
    stops = np.append(inner, height * width)
    values = rng.random(len(stops)).astype(np.float32)
    flat = np.repeat(values, np.diff(stops, prepend=0))
    image = lay_out(values, stops, (height, width))
    np.testing.assert_array_equal(image, flat.reshape(width, height).T)
    assert image.flags.c_contiguous
    one = lay_out(values[:1], stops[-1:], (height, width))
    np.testing.assert_array_equal(one, np.full((height, width), values[0]))
