from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from sam_diffsr.errors import ArgumentError, DataError, ImageError, MissingDependencyError
from sam_diffsr.masks import GraphMaskGenerator, rle


@pytest.fixture
def squares() -> np.ndarray:
    image = np.full((60, 90, 3), 40, np.uint8)
    image[10:30, 10:40] = (250, 30, 30)
    image[35:55, 50:85] = (30, 30, 250)
    return image


@pytest.fixture
def generator() -> GraphMaskGenerator:
    pytest.importorskip("skimage")
    return GraphMaskGenerator(scale=100, sigma=0, min_size=50)


def test_finds_the_squares(generator, squares):
    labels = generator.label_map(squares)
    assert labels.dtype == np.uint16
    assert labels.shape == (60, 90)
    assert sorted(np.unique(labels)) == [1, 2, 3]
    assert len(np.unique(labels[12:28, 12:38])) == 1
    assert len({labels[0, 0], labels[20, 20], labels[45, 70]}) == 3
    np.testing.assert_array_equal(labels, generator.label_map(squares))


def test_records_have_the_schema_of_sam_and_say_what_they_are(generator, squares):
    labels = generator.label_map(squares)
    records = generator.generate(squares)
    assert json.loads(json.dumps(records)) == records
    assert len(records) == 3
    for number, record in enumerate(records, start=1):
        assert set(record) == {
            "segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box",
            "generator",
        }  # fmt: skip
        mask = rle.decode(record["segmentation"])
        np.testing.assert_array_equal(mask, labels == number)
        assert record["area"] == mask.sum()
        x, y, width, height = rle.bbox_xywh(record["segmentation"])
        assert record["bbox"] == [x, y, width - 1, height - 1]
        ((x, y),) = record["point_coords"]
        assert mask[y, x]
        assert record["crop_box"] == [0, 0, 90, 60]
        assert record["generator"] == "felzenszwalb"
    assert sum(record["area"] for record in records) == 60 * 90


def test_longest_side_segments_small_and_enlarges(squares):
    pytest.importorskip("skimage")
    image = squares.repeat(4, axis=0).repeat(4, axis=1)
    labels = GraphMaskGenerator(scale=100, sigma=0, min_size=50, longest_side=90).label_map(image)
    assert labels.shape == (240, 360)
    small = GraphMaskGenerator(scale=100, sigma=0, min_size=50).label_map(squares)
    np.testing.assert_array_equal(labels, small.repeat(4, axis=0).repeat(4, axis=1))
    untouched = GraphMaskGenerator(scale=100, sigma=0, min_size=50, longest_side=None)
    assert untouched.label_map(squares).max() == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 64)])
def test_tiny_images(generator, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = generator.label_map(image)
    assert labels.shape == size
    assert labels.min() == 1
    assert sum(record["area"] for record in generator.generate(image)) == size[0] * size[1]


@pytest.mark.parametrize("size", [(2000, 1), (1, 2000)])
def test_thin_images_shrink_to_no_less_than_a_pixel(size):
    pytest.importorskip("skimage")
    image = np.zeros((*size, 3), np.uint8)
    assert (GraphMaskGenerator(longest_side=32).label_map(image) == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale must be > 0 and finite, got 0"),
        ({"scale": float("nan")}, "scale must be > 0 and finite, got nan"),
        ({"sigma": -1.0}, "sigma must be >= 0, got -1.0"),
        ({"min_size": 0}, "min_size must be >= 1, got 0"),
        ({"longest_side": 8}, "longest_side must be >= 16 or null, got 8"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=message):
        GraphMaskGenerator(**options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "needs a uint8 array, got float32"),
        ([[0]], "needs a uint8 array, got list"),
        (np.zeros((4, 4), np.uint8), r"needs an RGB image \(H, W, 3\), got shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"needs an RGB image \(H, W, 3\), got shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"needs an RGB image"),
    ],
)
def test_not_an_rgb_image(generator, image, message):
    with pytest.raises(ImageError, match=message):
        generator.label_map(image)


def test_more_regions_than_uint16_numbers():
    pytest.importorskip("skimage")
    image = np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    with pytest.raises(DataError, match="regions, more than 65535; raise min_size or scale"):
        GraphMaskGenerator(scale=1e-6, sigma=0, min_size=1).label_map(image)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sam-diffsr\[segments\]'"):
        GraphMaskGenerator()
