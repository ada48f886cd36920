"""What belongs together is found by name and has fitting sizes; what does not is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.data.degrade import parse_degradation
from sam_diffsr.errors import DataError, ImageError
from sam_diffsr.evaluation.methods import folder_methods
from sam_diffsr.evaluation.pairs import (
    check_sizes,
    find_pairs,
    match_files,
    read_image,
    read_pair,
    to_uint8,
)
from sam_diffsr.resize import imresize


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)
    return [folder / name for name in names]


def test_a_pair_is_cropped_and_rounded(photos) -> None:
    pair = read_pair(photos[0], scale=4)
    assert pair.hr.shape == (1, 3, 36, 44)
    assert pair.lr.shape == (1, 3, 9, 11)
    assert pair.hr.dtype == pair.lr.dtype == torch.uint8
    whole = torch.from_numpy(np.asarray(Image.open(photos[0])).copy()).permute(2, 0, 1)[None]
    assert torch.equal(pair.hr, whole[..., :36, :44])
    assert torch.equal(pair.lr, imresize(pair.hr, 0.25))
    assert (pair.name, pair.stem, pair.full_size, pair.cropped) == ("0.png", "0", (38, 47), True)


def test_an_input_that_is_given_is_taken_as_it_is(photos, tmp_path) -> None:
    Image.effect_noise((11, 9), 50).convert("RGB").save(tmp_path / "0x4.png")
    pair = read_pair(photos[0], scale=4, lr_file=tmp_path / "0x4.png")
    assert torch.equal(pair.lr, read_image(tmp_path / "0x4.png"))


def test_nothing_is_cropped_that_fits(tmp_path) -> None:
    (file,) = touch(tmp_path, "a.png")
    assert not read_pair(file, scale=4).cropped


def test_a_file_too_small_to_score_is_refused(tmp_path) -> None:
    Image.new("RGB", (40, 18)).save(tmp_path / "small.png")
    with pytest.raises(ImageError, match=r"small\.png has 40x18 pixels; at least 19"):
        read_pair(tmp_path / "small.png", scale=4, smallest=19)


def test_an_input_of_another_size_is_refused(photos, tmp_path) -> None:
    Image.new("RGB", (11, 10)).save(tmp_path / "0x4.png")
    message = r"0x4\.png has 11x10 pixels; expected 11x9, because .*0\.png has 47x38 and the scale is 4; noth"
    with pytest.raises(ImageError, match=message):
        read_pair(photos[0], scale=4, lr_file=tmp_path / "0x4.png")
    with pytest.raises(ImageError, match=message):
        check_sizes(photos[:1], [tmp_path / "0x4.png"], scale=4)


def test_a_damage_makes_the_input_from_the_cropped_truth(photos) -> None:
    pair = read_pair(photos[0], scale=4, damage=parse_degradation("jpeg30"))
    assert pair.lr.shape == (1, 3, 9, 11)
    assert not torch.equal(pair.lr, read_pair(photos[0], scale=4).lr)
    assert torch.equal(
        read_pair(photos[0], scale=4, damage=parse_degradation("bicubic")).lr, imresize(pair.hr, 0.25)
    )
    Image.open(photos[0]).convert("L").save(photos[0])
    gray = read_pair(photos[0], scale=4, damage=parse_degradation("noise20"))
    assert gray.gray
    assert torch.equal(gray.lr[:, :1].expand_as(gray.lr), gray.lr)


def test_rounding_is_that_of_a_saved_file() -> None:
    image = torch.tensor([-0.1, 0.0, 0.499 / 255, 0.501 / 255, 1.0, 1.2])
    assert to_uint8(image).tolist() == [0, 0, 0, 1, 255, 255]
    eight_bit = torch.tensor([3], dtype=torch.uint8)
    assert to_uint8(eight_bit) is eight_bit


def test_counterparts_are_found_by_every_name(tmp_path) -> None:
    truths = touch(tmp_path / "hr", "a.png", "b.png", "c.bmp", "d.png", "e.png", "ax4.png")
    others = touch(
        tmp_path / "sr", "ax4_out.png", "b_x4.jpg", "c_out.png", "dx4.png", "e.webp", "ax4x4.png", "z.png"
    )
    found = match_files([t for t in truths if t.stem != "ax4"], others, scale=4, what="a result")
    assert [path.name for path in found] == ["ax4_out.png", "b_x4.jpg", "c_out.png", "dx4.png", "e.webp"]
    truths = touch(tmp_path / "srf", "img_001_SRF_4_HR.png", "img_002_SRF_4_HR.png")
    others = touch(tmp_path / "ours", "img_001_SRF_4_HR_out.png", "img_002x4.png")
    assert match_files(truths, others, scale=4, what="a result") == others


def test_what_is_missing_double_or_ambiguous_is_named(tmp_path) -> None:
    truths = touch(tmp_path / "hr", *(f"{index}.png" for index in range(7)))
    others = touch(tmp_path / "sr", "3x4.png")
    message = (
        r"6 of 7 images do not have a result in sr: 0\.png, 1\.png, 2\.png, 4\.png, 5\.png and 1 more; "
        r"names must be those of the truth \(0, 0x4 or 0_x4"
    )
    with pytest.raises(ImageError, match=message):
        match_files(truths, others, scale=4, what="a result in sr")
    others += touch(tmp_path / "sr", "3_out.png")
    with pytest.raises(ImageError, match=r"3\.png has several counterparts: .*3x4\.png, .*3_out\.png"):
        match_files(truths[3:4], others, scale=4, what="a result")
    truths += touch(tmp_path / "hr", "3.bmp")
    with pytest.raises(
        ImageError, match=r"3\.png and .*3\.bmp differ only in their endings, .* which of them has a result"
    ):
        match_files(truths[3:], others[:1], scale=4, what="a result")


def test_results_may_be_as_large_as_the_truth_or_as_what_is_left_of_it(photos, tmp_path) -> None:
    results = []
    for index, size in enumerate([(47, 38), (32, 48)]):
        results.append(tmp_path / f"{index}_out.png")
        Image.new("RGB", size).save(results[-1])
    check_sizes(photos, results, scale=4, result=True)
    Image.new("RGB", (47, 36)).save(results[0])
    message = r"0_out\.png has 47x36 pixels; expected 47x38 or 44x36, because .*0\.png has 47x38"
    with pytest.raises(ImageError, match=message):
        check_sizes(photos, results, scale=4, result=True)


def test_a_turned_file_passes_and_is_checked_when_it_is_read(tmp_path) -> None:
    image = Image.new("RGB", (12, 8))
    image.getexif()[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=image.getexif())
    for name, size in {"fits.png": (2, 3), "lies.png": (3, 2)}.items():
        Image.new("RGB", size).save(tmp_path / name)
        check_sizes([tmp_path / "turned.jpg"], [tmp_path / name], scale=4)
    assert read_pair(tmp_path / "turned.jpg", scale=4, lr_file=tmp_path / "fits.png").hr.shape[-2:] == (12, 8)
    with pytest.raises(ImageError, match=r"lies\.png has 3x2 pixels; expected 2x3"):
        read_pair(tmp_path / "turned.jpg", scale=4, lr_file=tmp_path / "lies.png")
    with pytest.raises(ImageError, match="no such file"):
        check_sizes([tmp_path / "gone.png"], None, scale=4)


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
        folder_methods([("x", empty)], photos, scale=4)
