"""Folder runs: resumed, whole files only, bad files kept apart, no photo done twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.data import mask_folder, mask_jobs
from sam_diffsr.data.mask_folder import generate_folder, load_generator, plan_generation
from sam_diffsr.data.shard import Shard
from sam_diffsr.errors import ArgumentError, DataError, MissingDependencyError, OutputError
from sam_diffsr.masks.store import read_records


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
    with pytest.raises(OutputError, match="cannot create the folder"):
        run(photos, tmp_path / "file" / "out")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(mask_jobs.tempfile, "TemporaryFile", refuse)
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
        plan_generation(photos, tmp_path)


def test_generators_are_chosen_by_name() -> None:
    pytest.importorskip("skimage")
    assert load_generator("graph", longest_side=64).longest_side == 64  # pyright: ignore
    with pytest.raises(ArgumentError, match="graph segmentation has no option points_per_side, precision"):
        load_generator("graph", precision="fp16", options={"points_per_side": 8})


def test_sam_gets_every_option(monkeypatch) -> None:
    seen: dict = {}
    monkeypatch.setattr(
        mask_folder.SamMaskGenerator,
        "from_pretrained",
        lambda name, **options: seen.update(options, name=name),
    )
    load_generator(device="cuda:1", longest_side=1024, precision="bf16", options={"crop_n_layers": 1})
    assert seen == {
        "name": "vit_h",
        "device": "cuda:1",
        "longest_side": 1024,
        "precision": "bf16",
        "crop_n_layers": 1,
    }
