"""Masks on disk are found by the name of their photo, and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks.spe import StructureField
from sam_diffsr.masks.store import find_masks, load_structure, write_records, write_structure

SIZE = (90, 110)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, list[dict]]:
    """A folder with the records of one photo, ``trip/a``."""
    levels = np.random.default_rng(5).integers(0, 16, SIZE)
    folder = tmp_path / "masks"
    (folder / "trip").mkdir(parents=True)
    records = [{"segmentation": levels == level} for level in range(1, 16)]
    write_records(folder / "trip" / "a.json", records)
    return folder, records


def test_masks_lie_as_the_photos_do(made, tmp_path) -> None:
    masks, records = made
    (masks / "x").mkdir()
    (masks / "x" / "metadata.csv").write_text("id\n")
    root = tmp_path / "photos"
    a, x, other = root / "trip" / "a.jpg", root / "x.png", root / "other.png"
    assert find_masks(masks, [a, x, other], roots=[root]) == {a: masks / "trip" / "a.json", x: masks / "x"}
    assert find_masks(masks, [a, x]) == {x: masks / "x"}
    assert find_masks(masks, [a], roots=[root, root / "trip"]) == {a: masks / "trip" / "a.json"}
    write_structure(masks / "a.npz", StructureField.from_masks(records))
    assert find_masks(masks, [a], roots=[root / "trip", root]) == {a: masks / "a.npz"}
    with pytest.raises(DataError, match="gone is not a folder of masks"):
        find_masks(tmp_path / "gone", [a])


def test_a_field_that_was_encoded_otherwise(made) -> None:
    masks, records = made
    path = masks / "a.npz"
    write_structure(path, StructureField.from_masks(records, reduction="region"))
    with pytest.raises(DataError, match="encoded with rope/region, expected rope/image"):
        load_structure(path, photo_size=SIZE)
    assert load_structure(path, photo_size=SIZE, reduction="region").reduction == "region"


def test_bad_choices_and_bad_records_are_told_apart(made) -> None:
    masks, _ = made
    with pytest.raises(ArgumentError, match="encoding must be one of"):
        load_structure(masks / "trip" / "a.json", photo_size=SIZE, encoding="magic")  # pyright: ignore
    write_records(masks / "many.json", [{"segmentation": np.ones((1, 1), bool)}])
    with pytest.raises(DataError, match=r"many\.json: mask 0: expected size"):
        load_structure(masks / "many.json", photo_size=SIZE)


def test_too_many_regions_name_the_file(made, monkeypatch) -> None:
    import sam_diffsr.masks.spe as structure

    masks, _ = made
    monkeypatch.setattr(structure, "MAX_REGIONS", 4)
    with pytest.raises(DataError, match=r"a\.json: got 15 visible regions"):
        load_structure(masks / "trip" / "a.json", photo_size=SIZE)
