"""Data sets are found under the names that people have them by."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from sam_diffsr.data import find_dataset
from sam_diffsr.data.datasets import photo_folders
from sam_diffsr.errors import DataError


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (2, 2)).save(folder / name)


@pytest.mark.parametrize(
    ("root", "hr", "lr", "suffix"),
    [
        ("Set5", "Set5/HR", "Set5/LR_bicubic/X4", "x4"),
        ("Set5/HR", "Set5/HR", "Set5/LR_bicubic/X4", "x4"),
        ("benchmark/Set5", "benchmark/Set5/HR", "benchmark/Set5/LR_bicubic/X4", "x4"),
        ("Set5", "Set5/GTmod12", "Set5/LRbicx4", ""),
        ("Set5/GTmod12", "Set5/GTmod12", "Set5/LRbicx4", ""),
        ("DIV2K", "DIV2K/DIV2K_train_HR", "DIV2K/DIV2K_train_LR_bicubic/X4", "x4"),
        ("DIV2K/DIV2K_valid_HR", "DIV2K/DIV2K_valid_HR", "DIV2K/DIV2K_valid_LR_bicubic/X4", "x4"),
        ("data", "data/DIV2K/DIV2K_train_HR", "data/DIV2K/DIV2K_train_LR_bicubic/X4", "x4"),
        ("Flickr2K", "Flickr2K/Flickr2K_HR", "Flickr2K/Flickr2K_LR_bicubic/X4", "x4"),
        ("DF2K", "DF2K/DF2K_train_HR", "DF2K/DF2K_train_LR_bicubic/X4", "x4"),
        ("DIV2K", "DIV2K/DIV2K_train_HR_sub", "DIV2K/DIV2K_train_LR_bicubic/X4_sub", ""),
    ],
)
def test_known_layouts(tmp_path: Path, root: str, hr: str, lr: str, suffix: str) -> None:
    fill(tmp_path / hr, "b.png", "a.png")
    fill(tmp_path / lr, f"a{suffix}.png", f"b{suffix}.png")
    found = find_dataset(tmp_path / root)
    assert found.hr == [tmp_path / hr / "a.png", tmp_path / hr / "b.png"]
    assert found.lr == [tmp_path / lr / f"a{suffix}.png", tmp_path / lr / f"b{suffix}.png"]


def test_flat_folder_has_no_lr(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.jpg")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".c.png").write_text("")
    found = find_dataset(tmp_path)
    assert [file.name for file in found.hr] == ["a.png", "b.jpg"]
    assert found.lr is None


def test_lr_of_another_scale_is_not_taken(tmp_path: Path) -> None:
    fill(tmp_path / "HR", "a.png")
    fill(tmp_path / "LR_bicubic" / "X2", "ax2.png")
    fill(tmp_path / "LR_bicubic" / "X4", "ax4.png")
    found = find_dataset(tmp_path, scale=2)
    assert found.lr == [tmp_path / "LR_bicubic" / "X2" / "ax2.png"]
    assert find_dataset(tmp_path, scale=8).lr is None


def test_div2k_and_flickr2k_together_are_df2k(tmp_path: Path) -> None:
    fill(tmp_path / "DIV2K_train_HR", "0001.png")
    fill(tmp_path / "Flickr2K_HR", "000001.png")
    assert [file.name for file in find_dataset(tmp_path).hr] == ["0001.png", "000001.png"]


def test_lr_for_only_some(tmp_path: Path) -> None:
    fill(tmp_path / "HR", "a.png", "b.png")
    fill(tmp_path / "LR_bicubic" / "X4", "ax4.png")
    with pytest.raises(DataError, match=r"no LR image for 1 of 2 images .*\(b\.png\); .* bx4\.png or b\.png"):
        find_dataset(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone is not a folder; expected a data set"):
        find_dataset(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no images in .*; expected image files .* folder named HR"):
        find_dataset(tmp_path)


def test_lmdb_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"")
    with pytest.raises(DataError, match="is an LMDB, which cannot be read"):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("folders", "taken"),
    [
        (("original", "edited"), "."),
        (("HR", "2019/may"), "."),
        (("original",), "original"),
        (("HR", "LR_bicubic/X4", "SR"), "HR"),
        (("original", "GTmod12", "other"), "GTmod12"),
        (("DIV2K_train_HR", "masks"), "DIV2K_train_HR"),
    ],
)
def test_no_photograph_is_lost_to_a_common_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, folders: tuple[str, ...], taken: str
) -> None:
    for folder in folders:
        fill(tmp_path / folder, "a.png")
    with caplog.at_level(logging.INFO):
        assert photo_folders(tmp_path) == [tmp_path / taken]
    assert ("all its photographs are taken" if taken == "." else f"{taken} only") in caplog.text


def test_images_with_other_endings_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "HR", "a.png", "b.ppm", "c.PPM", ".d.ppm")
    (tmp_path / "HR" / "notes.txt").write_text("")
    assert [file.name for file in find_dataset(tmp_path).hr] == ["a.png"]
    assert [message[: message.index(";")] for message in caplog.messages] == [
        f"left out of {tmp_path}: 2 images like b.ppm"
    ]
