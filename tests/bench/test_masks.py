"""Encoding is compared with the straightforward way, which gives the same field."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sam_diffsr.bench import measure_masks, to_json
from sam_diffsr.bench.masks import made_up_records, straightforward_structure
from sam_diffsr.errors import ArgumentError
from sam_diffsr.masks.rle import area
from sam_diffsr.masks.spe import encode_structure


def test_the_straightforward_way_gives_the_same_field() -> None:
    records = made_up_records((61, 84), 12)
    assert all(area(record["segmentation"]) for record in records)
    np.testing.assert_allclose(
        encode_structure(records).numpy(), straightforward_structure(records), atol=1e-6
    )


def test_everything_is_measured() -> None:
    result = measure_masks(size=(170, 180), regions=3, region_counts=(2,), megapixels=(0.01,), repeats=1)
    figures: dict[str, Any] = to_json([result], device="cpu")
    assert figures["encode_difference"] < 1e-5
    assert [row["image"] for row in figures["encode_scaling"]] == ["2 regions", "0.01 megapixels"]
    assert figures["smaller_than_npy"] > 1
    json.dumps(figures)


def test_values_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="regions must be >= 1, got 0"):
        measure_masks(regions=0)
