"""SelfExSR's layout is read; layouts that are nearly a known one are refused, with the expected names."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sam_diffsr.data import find_dataset
from sam_diffsr.errors import DataError


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (2, 2)).save(folder / name)


def test_selfexsr_keeps_hr_and_lr_in_one_folder(tmp_path: Path) -> None:
    names = [
        f"img_{index:03}_SRF_4_{kind}.png"
        for index in (2, 1)
        for kind in ("LR", "HR", "bicubic", "A+", "SRCNN")
    ]
    for root in (tmp_path / "flat", tmp_path / "Urban100" / "image_SRF_4"):
        fill(root, *names)
        fill(tmp_path / "Urban100" / "image_SRF_2", "img_001_SRF_2_HR.png")
        found = find_dataset(root if root.name == "flat" else root.parent)
        assert found.hr == [root / "img_001_SRF_4_HR.png", root / "img_002_SRF_4_HR.png"]
        assert found.lr == [root / "img_001_SRF_4_LR.png", root / "img_002_SRF_4_LR.png"]
        assert find_dataset(root, inputs=False).lr is None
    fill(tmp_path / "alone", "img_001_SRF_4_HR.png")
    assert find_dataset(tmp_path / "alone").lr is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("img_001_SRF_3_HR.png", "img_001_SRF_3_LR.png"),
            "not complete for scale 4; expected img_001_SRF_4_HR",
        ),
        (("a_SRF_4_HR.png", "a_SRF_4_LR.png", "b_SRF_4_HR.png"), "expected b_SRF_4_HR and b_SRF_4_LR"),
        (("a_SRF_4_HR.png", "a_SRF_4_LR.png", "c.png"), r"and others \(c\.png\)"),
        (("baby.png", "babyx4.png"), r"HR and LR images together \(baby\.png, babyx4\.png\)"),
        (("baby_HR.png", "baby_LR.png"), "HR and LR images together"),
        (("baby_GT.png", "baby_LR_x4.png"), "HR and LR images together"),
        (("baby_HR_x4.png", "baby_LR_x4.png"), "expected HR images only, folders HR and LR_bicubic/X4"),
        (("a_SRF4_hr.png", "a_SRF4_lr.png"), "HR and LR images together"),
    ],
)
def test_mixed_folders_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        find_dataset(tmp_path)


def test_usual_names_are_not_mixed_up(tmp_path: Path) -> None:
    fill(tmp_path, "matrix4.png", "a_1.png", "a_2.png", "lr.png", "0801.png", "0802.png", "max2.png")
    assert len(find_dataset(tmp_path).hr) == 7


@pytest.mark.parametrize("folder", ["Set5/LR_bicubic/X4", "Set5/LRbicx4", "DIV2K_valid_LR_bicubic/X4", "LQ"])
def test_a_folder_of_lr_images_is_not_taken_for_hr(tmp_path: Path, folder: str) -> None:
    fill(tmp_path / folder, "a.png")
    with pytest.raises(DataError, match="has the name of a folder of LR images"):
        find_dataset(tmp_path / folder)


@pytest.mark.parametrize("folder", ["LR_x4", "LRx4", "LQ", "lr_bicubic_x4", "LR_bic/X4"])
def test_lr_images_in_an_unknown_place_are_not_passed_over(tmp_path: Path, folder: str) -> None:
    fill(tmp_path / "HR", "a.png")
    fill(tmp_path / folder, "a.png")
    with pytest.raises(DataError, match=r"looks like the LR images of .*HR, but has no known name; expected"):
        find_dataset(tmp_path)
    assert find_dataset(tmp_path, inputs=False).lr is None
    assert find_dataset(tmp_path / "HR", scale=2, inputs=False).hr == [tmp_path / "HR" / "a.png"]


def test_lr_images_under_other_names_are_not_passed_over(tmp_path: Path) -> None:
    fill(tmp_path / "HR", "a.png")
    fill(tmp_path / "LR_bicubic" / "X4", "a_low.png")
    with pytest.raises(DataError, match=r"no LR image for 1 of 1 images .*expected names like ax4\.png"):
        find_dataset(tmp_path)


def test_lr_images_of_another_scale_or_set_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path / "DIV2K_valid_HR", "a.png")
    fill(tmp_path / "DIV2K_train_LR_bicubic" / "X4", "b.png")
    fill(tmp_path / "LRx2", "a.png")
    assert find_dataset(tmp_path / "DIV2K_valid_HR").lr is None


def test_lr_images_of_the_cropped_truths_are_not_those_of_the_originals(tmp_path: Path) -> None:
    for folder in ("original", "GTmod12", "LRbicx4"):
        fill(tmp_path / folder, "a.png")
    assert find_dataset(tmp_path / "original") == find_dataset(tmp_path / "original", inputs=False)
    assert find_dataset(tmp_path / "GTmod12").lr == [tmp_path / "LRbicx4" / "a.png"]
