"""The folder of crops: what is read back, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.data import CropStore, SyntheticConfig, synthesize_crops
from sam_diffsr.errors import DataError, OutputError


@pytest.fixture
def folder(store: CropStore, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store.path, tmp_path / "copy"))


def test_arrays_are_mapped_not_read(store: CropStore) -> None:
    assert isinstance(store.images, np.memmap)
    assert not store.images.flags.writeable
    assert len(store) == len(store.images) == 4 + 4 + 1 + 1
    assert store.crop_size == 64


def test_structure_is_the_value_of_each_label(store: CropStore) -> None:
    for index in range(len(store)):
        source = store.origins[index, 0]
        table = store.values[store.offsets[source] : store.offsets[source + 1]]
        expected = np.vectorize(lambda label, table=table: table[label])(store.labels[index])
        field = store.structure(index)
        assert field.dtype == np.float32
        np.testing.assert_array_equal(field, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no manifest\.json"),
        (b'{"format_version": 1, "cro', "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[]", "expected format_version 1"),
        (b'{"format_version": 9}', "expected format_version 1"),
        (b'{"format_version": 1, "crops": 3}', r"lacks \['crop_size', 'sources'\]"),
    ],
)
def test_bad_manifest(folder: Path, content: bytes | None, message: str) -> None:
    path = folder / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        CropStore(folder)


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder"):
        CropStore(tmp_path / "nowhere")


def test_missing_array(folder: Path) -> None:
    (folder / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"labels\.npy is missing"):
        CropStore(folder)


@pytest.mark.parametrize("keep", [0, 40, 5000])
def test_truncated_array(folder: Path, keep: int) -> None:
    path = folder / "images.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"images\.npy is damaged"):
        CropStore(folder)


def test_pickled_array_is_not_unpickled(folder: Path) -> None:
    np.save(folder / "values.npy", np.array([{"any": "object"}], dtype=object))
    with pytest.raises(DataError, match=r"values\.npy is damaged or not a plain array"):
        CropStore(folder)


def test_wrong_type(folder: Path) -> None:
    np.save(folder / "labels.npy", np.load(folder / "labels.npy").astype(np.int64))
    with pytest.raises(DataError, match=r"labels\.npy: expected uint16, got int64"):
        CropStore(folder)


def test_array_and_manifest_disagree(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "crops": 3}))
    with pytest.raises(DataError, match=r"images\.npy: expected shape \(3, 64, 64, 3\) from the manifest"):
        CropStore(folder)


def test_values_and_offsets_disagree(folder: Path) -> None:
    np.save(folder / "values.npy", np.load(folder / "values.npy")[:-1])
    with pytest.raises(DataError, match=r"offsets\.npy ends at"):
        CropStore(folder)


def test_label_without_value(folder: Path) -> None:
    labels = np.load(folder / "labels.npy")
    labels[1, 0, 0] = 60000
    np.save(folder / "labels.npy", labels)
    with pytest.raises(DataError, match="crop 1 has label 60000, but source 0 has only"):
        CropStore(folder).structure(1)


def test_damaged_crops_can_be_made_again(tmp_path: Path) -> None:
    config = SyntheticConfig(size=32)
    synthesize_crops(tmp_path, count=2, config=config)
    (tmp_path / "labels.npy").unlink()
    with pytest.raises(DataError, match="is missing"):
        synthesize_crops(tmp_path, count=2, config=config)
    assert len(synthesize_crops(tmp_path, count=2, config=config, overwrite=True)) == 2


def test_synthetic_crops_of_other_photos_are_not_kept(tmp_path: Path) -> None:
    config = SyntheticConfig(size=32, photos=str(tmp_path / "photos"))
    (tmp_path / "photos").mkdir()
    Image.effect_noise((512, 512), 60).convert("RGB").save(tmp_path / "photos" / "a.png")
    synthesize_crops(tmp_path / "crops", count=1, config=config)
    synthesize_crops(tmp_path / "crops", count=1, config=replace(config, pool=3))  # changes no crop
    Image.effect_noise((512, 512), 20).convert("RGB").save(tmp_path / "photos" / "a.png")
    with pytest.raises(OutputError, match="holds crops of other photos or settings"):
        synthesize_crops(tmp_path / "crops", count=1, config=config)
