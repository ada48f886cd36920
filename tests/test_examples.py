"""The example photograph is what its README says, and the example programs run."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.errors import OutputError
from sam_diffsr.masks import encode_structure, read_records, read_structure
from sam_diffsr.resize import imresize

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def run(monkeypatch: pytest.MonkeyPatch, name: str, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *args])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_small_photo_is_the_reduction_of_the_large_one():
    large, small = pixels(EXAMPLES / "chelsea.png"), pixels(EXAMPLES / "chelsea_lr.png")
    assert large.shape == (296, 448, 3)
    expected = imresize(torch.from_numpy(large.copy()).permute(2, 0, 1), 0.25).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(small, expected)


def test_large_photo_is_the_public_one():
    data = pytest.importorskip("skimage.data")
    np.testing.assert_array_equal(pixels(EXAMPLES / "chelsea.png"), data.chelsea()[:296, :448])


def test_upscale_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "small.png"
    Image.open(EXAMPLES / "chelsea_lr.png").crop((0, 0, 20, 16)).save(source)
    run(monkeypatch, "upscale_one.py", str(source), str(tmp_path / "large.png"))
    assert Image.open(tmp_path / "large.png").size == (80, 64)


def test_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "small.png"
    Image.open(EXAMPLES / "chelsea_lr.png").crop((0, 0, 20, 16)).save(source)
    run(monkeypatch, "compare.py", str(source), str(tmp_path / "row.png"), "--crop", "2", "2", "12")
    row = Image.open(tmp_path / "row.png")
    assert row.width == 3 * 48 + 2 * 8


def test_compare_shows_inputs_results_of_others_and_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    hr = tmp_path / "hr.png"
    Image.open(EXAMPLES / "chelsea.png").crop((0, 0, 80, 64)).save(hr)
    run(monkeypatch, "damage.py", str(hr), str(tmp_path / "lr"), "--jpeg", "30", "--noise", "10")
    others = tmp_path / "theirs"
    others.mkdir()
    Image.open(hr).save(others / "hr.png")
    inputs = [str(tmp_path / "lr" / name) for name in ("clean/hr.png", "jpeg30/hr.jpg", "noise10/hr.png")]
    arguments = [*inputs, str(tmp_path / "grid.png"), "--sr", f"theirs={others}", "--crop", "2", "2", "10"]
    capsys.readouterr()
    run(monkeypatch, "compare.py", *arguments, "--hr", str(hr))
    picture = pixels(tmp_path / "grid.png")
    assert picture.shape == (3 * (40 + 24), 5 * 48 - 8, 3)
    truth = pixels(hr)[8:48, 8:48]
    np.testing.assert_array_equal(picture[24:64, 2 * 48 : 2 * 48 + 40], truth)
    np.testing.assert_array_equal(picture[24:64, 4 * 48 :], truth)
    assert (picture[88:128, 4 * 48 :] == 255).all()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines] == ["bicubic", "theirs", "SAM-DiffSR"] * 3
    assert lines[1].endswith("inf dB")
    psnr = [float(line.split()[-2]) for line in lines[::3]]
    assert psnr[0] > psnr[1]
    assert psnr[0] > psnr[2]


def test_compare_says_which_result_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "theirs").mkdir()
    lr = str(EXAMPLES / "chelsea_lr.png")
    with pytest.raises(SystemExit, match="has 0 files named chelsea_lr; there must be one"):
        run(monkeypatch, "compare.py", lr, str(tmp_path / "x.png"), "--sr", str(tmp_path / "theirs"))
    assert list(tmp_path.glob("*.png")) == []


def test_compare_wants_one_crop_or_one_for_each_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lr, crop = str(EXAMPLES / "chelsea_lr.png"), ["--crop", "0", "0", "8"]
    with pytest.raises(SystemExit):
        run(monkeypatch, "compare.py", lr, lr, lr, str(tmp_path / "x.png"), *crop, *crop)
    assert "--crop must be given once or for each of the 3 inputs" in capsys.readouterr().err


def test_damage_of_a_folder_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("first", "second"):
        folder = tmp_path / name
        run(monkeypatch, "damage.py", str(EXAMPLES), str(folder), "--jpeg", "50", "--noise", "5", "2.5")
        assert {path.name for path in folder.iterdir()} == {"clean", "jpeg50", "noise5", "noise2.5"}
    clean = pixels(tmp_path / "first" / "clean" / "chelsea.png")
    np.testing.assert_array_equal(clean, pixels(EXAMPLES / "chelsea_lr.png"))
    noisy = pixels(tmp_path / "first" / "noise5" / "chelsea.png")
    np.testing.assert_array_equal(noisy, pixels(tmp_path / "second" / "noise5" / "chelsea.png"))
    assert 4.5 < (noisy.astype(float) - clean).std() < 5.5
    assert (pixels(tmp_path / "first" / "jpeg50" / "chelsea.jpg") != clean).any()


def test_upscale_one_tells_how_it_is_used(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit, match="INPUT OUTPUT"):
        run(monkeypatch, "upscale_one.py")


def test_parity_table_is_made_from_the_golden_numbers(capsys: pytest.CaptureFixture[str]):
    program = runpy.run_path(str(EXAMPLES / "check_parity.py"))
    with torch.inference_mode():
        program["against_the_published_procedure"]()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3
    assert all(float(value) < 1e-5 for _, value in rows)


def test_make_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("skimage")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.open(EXAMPLES / "chelsea.png").crop((0, 0, 160, 120)).save(photos / "cat.png")
    run(monkeypatch, "make_masks.py", str(photos), str(tmp_path / "masks"), str(tmp_path / "shown.png"))
    assert re.search(r"cat\.png: \d+ regions, E from", capsys.readouterr().out)
    structure = read_structure(tmp_path / "masks" / "cat.npz", size=(120, 160))
    records = read_records(tmp_path / "masks" / "cat.json", size=(120, 160))
    np.testing.assert_allclose(structure.to_tensor(), encode_structure(records), rtol=1e-6)
    assert Image.open(tmp_path / "shown.png").width > 2 * 160
    with pytest.raises(SystemExit, match="PHOTOS MASKS"):
        run(monkeypatch, "make_masks.py")


def test_train_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run(monkeypatch, "train_tiny.py", str(tmp_path / "tiny"), "--steps", "2", "--device", "cpu")
    assert Image.open(tmp_path / "tiny" / "chelsea_x4.png").size == (192, 192)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["encoder", "denoiser"]
    assert (tmp_path / "tiny" / "rrdb" / "samples" / "step-00000002.png").is_file()


def test_training_data_are_replaced_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("skimage")
    program = runpy.run_path(str(EXAMPLES / "build_training_data.py"))
    photos = tmp_path / "photos"
    (photos / "gcompris").mkdir(parents=True)
    (photos / "gcompris" / "licences.json").write_text("{}")
    Image.open(EXAMPLES / "chelsea.png").crop((0, 0, 160, 120)).save(photos / "one.png")
    monkeypatch.setitem(program["main"].__globals__, "TRAINING", {"one.png": "CC0-1.0, Stefan van der Walt"})

    def build(*flags: str) -> None:
        arguments = ["x", str(photos), str(tmp_path / "crops"), "--min-gradient", "0", *flags]
        monkeypatch.setattr(sys, "argv", arguments)
        program["main"]()

    build("--crop-size", "32")
    first = capsys.readouterr().out
    with pytest.raises(OutputError, match="replace them with --overwrite"):
        build("--crop-size", "40")
    build("--crop-size", "40", "--overwrite")
    assert first.splitlines()[-1].split()[0] != capsys.readouterr().out.splitlines()[-1].split()[0]
