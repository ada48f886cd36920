"""Folder runs: resumed, whole files only, bad files kept apart, no photo done twice."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.errors import ArgumentError, DataError, MissingDependencyError, OutputError
from sam_diffsr.masks import folders
from sam_diffsr.masks.folders import (
    encode_folder,
    find_records,
    generate_folder,
    load_generator,
    place_targets,
)
from sam_diffsr.masks.sam import SamOptions
from sam_diffsr.masks.shard import Shard
from sam_diffsr.masks.spe import encode_structure
from sam_diffsr.masks.store import read_records, read_structure, write_records


class Halves:
    """Left and right half; nothing in a black image."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def generate(self, image: np.ndarray) -> list[dict]:
        self.seen.append(image.shape)
        if not image.any():
            return []
        left = np.zeros(image.shape[:2], bool)
        left[:, : image.shape[1] // 2] = True
        return [{"segmentation": left}, {"segmentation": ~left}]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.png", "trip/a.png", "trip/c.jpg")):
        Image.new("RGB", (10 + index, 8), (50, 60, 70)).save(folder / name)
    return folder


def run(photos, out, generator=None, **options):
    generator = generator or Halves()
    return list(generate_folder(photos, out, lambda: generator, **options))


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_tree_is_kept_and_a_second_run_skips(photos, tmp_path) -> None:
    out = tmp_path / "masks"
    first = run(photos, out)
    assert written(out) == ["a.json", "b.json", "trip/a.json", "trip/c.json"]
    assert [(o.status, o.regions, o.number, o.total) for o in first] == [
        ("written", 2, n, 4) for n in (1, 2, 3, 4)
    ]
    assert first[-1].remaining == 0
    assert len(read_records(out / "b.json", size=(8, 11))) == 2

    def never():
        raise AssertionError("nothing to do needs no generator")

    assert [o.status for o in generate_folder(photos, out, never)] == ["skipped"] * 4
    assert [o.status for o in run(photos, out, overwrite=True)] == ["written"] * 4


def test_a_killed_run_goes_on_and_leaves_nothing_half(photos, tmp_path, monkeypatch) -> None:
    out = tmp_path / "masks"
    real, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(photos, out)
    monkeypatch.undo()
    assert written(out) == ["a.json"]
    (out / ".0123456789abcdef.part.json").write_text("[")  # a killed process may leave this
    assert [o.status for o in run(photos, out)] == ["skipped", "written", "written", "written"]


def test_a_truncated_file_is_done_again(photos, tmp_path) -> None:
    out = tmp_path / "masks"
    run(photos, out)
    (out / "b.json").write_text((out / "b.json").read_text()[:-9])
    assert [o.status for o in run(photos, out)] == ["skipped", "written", "skipped", "skipped"]
    read_records(out / "b.json")


def test_one_bad_photo_does_not_stop_the_others(photos, tmp_path) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    outcomes = run(photos, tmp_path / "masks")
    assert [o.status for o in outcomes] == ["written", "failed", "written", "written"]
    assert "b.png" in str(outcomes[1].error)
    assert "b.json" not in written(tmp_path / "masks")


def test_no_regions_are_a_result(photos, tmp_path) -> None:
    Image.new("RGB", (9, 9)).save(photos / "a.png")
    assert run(photos / "a.png", tmp_path / "masks")[0].regions == 0
    assert read_records(tmp_path / "masks" / "a.json") == []


def test_processes_share_a_folder(photos, tmp_path) -> None:
    out, generators = tmp_path / "masks", [Halves() for _ in range(3)]
    for index, generator in enumerate(generators):
        assert {o.status for o in run(photos, out, generator, shard=Shard(index, 3))} == {"written"}
    shapes = sorted(shape for generator in generators for shape in generator.seen)
    assert shapes == [(8, width, 3) for width in (10, 11, 12, 13)]
    assert len(written(out)) == 4


def test_a_generator_that_cannot_be_had_ends_the_run(photos, tmp_path) -> None:
    def load():
        raise MissingDependencyError("install it")

    with pytest.raises(MissingDependencyError, match="install it"):
        list(generate_folder(photos, tmp_path / "masks", load))


def test_folders_that_cannot_be_written(photos, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write into the folder"):
        run(photos, tmp_path / "file" / "out")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(OutputError, match=r"cannot write into the folder .*: Permission denied"):
        run(photos, tmp_path / "out")


def test_a_full_disk_ends_the_run(photos, tmp_path, monkeypatch) -> None:
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    generator = Halves()
    with pytest.raises(OutputError, match="No space left"):
        run(photos, tmp_path / "masks", generator)
    assert len(generator.seen) == 1


def test_two_photos_with_one_target(photos, tmp_path) -> None:
    Image.new("RGB", (5, 5)).save(photos / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg and .*a\.png would both be written to .*a\.json"):
        generate_folder(photos, tmp_path, Halves)


def test_generators_are_chosen_by_name() -> None:
    pytest.importorskip("skimage")
    assert load_generator("graph", longest_side=64).longest_side == 64  # pyright: ignore
    with pytest.raises(ArgumentError, match="graph segmentation has no option points_per_side, precision"):
        load_generator("graph", precision="fp16", options={"points_per_side": 8})


def test_sam_gets_every_option(monkeypatch) -> None:
    seen: dict = {}
    monkeypatch.setattr(
        folders.SamMaskGenerator,
        "from_pretrained",
        lambda name, **options: seen.update(options, name=name),
    )
    load_generator(device="cuda:1", longest_side=1024, precision="bf16", options={"crop_n_layers": 1})
    assert seen == {
        "name": "vit_h",
        "device": "cuda:1",
        "longest_side": 1024,
        "precision": "bf16",
        "options": SamOptions(crop_n_layers=1),
    }


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
        o.stored_bytes == o.target.stat().st_size and o.npy_bytes == 4 * 8 * (9 + o.number) + 128
        for o in outcomes
    )
    records = read_records(masks / "b.json")
    np.testing.assert_array_equal(read_structure(out / "b.npz").to_tensor(), encode_structure(records))
    assert [o.status for o in encode_folder(masks, out)] == ["skipped"] * 4
    other = list(encode_folder(masks, out, reduction="region"))
    assert [o.status for o in other] == ["failed"] * 4
    with pytest.raises(ArgumentError, match=r"encoded with rope/image and not rope/region; overwrite"):
        raise other[0].error or AssertionError
    assert {o.status for o in encode_folder(masks, out, reduction="region", overwrite=True)} == {"written"}
    (out / "a.npz").write_bytes(b"PK\x03\x04")
    assert [o.status for o in encode_folder(masks, out, reduction="region")] == ["written", *["skipped"] * 3]
    shard = list(encode_folder(masks, tmp_path / "part", shard=Shard(1, 2)))
    assert [o.target.name for o in shard] == ["b.npz", "c.npz"]


def test_a_folder_of_amg_itself_has_its_own_name(tmp_path, monkeypatch) -> None:
    """``masks encode`` takes such a folder, as well as one of many."""
    folder, out = tmp_path / "one", tmp_path / "fields"
    folder.mkdir()
    assert place_targets([folder], folder, out, ".npz") == [(folder, out / "one.npz")]
    assert place_targets([folder], tmp_path, out, ".npz") == [(folder, out / "one.npz")]
    monkeypatch.chdir(folder)
    assert place_targets([Path()], Path(), out, ".npz") == [(Path(), out / "one.npz")]


def test_empty_lists_need_the_photos(photos, masks, tmp_path) -> None:
    write_records(masks / "b.json", [])
    outcomes = list(encode_folder(masks, tmp_path / "fields"))
    with pytest.raises(DataError, match=r"b\.json holds no regions and does not say how large"):
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
    with pytest.raises(ArgumentError, match=r"encoded with random, seed 3 and not random, seed 4; overwrite"):
        raise other[0].error or AssertionError
    again = encode_folder(masks, out, encoding="random", seed=4, overwrite=True)
    assert {o.status for o in again} == {"written"}
    assert read_structure(out / "a.npz").seed == 4


def test_records_are_listed_in_both_forms(masks, tmp_path) -> None:
    (masks / "x").mkdir()
    (masks / "x" / "metadata.csv").write_text("id\n")
    (masks / ".hidden").mkdir()
    (masks / ".hidden" / "a.json").write_text("[]")
    (masks / ".0123456789abcdef.part.json").write_text("[")  # left by a killed process
    names = ["a.json", "b.json", "trip/a.json", "trip/c.json", "x"]
    assert [path.relative_to(masks).as_posix() for path in find_records(masks)] == names
    with pytest.raises(DataError, match="is not a folder of mask records"):
        find_records(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no mask records"):
        find_records(tmp_path / "empty")


@pytest.mark.parametrize("text", ['{"shapes": []}', "[1, 2]"])
def test_files_of_others_are_kept(photos: Path, text: str) -> None:
    (photos / "a.json").write_text(text)
    (photos / "b.json").write_text('[{"segm')  # cut off
    first, second = run(photos, photos)[:2]
    assert (first.status, second.status) == ("failed", "written")
    assert (photos / "a.json").read_text() == text
    assert run(photos, photos, overwrite=True)[0].status == "written"
