"""The example photograph is what its README says, and the example programs run."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sam_diffsr.cli import main
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
    run(monkeypatch, "01_upscale_one.py", str(source), str(tmp_path / "large.png"))
    assert Image.open(tmp_path / "large.png").size == (80, 64)


def test_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "small.png"
    Image.open(EXAMPLES / "chelsea_lr.png").crop((0, 0, 20, 16)).save(source)
    run(monkeypatch, "lab/compare.py", str(source), str(tmp_path / "row.png"), "--crop", "2", "2", "12")
    row = Image.open(tmp_path / "row.png")
    assert row.width == 3 * 48 + 2 * 8


def test_compare_shows_inputs_results_of_others_and_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    hr = tmp_path / "hr.png"
    Image.open(EXAMPLES / "chelsea.png").crop((0, 0, 80, 64)).save(hr)
    damaged = ["--degrade=bicubic,jpeg30,noise10", f"--save={tmp_path / 'lr'}", "--steps=0"]
    assert main(["evaluate", f"--hr={hr.parent}", *damaged]) == 0
    others = tmp_path / "theirs"
    others.mkdir()
    Image.open(hr).save(others / "hr.png")
    inputs = [str(tmp_path / "lr" / name / "lr" / "hr.png") for name in ("bicubic", "jpeg30", "noise10")]
    arguments = [*inputs, str(tmp_path / "grid.png"), "--sr", f"theirs={others}", "--crop", "2", "2", "10"]
    capsys.readouterr()
    run(monkeypatch, "lab/compare.py", *arguments, "--hr", str(hr))
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
        run(monkeypatch, "lab/compare.py", lr, str(tmp_path / "x.png"), "--sr", str(tmp_path / "theirs"))
    assert list(tmp_path.glob("*.png")) == []


def test_compare_wants_one_crop_or_one_for_each_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lr, crop = str(EXAMPLES / "chelsea_lr.png"), ["--crop", "0", "0", "8"]
    with pytest.raises(SystemExit):
        run(monkeypatch, "lab/compare.py", lr, lr, lr, str(tmp_path / "x.png"), *crop, *crop)
    assert "--crop must be given once or for each of the 3 inputs" in capsys.readouterr().err


def test_upscale_one_tells_how_it_is_used(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SystemExit, match="INPUT OUTPUT"):
        run(monkeypatch, "01_upscale_one.py")


def test_parity_table_is_made_from_the_golden_numbers(capsys: pytest.CaptureFixture[str]):
    program = runpy.run_path(str(EXAMPLES / "lab/check_parity.py"))
    with torch.inference_mode():
        program["against_the_published_procedure"]()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3
    assert all(float(value) < 1e-5 for _, value in rows)


def test_make_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("skimage")
    photos = tmp_path / "photos"
    (photos / "trip").mkdir(parents=True)
    Image.open(EXAMPLES / "chelsea.png").crop((0, 0, 160, 120)).save(photos / "cat.png")
    Image.open(EXAMPLES / "chelsea.png").crop((0, 0, 40, 30)).save(photos / "trip" / "cat.png")
    run(monkeypatch, "05_masks.py", str(photos), str(tmp_path / "masks"), str(tmp_path / "shown.png"))
    assert re.search(r"cat\.png: \d+ regions, E from", capsys.readouterr().out)
    read_structure(tmp_path / "masks" / "trip" / "cat.npz", size=(30, 40))
    structure = read_structure(tmp_path / "masks" / "cat.npz", size=(120, 160))
    records = read_records(tmp_path / "masks" / "cat.json", size=(120, 160))
    np.testing.assert_allclose(structure.to_tensor(), encode_structure(records), rtol=1e-6)
    assert Image.open(tmp_path / "shown.png").width > 2 * 160
    with pytest.raises(SystemExit, match="PHOTOS MASKS"):
        run(monkeypatch, "05_masks.py")


def test_train_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run(monkeypatch, "04_train_tiny.py", str(tmp_path / "tiny"), "--steps", "2", "--device", "cpu")
    assert Image.open(tmp_path / "tiny" / "chelsea_x4.png").size == (192, 192)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["encoder", "denoiser"]
    assert (tmp_path / "tiny" / "rrdb" / "samples" / "step-00000002.png").is_file()


def test_folder_reports_unreadable_files_and_skips_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.open(EXAMPLES / "chelsea_lr.png").crop((0, 0, 20, 16)).save(photos / "good.png")
    Image.open(photos / "good.png").save(photos / "good.jpg")
    (photos / "bad.jpg").write_text("text")
    for code in (1, 1):
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, "02_folder.py", str(photos), str(tmp_path / "out"))
        assert stopped.value.code == code
    said = capsys.readouterr()
    for name in ("good.jpg", "good.png"):
        assert Image.open(tmp_path / "out" / f"{name}_x4.png").size == (80, 64)
        assert f"{name}_x4.png: 80 x 64" in said.out
        assert f"{name}_x4.png: exists" in said.out
    assert said.err.count("bad.jpg") >= 2


def test_evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    Image.open(EXAMPLES / "chelsea.png").crop((160, 60, 256, 140)).save(tmp_path / "cat.png")
    run(monkeypatch, "06_evaluate.py", str(tmp_path / "cat.png"))
    rows = {line[:14].strip(): line[14:].split() for line in capsys.readouterr().out.splitlines()}
    assert list(rows)[1:] == ["bicubic", "encoder", "fidelity 1", "fidelity 0.5", "fidelity 0"]
    assert float(rows["encoder"][0]) > float(rows["bicubic"][0])


def test_cluster_tasks_divide_the_files(tmp_path: Path):
    photos, tools = tmp_path / "photos", tmp_path / "tools"
    tools.mkdir()
    names = [
        "a b.png",
        "cat.JPG",
        "cat.png",
        "x/1.tif",
        "y z/1.tif",
        "new\nline.webp",
        ".hidden/1.png",
        "notes.txt",
    ]
    for name in names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).touch()
    (tools / "sam-diffsr").write_text(
        '#!/bin/sh\nprintf "<%s>" "$@"; [ ! -d "$2" ] || find -L "$2" -type f -printf "<%P>"\n'
    )
    (tools / "sam-diffsr").chmod(0o755)

    def task(script: str, index: int, of: int, folder: str = "photos") -> str:
        environment = os.environ | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": str(index),
            "SLURM_ARRAY_TASK_MIN": "1",
            "SLURM_ARRAY_TASK_COUNT": str(of),
        }
        command = ["bash", str(EXAMPLES / "07_cluster" / script), folder, "out"]
        return subprocess.check_output(
            command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.STDOUT
        )

    said = [task("upscale.sbatch", index, 2) for index in (1, 2)]
    stems = [f"<{name}{Path(name).suffix}>" for name in names]
    assert [sum(stem in text for text in said) for stem in stems] == [1] * 6 + [0] * 2
    assert task("upscale.sbatch", 7, 7) == "task 6 of 7: 0 files\n"
    assert "<--shard><2/4>" in task("masks.sbatch", 2, 4)
    for index, folder, message in ((3, "photos", "no gaps, such as 0-7"), (1, "fotos", "there is no folder")):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            task("upscale.sbatch", index, 2, folder)
        assert message in refused.value.output


def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "__notebook__", "display": lambda *shown: None}
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        code = "".join(cell["source"])
        if cell["cell_type"] == "code" and not code.startswith(("!", "%")):
            exec(compile(code, "quickstart.ipynb", "exec"), scope)
    assert Image.open(tmp_path / "large.png").size == (448, 296)


def test_pictures_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("skimage")
    program = runpy.run_path(str(EXAMPLES / "lab" / "pictures.py"))
    small = Image.open(EXAMPLES / "chelsea.png").crop((160, 60, 240, 124)).convert("RGB")
    names = program["main"].__globals__
    monkeypatch.setitem(names, "photograph", lambda name: small)
    monkeypatch.setitem(names, "IMAGES", tmp_path)
    monkeypatch.setattr(sys, "argv", ["pictures.py", "hero", "spe", "--part", "8", "8", "40", "--jpeg", "75"])
    program["main"]()
    hero = Image.open(tmp_path / "hero.webp")
    assert hero.size == (550 + 2 * (8 + 203), 440 + 26)
    assert Image.open(tmp_path / "spe.webp").size == (2 * 80 + 8, 2 * (64 + 26))
