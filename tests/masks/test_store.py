from __future__ import annotations

import csv
import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.errors import DataError, OutputError
from sam_diffsr.masks import encode_structure, rle
from sam_diffsr.masks.spe import StructureField
from sam_diffsr.masks.store import read_records, read_structure, write_records, write_structure

SIZE = (40, 56)


@pytest.fixture
def masks() -> np.ndarray:
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = [(10, 12, 9), (20, 30, 14), (35, 50, 8), (5, 40, 6)]
    return np.stack([(yy - y) ** 2 + (xx - x) ** 2 < r**2 for y, x, r in centres])


@pytest.fixture
def records(masks) -> list[dict]:
    return [
        {
            "segmentation": rle.encode(mask, compressed=index % 2 == 0),
            "area": int(mask.sum()),
            "bbox": list(rle.bbox_xywh(rle.encode(mask))),
            "predicted_iou": 0.9375,
            "point_coords": [[1.5, 2.5]],
            "stability_score": 0.96875,
            "crop_box": [0, 0, SIZE[1], SIZE[0]],
        }
        for index, mask in enumerate(masks)
    ]


def write_amg_folder(folder, masks) -> None:
    """As segment-anything's scripts/amg.py names its columns and pictures."""
    folder.mkdir()
    names = ["x0", "y0", "w", "h"]
    header = ["id", "area", *[f"bbox_{n}" for n in names], "point_input_x", "point_input_y", "predicted_iou"]
    header += ["stability_score", *[f"crop_box_{n}" for n in names]]
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for index, mask in enumerate(masks):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{index}.png")
            box = rle.bbox_xywh(rle.encode(mask))
            writer.writerow([index, mask.sum(), *box, 1.5, 2.5, 0.9375, 0.96875, 0, 0, SIZE[1], SIZE[0]])


def test_records_round_trip(tmp_path, records):
    path = tmp_path / "photo.json"
    write_records(path, records)
    assert isinstance(json.loads(path.read_text()), list)  # the form of amg.py --convert-to-rle
    assert read_records(path, size=SIZE) == records
    assert os.listdir(tmp_path) == ["photo.json"]


def test_binary_masks_and_numpy_scalars_are_made_json(tmp_path, masks, records):
    raw = [
        {
            **record,
            "segmentation": mask,
            "area": np.int64(record["area"]),
            "predicted_iou": np.float32(0.9375),
        }
        for record, mask in zip(records, masks, strict=True)
    ]
    raw[0]["segmentation"] = {**rle.encode(masks[0])}
    raw[0]["segmentation"]["counts"] = raw[0]["segmentation"]["counts"].encode()  # as pycocotools gives it
    raw[1]["point_coords"] = np.array([[1.5, 2.5]])
    raw[1]["crop_box"] = (0, 0, SIZE[1], SIZE[0])
    write_records(tmp_path / "a.json", raw)
    got = read_records(tmp_path / "a.json")
    for record, mask, expected in zip(got, masks, records, strict=True):
        np.testing.assert_array_equal(rle.decode(record["segmentation"]), mask)
        assert {**record, "segmentation": 0} == {**expected, "segmentation": 0}


def test_no_regions_are_valid(tmp_path):
    write_records(tmp_path / "a.json", [])
    assert (tmp_path / "a.json").read_text() == "[]"
    assert read_records(tmp_path / "a.json", size=SIZE) == []


def test_sa1b_form(tmp_path, records):
    path = tmp_path / "sa_1.json"
    image = {"image_id": 1, "width": SIZE[1], "height": SIZE[0], "file_name": "sa_1.jpg"}
    path.write_text(json.dumps({"image": image, "annotations": [{**r, "id": 7} for r in records]}))
    assert read_records(path, size=SIZE) == [{**r, "id": 7} for r in records]
    with pytest.raises(DataError, match=r"belongs to an image of \(40, 56\) .* expected \(56, 40\)"):
        read_records(path, size=(SIZE[1], SIZE[0]))
    path.write_text(json.dumps({"image": {**image, "width": 57}, "annotations": records}))
    with pytest.raises(DataError, match=r"sa_1.json: mask 0: expected size \(40, 57\)"):
        read_records(path)


def test_amg_picture_folder(tmp_path, masks, records):
    write_amg_folder(tmp_path / "photo", masks)
    got = read_records(tmp_path / "photo", size=SIZE)
    for record, mask, expected in zip(got, masks, records, strict=True):
        np.testing.assert_array_equal(rle.decode(record["segmentation"]), mask)
        assert {**record, "segmentation": 0} == {**expected, "segmentation": 0}
    with pytest.raises(DataError, match="mask 0: expected size"):
        read_records(tmp_path / "photo", size=(41, 56))


def test_damaged_amg_folders(tmp_path, masks):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no metadata\.csv"):
        read_records(tmp_path / "empty")
    write_amg_folder(tmp_path / "a", masks)
    (tmp_path / "a" / "2.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"2.png is missing or not a readable picture"):
        read_records(tmp_path / "a")
    (tmp_path / "a" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2.png is missing or not a readable picture"):
        read_records(tmp_path / "a")
    table = tmp_path / "a" / "metadata.csv"
    table.write_text(table.read_text()[:-60])
    with pytest.raises(DataError, match=r"metadata.csv: line 4 lacks a column or a number"):
        read_records(tmp_path / "a")
    table.write_bytes(b"id,area\n\xff\xfe")
    with pytest.raises(DataError, match=r"metadata.csv cannot be read"):
        read_records(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"segmentation": {"size"', "is truncated or not JSON"),
        ("", "is truncated or not JSON"),
        (b"\xff\xfe\x00", "is truncated or not JSON"),
        ("[" * 100_000, "is truncated or not JSON"),
        ('{"image": {}}', "must hold a list of records or SA-1B's"),
        ('"text"', "must hold a list of records"),
        ('{"image": {"height": 4}, "annotations": []}', "'image' of an SA-1B file must have"),
        ('{"annotations": []}', "'image' of an SA-1B file must have .* got None"),
        ('{"image": {"height": 4, "width": 4}, "annotations": {}}', "must hold a list of records"),
        ('[{"area": 4}]', "record 0 has no 'segmentation'"),
        ("[4]", "record 0 has no 'segmentation'"),
        ('[{"segmentation": {"size": [4, 4], "counts": [17]}}]', "a.json: mask 0: RLE counts must cover"),
        ('[{"segmentation": {"size": [4, 4], "counts": ["a"]}}]', "a.json: mask 0: RLE counts must be"),
        ('[{"segmentation": [[1, 2, 3, 4, 5, 6]]}]', "a.json: mask 0: an RLE record needs the keys"),
        ('[{"segmentation": {"size": [4, 5], "counts": [20]}}]', r"mask 0: expected size \(4, 4\)"),
    ],
)
def test_damaged_record_files(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_records(path, size=(4, 4))


def test_missing_record_file(tmp_path):
    with pytest.raises(DataError, match=r"a.json does not exist; generate the masks first"):
        read_records(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"area": 4}, "a record has no 'segmentation'"),
        ({"segmentation": {"size": [2, 2], "counts": [5]}}, "RLE counts must cover"),
        ({"segmentation": {"size": [2, 2], "counts": [4]}, "predicted_iou": float("nan")}, "JSON"),
        (
            {"segmentation": {"size": [2, 2], "counts": [4]}, "x": {1}},
            "cannot write .* no form for a value of type set",
        ),
    ],
)
def test_records_that_cannot_be_written(tmp_path, record, message):
    with pytest.raises(DataError, match=message):
        write_records(tmp_path / "a.json", [record])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("encoding", ["rope", "random"])
def test_structure_round_trip(tmp_path, masks, encoding):
    structure = StructureField.from_masks(masks, encoding=encoding, reduction="region")
    written = write_structure(tmp_path / "a.npz", structure)
    assert written == (tmp_path / "a.npz").stat().st_size
    assert os.listdir(tmp_path) == ["a.npz"]
    got = read_structure(tmp_path / "a.npz", size=SIZE)
    np.testing.assert_array_equal(got.to_tensor().numpy(), structure.to_tensor().numpy())
    assert (got.encoding, got.reduction) == (encoding, "region")
    before = (tmp_path / "a.npz").read_bytes()
    write_structure(tmp_path / "a.npz", structure)
    assert (tmp_path / "a.npz").read_bytes() == before


def test_structure_is_fifty_times_smaller_than_a_float_array(tmp_path):
    yy, xx = np.mgrid[:600, :800]
    rng = np.random.default_rng(0)
    discs = [(yy - y) ** 2 + (xx - x) ** 2 < r**2 for y, x, r in rng.uniform(20, 500, (60, 3))]
    structure = StructureField.from_masks(discs)
    np.save(tmp_path / "a.npy", structure.to_tensor().numpy())
    assert write_structure(tmp_path / "a.npz", structure) * 50 < (tmp_path / "a.npy").stat().st_size


def test_published_npy(tmp_path, masks):
    field = encode_structure(masks).numpy()
    np.save(tmp_path / "a.npy", field.astype(np.float64))
    got = read_structure(tmp_path / "a.npy", size=SIZE)
    np.testing.assert_array_equal(got.to_tensor().numpy(), field)
    assert (got.encoding, got.reduction) == (None, None)


class Explosive:
    def __reduce__(self):
        return (pytest.fail, ("an object array was unpickled",))


@pytest.mark.parametrize("payload", [None, Explosive()])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_object_npy_means_no_regions_and_is_not_unpickled(tmp_path, payload, version):
    path = tmp_path / "a.npy"
    array = np.empty((), object)
    array[()] = payload
    with path.open("wb") as file:
        np.lib.format.write_array(file, array, version=version, allow_pickle=True)
    got = read_structure(path, size=SIZE)
    assert got.size == SIZE
    assert not got.to_tensor().numpy().any()
    with pytest.raises(DataError, match=r"a.npy: the file holds no regions .* pass size="):
        read_structure(path)


def damaged(tmp_path, masks, kind):
    path = tmp_path / "a"
    structure = StructureField.from_masks(masks)
    write_structure(path, structure)
    whole = path.read_bytes()
    if kind == "truncated npz":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "bit flip":
        middle = whole.index(b"labels.npy") + 60
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    elif kind == "truncated npy":
        np.save(path.with_suffix(".npy"), np.zeros(SIZE))
        path.write_bytes(path.with_suffix(".npy").read_bytes()[:500])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Explosive()))
    else:
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize("kind", ["truncated npz", "bit flip", "truncated npy", "pickle", "empty"])
def test_damaged_structure_files(tmp_path, masks, kind):
    with pytest.raises(DataError, match="is damaged or not a structure file"):
        read_structure(damaged(tmp_path, masks, kind))


def test_structure_files_that_do_not_fit(tmp_path, masks):
    with pytest.raises(DataError, match=r"a.npz does not exist; encode the masks first"):
        read_structure(tmp_path / "a.npz")
    write_structure(tmp_path / "a.npz", StructureField.from_masks(masks))
    with pytest.raises(DataError, match=r"is a field of \(40, 56\) .* expected \(56, 40\)"):
        read_structure(tmp_path / "a.npz", size=(SIZE[1], SIZE[0]))
    np.savez(tmp_path / "b.npz", masks=masks)
    with pytest.raises(DataError, match=r"b.npz: not a structure file: it lacks \['labels', 'values'\]"):
        read_structure(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", np.full(SIZE, np.nan, np.float32))
    with pytest.raises(DataError, match=r"c.npy: the structure field holds NaN"):
        read_structure(tmp_path / "c.npy")
    np.savez(tmp_path / "d.npz", labels=np.array([[None]]), values=np.zeros(1, np.float32))
    with pytest.raises(DataError, match="is damaged or not a structure file"):
        read_structure(tmp_path / "d.npz")


@pytest.mark.parametrize("writer", ["records", "structure"])
def test_unwritable_folder(tmp_path, masks, records, writer):
    target = tmp_path / "missing" / "a"
    with pytest.raises(OutputError, match=r"cannot write .*a'.*check the folder, its permissions"):
        write_records(target, records) if writer == "records" else write_structure(
            target, StructureField.from_masks(masks)
        )


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path, records, monkeypatch):
    path = tmp_path / "a.json"
    write_records(path, records)
    before = path.read_bytes()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_records(path, records[:1])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.json"]
