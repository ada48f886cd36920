"""Crops with masks from files: image and field are cut from the same pixels, and masks are checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.data import DataConfig, TrainingSource, make_batch, prepare_crops
from sam_diffsr.errors import DataError
from sam_diffsr.masks.spe import StructureField, encode_structure
from sam_diffsr.masks.store import write_records, write_structure

SIZE = (90, 110)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, list[dict]]:
    """A photo whose red says which region a pixel belongs to, and the records of these regions."""
    image = np.random.default_rng(5).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    image[..., 0] //= 16
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    (photos / "trip").mkdir(parents=True)
    (masks / "trip").mkdir(parents=True)
    Image.fromarray(image).save(photos / "trip" / "a.png")
    records = [{"segmentation": image[..., 0] == level} for level in range(1, 16)]
    write_records(masks / "trip" / "a.json", records)
    return photos, masks, records


def matching(red: np.ndarray, field: np.ndarray, values: np.ndarray) -> float:
    return float((values[red] == field).mean())


@pytest.mark.parametrize("stored", [False, True])
def test_training_sees_image_and_field_of_the_same_pixels(made, tmp_path, stored: bool) -> None:
    """From the files to the batch: every pixel has its own region's value, and one pixel off it has not."""
    photos, masks, records = made
    if stored:
        write_structure(masks / "trip" / "a.npz", StructureField.from_masks(records))
    store = prepare_crops(photos, tmp_path / "crops", crop_size=40, reductions=(1,), masks=masks)
    assert len(store) == 4
    expected = encode_structure(records).numpy()
    red = np.asarray(Image.open(photos / "trip" / "a.png"))[..., 0]
    values = np.array([expected[red == level][0] for level in range(16)])
    assert len(np.unique(values)) == 16
    for index in range(len(store)):
        assert matching(store.images[index][..., 0], store.structure(index), values) == 1
    source = TrainingSource(DataConfig(crops=str(store.path), patch=16, batch=4), scale=4, seed=1)
    turns = set()
    for step in range(8):
        host = source.windows(step)
        turns.update(host.draws.turns.tolist())
        batch = make_batch(host, scale=4)
        red = (batch.hr[:, 0] * 255).round().long().numpy()
        field = batch.structure[:, 0].numpy()
        assert matching(red, field, values) == 1
        for axis in (1, 2):
            for shift in (-1, 1):
                assert matching(red, np.roll(field, shift, axis), values) < 0.3
    assert turns == set(range(8))


@pytest.mark.parametrize("factor", [2, 3])
def test_regions_are_reduced_with_the_photo(tmp_path: Path, factor: int) -> None:
    """An edge at row 36 and column 48 lies at 36 / factor and 48 / factor in photo and field."""
    image = np.full((96, 120, 3), 20, np.uint8)
    image[36:, 48:] = 240
    Image.fromarray(image).save(tmp_path / "a.png")
    inside = image[..., 0] > 128
    covered = np.ones(inside.shape, bool)
    write_records(tmp_path / "a.json", [{"segmentation": covered}, {"segmentation": inside}])
    store = prepare_crops(
        tmp_path, tmp_path / "c", crop_size=32, reductions=(factor,), min_gradient=0, masks=tmp_path
    )
    small = np.zeros((96 // factor, 120 // factor), bool)
    small[36 // factor :, 48 // factor :] = True
    field = encode_structure([np.ones_like(small), small]).numpy()
    for index, (_, top, left) in enumerate(store.origins.tolist()):
        window = (slice(top, top + 32), slice(left, left + 32))
        np.testing.assert_array_equal(store.structure(index), field[window])
        np.testing.assert_array_equal(store.images[index][..., 0] > 128, small[window])


def test_other_masks_are_prepared_again(made, tmp_path) -> None:
    photos, masks, records = made
    options: dict = {"crop_size": 40, "reductions": (1,), "masks": masks}
    first = prepare_crops(photos, tmp_path / "crops", **options)
    before = first.structure(0).copy()
    assert first.manifest["settings"]["segmenter"] == "masks"
    written = (tmp_path / "crops" / "manifest.json").stat().st_mtime_ns
    prepare_crops(photos, tmp_path / "crops", **options)
    assert (tmp_path / "crops" / "manifest.json").stat().st_mtime_ns == written
    write_records(masks / "trip" / "a.json", records[:3])
    again = prepare_crops(photos, tmp_path / "crops", overwrite=True, **options)
    assert (again.structure(0) != before).any()


def test_the_published_field_is_taken_as_it_is(made, tmp_path) -> None:
    photos, masks, _ = made
    field = np.random.default_rng(0).integers(0, 5, SIZE).astype(np.float32)
    np.save(masks / "trip" / "a.npy", field)
    store = prepare_crops(photos, tmp_path / "crops", crop_size=40, reductions=(1,), masks=masks)
    _, top, left = store.origins[1].tolist()
    np.testing.assert_array_equal(store.structure(1), field[top : top + 40, left : left + 40])


def test_no_regions_are_a_field_of_zeros(made, tmp_path) -> None:
    photos, masks, _ = made
    write_records(masks / "trip" / "a.json", [])
    store = prepare_crops(photos, tmp_path / "crops", crop_size=40, reductions=(1, 2), masks=masks)
    assert not store.labels.any()


def test_missing_masks_are_named_before_any_work(made, tmp_path) -> None:
    photos, masks, _ = made
    Image.new("RGB", (64, 64)).save(photos / "b.png")
    with pytest.raises(
        DataError, match=r"has no masks for 1 of 2 photos \(b\.png\): expected files like b\.npz"
    ):
        prepare_crops(photos, tmp_path / "crops", crop_size=40, masks=masks)
    assert not (tmp_path / "crops").exists()
    with pytest.raises(DataError, match="gone is not a folder of masks"):
        prepare_crops(photos, tmp_path / "crops", crop_size=40, masks=tmp_path / "gone")


def test_masks_of_another_size(made, tmp_path) -> None:
    photos, masks, _ = made
    write_records(masks / "trip" / "a.json", [{"segmentation": np.ones((90, 109), bool)}])
    with pytest.raises(DataError, match=r"a\.json: mask 0: expected size \(90, 110\)"):
        prepare_crops(photos, tmp_path / "crops", crop_size=40, masks=masks)


def test_a_stored_field_cannot_be_reduced(made, tmp_path) -> None:
    photos, masks, records = made
    write_structure(masks / "trip" / "a.npz", StructureField.from_masks(records))
    with pytest.raises(
        DataError, match=r"full size \(90, 110\), but it is needed at \(45, 55\).*\.json records"
    ):
        prepare_crops(photos, tmp_path / "crops", crop_size=40, masks=masks)
