"""Crops, labels and values come from the same pixels; preparation resumes and is all or nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.data import cut
from sam_diffsr.data.crops import CropStore
from sam_diffsr.data.cut import gradient_energy, reduce_image, textured_corners
from sam_diffsr.data.prepare import prepare_crops
from sam_diffsr.errors import ArgumentError, DataError, OutputError
from sam_diffsr.image import decode_image
from sam_diffsr.masks.segments import GraphMaskGenerator
from sam_diffsr.masks.spe import encode_label_map
from sam_diffsr.masks.store import write_records


def red_labels(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(np.int32)


def halves(image: np.ndarray) -> np.ndarray:
    labels = np.ones(image.shape[:2], np.int64)
    labels[:, image.shape[1] // 2 :] = 2
    return labels


def test_crops_and_fields_are_windows_of_the_reduced_photo(photos: Path, store: CropStore) -> None:
    for index in range(len(store)):
        source, top, left = (int(value) for value in store.origins[index])
        entry = store.manifest["sources"][source]
        image = reduce_image(decode_image(photos / entry["file"]).rgb, entry["reduction"])
        assert image.shape[:2] == (entry["height"], entry["width"])
        window = (slice(top, top + 64), slice(left, left + 64))
        np.testing.assert_array_equal(store.images[index], image[window])
        field = encode_label_map(red_labels(image))[red_labels(image)]
        np.testing.assert_array_equal(store.structure(index), field[window])


def test_crops_do_not_overlap_and_sit_in_the_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 100, 3), dtype=np.uint8)
    corners = textured_corners(image, crop_size=32, min_gradient=0)
    assert corners.tolist() == [[top, left] for top in (11, 43, 75, 107) for left in (2, 34, 66)]


def test_flat_crops_are_dropped(tmp_path: Path) -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 64:] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    Image.fromarray(image).save(tmp_path / "half.png")
    store = prepare_crops(tmp_path, tmp_path / "out", crop_size=64, reductions=(1,), segmenter=halves)
    assert store.origins.tolist() == [[0, 0, 64]]


def test_gradient_energy_of_a_ramp_is_its_slope() -> None:
    ramp = np.repeat(np.arange(0, 200, 4, dtype=np.uint8)[None, :, None], 20, axis=0).repeat(3, axis=2)
    assert gradient_energy(ramp) == pytest.approx(0.5 * 4, rel=1e-5)


def test_reduction_one_keeps_the_pixels(photos: Path) -> None:
    image = np.asarray(Image.open(photos / "a.png"))
    np.testing.assert_array_equal(reduce_image(decode_image(photos / "a.png").rgb, 1), image)


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    store = prepare_crops(tmp_path, tmp_path / "out", crop_size=32, reductions=(1,), segmenter="none")
    entry = store.manifest["sources"][0]
    assert (entry["height"], entry["width"]) == (96, 64)
    np.testing.assert_array_equal(store.images[0], np.rot90(image, -1)[:32, :32])


def test_none_means_no_structure(photos: Path, tmp_path: Path) -> None:
    store = prepare_crops(photos, tmp_path, crop_size=64, segmenter="none")
    assert not any(store.structure(index).any() for index in range(len(store)))


def test_graph_segmentation_by_default(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    image = np.full((64, 64, 3), 30, np.uint8)
    image[:, 32:] = 220
    Image.fromarray(image).save(tmp_path / "two.png")
    store = prepare_crops(tmp_path, tmp_path / "out", crop_size=64, reductions=(1,), min_gradient=0)
    field = store.structure(0)
    assert field[32, 4] != field[32, 60]
    assert "GraphMaskGenerator" in store.manifest["settings"]["segmenter"]


def test_graph_segmentation_with_options(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    store = prepare_crops(photos, tmp_path, crop_size=64, segmenter=GraphMaskGenerator(min_size=7))
    assert "min_size=7" in store.manifest["settings"]["segmenter"]


def test_progress_and_licences(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store = prepare_crops(
        photos,
        tmp_path,
        crop_size=64,
        segmenter="none",
        licences={"a.png": "CC0-1.0"},
        progress=lambda done, total, name: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    assert [source["licence"] for source in store.manifest["sources"]] == ["CC0-1.0", None]


def test_finished_folder_is_kept_and_replaced_on_demand(photos: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def segment(image: np.ndarray) -> np.ndarray:
        calls.append(1)
        return halves(image)

    first = prepare_crops(photos, tmp_path, crop_size=64, segmenter=segment)
    again = prepare_crops(photos, tmp_path, crop_size=64, segmenter=segment)
    assert len(calls) == 2
    np.testing.assert_array_equal(first.images, again.images)
    with pytest.raises(OutputError, match=r"holds crops of other photos or settings; .* --overwrite"):
        prepare_crops(photos, tmp_path, crop_size=32, segmenter=segment)
    assert len(calls) == 2
    with pytest.raises(DataError, match="lower min_gradient"):
        prepare_crops(photos, tmp_path, crop_size=32, segmenter=segment, min_gradient=500, overwrite=True)
    assert not (tmp_path / "parts").exists()
    np.testing.assert_array_equal(CropStore(tmp_path).images, first.images)
    other = prepare_crops(photos, tmp_path, crop_size=32, segmenter=segment, overwrite=True)
    assert other.crop_size == 32
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images.npy",
        "labels.npy",
        "manifest.json",
        "offsets.npy",
        "origins.npy",
        "values.npy",
    ]


def test_preparation_that_was_cut_off_goes_on(photos: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, ...]] = []

    def segment(image: np.ndarray) -> np.ndarray:
        calls.append(image.shape)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return halves(image)

    with pytest.raises(KeyboardInterrupt):
        prepare_crops(photos, tmp_path / "cut", crop_size=64, segmenter=segment)
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        CropStore(tmp_path / "cut")
    store = prepare_crops(photos, tmp_path / "cut", crop_size=64, segmenter=segment)
    assert len(calls) == 3
    straight = prepare_crops(photos, tmp_path / "straight", crop_size=64, segmenter=halves)
    for name in ("images", "labels", "origins", "values", "offsets"):
        np.testing.assert_array_equal(getattr(store, name), getattr(straight, name))


def test_parts_left_by_a_kill_go_with_the_next_run(photos: Path, tmp_path: Path) -> None:
    prepare_crops(photos, tmp_path, crop_size=64, segmenter="none")
    (tmp_path / "parts").mkdir()
    for name in (f"{7:024x}.npz", ".0123456789abcdef.part.npz"):
        (tmp_path / "parts" / name).write_bytes(b"left")
    prepare_crops(photos, tmp_path, crop_size=64, segmenter="none")
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("name", ["manifest", "images"])
def test_full_disk_at_the_end(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).stem == name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"cannot write the crops in .*No space left"):
        prepare_crops(photos, tmp_path, crop_size=64, segmenter="none")
    assert not (tmp_path / "manifest.json").exists()
    monkeypatch.undo()
    assert len(prepare_crops(photos, tmp_path, crop_size=64, segmenter="none"))


def test_manifest_is_json_with_the_settings(store: CropStore) -> None:
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["settings"]["crop_size"] == 64
    assert [source["reduction"] for source in manifest["sources"]] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 8}, "crop_size must be at least 16"),
        ({"reductions": ()}, r"reductions must be one or more numbers >= 1, got \[\]"),
        ({"reductions": (2, 0.5)}, "reductions must be one or more numbers >= 1"),
        ({"segmenter": "magic"}, "segmenter must be 'graph', 'none' or a function, got 'magic'"),
    ],
)
def test_bad_options(photos: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        prepare_crops(photos, tmp_path, **options)


def test_nothing_but_photos_smaller_than_a_crop(photos: Path, tmp_path: Path, caplog) -> None:
    with pytest.raises(DataError, match="none of the 2 photos can be used: 2 too small for crop_size"):
        prepare_crops(photos, tmp_path / "new" / "out", crop_size=128, segmenter="none")
    assert "a.png is 170x150 and, reduced by 2, smaller than a crop of 128" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_small_and_corrupt_photos_are_left_out_and_listed(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(photos / "a.png", mixed)
    (mixed / "bad.png").write_bytes((photos / "a.png").read_bytes()[:3000])
    Image.new("RGB", (100, 60)).save(mixed / "small.png")
    options: dict = {"crop_size": 64, "reductions": (1,), "segmenter": "none"}
    store = prepare_crops(mixed, tmp_path / "out", **options)
    assert [(source["file"], source["kind"]) for source in store.skipped] == [
        ("bad.png", "corrupt"),
        ("small.png", "small"),
    ]
    assert "left out of 3 photos: 1 cannot be read, 1 too small for crop_size" in caplog.text
    alone = prepare_crops(photos, tmp_path / "alone", **options)
    count = len(store)
    np.testing.assert_array_equal(store.images, alone.images[:count])
    written = (store.path / "manifest.json").stat().st_mtime_ns
    assert len(prepare_crops(mixed, tmp_path / "out", **options).skipped) == 2
    assert (store.path / "manifest.json").stat().st_mtime_ns == written
    shutil.copy(photos / "b.png", mixed / "bad.png")
    assert len(prepare_crops(mixed, tmp_path / "out", overwrite=True, **options).skipped) == 1


def test_masks_missing_for_some(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    write_records(masks / "a.json", [{"segmentation": np.ones((150, 170), bool)}])
    options: dict = {"crop_size": 64, "reductions": (1,), "masks": masks}
    with pytest.raises(DataError, match=r"no masks for 1 of 2 photos \(b\.png\)"):
        prepare_crops(photos, tmp_path / "out", **options)
    store = prepare_crops(photos, tmp_path / "out", missing_masks="zero", **options)
    assert "1 of 2 photos have no masks and get E = 0: b.png" in caplog.text
    for index in range(len(store)):
        name = store.manifest["sources"][int(store.origins[index, 0])]["file"]
        assert bool(store.structure(index).any()) == (name == "a.png")


def test_a_data_set_as_it_comes(photos: Path, tmp_path: Path) -> None:
    root, masks = tmp_path / "DIV2K", tmp_path / "masks"
    for folder in ("DIV2K_train_HR", "DIV2K_train_LR_bicubic/X4"):
        (root / folder).mkdir(parents=True)
        shutil.copy(photos / "a.png", root / folder / "0001.png")
    masks.mkdir()
    write_records(masks / "0001.json", [{"segmentation": np.ones((150, 170), bool)}])
    store = prepare_crops(root, tmp_path / "out", crop_size=64, reductions=(1,), masks=masks)
    assert [source["file"] for source in store.manifest["sources"]] == ["0001.png"]
    assert store.structure(0).any()


def test_full_disk_while_a_photo_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Path, **arrays: np.ndarray) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"cannot write .*No space left.*finished photos are kept"):
        prepare_crops(photos, tmp_path / "out", crop_size=64, segmenter="none")
    assert not list((tmp_path / "out").rglob("*.npz"))


def test_nothing_textured_enough(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of the 2 photos has a crop of 64 pixels .* lower min_gradient"
    ):
        prepare_crops(photos, tmp_path / "out", crop_size=64, min_gradient=500, segmenter="none")
    assert list(tmp_path.iterdir()) == []


def test_folder_without_photos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no photos in"):
        prepare_crops(tmp_path, tmp_path / "out")


def test_folder_or_photo_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder of photos"):
        prepare_crops(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match=r"photo .*x\.png does not exist"):
        prepare_crops([tmp_path / "x.png"], tmp_path / "out")


def test_corrupt_photo(photos: Path, tmp_path: Path, caplog) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes((photos / "a.png").read_bytes()[:3000])
    with pytest.raises(DataError, match="none of the 1 photos can be used: 1 cannot be read"):
        prepare_crops([bad], tmp_path / "out", crop_size=64)
    assert "left out: the pixels of" in caplog.text
    assert "bad.png" in caplog.text


def test_segmenter_with_another_shape(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must give labels of the image's shape \(75, 85\), got \(5, 5\)"):
        prepare_crops(photos, tmp_path, crop_size=64, segmenter=lambda image: np.ones((5, 5), int))


@pytest.mark.parametrize("label", [-1, 65536])
def test_segmenter_with_labels_out_of_range(photos: Path, tmp_path: Path, label: int) -> None:
    with pytest.raises(DataError, match=r"labels must lie in 0\.\.65535"):
        prepare_crops(photos, tmp_path, crop_size=64, segmenter=lambda image: np.full(image.shape[:2], label))


def test_folder_that_cannot_be_made(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the folder of crops"):
        prepare_crops(photos, tmp_path / "file" / "out", crop_size=64, segmenter="none")


def test_full_disk(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"only 0\.0 GB are free; make room"):
        prepare_crops(photos, tmp_path, crop_size=64, segmenter="none")
    monkeypatch.undo()
    assert len(prepare_crops(photos, tmp_path, crop_size=64, segmenter="none"))


def test_other_files_in_the_folder_of_parts_are_left_alone(photos: Path, tmp_path: Path) -> None:
    originals = shutil.copytree(photos, tmp_path / "job" / "parts")
    with pytest.raises(
        OutputError, match=r"parts is for unfinished crops, but holds 'a\.png'; nothing was changed"
    ):
        prepare_crops(originals, tmp_path / "job", crop_size=64, segmenter="none", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "job").rglob("*.*")) == ["a.png", "b.png", "notes.txt"]


def test_arrays_of_somebody_else_are_kept(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.npy").write_bytes(b"mine")
    options: dict = {"crop_size": 64, "segmenter": "none"}
    with pytest.raises(OutputError, match=r"holds labels\.npy, but no manifest\.json; nothing was changed"):
        prepare_crops(photos, tmp_path, **options)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
    assert len(prepare_crops(photos, tmp_path, overwrite=True, **options))


def test_a_reduction_given_twice_counts_once(photos: Path, tmp_path: Path) -> None:
    options: dict = {"crop_size": 64, "segmenter": "none", "reductions": (2, 1, 2.0)}
    store = prepare_crops(photos, tmp_path, **options)
    assert [source["reduction"] for source in store.manifest["sources"]] == [2, 1, 2, 1]
    assert len(prepare_crops(photos, tmp_path, **options)) == len(store)


def test_a_photo_that_cannot_be_opened_is_left_out_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    monkeypatch.setattr(
        cut, "decode_image", lambda file: decode_image(file if file.name == "a.png" else "gone")
    )
    for _ in range(2):
        store = prepare_crops(photos, tmp_path, crop_size=64, segmenter="none")
        assert [(source["file"], source["sha256"]) for source in store.skipped] == [("b.png", None)]
