"""Names to methods, folders to pairs, and results to files that can be scored again."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from sam_diffsr.errors import ArgumentError, DataError, ImageError, ModelLoadError, OutputError
from sam_diffsr.evaluation.compare import (
    ResultFolders,
    common_scale,
    find_pairs,
    load_models,
    results_methods,
    split_labels,
)
from sam_diffsr.evaluation.evaluate import evaluate_methods
from sam_diffsr.evaluation.methods import bicubic_method, model_methods
from sam_diffsr.models import ModelConfig


def test_labels(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x4").mkdir(parents=True)
    (tmp_path / "a=b").mkdir()
    assert split_labels(["runs/x4", "mine=runs/x4", "a=b", "owner/name", "Q=owner/name", "=x"]) == [
        ("x4", "runs/x4"),
        ("mine", "runs/x4"),
        ("a=b", "a=b"),
        ("owner/name", "owner/name"),
        ("Q", "owner/name"),
        ("=x", "=x"),
    ]
    with pytest.raises(
        ArgumentError, match=r"runs/x4 and \./runs/x4 are both called x4; .* second=\./runs/x4"
    ):
        split_labels(["runs/x4", "./runs/x4"])


def test_models_are_loaded_by_name_and_the_bundled_one_when_there_is_none(resolver, tmp_path) -> None:
    resolver.save_pretrained(tmp_path / "tiny")
    ((name, loaded),) = load_models([("mine", str(tmp_path / "tiny"))], device="cpu")
    assert name == "mine"
    assert loaded.config == resolver.config
    assert load_models([], default=False) == []
    ((name, _),) = load_models([], device="cpu")
    assert name == "sam-diffsr-x4-small"
    with pytest.raises(ModelLoadError, match="there is no model 'gone'"):
        load_models([("gone", "gone")])


def test_one_factor() -> None:
    assert common_scale([2, 2]) == 2
    assert common_scale([2], asked=2) == 2
    assert common_scale([], asked=3) == 3
    assert common_scale([]) == ModelConfig().scale
    with pytest.raises(ArgumentError, match="a comparison is at one factor, got 2 and 4"):
        common_scale([4, 2])
    with pytest.raises(ArgumentError, match="at one factor, got 3 and 4"):
        common_scale([4], asked=3)
    with pytest.raises(ArgumentError, match="scale must be at least 2, got 1"):
        common_scale([], asked=1)


def test_pairs_of_a_folder_and_of_a_data_set(photos, tmp_path) -> None:
    folder = photos[0].parent
    assert find_pairs(folder, scale=4) == (sorted(photos), None)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for photo in photos:
        Image.new("RGB", (4, 4)).save(inputs / f"{photo.stem}x4.png")
    found = [inputs / "0x4.png", inputs / "1x4.png"]
    assert find_pairs(folder, inputs, scale=4) == (sorted(photos), found)
    root = tmp_path / "Set5"
    (root / "LR_bicubic").mkdir(parents=True)
    folder.rename(root / "HR")
    inputs.rename(root / "LR_bicubic" / "X4")
    truths, found = find_pairs(root, scale=4)
    assert [path.relative_to(root).as_posix() for path in truths] == ["HR/0.png", "HR/1.png"]
    assert [path.relative_to(root).as_posix() for path in found or []] == [
        "LR_bicubic/X4/0x4.png",
        "LR_bicubic/X4/1x4.png",
    ]
    assert find_pairs(root, scale=2)[1] is None


def test_what_is_not_there_is_named(photos, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty"):
        find_pairs(empty, scale=4)
    with pytest.raises(ImageError, match=r"2 of 2 images do not have an input in .*empty: 0\.png, 1\.png"):
        find_pairs(photos[0].parent, empty, scale=4)
    with pytest.raises(ImageError, match="gone is not a folder"):
        find_pairs(photos[0].parent, tmp_path / "gone", scale=4)
    with pytest.raises(ImageError, match=r"2 of 2 images do not have a result in .*empty: 0\.png, 1\.png"):
        results_methods([("x", empty)], photos, scale=4)


def test_results_of_a_wrong_size_are_found_before_anything_runs(photos, tmp_path) -> None:
    folder = tmp_path / "sr"
    folder.mkdir()
    for photo in photos:
        Image.new("RGB", (20, 20)).save(folder / photo.name)
    with pytest.raises(ImageError, match=r"sr.0\.png has 20x20 pixels, but .*photos.0\.png has 38x47"):
        results_methods([("x", folder)], photos, scale=4)


def test_saved_results_score_as_they_did(resolver, photos, tmp_path) -> None:
    methods = [bicubic_method(4), *model_methods(resolver, name="tiny")]
    folders = ResultFolders(tmp_path / "sr", methods, hr_files=photos)
    first = evaluate_methods(photos, methods, scale=4, on_image=folders.add)
    assert [folder.name for folder in folders.folders] == ["bicubic", "tiny_encoder", "tiny_ddim_2_steps"]
    assert sorted(os.listdir(folders.folders[2])) == ["0.png", "1.png"]
    named = [(folder.name, folder) for folder in folders.folders]
    again = evaluate_methods(photos, results_methods(named, photos, scale=4), scale=4)
    for row, saved in zip(first.rows, again.rows, strict=True):
        assert saved.name == row.label.replace(", ", "_").replace(" ", "_")
        for old, new in zip(row.images, saved.images, strict=True):
            assert dataclasses.replace(old, seconds=None) == new


def test_methods_never_share_a_folder(resolver, tmp_path) -> None:
    methods = [*model_methods(resolver, name="a/b"), *model_methods(resolver, name="a:b")]
    folders = ResultFolders(tmp_path, methods, hr_files=[]).folders
    assert len({*folders}) == 4
    assert folders[2].name == "a_b_encoder_2"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot make the folders of results in .*file"):
        ResultFolders(tmp_path / "file", [bicubic_method(4)], hr_files=[])


def test_results_that_would_overwrite_each_other_are_refused(photos, tmp_path) -> None:
    double = [*photos, photos[0].with_suffix(".jpg")]
    message = r"0\.png and .*0\.jpg have the same name without ending, .* whose results .*sr is to hold"
    with pytest.raises(ImageError, match=message):
        ResultFolders(tmp_path / "sr", [bicubic_method(4)], hr_files=double)
    assert not (tmp_path / "sr").exists()


def test_nothing_here_touches_torchs_random_state(photos) -> None:
    before = torch.get_rng_state()
    evaluate_methods(photos, [bicubic_method(4)], scale=4)
    assert torch.equal(before, torch.get_rng_state())
    assert Path(photos[0]).is_file()
