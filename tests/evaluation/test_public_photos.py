"""The script that writes the evaluation photographs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "examples" / "fetch_public_photos.py"


def test_five_photographs_with_sides_of_multiples_of_8(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "photos")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    sizes = {path.stem: Image.open(path).size for path in sorted((tmp_path / "photos").iterdir())}
    assert sizes == {
        "astronaut": (512, 512),
        "chelsea": (448, 296),
        "china": (640, 424),
        "coffee": (600, 400),
        "flower": (640, 424),
    }
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_four_scenes_to_look_at(tmp_path, monkeypatch) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path), "--scenes"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    sizes = {path.stem: Image.open(path).size for path in sorted(tmp_path.iterdir())}
    assert sizes == {"brick": (512, 512), "grass": (512, 512), "page": (384, 184), "rocket": (640, 424)}


@pytest.mark.parametrize("arguments", [[], ["photos", "--scene"]])
def test_it_says_how_it_is_used(monkeypatch, arguments) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit, match="python examples/fetch_public_photos"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
