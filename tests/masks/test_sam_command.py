"""``sam-diffsr masks`` with Segment Anything itself, made small, from a file of weights to stored fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sam_diffsr.cli import main
from sam_diffsr.masks.sam import SamMaskGenerator, SamOptions
from sam_diffsr.masks.spe import encode_structure
from sam_diffsr.masks.store import read_records, read_structure

OPTIONS: dict[str, Any] = {
    "points_per_side": 3,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
}
FLAGS = [text for name, value in OPTIONS.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def photos(photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "a.png")
    return folder


def test_from_weights_to_a_picture(sam, photo, photos, capsys) -> None:
    torch.save(sam.state_dict(), "sam.pth")
    save_file({name: value.contiguous() for name, value in sam.state_dict().items()}, "sam.safetensors")
    for weights in ("sam.pth", "sam.safetensors"):
        out = f"masks-of-{weights}"
        assert main(["masks", "generate", "photos", out, "-m", weights, "--device", "cpu", *FLAGS]) == 0
        expected = SamMaskGenerator.from_pretrained(
            weights, device="cpu", options=SamOptions(**OPTIONS)
        ).generate(photo)  # pyright: ignore
        found = read_records(f"{out}/a.json", size=(48, 64))
        assert len(found) == len(expected) > 5
        assert found == expected
    assert main(["masks", "encode", "masks-of-sam.pth", "fields"]) == 0
    np.testing.assert_array_equal(read_structure("fields/a.npz").to_tensor(), encode_structure(found))
    assert main(["masks", "show", "photos/a.png", "--masks", "fields/a.npz"]) == 0
    capsys.readouterr()
    assert Image.open("a_structure.png").size[0] > 2 * 64


def test_sam_finds_nothing(unsure_sam, photos, capsys) -> None:
    torch.save(unsure_sam.state_dict(), "sam.pth")
    command = ["masks", "generate", "photos", "masks", "-m", "sam.pth", "--device", "cpu"]
    assert main([*command, "--points-per-side", "3"]) == 0
    assert "(0 regions, " in capsys.readouterr().out
    assert Path("masks/a.json").read_text() == "[]"
    assert main(["masks", "encode", "masks", "fields", "--images", "photos"]) == 0
    field = read_structure("fields/a.npz", size=(48, 64)).to_tensor()
    assert not field.any()
    assert main(["masks", "show", "photos/a.png", "--masks", "masks/a.json"]) == 0
    prepare = ["--crop-size", "32", "--reductions", "1", "--min-gradient", "0", "--masks", "masks"]
    assert main(["data", "prepare", "photos", "crops", *prepare]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv.weight": torch.zeros(2)}, "holds no weights of Segment Anything"),
        ({"epoch": 3}, "is not a plain dictionary of tensors"),
        (None, "is truncated or not a file of weights"),
    ],
)
def test_weights_of_something_else(photos, capsys, content, message) -> None:
    if content is None:
        Path("other.pth").write_bytes(b"")
    else:
        torch.save(content, "other.pth")
    assert main(["masks", "generate", "photos", "masks", "-m", "other.pth", "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sam-diffsr: error: other.pth ")
    assert message in line
    assert not list(Path("masks").iterdir())  # no claim either
