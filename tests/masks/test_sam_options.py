from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
from segment_anything import SamAutomaticMaskGenerator

from sam_diffsr.errors import ArgumentError
from sam_diffsr.masks.sam import SamOptions


def test_names_and_defaults_are_those_of_segment_anything():
    theirs = dict(inspect.signature(SamAutomaticMaskGenerator).parameters)
    del theirs["model"]
    ours = {field.name: field.default for field in dataclasses.fields(SamOptions)}
    assert ours.pop("output_mode") == "coco_rle"
    assert theirs.pop("output_mode").default == "binary_mask"
    assert ours == {name: parameter.default for name, parameter in theirs.items()}


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamOptions().points_per_side = 3  # pyright: ignore[reportAttributeAccessIssue]


GRID = np.array([[0.5, 0.5]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "exactly one of points_per_side and point_grids .* got neither"),
        ({"point_grids": [GRID]}, r"got both \(set points_per_side=None\)"),
        ({"points_per_side": 0}, "points_per_side must be an integer >= 1, got 0"),
        ({"points_per_side": 1.5}, "points_per_side must be an integer >= 1, got 1.5"),
        ({"points_per_side": True}, "points_per_side must be an integer >= 1, got True"),
        (
            {"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2},
            "points_per_side=3 leaves no point in layer 2",
        ),
        ({"points_per_side": None, "point_grids": []}, "one array for each of 1 layers, got 0"),
        (
            {"points_per_side": None, "point_grids": [GRID], "crop_n_layers": 1},
            "one array for each of 2 layers, got 1",
        ),
        (
            {"points_per_side": None, "point_grids": [np.zeros((4, 3))]},
            r"point_grids\[0\] must be \(P, 2\) with P >= 1, got \(4, 3\)",
        ),
        ({"points_per_side": None, "point_grids": [np.zeros((0, 2))]}, r"point_grids\[0\] must be"),
        ({"points_per_batch": 0}, "points_per_batch must be an integer >= 1, got 0"),
        ({"crop_n_layers": -1}, "crop_n_layers must be an integer >= 0, got -1"),
        ({"crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor must be an integer >= 1"),
        ({"min_mask_region_area": 2.5}, "min_mask_region_area must be an integer >= 0, got 2.5"),
        ({"pred_iou_thresh": 1.1}, r"pred_iou_thresh must lie in \[0, 1\], got 1.1"),
        ({"stability_score_thresh": -0.1}, r"stability_score_thresh must lie in \[0, 1\]"),
        ({"box_nms_thresh": float("nan")}, r"box_nms_thresh must lie in \[0, 1\], got nan"),
        ({"crop_nms_thresh": 2}, r"crop_nms_thresh must lie in \[0, 1\], got 2"),
        ({"crop_overlap_ratio": 1}, r"crop_overlap_ratio must lie in \[0, 1\), got 1"),
        ({"stability_score_offset": -1.0}, "stability_score_offset must be >= 0, got -1.0"),
        ({"output_mode": "rle"}, "output_mode must be one of coco_rle, uncompressed_rle, binary_mask"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=message):
        SamOptions(**options)
