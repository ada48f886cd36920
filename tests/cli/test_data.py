"""The data commands pass on what they are given, count what they left out, and say so by the exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam_diffsr.cli import main
from sam_diffsr.data import CropStore
from sam_diffsr.masks.store import write_records

PREPARE = ["--crop-size", "32", "--reductions", "1", "--min-gradient", "0"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, side in (("a.png", 64), ("b.png", 40), ("small.png", 20)):
        Image.effect_noise((side, side), 90).convert("RGB").save(folder / name)
    return folder


def test_corrupt_photos_are_counted_and_fail_at_the_end(photos, tmp_path, capsys) -> None:
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:500])
    command = ["data", "prepare", str(photos), str(tmp_path / "out"), *PREPARE, "--segmenter", "none"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].endswith("out: 5 crops; left out: 1 corrupt, 1 small")
    assert "broken.png" in captured.err
    assert "left out of 4 photos: 1 cannot be read, 1 too small for --crop-size" in captured.err
    assert main([*command, "--ignore-corrupt"]) == 0
    (photos / "broken.png").unlink()
    assert main(command) == 1
    assert "holds crops of other photos or settings; nothing was changed" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert "left out: 1 small" in capsys.readouterr().out


def test_missing_masks(photos, tmp_path, capsys) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    write_records(masks / "a.json", [{"segmentation": np.ones((64, 64), bool)}])
    command = ["data", "prepare", str(photos), str(tmp_path / "out"), *PREPARE, "--masks", str(masks)]
    assert main(command) == 1
    assert "no masks for 2 of 3 photos (b.png, small.png)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--missing-masks", "zero"]) == 0
    assert "2 of 3 photos have no masks and get E = 0" in capsys.readouterr().err
    store = CropStore(tmp_path / "out")
    assert [bool(store.structure(index).any()) for index in range(len(store))] == [True] * 4 + [False]


def test_missing_masks_of_no_masks(capsys) -> None:
    assert main(["data", "prepare", "in", "out", "--missing-masks", "zero"]) == 2
    assert "--missing-masks belongs to --masks" in capsys.readouterr().err
    assert main(["data", "prepare", "in", "out", "--masks", "m", "--segmenter", "none"]) == 2
    assert "--segmenter and --masks exclude each other" in capsys.readouterr().err


def test_synthesize(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    command = ["data", "synthesize", str(out), "--count", "2", "--size", "40", "--seed", "3", "--pages", "1"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}: 2 crops\n"
    assert "[2/2]" in captured.err
    store = CropStore(out)
    assert store.images.shape == (2, 40, 40, 3)
    made = store.manifest["settings"]["synthetic"]
    assert made == {"size": 40, "pages": 1, "photos": [], "count": 2, "seed": 3}
    assert main([*command[:-1], "2"]) == 1
    assert "data.synthetic.pages must lie in [0, 1], got 2" in capsys.readouterr().err
