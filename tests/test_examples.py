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

from sam_diffsr.evaluation import psnr_y, ssim_y
from sam_diffsr.evaluation.pairs import read_pair
from sam_diffsr.masks import encode_structure, read_records, read_structure
from sam_diffsr.models import DenoiserConfig, EncoderConfig, ModelConfig, build_model
from sam_diffsr.pipeline.checkpoint import load_pretrained, save_pretrained_folder
from sam_diffsr.pipeline.config import ResolverConfig, SamplingConfig
from sam_diffsr.resize import imresize
from sam_diffsr.training import load_config, train

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


def test_deepen_changes_nothing_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    config = ResolverConfig(
        model=ModelConfig(
            encoder=EncoderConfig(blocks=2, channels=8, growth=4),
            denoiser=DenoiserConfig(dim=4, multipliers=(1, 2)),
        ),
        sampling=SamplingConfig(sampler="ddim", steps=1),
    )
    model = build_model(config.model)
    save_pretrained_folder(tmp_path / "flat", config, model.state_dict(), card=None)
    run(monkeypatch, "deepen.py", str(tmp_path / "flat"), str(tmp_path / "deep"))
    deep_config, weights = load_pretrained(tmp_path / "deep")
    assert deep_config.model.encoder == EncoderConfig(blocks=5, channels=8, growth=4)
    deeper = build_model(deep_config.model)
    deeper.load_state_dict(weights)
    lr, xt, t = torch.rand(1, 3, 12, 16), torch.randn(1, 3, 48, 64), torch.tensor([3])
    with torch.inference_mode():
        before, after = model.encode(lr), deeper.encode(lr)
        torch.testing.assert_close(after.trunk, before.trunk)
        torch.testing.assert_close(deeper(xt, t, after), model(xt, t, before))


def test_deepen_wants_what_it_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "deepen.py", "sam-diffsr-x4-small", str(tmp_path / "deep"), "--blocks", "2")
    assert "a positive multiple of 3, got 2" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


def test_score_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    hr = tmp_path / "hr"
    hr.mkdir()
    Image.open(EXAMPLES / "chelsea.png").crop((0, 0, 128, 96)).save(hr / "cat.png")
    overrides = ["data.synthetic.size=96", "data.patch=32", "run.steps=1", "optimizer.lr=1e-12"]
    train("encoder", load_config("tiny/rrdb", overrides=overrides), tmp_path / "fresh")
    run(monkeypatch, "score_encoders.py", str(tmp_path / "fresh"), "--hr", str(hr))
    name, folder, psnr, right, ssim = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert (name, folder) == ("fresh", "hr")
    pair = read_pair(hr / "cat.png", scale=4)  # a fresh encoder enlarges bilinearly, about
    enlarged = torch.nn.functional.interpolate(pair.lr / 255, scale_factor=4, mode="bilinear")
    expected = [float(score(enlarged, pair.hr / 255, border=4, data_range=1.0)) for score in (psnr_y, ssim_y)]
    assert float(psnr) == pytest.approx(expected[0], abs=0.5)
    assert float(ssim) == pytest.approx(expected[1], abs=0.02)
    assert float(right) == pytest.approx(float(psnr), abs=0.05)
