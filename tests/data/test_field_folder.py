"""Fields for a folder of records: resumed, told apart by how they were encoded, bad files kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.data.field_folder import encode_folder
from sam_diffsr.data.shard import Shard
from sam_diffsr.errors import ArgumentError, DataError
from sam_diffsr.masks.spe import encode_structure
from sam_diffsr.masks.store import read_records, read_structure, write_records


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.png", "trip/a.png", "trip/c.jpg")):
        Image.new("RGB", (10 + index, 8), (50, 60, 70)).save(folder / name)
    return folder


@pytest.fixture
def masks(photos: Path, tmp_path: Path) -> Path:
    """Left and right half of each photo."""
    folder = tmp_path / "masks"
    (folder / "trip").mkdir(parents=True)
    for index, name in enumerate(("a", "b", "trip/a", "trip/c")):
        left = np.zeros((8, 10 + index), bool)
        left[:, : left.shape[1] // 2] = True
        write_records(folder / f"{name}.json", [{"segmentation": left}, {"segmentation": ~left}])
    return folder


def test_fields_from_records(masks, tmp_path) -> None:
    out = tmp_path / "fields"
    outcomes = list(encode_folder(masks, out))
    assert written(out) == ["a.npz", "b.npz", "trip/a.npz", "trip/c.npz"]
    assert all(
        o.stored == o.job.target.stat().st_size and o.plain == 4 * 8 * (9 + o.number) + 128 for o in outcomes
    )
    records = read_records(masks / "b.json")
    np.testing.assert_array_equal(read_structure(out / "b.npz").to_tensor(), encode_structure(records))
    assert [o.status for o in encode_folder(masks, out)] == ["skipped"] * 4
    other = list(encode_folder(masks, out, reduction="region"))
    assert [o.status for o in other] == ["failed"] * 4
    with pytest.raises(DataError, match=r"encoded with rope/image and not rope/region; overwrite"):
        raise other[0].error or AssertionError
    assert {o.status for o in encode_folder(masks, out, reduction="region", overwrite=True)} == {"written"}
    (out / "a.npz").write_bytes(b"PK\x03\x04")
    assert [o.status for o in encode_folder(masks, out, reduction="region")] == ["written", *["skipped"] * 3]
    shard = list(encode_folder(masks, tmp_path / "part", shard=Shard(1, 2)))
    assert [o.job.target.name for o in shard] == ["b.npz", "c.npz"]


def test_empty_lists_need_the_photos(photos, masks, tmp_path) -> None:
    write_records(masks / "b.json", [])
    outcomes = list(encode_folder(masks, tmp_path / "fields"))
    with pytest.raises(DataError, match=r"b\.json says that there are no regions, but not how large"):
        raise outcomes[1].error or AssertionError
    outcomes = list(encode_folder(masks, tmp_path / "fields", photos=photos))
    assert [o.status for o in outcomes] == ["skipped", "written", "skipped", "skipped"]
    assert read_structure(tmp_path / "fields" / "b.npz").size == (8, 11)


def test_photos_and_records_must_fit(photos, masks, tmp_path) -> None:
    Image.new("RGB", (5, 5)).save(photos / "a.png")
    (photos / "b.png").unlink()
    first, second, *_ = encode_folder(masks, tmp_path / "fields", photos=photos)
    with pytest.raises(DataError, match=r"a\.json: mask 0: expected size \(5, 5\)"):
        raise first.error or AssertionError
    with pytest.raises(DataError, match=r"has no photo for .*b\.json"):
        raise second.error or AssertionError


def test_two_records_with_one_target(masks, tmp_path) -> None:
    (masks / "a").mkdir()
    (masks / "a" / "metadata.csv").write_text("id\n")
    with pytest.raises(DataError, match=r"would both be written to .*a\.npz"):
        list(encode_folder(masks, tmp_path / "fields"))


def test_wrong_choices_fail_before_any_file(masks, tmp_path) -> None:
    with pytest.raises(ArgumentError, match="encoding must be one of"):
        list(encode_folder(masks, tmp_path / "fields", encoding="magic"))  # pyright: ignore
    assert not (tmp_path / "fields").exists()


def test_random_values_of_another_seed_are_not_taken_for_finished(masks, tmp_path) -> None:
    out = tmp_path / "fields"
    assert {o.status for o in encode_folder(masks, out, encoding="random", seed=3)} == {"written"}
    assert read_structure(out / "a.npz").seed == 3
    assert {o.status for o in encode_folder(masks, out, encoding="random", seed=3)} == {"skipped"}
    other = list(encode_folder(masks, out, encoding="random", seed=4))
    assert [o.status for o in other] == ["failed"] * 4
    with pytest.raises(DataError, match=r"encoded with random, seed 3 and not random, seed 4; overwrite"):
        raise other[0].error or AssertionError
    again = encode_folder(masks, out, encoding="random", seed=4, overwrite=True)
    assert {o.status for o in again} == {"written"}
    assert read_structure(out / "a.npz").seed == 4
