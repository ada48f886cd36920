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
