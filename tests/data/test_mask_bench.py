"""The benchmark compares like with like."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from sam_diffsr.data.mask_bench import made_up_records, run_mask_bench, straightforward_structure
from sam_diffsr.errors import ArgumentError
from sam_diffsr.masks.rle import area
from sam_diffsr.masks.spe import encode_structure


def test_the_straightforward_way_gives_the_same_field() -> None:
    records = made_up_records((61, 84), 12)
    assert all(area(record["segmentation"]) for record in records)
    np.testing.assert_allclose(
        encode_structure(records).numpy(), straightforward_structure(records), atol=1e-6
    )


def test_everything_is_measured(monkeypatch) -> None:
    lines: list[str] = []
    options: dict = {"regions": 3, "region_counts": (2,), "megapixels": (0.01,), "repeats": 1}
    result = run_mask_bench(size=(170, 180), say=lines.append, **options)
    assert len(lines) == 5
    assert result.encode_difference < 1e-5
    assert result.crop_ratio == pytest.approx(result.field_crop_ms / result.image_crop_ms)
    assert result.encode_speedup == pytest.approx(result.straightforward_ms / result.encode_ms)
    assert [entry["regions"] for entry in result.by_regions] == [2]
    assert [entry["megapixels"] for entry in result.by_megapixels] == [0.01]
    assert all(entry["ratio"] > 0 for entry in result.by_regions + result.by_megapixels)
    json.dumps(result.to_json())
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    without = run_mask_bench(size=(170, 180), **options)
    assert without.rle_encode_ratio is without.rle_decode_ratio is None


def test_values_out_of_range() -> None:
    with pytest.raises(ArgumentError, match="expected sides >= 160, regions >= 1 and repeats >= 1"):
        run_mask_bench(size=(100, 500))
