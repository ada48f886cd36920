from __future__ import annotations

import builtins
import json
import sys
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from sam_diffsr.errors import ArgumentError, ImageError, MissingDependencyError
from sam_diffsr.masks import encode_structure, rle
from sam_diffsr.masks.sam import SamMaskGenerator, SamOptions
from sam_diffsr.masks.sam_model import make_generator

# Random weights rate their masks anyhow: let everything through but what is not a mask.
OPEN: dict[str, Any] = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.05}


def generator(sam, *, longest_side: Any = None, device: Any = "cpu", **options: Any) -> SamMaskGenerator:
    return SamMaskGenerator(sam, options=SamOptions(**options), device=device, longest_side=longest_side)


def same_records(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert set(our) == set(their)
        for key in our:
            if key == "segmentation" and isinstance(our[key], np.ndarray):
                assert our[key].dtype == np.bool_
                np.testing.assert_array_equal(our[key], their[key])
            else:
                assert our[key] == their[key]


@pytest.mark.parametrize(
    "options",
    [
        OPEN,
        {**OPEN, "box_nms_thresh": 0.9, "points_per_batch": 3},
        {**OPEN, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.8},
        {
            **OPEN,
            "points_per_side": None,
            "point_grids": [np.array([[0.2, 0.3], [0.7, 0.9]])],
            "box_nms_thresh": 1.0,
        },
    ],
    ids=["plain", "batches", "crops", "grid"],
)
@pytest.mark.parametrize("mode", ["uncompressed_rle", "binary_mask"])
def test_same_records_as_segment_anything(sam, photo, options, mode):
    theirs = SamAutomaticMaskGenerator(sam, **dict[str, Any](options), output_mode=mode).generate(photo)
    ours = generator(sam, **options, output_mode=mode).generate(photo)
    assert len(ours) > 1
    same_records(ours, theirs)


def test_compressed_records_are_what_amg_writes(sam, photo):
    oracle = pytest.importorskip("pycocotools.mask")
    theirs = SamAutomaticMaskGenerator(sam, **OPEN, output_mode="coco_rle").generate(photo)
    ours = generator(sam, **OPEN).generate(photo)
    assert json.dumps(ours) == json.dumps(theirs)
    assert oracle.area([record["segmentation"] for record in ours]).tolist() == [r["area"] for r in ours]


def test_records_become_a_field(sam, photo):
    records = generator(sam, **OPEN).generate(photo)
    field = encode_structure(records, size=photo.shape[:2])
    assert field.shape == (48, 64)
    assert len(field.unique()) > 2


@pytest.mark.parametrize("layers", [0, 1])
def test_nothing_found_is_an_empty_list(unsure_sam, photo, layers):
    nothing = generator(unsure_sam, points_per_side=2, stability_score_thresh=1.0, crop_n_layers=layers)
    assert nothing.generate(photo) == []


def test_longest_side_gives_the_small_masks_enlarged(sam, photo):
    options = {**OPEN, "crop_n_layers": 1}
    small = generator(sam, **options, output_mode="binary_mask").generate(photo)
    large_photo = photo.repeat(3, axis=0).repeat(3, axis=1)
    large = generator(sam, **options, longest_side=64).generate(large_photo)
    assert len(large) == len(small) > 1
    for record, expected in zip(large, small, strict=True):
        mask = expected["segmentation"].repeat(3, axis=0).repeat(3, axis=1)
        np.testing.assert_array_equal(rle.decode(record["segmentation"]), mask)
        assert record["area"] == expected["area"] * 9
        x, y, width, height = rle.bbox_xywh(record["segmentation"])
        assert record["bbox"] == [x, y, width - 1, height - 1]
        np.testing.assert_allclose(record["point_coords"], np.array(expected["point_coords"]) * 3)
        assert record["crop_box"] == [3 * side for side in expected["crop_box"]]
        assert record["predicted_iou"] == expected["predicted_iou"]
    untouched = generator(sam, **options, longest_side=1000).generate(photo)
    assert untouched == generator(sam, **options).generate(photo)


def test_longest_side_with_uneven_factors(sam, photo):
    image = photo.repeat(3, axis=0).repeat(3, axis=1)[:101, :187]
    for mode in ("coco_rle", "uncompressed_rle", "binary_mask"):
        records = generator(sam, longest_side=50, output_mode=mode, **OPEN).generate(image)
        assert records
        for record in records:
            segmentation = record["segmentation"]
            mask = segmentation if mode == "binary_mask" else rle.decode(segmentation)
            assert mask.shape == (101, 187)
            assert mask.sum() == record["area"]
            ((x, y),) = record["point_coords"]
            assert 0 <= x < 187
            assert 0 <= y < 101


def test_batches_shrink_below_the_index_limit(sam, photo, monkeypatch):
    options = {**OPEN, "points_per_side": 5}
    expected = generator(sam, **options).generate(photo)
    monkeypatch.setattr("sam_diffsr.masks.sam._INDEX_LIMIT", 3 * 64 * 64 * 2 + 5)
    batches: list[int] = []
    limited = generator(sam, **options)
    forward = sam.mask_decoder.forward

    def counting(**kwargs):
        batches.append(kwargs["sparse_prompt_embeddings"].shape[0])
        return forward(**kwargs)

    monkeypatch.setattr(sam.mask_decoder, "forward", counting)
    got = limited.generate(photo)
    assert max(batches) == 2
    assert len(got) == len(expected)  # another batch size may move a logit by a rounding error
    assert [abs(a["area"] - b["area"]) <= 2 for a, b in zip(got, expected, strict=True)]


@pytest.mark.parametrize("size", [(30000, 30000), (40, 40000)])
def test_too_large_without_longest_side(sam, size):
    image = np.broadcast_to(np.zeros((), np.uint8), (*size, 3))
    with pytest.raises(ImageError, match=f"{size[1]} x {size[0]} is too large .* set longest_side"):
        generator(sam).generate(image)


@pytest.mark.parametrize(("size", "layers"), [((1, 2000), 0), ((2000, 1), 0), ((2, 2), 2), ((20, 600), 3)])
def test_too_thin(sam, size, layers):
    with pytest.raises(ImageError, match=f"{size[1]} x {size[0]} is too thin .* crop_n_layers={layers}"):
        generator(sam, **OPEN, crop_n_layers=layers).generate(np.zeros((*size, 3), np.uint8))


def test_not_an_rgb_image(sam):
    with pytest.raises(ImageError, match=r"needs an RGB image \(H, W, 3\)"):
        generator(sam).generate(np.zeros((4, 4), np.uint8))
    with pytest.raises(ImageError, match="needs a uint8 array"):
        generator(sam).generate(np.zeros((4, 4, 3)))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, bf16; got 'fp8'"),
        ({"precision": "fp16"}, "precision='fp16' needs a CUDA device, got cpu"),
        ({"longest_side": 8}, "longest_side must be None or >= 16, got 8"),
        ({"device": "abacus"}, "device must be 'auto', 'cpu', .* got 'abacus'"),
        ({"device": "cuda:63"}, "device 'cuda:63' was asked for, but torch sees"),
    ],
)
def test_arguments_out_of_range(sam, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        SamMaskGenerator(sam, **{"device": "cpu", **arguments})  # pyright: ignore


def test_small_regions_need_opencv(sam, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="pip install opencv-python-headless"):
        generator(sam, min_mask_region_area=10)


def test_small_regions_are_removed(sam, photo):
    pytest.importorskip("cv2")
    options = {**OPEN, "min_mask_region_area": 20}
    theirs = SamAutomaticMaskGenerator(
        sam, **dict[str, Any](options), output_mode="uncompressed_rle"
    ).generate(photo)
    same_records(generator(sam, **options, output_mode="uncompressed_rle").generate(photo), theirs)


@pytest.mark.parametrize("package", ["segment_anything", "torchvision"])
def test_missing_packages(sam, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] in ("segment_anything", package)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingDependencyError, match="pip install segment-anything torchvision, or use Graph"
    ):
        SamMaskGenerator(sam, device="cpu")


def test_torchvision_of_another_torch(sam, monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "segment_anything":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(MissingDependencyError, match=r"broken .*nms does not exist.* belongs to torch"):
        SamMaskGenerator(sam, device="cpu")


def test_nothing_random_and_nothing_in_place(sam, photo):
    image = photo.copy()
    state = torch.random.get_rng_state()
    first = generator(sam, **OPEN).generate(image)
    assert generator(sam, **OPEN).generate(image) == first
    assert torch.equal(state, torch.random.get_rng_state())
    np.testing.assert_array_equal(image, photo)


def test_coordinates_stay_in_single_precision_on_mps(sam):
    made = make_generator(sam, vars(SamOptions()), torch.device("mps"), autocast=None)
    coords = made.predictor.transform.apply_coords(np.array([[10.0, 20.0]]), (48, 64))
    assert coords.dtype == np.float32
    exact = make_generator(sam, vars(SamOptions()), torch.device("cpu"), autocast=None).predictor.transform
    np.testing.assert_allclose(coords, exact.apply_coords(np.array([[10.0, 20.0]]), (48, 64)))


@pytest.mark.gpu
def test_dense_grid_on_cuda(sam, photo):
    # More than 5000 boxes: the published wheel fails here, and again between crops.
    dense: dict[str, Any] = {
        "points_per_side": 80,
        "box_nms_thresh": 1.0,
        "crop_nms_thresh": 1.0,
        "crop_n_layers": 1,
    }
    assert len(generator(sam, device="cuda", **{**OPEN, **dense}).generate(photo)) > 5000


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_cuda(sam, photo, precision):
    made = SamMaskGenerator(sam, options=SamOptions(**OPEN), device="cuda", precision=precision)
    records = made.generate(photo)
    assert records
    assert all(record["area"] == rle.area(record["segmentation"]) for record in records)
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}
